"""Splits QUANT commands into tiles and checks where the tiles go."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.control.engine import INDEX_BITS, command_layout
from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.memory.range_check import in_tiles
from lepton_npu.spec.commands import Opcode, Rounding
from lepton_npu.spec.config import NpuConfig

__all__ = ["SOURCE_BITS", "QuantWalk", "tile_job_layout"]

SOURCE_BITS = 34
"""Signed bits that hold every address of a source row exactly: |source + r * stride + j| < 2^32."""

_TILE_BITS = 32  # tile + i + j * tile_stride + 2 * limb_stride < 2^31


def tile_job_layout(config: NpuConfig) -> data.StructLayout:
    """One tile to quantise.

    ``base``: source row of its first row; ``rows``: rows inside the matrix less one; ``lanes``: mask of the columns
    inside; ``tile``, ``limb_stride``: where its planes go; ``limbs``: planes less one; ``stochastic``: its rounding;
    ``last``: ends its command; ``bad``: a plane is out of range, its tile-row address is ``bad_address`` while the
    job is offered.
    """
    return data.StructLayout(
        {
            "base": signed(SOURCE_BITS),
            "stride": signed(16),
            "rows": config.side_bits,
            "lanes": config.side,
            "tile": config.tile_bits,
            "limb_stride": config.tile_bits,
            "limbs": 2,
            "stochastic": 1,
            "last": 1,
            "index": INDEX_BITS,
            "bad": 1,
        }
    )


class QuantWalk(wiring.Component):
    """Makes jobs of a command's tiles, in columns of tiles: for j, for i.

    A job takes ``limbs + 1`` cycles, and two more at the start of a command. After a bad job there are no more.

    Members
    -------
    i : In(stream of QUANT commands)
    bounds : In(bounds_layout(config))
    o : Out(stream of tile_job_layout(config))
    bad_address : Out(37)
        Tile-row address of the plane out of range, from the offer of a bad job on.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(command_layout(Opcode.QUANT))),
                "bounds": In(bounds_layout(config)),
                "o": Out(stream.Signature(tile_job_layout(config))),
                "bad_address": Out(unsigned(_TILE_BITS + 5)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        side_bits = self._config.side_bits
        command, job = self.i.payload, self.o.payload

        # Rows and columns are kept less one: the tile is the last when no whole tile is left above it.
        rows_all = Signal(16)
        rows, cols = Signal(16), Signal(16)
        column_base, base = Signal(signed(SOURCE_BITS)), Signal(signed(SOURCE_BITS))
        stride, tile_stride, limb_stride = Signal(signed(16)), Signal(16), Signal(16)
        column_tile, tile, plane = Signal(_TILE_BITS), Signal(_TILE_BITS), Signal(_TILE_BITS)
        limbs, limb, stochastic = Signal(2), Signal(2), Signal()
        index = Signal(INDEX_BITS)
        bad = Signal()
        last_row, last_col = Signal(), Signal()
        next_column_base, next_column_tile = Signal(signed(SOURCE_BITS)), Signal(_TILE_BITS)
        next_base, next_tile = Signal(signed(SOURCE_BITS)), Signal(_TILE_BITS)
        m.d.comb += [
            last_row.eq(rows[side_bits:] == 0),
            last_col.eq(cols[side_bits:] == 0),
            next_column_base.eq(column_base + 1),
            next_column_tile.eq(column_tile + tile_stride),
            next_base.eq(base + (stride << side_bits)),
            next_tile.eq(tile + 1),
            job.base.eq(base),
            job.stride.eq(stride),
            job.rows.eq(Mux(last_row, rows[:side_bits], self._config.side - 1)),
            job.tile.eq(tile),
            job.limb_stride.eq(limb_stride),
            job.limbs.eq(limbs),
            job.stochastic.eq(stochastic),
            job.last.eq(last_row & last_col),
            job.index.eq(index),
            job.bad.eq(bad),
            self.bad_address.eq(Cat(Const(0, side_bits), plane)),
        ]
        for lane in range(self._config.side):
            m.d.comb += job.lanes[lane].eq(~last_col | (cols[:side_bits] >= lane))

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [
                    rows_all.eq(command.rows - 1),
                    rows.eq(command.rows - 1),
                    cols.eq(command.cols - 1),
                    column_base.eq(command.source),
                    base.eq(command.source),
                    stride.eq(command.source_stride),
                    tile_stride.eq(command.tile_stride),
                    limb_stride.eq(command.limb_stride),
                    column_tile.eq(command.tile),
                    tile.eq(command.tile),
                    plane.eq(command.tile),
                    limbs.eq(command.precision),
                    stochastic.eq(command.rounding == Rounding.STOCHASTIC),
                    limb.eq(0),
                    index.eq(command.index),
                ]
                with m.If(self.i.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                with m.If(~in_tiles(self._config, self.bounds, plane)):
                    m.d.sync += bad.eq(1)
                    m.next = "OFFER"
                with m.Elif(limb == limbs):
                    m.next = "OFFER"
                with m.Else():
                    m.d.sync += [plane.eq(plane + limb_stride), limb.eq(limb + 1)]
            with m.State("OFFER"):
                m.d.comb += self.o.valid.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += limb.eq(0)
                    m.next = "CHECK"
                    with m.If(bad):
                        m.next = "BAD"
                    with m.Elif(~last_row):
                        m.d.sync += [
                            rows[side_bits:].eq(rows[side_bits:] - 1),
                            base.eq(next_base),
                            tile.eq(next_tile),
                            plane.eq(next_tile),
                        ]
                    with m.Elif(~last_col):
                        m.d.sync += [
                            rows.eq(rows_all),
                            cols[side_bits:].eq(cols[side_bits:] - 1),
                            column_base.eq(next_column_base),
                            base.eq(next_column_base),
                            column_tile.eq(next_column_tile),
                            tile.eq(next_column_tile),
                            plane.eq(next_column_tile),
                        ]
                    with m.Else():
                        m.next = "IDLE"
            with m.State("BAD"):
                pass
        return m
