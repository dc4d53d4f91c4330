"""What address translation costs: bytes a cycle of the DMA engines, cycles of a training step; the core's counters."""

from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.page_table import PAGE_SIZES
from lepton_sim.core import core_library, run_job
from lepton_sim.harness import Harness
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from lepton_verif.translated_job import translated
from leptonaicsdk.network import Adam
from leptonaicsdk.program import Program

from .training import LATENCY, training_step_cycles

__all__ = ["DmaRates", "dma_rates", "step_ratios"]

_BASE = 0x8000_0000
_RING_LOG2 = 4
_KIB = 1024


@dataclass(frozen=True)
class DmaRates:
    """Bytes moved in each cycle in which the engine holds the command, over those of a beat: 1 is the bus's limit."""

    load: float
    store: float


def dma_rates(config: NpuConfig, page_bytes: int | None, size: int = 64 * _KIB) -> DmaRates:
    """One LOAD and one STORE of ``size`` bytes, behind a memory of 30 cycles' latency that never stalls; cold TLB."""
    program = Program(config)
    source, target = _BASE + size, _BASE + 2 * size
    shape = {"rows": 1, "words": size // 4, "stride": 0, "local": 0, "local_stride": 0}
    if shape["words"] >= 1 << 16:
        raise ValueError(f"size must be below {1 << 18} bytes, not {size}")
    program.load(address=source, **shape)
    program.fence()
    program.store(address=target, **shape)
    program.irq(1)
    records = program.records()
    memory = np.random.default_rng(1).integers(0, 256, 3 * size, np.uint8)
    memory[: len(records)] = np.frombuffer(records, np.uint8)
    iss = Iss(config, memory.copy(), base=_BASE)
    assert iss.run(_BASE, _RING_LOG2, len(program)) is None
    job = Job(memory, _BASE, _BASE, _RING_LOG2, len(program), iss.memory, tag=1, name="64 KiB")
    if page_bytes is not None:
        job = translated(job, np.random.default_rng(2), page_bytes=page_bytes)
    with Harness(core_library(config), job.memory.size, base=job.base) as harness:
        run = run_job(harness, job, latency=LATENCY)
    assert run.fault is None, run.fault
    job.check(run.memory)
    beats = size // config.bus_bytes
    return DmaRates(beats / run.counters["LOAD_BUSY"], beats / run.counters["STORE_BUSY"])


def step_ratios(config: NpuConfig, batch: int) -> dict[int, float]:
    """By page size: cycles of a training step with translation, over those without, less 1."""
    physical = training_step_cycles(config, batch, Adam()).cycles
    return {
        page_bytes: training_step_cycles(config, batch, Adam(), page_bytes).cycles / physical - 1
        for page_bytes in PAGE_SIZES[:2]
    }
