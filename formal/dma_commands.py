"""LOAD and STORE are done only with commands that they hold, and ask MMU and bus only while they hold one.

The engines are the real ones, with `DmaBursts` and all that is in it, for any commands, translated or not, in any
order. What `EngineShare`, `CommandQueue` and `LeptonCore` assume of an engine's commands is proven here; nothing is
assumed of these.

That the MMU is asked only while they hold one rests on one more thing: behind the last burst of all commands none of
their pages is left. `formal.pages` proves it of `DmaBursts`, bounded, for translated commands; others name no page. For
all time it would take an invariant that ties the walk to the page sequence, which may be any number of rows ahead.
"""

from functools import partial
from typing import Any

from amaranth.hdl import Signal, Value
from lepton_npu.bus.dma_bursts import WAITING, DmaBursts
from lepton_npu.bus.load import LoadEngine
from lepton_npu.bus.store import StoreEngine
from lepton_npu.bus.walk import dma_burst_layout
from lepton_npu.mmu.frames_ahead import AHEAD

from .dma import CONFIG
from .engine import Proof
from .fifo import visible_fifos
from .harness import Harness
from .planted import Bug

__all__ = ["PROOFS"]

_BITS = 5
"""Of counts kept here: more than the engines' own have, so that these would be seen to wrap."""


def _counts(h: Harness, name: str, ups: Value, downs: Value) -> Signal:
    """``ups`` less ``downs`` since reset; below 0 it is a large number."""
    count = Signal(_BITS, name=name)
    h.m.d.sync += count.eq(count + ups - downs)
    h.watch(**{name: count})
    return count


def _unfinished(h: Harness, dut: Any, asks: bool) -> tuple[Value, Value]:
    """Whether the walk has a command, and how many wait for it: neither has given its last burst.

    With ``asks`` the MMU is asked only for these; that assumes of page sequence and frames what is proven of
    `DmaBursts`, bounded, and of `Mmu`.
    """
    bursts, mmu = dut.walk, dut.mmu
    frames, burst = bursts.frames, bursts.burst
    walks = ~bursts.walk.fsm.ongoing("IDLE")
    ended = burst.valid & burst.ready & burst.payload.ends_command
    unfinished = _counts(h, "unfinished", bursts.cmd.valid & bursts.cmd.ready, ended)
    h.prove("inside: unfinished commands wait, or are the walk's", unfinished == bursts.waiting.level + walks)
    h.prove("inside: so many wait", bursts.waiting.level <= WAITING)
    if asks:
        flying = _counts(h, "flying", mmu.request.valid & mmu.request.ready, mmu.answer.valid & mmu.answer.ready)
        h.assume("an answer of the MMU is to a request", ~mmu.answer.valid | (flying != 0))
        h.assume("a page is dropped only when it has its frame", ~frames.next | frames.valid)
        left = (frames.held != 0) | frames.page.valid
        h.assume("behind the last burst of all commands none of their pages is left", (unfinished != 0) | ~left)
        its = unfinished != 0
        h.prove("the MMU is asked only for a command that has not given its last burst", ~mmu.request.valid | its)
        h.prove("inside: requests in flight", frames.open_ + frames.stale == flying)
        h.prove("inside: at most so many", flying <= AHEAD)
        h.prove("inside: pages", (frames.usable + frames.open_ <= frames.held) & (frames.held <= AHEAD))
    return walks, bursts.waiting.level


def _held(h: Harness, dut: Any, count: Signal, most: int, asks: bool) -> Value:
    """How many commands were accepted and are not done, in this cycle's `done` either."""
    engine = dut.engine
    holds = _counts(h, "holds", engine.cmd.valid & engine.cmd.ready, engine.done)
    held = (holds - engine.done)[:_BITS]
    h.prove("it is done only with a command that was accepted and is not done", ~engine.done | (holds != 0))
    h.prove(f"at most {most} commands are held", held <= most)
    h.prove("its own count is right", count == held)
    h.prove("it is busy while it holds one", engine.busy == (held != 0))
    if asks:
        h.prove("the MMU is asked only while it holds one", ~dut.mmu.request.valid | (held != 0))
        h.cover("the MMU is asked for the only command", dut.mmu.request.valid & (held == 1))
    h.prove("it has a fault only while it holds one", ~engine.fault.valid | (held != 0))
    h.narrow(~dut.walk.fault.valid)  # which would show many bugs before anything else does
    return held


def _ends(queue: Any, layout: Any) -> list[Value]:
    """Of each place of a queue, whether a burst is there that ends its command."""
    return [(queue.level > i) & layout(entry).ends_command for i, entry in enumerate(queue.entries)]


def _queue(h: Harness, queue: Any, layout: Any, walks: Value) -> Value:
    """The bursts in flight that end their commands."""
    ends = _ends(queue, layout)
    for i, end in enumerate(ends):
        h.prove(
            f"inside: a command goes on behind burst {i}, or it is not the last", (queue.level != i + 1) | end | walks
        )
    return sum(ends, start=Value.cast(0))


def _load(asks: bool, h: Harness) -> None:
    with visible_fifos(LoadEngine, DmaBursts):
        dut = h.unit(LoadEngine(CONFIG))
    ar, r, most, layout = dut.ar, dut.r, CONFIG.outstanding, dma_burst_layout(CONFIG)
    bursts = dut.bursts
    took = r.valid & r.ready
    flight = _counts(h, "in_flight", ar.valid & ar.ready, took & r.payload.last)
    h.assume("R: beats only of what was asked for", ~r.valid | (flight != 0))
    held = _held(h, dut, dut.held, most + WAITING + 2, asks)
    h.prove("AR is offered only while it holds a command", ~ar.valid | (held != 0))
    h.prove("a burst is in flight only while it holds one", (flight == 0) | (held != 0))
    h.prove("a row is written only while it holds one", ~dut.write.req.valid | (held != 0))

    # ---- The invariant: a command is before its last burst, or this is in flight, or its last row is written; or it
    # is lost: its last beat came after an error.
    walks, waiting = _unfinished(h, dut, asks)
    oldest = layout(bursts.entries[0])
    fails = took & r.payload.last & oldest.ends_command & (dut.error | r.payload.resp[1])
    lost, waits, writes = _counts(h, "lost", fails, Value.cast(0)), Signal(), dut.write.req.valid
    h.m.d.sync += waits.eq(ar.valid & ~ar.ready)
    ends = _queue(h, bursts, layout, walks)
    rest = walks + ends + lost
    h.prove("inside: where commands are", held == rest + waiting + (writes & dut.row_ends_command))
    h.prove("inside: the queue has what is in flight", bursts.level == flight)
    h.prove("inside: room for what is offered, and none is freed by an error", lost + bursts.level + waits <= most)
    h.prove("inside: commands are lost by an error", (lost == 0) | dut.error)
    h.prove("inside: an error is of a command that is not done", ~dut.error | (rest != 0))
    h.prove("inside: a row that does not end its command", ~writes | dut.row_ends_command | (rest != 0))
    for i, entry in enumerate(bursts.entries):
        burst = layout(entry)
        h.prove(
            f"inside: a command's last burst {i} ends a row", (bursts.level <= i) | ~burst.ends_command | burst.ends_row
        )
    h.cover("done with a command, another one has a burst in flight", dut.engine.done & (flight != 0))
    h.cover("it holds as many as it can", held == most + WAITING + 2)


def _store(asks: bool, h: Harness) -> None:
    with visible_fifos(StoreEngine, DmaBursts):
        dut = h.unit(StoreEngine(CONFIG))
    aw, b, most, answers = dut.aw, dut.b, CONFIG.outstanding, dut.answers
    flight = _counts(h, "in_flight", aw.valid & aw.ready, b.valid & b.ready)
    h.assume("B: answers only to bursts whose address is taken", ~b.valid | (flight != 0))
    held = _held(h, dut, dut.commands, most + WAITING + 1, asks)
    h.prove("AW is offered only while it holds a command", ~aw.valid | (held != 0))
    h.prove("a burst is in flight only while it holds one", (flight == 0) | (held != 0))

    # ---- The invariant, as of LOAD.
    walks, waiting = _unfinished(h, dut, asks)
    oldest = dut.answer_layout(answers.entries[0])
    lost = _counts(h, "lost", b.valid & b.ready & oldest.ends_command & (dut.error | b.payload[1]), Value.cast(0))
    ends = _queue(h, answers, dut.answer_layout, walks)
    rest = walks + ends + lost
    h.prove("inside: where commands are", held == rest + waiting)
    h.prove("inside: bursts to be answered", answers.level == flight + aw.valid)
    h.prove("inside: no room is freed by an error", lost + answers.level <= most)
    h.prove("inside: commands are lost by an error", (lost == 0) | dut.error)
    h.prove("inside: an error is of a command that is not done", ~dut.error | (rest != 0))
    h.cover("done with a command, another one has a burst in flight", dut.engine.done & (flight != 0))
    h.cover("it holds as many as it can", held == most + WAITING + 1)


_BURSTS = "bus.dma_bursts"
_NO_ROOM = Bug(_BURSTS, "self.cmd.ready.eq(pages.cmd.ready & waiting.w_rdy)", "self.cmd.ready.eq(pages.cmd.ready)")
_NOT_GIVEN = Bug(_BURSTS, "walk.cmd.valid.eq(self.cmd.valid)", "walk.cmd.valid.eq(1)")
_EVERY_BURST = Bug("bus.store", "done.eq(answered & answer.ends_command &", "done.eq(answered &")
_EVERY_ROW = Bug("bus.load", "row_ends_command.eq(row_last & burst.ends_command)", "row_ends_command.eq(row_last)")
_NO_PAGE = Bug("mmu.frames_ahead", "unasked.eq(held != usable + open_)", "unasked.eq(held == usable + open_)")
_TITLE = "{}: done only with a command that it holds, which are {} at most; faults, bursts{} only while it holds one"

PROOFS = [
    Proof(
        _TITLE.format("LOAD", CONFIG.outstanding + WAITING + 2, ", written rows"),
        "LoadEngine",
        partial(_load, False),
        {
            "done in every cycle in which the last row's write waits": Bug(
                "bus.load", "done.eq(write_valid & self.write.req.ready &", "done.eq(write_valid &"
            ),
            "done with every row": _EVERY_ROW,
            "done though a beat had an error": Bug(
                "bus.load", "write_valid.eq(complete & good)", "write_valid.eq(complete)"
            ),
            "one is accepted that has no room": _NO_ROOM,
            "the walk begins a command that nobody gave": _NOT_GIVEN,
        },
        induction=1,
    ),
    Proof(
        _TITLE.format("STORE", CONFIG.outstanding + WAITING + 1, ""),
        "StoreEngine",
        partial(_store, False),
        {
            "done with every burst": _EVERY_BURST,
            "done though a burst before had an error": Bug(
                "bus.store", "~self.b.payload[1] & ~error),", "~self.b.payload[1]),"
            ),
            "one is accepted that has no room": _NO_ROOM,
            "the walk begins a command that nobody gave": _NOT_GIVEN,
        },
        induction=1,
    ),
    Proof(
        "LOAD asks the MMU only while it holds a command that has not given its last burst",
        "LoadEngine",
        partial(_load, True),
        {"a page is asked for that no command has": _NO_PAGE, "done with every row": _EVERY_ROW},
        induction=1,
    ),
    Proof(
        "STORE asks the MMU only while it holds a command that has not given its last burst",
        "StoreEngine",
        partial(_store, True),
        {"a page is asked for that no command has": _NO_PAGE, "done with every burst": _EVERY_BURST},
        induction=1,
    ),
]
