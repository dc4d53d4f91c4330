"""binary32 arithmetic of the core, bit for bit, on NumPy arrays (docs/numerics.md).

Arrays are float32. NaNs that come out are the canonical one; subnormals that go in are read as zeros.
"""

import numpy as np

__all__ = [
    "CANONICAL_NAN", "add", "bits", "canonicalize", "eq", "flush", "from_bits", "le", "lt", "maximum", "minimum", "mul",
    "muladd", "sub",
]  # fmt: skip

CANONICAL_NAN = np.uint32(0x7FC00000)
_NAN = np.array(CANONICAL_NAN).view(np.float32)[()]
_LEAST = np.float32(2.0**-126)


def bits(x: np.ndarray) -> np.ndarray:
    """The words of a float32 array."""
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def from_bits(words: np.ndarray) -> np.ndarray:
    """The float32 array of an array of words."""
    return np.ascontiguousarray(words, np.uint32).view(np.float32)


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormals as zeros of their sign."""
    x = np.asarray(x, np.float32)
    tiny = np.abs(x) < _LEAST
    return np.where(tiny, np.copysign(np.float32(0), x), x) if tiny.any() else x


def canonicalize(x: np.ndarray) -> np.ndarray:
    """Every NaN as the canonical one."""
    nan = np.isnan(x)
    return np.where(nan, _NAN, x) if nan.any() else x


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b. A sum below 2^-126 is exact in float32, so flushing it afterwards is flushing the exact value."""
    with np.errstate(all="ignore"):
        return canonicalize(flush(flush(a) + flush(b)))


def sub(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b."""
    return add(a, np.negative(np.asarray(b, np.float32)))


def mul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b. Tininess is that of the exact product, which float64 holds, not of the rounded one."""
    a, b = flush(a), flush(b)
    with np.errstate(all="ignore"):
        product = np.asarray(a * b)
        # Only results up to the least normal number can have come from a tiny exact product.
        near = np.abs(product) <= _LEAST
        if near.any():
            a, b = np.broadcast_arrays(a, b)
            exact = np.abs(a[near].astype(np.float64) * b[near].astype(np.float64))
            product[near] = np.where(exact < float(_LEAST), np.copysign(np.float32(0), product[near]), product[near])
        return canonicalize(product)


def muladd(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c with two roundings."""
    return add(mul(a, b), c)


def lt(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a < b, as booleans; false with a NaN."""
    return flush(a) < flush(b)


def le(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a <= b."""
    return flush(a) <= flush(b)


def eq(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a == b."""
    return flush(a) == flush(b)


def _order(x: np.ndarray) -> np.ndarray:
    """Integers that sort like the numbers, with -0 below +0."""
    word = bits(x).view(np.int32).astype(np.int64)
    return np.where(word < 0, -(word & 0x7FFFFFFF) - 1, word)


def _pick(a: np.ndarray, b: np.ndarray, take_a: np.ndarray) -> np.ndarray:
    chosen = np.where(np.isnan(b) | (take_a & ~np.isnan(a)), a, b)
    return canonicalize(chosen)


def minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE 754-2019, 9.6, minimumNumber: a NaN loses to a number; -0 is below +0."""
    a, b = np.broadcast_arrays(flush(a), flush(b))
    return _pick(a, b, _order(a) <= _order(b))


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE 754-2019, 9.6, maximumNumber."""
    a, b = np.broadcast_arrays(flush(a), flush(b))
    return _pick(a, b, _order(a) >= _order(b))
