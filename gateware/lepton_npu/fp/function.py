"""Functions of one binary32 argument: a shared table-and-quadratic interpolator."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton_npu.spec import function_tables as tables

from .format import CANONICAL_NAN, Pipeline, Unpacked, pack_rounded

__all__ = ["Fp32Function", "FunctionOp"]

_LOW = 17  # unsigned bits that an 18-bit signed DSP multiplier takes

_ROW = data.StructLayout({"c0": tables.FRACTION_BITS + 1, "c1": signed(tables.C1_BITS + 1), "c2": tables.C2_BITS})


class FunctionOp(enum.Enum, shape=1):
    """What `Fp32Function` gives."""

    EXP = 0
    RECIP = 1


def _rows() -> list[dict[str, int]]:
    rows = []
    for table in (tables.exp2_table(), tables.reciprocal_table()):
        rows += [{"c0": a, "c1": b, "c2": c} for a, b, c in zip(table.c0, table.c1, table.c2, strict=True)]
    return rows


class Fp32Function(wiring.Component):
    """exp(x) or 1 / x; one result a cycle.

    Special cases as docs/numerics.md says; the worst error is measured over all inputs by ``bench/function_error.py``.

    Members
    -------
    i_valid : In(1), op : In(FunctionOp), i : In(32)
    o_valid : Out(1), o : Out(32)
    """

    latency = 11

    i_valid: In(1)
    op: In(FunctionOp)
    i: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)

        u = Unpacked(self.i)
        s = pipe.step(
            recip=self.op == FunctionOp.RECIP,
            sign=u.sign,
            exponent=u.exponent,
            significand=u.significand,
            zero=u.zero,
            infinite=u.infinite,
            nan=u.nan,
            exact=u.fraction == 0,
        )

        def along(s) -> dict:
            return {
                name: getattr(s, name) for name in ("recip", "sign", "exponent", "zero", "infinite", "nan", "exact")
            }

        # exp: |x| * log2(e), in partial products that fit a DSP.
        log2e = Const(tables.LOG2E, tables.LOG2E_FRACTION_BITS + 1)
        s = pipe.step(
            low=s.significand[:_LOW] * log2e[:_LOW],
            cross0=s.significand[_LOW:] * log2e[:_LOW],
            cross1=s.significand[:_LOW] * log2e[_LOW:],
            high=s.significand[_LOW:] * log2e[_LOW:],
            fraction=s.significand[:23],
            **along(s),
        )
        product = Signal(58)
        m.d.comb += product.eq(Cat(s.low, s.high) + ((s.cross0 + s.cross1) << _LOW))
        down, shift = Signal(signed(10)), Signal(6)
        m.d.comb += [down.eq(133 - s.exponent), shift.eq(Mux(down < 0, 0, Mux(down > 40, 40, down[:6])))]
        s = pipe.step(product=product[22:], shift=shift, beyond=down < 0, fraction=s.fraction, **along(s))

        # y in two's complement with 28 bits behind the point; recip: the fraction itself.
        magnitude, y = Signal(38), Signal(signed(38))
        m.d.comb += [magnitude.eq(s.product >> s.shift), y.eq((magnitude ^ s.sign.replicate(38)) + s.sign)]
        part = Signal(28)
        m.d.comb += part.eq(Mux(s.recip, Cat(Const(0, 5), s.fraction), y[:28]))
        s = pipe.step(
            index=Cat(part[tables.T_BITS :], s.recip),
            t=part[: tables.T_BITS],
            whole=y[28:].as_signed(),
            beyond=s.beyond,
            **along(s),
        )

        m.submodules.rom = rom = Memory(shape=_ROW, depth=2 * tables.SEGMENTS, init=_rows())
        port = rom.read_port()
        m.d.comb += [port.addr.eq(s.index), port.en.eq(pipe.valid)]
        exponent = Signal(signed(11))
        m.d.comb += exponent.eq(Mux(s.recip, 253 - s.exponent, s.whole + 127))
        # Results that the quadratic does not give.
        special, fixed = Signal(), Signal(32)
        with m.If(s.nan):
            m.d.comb += [special.eq(1), fixed.eq(CANONICAL_NAN)]
        with m.Elif(s.recip):
            m.d.comb += special.eq(s.zero | s.infinite | s.exact)
            with m.If(s.zero):
                m.d.comb += fixed.eq(Cat(Const(0x7F800000, 31), s.sign))
            with m.Elif(s.infinite | (s.exponent == 254)):
                m.d.comb += fixed.eq(Cat(Const(0, 31), s.sign))
            with m.Else():
                m.d.comb += fixed.eq(Cat(Const(0, 23), (254 - s.exponent)[:8], s.sign))
        with m.Elif(s.zero):
            m.d.comb += [special.eq(1), fixed.eq(0x3F800000)]
        with m.Elif(s.beyond):
            m.d.comb += [special.eq(1), fixed.eq(Mux(s.sign, 0, 0x7F800000))]
        s = pipe.step(t=s.t, exponent=exponent, recip=s.recip, sign=s.sign & s.recip, special=special, fixed=fixed)

        def after(s) -> dict:
            return {name: getattr(s, name) for name in ("exponent", "recip", "sign", "special", "fixed")}

        # Block RAM and multipliers are slow: between them a register.
        s = pipe.step(row=port.data, t=s.t, **after(s))
        row = _ROW(s.row)
        s = pipe.step(bend=(row.c2 * s.t[tables.T_BITS - 16 :])[16:], c0=row.c0, c1=row.c1, t=s.t, **after(s))
        slope = Signal(signed(tables.C1_BITS + 2))
        m.d.comb += slope.eq(s.c1 + s.bend)
        s = pipe.step(slope=slope, c0=s.c0, t=s.t, **after(s))
        slope_low, slope_high = s.slope[:_LOW], s.slope[_LOW:].as_signed()
        t_low, t_high = s.t[:_LOW], s.t[_LOW:]
        s = pipe.step(
            low=slope_low * t_low,
            cross0=slope_high * t_low,
            cross1=slope_low * t_high,
            high=slope_high * t_high,
            c0=s.c0,
            **after(s),
        )
        rise, value = Signal(signed(48)), Signal(signed(34))
        m.d.comb += [
            rise.eq(s.low + ((s.cross0 + s.cross1) << _LOW) + (s.high << (2 * _LOW))),
            value.eq(s.c0 + (rise >> tables.T_BITS)),
        ]
        # exp lies in [1, 2), recip in (1/2, 1): an error of the last place must not leave that range.
        top = tables.FRACTION_BITS
        kept = Signal(top + 1)
        with m.If(s.recip):
            m.d.comb += kept.eq(Cat(Const(0, 1), Mux(value[top], (1 << top) - 1, value[:top])))
        with m.Else():
            m.d.comb += kept.eq(Mux(value[top], value[: top + 1], 1 << top))
        s = pipe.step(value=kept, **after(s))

        packed = pack_rounded(m, s.sign, s.exponent, s.value[7:], s.value[6], s.value[:6].any())
        s = pipe.step(result=Mux(s.special, s.fixed, packed))
        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m
