"""The STORE engine: local rows to rows of memory."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.control.engine import INDEX_BITS, EngineSignature
from lepton_npu.memory.bounds import bounds_layout, to_local
from lepton_npu.memory.ports import LOCAL_ADDR_BITS, LocalReadPort
from lepton_npu.mmu.ports import TranslationSignature
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import PAGE_BITS

from .axi import burst_layout, write_beat_layout
from .dma_bursts import WAITING, DmaBursts

__all__ = ["StoreEngine"]

_ROWS = 8  # rows read ahead; covers the latency of the local memory


class StoreEngine(wiring.Component):
    """Runs STORE commands (docs/architecture.md, section 2): a beat a cycle, ``config.outstanding`` bursts in flight.

    A command is done when its last burst is acknowledged; the next one's bursts go out before that. WSTRB leaves out
    what a row does not use of its last beat.

    Errors: those of `DmaWalk`, and BUS_WRITE with the address (virtual, if addresses are) of the burst that had an
    error response. They are reported when every burst in flight is acknowledged; bursts that were begun are completed.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    engine : Out(EngineSignature(Opcode.STORE))
    bounds : In(bounds_layout(config))
        Rows that commands may use; changes only while the engine holds none.
    aw : Out(stream of burst_layout), w : Out(stream of write_beat_layout), b : In(stream of BRESP)
        Write channels; registered outputs.
    mmu : Out(TranslationSignature(config))
    read : Out(LocalReadPort)
    beat : Out(1)
        For the counter STORE_BEATS.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.STORE)),
                "bounds": In(bounds_layout(config)),
                "aw": Out(stream.Signature(burst_layout(config))),
                "w": Out(stream.Signature(write_beat_layout(config))),
                "b": In(stream.Signature(2)),
                "mmu": Out(TranslationSignature(config)),
                "read": Out(LocalReadPort(config)),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, engine = self._config, self.engine
        m.submodules.walk = walk = DmaBursts(config, Opcode.STORE)
        connect(m, flipped(engine.cmd), walk.cmd)
        connect(m, walk.mmu, flipped(self.mmu))
        m.d.comb += walk.bounds.eq(self.bounds)
        burst = walk.burst.payload

        rows_layout = data.StructLayout({"local": LOCAL_ADDR_BITS, "rows": len(burst.local_rows)})
        data_layout = data.StructLayout({"len": 8, "ends_row": 1, "last_words": len(burst.last_words)})
        answer_layout = data.StructLayout({"addr": unsigned(64), "ends_command": 1, "index": unsigned(INDEX_BITS)})
        depth = config.outstanding
        m.submodules.rows = rows = SyncFIFO(width=rows_layout.size, depth=depth)
        m.submodules.beats = beats = SyncFIFO(width=data_layout.size, depth=depth)
        m.submodules.answers = answers = SyncFIFO(width=answer_layout.size, depth=depth)

        # ---- A burst that may go is in the address register, and its parts are in the queues.
        error, go = Signal(), Signal()
        to_rows, to_beats, to_answers = Signal(rows_layout), Signal(data_layout), Signal(answer_layout)
        m.d.comb += [
            go.eq(
                walk.burst.valid
                & (~self.aw.valid | self.aw.ready)
                & (rows.w_rdy | ~burst.starts_row)
                & beats.w_rdy
                & answers.w_rdy
                & ~error
                & ~engine.halt
                & ~self.mmu.hold
            ),
            walk.burst.ready.eq(go),
            to_rows.local.eq(burst.local),
            to_rows.rows.eq(burst.local_rows),
            to_beats.len.eq(burst.len),
            to_beats.ends_row.eq(burst.ends_row),
            to_beats.last_words.eq(burst.last_words),
            to_answers.addr.eq(Cat(burst.addr[:PAGE_BITS], burst.page)),
            to_answers.ends_command.eq(burst.ends_command),
            to_answers.index.eq(burst.index),
            rows.w_data.eq(to_rows),
            rows.w_en.eq(go & burst.starts_row),
            beats.w_data.eq(to_beats),
            beats.w_en.eq(go),
            answers.w_data.eq(to_answers),
            answers.w_en.eq(go),
        ]
        with m.If(self.aw.ready):
            m.d.sync += self.aw.valid.eq(0)
        with m.If(go):
            m.d.sync += [
                self.aw.valid.eq(1),
                self.aw.payload.addr.eq(burst.addr),
                self.aw.payload.len.eq(burst.len),
            ]

        # ---- Local rows are read ahead.
        m.submodules.queue = queue = SyncFIFO(width=config.row_bits, depth=_ROWS)
        wanted = rows_layout(rows.r_data)
        offset = Signal(len(burst.local_rows))
        held = Signal(range(_ROWS + 1))
        asked, pop = Signal(), Signal()
        m.d.comb += [
            self.read.req.valid.eq(rows.r_rdy & (held != _ROWS)),
            self.read.req.payload.eq(to_local(config, self.bounds, wanted.local + offset)),
            asked.eq(self.read.req.valid & self.read.req.ready),
            rows.r_en.eq(asked & (offset == wanted.rows - 1)),
            queue.w_en.eq(self.read.resp_valid),
            queue.w_data.eq(self.read.resp_data),
            queue.r_en.eq(pop),
        ]
        with m.If(asked):
            m.d.sync += offset.eq(Mux(rows.r_en, 0, offset + 1))
        m.d.sync += held.eq(held + asked - pop)

        # ---- Beats.
        now = data_layout(beats.r_data)
        slot_bits = (config.beats_per_row - 1).bit_length()
        slot, sent = Signal(slot_bits), Signal(8)
        send, last, row_last = Signal(), Signal(), Signal()
        m.d.comb += [
            send.eq(beats.r_rdy & queue.r_rdy & (~self.w.valid | self.w.ready)),
            last.eq(sent == now.len),
            row_last.eq(last & now.ends_row),
            pop.eq(send & (row_last | (slot == config.beats_per_row - 1))),
            beats.r_en.eq(send & last),
            self.beat.eq(self.w.valid & self.w.ready),
        ]
        with m.If(self.w.ready):
            m.d.sync += self.w.valid.eq(0)
        with m.If(send):
            m.d.sync += [
                self.w.valid.eq(1),
                self.w.payload.data.eq(queue.r_data.word_select(slot if slot_bits else 0, config.bus_width)),
                self.w.payload.strb.eq(
                    Cat((~row_last | (now.last_words >= word)).replicate(4) for word in range(config.bus_bytes // 4))
                ),
                self.w.payload.last.eq(last),
                sent.eq(Mux(last, 0, sent + 1)),
                slot.eq(Mux(pop, 0, slot + 1)),
            ]

        # ---- Answers, errors.
        answer = answer_layout(answers.r_data)
        answered, done = Signal(), Signal()
        error_index, error_address = Signal(INDEX_BITS, reset_less=True), Signal(64, reset_less=True)
        m.d.comb += [
            self.b.ready.eq(1),
            answered.eq(self.b.valid),
            answers.r_en.eq(answered),
            done.eq(answered & answer.ends_command & ~self.b.payload[1] & ~error),
        ]
        with m.If(answered & self.b.payload[1] & ~error):
            m.d.sync += [error.eq(1), error_index.eq(answer.index), error_address.eq(answer.addr)]
        m.d.comb += [
            engine.fault.eq(walk.fault),
            engine.fault.valid.eq((walk.fault.valid | error) & ~answers.r_rdy),
            engine.quiet.eq(~answers.r_rdy & walk.quiet),
            walk.halt.eq(engine.halt),
        ]
        with m.If(error):
            m.d.comb += [
                engine.fault.cause.eq(FaultCause.BUS_WRITE),
                engine.fault.index.eq(error_index),
                engine.fault.address.eq(error_address),
            ]

        accepted = Signal()
        # A command has a burst in flight, or is the walk's, or waits for its pages.
        commands = Signal(range(config.outstanding + WAITING + 2))
        m.d.comb += [accepted.eq(engine.cmd.valid & engine.cmd.ready), engine.busy.eq(commands != 0)]
        m.d.sync += [
            commands.eq(commands + accepted - done),
            engine.done.eq(done),
            engine.progress.eq(go | send | answered),
        ]
        # For proofs to look at.
        self.walk, self.beats, self.answers, self.sent, self.data_layout = walk, beats, answers, sent, data_layout
        self.commands, self.error, self.answer_layout = commands, error, answer_layout
        return m
