"""The regression: random command programs under random stalls, and bugs that it must find."""

import pytest
from lepton_npu.spec.config import PRESETS
from lepton_npu.top import LeptonNpu
from lepton_npu.verilog import generate
from lepton_sim.harness.build import build_harness
from lepton_sim.soak import run_programs

from tests.gateware.top.planted import BUGS

pytestmark = [pytest.mark.verilator, pytest.mark.slow]

BATCHES = [("tiny", number, 100) for number in range(5)] + [("ecp5", 5, 16), ("default", 6, 6)]


@pytest.mark.parametrize(("preset", "batch", "programs"), BATCHES)
def test_random_programs(preset, batch, programs, seed):
    """Memory and tag end as in the simulator, no AXI rule is broken, nothing is left on the bus."""
    first = seed * 1_000_000 + batch * 10_000
    _, _, failures = run_programs(PRESETS[preset], range(first, first + programs))
    assert not failures, f"make soak PRESET={preset} PROGRAMS={programs} SEED={first} repeats them:\n" + "\n".join(
        failures
    )


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug, seed, monkeypatch):
    """The same regression fails on a core with a bug, well within the number of programs that `make test` runs."""
    config = PRESETS["tiny"]
    monkeypatch.setattr(*BUGS[bug])
    library = build_harness(generate(LeptonNpu(config), "lepton_npu")[0], config, quick=True)
    for first in range(seed * 1_000_000, seed * 1_000_000 + 60, 3):
        if run_programs(config, range(first, first + 3), library, max_cycles=300_000)[2]:
            return
    pytest.fail(f"60 programs did not find the bug: {bug}")
