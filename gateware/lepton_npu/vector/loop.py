"""The two nested loops that operands and results of a VECTOR command are walked by."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.memory.ports import LOCAL_ADDR_BITS

__all__ = ["ROW_ADDRESS_BITS", "RowLoop", "row_loop_layout"]

ROW_ADDRESS_BITS = LOCAL_ADDR_BITS + 2
"""Exact: a stride is added to an address that was visited, so in range."""


def row_loop_layout() -> data.StructLayout:
    """What a `RowLoop` walks: ``base + inner * stride0 + outer * stride1``; ``pack`` is log2 of the elements a word.

    Without ``used`` there is no row.
    """
    return data.StructLayout(
        {
            "base": unsigned(LOCAL_ADDR_BITS),
            "stride0": signed(16),
            "stride1": signed(16),
            "count0": unsigned(16),
            "count1": unsigned(16),
            "pack": unsigned(2),
            "once": 1,
            "used": 1,
        }
    )


class RowLoop(wiring.Component):
    """Addresses of the rows of one operand or result, one for each ``step``.

    An inner loop has ``count0`` steps, or ``ceil(count0 / 2**pack)`` rows of packed elements. With ``once``, rows that
    follow one another and are the same are visited once: an inner loop of stride 0, and then an outer loop of stride 0.

    Members
    -------
    start : In(1), loop : In(row_loop_layout())
        Begin; the layout is read in the cycle of ``start`` only.
    step : In(1)
        Go on to the next row.
    valid : Out(1), address : Out(signed(18))
        There is a row, and its exact address.
    """

    start: In(1)
    loop: In(row_loop_layout())
    step: In(1)
    valid: Out(1)
    address: Out(signed(ROW_ADDRESS_BITS))

    def elaborate(self, platform):
        m = Module()
        new = self.loop
        row = Signal(signed(ROW_ADDRESS_BITS), reset_less=True)
        outer = Signal(signed(ROW_ADDRESS_BITS), reset_less=True)
        stride0, stride1 = Signal(signed(16), reset_less=True), Signal(signed(16), reset_less=True)
        rows, left0, left1 = (Signal(16, name=n, reset_less=True) for n in ("rows", "left0", "left1"))
        active = Signal()

        inner_rows, same0, same = Signal(16), Signal(), Signal()
        m.d.comb += [
            same0.eq(new.once & (new.stride0 == 0) & (new.pack == 0)),
            same.eq(same0 & (new.stride1 == 0)),
        ]
        with m.Switch(new.pack):
            for pack in range(3):
                with m.Case(pack):
                    m.d.comb += inner_rows.eq((new.count0 + ((1 << pack) - 1)) >> pack)
        next_outer = Signal(signed(ROW_ADDRESS_BITS))
        m.d.comb += [next_outer.eq(outer + stride1), self.valid.eq(active), self.address.eq(row)]
        with m.If(self.start):
            inner = Mux(same0, 1, inner_rows)
            m.d.sync += [
                active.eq(new.used),
                row.eq(new.base),
                outer.eq(new.base),
                stride0.eq(new.stride0),
                stride1.eq(new.stride1),
                rows.eq(inner),
                left0.eq(inner),
                left1.eq(Mux(same, 1, new.count1)),
            ]
        with m.Elif(self.step):
            with m.If(left0 != 1):
                m.d.sync += [left0.eq(left0 - 1), row.eq(row + stride0)]
            with m.Else():
                m.d.sync += [left0.eq(rows), left1.eq(left1 - 1), row.eq(next_outer), outer.eq(next_outer)]
                m.d.sync += active.eq(left1 != 1)
        return m
