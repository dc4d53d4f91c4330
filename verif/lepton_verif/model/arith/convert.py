"""Conversions of the core, bit for bit, on NumPy arrays (docs/numerics.md)."""

import numpy as np
from lepton_npu.spec.commands import Format

from .fp32 import bits, canonicalize, flush, from_bits

__all__ = ["from_element", "scaled_int_to_fp32", "to_element"]

_LIMITS = {Format.U8: (0, 255), Format.I8: (-128, 127), Format.I32: (-(2**31), 2**31 - 1)}


def scaled_int_to_fp32(value: np.ndarray, scale: np.ndarray | int) -> np.ndarray:
    """value * 2^scale as float32 for integers of at most 24 bits: exact, or infinite, or flushed to a zero."""
    value = np.asarray(value)
    with np.errstate(over="ignore"):
        # In float64 the product is exact over the whole range of float32, so nothing is rounded twice.
        exact = np.ldexp(value.astype(np.float64), np.clip(scale, -900, 900))
        return np.where(np.abs(exact) < 2.0**-126, np.copysign(0.0, exact), exact).astype(np.float32)


def from_element(words: np.ndarray, format: Format) -> np.ndarray:
    """Elements (uint32, in the low bits) as float32."""
    words = np.asarray(words).astype(np.uint32, copy=False)
    match Format(format):
        case Format.BF16:
            return from_bits((words & 0xFFFF) << 16)
        case Format.U8:
            return (words & 0xFF).astype(np.float32)
        case Format.I8:
            return (words & 0xFF).astype(np.uint8).view(np.int8).astype(np.float32)
        case Format.I32:
            return np.ascontiguousarray(words).view(np.int32).astype(np.float32)
    return from_bits(words)


def to_element(x: np.ndarray, format: Format) -> np.ndarray:
    """float32 as elements (uint32, in the low bits)."""
    x = np.asarray(x, np.float32)
    format = Format(format)
    if format == Format.F32:
        return bits(x)
    if format == Format.BF16:
        words = bits(canonicalize(flush(x))).astype(np.uint64)
        rounded = (words + 0x7FFF + (words >> 16 & 1)) >> 16
        return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint32)
    low, high = _LIMITS[format]
    with np.errstate(invalid="ignore"):  # a signalling NaN is as good as another here
        whole = np.clip(np.rint(np.nan_to_num(x, nan=0.0).astype(np.float64)), low, high)
    return (whole.astype(np.int64) & (0xFFFFFFFF if format == Format.I32 else 0xFF)).astype(np.uint32)
