"""The sequencer that loads stationary tiles, one pass ahead of the stream."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.control.engine import INDEX_BITS, command_layout
from lepton_npu.memory.bounds import bounds_layout, to_tile
from lepton_npu.memory.range_check import in_tiles
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig

from .passes import PassCounter
from .ports import TileReadPort

__all__ = ["WeightLoader"]

_TILE_BITS = 18  # a tile number in range plus a 16-bit stride, exactly


class WeightLoader(wiring.Component):
    """Reads the stationary tile of every pass of the commands, row T-1 first, as soon as the shadow weights are free.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    cmd : In(stream)
        MATMUL commands; the next is taken when the last tile of the one before has been read.
    bounds : In(bounds_layout(config))
    port : Out(TileReadPort)
        Of the tile memory.
    first : Out(1)
        ``port`` reads the first row of a load in this cycle.
    swap : In(1)
        The stream issues the first row of a pass in this cycle.
    loaded : Out(1)
        The shadow weights hold the next pass (its last row was issued in an earlier cycle).
    bad : Out(1), bad_index : Out(32), bad_tile : Out(18)
        The next tile is out of range; the loader stops there until reset.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "cmd": In(stream.Signature(command_layout(Opcode.MATMUL))),
                "bounds": In(bounds_layout(config)),
                "port": Out(TileReadPort(config)),
                "first": Out(1),
                "swap": In(1),
                "loaded": Out(1),
                "bad": Out(1),
                "bad_index": Out(INDEX_BITS),
                "bad_tile": Out(_TILE_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.passes = passes = PassCounter()
        command = Signal(command_layout(Opcode.MATMUL), reset_less=True)
        busy = Signal()
        row = Signal(config.side_bits, init=config.side - 1)
        at_n, at_k, tile = (Signal(_TILE_BITS, name=name, reset_less=True) for name in ("at_n", "at_k", "tile"))

        accept, issue, last_row, in_range = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            self.cmd.ready.eq(~busy),
            accept.eq(self.cmd.valid & ~busy),
            in_range.eq(in_tiles(config, self.bounds, tile)),
            last_row.eq(row == 0),
            issue.eq(busy & in_range & (~self.first | ~self.loaded | self.swap)),
            self.first.eq(row == config.side - 1),
            self.bad.eq(busy & ~in_range),
            self.bad_index.eq(command.index),
            self.bad_tile.eq(tile),
            self.port.en.eq(issue),
            self.port.row.eq(Cat(row, to_tile(config, self.bounds, tile))),
            self.port.transpose.eq(command.b_transpose),
            passes.start.eq(accept),
            passes.step.eq(issue & last_row),
            passes.k_tiles.eq(self.cmd.payload.k_tiles),
            passes.n_tiles.eq(self.cmd.payload.n_tiles),
            passes.a_precision.eq(self.cmd.payload.a_precision),
            passes.b_precision.eq(self.cmd.payload.b_precision),
        ]

        with m.If(self.swap):
            m.d.sync += self.loaded.eq(0)
        with m.If(issue):
            m.d.sync += row.eq(Mux(last_row, config.side - 1, row - 1))
            with m.If(last_row):
                m.d.sync += self.loaded.eq(1)
                with m.If(passes.next_la):
                    pass  # another limb of A through the same tile
                with m.Elif(passes.next_lb):
                    m.d.sync += tile.eq(tile + command.b_limb_stride)
                with m.Elif(passes.next_k):
                    m.d.sync += [tile.eq(at_k + command.b_k_stride), at_k.eq(at_k + command.b_k_stride)]
                with m.Elif(passes.next_n):
                    for base in (tile, at_k, at_n):
                        m.d.sync += base.eq(at_n + command.b_n_stride)
                with m.Else():
                    m.d.sync += busy.eq(0)
        with m.If(accept):
            m.d.sync += [busy.eq(1), command.eq(self.cmd.payload)]
            for base in (tile, at_k, at_n):
                m.d.sync += base.eq(self.cmd.payload.b_tile)
        return m
