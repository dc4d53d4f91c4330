"""Tables of the vector unit's functions: piecewise quadratics, the same integers for gateware and model.

Each function is cut into segments. On segment i, with t in [0, 1):

    f = (c0[i] + (c1[i] + c2[i] * t) * t) / 2**FRACTION_BITS

The quadratic meets the function at both ends and in the middle of a segment, and c0 + c1 + c2 of one segment is exactly
c0 of the next, so that a monotone function stays monotone after rounding. All c1 of a table have one sign, and all c2:
a memory need not hold these signs. The coefficients come from 50-digit decimal arithmetic, whose result does not depend
on the machine.
"""

import decimal
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

__all__ = [
    "C1_BITS", "C2_BITS", "FRACTION_BITS", "INDEX_BITS", "LOG2E", "LOG2E_FRACTION_BITS", "SEGMENTS", "T_BITS", "Table",
    "exp2_table", "reciprocal_table", "rsqrt_table", "sqrt_table", "tanh_table",
]  # fmt: skip

INDEX_BITS = 7
SEGMENTS = 1 << INDEX_BITS
"""Segments of `exp2_table`, `reciprocal_table` and `sqrt_table`."""
FRACTION_BITS = 30
"""Bits behind the binary point of the coefficients."""
T_BITS = 21
"""Bits of t."""
C1_BITS = 24
"""Bits of c1 without its sign: from 0 to 2^24 - 1, or from -2^24 to -1."""
C2_BITS = 16
"""Bits of c2 without its sign."""
LOG2E_FRACTION_BITS = 33

_CONTEXT = decimal.Context(prec=50)
LOG2E = int((Decimal(1 << LOG2E_FRACTION_BITS) / _CONTEXT.ln(Decimal(2))).to_integral_value(decimal.ROUND_HALF_EVEN))
"""log2(e) with `LOG2E_FRACTION_BITS` bits behind the point."""


@dataclass(frozen=True)
class Table:
    """Coefficients of one function, one of each a segment; whether c1 and c2 are negative."""

    c0: tuple[int, ...]
    c1: tuple[int, ...]
    c2: tuple[int, ...]

    @property
    def c1_negative(self) -> bool:
        return self.c1[0] < 0

    @property
    def c2_negative(self) -> bool:
        return self.c2[0] < 0

    def __add__(self, other: "Table") -> "Table":
        """Segments of ``self``, then those of ``other``."""
        return Table(self.c0 + other.c0, self.c1 + other.c1, self.c2 + other.c2)


def _table(function: Callable[[Decimal], Decimal], start: Decimal, end: Decimal, segments: int) -> Table:
    """``segments`` equal segments of ``start`` to ``end``."""

    def fixed(position: Decimal) -> int:
        part = _CONTEXT.divide(position, Decimal(segments))
        x = _CONTEXT.add(start, _CONTEXT.multiply(_CONTEXT.subtract(end, start), part))
        scaled = _CONTEXT.multiply(function(x), Decimal(1 << FRACTION_BITS))
        return int(scaled.to_integral_value(decimal.ROUND_HALF_EVEN))

    ends = [fixed(Decimal(i)) for i in range(segments + 1)]
    middles = [fixed(Decimal(i) + Decimal("0.5")) for i in range(segments)]
    c2 = [2 * (ends[i] + ends[i + 1]) - 4 * middles[i] for i in range(segments)]
    c1 = [ends[i + 1] - ends[i] - c2[i] for i in range(segments)]
    _check("c1", c1, C1_BITS)
    _check("c2", c2, C2_BITS)
    return Table(tuple(ends[:-1]), tuple(c1), tuple(c2))


def _check(name: str, values: Sequence[int], bits: int) -> None:
    """A field, and one sign for all, must hold ``values``."""
    if {value >> bits for value in values} not in ({0}, {-1}):
        raise AssertionError(f"{name} must fit {bits} bits and one sign; it is from {min(values)} to {max(values)}")


@functools.cache
def exp2_table() -> Table:
    """2^x for x in [0, 1)."""
    return _table(lambda x: _CONTEXT.power(Decimal(2), x), Decimal(0), Decimal(1), SEGMENTS)


@functools.cache
def reciprocal_table() -> Table:
    """1 / x for x in [1, 2)."""
    return _table(lambda x: _CONTEXT.divide(Decimal(1), x), Decimal(1), Decimal(2), SEGMENTS)


@functools.cache
def sqrt_table() -> Table:
    """sqrt(x): 64 segments of [1, 2), then 64 of [2, 4)."""
    half = SEGMENTS // 2
    return _table(_CONTEXT.sqrt, Decimal(1), Decimal(2), half) + _table(_CONTEXT.sqrt, Decimal(2), Decimal(4), half)


@functools.cache
def rsqrt_table() -> Table:
    """1 / sqrt(x), finer where it bends more: 64 segments of [1, 1.5), 64 of [2, 3), 32 of [1.5, 2), 32 of [3, 4)."""

    def rsqrt(x: Decimal) -> Decimal:
        return _CONTEXT.divide(Decimal(1), _CONTEXT.sqrt(x))

    table = Table((), (), ())
    for start, end, segments in (("1", "1.5", 64), ("2", "3", 64), ("1.5", "2", 32), ("3", "4", 32)):
        table += _table(rsqrt, Decimal(start), Decimal(end), segments)
    return table


@functools.cache
def tanh_table() -> Table:
    """tanh(sqrt(u)) / sqrt(u) for u in [0, 1/2), in 64 segments."""

    def ratio(u: Decimal) -> Decimal:
        if u == 0:
            return Decimal(1)
        x = _CONTEXT.sqrt(u)
        e = _CONTEXT.exp(_CONTEXT.multiply(Decimal(-2), x))
        return _CONTEXT.divide(_CONTEXT.divide(_CONTEXT.subtract(Decimal(1), e), _CONTEXT.add(Decimal(1), e)), x)

    return _table(ratio, Decimal(0), Decimal("0.5"), SEGMENTS // 2)
