"""Hostile contexts beside others, and bugs of isolation that this regression must find."""

from collections import Counter
from pathlib import Path

import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import connect, flipped
from lepton_npu.control.contexts import context_bits
from lepton_npu.control.engine_share import EngineShare
from lepton_npu.control.fetch_share import FetchShare
from lepton_sim.hostile import run_hostile, table
from lepton_sim.hostile_context import KINDS
from lepton_sim.side_by_side import CONFIG
from rich.console import Console

from formal.planted import Bug
from tests.gateware.top.planted import Planted, active, core_with_bugs

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


class LateOwner(Planted, EngineShare):
    """Partition and address space follow the owner of an engine some cycles late."""

    def __init__(self, config, *opcodes):
        super().__init__(config, *opcodes)
        self._inner, self._bits = EngineShare(config, *opcodes), context_bits(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self._inner
        connect(m, inner.engine, flipped(self.engine))
        for number in range(self._count):
            connect(m, inner.contexts[number], flipped(self.contexts[number]))
        owner = inner.owner
        for cycle in range(8):
            late = Signal(self._bits, name=f"late{cycle}")
            m.d.sync += late.eq(owner)
            owner = late
        m.d.comb += [
            inner.weights.eq(self.weights),
            self.owner.eq(Mux(self.bug, owner, inner.owner)),
            self.engine_reset.eq(inner.engine_reset),
        ]
        return m


class NewestFirst(Planted, FetchShare):
    """Records that are read go to the context that has asked last."""

    def __init__(self, config):
        super().__init__(config)
        self._inner = FetchShare(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self._inner
        connect(m, inner.ar, flipped(self.ar))
        connect(m, inner.r, flipped(self.r))
        newest = Signal(self._bits)
        for number in range(self._count):
            connect(m, inner.i_ar[number], flipped(self.i_ar[number]))
            with m.If(self.i_ar[number].valid & self.i_ar[number].ready):
                m.d.sync += newest.eq(number)
            m.d.comb += [
                self.o_r[number].valid.eq(Mux(self.bug, self.r.valid & (newest == number), inner.o_r[number].valid)),
                self.o_r[number].payload.eq(self.r.payload),
            ]
        return m


BUGS = {
    "owner known late": ("lepton_npu.core.EngineShare", LateOwner),
    "records to the newest": ("lepton_npu.core.FetchShare", NewestFirst),
    # Every partition of the vector memory begins at row 0.
    "partitions at row 0": Bug(
        "control.partition",
        "base.eq(fields.base & ~mask)",
        'base.eq(fields.base & ~mask & ~(BUG & (name == "vmem")).replicate(width))',
    ),
}


@pytest.fixture
def core(monkeypatch):
    """Hostile contexts meet the core with `BUGS`."""
    library = core_with_bugs(CONFIG, BUGS)
    monkeypatch.setattr("lepton_sim.hostile.core_library", lambda config: library)


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug, seed, core):
    """The same regression fails on a core whose contexts are not kept apart."""
    with active(BUGS, bug), pytest.raises(AssertionError, match=f"seed {seed}, event"):
        run_hostile(500, seed)


def test_core_with_bugs_is_right_without_them(seed, core):
    """What is found is the active bug, and nothing else about that build; each was found by the 32nd event."""
    with active(BUGS, None):
        run_hostile(100, seed)
