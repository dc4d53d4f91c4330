"""binary32 fields, and the register stages that all units of this folder are made of."""

from types import SimpleNamespace

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

__all__ = ["CANONICAL_NAN", "Pipeline", "Unpacked", "carry_save", "infinity", "normalise", "pack_rounded"]

CANONICAL_NAN = 0x7FC00000
"""The one NaN that the units give."""


class Pipeline:
    """Register stages that load only when they hold something.

    Each `step` registers the named values under the valid bit of the stage before, and moves that bit on.
    """

    def __init__(self, m: Module, valid: Value):
        self._m = m
        self.valid = valid
        self.depth = 0

    def step(self, **values: Value) -> SimpleNamespace:
        """Registers of the next stage, under the names and with the shapes of ``values``."""
        self.depth += 1
        registers = {}
        with self._m.If(self.valid):
            for name, value in values.items():
                value = Value.cast(value)
                register = Signal(value.shape(), name=f"{name}{self.depth}", reset_less=True)
                self._m.d.sync += register.eq(value)
                registers[name] = register
        valid = Signal(name=f"valid{self.depth}")
        self._m.d.sync += valid.eq(self.valid)
        self.valid = valid
        return SimpleNamespace(**registers)


class Unpacked:
    """The fields of a binary32 word, subnormals read as zero.

    Attributes
    ----------
    sign, exponent, fraction : Value
        1, 8 and 23 bits; the fraction of a subnormal is 0.
    significand : Value
        24 bits with the hidden one; 0 for zero.
    zero, infinite, nan : Value
    """

    def __init__(self, word: Value):
        self.sign = word[31]
        self.exponent = word[23:31]
        self.zero = self.exponent == 0
        self.fraction = Mux(self.zero, 0, word[:23])[:23]
        self.significand = Cat(self.fraction, ~self.zero)
        self.infinite = (self.exponent == 0xFF) & (word[:23] == 0)
        self.nan = (self.exponent == 0xFF) & (word[:23] != 0)


def infinity(sign: Value) -> Value:
    """The infinity with that sign bit."""
    return Cat(Value.cast(0x7F800000)[:31], sign)


def carry_save(a: Value, b: Value, c: Value, *, width: int) -> tuple[Value, Value]:
    """Two numbers whose sum is ``a + b + c`` modulo 2^width, a LUT a bit later: each sign-extended, no carry moves."""
    a, b, c = (_extended(value, width) for value in (a, b, c))
    return a ^ b ^ c, (((a & b) | (a & c) | (b & c)) << 1)[:width]


def _extended(value: Value, width: int) -> Value:
    top = value[-1] if value.shape().signed else Const(0, 1)
    return Cat(value, top.replicate(max(0, width - len(value))))[:width]


def normalise(m: Module, value: Value, steps: tuple[int, ...], name: str) -> tuple[Value, Value]:
    """Shift ``value`` left by each of ``steps`` (descending powers of two) whose top bits are all zero.

    Returns
    -------
    (shifted, count)
        The shifted value, as wide as before, and how far it was shifted.
    """
    # For each step, which windows of so many bits are zero, the top one first, is shifted along: no decision waits for
    # the wide shift before it, nor for more than a multiplexer.
    width, count = len(value), []
    zero: dict[int, Value] = {}
    for number, step in enumerate(steps):
        tops = [width - i * step for i in range(sum(steps[:number]) // step + 1)]
        zero[step] = Cat(value[top - step : top] == 0 for top in tops)
    for step in steps:
        empty = Signal(name=f"{name}_empty{step}")
        shifted = Signal(width, name=f"{name}_shift{step}")
        m.d.comb += [empty.eq(zero.pop(step)[0]), shifted.eq(Mux(empty, (value << step)[:width], value))]
        for smaller, windows in zero.items():
            left = Signal(len(windows) - step // smaller, name=f"{name}_zero{smaller}_behind{step}")
            m.d.comb += left.eq(Mux(empty, windows[step // smaller :], windows))
            zero[smaller] = left
        value = shifted
        count.append(empty)
    total = Signal(range(sum(steps) + 1), name=f"{name}_count")
    shifts = Cat(*reversed(count))
    m.d.comb += total.eq(shifts << (steps[-1].bit_length() - 1))
    return value, total


def pack_rounded(
    m: Module,
    sign: Value,
    exponent: Value,
    significand: Value,
    half: Value,
    sticky: Value,
    *,
    small: Value | None = None,
    large: Value | None = None,
) -> Value:
    """Round half to even and pack; overflow gives infinity, an exponent below 1 before rounding a zero.

    Parameters
    ----------
    exponent : Value
        Biased, signed, of the unrounded significand.
    significand : Value
        24 bits, the top one set.
    half, sticky : Value
        The bit below the significand, and whether any bit below that is set.
    small, large : Value, optional
        Whether the exponent is less than 1, or at least 255, from a caller that knows sooner.
    """
    up = Signal(name="round_up")
    result = Signal(32, name="packed")
    m.d.comb += [
        up.eq(half & (sticky | significand[0])),
        # A carry out of the fraction leaves it zero and goes into the exponent, up to infinity.
        result.eq(Cat((Cat(significand[:23], exponent[:8]) + up)[:31], sign)),
    ]
    with m.If(exponent < 1 if small is None else small):
        m.d.comb += result.eq(Cat(Value.cast(0)[:1].replicate(31), sign))
    with m.Elif(exponent >= 255 if large is None else large):
        m.d.comb += result.eq(infinity(sign))
    return result
