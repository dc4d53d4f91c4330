"""The random numbers of stochastic rounding (docs/numerics.md, section 6), and the rounding with them."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["NUMBER_BITS", "round_magnitudes", "row_numbers", "states", "tile_numbers"]

NUMBER_BITS = 16
"""Bits of a random number."""

_SHIFTS = (13, 17, 5)
_WORD = (1 << 32) - 1
_POLYNOMIAL = 0x1002D  # x^16 + x^5 + x^3 + x^2 + 1


def states(state: int, count: int) -> list[int]:
    """The ``count`` states of the generator after ``state``."""
    left, right, again = _SHIFTS
    found = []
    for _ in range(count):
        state ^= state << left & _WORD
        state ^= state >> right
        state ^= state << again & _WORD
        found.append(state)
    return found


def row_numbers(of_rows: list[int], lanes: int) -> NDArray[np.int64]:
    """The numbers of every lane for each of some states: (rows, lanes)."""
    words = np.array(of_rows, np.int64)
    upper, product = words >> NUMBER_BITS, words & (1 << NUMBER_BITS) - 1
    numbers = np.empty((words.size, lanes), np.int64)
    for lane in range(lanes):
        numbers[:, lane] = upper ^ product
        product = product << 1
        product = np.where(product >> NUMBER_BITS, product ^ _POLYNOMIAL, product)
    return numbers


def tile_numbers(state: int, high: int, wide: int, side: int) -> tuple[NDArray[np.int64], int]:
    """The numbers of a matrix of high x wide tiles, each where its element is, and the state behind them."""
    found = states(state, high * wide * side)
    numbers = row_numbers(found, side).reshape(wide, high * side, side)
    return numbers.swapaxes(0, 1).reshape(high * side, wide * side), found[-1]


def round_magnitudes(values: NDArray[np.float64], numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """``values`` rounded to integers: |x| is cut to 16 bits behind the point, a number added to these, and the sum cut.

    Exact for |x| below 2^37 that have 24 significant bits.
    """
    one = 1 << NUMBER_BITS
    magnitudes = np.floor(np.abs(values) * one) + numbers
    return np.copysign(np.floor(magnitudes / one), values)
