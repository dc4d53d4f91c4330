"""Runs jobs on the whole core in the compiled harness."""

import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_npu.top import LeptonNpu
from lepton_npu.verilog import generate
from lepton_verif.job import Job
from leptonaicsdk.driver import Driver, Fault, RegisterBus

from .cache import kept_text
from .harness import Stalls
from .harness.build import build_harness

__all__ = ["CoreRun", "SimulatedCore", "core_library", "core_verilog", "run_job"]

MAX_CYCLES = 50_000_000


@dataclass
class CoreRun:
    """What a job left behind.

    Attributes
    ----------
    memory : numpy.ndarray
    tag : int
        TAG register.
    fault : Fault or None
    counters : dict of str to int
        The core's own. CYCLES goes on until it is read, some cycles behind the interrupt.
    cycles : int
        From the cycle in which the doorbell is accepted to the first one with the interrupt.
    seconds : float
        Host time for these.
    beats : (int, int)
        Data beats read and written meanwhile.
    """

    memory: np.ndarray
    tag: int
    fault: Fault | None
    counters: dict[str, int]
    cycles: int
    seconds: float = 0.0
    beats: tuple[int, int] = field(default=(0, 0))


class SimulatedCore(RegisterBus, Protocol):
    """What runs jobs: `Harness`, or under cocotb `lepton_verif.tb.harness.CocotbHarness`."""

    memory: np.ndarray
    base: int

    @property
    def cycle(self) -> int:
        """Clock cycles so far."""

    @property
    def accepted(self) -> int:
        """The cycle in which the core took the last register access."""

    @property
    def beats(self) -> tuple[int, int]:
        """Data beats read and written."""

    def configure(self, *, latency: int, bandwidth: int, stalls: Stalls | None, interleave: bool, seed: int) -> None:
        """See `Harness.configure`."""

    def reset(self) -> None:
        """A hard reset."""

    def run(self, max_cycles: int) -> bool:
        """Clock until the interrupt is up, or for ``max_cycles``."""


def core_verilog(config: NpuConfig) -> str:
    """SystemVerilog of the core (module ``lepton_npu``), kept until the gateware changes."""
    return kept_text("core", (config,), lambda: generate(LeptonNpu(config), "lepton_npu")[0])


@functools.cache
def core_library(config: NpuConfig, *, trace: bool = False) -> Path:
    """The built harness of a configuration."""
    return build_harness(core_verilog(config), config, trace=trace)


def run_job(
    harness: SimulatedCore, job: Job, *, latency: int = 20, bandwidth: int = 1, stalls: Stalls | None = None,
    interleave: bool = False, seed: int = 0, max_cycles: int = MAX_CYCLES,
) -> CoreRun:  # fmt: skip
    """Run ``job`` from a hard reset until its interrupt.

    Raises
    ------
    TimeoutError
        If there is no interrupt within ``max_cycles``: the core hangs, which nothing may make it do.
    HarnessError
        If the core broke an AXI rule, or left transactions unfinished.
    """
    if job.memory.size != harness.memory.size or job.base != harness.base:
        raise ValueError(
            f"the harness must have the job's memory ({job.memory.size} bytes at 0x{job.base:x}), "
            f"not {harness.memory.size} at 0x{harness.base:x}"
        )
    harness.memory[:] = job.memory
    harness.configure(latency=latency, bandwidth=bandwidth, stalls=stalls, interleave=interleave, seed=seed)
    harness.reset()
    driver = Driver(harness)
    driver.translate(job.root)
    driver.start(job.ring, job.ring_log2)
    clock, beats = time.perf_counter(), harness.beats
    driver.doorbell(job.records)
    if not harness.run(max_cycles):
        raise TimeoutError(f"{job.name}: no interrupt within {max_cycles} cycles: {driver.counters()}")
    seconds, cycles = time.perf_counter() - clock, harness.cycle - harness.accepted
    after = harness.beats
    fault = driver.fault
    return CoreRun(
        harness.memory.copy(), driver.read("TAG"), fault, driver.counters(), cycles, seconds,
        (after[0] - beats[0], after[1] - beats[1]),
    )  # fmt: skip


def preset(name: str) -> NpuConfig:
    """The configuration of a preset.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the presets.
    """
    if name not in PRESETS:
        raise ValueError(f"PRESET must be one of {', '.join(PRESETS)}, not {name}")
    return PRESETS[name]
