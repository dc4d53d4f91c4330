"""Functions of one binary32 argument, from tables and quadratics."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec import function_tables as tables

from .format import Pipeline, Unpacked, carry_save, pack_rounded
from .interpolate import interpolate

__all__ = ["Fp32Function", "FunctionOp"]

_LOW = 17  # unsigned bits that an 18-bit signed DSP multiplier takes
_ONE = 127  # exponent field of 1


class FunctionOp(enum.Enum, shape=3):
    """What `Fp32Function` gives."""

    EXP = 0
    RECIP = 1
    SQRT = 2
    RSQRT = 3
    SIGMOID = 4
    TANH = 5


class Fp32Function(wiring.Component):
    """exp, 1 / x, square root and its reciprocal, the logistic function and tanh; one result a cycle.

    As docs/numerics.md says, section 5; worst errors are measured over all inputs by ``bench/function_error.py``.
    There are two interpolators, the second one of the reciprocal alone:

    - exp, sqrt, rsqrt use the first one, recip the second one;
    - sigmoid, and tanh of 0.625 and more, use both: 1 / (1 + 2^y);
    - tanh of less takes tanh(x) / x, a function of x^2, from the first one, and the multiplier of the second one.

    ``op`` is read all along the way, so it may only change when nothing is inside.

    Attributes
    ----------
    latency : dict of FunctionOp to int
        Cycles by operation.

    Members
    -------
    i_valid : In(1), op : In(FunctionOp), i : In(32)
    o_valid : Out(1), o : Out(32)
    """

    latency = {
        FunctionOp.EXP: 12,
        FunctionOp.RECIP: 11,
        FunctionOp.SQRT: 12,
        FunctionOp.RSQRT: 12,
        FunctionOp.SIGMOID: 21,
        FunctionOp.TANH: 21,
    }

    i_valid: In(1)
    op: In(FunctionOp)
    i: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)
        # The stages behind the first see the operation a cycle late, decoded: nothing is there in its first cycle.
        # Each unit keeps registers of its own for it (``keep``), else all lanes would share them.
        late, first_alone = Signal(len(FunctionOp), attrs={"keep": 1}), Signal(attrs={"keep": 1})
        is_first_alone = Cat(self.op == op for op in (FunctionOp.EXP, FunctionOp.SQRT, FunctionOp.RSQRT)).any()
        m.d.sync += [
            late.eq(Cat(self.op == op for op in FunctionOp.__members__.values())),
            first_alone.eq(is_first_alone),
        ]
        exp, recip, sqrt, rsqrt, sigmoid, tanh = late

        u = Unpacked(self.i)
        small = Signal()
        # Below 0.625 = 0x3F200000, without the carry chain of a comparison.
        head = self.i[21:31]
        below = ~head[9] & ~(head[3:9].all() & head[:3].any())
        m.d.comb += small.eq((self.op == FunctionOp.TANH) & below)
        s = pipe.step(
            sign=u.sign,
            exponent=u.exponent,
            significand=u.significand,
            zero=u.zero,
            infinite=u.infinite,
            nan=u.nan,
            small=small,
            # |x| * log2(e), or x^2.
            factor=Mux(small, Cat(Const(0, 10), u.significand), tables.LOG2E)[: tables.LOG2E_FRACTION_BITS + 1],
        )
        special = self._special(m, s, late)
        s = pipe.step(
            low=s.significand[:_LOW] * s.factor[:_LOW],
            cross0=s.significand[_LOW:] * s.factor[:_LOW],
            cross1=s.significand[:_LOW] * s.factor[_LOW:],
            high=s.significand[_LOW:] * s.factor[_LOW:],
            significand=s.significand,
            exponent=s.exponent,
            small=s.small,
            negate=Mux(exp, s.sign, Mux(sigmoid, ~s.sign, ~s.small)),
            **special,
        )
        # The reciprocal alone leaves the way here.
        direct, direct_valid = s, pipe.valid & recip
        pipe.valid = pipe.valid & ~recip

        # ---- y = x * log2(e) or x^2, with 28 bits behind the point; of the roots the segment.
        def along(s: SimpleNamespace, *names: str) -> dict[str, Value]:
            return {name: getattr(s, name) for name in ("sign", "special", "nan", "field", *names)}

        product = Signal(58)
        partial = carry_save(Cat(s.low, s.high), s.cross0 << _LOW, s.cross1 << _LOW, width=58)
        m.d.comb += product.eq(partial[0] + partial[1])
        down, shift = Signal(signed(11)), Signal(6)
        m.d.comb += [
            down.eq(Mux(s.small, 260 - (s.exponent << 1), 133 - s.exponent - tanh)),
            shift.eq(Mux(down < 0, 0, Mux(down >= 41, 40, down[:6]))),
        ]
        root_index, root_t = self._root_segment(m, s, rsqrt)
        s = pipe.step(
            turned=product[22:] ^ s.negate.replicate(36),
            shift=shift,
            root_index=root_index,
            root_t=root_t,
            **along(s, "negate", "small", "exponent", "significand"),
        )
        # -p of a shifted p is that of the inverted p shifted with its sign, and 1.
        shifted = Signal(signed(37))
        m.d.comb += shifted.eq(Cat(s.turned, s.negate).as_signed() >> s.shift)
        s = pipe.step(shifted=shifted, **along(s, "negate", "small", "exponent", "significand", "root_index", "root_t"))
        # The exponent of 2^y, y + 127, has its own carry chain, with the 1 as the carry into it.
        y, biased = Signal(signed(38)), Signal(signed(39))
        m.d.comb += [
            y.eq(s.shifted + s.negate),
            biased.eq((Cat(s.negate, s.shifted).as_signed() + Cat(s.negate, Const(127 << 28, 36))) >> 1),
        ]
        root, whole = sqrt | rsqrt, y[28:].as_signed()
        index = Mux(root, s.root_index, Cat(y[tables.T_BITS : 27], y[27] | s.small, s.small, s.small))
        t = Mux(root, s.root_t, y[: tables.T_BITS])

        # ---- The first interpolator.
        half = Signal(8)
        field = Signal(signed(11))
        m.d.comb += [
            half.eq((s.exponent + 127) >> 1),
            field.eq(
                Mux(
                    s.special,
                    s.field,
                    Mux(exp, biased[28:].as_signed(), Mux(sqrt, half, Mux(rsqrt, 253 - half, whole))),
                )
            ),
        ]
        with m.If(s.small & ~s.special):
            m.d.comb += field.eq(s.exponent)
        first = interpolate(
            m,
            pipe,
            "rom",
            (tables.exp2_table(), tables.sqrt_table(), tables.rsqrt_table(), tables.tanh_table()),
            index=index[: tables.INDEX_BITS + 2],
            t=t[: tables.T_BITS],
            c1_negative=index[8],
            c2_negative=index[7:9] == 1,
            sign=s.sign,
            special=s.special,
            nan=s.nan,
            field=field,
            small=s.small,
            significand=s.significand,
        )
        # 2^x and sqrt(x) lie in [1, 2), 1 / sqrt(x) in (1/2, 1): an error of the last place must not leave that range.
        value, top = first.value, tables.FRACTION_BITS
        kept = Signal(top + 1)
        with m.If(rsqrt):
            m.d.comb += kept.eq(_below_one(value))
        with m.Else():
            m.d.comb += kept.eq(Mux(value[top] | first.side.small, value[: top + 1], 1 << top))
        whole = first.side.field
        distance = Signal(10)
        m.d.comb += distance.eq(Mux(whole[-1], -whole, whole)[:10])
        s = pipe.step(
            value=kept,
            distance=Mux(distance[5:].any(), 31, distance[:5]),
            **along(first.side, "small", "significand"),
        )
        short, first_valid = s, pipe.valid
        assert pipe.depth + 1 == self.latency[FunctionOp.EXP]

        # ---- 1 + 2^y, divided by 2^floor(y) if that is more than 1; y = W + F, the first interpolator gave 2^F.
        pipe.valid = pipe.valid & ~first_alone
        rising, one = ~s.field[-1], Const(1 << top, top + 1)
        s = pipe.step(
            shifted=Mux(rising, one, s.value) >> s.distance,
            other=Mux(rising, s.value, one),
            less=Mux(rising, s.field, 0)[:10],
            factor=s.value[3:],
            **along(s, "small", "significand"),
        )
        total, part = Signal(top + 2), Signal(top - 2)
        m.d.comb += [
            total.eq(s.shifted + s.other),
            part.eq(Mux(total[-1], total[3:], total[2:])),
        ]
        field = Signal(signed(11))
        m.d.comb += field.eq(126 - s.less - total[-1])
        with m.If(tanh):
            m.d.comb += field.eq(126)
        with m.If(s.small | s.special):
            m.d.comb += field.eq(s.field)

        # ---- The second interpolator: 1 / z of z in [1, 2), or the product of small tanh.
        entry = Pipeline(m, Mux(recip, direct_valid, pipe.valid))
        entry.depth = pipe.depth
        s = entry.step(
            index=Mux(recip, direct.significand[16:23], part[tables.T_BITS :])[: tables.INDEX_BITS],
            t=Mux(
                recip,
                Cat(Const(0, 5), direct.significand[:16]),
                Mux(s.small, s.significand, part[: tables.T_BITS]),
            )[:24],
            small=s.small & tanh,
            factor=s.factor,
            sign=Mux(recip, direct.sign, s.sign),
            special=Mux(recip, direct.special, s.special),
            nan=Mux(recip, direct.nan, s.nan),
            field=Mux(recip, Mux(direct.special, direct.field, 253 - direct.exponent), field)[:11].as_signed(),
        )
        second = interpolate(
            m,
            entry,
            "reciprocal_rom",
            (tables.reciprocal_table(),),
            index=s.index,
            t=s.t,
            c1_negative=Const(1, 1),
            c2_negative=Const(0, 1),
            multiply=s.small,
            factor=s.factor,
            **along(s, "small"),
        )
        inverse = _below_one(second.value)
        kept, side = Signal(top + 1), second.side
        with m.If(side.small):
            m.d.comb += kept.eq(Cat(Const(0, 1), Mux(second.product[50], second.product[21:51], second.product[20:50])))
        with m.Elif(tanh):
            # 2 / (1 + 2^y) - 1; the inverse is 3/4 or more.
            m.d.comb += kept.eq(Cat(Const(0, 1), inverse[:top]))
        with m.Else():
            m.d.comb += kept.eq(inverse)
        # Both fields are there when the product's top bit, the last to come, chooses.
        stays = ~side.small | side.special | second.product[50]
        s = entry.step(value=kept, **(along(side) | {"field": Mux(stays, side.field, side.field - 1)[:11].as_signed()}))
        assert entry.depth + 1 == self.latency[FunctionOp.TANH]

        # ---- Rounding.
        last = Pipeline(m, Mux(first_alone, first_valid, entry.valid))
        value, field = Mux(first_alone, short.value, s.value), Signal(signed(11))
        sign, special, nan = (Mux(first_alone, getattr(short, n), getattr(s, n)) for n in ("sign", "special", "nan"))
        m.d.comb += field.eq(Mux(first_alone, short.field, s.field))
        packed = pack_rounded(m, sign, field, value[7:], value[6], value[:6].any())
        fixed = Cat(Const(0, 22), nan, field[:8], sign & ~nan)
        s = last.step(result=Mux(special, fixed, packed))
        m.d.comb += [self.o_valid.eq(last.valid), self.o.eq(s.result)]
        return m

    def _special(self, m: Module, s: SimpleNamespace, is_op: Value) -> dict[str, Value]:
        """What the quadratics do not give: exponent field, whether it is a NaN; and the sign of every result."""
        exp, recip, sqrt, rsqrt, sigmoid, tanh = is_op
        special, nan, field = Signal(), Signal(), Signal(8)
        infinity = 255
        with m.If(s.nan | ((sqrt | rsqrt) & s.sign & ~s.zero)):
            m.d.comb += [special.eq(1), nan.eq(1), field.eq(infinity)]
        with m.Elif(s.zero):
            m.d.comb += special.eq(1)
            with m.If(exp):
                m.d.comb += field.eq(_ONE)
            with m.Elif(recip | rsqrt):
                m.d.comb += field.eq(infinity)
            with m.Elif(sigmoid):
                m.d.comb += field.eq(_ONE - 1)
        with m.Elif(recip):
            # Powers of two are exact; infinity is one.
            m.d.comb += special.eq(s.significand[:23] == 0)
            with m.If(s.exponent < 254):
                m.d.comb += field.eq(254 - s.exponent)
        with m.Elif(sqrt | rsqrt):
            m.d.comb += [special.eq(s.infinite), field.eq(Mux(sqrt, infinity, 0))]
        with m.Elif(tanh):
            m.d.comb += [special.eq(s.exponent >= 133), field.eq(_ONE)]
        with m.Else():
            m.d.comb += [
                special.eq(s.exponent >= 134),
                field.eq(Mux(s.sign, 0, Mux(exp, infinity, _ONE))),
            ]
        return {"special": special, "nan": nan, "field": field, "sign": s.sign & ~exp & ~sigmoid}

    def _root_segment(self, m: Module, s: SimpleNamespace, rsqrt: Value) -> tuple[Signal, Signal]:
        """Segment and t of a root, in the first interpolator's tables: those of sqrt from 128 on, of rsqrt from 256."""
        index, t = Signal(tables.INDEX_BITS + 2), Signal(tables.T_BITS)
        fraction, even = s.significand[:23], ~s.exponent[0]
        fine = rsqrt & ~fraction[22]
        m.d.comb += t.eq(Mux(fine, Cat(Const(0, 5), fraction[:16]), Cat(Const(0, 4), fraction[:17])))
        with m.If(~rsqrt):
            m.d.comb += index.eq(Cat(fraction[17:], even, Const(1, 2)))
        with m.Elif(fine):
            m.d.comb += index.eq(Cat(fraction[16:22], even, Const(2, 2)))
        with m.Else():
            m.d.comb += index.eq(Cat(fraction[17:22], even, Const(6, 3)))
        return index, t


def _below_one(value: Value) -> Value:
    """A quadratic in (1/2, 1] as 31 bits of a number in [1, 2): 1 becomes the next number below."""
    top = tables.FRACTION_BITS
    return Cat(Const(0, 1), Mux(value[top], (1 << top) - 1, value[:top])[:top])
