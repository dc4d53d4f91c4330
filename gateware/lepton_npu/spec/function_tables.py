"""Tables of the vector unit's functions: piecewise quadratics, the same integers for gateware and model.

Each function is cut into `SEGMENTS` equal segments. On segment i, with t in [0, 1):

    f = (c0[i] + (c1[i] + c2[i] * t) * t) / 2**FRACTION_BITS

The quadratic meets the function at both ends and in the middle of a segment, and c0 + c1 + c2 of one segment is exactly
c0 of the next, so that a monotone function stays monotone after rounding. The coefficients come from 50-digit decimal
arithmetic, whose result does not depend on the machine.
"""

import decimal
import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

__all__ = [
    "C1_BITS", "C2_BITS", "FRACTION_BITS", "INDEX_BITS", "LOG2E", "LOG2E_FRACTION_BITS", "SEGMENTS", "T_BITS", "Table",
    "exp2_table", "reciprocal_table",
]  # fmt: skip

INDEX_BITS = 7
SEGMENTS = 1 << INDEX_BITS
FRACTION_BITS = 30
"""Bits behind the binary point of the coefficients."""
T_BITS = 21
"""Bits of t."""
C1_BITS = 25
"""Bits of c1, signed."""
C2_BITS = 17
"""Bits of c2, unsigned."""
LOG2E_FRACTION_BITS = 33

_CONTEXT = decimal.Context(prec=50)
LOG2E = int((Decimal(1 << LOG2E_FRACTION_BITS) / _CONTEXT.ln(Decimal(2))).to_integral_value(decimal.ROUND_HALF_EVEN))
"""log2(e) with `LOG2E_FRACTION_BITS` bits behind the point."""


@dataclass(frozen=True)
class Table:
    """Coefficients of one function, `SEGMENTS` each."""

    c0: tuple[int, ...]
    c1: tuple[int, ...]
    c2: tuple[int, ...]


def _table(function: Callable[[Decimal], Decimal]) -> Table:
    def fixed(position: Decimal) -> int:
        scaled = _CONTEXT.multiply(function(_CONTEXT.divide(position, Decimal(SEGMENTS))), Decimal(1 << FRACTION_BITS))
        return int(scaled.to_integral_value(decimal.ROUND_HALF_EVEN))

    ends = [fixed(Decimal(i)) for i in range(SEGMENTS + 1)]
    middles = [fixed(Decimal(i) + Decimal("0.5")) for i in range(SEGMENTS)]
    c2 = [2 * (ends[i] + ends[i + 1]) - 4 * middles[i] for i in range(SEGMENTS)]
    c1 = [ends[i + 1] - ends[i] - c2[i] for i in range(SEGMENTS)]
    if min(c2) < 0 or max(c2) >> C2_BITS or max(map(abs, c1)) >> (C1_BITS - 1):
        raise AssertionError("a coefficient does not fit its field")
    return Table(tuple(ends[:-1]), tuple(c1), tuple(c2))


@functools.cache
def exp2_table() -> Table:
    """2^x for x in [0, 1)."""
    return _table(lambda x: _CONTEXT.power(Decimal(2), x))


@functools.cache
def reciprocal_table() -> Table:
    """1 / (1 + x) for x in [0, 1)."""
    return _table(lambda x: _CONTEXT.divide(Decimal(1), _CONTEXT.add(Decimal(1), x)))
