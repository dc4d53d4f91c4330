"""Whole programs on the core under cocotb, with AXI agents that are not ours, on both simulators."""

import lepton_sim
import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim.jobs import run_jobs
from lepton_verif.random_program import random_job
from lepton_verif.translated_job import translated

PROGRAMS = {"verilator": 10, "icarus": 3}


@pytest.mark.slow
@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_random_programs(sim, seed, tmp_path):
    """No X at any port after reset; memory and tag end as in the simulator, with stalls on all channels.

    Each program at physical addresses, and then behind a page table.
    """
    config, jobs = PRESETS["tiny"], []
    for number in range(PROGRAMS[sim]):
        rng = np.random.default_rng([seed, number])
        job = random_job(config, rng)
        jobs += [job, translated(job, rng)]
    run_jobs(config, jobs, tmp_path, sim=sim, stall=0.3)
