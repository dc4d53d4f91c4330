"""Frames that are held ahead: each is the answer to a request for its page, made and given since all were forgotten."""

from amaranth.hdl import Array, Signal, Value
from lepton_npu.mmu.frames_ahead import AHEAD, FramesAhead
from lepton_npu.mmu.ports import answer_layout
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import Access

from .engine import Proof
from .harness import Harness
from .planted import Bug
from .streams import stable

__all__ = ["PROOFS"]

_CONFIG = NpuConfig(side=4, lanes=4, addr_width=32)


def _frames(h: Harness) -> None:
    """Any one page is followed, from when it comes to when it is dropped."""
    m = h.m
    dut = h.unit(FramesAhead(_CONFIG, Access.WRITE))
    request, answer, forget = dut.mmu.request, dut.mmu.answer, dut.mmu.forget
    enters, asks, arrives = (s.valid & s.ready for s in (dut.page, request, answer))
    pick = h.free("pick")

    # ---- Counted here: pages that are held; of them from the oldest on, those asked for and those answered since all
    # were forgotten; requests in flight. Those in flight that are of none of the pages are from before.
    held, asked, answered, flying = (Signal(range(AHEAD + 2), name=n) for n in ("held", "asked", "answered", "flying"))
    before = Signal(range(AHEAD + 2))
    followed, ahead, leaves = Signal(), Signal(range(AHEAD)), Signal()
    page, given = Signal(len(dut.page.payload), reset_less=True), Signal(answer_layout(_CONFIG), reset_less=True)
    m.d.comb += [before.eq(flying - (asked - answered)), leaves.eq(dut.next)]
    m.d.sync += [held.eq(held + enters - leaves), flying.eq(flying + asks - arrives)]
    counts = arrives & (before == 0)
    with m.If(forget):
        m.d.sync += [asked.eq(0), answered.eq(0)]
    with m.Else():
        m.d.sync += [asked.eq(asked + asks - leaves), answered.eq(answered + counts - leaves)]
    with m.If(enters & pick & ~followed):
        m.d.sync += [followed.eq(1), ahead.eq(held - leaves), page.eq(dut.page.payload)]
    with m.Elif(followed & leaves):
        m.d.sync += [ahead.eq(ahead - 1), followed.eq(ahead != 0)]
    with m.If(followed & counts & (ahead == answered)):
        m.d.sync += given.eq(answer.payload)
    h.watch(held=held, asked=asked, answered=answered, flying=flying, before=before, followed=followed, ahead=ahead)

    h.assume("a page is dropped only when it has its frame", ~dut.next | dut.valid)
    h.assume("an answer is to a request", ~answer.valid | (flying != 0))

    h.prove("a frame is of an answer since all were forgotten", ~dut.valid | (answered != 0))
    its = followed & dut.valid & (ahead == 0)
    h.prove("the oldest page's is the answer to its request", ~its | (Value.cast(dut.frame) == Value.cast(given)))
    h.prove("a request names its page", ~(followed & request.valid & (ahead == asked)) | (request.payload.page == page))
    space = dut.mmu.space
    of_space = (request.payload.asid == space.asid) & (request.payload.root == space.root)
    h.prove("and the space, and the access", ~request.valid | of_space & (request.payload.access == Access.WRITE))
    same_space = Signal(reset_less=True)
    last = Signal(len(Value.cast(space)), reset_less=True)
    m.d.sync += last.eq(Value.cast(space))
    m.d.comb += same_space.eq(last == Value.cast(space))
    h.assume("the address space changes while no request is offered", same_space | ~request.valid)
    h.prove(
        "a request stays until it is taken, or all is forgotten",
        stable(h, request.valid, request.ready, request.payload, unless=forget),
    )
    h.prove("no more requests in flight than answers have room", flying <= AHEAD)
    rested = Signal()
    m.d.sync += rested.eq(dut.quiet & dut.halt)
    h.prove("quiet: no request is offered or without its answer, or may be offered", ~dut.quiet | (flying == 0))
    h.prove("nothing is offered while quiet", ~dut.quiet | ~request.valid)
    h.prove("quiet stays while halted", ~rested | dut.quiet)
    h.cover("quiet with a page that waits", dut.quiet & (held != asked))
    h.cover("the page is used behind another one, after all were forgotten", its & (given.fault == 0) & (flying != 0))

    h.prove("inside: held", dut.held == held)
    h.prove("inside: answered", dut.usable == answered)
    h.prove("inside: asked", dut.usable + dut.open_ == asked)
    h.prove("inside: from before", dut.stale == before)
    h.prove("inside: order", (answered <= asked) & (asked <= held) & (held <= AHEAD))
    h.prove("inside: in flight", asked - answered <= flying)
    for name, place, count in (
        ("came", dut.came, held),
        ("asked", dut.asked, asked),
        ("answered", dut.answered, answered),
    ):
        h.prove(f"inside: place of {name}", place == (dut.oldest + count)[: len(place)])
    its_place = (dut.oldest + ahead)[: len(dut.oldest)]
    pages, frames = (Array(Value.cast(a[i]) for i in range(AHEAD)) for a in (dut.pages, dut.frames))
    h.prove("inside: its page", ~followed | (ahead < held) & (pages[its_place] == page))
    h.prove("inside: its frame", ~followed | (ahead >= answered) | (frames[its_place] == Value.cast(given)))


_FILE = "mmu.frames_ahead"
PROOFS = [
    Proof(
        "Frames held ahead: each the answer to a request for its page, made and given since all were forgotten",
        "FramesAhead",
        _frames,
        {
            "an answer under way is taken after all were forgotten": Bug(
                _FILE, "keeps.eq(arrives & (stale == 0))", "keeps.eq(arrives)"
            ),
            "a request is offered though it rests": Bug(_FILE, "& ~rests)", ")"),
            "the page in use is not forgotten": Bug(_FILE, "usable.eq(0),", "usable.eq(usable != 0),"),
            "what is asked beside forget counts as not asked": Bug(
                _FILE,
                "stale.eq(stale + open_ + (request.valid & request.ready) - arrives)",
                "stale.eq(stale + open_ - arrives)",
            ),
        },
        induction=2,
        quick=True,
    ),
]
