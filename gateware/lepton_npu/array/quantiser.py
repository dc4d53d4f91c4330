"""QUANT engine: binary32 matrices in local memory to tiles of shared-exponent int8."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from lepton_npu.control.contexts import context_bits
from lepton_npu.control.engine import INDEX_BITS, EngineSignature
from lepton_npu.memory.block_ram import block_ram, read_block_ram
from lepton_npu.memory.bounds import bounds_layout, to_local, to_tile
from lepton_npu.memory.ports import LOCAL_ADDR_BITS, LOCAL_READ_LATENCY, LocalReadPort
from lepton_npu.memory.range_check import in_local
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig

from .ports import TileWritePort
from .quantise_convert import CONVERT_LATENCY, QuantConverter
from .quantise_random import RowStates
from .quantise_walk import SOURCE_BITS, QuantWalk, tile_job_layout

__all__ = ["OPCODES", "QuantEngine"]

OPCODES = (Opcode.QUANT, Opcode.SEED)
"""The commands of the engine."""


class QuantEngine(wiring.Component):
    """Runs QUANT and SEED commands: docs/architecture.md, sections 2 and 3.

    A tile's rows are read once, into one of a few tile buffers, while its largest exponent is found; then the buffer
    is read once for every limb plane, converted and written. The first pass of later tiles overlaps the second pass of
    earlier ones, also across commands: without stalls tile rows are written in every cycle, so a source row is read
    in every cycle at precision 8, in half of them at 16 and in a third at 32. Tiles go down the columns of tiles (for
    j, for i); within a tile the planes and then the rows ascend. A SEED waits until the commands before it are done,
    and takes 2 cycles.

    Without stalls the first row of a tile is written 6 + LOCAL_READ_LATENCY + CONVERT_LATENCY + (0, 1, 1, 2 for T = 4,
    8, 16, 32) cycles after the request of the tile's last row.

    Errors: before a tile is begun its planes are checked (LOCAL_RANGE, address ``tile * T``), then every row just
    before it is read (LOCAL_RANGE, the row's exact address as a 64-bit two's complement number). The fault is
    reported when all earlier tiles are written and their commands done; nothing of the tile at fault is written.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    engine : Out(EngineSignature(QUANT, SEED))
    owner : In(context_bits(config)), forget : In(contexts)
        Of `RowStates`.
    bounds : In(bounds_layout(config))
        Rows and tiles that commands may use; changes only while the engine holds none.
    source : Out(LocalReadPort(config))
    tiles : Out(TileWritePort(config))
    row_read, row_written : Out(1)
        Events for counters: a source row was requested, a tile row is being written.
    """

    def __init__(self, config: NpuConfig):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        self._config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(*OPCODES)),
                "bounds": In(bounds_layout(config)),
                "owner": In(context_bits(config)),
                "forget": In(config.contexts),
                "source": Out(LocalReadPort(config)),
                "tiles": Out(TileWritePort(config)),
                "row_read": Out(1),
                "row_written": Out(1),
            }
        )

    @property
    def config(self) -> NpuConfig:
        """The configuration the engine was made for."""
        return self._config

    @property
    def slots(self) -> int:
        """Tile buffers. A short tile is over before its first pass' pipeline is: small arrays need more of them."""
        return 4 if self._config.side <= 8 else 2

    def elaborate(self, platform):
        m = Module()
        config = self._config
        side, side_bits = config.side, config.side_bits
        slot_bits = (self.slots - 1).bit_length()
        engine = self.engine

        m.submodules.walk = walk = QuantWalk(config)
        m.submodules.convert = convert = QuantConverter(config)
        m.submodules.states = states = RowStates(config)
        m.submodules.buffer = buffer = block_ram(config.row_bits, self.slots * side)

        # ---- Commands accepted and tiles begun that are not finished.
        started, finished = Signal(), Signal()
        tile_begun, tile_written = Signal(), Signal()
        commands, tiles = Signal(5), Signal(5)
        m.d.sync += [
            commands.eq(commands + started - finished),
            tiles.eq(tiles + tile_begun - tile_written),
        ]
        stopped = Signal()
        is_seed, seeded = Signal(), Signal()
        m.d.comb += [
            is_seed.eq(engine.cmd.payload.opcode == Opcode.SEED),
            *(walk.i.payload[name].eq(engine.cmd.payload[name]) for name in walk.i.payload.shape().members),
            walk.bounds.eq(self.bounds),
            walk.i.valid.eq(engine.cmd.valid & ~is_seed & ~stopped),
            engine.cmd.ready.eq(Mux(is_seed, commands == 0, walk.i.ready) & ~stopped),
            started.eq(engine.cmd.valid & engine.cmd.ready),
            states.seed.eq(engine.cmd.payload.seed),
            states.load.eq(started & is_seed),
            states.owner.eq(self.owner),
            states.forget.eq(self.forget),
            engine.busy.eq(commands != 0),
            engine.quiet.eq(1),
        ]

        m.d.sync += seeded.eq(states.load)

        # ---- First pass: addresses (a), checked requests (b).
        a_valid, a_address, a_row = Signal(), Signal(signed(SOURCE_BITS)), Signal(side_bits)
        a_job = Signal(tile_job_layout(config), reset_less=True)
        a_slot, next_slot = Signal(slot_bits), Signal(slot_bits)
        a_last, a_move, a_load = Signal(), Signal(), Signal()
        free = Signal(range(self.slots + 1), init=self.slots)
        release = Signal()
        tag = data.StructLayout({"slot": slot_bits, "row": side_bits, "last": 1, "lanes": side})
        meta = data.StructLayout(
            {
                "slot": slot_bits,
                "rows": side_bits,
                "tile": config.tile_bits,
                "limb_stride": config.tile_bits,
                "limbs": 2,
                "stochastic": 1,
                "last": 1,
            }
        )
        b_valid, b_bad, b_plane = Signal(), Signal(), Signal()
        b_address = Signal(signed(SOURCE_BITS), reset_less=True)
        b_local = Signal(LOCAL_ADDR_BITS, reset_less=True)
        b_index = Signal(INDEX_BITS, reset_less=True)
        b_tag, b_meta = Signal(tag, reset_less=True), Signal(meta, reset_less=True)
        b_go = Signal()

        m.d.comb += [
            a_last.eq(a_row == a_job.rows),
            a_move.eq(a_valid & (~b_valid | b_go)),
            a_load.eq(walk.o.valid & (free != 0) & (~a_valid | (a_move & a_last))),
            walk.o.ready.eq(a_load),
            b_go.eq(self.source.req.valid & self.source.req.ready),
            self.source.req.valid.eq(b_valid & ~b_bad),
            self.source.req.payload.eq(b_local),
            tile_begun.eq(b_go & b_tag.last),
        ]
        with m.If(a_move):
            m.d.sync += [
                a_address.eq(a_address + a_job.stride),
                a_row.eq(a_row + 1),
                a_valid.eq(~a_last),
                b_address.eq(a_address),
                b_local.eq(to_local(config, self.bounds, a_address)),
                b_bad.eq(a_job.bad | ~in_local(config, self.bounds, a_address)),
                b_plane.eq(a_job.bad),
                b_index.eq(a_job.index),
                b_tag.slot.eq(a_slot),
                b_tag.row.eq(a_row),
                b_tag.last.eq(a_last),
                b_tag.lanes.eq(a_job.lanes),
                b_meta.slot.eq(a_slot),
                b_meta.rows.eq(a_job.rows),
                b_meta.tile.eq(a_job.tile),
                b_meta.limb_stride.eq(a_job.limb_stride),
                b_meta.limbs.eq(a_job.limbs),
                b_meta.stochastic.eq(a_job.stochastic),
                b_meta.last.eq(a_job.last),
            ]
        with m.If(~b_valid | b_go):
            m.d.sync += b_valid.eq(a_valid)
        with m.If(a_load):
            m.d.sync += [
                a_valid.eq(1),
                a_job.eq(walk.o.payload),
                a_address.eq(walk.o.payload.base),
                a_row.eq(0),
                a_slot.eq(next_slot),
                next_slot.eq(next_slot + 1),
            ]
        m.d.sync += free.eq(free - a_load + release)

        # ---- A request that may not be made stops the engine; the rest of it runs dry.
        with m.If(b_valid & b_bad):
            m.d.sync += stopped.eq(1)
        with m.If(stopped & (tiles == 0)):
            m.d.sync += engine.fault.valid.eq(1)
        plane_address = Signal(64)
        m.d.comb += [
            plane_address.eq(walk.bad_address),
            engine.fault.cause.eq(FaultCause.LOCAL_RANGE),
            engine.fault.index.eq(b_index),
            engine.fault.address.eq(Mux(b_plane, plane_address.as_signed(), b_address)),
        ]

        # ---- First pass: rows come back, are cut to the matrix and stored; their largest exponent.
        tags = [Signal(tag, name=f"tag{k}", reset_less=True) for k in range(LOCAL_READ_LATENCY)]
        m.d.sync += [tags[0].eq(b_tag), *(later.eq(earlier) for earlier, later in pairwise(tags))]
        g_valid, g_tag = Signal(), Signal(tag, reset_less=True)
        g_data = Signal(data.ArrayLayout(unsigned(32), side), reset_less=True)
        m.d.sync += g_valid.eq(self.source.resp_valid)
        with m.If(self.source.resp_valid):
            m.d.sync += g_tag.eq(tags[-1])
            for lane in range(side):
                inside = tags[-1].lanes[lane].replicate(32)
                m.d.sync += g_data[lane].eq(self.source.resp_data.word_select(lane, 32) & inside)
        write = buffer.write_port()
        m.d.comb += [
            write.en.eq(g_valid),
            write.addr.eq(Cat(g_tag.row, g_tag.slot)),
            write.data.eq(g_data),
        ]
        largest, valid = [g_data[lane][23:31] for lane in range(side)], g_valid
        first, last = g_tag.row == 0, g_tag.last
        stage = 0
        while len(largest) > 1:
            m_valid, m_first, m_last = (Signal(name=f"{n}{stage}") for n in ("max_valid", "max_first", "max_last"))
            m.d.sync += m_valid.eq(valid)
            kept = []
            for group in range(0, len(largest), 4):
                best = Signal(8, name=f"max{stage}_{group}", reset_less=True)
                with m.If(valid):
                    m.d.sync += best.eq(_maximum(largest[group : group + 4]))
                kept.append(best)
            with m.If(valid):
                m.d.sync += [m_first.eq(first), m_last.eq(last)]
            largest, valid, first, last = kept, m_valid, m_first, m_last
            stage += 1
        running, exponent_valid = Signal(8, reset_less=True), Signal()
        m.d.sync += exponent_valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += running.eq(Mux(first, largest[0], _maximum([largest[0], running])))

        # ---- Tiles that are read, and their exponents: one entry a buffer at most, so neither queue overflows.
        m.submodules.metas = metas = SyncFIFO(width=meta.size, depth=self.slots)
        m.submodules.exponents = exponents = SyncFIFO(width=8, depth=self.slots)
        take = Signal()
        m.d.comb += [
            metas.w_en.eq(tile_begun),
            metas.w_data.eq(b_meta),
            metas.r_en.eq(take),
            exponents.w_en.eq(exponent_valid),
            exponents.w_data.eq(running),
            exponents.r_en.eq(take),
        ]

        # ---- Second pass: a plane after the other. Nothing holds it back, so a slot is free once its last plane
        # begins: the rows of the tile that takes it arrive later than they are read here.
        c_valid, c_row, c_limb = Signal(), Signal(side_bits), Signal(2)
        c_tile, c_exponent = Signal(config.tile_bits), Signal(8)
        c_meta = Signal(meta, reset_less=True)
        row_end, tile_end = Signal(), Signal()
        m.d.comb += [
            row_end.eq(c_row == side - 1),
            tile_end.eq(row_end & (c_limb == c_meta.limbs)),
            take.eq(exponents.r_rdy & (~c_valid | tile_end)),
            release.eq(c_valid & (c_row == 0) & (c_limb == c_meta.limbs)),
            states.step.eq(c_valid & c_meta.stochastic),
            states.first.eq((c_row == 0) & (c_limb == 0)),
            states.again.eq(row_end & ~tile_end),
        ]
        with m.If(c_valid):
            m.d.sync += c_row.eq(c_row + 1)
            with m.If(row_end):
                m.d.sync += [c_limb.eq(c_limb + 1), c_tile.eq(c_tile + c_meta.limb_stride)]
            with m.If(tile_end):
                m.d.sync += c_valid.eq(0)
        with m.If(take):
            m.d.sync += [
                c_valid.eq(1),
                c_meta.eq(metas.r_data),
                c_tile.eq(meta(metas.r_data).tile),
                c_exponent.eq(exponents.r_data),
                c_row.eq(0),
                c_limb.eq(0),
            ]
        words = read_block_ram(m, buffer, enable=c_valid, address=Cat(c_row, c_meta.slot), name="words")
        m.d.sync += convert.valid.eq(c_valid)
        with m.If(c_valid):
            m.d.sync += [
                convert.zero.eq(c_row > c_meta.rows),
                convert.exponent.eq(c_exponent),
                convert.limbs.eq(c_meta.limbs),
                convert.limb.eq(c_limb),
                convert.stochastic.eq(c_meta.stochastic),
            ]
        with m.If(states.step):
            m.d.sync += convert.state.eq(states.state)
        m.d.comb += convert.words.eq(words)

        # ---- Where the converted rows go: along with them, from the read of the buffer on.
        goal = data.StructLayout({"row": config.tile_row_bits, "tile_end": 1, "command_end": 1})
        goals = [Signal(goal, name=f"goal{k}", reset_less=True) for k in range(CONVERT_LATENCY + 1)]
        m.d.sync += [
            goals[0].row.eq(Cat(c_row, to_tile(config, self.bounds, c_tile))),
            goals[0].tile_end.eq(tile_end),
            goals[0].command_end.eq(tile_end & c_meta.last),
            *(later.eq(earlier) for earlier, later in pairwise(goals)),
        ]
        m.d.comb += [
            self.tiles.en.eq(convert.o_valid),
            self.tiles.row.eq(goals[-1].row),
            self.tiles.data.eq(convert.o_data),
            self.tiles.exponent.eq(convert.o_exponent),
            tile_written.eq(convert.o_valid & goals[-1].tile_end),
            finished.eq((convert.o_valid & goals[-1].command_end) | seeded),
            self.row_read.eq(b_go),
            self.row_written.eq(convert.o_valid),
        ]
        m.d.sync += [engine.done.eq(finished), engine.progress.eq(b_go | convert.o_valid)]
        return m


def _maximum(values):
    """The largest of one to four unsigned values of equal width."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    low, high = _maximum(values[:half]), _maximum(values[half:])
    return Mux(low > high, low, high)
