"""binary32 comparison, minimum, maximum and selection."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from .format import CANONICAL_NAN, Pipeline, Unpacked

__all__ = ["CompareOp", "Fp32Compare"]

ONE = 0x3F800000


class CompareOp(enum.Enum, shape=3):
    """What `Fp32Compare` gives."""

    MIN = 0
    MAX = 1
    LT = 2
    LE = 3
    EQ = 4
    SELECT = 5


class Fp32Compare(wiring.Component):
    """Comparisons of a and b, subnormals read as zero; one result a cycle.

    MIN and MAX are minimumNumber and maximumNumber (IEEE 754-2019, 9.6): a NaN loses to a number, -0 is below +0.
    LT, LE, EQ give 1.0 or 0.0, 0.0 with a NaN. SELECT gives b where a is not zero (a NaN is not), else c, flushed.

    Members
    -------
    i_valid : In(1), op : In(CompareOp), a, b, c : In(32)
    o_valid : Out(1), o : Out(32)
    """

    latency = 2

    i_valid: In(1)
    op: In(CompareOp)
    a: In(32)
    b: In(32)
    c: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)

        def flushed(u: Unpacked):
            return Cat(u.fraction, u.exponent, u.sign)

        a, b, c = Unpacked(self.a), Unpacked(self.b), Unpacked(self.c)
        s = pipe.step(
            a=flushed(a),
            b=flushed(b),
            c=flushed(c),
            # Of the magnitudes as they came: flushing makes a difference only where both are zero.
            below=self.a[:31] < self.b[:31],
            same=self.a[:31] == self.b[:31],
            nan_a=a.nan,
            nan_b=b.nan,
            nan_c=c.nan,
            zeros=a.zero & b.zero,
            zero_a=a.zero,
            op=self.op.as_value(),
        )
        sign_a, sign_b = s.a[31], s.b[31]
        # Order with -0 below +0, as minimum and maximum need it.
        before, equal, nan = Signal(), Signal(), Signal()
        m.d.comb += [
            equal.eq((s.same | s.zeros) & (sign_a == sign_b)),
            before.eq(Mux(sign_a != sign_b, sign_a, ~s.zeros & Mux(sign_a, ~s.below & ~s.same, s.below))),
            nan.eq(s.nan_a | s.nan_b),
        ]
        take_a, truth, result = Signal(), Signal(), Signal(32)
        with m.Switch(s.op):
            with m.Case(CompareOp.MIN.value, CompareOp.MAX.value):
                m.d.comb += take_a.eq(~s.nan_a & (s.nan_b | equal | (before ^ (s.op == CompareOp.MAX.value))))
                with m.If(s.nan_a & s.nan_b):
                    m.d.comb += result.eq(CANONICAL_NAN)
                with m.Else():
                    m.d.comb += result.eq(Mux(take_a, s.a, s.b))
            with m.Case(CompareOp.SELECT.value):
                with m.If(Mux(s.zero_a, s.nan_c, s.nan_b)):
                    m.d.comb += result.eq(CANONICAL_NAN)
                with m.Else():
                    m.d.comb += result.eq(Mux(s.zero_a, s.c, s.b))
            with m.Default():
                with m.If(s.op == CompareOp.LT.value):
                    m.d.comb += truth.eq(before & ~s.zeros)
                with m.Elif(s.op == CompareOp.LE.value):
                    m.d.comb += truth.eq(before | equal | s.zeros)
                with m.Else():
                    m.d.comb += truth.eq(equal | s.zeros)
                m.d.comb += result.eq(Mux(truth & ~nan, Const(ONE, 32), Const(0, 32)))
        s = pipe.step(result=result)
        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m
