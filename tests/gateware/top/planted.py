"""Bugs to plant in the core: one build has all of them, and an argument of the simulation says which one is active.

So the same build is right without one, and each costs no more than its simulation.
"""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

from amaranth.hdl import Instance, Signal
from lepton_npu.top import LeptonNpu
from lepton_npu.verilog import generate
from lepton_sim import side_by_side
from lepton_sim.cache import kept_text
from lepton_sim.harness.build import build_harness

from formal.planted import Bug, planted
from tests.gateware.top.planted_units import LateOwner, LostBeat, NewestFirst, Planted, SwappedTile

__all__ = ["BUGS", "BUS_BUGS", "CONFIG", "CONTEXT_BUGS", "PROGRAM_BUGS", "active", "core_with_bugs"]

chosen = Signal(8, name="chosen_bug")
"""Number of the active bug, by its place in the core's bugs; 0: none."""

CONFIG = replace(side_by_side.CONFIG, outstanding=2)
"""Four contexts, for those who are hostile; few bursts in flight, so that one that goes out behind an error is seen."""

_CHOICE = """
module planted(number);
  output reg [7:0] number;
  initial if (!$value$plusargs("planted=%d", number)) number = 0;
endmodule
"""


Bugs = Mapping[str, Bug | tuple[str, type[Planted]]]
"""By name: a change of text, in which BUG is whether it is active, or the place of a unit and what replaces it."""

PROGRAM_BUGS: Bugs = {
    # Column sums lose the carry into bit 10.
    "dropped carry": Bug(
        "array.systolic",
        "return above + product",
        "return above + product - (((above[:10] + product[:10])[10] & BUG) << 10)",
    ),
    "swapped tile": ("lepton_npu.core.TileMemory", SwappedTile),
    "lost W beat": ("lepton_npu.core.AxiMaster", LostBeat),
    "exponent off by one": Bug("array.matmul", " - _BIAS)", " - _BIAS - BUG)"),
    # Rows do not wait for the sum that they add to.
    "no accumulator hazard": Bug(
        "array.stream_rows", "meets.any() if self._turnaround > 1 else 0", "meets.any() & ~BUG"
    ),
    # A body that should run more than once runs once less.
    "one round too few": Bug(
        "control.sequencer",
        "jump.payload.count.eq(decode.count)",
        "jump.payload.count.eq(decode.count - (BUG & (decode.count > 1)))",
    ),
    # An address register is set where it should be added to.
    "register not added to": Bug("control.addresses", "Mux(self.add, late_sum", "Mux(self.add & ~BUG, late_sum"),
    # Every plane of a tile is rounded with numbers of its own.
    "planes rounded apart": Bug("array.quantise_random", "m.Elif(self.again)", "m.Elif(self.again & ~BUG)"),
    # The MATMUL engine does not wait for semaphores, but takes them.
    "semaphore not waited for": Bug(
        "control.semaphores",
        "there[engine] & ~Cat(before).any()",
        "(there[engine] & ~Cat(before).any()) | (self.requests[engine] & (engine == Engine.MATMUL) & BUG)",
    ),
}
"""What random programs find."""

BUS_BUGS: Bugs = {
    "DECERR of a LOAD is no error": Bug(
        "bus.load", "m.If(take & beat.resp[1] & ~error)", "m.If(take & beat.resp[1] & ~(beat.resp[0] & BUG) & ~error)"
    ),
    "an error in a LOAD's last beat is lost": Bug("bus.load", "error.eq(1),", "error.eq(~(beat.last & BUG)),"),
    "DECERR of a STORE is no error": Bug(
        "bus.store",
        "m.If(answered & self.b.payload[1] & ~error)",
        "m.If(answered & self.b.payload[1] & ~(self.b.payload[0] & BUG) & ~error)",
    ),
    "a burst goes out behind the error of a STORE": Bug("bus.store", "& ~error\n", "& ~(error & ~BUG)\n"),
    "an error in a record's last beat is lost": Bug(
        "control.fetch",
        "entry.error.eq(failed | self.r.payload.resp[1] | refused)",
        "entry.error.eq(failed | (self.r.payload.resp[1] & ~BUG) | refused)",
    ),
    "a reset waits for the command": Bug("array.matmul", " | ~streamer.fault)", " | (~streamer.fault & ~BUG))"),
    "a reset does not wait for the bus": Bug(
        "control.context", "soft_reset.quiet.eq(quiet)", "soft_reset.quiet.eq(quiet | BUG)"
    ),
}
"""What sweeps over errors and resets find."""

CONTEXT_BUGS: Bugs = {
    "owner known late": ("lepton_npu.core.EngineShare", LateOwner),
    "records to the newest": ("lepton_npu.core.FetchShare", NewestFirst),
    # Every partition of the vector memory begins at row 0.
    "partitions at row 0": Bug(
        "control.partition",
        "base.eq(fields.base & ~mask)",
        'base.eq(fields.base & ~mask & ~(BUG & (name == "vmem")).replicate(width))',
    ),
}
"""What hostile contexts find."""

BUGS: Bugs = {**PROGRAM_BUGS, **BUS_BUGS, **CONTEXT_BUGS}


class _Core(LeptonNpu):
    """The core, with a module beside it that gives `chosen` its value."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.submodules.choice = Instance("planted", o_number=chosen)
        return m


def core_with_bugs() -> Path:
    """The harness of the core of `CONFIG` with all `BUGS`, of which `active` chooses one.

    Raises
    ------
    ValueError
        If the text that a bug changes is not there once.
    """
    texts, units = [], {}
    for number, bug in enumerate(BUGS.values(), 1):
        if isinstance(bug, Bug):
            texts.append(replace(bug, new=bug.new.replace("BUG", f"(chosen == {number})")))
        else:
            place, unit = bug
            units[place] = type(unit.__name__, (unit,), {"bug": chosen == number})
    sources = {inspect.getfile(bug[1]) for bug in BUGS.values() if not isinstance(bug, Bug)}

    def verilog() -> str:
        with ExitStack() as stack:
            stack.enter_context(planted(*texts, names={"chosen": chosen}))
            for place, unit in units.items():
                stack.enter_context(mock.patch(place, unit))
            return generate(_Core(CONFIG), "lepton_npu")[0] + _CHOICE

    key = (CONFIG, *BUGS.items(), Path(__file__).read_text(), *(Path(source).read_text() for source in sorted(sources)))
    return build_harness(kept_text("planted", key, verilog), CONFIG)


@contextmanager
def active(name: str | None) -> Iterator[None]:
    """Cores that are made meanwhile have the bug ``name`` of `BUGS`, or None of them."""
    number = 0 if name is None else 1 + list(BUGS).index(name)
    with mock.patch.dict(os.environ, LEPTON_PLUSARG=f"+planted={number}"):
        yield
