"""binary32 multiplication, and the chained multiply-add."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .add import Fp32Add
from .format import CANONICAL_NAN, Pipeline, Unpacked, infinity, pack_rounded

__all__ = ["Fp32Mul", "Fp32MulAdd"]

_LOW = 17  # bits of the lower part of a significand: an unsigned operand of a signed 18-bit DSP multiplier


class Fp32Mul(wiring.Component):
    """a * b: IEEE 754-2019, 5.4.1, with subnormals flushed and tininess found before rounding.

    One result a cycle, `latency` cycles after its operands. The product is made of four partial products that fit
    18-bit multipliers.

    Members
    -------
    i_valid : In(1), a, b : In(32)
    o_valid : Out(1), o : Out(32)
    """

    latency = 5

    i_valid: In(1)
    a: In(32)
    b: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)

        # A step of its own: operands come from far, and multipliers have their places on the device.
        s = pipe.step(a=self.a, b=self.b)
        a, b = Unpacked(s.a), Unpacked(s.b)
        exponent = Signal(signed(10))
        m.d.comb += exponent.eq(a.exponent + b.exponent - 127)
        s = pipe.step(
            a=a.significand,
            b=b.significand,
            exponent=exponent,
            sign=a.sign ^ b.sign,
            nan=a.nan | b.nan | (a.infinite & b.zero) | (a.zero & b.infinite),
            infinite=a.infinite | b.infinite,
            zero=a.zero | b.zero,
        )
        s = pipe.step(
            low=s.a[:_LOW] * s.b[:_LOW],
            cross0=s.a[_LOW:] * s.b[:_LOW],
            cross1=s.a[:_LOW] * s.b[_LOW:],
            high=s.a[_LOW:] * s.b[_LOW:],
            exponent=s.exponent,
            sign=s.sign,
            nan=s.nan,
            infinite=s.infinite,
            zero=s.zero,
        )
        product = Signal(48)
        m.d.comb += product.eq(Cat(s.low, s.high) + ((s.cross0 + s.cross1) << _LOW))
        s = pipe.step(
            product=product[_LOW:],
            rest=s.low[:_LOW].any(),  # the product's low bits
            exponent=s.exponent,
            sign=s.sign,
            nan=s.nan,
            infinite=s.infinite,
            zero=s.zero,
        )

        product = Cat(Const(0, _LOW), s.product)
        top = product[47]
        exponent = Signal(signed(10))
        m.d.comb += exponent.eq(s.exponent + top)
        significand, half = Mux(top, product[24:], product[23:47])[:24], Mux(top, product[23], product[22])
        sticky = s.rest | product[_LOW:22].any() | (top & product[22])
        packed = pack_rounded(m, s.sign, exponent, significand, half, sticky)
        result = Signal(32)
        with m.If(s.nan):
            m.d.comb += result.eq(CANONICAL_NAN)
        with m.Elif(s.infinite):
            m.d.comb += result.eq(infinity(s.sign))
        with m.Elif(s.zero):
            m.d.comb += result.eq(Cat(Const(0, 31), s.sign))
        with m.Else():
            m.d.comb += result.eq(packed)
        s = pipe.step(result=result)

        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m


class Fp32MulAdd(wiring.Component):
    """a * b + c in two roundings: `Fp32Mul` followed by `Fp32Add`.

    Chained, not fused, on purpose: it costs no wide alignment, and the bit-exact model is plain NumPy.

    Members
    -------
    i_valid : In(1), a, b, c : In(32)
    o_valid : Out(1), o : Out(32)
    """

    latency = Fp32Mul.latency + Fp32Add.latency

    i_valid: In(1)
    a: In(32)
    b: In(32)
    c: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.mul = mul = Fp32Mul()
        m.submodules.add = add = Fp32Add()
        delay = Pipeline(m, self.i_valid)
        c = self.c
        for _ in range(mul.latency):
            c = delay.step(c=c).c
        m.d.comb += [
            mul.i_valid.eq(self.i_valid),
            mul.a.eq(self.a),
            mul.b.eq(self.b),
            add.i_valid.eq(mul.o_valid),
            add.a.eq(mul.o),
            add.b.eq(c),
            self.o_valid.eq(add.o_valid),
            self.o.eq(add.o),
        ]
        return m
