"""Results of the lanes gathered to whole rows, packed where the format is."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import Format
from lepton_npu.spec.config import NpuConfig

__all__ = ["ResultGather"]


class ResultGather(wiring.Component):
    """Puts each group of results in its place of a row, and gives the row away with its last group.

    Latency 1 cycle from the last group to the row; a group a cycle.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    format : In(3)
        Of the results; may only change between rows.
    i_valid : In(1), i : In(lanes * 32)
        A group of results, each an element in the low bits of a word.
    group : In, step : In(2)
        Which of the ``side / lanes`` groups of a step, and which step of a packed row.
    first, last : In(1)
        First group of a row (what it does not fill is zero), last group of a row.
    o_valid : Out(1), o : Out(row_bits)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        groups = config.side // config.lanes
        super().__init__(
            {
                "format": In(3),
                "i_valid": In(1),
                "i": In(config.lanes * 32),
                "group": In(max((groups - 1).bit_length(), 1)),
                "step": In(2),
                "first": In(1),
                "last": In(1),
                "o_valid": Out(1),
                "o": Out(config.row_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        side, lanes = self._config.side, self._config.lanes
        row = Signal(self._config.row_bits, reset_less=True)
        formats = {1: (Format.F32, Format.I32), 2: (Format.BF16,), 4: (Format.U8, Format.I8)}
        packed = {pack: Cat(self.i.word_select(lane, 32)[: 32 // pack] for lane in range(lanes)) for pack in formats}
        merged = Signal(self._config.row_bits)
        for pack, members in formats.items():
            # The row as places of one group's elements: groups of step 0, of step 1 and so on.
            width = lanes * 32 // pack
            with m.If(Cat(self.format == f for f in members).any()):
                for place in range(self._config.row_bits // width):
                    step, group = divmod(place, side // lanes)
                    here = Value.cast(self.group == group) & (self.step == step if pack > 1 else 1)
                    kept = row[place * width : (place + 1) * width] & (~self.first).replicate(width)
                    part = merged[place * width : (place + 1) * width]
                    with m.If(here):
                        m.d.comb += part.eq(packed[pack])
                    with m.Else():
                        m.d.comb += part.eq(kept)
        with m.If(self.i_valid):
            m.d.sync += row.eq(merged)
        m.d.sync += self.o_valid.eq(self.i_valid & self.last)
        m.d.comb += self.o.eq(row)
        return m
