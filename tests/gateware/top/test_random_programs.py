"""The regression: random command programs under random stalls, and bugs that it must find."""

import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim.soak import run_programs

from tests.gateware.top.planted import CONFIG, PROGRAM_BUGS, active, core_with_bugs

pytestmark = [pytest.mark.verilator, pytest.mark.slow]

BATCHES = [("tiny", number, 100) for number in range(5)] + [("ecp5", 5, 16), ("train", 6, 6)]
"""Presets, numbers and sizes of batches. `train` stands for both 16x16 presets, which take minutes to build: `default`
is what `make sim` runs. Four contexts side by side are in `test_contexts.py`."""


@pytest.mark.parametrize(("preset", "batch", "programs"), BATCHES)
def test_random_programs(preset, batch, programs, seed):
    """Memory and tag end as in the simulator, no AXI rule is broken, nothing is left on the bus."""
    first = seed * 1_000_000 + batch * 10_000
    _, _, failures = run_programs(PRESETS[preset], range(first, first + programs))
    assert not failures, f"make soak PRESET={preset} PROGRAMS={programs} SEED={first} repeats them:\n" + "\n".join(
        failures
    )


MAX_CYCLES = 100_000  # of a program on the small core; all others end within a tenth of it


@pytest.mark.parametrize("bug", PROGRAM_BUGS)
def test_planted_bug_is_found(bug, seed):
    """The same regression fails on a core with a bug, well within the number of programs that `make test` runs."""
    library = core_with_bugs()
    with active(bug):
        for program in range(seed * 1_000_000, seed * 1_000_000 + 60):
            if run_programs(CONFIG, [program], library, max_cycles=MAX_CYCLES)[2]:
                return
    pytest.fail(f"60 programs did not find the bug: {bug}")


def test_core_with_bugs_is_right_without_them(seed):
    """What is found is the active bug, and nothing else about that build."""
    first = seed * 1_000_000
    with active(None):
        _, _, failures = run_programs(CONFIG, range(first, first + 10), core_with_bugs(), max_cycles=MAX_CYCLES)
    assert not failures, "\n".join(failures)
