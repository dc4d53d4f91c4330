"""How far the core's matrix products may be from exact ones: worst cases, from the formats alone.

Sources of error, with the numbers of docs/architecture.md, section 3, and docs/numerics.md, section 6. A tile whose
largest magnitude is in [2^E, 2^(E+1)) has steps s = 2^(E - f), f = 6, 14, 22, and integers up to q = 0x7F, 0x7F7F,
0x7F7F7F.

- An element is off by s / 2, or by what saturation cuts off, |x| - q s. Zeros are exact.
- Limb p > 0 of an element is at most 128 * 2^(E - 6 - 8p) = 2^(E + 1 - 8p). At precision 32 the passes (1, 2), (2, 1)
  and (2, 2) are left out: 2 * 2^-22 + 2^-30 times 2^(Ea + Eb) for each product of numbers that are not 0.
- The sums of the passes are exact, and so is their scaling; adding n of them rounds n - 1 times (N. J. Higham,
  "Accuracy and Stability of Numerical Algorithms", 2nd edition, section 4.2). Their magnitudes sum to at most that of
  the limbs, and the limbs of an element to at most its own and twice that of limbs 1 and 2.
"""

import numpy as np
from lepton_npu.spec.commands import Precision
from numpy.typing import NDArray

from .iss_matmul import limb_passes

__all__ = ["UNIT", "product_bound", "quantisation_bound"]

UNIT = 2.0**-24
"""Greatest relative error of one binary32 operation whose result is a normal number."""

_SMALLEST_NORMAL = 2.0**-126
_FRACTION = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}
_LIMIT = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}

Array = NDArray[np.float64]


def _tile_powers(magnitude: Array, side: int) -> Array:
    """2^E of each element's tile, in the shape of the matrix; 0 in a tile of zeros."""
    rows, cols = magnitude.shape
    padded = np.pad(magnitude, ((0, -rows % side), (0, -cols % side)))
    largest = padded.reshape(padded.shape[0] // side, side, -1, side).max(axis=(1, 3))
    powers = np.where(largest > 0, np.exp2(np.frexp(largest)[1] - 1.0), 0.0)
    return powers.repeat(side, axis=0).repeat(side, axis=1)[:rows, :cols]


def _bound_at(magnitude: Array, powers: Array, precision: Precision) -> Array:
    step = powers * 2.0 ** -_FRACTION[precision]
    bound = np.maximum(step / 2, magnitude - _LIMIT[precision] * step)
    return np.where(magnitude < _SMALLEST_NORMAL, magnitude, bound)


def quantisation_bound(x: Array, side: int, precision: Precision, slack: Array | float = 0.0) -> Array:
    """Greatest |Q(y) - y| of each element of a matrix, for every y with ``|y - x| <= slack``, element by element.

    Parameters
    ----------
    x : (rows, cols)
    side : int
        Side T of a tile.
    precision : Precision
    slack : (rows, cols) or float
        A tile's E is then one of two, which is taken into account.
    """
    x = np.abs(x)
    low, high = np.maximum(x - slack, 0.0), x + slack
    bounds = [_bound_at(high, _tile_powers(size, side), precision) for size in (low, high)]
    return np.maximum(*bounds)


def product_bound(
    a: Array, b: Array, side: int, precision: Precision, a_slack: Array | float = 0.0, b_slack: Array | float = 0.0
) -> Array:
    """Greatest |core's product of a' and b' - a b| of each element of a product of matrices (m, k) and (k, n).

    Parameters
    ----------
    a, b : (m, k), (k, n)
        Either may be transposed in the core: tiles are square.
    side : int
        Side T of a tile.
    precision : Precision
        Of both.
    a_slack, b_slack : arrays or float
        What the core multiplies are a' and b', with ``|a' - a| <= a_slack``; and b' likewise.
    """
    sides = []
    for x, slack in ((a, a_slack), (b, b_slack)):
        size, off = np.abs(x), slack + quantisation_bound(x, side, precision, slack)
        power = np.where(size + slack > 0, _tile_powers(size + slack, side), 0.0)
        lower = sum(2.0 ** (1 - 8 * limb) for limb in range(1, precision.limbs))
        sides.append((size, off, power, size + off + 2 * lower * power))
    (a_size, a_off, a_power, a_limbs), (b_size, b_off, b_power, b_limbs) = sides
    bound = a_off @ b_size + a_size @ b_off + a_off @ b_off
    if precision == Precision.P32:
        bound = bound + a_power @ b_power * (2 * 2.0**-22 + 2.0**-30)
    additions = (-(-a.shape[1] // side) * len(limb_passes(precision, precision)) - 1) * UNIT
    return bound + a_limbs @ b_limbs * (additions / (1 - additions))
