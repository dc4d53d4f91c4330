"""Simulators: finding them, building for them, running testbenches on them.

A unit test under cocotb is one file with the testbench and the pytest function that runs it::

    import cocotb, pytest, lepton_sim

    @cocotb.test()
    async def adds(dut): ...                       # cocotb 2 idiom; lepton_sim.params() and lepton_sim.seed() are there

    @pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)  # marks the Icarus case, which is skipped if not installed
    def test_adder(sim):
        lepton_sim.run_cocotb(Adder(8), "adder", __name__, sim=sim, params={"width": 8})

`run_cocotb` generates the Verilog, builds it (once for the same content), simulates, and raises an AssertionError
that names the tests that failed. ``SEED=``, ``WAVES=1`` and ``COCOTB_TEST_FILTER=`` work from the environment;
``build/results/<test>`` keeps ``results.xml``, ``sim.log`` and the waveform.

Modules: `tools` finds programs, `build` builds and keeps, `run` simulates, `lint` checks.
"""

import pytest

from .build import BuildError, Built, build
from .cache import cache_folder
from .run import CocotbResult, params, run_cocotb, seed
from .tools import ToolMissing, missing

__all__ = [
    "SIMULATORS",
    "BuildError",
    "Built",
    "CocotbResult",
    "ToolMissing",
    "build",
    "cache_folder",
    "missing",
    "params",
    "run_cocotb",
    "seed",
]

SIMULATORS = [pytest.param("verilator", marks=pytest.mark.verilator), pytest.param("icarus", marks=pytest.mark.icarus)]
"""Both simulators, for ``pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)``."""
