"""Conversions between binary32, integers, and the packed element formats."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import Format

from .format import CANONICAL_NAN, Pipeline, Unpacked, infinity, normalise, pack_rounded

__all__ = ["ElementToFp32", "Fp32ToElement", "ScaledIntToFp32"]


def _steps(width: int) -> tuple[int, ...]:
    """Shifts that normalise any non-zero value of ``width`` bits."""
    step = 1
    steps: list[int] = []
    while step < width:
        steps.insert(0, step)
        step *= 2
    return tuple(steps)


class ScaledIntToFp32(wiring.Component):
    """A signed integer times a power of two, as binary32, exactly; one result a cycle.

    Overflow gives infinity and a result below 2^-126 zero, both of the integer's sign; the integer 0 gives +0.

    Parameters
    ----------
    width : int
        Bits of the integer, 2 to 25 (so that it is exact).
    scale_bits : int
        Bits of the signed exponent.

    Members
    -------
    i_valid : In(1), value : In(signed(width)), scale : In(signed(scale_bits)), nan : In(1)
        ``nan`` makes the result NaN.
    o_valid : Out(1), o : Out(32)
    """

    latency = 3

    def __init__(self, width: int, scale_bits: int = 12):
        if not 2 <= width <= 25:
            raise ValueError(f"width must be from 2 to 25, not {width}")
        if not 2 <= scale_bits <= 16:
            raise ValueError(f"scale_bits must be from 2 to 16, not {scale_bits}")
        self.width, self.scale_bits = width, scale_bits
        super().__init__(
            {
                "i_valid": In(1),
                "value": In(signed(width)),
                "scale": In(signed(scale_bits)),
                "nan": In(1),
                "o_valid": Out(1),
                "o": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)
        bits = max(self.width, 2)
        # The first step of normalisation is the slowest, and the first stage has time for it.
        first, *others = _steps(bits)
        magnitude = Signal(bits)
        m.d.comb += magnitude.eq(abs(self.value))
        coarse, coarse_count = normalise(m, magnitude, (first,), "coarse")
        s = pipe.step(magnitude=coarse, count=coarse_count, sign=self.value < 0, scale=self.scale, nan=self.nan)
        shifted, count = normalise(m, s.magnitude, tuple(others), "fine") if others else (s.magnitude, 0)
        exponent = Signal(signed(self.scale_bits + 2))
        m.d.comb += exponent.eq(s.scale + (127 + bits - 1) - (s.count | count))
        s = pipe.step(magnitude=shifted, exponent=exponent, sign=s.sign, nan=s.nan)
        # A magnitude of 25 bits is 2^24, whose lower bits are zero: the top 24 hold any value.
        fraction = Cat(Const(0, 23), s.magnitude)[bits - 1 : bits + 22]
        result = Signal(32)
        with m.If(s.nan):
            m.d.comb += result.eq(CANONICAL_NAN)
        with m.Elif(~s.magnitude[-1]):
            m.d.comb += result.eq(0)
        with m.Elif(s.exponent < 1):
            m.d.comb += result.eq(Cat(Const(0, 31), s.sign))
        with m.Elif(s.exponent >= 255):
            m.d.comb += result.eq(infinity(s.sign))
        with m.Else():
            m.d.comb += result.eq(Cat(fraction, s.exponent[:8], s.sign))
        s = pipe.step(result=result)
        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m


class ElementToFp32(wiring.Component):
    """An element of a `Format` as binary32; one result a cycle.

    F32 passes unchanged (NaN payloads and subnormals included), BF16 is extended, U8 and I8 are exact, I32 is rounded
    half to even.

    Members
    -------
    i_valid : In(1), format : In(3), i : In(32)
        The element in the low bits; the bits above are ignored.
    o_valid : Out(1), o : Out(32)
    """

    latency = 3

    i_valid: In(1)
    format: In(3)
    i: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)
        integer = Signal(signed(32))
        plain = Signal()
        word = Signal(32)
        m.d.comb += word.eq(self.i)
        with m.Switch(self.format):
            with m.Case(Format.U8):
                m.d.comb += integer.eq(self.i[:8])
            with m.Case(Format.I8):
                m.d.comb += integer.eq(self.i[:8].as_signed())
            with m.Case(Format.I32):
                m.d.comb += integer.eq(self.i.as_signed())
            with m.Case(Format.BF16):
                m.d.comb += [plain.eq(1), word.eq(Cat(Const(0, 16), self.i[:16]))]
            with m.Default():
                m.d.comb += plain.eq(1)
        # The first step of normalisation looks at the integer, beside the carry chain of its magnitude: the upper half
        # of -x is zero if that of x is all ones and its lower half is not zero.
        magnitude = Signal(32)
        negative, short = Signal(), Signal()
        m.d.comb += [
            magnitude.eq(abs(integer)),
            negative.eq(integer < 0),
            short.eq(Mux(negative, integer[16:].all() & integer[:16].any(), ~integer[16:].any())),
        ]
        coarse = Mux(short, magnitude << 16, magnitude)[:32]
        s = pipe.step(word=Mux(plain, word, coarse), short=short, sign=negative, plain=plain)
        shifted, count = normalise(m, s.word, (8, 4), "lead")
        s = pipe.step(
            word=Mux(s.plain, s.word, shifted),
            count=Cat(count[2:4], s.short),
            sign=s.sign,
            plain=s.plain,
        )
        # The last steps before rounding. 127 + 31 - n without a carry chain behind the count: 128 + ~(n + 1), or 127
        # for n = 31.
        shifted, count = normalise(m, s.word, (2, 1), "last")
        n = Cat(count, s.count)
        exponent = Cat(*(~(n[i] ^ n[:i].all()) for i in range(5)), n.all().replicate(2), ~n.all())
        never = Const(0)  # an integer's exponent is neither too small nor too large
        packed = pack_rounded(m, s.sign, exponent, shifted[8:], shifted[7], shifted[:7].any(), small=never, large=never)
        s = pipe.step(result=Mux(s.plain, s.word, Mux(shifted[31], packed, 0))[:32])
        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m


class Fp32ToElement(wiring.Component):
    """binary32 as an element of a `Format`, rounded half to even; one result a cycle.

    F32 passes unchanged. BF16: subnormals flushed, NaN canonical (0x7FC0). Integers saturate; a NaN gives 0.

    Members
    -------
    i_valid : In(1), format : In(3), i : In(32)
    o_valid : Out(1), o : Out(32)
        The element in the low bits, zeros above (I32: all bits).
    """

    latency = 3

    i_valid: In(1)
    format: In(3)
    i: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.i_valid)
        u = Unpacked(self.i)
        # A number of exponent 150 is its significand; above by up to 8 shift left, below by up to 25 right.
        left, right = Signal(signed(10)), Signal(signed(10))
        m.d.comb += [left.eq(u.exponent - 150), right.eq(150 - u.exponent)]
        s = pipe.step(
            word=self.i,
            significand=u.significand,
            left=Mux(left >= 9, 8, left[:4])[:4],
            right=Mux(right >= 26, 25, right[:5])[:5],
            is_left=left >= 0,
            huge=left >= 9,
            sign=u.sign,
            nan=u.nan,
            format=self.format,
        )
        below = Signal(24 + 25)
        m.d.comb += below.eq(Cat(Const(0, 25), s.significand) >> s.right)
        whole, half, sticky = Signal(33), Signal(), Signal()
        with m.If(s.is_left):
            m.d.comb += whole.eq((s.significand << s.left)[:33])
        with m.Else():
            m.d.comb += [whole.eq(below[25:]), half.eq(below[24]), sticky.eq(below[:24].any())]
        s = pipe.step(
            word=s.word, whole=whole, half=half, sticky=sticky, huge=s.huge, sign=s.sign, nan=s.nan, format=s.format
        )

        # One carry chain: the number of a negative magnitude m + up, with up 0 or 1, is ~m + (1 - up).
        up, rounded = Signal(), Signal(32)
        m.d.comb += [
            up.eq(s.half & (s.sticky | s.whole[0])),
            rounded.eq((s.whole[:32] ^ s.sign.replicate(32)) + (up ^ s.sign)),
        ]
        result = Signal(32)
        word = Unpacked(s.word)
        with m.Switch(s.format):
            with m.Case(Format.F32):
                m.d.comb += result.eq(s.word)
            with m.Case(Format.BF16):
                short = Signal(17)
                m.d.comb += short.eq(s.word[16:] + (s.word[15] & (s.word[:15].any() | s.word[16])))
                with m.If(word.nan):
                    m.d.comb += result.eq(CANONICAL_NAN >> 16)
                with m.Elif(word.zero):
                    m.d.comb += result.eq(Cat(Const(0, 15), word.sign))
                with m.Else():
                    m.d.comb += result.eq(short[:16])
            with m.Case(Format.U8):
                with m.If(s.nan | s.sign):
                    m.d.comb += result.eq(0)
                with m.Elif(s.huge | self._at_least(s.whole, up, 8)):
                    m.d.comb += result.eq(255)
                with m.Else():
                    m.d.comb += result.eq(rounded[:8])
            with m.Case(Format.I8):
                self._signed(m, result, s, up, rounded, 8)
            with m.Default():
                self._signed(m, result, s, up, rounded, 32)
        s = pipe.step(result=result)
        assert pipe.depth == self.latency
        m.d.comb += [self.o_valid.eq(pipe.valid), self.o.eq(s.result)]
        return m

    @staticmethod
    def _at_least(whole: Value, up: Value, bits: int) -> Value:
        """Whether ``whole + up`` is ``2**bits`` or more; the sum is not waited for."""
        return whole[bits:].any() | (whole[:bits].all() & up)

    @classmethod
    def _signed(cls, m, result, s, up, rounded, width: int):
        limit = 1 << (width - 1)
        with m.If(s.nan):
            m.d.comb += result.eq(0)
        # -limit could be represented, and is what a negative number saturates to.
        with m.Elif(s.huge | cls._at_least(s.whole, up, width - 1)):
            m.d.comb += result.eq(Mux(s.sign, Const(limit, unsigned(32)), Const(limit - 1, unsigned(32))))
        with m.Else():
            m.d.comb += result[:width].eq(rounded[:width])
