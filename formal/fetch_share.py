"""The command fetches of several contexts on one ID: each beat goes to the context that asked for it."""

from amaranth.hdl import Array, Cat, Mux, Signal, Value
from lepton_npu.control.fetch_share import FetchShare

from .engine import Proof
from .engine_share import shared_config
from .fifo import VisibleFifo, visible_fifos
from .harness import Harness
from .planted import Bug

__all__ = ["PROOFS"]

_CONTEXTS = 4


def _fetches(h: Harness) -> None:
    m = h.m
    with visible_fifos(FetchShare):
        dut = h.unit(FetchShare(shared_config(_CONTEXTS)))
    inputs, outputs = ([ports[n] for n in range(_CONTEXTS)] for ports in (dut.i_ar, dut.o_r))
    ar, r = dut.ar, dut.r
    goes = ar.valid & ar.ready
    accepted = [port.valid & port.ready for port in inputs]
    waiting = []
    for n, port in enumerate(inputs):
        waiting.append(waits := Signal(name=f"waits{n}"))
        m.d.sync += waits.eq(port.valid & ~port.ready)
        h.assume(f"the fetch of context {n} waits until its burst is taken", ~waits | port.valid)
        same = Value.cast(ar.payload) == Value.cast(port.payload)
        h.prove(f"a burst of context {n} goes out as it is", ~accepted[n] | goes & same)
    h.prove("each burst is one of a context", ~goes | (sum(accepted) == 1))

    # ---- An offer stays as long as what contexts offer stays.
    payloads = Cat(Value.cast(port.payload) for port in inputs)
    offered, before, burst = Signal(), Signal(len(payloads)), Signal(len(Value.cast(ar.payload)))
    m.d.sync += [offered.eq(ar.valid & ~ar.ready), before.eq(payloads), burst.eq(Value.cast(ar.payload))]
    h.prove("AR stays valid until it is taken", ~offered | ar.valid)
    same = Value.cast(ar.payload) == burst
    h.prove("and is the same context's, in spite of others", ~offered | (payloads != before) | same)

    # ---- Who asked, in order.
    asked = h.unit(VisibleFifo(width=(_CONTEXTS - 1).bit_length(), depth=dut.order.depth), "asked")
    number = 0
    for n in range(1, _CONTEXTS):
        number = Mux(accepted[n], n, number)
    h.drive(asked.w_data, number)
    h.drive(asked.w_en, goes)
    h.drive(asked.r_en, r.valid & r.payload.last)
    h.assume("data are of a burst that was asked for", ~r.valid | asked.r_rdy)
    h.prove("there is room for it", ~goes | asked.w_rdy)
    h.prove("R is taken whenever it comes", r.ready)
    for n, port in enumerate(outputs):
        h.prove(f"beats of a burst of context {n} go to it, no others", port.valid == (r.valid & (asked.r_data == n)))
        h.prove(f"as they are, {n}", ~port.valid | (Value.cast(port.payload) == Value.cast(r.payload)))
    h.cover("beats of the last context, bursts of others behind", outputs[-1].valid & (asked.level == 4))

    kept = before.word_select(dut.kept, len(burst)) == burst
    h.prove("inside: what was offered", (dut.offered == offered) & (~offered | kept & Array(waiting)[dut.kept]))
    h.prove("inside: as many are in flight", (dut.order.level == asked.level) & (asked.level <= asked.depth))
    for i, (entry, own) in enumerate(zip(dut.order.entries, asked.entries)):
        h.prove(f"inside: place {i}", (asked.level <= i) | (entry == own))


_FILE = "control.fetch_share"
PROOFS = [
    Proof(
        f"{_CONTEXTS} contexts: every burst goes out once, as it is, until taken; its beats come back to its context",
        "FetchShare",
        _fetches,
        {
            "another context's burst while it waits": Bug(
                _FILE, "number.eq(Mux(offered, kept, first))", "number.eq(first)"
            ),
            "data to everybody": Bug(_FILE, "self.r.valid & (order.r_data == n)", "self.r.valid"),
            "any beat ends a burst": Bug(_FILE, "self.r.valid & self.r.payload.last", "self.r.valid"),
            "more bursts than are noted": Bug(_FILE, "wants.any() & order.w_rdy", "wants.any()"),
        },
        induction=1,
        quick=True,
    ),
]
