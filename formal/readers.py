"""Page walker and command fetch: what they ask the bus for, and how much of it is in flight."""

from amaranth.hdl import Signal
from lepton_npu.control.fetch import RECORD_BITS, RecordFetch
from lepton_npu.mmu.walker import PageWalker
from lepton_npu.spec.config import RECORD_BYTES

from .axi_rules import address_rules, read_data
from .dma import CONFIG
from .engine import Proof
from .fifo import visible_fifos
from .harness import Harness
from .planted import Bug

__all__ = ["FETCH_BEATS", "FETCH_MOST", "PROOFS"]

FETCH_BEATS = RECORD_BYTES // CONFIG.bus_bytes
FETCH_MOST = 4
"""Records that the fetch has in flight at most."""


def _walker(h: Harness) -> None:
    dut = h.unit(PageWalker(CONFIG))
    ar, r = dut.ar, dut.r
    address_rules(h, h.prove, CONFIG, "AR", ar.valid, ar.ready, ar.payload.addr, ar.payload.len, most=1)
    reads = read_data(h, "r", ar.valid & ar.ready, ar.payload.len, 1, r.valid, r.ready, r.payload.last)
    h.prove("AR: one read in flight", ~ar.valid | (reads.level == 0))
    h.prove("R: ready while a read is in flight", (reads.level == 0) | r.ready)
    h.prove("inside: a read is in flight exactly while the walk waits", (reads.level == 1) == dut.states["WAIT"])
    h.prove("inside: it is of one beat", ((reads.level == 0) | (reads.oldest == 0)) & (reads.beat == 0))
    h.cover("a third read", ar.valid & ar.ready & (dut.level == 0))


def _fetch(h: Harness) -> None:
    m = h.m
    with visible_fifos(RecordFetch):
        dut = h.unit(RecordFetch(CONFIG))
    ar, r, jump = dut.ar, dut.r, dut.jump
    since = Signal()
    with m.If(jump.valid & jump.ready):
        m.d.sync += since.eq(0)
    with m.Elif(dut.o.valid & dut.o.ready & ~dut.o.payload.error):
        m.d.sync += since.eq(1)
    h.assume(
        "a jump is of a record taken since the last one, which had no error, and held", ~jump.valid | (since & dut.hold)
    )
    failed = Signal()
    with m.If((jump.valid & jump.ready) | dut.retry):
        m.d.sync += failed.eq(0)
    with m.Elif(dut.o.valid & dut.o.ready & dut.o.payload.error):
        m.d.sync += failed.eq(1)
    h.assume("a retry is of a record that came out as an error, while quiet", ~dut.retry | failed & dut.quiet)
    h.assume("no jump meanwhile", ~failed | ~jump.valid)
    address_rules(
        h, h.prove, CONFIG, "AR", ar.valid, ar.ready, ar.payload.addr, ar.payload.len, most=FETCH_BEATS, rests=False
    )
    bursts = read_data(h, "r", ar.valid & ar.ready, ar.payload.len, FETCH_MOST, r.valid, r.ready, r.payload.last)
    asks, rested = dut.mmu.request.valid, Signal()
    m.d.sync += rested.eq(dut.quiet & ~dut.enable)
    h.prove("quiet: nothing is in flight or asked", ~dut.quiet | (bursts.level == 0) & ~asks & ~dut.waiting)
    h.prove("quiet stays while it is not enabled", ~rested | dut.quiet)
    h.prove("nothing is offered while quiet and not enabled", ~dut.quiet | dut.enable | ~ar.valid)
    h.prove("AR: at most 4 records in flight", bursts.level + ar.valid <= FETCH_MOST)
    h.prove("AR: stays valid until it is taken", ~dut.waiting | ar.valid)
    h.prove("R: always ready", r.ready)
    queued, flight = dut.queue.level, dut.origins.level
    read = sum((queued > i) & ~entry[RECORD_BITS] for i, entry in enumerate(dut.queue.entries))  # without an error
    h.prove("inside: origins of what is in flight", flight == bursts.level)
    h.prove("inside: two ahead", (dut.ahead <= 2) & (~dut.waiting | (dut.ahead < 2)))
    h.prove("inside: in flight and queued", flight + read <= dut.dropped + dut.ahead)
    h.prove("inside: dropped ones are in flight, two at most", (dut.dropped <= flight) & (dut.dropped <= 2))
    h.prove("inside: they go before those that are queued", ((read == 0) & ~since) | (dut.dropped == 0))
    h.prove("inside: there is room", queued <= 2)
    for i in range(FETCH_MOST):
        h.prove(f"inside: length of burst {i}", (bursts.level <= i) | (bursts.places[i] == FETCH_BEATS - 1))
    h.prove("inside: beats of the oldest", bursts.beat < FETCH_BEATS)
    h.prove("inside: nothing is behind a record that failed", ~failed | dut.stopped & (queued == 0))
    for i, entry in enumerate(dut.queue.entries):
        behind = dut.stopped & (queued == i + 1)
        h.prove(f"inside: nor behind one that is an error, place {i}", (queued <= i) | ~entry[RECORD_BITS] | behind)
    h.prove("inside: refused once", ~dut.refused | ~dut.stopped)
    h.cover("four records are in flight", bursts.level == 4)
    h.cover("a retry", dut.retry)


PROOFS = [
    Proof(
        "AR: single beats at entries, offered until taken, one read in flight; R is taken whenever it comes",
        "PageWalker",
        _walker,
        {
            "withdrawn by halt": Bug(
                "mmu.walker", "self.ar.valid.eq(waiting | ~self.halt)", "self.ar.valid.eq(~self.halt)"
            ),
            "a burst of two": Bug("mmu.walker", "self.ar.payload.len.eq(0)", "self.ar.payload.len.eq(1)"),
        },
        induction=1,
        quick=True,
    ),
    Proof(
        "AR: whole records, stays valid until taken; four records in flight at most, jumps or not; R is always taken",
        "RecordFetch",
        _fetch,
        {
            "three records ahead": Bug("control.fetch", "(ahead < _AHEAD)", "(ahead <= _AHEAD)"),
            "quiet before the MMU has answered": Bug(
                "control.fetch", "~origins.r_rdy & frames.quiet", "~origins.r_rdy"
            ),
            "withdrawn by a low enable": Bug(
                "control.fetch", "self.ar.valid.eq(waiting | (may_ask", "self.ar.valid.eq((may_ask"
            ),
        },
        induction=1,
        search=40,
    ),
]
