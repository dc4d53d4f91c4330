"""Functions of one argument of the core, bit for bit, on NumPy arrays (docs/numerics.md, section 5).

All passes are over integers, in pieces that stay in the caches. The only floating-point operations are exact: a
quadratic's 31 bits become binary64, whose exponent field is then moved, and binary64 is rounded to binary32, to
nearest, ties to even. What the quadratics do not give is put in afterwards, where there is any.
"""

import functools
from collections.abc import Callable

import numpy as np
from lepton_npu.spec import function_tables as tables
from numpy.typing import NDArray

from .fp32 import CANONICAL_NAN, bits

__all__ = ["exp", "recip", "rsqrt", "sigmoid", "sqrt", "tanh"]

Words = NDArray[np.uint32]
Integers = NDArray[np.int64]

_INFINITY, _ONE, _HALF = np.uint32(0x7F800000), np.uint32(0x3F800000), np.uint32(0x3F000000)
_NEGATIVE, _NONE = np.uint32(1 << 31), np.uint32(0)
_LEAST_NORMAL = np.uint32(0x00800000)
_LEAST = np.float64(2.0**-126)
_T_MASK = (1 << tables.T_BITS) - 1

_QUADRATICS = {
    name: tuple(np.array(c, np.int64) for c in (table.c0, table.c1, table.c2))
    for name, table in (
        ("exp2", tables.exp2_table()),
        ("reciprocal", tables.reciprocal_table()),
        ("sqrt", tables.sqrt_table()),
        ("rsqrt", tables.rsqrt_table()),
        ("tanh", tables.tanh_table()),
    )
}
# Segment of `rsqrt` by the last bit of the exponent field and the first 7 of the fraction.
_RSQRT_SEGMENT = np.array(
    [(128 + 32 * (not e) + (f >> 1) - 32 if f >= 64 else 64 * (not e) + f) for e in (0, 1) for f in range(128)],
    np.int64,
)


def _in_pieces(size: int) -> Callable[[Callable[[Words], NDArray[np.float32]]], Callable[[np.ndarray], np.ndarray]]:
    """Make a function of words, at most ``size``, one of any array of binary32."""

    def decorate(function: Callable[[Words], NDArray[np.float32]]) -> Callable[[np.ndarray], np.ndarray]:
        @functools.wraps(function)
        def whole(x: np.ndarray) -> np.ndarray:
            words = bits(x)
            if words.size <= size:
                return function(words)
            result, flat = np.empty(words.size, np.float32), words.reshape(-1)
            for start in range(0, words.size, size):
                result[start : start + size] = function(flat[start : start + size])
            return result.reshape(words.shape)

        return whole

    return decorate


def _quadratic(name: str, index: Integers, t: Integers) -> Integers:
    """The quadratic in fixed point, with `FRACTION_BITS` bits behind the point. ``t`` may be overwritten."""
    # Indices are within the table; "wrap" only spares NumPy a pass that checks them.
    c0, c1, slope = (np.take(c, index, mode="wrap") for c in _QUADRATICS[name])
    slope *= t >> (tables.T_BITS - 16)
    slope >>= 16
    slope += c1
    slope *= t
    slope >>= tables.T_BITS
    slope += c0
    return slope


def _to_binary32(value: Integers, power: Integers) -> NDArray[np.float32]:
    """value * 2^power, rounded; zero where that is below 2^-126 before rounding. ``power`` is overwritten."""
    exact = value.astype(np.float64)
    power <<= 52
    moved = exact.view(np.int64)
    moved += power
    tiny = exact < _LEAST
    if tiny.any():
        exact[tiny] = 0
    with np.errstate(over="ignore"):
        return exact.astype(np.float32)


def _magnitude(words: Words) -> Words:
    return words & np.uint32(0x7FFFFFFF)


def _field(words: Words) -> Integers:
    """The exponent field."""
    return (words >> 23 & 0xFF).astype(np.int64)


def _significand(words: Words) -> Integers:
    """24 bits with the hidden one."""
    return (words & np.uint32(0x7FFFFF) | np.uint32(0x800000)).astype(np.int64)


def _finish(
    words: Words,
    result: NDArray[np.float32],
    low: int,
    high: int,
    others: Callable[[Words], Words],
    domain: Callable[[Words], Words] = _magnitude,
) -> NDArray[np.float32]:
    """``result``, but ``others`` gives the words that are not from ``low`` to ``high - 1``; NaN for a NaN."""
    outside = domain(words) - np.uint32(low) >= np.uint32(high - low)
    if outside.any():
        found = words[outside]
        nan = _magnitude(found) > _INFINITY
        result.view(np.uint32)[outside] = np.where(nan, CANONICAL_NAN, others(found))
    return result


def _copy_sign(result: NDArray[np.float32], words: Words) -> NDArray[np.float32]:
    target = result.view(np.uint32)
    target |= words & _NEGATIVE
    return result


def _is_zero(words: Words) -> NDArray[np.bool_]:
    """Zeros and subnormals."""
    return _magnitude(words) < _LEAST_NORMAL


def _times_log2e(words: Words, double: int = 0) -> Integers:
    """|x| * log2(e) * 2^double with 28 bits behind the point, for |x| * 2^double below 2^7."""
    product = _significand(words)
    product *= tables.LOG2E
    shift = 155 - double - _field(words)
    np.maximum(shift, 22, out=shift)
    np.minimum(shift, 62, out=shift)
    product >>= shift
    return product


def _exp2(y: Integers) -> tuple[Integers, Integers]:
    """2^y as (q, W): q * 2^(W - 30), q in [2^30, 2^31); y with 28 bits behind the point."""
    index = y >> tables.T_BITS
    index &= tables.SEGMENTS - 1
    q = _quadratic("exp2", index, y & _T_MASK)
    np.maximum(q, 1 << tables.FRACTION_BITS, out=q)
    return q, y >> (tables.T_BITS + tables.INDEX_BITS)


@_in_pieces(8192)
def exp(words: Words) -> NDArray[np.float32]:
    """e^x: 2^floor(y) * 2^frac(y), y = x * log2(e)."""
    y = _times_log2e(words)
    negative = (words.view(np.int32) >> 31).astype(np.int64)
    y ^= negative
    y -= negative
    q, power = _exp2(y)
    power -= tables.FRACTION_BITS
    result = _to_binary32(q, power)

    def others(w: Words) -> Words:
        return np.where(_is_zero(w), _ONE, np.where(w & _NEGATIVE, _NONE, _INFINITY))

    return _finish(words, result, 1 << 23, 134 << 23, others)


@_in_pieces(8192)
def recip(words: Words) -> NDArray[np.float32]:
    """1 / x."""
    index = (words >> 16 & np.uint32(0x7F)).astype(np.int64)
    t = ((words & np.uint32(0xFFFF)) << 5).astype(np.int64)
    # At f = 0 the table holds 2^30, that is 1 exactly; elsewhere it stays below.
    value = _quadratic("reciprocal", index, t)
    result = _copy_sign(_to_binary32(value, 127 - tables.FRACTION_BITS - _field(words)), words)

    def others(w: Words) -> Words:
        return np.where(_is_zero(w), _INFINITY, _NONE) | w & _NEGATIVE

    return _finish(words, result, 1 << 23, 255 << 23, others)


def _all_bits(words: Words) -> Words:
    return words


@_in_pieces(8192)
def sqrt(words: Words) -> NDArray[np.float32]:
    """The square root: of m in [1, 2), or of 2m, times a power of two."""
    index = (words >> 17 & np.uint32(0x7F) ^ np.uint32(0x40)).astype(np.int64)
    t = ((words & np.uint32(0x1FFFF)) << 4).astype(np.int64)
    power = (words >> 23).astype(np.int64)
    power += 127
    power >>= 1
    power -= 127 + tables.FRACTION_BITS
    result = _to_binary32(_quadratic("sqrt", index, t), power)

    def others(w: Words) -> Words:
        return np.where(_is_zero(w), w & _NEGATIVE, np.where(w & _NEGATIVE, CANONICAL_NAN, _INFINITY))

    return _finish(words, result, 1 << 23, 255 << 23, others, _all_bits)


@_in_pieces(8192)
def rsqrt(words: Words) -> NDArray[np.float32]:
    """1 / sqrt(x)."""
    index = np.take(_RSQRT_SEGMENT, (words >> 16 & np.uint32(0xFF)).astype(np.int64), mode="wrap")
    wide = words >> 22 & np.uint32(1)
    t = (words << (np.uint32(5) - wide) & np.uint32(_T_MASK)).astype(np.int64)
    power = (words >> 23).astype(np.int64)
    power += 127
    power >>= 1
    result = _to_binary32(_quadratic("rsqrt", index, t), 127 - tables.FRACTION_BITS - power)

    def others(w: Words) -> Words:
        return np.where(_is_zero(w), w & _NEGATIVE | _INFINITY, np.where(w & _NEGATIVE, CANONICAL_NAN, _NONE))

    return _finish(words, result, 1 << 23, 255 << 23, others, _all_bits)


def _logistic(y: Integers) -> tuple[Integers, Integers]:
    """1 / (1 + 2^y) as (v, k): v * 2^(-30 - k), v in (2^29, 2^30]."""
    one = 1 << tables.FRACTION_BITS
    q, whole = _exp2(y)
    up, down = np.maximum(whole, 0), np.minimum(-np.minimum(whole, 0), 31)
    # 1 + q * 2^W; or, divided by 2^W where that is more than 1, 2^-W + q.
    d = (q >> down) + (one >> np.minimum(up, 31))
    carry = d >> 31
    z = d >> 2 + carry
    v = _quadratic("reciprocal", z >> tables.T_BITS & (tables.SEGMENTS - 1), z & _T_MASK)
    np.minimum(v, one - 1, out=v)
    return v, up + carry


@_in_pieces(4096)
def sigmoid(words: Words) -> NDArray[np.float32]:
    """1 / (1 + e^-x)."""
    y = _times_log2e(words)
    positive = ~(words.view(np.int32) >> 31).astype(np.int64)
    y ^= positive
    y -= positive
    v, k = _logistic(y)
    result = _to_binary32(v, -tables.FRACTION_BITS - k)

    def others(w: Words) -> Words:
        return np.where(_is_zero(w), _HALF, np.where(w & _NEGATIVE, _NONE, _ONE))

    return _finish(words, result, 1 << 23, 134 << 23, others)


_TANH_SPLIT = 0x3F200000
"""0.625: from there on tanh is 2 * sigmoid(2x) - 1."""


def _tanh_small(words: Words) -> NDArray[np.float32]:
    """x * h(x^2) for numbers below 0.625, without the sign."""
    m, e = _significand(words), _field(words)
    u = m * m >> np.minimum(272 - 2 * e, 62)
    h = _quadratic("tanh", u >> tables.T_BITS, u & _T_MASK)
    h >>= 3
    product = m * h
    # 30 bits of the product are kept before it is rounded.
    low = np.where(product >> 50, 21, 20)
    return _to_binary32(product >> low, e - 156 - 21 + low)


def _tanh_large(words: Words) -> NDArray[np.float32]:
    v, _ = _logistic(-_times_log2e(words, double=1))
    return _to_binary32(2 * v - (1 << tables.FRACTION_BITS), np.full(v.shape, -tables.FRACTION_BITS))


@_in_pieces(4096)
def tanh(words: Words) -> NDArray[np.float32]:
    """The hyperbolic tangent."""
    result = np.empty(words.shape, np.float32)
    small = _magnitude(words) < _TANH_SPLIT
    large = ~small
    if small.any():
        result[small] = _tanh_small(words[small])
    if large.any():
        result[large] = _tanh_large(words[large])

    def others(w: Words) -> Words:
        return np.where(_is_zero(w), _NONE, _ONE) | w & _NEGATIVE

    return _finish(words, _copy_sign(result, words), 1 << 23, 133 << 23, others)
