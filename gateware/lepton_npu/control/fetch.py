"""Fetching command records: from the ring in host memory, and from the bodies of REPEAT commands."""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.mmu.ports import TranslationSignature
from lepton_npu.spec.commands import TRANSLATION_CAUSES, FaultCause
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_npu.spec.translation import PAGE_BITS

from .engine import INDEX_BITS
from .fetch_frames import FetchFrames

__all__ = ["READS", "RECORD_BITS", "RecordFetch", "body_layout", "record_layout"]

RECORD_BITS = RECORD_BYTES * 8
_RECORD_LOG2 = RECORD_BYTES.bit_length() - 1
_NUMBER_BITS = 64 - _RECORD_LOG2  # of a record's address in records
_AHEAD = 2  # records asked for and not taken: hides the memory's latency behind the decoding of the one before

READS = 2 * _AHEAD
"""Reads that a fetch has in flight at most: after a jump two that are dropped, and two more."""


def record_layout() -> data.StructLayout:
    """A record and its index; whether it could not be read, is one of a body, and is the last one of its last round."""
    return data.StructLayout({"bits": RECORD_BITS, "index": INDEX_BITS, "error": 1, "body": 1, "last": 1})


def body_layout() -> data.StructLayout:
    """A body: byte address (a multiple of 64), records, and how many times they run (each at least 1)."""
    return data.StructLayout({"address": 64, "records": 16, "count": 32})


class RecordFetch(wiring.Component):
    """Reads records ``head`` to ``tail`` of the ring, and bodies in between; a burst each, in order, two ahead.

    From a jump on the records of a body come, ``count`` times, and then those of the ring again; what has been read of
    the ring beyond ``head`` is dropped, and read again after the body. Only a jump interrupts the reading ahead.

    A record that cannot be read (error response, no translation of its page, or without translation an address beyond
    ``addr_width``) comes out as an error in its turn, and nothing is read after it until a ``retry``: that goes back
    to the record, as a jump to it would, and a body goes on with the rounds that were left.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    enable : In(1)
        Ask for no more records when low.
    ring_base : In(64), ring_log2 : In(5), tail : In(32)
        Of the ring (docs/architecture.md, section 2); bits 0 to 5 of the base are ignored. ``tail`` may count records
        of a new ring from the third cycle of its base and size on.
    head : Out(32)
        Records taken by the decoder from the ring, modulo 2^32.
    index : Out(32)
        Records taken by the decoder, modulo 2^32: the index of the next one.
    hold : In(1)
        Ask for no more records: the one that was taken last is a jump. ``jump`` is valid only while this is high.
    jump : In(stream of body_layout())
        Not while a body runs.
    retry : In(1)
        Read the record that came out as an error again, with a new translation. Only after the decoder has taken it,
        and only while ``quiet``.
    ar, r : streams
        To `AxiMaster`. At most two records are in flight, and for a moment after a jump two more that are dropped.
    mmu : Out(TranslationSignature(config))
    o : Out(stream of record_layout())
    error_address : Out(64), error_cause : Out(FaultCause)
        Of the record that came out as an error.
    idle : Out(1)
        Nothing to read, nothing in flight.
    quiet : Out(1)
        No read is offered or in flight, and nothing is asked of the MMU. While ``enable`` is low that stays so.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "enable": In(1),
                "ring_base": In(64),
                "ring_log2": In(5),
                "tail": In(32),
                "head": Out(32),
                "index": Out(INDEX_BITS),
                "hold": In(1),
                "jump": In(stream.Signature(body_layout())),
                "retry": In(1),
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "mmu": Out(TranslationSignature(config)),
                "o": Out(stream.Signature(record_layout())),
                "error_address": Out(64),
                "error_cause": Out(max(FaultCause).bit_length()),
                "idle": Out(1),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        beats = max(RECORD_BYTES // config.bus_bytes, 1)
        jump = Signal()
        entry_layout = data.StructLayout({"bits": RECORD_BITS, "error": 1, "body": 1, "last": 1})
        m.submodules.queue = queue = ResetInserter(jump)(SyncFIFO(width=entry_layout.size, depth=_AHEAD))
        # Where the records in flight come from.
        origin_layout = data.StructLayout({"number": _NUMBER_BITS, "body": 1, "last": 1})
        m.submodules.origins = origins = SyncFIFO(width=origin_layout.size, depth=READS)

        # ---- The next record to ask for: of the body while ``looping``, else of the ring.
        asked = Signal(32)
        looping, ends_round, ends = Signal(), Signal(), Signal()
        body = Signal(body_layout(), reset_less=True)
        body_number, number = Signal(_NUMBER_BITS, reset_less=True), Signal(_NUMBER_BITS)
        records_left, rounds_left = Signal(16, reset_less=True), Signal(32, reset_less=True)
        mask = Signal(32)
        pending, stopped, waiting, issue = Signal(), Signal(), Signal(), Signal()
        # The address follows the counts, and the registers of the ring, by a cycle; so does what ends with it.
        settled = Signal()
        m.d.sync += [
            mask.eq((Const(1, 32) << self.ring_log2) - 1),
            number.eq(Mux(looping, body_number, self.ring_base[_RECORD_LOG2:] + (asked & mask))),
            ends_round.eq(records_left == 0),
            ends.eq((records_left == 0) & (rounds_left == 0)),
            pending.eq(looping | (asked != self.tail)),
            settled.eq(~issue & ~jump & ~self.retry),
        ]
        with m.If(issue):
            with m.If(looping):
                m.d.sync += [
                    body_number.eq(Mux(ends_round, body.address[_RECORD_LOG2:], body_number + 1)),
                    records_left.eq(Mux(ends_round, body.records, records_left) - 1),
                    rounds_left.eq(rounds_left - ends_round),
                    looping.eq(~ends),
                ]
            with m.Else():
                m.d.sync += asked.eq(asked + 1)
        # A body's counts at the record that the decoder takes next, a cycle late: where a retry begins.
        took, records_then, rounds_then = Signal(), Signal.like(records_left), Signal.like(rounds_left)
        with m.If(took):
            ended = records_then == 0
            m.d.sync += [
                records_then.eq(Mux(ended, body.records, records_then) - 1),
                rounds_then.eq(rounds_then - ended),
            ]
        failed_in_body = Signal(reset_less=True)
        with m.If(self.retry):
            m.d.sync += [
                body_number.eq(self.error_address[_RECORD_LOG2:]),
                records_left.eq(records_then),
                rounds_left.eq(rounds_then),
                looping.eq(failed_in_body),
                asked.eq(self.head),
            ]
        with m.If(jump):
            m.d.sync += [
                records_then.eq(self.jump.payload.records - 1),
                rounds_then.eq(self.jump.payload.count - 1),
                body.eq(self.jump.payload),
                body_number.eq(self.jump.payload.address[_RECORD_LOG2:]),
                records_left.eq(self.jump.payload.records - 1),
                rounds_left.eq(self.jump.payload.count - 1),
                looping.eq(1),
                asked.eq(self.head),
            ]

        # ---- Asking.
        ahead = Signal(range(_AHEAD + 1))
        wanted, may_ask, cannot, refused, taken = Signal(), Signal(), Signal(), Signal(), Signal()
        was_settled, refusal = Signal(), Signal.like(self.error_cause, reset_less=True)
        m.d.sync += was_settled.eq(settled)
        m.submodules.frames = frames = FetchFrames(config)
        connect(m, frames.mmu, flipped(self.mmu))
        in_page = PAGE_BITS - _RECORD_LOG2
        physical = Signal(config.addr_width - _RECORD_LOG2)
        m.d.comb += [
            wanted.eq(settled & pending & (ahead < _AHEAD) & ~stopped & self.enable & ~self.hold),
            frames.page.eq(number[in_page:]),
            frames.body.eq(looping),
            frames.wanted.eq(wanted & was_settled & ~waiting),
            frames.jump.eq(jump | self.retry),
            self.ar.payload.addr.eq(Cat(Const(0, _RECORD_LOG2), physical)),
            self.ar.payload.len.eq(beats - 1),
            self.ar.valid.eq(waiting | (may_ask & ~self.mmu.hold)),
            issue.eq(self.ar.valid & self.ar.ready),
            self.jump.ready.eq(~waiting),
            jump.eq(self.jump.valid & self.jump.ready),
        ]
        with m.If(self.mmu.space.translate):
            m.d.comb += [
                physical.eq(Cat(number[:in_page], frames.frame)),
                may_ask.eq(wanted & was_settled & frames.ready),
                cannot.eq(frames.denied),
            ]
        with m.Else():
            m.d.comb += [
                physical.eq(number),
                may_ask.eq(wanted & ~cannot),
                cannot.eq(number[config.addr_width - _RECORD_LOG2 :].any()),
            ]
        m.d.sync += [
            waiting.eq(self.ar.valid & ~self.ar.ready),
            # Reported when what was asked for before has come.
            refused.eq(wanted & ~waiting & cannot & ~origins.r_rdy & ~refused),
            refusal.eq(Mux(frames.denied, TRANSLATION_CAUSES | frames.fault, FaultCause.BUS_FETCH)),
        ]
        asked_for, origin = Signal(origin_layout), origin_layout(origins.r_data)
        m.d.comb += [
            asked_for.number.eq(number),
            asked_for.body.eq(looping),
            asked_for.last.eq(looping & ends),
            origins.w_data.eq(asked_for),
            origins.w_en.eq(issue),
        ]

        # ---- Receiving.
        record = Signal(RECORD_BITS, reset_less=True)
        failed, take = Signal(), Signal()
        dropped = Signal(range(_AHEAD + 1))  # of the records in flight, the first ones that a jump has made useless
        entry, oldest = Signal(entry_layout), entry_layout(queue.r_data)
        bits = Cat(record, self.r.payload.data)[-RECORD_BITS:]
        m.d.comb += [
            self.r.ready.eq(1),
            take.eq(self.r.valid & self.r.payload.last),
            origins.r_en.eq(take),
            entry.bits.eq(bits),
            entry.error.eq(failed | self.r.payload.resp[1] | refused),
            entry.body.eq(Mux(refused, looping, origin.body)),
            entry.last.eq(origin.last),
            queue.w_data.eq(entry),
            queue.w_en.eq((take & ~stopped & (dropped == 0)) | refused),
        ]
        with m.If(self.r.valid):
            m.d.sync += [record.eq(bits), failed.eq((failed | self.r.payload.resp[1]) & ~self.r.payload.last)]
        with m.If(queue.w_en & entry.error):
            m.d.sync += [
                stopped.eq(1),
                failed_in_body.eq(entry.body),
                self.error_address.eq(Cat(Const(0, _RECORD_LOG2), Mux(refused, number, origin.number))),
                self.error_cause.eq(Mux(refused, refusal, FaultCause.BUS_FETCH)),
            ]
        with m.If(jump):
            # An error of a record that is dropped is one of nobody.
            m.d.sync += [dropped.eq(origins.level - take), stopped.eq(0)]
        with m.Elif(self.retry):
            m.d.sync += stopped.eq(0)  # nothing is in flight
        with m.Elif(take & (dropped != 0)):
            m.d.sync += dropped.eq(dropped - 1)

        # ---- To the decoder.
        m.d.comb += [
            self.o.payload.bits.eq(oldest.bits),
            self.o.payload.error.eq(oldest.error),
            self.o.payload.body.eq(oldest.body),
            self.o.payload.last.eq(oldest.last),
            self.o.payload.index.eq(self.index),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
            taken.eq(self.o.valid & self.o.ready & ~oldest.error),
            self.idle.eq(~looping & (asked == self.tail) & ~origins.r_rdy & ~queue.r_rdy & ~waiting),
            self.quiet.eq(~waiting & ~origins.r_rdy & frames.quiet),
        ]
        m.d.sync += [
            self.index.eq(self.index + taken),
            self.head.eq(self.head + (taken & ~oldest.body)),
            took.eq(taken & oldest.body),
            ahead.eq(Mux(jump | self.retry, 0, ahead + issue - taken)),
        ]
        # For proofs to look at.
        self.queue, self.origins, self.ahead, self.dropped = queue, origins, ahead, dropped
        self.waiting, self.refused, self.stopped = waiting, refused, stopped
        return m
