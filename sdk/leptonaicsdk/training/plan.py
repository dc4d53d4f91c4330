"""What the compiler made of a network, for people: buffers, and the cycles that it expects, by engine."""

from dataclasses import dataclass

from lepton_npu.spec.config import NpuConfig

from leptonaicsdk.memory import Memory
from leptonaicsdk.schedule import Region
from leptonaicsdk.timeline import EngineCycles, LoopCycles, loop_cycles

from .layout import Home
from .programs import Looped

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """The plan of a step: a training step, or the forward pass of a batch, in the middle of its loop.

    Attributes
    ----------
    title : str
        What it is the plan of.
    config : NpuConfig
    memory : Memory
        What the estimate assumes.
    homes : tuple of Home
        Where each layer's weights live.
    buffers : tuple of (str, Region)
        Every region on the chip with its purpose.
    sizes : dict of str to (int, str)
        Size and unit of the memories by the names of the regions' spaces.
    steady : LoopCycles
        The estimate (`timeline.loop_cycles`), computed from the commands; nothing has run for it.
    """

    title: str
    config: NpuConfig
    memory: Memory
    homes: tuple[Home, ...]
    buffers: tuple[tuple[str, Region], ...]
    sizes: dict[str, tuple[int, str]]
    steady: LoopCycles

    @property
    def cycles(self) -> float:
        """Of a step: engines overlap as far as the semaphores let them."""
        return self.steady.cycles

    @property
    def engines(self) -> dict[str, EngineCycles]:
        """By engine ("LOAD", "STORE", "QUANT", "MATMUL", "VECTOR"): its commands, and cycles in which it holds one."""
        return {engine.name: cycles for engine, cycles in self.steady.engines.items()}

    @property
    def critical(self) -> str:
        """The engine that is busy longest."""
        return max(self.engines, key=lambda name: self.engines[name].busy)

    @property
    def least(self) -> float:
        """Cycles of a step if all engines overlapped without end: those of the critical one."""
        return max(engine.busy for engine in self.engines.values())

    @property
    def most(self) -> float:
        """Cycles of a step if no two engines overlapped: the sum of all."""
        return sum(engine.busy for engine in self.engines.values())

    def __str__(self) -> str:
        lines = [
            self.title,
            f"core: {self.config.side} x {self.config.side} array, {self.config.lanes} lanes; memory: "
            f"{self.config.bus_width} bits, latency {self.memory.latency}, a beat in {self.memory.bandwidth}",
            "weights: " + ", ".join(f"layer {l} {home.name}" for l, home in enumerate(self.homes)),
            "",
        ]
        for space, (size, unit) in self.sizes.items():
            parts = [(what, region) for what, region in self.buffers if region.space == space]
            used = sum(region.size for _, region in parts)
            lines.append(f"{space}: {used:,} of {size:,} {unit}")
            lines += [f"  {region.start:#06x} {region.size:>7,}  {what}" for what, region in parts]
        lines += ["", f"{'engine':<8}{'commands':>9}{'cycles':>10}{'of a step':>11}"]
        for name, engine in self.engines.items():
            mark = "  critical" if name == self.critical else ""
            share = engine.busy / self.cycles
            lines.append(f"{name:<8}{engine.commands:>9}{engine.busy:>10,.0f}{share:>11.0%}{mark}")
        lines.append(
            f"a step: {self.cycles:,.0f} cycles ({self.least:,.0f} if all engines overlapped, {self.most:,.0f} if none)"
        )
        return "\n".join(lines)


def make_plan(title: str, looped: Looped, homes: tuple[Home, ...], memory: Memory) -> Plan:
    """The plan of a compiled loop that has buffers, on a core behind ``memory``."""
    assert looped.buffers is not None
    spaces = looped.buffers.spaces
    config = spaces.config
    sizes = {space.name: (space.size, space.unit) for space in (spaces.vmem, *spaces.halves, spaces.tiles)}
    steady = loop_cycles(config, memory, looped.body.program, looped.body.credits)
    return Plan(title, config, memory, homes, tuple(looped.buffers.describe()), sizes, steady)
