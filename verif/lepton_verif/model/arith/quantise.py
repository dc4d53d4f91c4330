"""Quantiser twin: binary32 matrices to tiles of T x T signed bytes with one shared exponent.

The numbers are those of docs/architecture.md, section 3 (MXINT8's convention of OCP Microscaling Formats v1.0, section
5.3.4, in blocks of T x T). A binary32 number times a power of two is exact in binary64, and in binary32 as well unless
it ends below 2^-126, where it would be rounded to 0 anyway. So one `numpy.rint` is the round-half-even of the
specification. Stochastic rounding is done in binary64, for any exponent.
"""

from typing import NamedTuple

import numpy as np
from lepton_npu.spec.commands import Precision
from numpy.typing import NDArray

from .stochastic import round_magnitudes

__all__ = [
    "LIMB_BITS",
    "NAN_EXPONENT",
    "TileArray",
    "dequantise",
    "limb_scale",
    "quantise",
    "quantise_in_place",
    "split_limbs",
]

NAN_EXPONENT = 255
"""Exponent of a tile with an infinity or a NaN in it."""

LIMB_BITS = 8

_FRACTION = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}
_LIMIT = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}
_MAGNITUDE = np.array(0x7FFFFFFF, np.uint32)


def _scales(fraction: int) -> NDArray[np.float32]:
    """2^(n - (E - 127)) by E; NaN where a product with it is not the specified number.

    A tile of exponent 0 is all 0. From 2^126 on, a factor would make subnormals 1, and 2^128 does not exist. In a tile
    of exponent 255, there are elements that are not finite.
    """
    table = np.exp2(np.float64(fraction + 127) - np.arange(256))
    table[0] = 0
    table[(table >= 2.0**126) | (np.arange(256) == NAN_EXPONENT)] = np.nan
    return table.astype(np.float32)


_SCALES = {precision: _scales(fraction) for precision, fraction in _FRACTION.items()}


class TileArray(NamedTuple):
    """A quantised matrix of I x J tiles.

    ``mantissas``: int8 of shape (limbs, I, J, T, T), limb 0 the most significant; ``exponents``: uint8 (I, J).
    """

    mantissas: NDArray[np.int8]
    exponents: NDArray[np.uint8]


def quantise(
    matrix: NDArray, precision: Precision | int, side: int, numbers: NDArray[np.int64] | None = None
) -> TileArray:
    """Quantise a matrix, padded with zeros to whole tiles of ``side`` x ``side``.

    Parameters
    ----------
    matrix : (rows, cols) array of float32, or of uint32 with binary32 bit patterns
    precision : Precision
        Mantissa: P8, P16 or P32, that is 1, 2 or 3 limbs.
    side : int
        Side T of a tile.
    numbers : (I * T, J * T) array of int64, optional
        Random numbers, one an element (`lepton_verif.model.arith.stochastic`): rounds with them, else to nearest.
    """
    precision = Precision(precision)
    if matrix.ndim != 2 or matrix.dtype not in (np.float32, np.uint32):
        raise TypeError(f"matrix must be a 2-D array of float32 or uint32, not {matrix.ndim}-D of {matrix.dtype}")
    limbs, exponents = quantise_in_place(matrix, precision, side, numbers)
    high, wide = exponents.shape
    return TileArray(limbs.reshape(len(limbs), high, side, wide, side).swapaxes(2, 3), exponents)


def quantise_in_place(
    matrix: NDArray, precision: Precision, side: int, numbers: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """`quantise` with every mantissa where its element is: (limbs, I * T, J * T), and exponents (I, J)."""
    words = matrix.view(np.uint32)
    rows, cols = words.shape
    high, wide = -(-rows // side), -(-cols // side)
    if (rows, cols) != (high * side, wide * side):
        padded = np.zeros((high * side, wide * side), np.uint32)
        padded[:rows, :cols] = words
        words = padded

    magnitudes = np.bitwise_and(words, _MAGNITUDE).reshape(high, side, wide * side)
    of_columns = np.maximum.reduce(magnitudes, axis=1).reshape(-1)
    greatest = np.maximum.reduceat(of_columns, np.arange(0, of_columns.size, side))
    exponents = (greatest >> 23).astype(np.uint8).reshape(high, wide)
    scales = _SCALES[precision].take(exponents)
    values = words.view(np.float32).reshape(high, side, wide * side)
    if numbers is not None:
        scaled = _scaled_wide(values.reshape(high, side, wide, side), exponents, precision)
        scaled = round_magnitudes(scaled, numbers.reshape(scaled.shape))
    elif np.isnan(scales).any():
        scaled = _scaled_wide(values.reshape(high, side, wide, side), exponents, precision)
    else:
        scaled = values * np.repeat(scales, side, axis=1)[:, None]
    np.rint(scaled, out=scaled)
    scaled.clip(-_LIMIT[precision], _LIMIT[precision], out=scaled)
    scaled = scaled.reshape(high * side, wide * side)
    if precision == Precision.P8:
        return scaled.astype(np.int8)[None], exponents
    return split_limbs(scaled.astype(np.int32), precision.limbs), exponents


def _scaled_wide(values: NDArray[np.float32], exponents: NDArray[np.uint8], precision: Precision) -> NDArray:
    """x * 2^(n - (E - 127)) for all E: ``values`` are (high, T, wide, T)."""
    wanted = (exponents != NAN_EXPONENT)[:, None, :, None] & (np.abs(values) >= np.float32(2.0**-126))
    scale = np.exp2(_FRACTION[precision] + 127 - exponents.astype(np.float64))
    return np.where(wanted, values, np.float32(0)) * scale[:, None, :, None]


def split_limbs(integers: NDArray[np.int32], limbs: int) -> NDArray[np.int8]:
    """Balanced signed bytes of ``integers``, most significant first, along a new first axis.

    Every limb but the first is in -128..127 with its carry in the next higher one; the first must then fit as well.
    """
    # Adding 128 to every byte but the first gives the carries; taking it away again, without them, is an exclusive or.
    offset = np.int32(sum(0x80 << LIMB_BITS * place for place in range(limbs - 1)))
    limbs_in_words = ((integers + offset) ^ offset).astype("<i4", copy=False)
    by_place = limbs_in_words.view(np.int8).reshape(*integers.shape, 4)
    return np.stack([by_place[..., place] for place in reversed(range(limbs))])


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
