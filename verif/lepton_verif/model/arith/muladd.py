"""MULADD prepared for what is known of its operands before it runs (docs/numerics.md, section 2).

To find out whether there are subnormals takes longer than to multiply and add. What an immediate is often settles it:

- A subnormal times b with |b| <= 1, and its square, is a tiny product, which `fp32.product` finds anyway.
- A product with 1 or -1 is the operand, and cannot be tiny if that has been flushed.
- A zero c changes no number.
- If every c that is not 0 is 2^-102 or more, no sum is tiny: it is the product, or 0, or at least the distance of
  numbers just below 2^-102, which is 2^-126.
- If |c| >= 2^-100, nothing up to 2^-126 changes the sum: it is less than half the distance of c to its neighbours. And
  no sum is tiny: it is 0, or at least the distance of numbers near c, 2^-124.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .fp32 import LEAST_WORD, flush, product, smallest, unify_nans

__all__ = ["Ternary", "prepare_muladd"]

Operand = NDArray[np.float32]
Ternary = Callable[[Operand, Operand, Operand], Operand]
"""A function of operands a, b, c, which broadcast; what it gives is a new array."""

_LARGE = np.float32(2.0**-100)
_NOT_SMALL_WORD = (127 - 102) << 23  # 2^-102


def prepare_muladd(
    b: Operand | None = None,
    c: Operand | None = None,
    *,
    square: bool = False,
    negate_b: bool = False,
    negate_c: bool = False,
) -> Ternary:
    """The function a * b + c, two roundings, for use within ``numpy.errstate(all="ignore")``.

    Parameters
    ----------
    b, c : array without dimensions, or None
        Immediates; None for an operand that is given at execution.
    square : bool
        b is always the same array as a.
    negate_b, negate_c : bool
        Flip the sign of the operand first.
    """
    if b is not None:
        b = _constant(b, negate_b)
    if c is None:
        multiply, combine = _product(b, square=square, negate_b=negate_b), np.subtract if negate_c else np.add
        return lambda a, b, c: _combined(combine, multiply(a, b), c)
    constant = _constant(c, negate_c)
    if not abs(constant) < _LARGE:
        return _plus_large(b, constant, square=square, negate_b=negate_b)
    multiply = _product(b, square=square, negate_b=negate_b)
    if constant == 0:
        return lambda a, b, c: unify_nans(multiply(a, b) + constant)
    return lambda a, b, c: unify_nans(flush(multiply(a, b) + constant))


def _combined(combine: np.ufunc, p: Operand, c: Operand) -> Operand:
    """The sum or difference of a product and c."""
    least = smallest(c)
    if least >= _NOT_SMALL_WORD:
        return unify_nans(combine(p, c))
    return unify_nans(flush(combine(p, c if least >= LEAST_WORD else flush(c))))


def _constant(x: Operand, negate: bool) -> Operand:
    return np.asarray(flush(-x if negate else x))


def _product(b: Operand | None, *, square: bool, negate_b: bool) -> Callable[[Operand, Operand], Operand]:
    """The product of the core but for the NaNs; it may be a itself."""
    if b is None:
        if square:
            return lambda a, b: product(a, -a if negate_b else a)
        if negate_b:
            return lambda a, b: product(flush(a), -flush(b))
        return lambda a, b: product(flush(a), flush(b))
    factor = b
    if factor == 1:
        return lambda a, b: flush(a)
    if factor == -1:
        return lambda a, b: -flush(a)
    if abs(factor) <= 1:
        return lambda a, b: product(a, factor)
    return lambda a, b: product(flush(a), factor)


def _plus_large(b: Operand | None, constant: Operand, *, square: bool, negate_b: bool) -> Ternary:
    """With |c| >= 2^-100, or a NaN, the product need be right only where it is more than 2^-126."""
    if b is None:
        if square:
            return lambda a, b, c: unify_nans(a * (-a if negate_b else a) + constant)
        combine = np.subtract if negate_b else np.add
        return lambda a, b, c: unify_nans(combine(constant, flush(a) * flush(b)))
    factor = b
    if factor == 1:
        return lambda a, b, c: unify_nans(a + constant)
    if abs(factor) <= 1:
        return lambda a, b, c: unify_nans(a * factor + constant)
    return lambda a, b, c: unify_nans(flush(a) * factor + constant)
