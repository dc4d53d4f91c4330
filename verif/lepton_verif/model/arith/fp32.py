"""binary32 arithmetic of the core, bit for bit, on NumPy arrays (docs/numerics.md).

Arrays are float32. NaNs that come out are the canonical one; subnormals that go in are read as zeros.

NumPy's float32 arithmetic is that of the core but for subnormals and NaNs. Both are rare: every function first finds
out with a reduction or two whether there are any, and only then does what they need.
"""

import numpy as np

__all__ = [
    "CANONICAL_NAN", "LEAST_WORD", "add", "bits", "canonicalize", "eq", "flush", "from_bits", "le", "lt", "maximum",
    "minimum", "mul", "muladd", "product", "smallest", "sub", "unify_nans",
]  # fmt: skip

CANONICAL_NAN = np.uint32(0x7FC00000)
_NAN = np.array(CANONICAL_NAN).view(np.float32)[()]
_LEAST = np.float32(2.0**-126)
LEAST_WORD = 0x00800000
# NumPy is faster with arrays of no dimension than with scalars.
_MINUS_TWO = np.array((1 << 32) - 2, np.uint32)
_SMALLNESS_OF_LEAST = (1 << 32) - 2 * LEAST_WORD


def bits(x: np.ndarray) -> np.ndarray:
    """The words of a float32 array."""
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def from_bits(words: np.ndarray) -> np.ndarray:
    """The float32 array of an array of words."""
    return np.ascontiguousarray(words, np.uint32).view(np.float32)


def _smallness(x: np.ndarray) -> np.ndarray:
    """2^32 - 2 * magnitude of the words, 0 for a zero: the greater, the smaller a number that is not 0."""
    return x.view(np.uint32) * _MINUS_TWO


def smallest(x: np.ndarray) -> int:
    """The word of the least magnitude that is not 0; 2^31 if all are zeros."""
    return (1 << 32) - int(_smallness(x).max(initial=0)) >> 1


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormals as zeros of their sign; ``x`` itself if there are none."""
    x = np.asarray(x, np.float32)
    if smallest(x) >= LEAST_WORD:
        return x
    return np.where(np.abs(x) < _LEAST, np.copysign(np.float32(0), x), x)


def canonicalize(x: np.ndarray) -> np.ndarray:
    """Every NaN as the canonical one; ``x`` itself if there is none."""
    nan = np.isnan(x)
    return np.where(nan, _NAN, x) if nan.any() else x


def unify_nans(x: np.ndarray) -> np.ndarray:
    """`canonicalize`, but faster, for use within ``numpy.errstate(all="ignore")``."""
    flat = x.reshape(-1)
    squares = np.dot(flat, flat)  # At most infinite, unless there is a NaN.
    return canonicalize(x) if squares != squares else x


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b of numbers without subnormals, as a new array; NaNs are not canonical.

    Tininess is that of the exact product, which float64 holds, not of the rounded one.
    """
    result = np.asarray(a * b)
    smallness = _smallness(result)
    # Only results up to the least normal number can have come from a tiny exact product.
    if smallness.max(initial=0) >= _SMALLNESS_OF_LEAST:
        near = smallness >= _SMALLNESS_OF_LEAST
        x, y = (operand[near].astype(np.float64) for operand in np.broadcast_arrays(a, b))
        rounded = result[near]
        result[near] = np.where(np.abs(x * y) < float(_LEAST), np.copysign(np.float32(0), rounded), rounded)
    return result


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b. A sum below 2^-126 is exact in float32, so flushing it afterwards is flushing the exact value."""
    with np.errstate(all="ignore"):
        return unify_nans(flush(flush(a) + flush(b)))


def sub(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b."""
    return add(a, np.negative(np.asarray(b, np.float32)))


def mul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b."""
    with np.errstate(all="ignore"):
        return unify_nans(product(flush(a), flush(b)))


def muladd(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c with two roundings."""
    with np.errstate(all="ignore"):
        return unify_nans(flush(product(flush(a), flush(b)) + flush(c)))


def lt(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a < b, as booleans; false with a NaN."""
    return flush(a) < flush(b)


def le(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a <= b."""
    return flush(a) <= flush(b)


def eq(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a == b."""
    return flush(a) == flush(b)


def minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE 754-2019, 9.6, minimumNumber: a NaN loses to a number; -0 is below +0."""
    return _extreme(np.minimum, np.bitwise_or, np.asarray(a, np.float32), np.asarray(b, np.float32))


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE 754-2019, 9.6, maximumNumber."""
    return _extreme(np.maximum, np.bitwise_and, np.asarray(a, np.float32), np.asarray(b, np.float32))


def _extreme(pick: np.ufunc, of_zeros: np.ufunc, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`pick` of two numbers, `of_zeros` of the words of two zeros. As flushing keeps the order, it can come last."""
    with np.errstate(all="ignore"):
        words = np.where(a == b, of_zeros(a.view(np.uint32), b.view(np.uint32)), pick(a, b).view(np.uint32))
        result = words.view(np.float32)
        if np.isnan(result).any():
            result = np.where(np.isnan(a), b, np.where(np.isnan(b), a, result))
        return unify_nans(flush(result))
