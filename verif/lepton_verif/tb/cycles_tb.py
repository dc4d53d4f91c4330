"""cocotb testbench: jobs take the same cycles as on the compiled harness, and leave the same memory.

Parameters: ``jobs``, each with ``path`` (a saved job), ``options`` (of `lepton_sim.core.run_job`; ``stalls`` as
keywords), and ``expected``: ``cycles``, ``beats``, ``counters`` as the compiled harness had them.
"""

from pathlib import Path

import cocotb
import lepton_sim
from cocotb.task import bridge
from cocotb.triggers import FallingEdge
from lepton_sim.core import run_job
from lepton_sim.harness import Stalls

from lepton_verif.job import Job

from .harness import CocotbHarness


@cocotb.test()
async def same_cycles(dut):
    """Cycles from doorbell to interrupt, beats and all counters are equal; memory and tag are as expected."""
    jobs = lepton_sim.params()["jobs"]
    assert jobs
    harness = None
    for entry in jobs:
        job = Job.load(Path(entry["path"]))
        if harness is None:
            harness = CocotbHarness(dut, job.memory.size, base=job.base)
            await FallingEdge(dut.clk)
        options = dict(entry["options"])
        if "stalls" in options:
            options["stalls"] = Stalls(**options["stalls"])
        run = await bridge(run_job)(harness, job, **options)
        assert run.fault is None, f"{job.name}: {run.fault}"
        assert run.tag == job.tag
        job.check(run.memory, f"SEED={lepton_sim.seed()}")
        found = {"cycles": run.cycles, "beats": list(run.beats), "counters": run.counters}
        assert found == entry["expected"], f"{job.name}, {options}: {found}, on the harness {entry['expected']}"
