"""Hostile contexts beside others, and bugs of isolation that this regression must find."""

from collections import Counter
from pathlib import Path

import pytest
from lepton_sim.hostile import run_hostile, table
from lepton_sim.hostile_context import KINDS
from rich.console import Console

from tests.gateware.top.planted import CONTEXT_BUGS, active, core_with_bugs

pytestmark = [pytest.mark.verilator, pytest.mark.slow]

EVENTS = 2500
PARTS = 4
RESULTS = Path(__file__).resolve().parents[3] / "build" / "results"


@pytest.mark.parametrize("part", range(PARTS))
def test_hostile_events(part, seed):
    """10,000 in all: no result of another context changes, nothing hangs; counts by kind in build/results."""
    tally = run_hostile(EVENTS, seed * 1000 + part)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"hostile-{part}.txt").open("w") as file:
        Console(file=file, width=100).print(table(tally))
    assert sum(tally.values()) == EVENTS
    assert min(tally[kind] for kind in KINDS) > EVENTS / len(KINDS) / 2
    assert tally.passes > EVENTS / 100
    faults = Counter({name: count for name, count in tally.faults.items() if count})
    assert len(faults) > 12, faults


@pytest.fixture
def core(monkeypatch):
    """Hostile contexts meet the core with planted bugs."""
    library = core_with_bugs()
    monkeypatch.setattr("lepton_sim.hostile.core_library", lambda config: library)


@pytest.mark.parametrize("bug", CONTEXT_BUGS)
def test_planted_bug_is_found(bug, seed, core):
    """The same regression fails on a core whose contexts are not kept apart."""
    with active(bug), pytest.raises(AssertionError, match=f"seed {seed}, event"):
        run_hostile(500, seed)


def test_core_with_bugs_is_right_without_them(seed, core):
    """What is found is the active bug, and nothing else about that build; each was found by the 32nd event."""
    with active(None):
        run_hostile(100, seed)
