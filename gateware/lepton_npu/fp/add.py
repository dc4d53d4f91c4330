"""binary32 addition."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .format import CANONICAL_NAN, Pipeline, Unpacked, infinity, normalise, pack_rounded

__all__ = ["Fp32Add"]


class Fp32Add(wiring.Component):
    """a + b, or a - b: IEEE 754-2019, 5.4.1, with subnormals flushed.

    One result a cycle, `latency` cycles after its operands.

    Members
    -------
    i_valid : In(1), a, b : In(32), sub : In(1)
        Operands; ``sub`` flips the sign of b.
    o_valid : Out(1), o : Out(32)
    """

    latency = 5

    i_valid: In(1)
    a: In(32)
    b: In(32)
    sub: In(1)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)

        a, b = Unpacked(self.a), Unpacked(self.b)
        b_sign = b.sign ^ self.sub
        swap = Signal()
        down, up = Signal(9), Signal(9)
        m.d.comb += [
            # Without flushing: the order of two numbers that both count as zero makes no difference. ``<`` is the carry
            # of a subtraction; Yosys makes ``>`` of that and of a test for zero.
            swap.eq(self.a[:31] < self.b[:31]),
            down.eq(a.exponent - b.exponent),
            up.eq(b.exponent - a.exponent),
        ]
        s = pipe.step(
            big=Mux(swap, b.significand, a.significand),
            small=Mux(swap, a.significand, b.significand),
            exponent=Mux(swap, b.exponent, a.exponent),
            distance=Mux(swap, up, down)[:8],
            sign=Mux(swap, b_sign, a.sign),
            differ=a.sign ^ b_sign,
            zero_sign=a.sign & b_sign,
            nan=a.nan | b.nan | (a.infinite & b.infinite & (a.sign ^ b_sign)),
            infinite=a.infinite | b.infinite,
        )

        # Align; what falls below two guard bits is kept as one sticky bit, found beside the shift and not behind it.
        # From a distance of 26 on that is all there is.
        aligned, distance = Signal(26), s.distance[:5]
        below = ~(Const(-1, 26) << distance)[2:26]
        sticky = (s.small & below).any()
        m.d.comb += aligned.eq(Cat(Const(0, 2), s.small) >> distance)
        s = pipe.step(
            big=s.big,
            small=Mux(s.distance[5:].any(), s.small[-1], Cat(sticky, aligned))[:27],
            exponent=s.exponent,
            sign=s.sign,
            differ=s.differ,
            zero_sign=s.zero_sign,
            nan=s.nan,
            infinite=s.infinite,
        )

        # The larger magnitude comes first, so the difference is not negative.
        total = Signal(28)
        m.d.comb += total.eq(Cat(Const(0, 3), s.big) + (s.small ^ s.differ.replicate(27)) + s.differ)
        s = pipe.step(
            total=Cat(total[:27], total[27] & ~s.differ),
            exponent=s.exponent + 1,
            sign=s.sign,
            zero_sign=s.zero_sign,
            nan=s.nan,
            infinite=s.infinite,
        )

        coarse, count = normalise(m, s.total, (16, 8, 4), "coarse")
        s = pipe.step(
            total=coarse,
            exponent=(s.exponent - count).as_signed(),
            sign=s.sign,
            zero_sign=s.zero_sign,
            nan=s.nan,
            infinite=s.infinite,
        )

        # The exponent less a count of 0 to 3 that comes late: the carry chain, of all bits but two, does not wait for
        # it. ``large`` holds up to 255, which is the most: infinities and NaNs are treated below.
        fine, count = normalise(m, s.total, (2, 1), "fine")
        low, upper, negative = s.exponent[:2], s.exponent[2:], s.exponent[-1]
        borrow, less = Signal(), Signal(2)
        exponent, small, large = Signal(10), Signal(), Signal()
        m.d.comb += [
            less.eq(Cat(low[0] ^ count[0], low[1] ^ count[1] ^ (~low[0] & count[0]))),
            borrow.eq((~low[1] & count[1]) | (~(low[1] ^ count[1]) & ~low[0] & count[0])),
            exponent.eq(Cat(less, Mux(borrow, upper - 1, upper)[:8])),
            small.eq(negative | (~upper.any() & (borrow | (less == 0))) | ((upper == 1) & borrow & (less == 0))),
            large.eq(~negative & s.exponent[:8].all() & (count == 0)),
        ]
        packed = pack_rounded(m, s.sign, exponent, fine[4:28], fine[3], fine[:3].any(), small=small, large=large)
        result = Signal(32)
        with m.If(s.nan):
            m.d.comb += result.eq(CANONICAL_NAN)
        with m.Elif(s.infinite):
            m.d.comb += result.eq(infinity(s.sign))
        with m.Elif(s.total == 0):
            m.d.comb += result.eq(Cat(Const(0, 31), s.zero_sign))
        with m.Else():
            m.d.comb += result.eq(packed)
        s = pipe.step(result=result)

        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m
