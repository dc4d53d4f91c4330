"""The LOAD engine: rows of memory to rows of the vector memory."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.control.engine import EngineSignature
from lepton_npu.memory.bounds import bounds_layout, to_vmem
from lepton_npu.memory.ports import LocalWritePort
from lepton_npu.mmu.ports import TranslationSignature
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import PAGE_BITS

from .axi import burst_layout, read_beat_layout
from .dma_bursts import WAITING, DmaBursts
from .walk import dma_burst_layout

__all__ = ["LoadEngine"]


class LoadEngine(wiring.Component):
    """Runs LOAD commands (docs/architecture.md, section 2): a beat a cycle.

    Up to ``config.outstanding`` bursts are in flight. Commands follow one another without waiting for data: addresses
    of the next are issued while data of the last arrive.

    Errors: those of `DmaWalk`, and BUS_READ with the address (virtual, if addresses are) of the burst that had an
    error response (SLVERR or DECERR). They are reported when every burst in flight has been received; what comes after
    an error is thrown away.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    engine : Out(EngineSignature(Opcode.LOAD))
    bounds : In(bounds_layout(config))
        Rows that commands may use; changes only while the engine holds none.
    ar : Out(stream of burst_layout), r : In(stream of read_beat_layout)
        To `AxiMaster`. Beats come in the order of the bursts.
    mmu : Out(TranslationSignature(config))
    write : Out(LocalWritePort)
    beat : Out(1)
        For the counter LOAD_BEATS.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.LOAD)),
                "bounds": In(bounds_layout(config)),
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "mmu": Out(TranslationSignature(config)),
                "write": Out(LocalWritePort(config)),
                "beat": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, engine = self._config, self.engine
        layout = dma_burst_layout(config)
        m.submodules.walk = walk = DmaBursts(config, Opcode.LOAD)
        m.submodules.bursts = bursts = SyncFIFO(width=layout.size, depth=config.outstanding)
        self.walk, self.bursts = walk, bursts  # for proofs to look at
        connect(m, flipped(engine.cmd), walk.cmd)
        connect(m, walk.mmu, flipped(self.mmu))
        m.d.comb += walk.bounds.eq(self.bounds)

        # ---- Bursts go out while nothing is wrong. One that is offered stays so until it is taken.
        error, waiting, issued = Signal(), Signal(), Signal()
        m.d.comb += [
            self.ar.payload.addr.eq(walk.burst.payload.addr),
            self.ar.payload.len.eq(walk.burst.payload.len),
            self.ar.valid.eq(walk.burst.valid & (waiting | (bursts.w_rdy & ~error & ~engine.halt & ~self.mmu.hold))),
            issued.eq(self.ar.valid & self.ar.ready),
            walk.burst.ready.eq(issued),
            bursts.w_data.eq(walk.burst.payload),
            bursts.w_en.eq(issued),
        ]
        m.d.sync += waiting.eq(self.ar.valid & ~self.ar.ready)

        # ---- Beats fill a row; a row that is full, or the last of its matrix row, is written.
        burst, beat = Signal(layout), self.r.payload
        row = Signal(config.row_bits, reset_less=True)
        merged = Signal(config.row_bits)
        slot_bits = (config.beats_per_row - 1).bit_length()
        slot, slot_now = Signal(slot_bits), Signal(slot_bits)
        local, local_now = Signal(config.vmem_addr_bits, reset_less=True), Signal(config.vmem_addr_bits)
        row_full, row_last, row_ends_command = Signal(), Signal(), Signal()
        first_beat = Signal(init=1)
        take, complete, starts, good = Signal(), Signal(), Signal(), Signal()
        write_valid, write_address = Signal(), Signal(config.vmem_addr_bits, reset_less=True)
        m.d.comb += [
            burst.eq(bursts.r_data),
            self.r.ready.eq(~write_valid | self.write.req.ready),
            take.eq(self.r.valid & self.r.ready),
            bursts.r_en.eq(take & beat.last),
            starts.eq(first_beat & burst.starts_row),
            slot_now.eq(Mux(starts, 0, slot)),
            local_now.eq(Mux(starts, burst.local, local)),
            row_last.eq(beat.last & burst.ends_row),
            row_full.eq(slot_now == config.beats_per_row - 1),
            complete.eq(row_full | row_last),
            good.eq(~error & ~beat.resp[1]),
        ]
        words = config.bus_bytes // 4
        used = Signal(config.bus_width)
        m.d.comb += used.eq(
            Cat(
                beat.data.word_select(word, 32) & (~row_last | (burst.last_words >= word)).replicate(32)
                for word in range(words)
            )
        )
        for place in range(config.beats_per_row):
            part = merged.word_select(place, config.bus_width)
            with m.If(slot_now == place):
                m.d.comb += part.eq(used)
            if place < config.beats_per_row - 1:
                with m.Elif(slot_now > place):
                    m.d.comb += part.eq(row.word_select(place, config.bus_width))
        with m.If(self.write.req.ready):
            m.d.sync += write_valid.eq(0)
        with m.If(take):
            m.d.sync += [
                row.eq(merged),
                first_beat.eq(beat.last),
                slot.eq(Mux(complete, 0, slot_now + 1)),
                local.eq(local_now + complete),
                write_address.eq(to_vmem(config, self.bounds, local_now)),
                write_valid.eq(complete & good),
                row_ends_command.eq(row_last & burst.ends_command),
            ]
        done = Signal()
        m.d.comb += [
            self.write.req.valid.eq(write_valid),
            self.write.req.payload.addr.eq(write_address),
            self.write.req.payload.data.eq(row),
            done.eq(write_valid & self.write.req.ready & row_ends_command),
            self.beat.eq(take),
        ]

        # ---- Errors.
        error_index, error_address = Signal(32, reset_less=True), Signal(64, reset_less=True)
        with m.If(take & beat.resp[1] & ~error):
            m.d.sync += [
                error.eq(1),
                error_index.eq(burst.index),
                error_address.eq(Cat(burst.addr[:PAGE_BITS], burst.page)),
            ]
        quiet = Signal()
        m.d.comb += [
            quiet.eq(~waiting & ~bursts.r_rdy & ~write_valid),
            engine.fault.eq(walk.fault),
            engine.fault.valid.eq((walk.fault.valid | error) & quiet),
            engine.quiet.eq(quiet & walk.quiet),
            walk.halt.eq(engine.halt),
        ]
        with m.If(error):
            m.d.comb += [
                engine.fault.cause.eq(FaultCause.BUS_READ),
                engine.fault.index.eq(error_index),
                engine.fault.address.eq(error_address),
            ]

        accepted = Signal()
        # A command has a burst in flight, or is the walk's, or writes, or waits for its pages.
        held = Signal(range(config.outstanding + WAITING + 3))
        m.d.comb += [accepted.eq(engine.cmd.valid & engine.cmd.ready), engine.busy.eq(held != 0)]
        m.d.sync += [
            held.eq(held + accepted - done),
            engine.done.eq(done),
            engine.progress.eq(take | issued),
        ]
        # For proofs to look at.
        self.held, self.error, self.row_ends_command = held, error, row_ends_command
        return m
