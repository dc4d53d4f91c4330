"""Ports of the tile memory, seen from the engine that uses them."""

from amaranth.hdl import signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig

__all__ = ["TILE_READ_LATENCY", "TileReadPort", "TileWritePort"]

TILE_READ_LATENCY = 3
"""Cycles from ``en`` to ``data``: per-bank address, memory, rotation."""


class TileReadPort(wiring.Signature):
    """A read of one row or column of a tile every cycle, never held back.

    Members
    -------
    en : Out(1)
    row : Out(tile_row_bits)
        ``tile * T + r``, in range (the requester has checked it).
    transpose : Out(1)
        Read column r of the tile instead of row r.
    data : In(T x signed(8)), exponent : In(8)
        `TILE_READ_LATENCY` cycles after ``en``: the mantissas and the tile's E8M0 exponent.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(config.tile_row_bits),
                "transpose": Out(1),
                "data": In(data.ArrayLayout(signed(8), config.side)),
                "exponent": In(8),
            }
        )


class TileWritePort(wiring.Signature):
    """A write of one row of a tile every cycle, never held back; reads enabled in later cycles see it.

    ``exponent`` becomes the tile's exponent with any write of one of its rows.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "en": Out(1),
                "row": Out(config.tile_row_bits),
                "data": Out(data.ArrayLayout(signed(8), config.side)),
                "exponent": Out(8),
            }
        )
