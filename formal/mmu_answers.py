"""Answers of the MMU: each request gets one, which was decided for it, in the order of its requester's requests."""

from functools import partial

from amaranth.hdl import Array, Signal, Value
from lepton_npu.mmu.mmu import Mmu
from lepton_npu.mmu.ports import answer_layout
from lepton_npu.spec.config import NpuConfig

from .engine import Proof
from .fifo import visible_fifos
from .harness import Harness
from .planted import Bug
from .streams import prove_stable

__all__ = ["PROOFS"]

_CONFIG = NpuConfig(side=4, lanes=4, addr_width=32, tlb_entries=2)
_REQUESTERS = 2


def _answers(n: int, h: Harness) -> None:
    """Of requester ``n``: any one request is followed, from when it is accepted to when its answer is taken."""
    m = h.m
    with visible_fifos(Mmu):
        dut = h.unit(Mmu(_CONFIG, _REQUESTERS))
    walker, queue = dut.walker, dut.answers[n]
    accepted, taken = dut.i[n].valid & dut.i[n].ready, dut.o[n].valid & dut.o[n].ready
    pick = h.free("pick")

    followed, looks, walks, given, queued = (
        Signal(name=name) for name in ("followed", "looks", "walks", "given", "queued")
    )
    request, answer = Signal(dut.request.shape(), reset_less=True), Signal(answer_layout(_CONFIG), reset_less=True)
    ahead = Signal(range(len(queue.entries) + 1))
    h.watch(
        followed=followed, looks=looks, walks=walks, given=given, queued=queued, ahead=ahead, answer=Value.cast(answer)
    )
    begins = accepted & pick & ~followed
    ended = walker.o.valid & walker.o.ready & (dut.walking == n)
    m.d.sync += looks.eq(begins)
    with m.If(begins):
        m.d.sync += [followed.eq(1), request.eq(dut.i[n].payload), ahead.eq(dut.open[n] - taken)]
    with m.Elif(followed & taken):
        m.d.sync += ahead.eq(ahead - 1)
        with m.If(ahead == 0):
            m.d.sync += [followed.eq(0), queued.eq(0)]
    m.d.sync += given.eq(looks & dut.hit)
    with m.If(looks & dut.hit):
        m.d.sync += [answer.frame.eq(dut.tlb.frame), answer.fault.eq(0)]
    with m.If(looks & dut.miss):
        m.d.sync += walks.eq(1)
    with m.If(walks & ended):
        m.d.sync += [walks.eq(0), queued.eq(1), answer.eq(walker.o.payload.answer)]
    with m.If(given):
        m.d.sync += queued.eq(1)

    # ---- To prove.
    its = followed & (ahead == 0) & dut.o[n].valid
    h.prove("an answer is that of its request", ~its | queued & (Value.cast(dut.o[n].payload) == Value.cast(answer)))
    asks = dut.hit | dut.miss
    of_it = Value.cast(dut.request) == Value.cast(request)
    h.prove("it is looked up in the cycle after", ~looks | asks & (dut.owner == n) & of_it)
    h.prove("the walk that ends is for it", ~(walks & ended) | (Value.cast(walker.request) == Value.cast(request)))
    prove_stable(h, "an answer", dut.o[n])
    prove_stable(h, "a read", dut.ar)
    h.prove("it is busy while a request is not answered", (dut.open[n] == 0) | dut.busy)
    h.cover("an answer of a hit behind another one", followed & given & (ahead == 1))
    h.cover("an answer of a walk", its & (answer.fault == 0) & walker.o.payload.leaf.mega)

    # ---- The invariant: where it is.
    given_n, looks_n = dut.given & (dut.given_to == n), asks & (dut.owner == n)
    level = queue.level
    h.prove("inside: followed where it is", followed == looks | walks | given | queued)
    h.prove("inside: in one place", looks + walks + given + queued <= 1)
    h.prove("inside: requests not answered", dut.open[n] == level + looks_n + dut.walks[n] + given_n)
    h.prove("inside: of those that have room", dut.open[n] <= len(queue.entries))
    h.prove("inside: looked up behind what is queued", ~looks | (ahead == level + given_n))
    waits, runs = dut.waits[n], walker.busy & (dut.walking == n)
    held = Value.cast(dut.held[n]) == Value.cast(request)
    h.prove("inside: walks behind what is queued", ~walks | dut.walks[n] & (ahead == level))
    h.prove("inside: waits for its walk", ~(walks & waits) | held)
    h.prove("inside: its walk runs", ~(walks & runs) | (Value.cast(walker.request) == Value.cast(request)))
    hit = (dut.frame == answer.frame) & (answer.fault == 0)
    h.prove("inside: the hit goes into the queue", ~given | given_n & hit & (ahead == level))
    entries = Array(queue.entries)
    h.prove("inside: its place", ~queued | (ahead < level) & (entries[ahead] == Value.cast(answer)))
    for k in range(_REQUESTERS):
        waits, runs = dut.waits[k], walker.busy & (dut.walking == k)
        h.prove(f"inside: a walk of {k} waits or runs", (dut.walks[k] == waits | runs) & ~(waits & runs))
        h.prove(
            f"inside: {k} asks nothing while it walks",
            ~dut.walks[k] | ~(asks & (dut.owner == k)) & ~(dut.given & (dut.given_to == k)),
        )


_MMU = "mmu.mmu"
PROOFS = [
    Proof(
        f"Answers to requester {n}: one for each request, that which was decided for it, in order; kept until taken",
        "Mmu",
        partial(_answers, n),
        {
            "the next request is accepted beside a miss": Bug(
                _MMU, "port_i.valid & ~looks[number] &", "port_i.valid &"
            ),
            "a walk is answered to who was looked up last": Bug(
                _MMU, "from_walk.eq(ended & (walking == number))", "from_walk.eq(ended & (owner == number))"
            ),
            "more answers than there is room for": Bug(_MMU, "depth=_ANSWERS)", "depth=2)"),
        },
        induction=2,
    )
    for n in range(_REQUESTERS)
]
