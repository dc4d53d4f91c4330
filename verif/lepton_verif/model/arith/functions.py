"""exp and reciprocal of the core, bit for bit, on NumPy arrays (docs/numerics.md)."""

import numpy as np
from lepton_npu.spec import function_tables as tables

from .fp32 import CANONICAL_NAN, bits, from_bits

__all__ = ["exp", "recip"]

_INFINITY = 0x7F800000


def _interpolate(table: tables.Table, index: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The quadratic in fixed point, with `FRACTION_BITS` bits behind the point."""
    c0, c1, c2 = (np.array(c, np.int64) for c in (table.c0, table.c1, table.c2))
    slope = c1[index] + (c2[index] * (t >> (tables.T_BITS - 16)) >> 16)
    return c0[index] + (slope * t >> tables.T_BITS)


def _round_pack(sign: np.ndarray, exponent: np.ndarray, value: np.ndarray, drop: int) -> np.ndarray:
    """Words of ``value`` rounded half to even by ``drop`` bits to 24; exponent below 1: zero, above 254: infinity."""
    kept, rest, half = value >> drop, value & ((1 << drop) - 1), 1 << (drop - 1)
    rounded = kept + ((rest > half) | ((rest == half) & (kept & 1 == 1)))
    final = exponent + (rounded >> 24)
    word = np.where(final >= 255, _INFINITY, (final << 23) | (rounded & 0x7FFFFF))
    return np.where(exponent < 1, 0, word) | sign << 31


def _fields(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    word = bits(x).astype(np.int64)
    return word >> 31, word >> 23 & 0xFF, word & 0x7FFFFF


def exp(x: np.ndarray) -> np.ndarray:
    """e^x: 2^floor(y) * 2^frac(y), y = x * log2(e) in fixed point with 28 bits behind the point."""
    sign, exponent, fraction = _fields(x)
    product = (fraction | 1 << 23) * tables.LOG2E
    # product * 2^(exponent - 150 - 33), in units of 2^-28; beyond 2^7 the sign decides alone.
    y = product >> np.clip(155 - exponent, 22, 62)
    y = np.where(exponent == 0, 0, np.where(sign == 1, -y, y))
    whole, part = y >> 28, y & ((1 << 28) - 1)
    value = np.maximum(
        _interpolate(tables.exp2_table(), part >> tables.T_BITS, part & ((1 << tables.T_BITS) - 1)), 1 << 30
    )
    word = _round_pack(np.zeros_like(sign), whole + 127, value, 7)
    word = np.where(exponent > 133, np.where(sign == 1, 0, _INFINITY), word)
    word = np.where((exponent == 255) & (fraction != 0), np.int64(CANONICAL_NAN), word)
    return from_bits(word.astype(np.uint32))


def recip(x: np.ndarray) -> np.ndarray:
    """1 / x."""
    sign, exponent, fraction = _fields(x)
    t = (fraction & 0xFFFF) << (tables.T_BITS - 16)
    value = np.minimum(_interpolate(tables.reciprocal_table(), fraction >> 16, t), (1 << 30) - 1)
    word = _round_pack(sign, 253 - exponent, value, 6)
    power = np.where(exponent == 254, 0, (254 - exponent) << 23) | sign << 31
    word = np.where(fraction == 0, power, word)
    word = np.where(exponent == 0, _INFINITY | sign << 31, word)
    word = np.where(exponent == 255, np.where(fraction == 0, sign << 31, np.int64(CANONICAL_NAN)), word)
    return from_bits(word.astype(np.uint32))
