"""Quantiser twin: binary32 matrices to tiles of T x T signed bytes with one shared exponent.

The numbers are those of docs/architecture.md, section 3 (MXINT8's convention of OCP Microscaling Formats v1.0, section
5.3.4, in blocks of T x T). The scaled values are exact in binary64 (a binary32 number times a power of two), so one
`numpy.rint` is the round-half-even of the specification.
"""

from typing import NamedTuple

import numpy as np
from lepton_npu.spec.commands import Precision
from numpy.typing import NDArray

__all__ = ["LIMB_BITS", "NAN_EXPONENT", "TileArray", "dequantise", "limb_scale", "quantise", "split_limbs"]

NAN_EXPONENT = 255
"""Exponent of a tile with an infinity or a NaN in it."""

LIMB_BITS = 8

_FRACTION = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}
_LIMIT = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}


class TileArray(NamedTuple):
    """A quantised matrix of I x J tiles.

    ``mantissas``: int8 of shape (limbs, I, J, T, T), limb 0 the most significant; ``exponents``: uint8 (I, J).
    """

    mantissas: NDArray[np.int8]
    exponents: NDArray[np.uint8]


def quantise(matrix: NDArray, precision: Precision | int, side: int) -> TileArray:
    """Quantise a matrix, padded with zeros to whole tiles of ``side`` x ``side``.

    Parameters
    ----------
    matrix : (rows, cols) array of float32, or of uint32 with binary32 bit patterns
    precision : Precision
        Mantissa: P8, P16 or P32, that is 1, 2 or 3 limbs.
    side : int
        Side T of a tile.
    """
    precision = Precision(precision)
    if matrix.ndim != 2 or matrix.dtype not in (np.float32, np.uint32):
        raise TypeError(f"matrix must be a 2-D array of float32 or uint32, not {matrix.ndim}-D of {matrix.dtype}")
    words = np.ascontiguousarray(matrix).view(np.uint32)
    rows, cols = words.shape
    high, wide = -(-rows // side), -(-cols // side)
    if (rows, cols) != (high * side, wide * side):
        words = np.pad(words, ((0, high * side - rows), (0, wide * side - cols)))

    fields = (words >> 23 & 0xFF).reshape(high, side, wide, side)
    exponents = fields.max(axis=(1, 3))
    usable = (fields != 0) & (exponents != NAN_EXPONENT)[:, None, :, None]
    values = np.where(usable, words.view(np.float32).reshape(high, side, wide, side), np.float32(0))
    scale = np.exp2(_FRACTION[precision] - (exponents.astype(np.float64) - 127))
    limit = _LIMIT[precision]
    integers = np.rint(values * scale[:, None, :, None]).clip(-limit, limit).astype(np.int32)
    limbs = split_limbs(integers.transpose(0, 2, 1, 3), precision.limbs)
    return TileArray(limbs, exponents.astype(np.uint8))


def split_limbs(integers: NDArray[np.int32], limbs: int) -> NDArray[np.int8]:
    """Balanced signed bytes of ``integers``, most significant first, along a new first axis.

    Every limb but the first is in -128..127 with its carry in the next higher one; the first must then fit as well.
    """
    result = np.empty((limbs, *integers.shape), np.int8)
    rest = integers
    for limb in reversed(range(1, limbs)):
        low = ((rest + 128) & 0xFF) - 128
        result[limb] = low
        rest = (rest - low) >> LIMB_BITS
    result[0] = rest
    return result


def limb_scale(exponent: NDArray | int, limb: int) -> NDArray[np.float64]:
    """Value of mantissa 1 of plane ``limb`` in tiles of ``exponent``; NaN for `NAN_EXPONENT`."""
    exponent = np.asarray(exponent, np.float64)
    scale = np.exp2(exponent - (127 + 6 + LIMB_BITS * limb))
    return np.where(exponent == NAN_EXPONENT, np.nan, scale)


def dequantise(tiles: TileArray, rows: int | None = None, cols: int | None = None) -> NDArray[np.float64]:
    """The matrix that the tiles stand for, exact; cut to ``rows`` x ``cols`` if these are given."""
    limbs, high, wide, side, _ = tiles.mantissas.shape
    total = np.zeros((high, wide, side, side))
    for limb in range(limbs):
        total += tiles.mantissas[limb] * limb_scale(tiles.exponents, limb)[:, :, None, None]
    return total.transpose(0, 2, 1, 3).reshape(high * side, wide * side)[:rows, :cols]
