"""Fetching command records from the ring in host memory."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig

from .engine import INDEX_BITS

__all__ = ["RECORD_BITS", "RecordFetch", "record_layout"]

RECORD_BITS = RECORD_BYTES * 8
_RECORD_LOG2 = RECORD_BYTES.bit_length() - 1
_AHEAD = 2  # records asked for and not taken: hides the memory's latency behind the decoding of the one before


def record_layout() -> data.StructLayout:
    """A record, its index, and whether it could not be read (then ``address`` is where)."""
    return data.StructLayout({"bits": RECORD_BITS, "index": INDEX_BITS, "error": 1, "address": 64})


class RecordFetch(wiring.Component):
    """Reads records ``head`` to ``tail`` of the ring, one burst each, in order, two ahead of their use.

    A record that cannot be read (error response, or an address beyond ``addr_width``) comes out as an error in its
    turn, and nothing is read after it.

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
        Records taken by the decoder, modulo 2^32.
    ar, r : streams
        To `AxiMaster`.
    o : Out(stream of record_layout())
    idle : Out(1)
        Nothing to read, nothing in flight.
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
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "o": Out(stream.Signature(record_layout())),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        beats = max(RECORD_BYTES // config.bus_bytes, 1)
        layout = record_layout()
        m.submodules.queue = queue = SyncFIFO(width=layout.size, depth=_AHEAD)

        asked, got = Signal(32), Signal(32)  # records asked for, and received
        address, got_address, mask = Signal(64), Signal(64), Signal(32)
        stopped, waiting = Signal(), Signal()
        issue, take, beyond = Signal(), Signal(), Signal()
        # Addresses follow the counts, and the registers of the ring, by a cycle.
        settled = Signal()
        base = Cat(Const(0, _RECORD_LOG2), self.ring_base[_RECORD_LOG2:])
        m.d.sync += [
            mask.eq((Const(1, 32) << self.ring_log2) - 1),
            address.eq(base + ((asked & mask) << _RECORD_LOG2)),
            got_address.eq(base + ((got & mask) << _RECORD_LOG2)),
            settled.eq(~issue & ~take),
        ]
        m.d.comb += [
            beyond.eq(address[config.addr_width :].any()),
            self.ar.payload.addr.eq(address),
            self.ar.payload.len.eq(beats - 1),
        ]
        ahead = (asked - self.head)[: _AHEAD.bit_length()]
        may_ask = settled & (asked != self.tail) & (ahead < _AHEAD) & ~stopped & self.enable
        refused = Signal()
        m.d.comb += [
            self.ar.valid.eq(waiting | (may_ask & ~beyond)),
            issue.eq(self.ar.valid & self.ar.ready),
            # Reported when what was asked for before has come.
            refused.eq(may_ask & ~waiting & beyond & (asked == got)),
        ]
        m.d.sync += [waiting.eq(self.ar.valid & ~self.ar.ready), asked.eq(asked + issue)]

        record = Signal(RECORD_BITS, reset_less=True)
        failed = Signal()
        entry = Signal(layout)
        bits = Cat(record, self.r.payload.data)[-RECORD_BITS:]
        m.d.comb += [
            self.r.ready.eq(1),
            take.eq(self.r.valid & self.r.payload.last),
            entry.bits.eq(bits),
            entry.index.eq(got),
            entry.error.eq(failed | self.r.payload.resp[1] | refused),
            entry.address.eq(got_address),
            queue.w_data.eq(entry),
            queue.w_en.eq((take & ~stopped) | refused),
            self.o.payload.eq(queue.r_data),
            self.o.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.o.ready),
            self.idle.eq((asked == self.tail) & (asked == got) & ~queue.r_rdy & ~waiting),
        ]
        with m.If(self.r.valid):
            m.d.sync += [record.eq(bits), failed.eq((failed | self.r.payload.resp[1]) & ~self.r.payload.last)]
        with m.If(take):
            m.d.sync += got.eq(got + 1)
        with m.If(queue.w_en & entry.error):
            m.d.sync += stopped.eq(1)
        with m.If(self.o.valid & self.o.ready & ~self.o.payload.error):
            m.d.sync += self.head.eq(self.head + 1)
        return m
