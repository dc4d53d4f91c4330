"""The compiled harness and cocotb run the same programs in the same cycles (timing rules: docs/verification.md)."""

from dataclasses import asdict

import lepton_sim
import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim.core import core_library, core_verilog, run_job
from lepton_sim.data import digits
from lepton_sim.harness import Harness, Stalls
from lepton_sim.main_job import make_job
from lepton_verif.random_program import random_job
from lepton_verif.translated_job import translated

CONFIG = PRESETS["tiny"]


def _on_the_harness(job, folder, **options) -> dict:
    """What `lepton_verif.tb.cycles_tb` compares with."""
    with Harness(core_library(CONFIG), job.memory.size, base=job.base) as harness:
        run = run_job(harness, job, **options)
    assert run.fault is None
    job.check(run.memory)
    path = folder / f"{job.name.replace(' ', '-')}.npz"
    job.save(path)
    if "stalls" in options:
        options["stalls"] = asdict(options["stalls"])
    expected = {"cycles": run.cycles, "beats": run.beats, "counters": run.counters}
    return {"path": str(path), "options": options, "expected": expected}


def _under_cocotb(entries):
    lepton_sim.run_cocotb(
        core_verilog(CONFIG), "lepton_npu", "lepton_verif.tb.cycles_tb", sim="verilator", params={"jobs": entries}
    )


@pytest.mark.verilator
@pytest.mark.slow
def test_random_programs(seed, tmp_path):
    """At several latencies and bandwidths, without stalls and with; every second one behind a page table."""
    rng = np.random.default_rng([seed, 4])
    choices = [
        {"latency": 0},
        {"latency": 20},
        {"latency": 7, "bandwidth": 3},
        {"latency": 30, "stalls": Stalls(ar=0.2, r=0.3, aw=0.2, w=0.3, b=0.4), "interleave": True, "seed": seed},
        {"latency": 3, "bandwidth": 2, "stalls": Stalls(r=0.5, w=0.5), "seed": seed + 1},
    ]
    entries = []
    for number, options in enumerate(choices):
        job = random_job(CONFIG, rng)
        if number % 2:
            job = translated(job, rng)
        job.name = f"program {number}"
        entries.append(_on_the_harness(job, tmp_path, **options))
    cycles = [entry["expected"]["cycles"] for entry in entries]
    assert len(set(cycles)) == len(cycles)
    # A run has one memory.
    _under_cocotb(entries[::2])
    _under_cocotb(entries[1::2])


@pytest.mark.verilator
@pytest.mark.slow
def test_inference(tmp_path):
    """The compiled network on two digits: the job of ``make sim`` for Icarus."""
    job = make_job(CONFIG, digits().test_images[:2], 8).job
    _under_cocotb([_on_the_harness(job, tmp_path)])
