"""The DMA engines: what they ask the bus for is legal whatever commands, memory and MMU do."""

from typing import Any

from amaranth.hdl import Mux, Signal, Value
from lepton_npu.bus.load import LoadEngine
from lepton_npu.bus.store import StoreEngine
from lepton_npu.bus.walk import DmaWalk
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig

from .axi_rules import address_rules, read_data, write_answers, write_data_rules
from .engine import Proof
from .fifo import visible_fifos
from .harness import Harness
from .planted import Bug
from .streams import stable

__all__ = ["CONFIG", "PROOFS"]

CONFIG = NpuConfig(
    side=4,
    lanes=4,
    vmem_rows=16,
    vmem_banks=2,
    acc_rows=4,
    tiles=4,
    addr_width=32,
    max_burst=4,
    outstanding=2,
    tlb_entries=2,
    contexts=1,
)
_BUS_BITS = 3  # log2 of the bytes of a beat


def _stream(stream: Any) -> tuple[Value, Value, Value, Value]:
    return stream.valid, stream.ready, stream.payload.addr, stream.payload.len


def _walk(h: Harness) -> None:
    """`DmaWalk`: bursts of any command at any address."""
    m = h.m
    dut = h.unit(DmaWalk(CONFIG, Opcode.STORE))
    cmd = dut.cmd
    frame, before = Value.cast(dut.frame), Signal(len(Value.cast(dut.frame)), reset_less=True)
    held, translated, idle, forget = Signal(), Signal(), Signal(), h.free("forget")
    m.d.sync += [before.eq(frame), held.eq(dut.frame_valid & ~dut.next_frame & ~forget), translated.eq(dut.translate)]
    m.d.comb += idle.eq(dut.fsm.ongoing("IDLE"))
    h.assume(
        "a command has words and rows (decoder)", ~cmd.valid | ((cmd.payload.words != 0) & (cmd.payload.rows != 0))
    )
    h.assume(
        "a frame stays until the next one is asked for, or all are forgotten",
        ~held | (dut.frame_valid & (frame == before)),
    )
    h.assume("the address space changes between commands", idle | (dut.translate == translated))

    burst = dut.burst
    address_rules(h, h.prove, CONFIG, "burst", *_stream(burst), unless=forget)
    h.prove("all of a burst stays until it is taken", stable(h, burst.valid, burst.ready, burst.payload, unless=forget))
    h.prove(
        "a row's last burst ends it, no other",
        ~burst.valid | (burst.payload.ends_row == (burst.payload.len + 1 == dut.beats)),
    )

    h.prove("no burst after a fault", ~dut.fault.valid | ~burst.valid)

    # ---- The invariant.
    row, check, cut, bursts = (dut.fsm.ongoing(name) for name in ("ROW", "CHECK", "CUT", "BURST"))
    command, runs = dut.command, row | check | cut | bursts
    shortest = Mux(dut.to_page < dut.most, dut.to_page, dut.most)
    h.prove("inside: a fault ends the walk", dut.fault.valid == dut.fsm.ongoing("FAILED"))
    h.prove(
        "inside: addresses and strides are whole beats",
        ~runs | ~(dut.row_address[:_BUS_BITS] | command.stride[:_BUS_BITS]).any(),
    )
    h.prove("inside: a burst's address is whole beats", ~(check | cut | bursts) | ~dut.address[:_BUS_BITS].any())
    h.prove("inside: a command has words", idle | dut.fsm.ongoing("FAILED") | (command.words != 0))
    h.prove(
        "inside: address is that of the command",
        ~dut.fsm.ongoing("COMMAND") | (dut.row_address[:_BUS_BITS] == command.address[:_BUS_BITS]),
    )
    h.prove("inside: a row has beats", ~runs | (dut.row_beats != 0))
    h.prove("inside: beats are left", ~(check | cut | bursts) | (dut.beats != 0))
    h.prove("inside: a burst is as long as page, row and max_burst allow", ~bursts | (dut.count == shortest))
    h.cover(
        "a burst to the end of a page, of 3 beats, and a row goes on",
        burst.valid & burst.ready & (burst.payload.len == 2) & ~burst.payload.ends_row,
    )


def _engine(h: Harness, dut: Any, offers: Value) -> None:
    """Assume of an engine what is proven of `DmaWalk` in it, and what `InvalidationControl` does."""
    burst, forget = dut.walk.burst, dut.mmu.forget
    address_rules(h, h.assume, CONFIG, "burst", *_stream(burst), unless=forget)
    h.assume(
        "all of a burst stays until it is taken", stable(h, burst.valid, burst.ready, burst.payload, unless=forget)
    )
    h.assume("no burst after a fault of the walk", ~dut.walk.fault.valid | ~burst.valid)
    h.assume("translations are forgotten while held, and nothing is offered", ~forget | dut.mmu.hold & ~offers)


def _quiet(h: Harness, dut: Any, nothing: Value, offers: Value) -> None:
    """Of the bus; that `FramesAhead` keeps its part is proven of it."""
    engine, frames, rested = dut.engine, dut.walk.quiet, Signal()
    h.m.d.sync += rested.eq(engine.quiet & engine.halt)
    h.prove("quiet: nothing is in flight", ~engine.quiet | nothing & frames)
    h.prove("nothing is offered while quiet and halted", ~engine.quiet | ~engine.halt | ~offers)
    h.prove("quiet stays while halted", ~rested | engine.quiet | ~frames)


def _load(h: Harness) -> None:
    dut = h.unit(LoadEngine(CONFIG))
    ar, r = dut.ar, dut.r
    _engine(h, dut, ar.valid)
    address_rules(h, h.prove, CONFIG, "AR", *_stream(ar))
    bursts = read_data(
        h, "R", ar.valid & ar.ready, ar.payload.len, CONFIG.outstanding, r.valid, r.ready, r.payload.last
    )
    h.prove("AR: at most `outstanding` bursts in flight", bursts.level + ar.valid <= CONFIG.outstanding)
    h.prove("a fault is told when nothing is in flight", ~dut.engine.fault.valid | (bursts.level == 0) & ~ar.valid)
    _quiet(h, dut, (bursts.level == 0), ar.valid)
    waits = Signal()
    h.m.d.sync += waits.eq(ar.valid & ~ar.ready)
    h.prove("no offer begins while held", ~dut.mmu.hold | ~ar.valid | waits)
    its = dut.walk.burst
    h.prove("AR is the walk's burst, taken with it", ~ar.valid | its.valid & (ar.payload.addr == its.payload.addr))
    h.prove("which is taken only so", ~its.ready | ar.valid & ar.ready)
    h.prove("inside: the queue has what is in flight", dut.bursts.level == bursts.level)
    h.cover("a burst of 4 beats ends", r.valid & r.ready & r.payload.last & (bursts.oldest == 3))


def _store(h: Harness) -> None:
    with visible_fifos(StoreEngine):
        dut = h.unit(StoreEngine(CONFIG))
    aw, w, b = dut.aw, dut.w, dut.b
    _engine(h, dut, aw.valid)
    address_rules(h, h.prove, CONFIG, "AW", *_stream(aw))
    most, beat = CONFIG.outstanding, w.payload
    bursts = write_data_rules(
        h,
        h.prove,
        CONFIG,
        "W",
        (aw.valid, aw.ready, aw.payload.len),
        (w.valid, w.ready, beat.data, beat.strb, beat.last),
        most,
    )
    addresses, data = write_answers(h, "B", aw.valid & aw.ready, bursts.ends, most, b.valid, b.ready)
    h.prove("AW: at most `outstanding` bursts in flight", addresses + aw.valid <= most)
    h.prove("a fault is told when nothing is in flight", ~dut.engine.fault.valid | (addresses == 0) & ~aw.valid)
    _quiet(h, dut, (addresses == 0) & ~w.valid, aw.valid)
    held, waits, went, its = Signal(), Signal(), Signal(), dut.walk.burst
    address = Signal(CONFIG.addr_width)
    h.m.d.sync += [held.eq(dut.mmu.hold), waits.eq(aw.valid & ~aw.ready), went.eq(its.valid & its.ready)]
    with h.m.If(its.valid & its.ready):
        h.m.d.sync += address.eq(its.payload.addr)
    h.prove("no offer begins a cycle after it is held", ~held | ~aw.valid | waits)
    h.prove("a burst of the walk is offered in the next cycle", aw.valid == (went | waits))
    h.prove("AW is the address of the burst that was taken last", ~aw.valid | (aw.payload.addr == address))

    # ---- The invariant: what the engine's queues have in them.
    ended = w.valid & beat.last  # the register has the last beat of the oldest burst, which `beats` has no more
    h.prove("inside: bursts whose data are to come", bursts.level == dut.beats.level + ended)
    for i, entry in enumerate(dut.beats.entries):
        length = Mux(ended, bursts.lengths[i + 1], bursts.lengths[i])
        h.prove(f"inside: length of burst {i}", (dut.beats.level <= i) | (dut.data_layout(entry).len == length))
    sent = dut.sent
    h.prove("inside: beats sent", bursts.beat == Mux(ended, bursts.lengths[0], sent - w.valid))
    h.prove("inside: no beat of the next burst before it may go", ~ended | (sent == 0))
    h.prove(
        "inside: beats of a burst that is there",
        Mux(dut.beats.level != 0, sent <= dut.data_layout(dut.beats.entries[0]).len, sent == 0),
    )
    h.prove("inside: a beat waits, and is one of the oldest", ~w.valid | beat.last | (sent != 0))
    h.prove("inside: bursts to be answered", dut.answers.level == addresses + aw.valid)
    h.prove("inside: data to be answered", dut.answers.level == data + bursts.level)
    h.prove("inside: a valid level", (dut.answers.level <= most) & (dut.beats.level <= most) & (data >= 0))
    h.cover("a burst of 4 beats is answered, another one is in flight", b.valid & (addresses == 2))


PROOFS = [
    Proof(
        "Bursts of any command: within 4 KiB and max_burst, whole beats, offered until taken; none after a fault",
        "DmaWalk",
        _walk,
        {
            "over the end of a page": Bug("bus.walk", "count.eq(Mux(to_page < most, to_page, most))", "count.eq(most)"),
            "a beat too many": Bug("bus.walk", "burst.len.eq(count - 1)", "burst.len.eq(count)"),
            "goes on though not taken": Bug(
                "bus.walk", "with m.Elif(self.burst.valid & self.burst.ready):", "with m.Elif(self.burst.valid):"
            ),
        },
        induction=1,
        quick=True,
    ),
    Proof(
        "AR: legal bursts, offered until taken, at most `outstanding` in flight; faults told when all is quiet",
        "LoadEngine",
        _load,
        {
            "withdrawn at an error": Bug("bus.load", "(waiting | (bursts.w_rdy &", "((bursts.w_rdy &"),
            "more than outstanding": Bug("bus.load", "(waiting | (bursts.w_rdy & ~error", "(waiting | (~error"),
            "an offer begins while held": Bug("bus.load", " & ~self.mmu.hold", ""),
            "goes on though halted": Bug("bus.load", "~error & ~engine.halt &", "~error &"),
            "fault told with a burst in flight": Bug(
                "bus.load", "quiet.eq(~waiting & ~bursts.r_rdy & ~write_valid)", "quiet.eq(~waiting & ~write_valid)"
            ),
        },
        induction=1,
    ),
    Proof(
        "AW: as AR. W: AWLEN + 1 beats, WLAST with the last, in order, offered until taken; strobes whole but there",
        "StoreEngine",
        _store,
        {
            "an offer begins while held": Bug("bus.store", "& ~self.mmu.hold", ""),
            "goes on though halted": Bug("bus.store", "& ~engine.halt", ""),
            "a beat is lost while W stalls": Bug(
                "bus.store", "beats.r_rdy & queue.r_rdy & (~self.w.valid | self.w.ready)", "beats.r_rdy & queue.r_rdy"
            ),
            "WLAST with the last beat of a row only": Bug(
                "bus.store", "self.w.payload.last.eq(last)", "self.w.payload.last.eq(row_last)"
            ),
            "strobes of a row's last beat in every beat": Bug("bus.store", "Cat((~row_last |", "Cat((~now.ends_row |"),
            "an address is lost while AW stalls": Bug("bus.store", "& (~self.aw.valid | self.aw.ready)", ""),
            "more than outstanding": Bug("bus.store", "& answers.w_rdy", ""),
        },
        induction=1,
    ),
]
