"""The compiled harness's interface, and its timing, on a core under cocotb."""

from collections.abc import Callable

import numpy as np
from cocotb.clock import Clock
from cocotb.task import resume
from cocotb.triggers import FallingEdge, RisingEdge
from lepton_sim.harness import HarnessError, Stalls

from .axi_memory import AxiMemory, Timing

__all__ = ["CocotbHarness"]

CLOCK_NS = 10
_RESET_CYCLES = 4
_PATIENCE = 1000


class CocotbHarness:
    """Does what `lepton_sim.harness.Harness` does, in the same cycles: `lepton_sim.core.run_job` runs on either.

    Its methods are blocking: call them in a function that `cocotb.task.bridge` has converted. Time stands still between
    them, as it does between calls of the compiled harness. Inputs change at the falling edge; outputs are looked at
    just before the rising one, and the interrupt behind it.

    Parameters
    ----------
    dut
        The core's top; its clock is started here.
    memory_size : int
        Bytes of memory behind the AXI4 port.
    base : int
        Byte address of the memory's first byte.

    Attributes
    ----------
    memory : numpy.ndarray
        The memory itself (uint8).
    cycle, accepted : int
        Clock cycles so far; the one in which the core took the last register access.
    """

    def __init__(self, dut, memory_size: int, *, base: int = 0):
        self._dut = dut
        self.base = base
        self.memory = np.zeros(memory_size, np.uint8)
        self.accepted = 0
        self._axi = AxiMemory(dut, self.memory, base)
        for name in (
            "awaddr",
            "awprot",
            "awvalid",
            "wdata",
            "wstrb",
            "wvalid",
            "bready",
            "araddr",
            "arprot",
            "arvalid",
        ):
            getattr(dut, f"s_axil_{name}").value = 0
        dut.s_axil_rready.value = 0
        Clock(dut.clk, CLOCK_NS, unit="ns").start(start_high=False)

    @property
    def cycle(self) -> int:
        """Clock cycles so far."""
        return self._axi.cycle

    @property
    def beats(self) -> tuple[int, int]:
        """Data beats (read, written) on the AXI4 port."""
        return self._axi.beats[0], self._axi.beats[1]

    def configure(
        self,
        *,
        latency: int = 0,
        bandwidth: int = 1,
        stalls: Stalls | None = None,
        interleave: bool = False,
        seed: int = 0,
    ):
        """As `lepton_sim.harness.Harness.configure`."""
        chances = (stalls or Stalls()).chances
        self._axi.configure(Timing(latency, bandwidth, chances, interleave, seed))

    async def _step(self, look: Callable[[], None] | None = None):
        """One cycle; ``look`` sees it before its end."""
        self._axi.drive()
        await RisingEdge(self._dut.clk)
        if look is not None:
            look()
        self._axi.sample()
        await FallingEdge(self._dut.clk)

    @resume
    async def reset(self):
        """Hard reset for some cycles; what the memory had in flight is forgotten."""
        self._axi.reset()
        self._dut.rst.value = 1
        for _ in range(_RESET_CYCLES):
            await FallingEdge(self._dut.clk)
            self._axi.cycle += 1
        self._dut.rst.value = 0

    @resume
    async def run(self, max_cycles: int) -> bool:
        """Clock until the interrupt is up or ``max_cycles`` have passed; returns whether it is up."""
        for _ in range(max_cycles):
            if self._dut.irq.value:
                return True
            await self._step()
        return bool(self._dut.irq.value)

    def write(self, address: int, value: int):
        """Write a 32-bit register; raises `HarnessError` if the answer is not OKAY."""
        self._register(address, value)

    def read(self, address: int) -> int:
        """Read a 32-bit register; raises `HarnessError` if the answer is not OKAY."""
        return self._register(address, None)

    @resume
    async def _register(self, address: int, value: int | None) -> int:
        """An AXI4-Lite access: address and data at once, ready for the answer from the start."""
        dut = self._dut
        request, answer = ("aw", "b") if value is not None else ("ar", "r")
        waiting = {request} if value is None else {request, "w"}
        getattr(dut, f"s_axil_{request}addr").value = address
        if value is not None:
            dut.s_axil_wdata.value, dut.s_axil_wstrb.value = value, 15
        for channel in waiting:
            getattr(dut, f"s_axil_{channel}valid").value = 1
        getattr(dut, f"s_axil_{answer}ready").value = 1
        taken: set[str] = set()
        result: list[tuple[int, int]] = []

        def look():
            taken.update(channel for channel in waiting if getattr(dut, f"s_axil_{channel}ready").value)
            if taken:
                self.accepted = self.cycle
            if waiting == taken and getattr(dut, f"s_axil_{answer}valid").value:
                data = 0 if value is not None else int(dut.s_axil_rdata.value)
                result.append((int(getattr(dut, f"s_axil_{answer}resp").value), data))

        for _ in range(_PATIENCE):
            await self._step(look)
            for channel in taken:
                getattr(dut, f"s_axil_{channel}valid").value = 0
            waiting -= taken
            taken.clear()
            if result:
                break
        getattr(dut, f"s_axil_{answer}ready").value = 0
        if not result or result[0][0]:
            raise HarnessError(f"register 0x{address:03x}: {f'response {result[0][0]}' if result else 'no answer'}")
        return result[0][1]
