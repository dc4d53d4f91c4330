"""How far the core's matrix products may be from exact ones, from the formats alone.

Sources of error, with the numbers of docs/architecture.md, section 3, and docs/numerics.md, section 6. A tile whose
largest magnitude is in [2^E, 2^(E+1)) has steps s = 2^(E - f), f = 6, 14, 22, and integers up to q = 0x7F, 0x7F7F,
0x7F7F7F.

- An element is off by s / 2, or by what saturation cuts off, |x| - q s. Zeros are exact.
- Limb p > 0 of an element is at most 128 * 2^(E - 6 - 8p) = 2^(E + 1 - 8p). At precision 32 the passes (1, 2), (2, 1)
  and (2, 2) are left out: 2 * 2^-22 + 2^-30 times 2^(Ea + Eb) for each product of numbers that are not 0.
- The sums of the passes are exact, and so is their scaling; adding n of them rounds n - 1 times (N. J. Higham,
  "Accuracy and Stability of Numerical Algorithms", 2nd edition, section 4.2). Their magnitudes sum to at most that of
  the limbs, and the limbs of an element to at most its own and twice that of limbs 1 and 2.

Errors add up in one of two ways, `Sum`: their magnitudes (the worst case), or the squares of these (see `INDEPENDENT`).
"""

from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Precision
from numpy.typing import NDArray

from .iss_matmul import limb_passes

__all__ = ["INDEPENDENT", "UNIT", "WORST", "Sum", "product_bound", "quantisation_bound"]

UNIT = 2.0**-24
"""Greatest relative error of one binary32 operation whose result is a normal number."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sum:
    """How greatest errors e_i make that of a sum: (sum of e_i^order)^(1/order)."""

    order: int

    def __call__(self, *errors: Array | float) -> Array:
        """Of a sum of terms."""
        total = sum((np.asarray(error, np.float64) ** self.order for error in errors), np.zeros(()))
        return total ** (1 / self.order)

    def products(self, a: Array, b: Array) -> Array:
        """Of each element of a matrix product, if term k of it has the greatest error |a_ik b_kj|."""
        return (np.abs(a) ** self.order @ np.abs(b) ** self.order) ** (1 / self.order)

    def times(self, count: int) -> float:
        """Of ``count`` terms of the same error, as a factor of it."""
        return float(count) ** (1 / self.order)


WORST = Sum(1)
"""No sum of errors is larger."""
INDEPENDENT = Sum(2)
"""Of errors that are independent and have no preferred sign: the sum is larger than 6 times this once in 3 * 10^7.

W. Hoeffding, "Probability Inequalities for Sums of Bounded Random Variables", J. Amer. Stat. Assoc. 58, 1963, theorem
2: at most 2 exp(-6^2 / 2), whatever the errors' distributions within their bounds.
"""

_SMALLEST_NORMAL = 2.0**-126
_FRACTION = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}
_LIMIT = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}


def _tile_powers(magnitude: Array, side: int) -> Array:
    """2^E of each element's tile, in the shape of the matrix; 0 in a tile of zeros."""
    rows, cols = magnitude.shape
    padded = np.zeros((rows + -rows % side, cols + -cols % side))
    padded[:rows, :cols] = magnitude
    largest = padded.reshape(padded.shape[0] // side, side, -1, side).max(axis=(1, 3))
    powers = np.where(largest > 0, np.exp2(np.frexp(largest)[1] - 1.0), 0.0)
    return powers.repeat(side, axis=0).repeat(side, axis=1)[:rows, :cols]


def _bound_at(magnitude: Array, powers: Array, precision: Precision, saturation: bool) -> Array:
    step = powers * 2.0 ** -_FRACTION[precision]
    bound = step / 2
    if saturation:
        bound = np.maximum(bound, np.minimum(magnitude, 2 * powers) - _LIMIT[precision] * step)
    return np.where(magnitude < _SMALLEST_NORMAL, magnitude, bound)


def quantisation_bound(
    x: Array, side: int, precision: Precision, slack: Array | float = 0.0, *, saturation: bool = True
) -> Array:
    """Greatest |Q(y) - y| of each element of a matrix, for every y with ``|y - x| <= slack``, element by element.

    Parameters
    ----------
    x : (rows, cols)
    side : int
        Side T of a tile.
    precision : Precision
    slack : (rows, cols) or float
        A tile's E may then be one of several, which is taken into account.
    saturation : bool
        False to leave out what saturation cuts off.
    """
    x = np.abs(x)
    low, high = np.maximum(x - slack, 0.0), x + slack
    least, most = _tile_powers(low, side), _tile_powers(high, side)
    # Rounding is worst at the greatest E, what is cut off at it or the one below: there magnitudes reach 2^(E + 1).
    powers = (least, np.maximum(least, most / 2), most)
    return np.max([_bound_at(high, power, precision, saturation) for power in powers], axis=0)


def product_bound(
    a: Array, b: Array, side: int, precision: Precision, a_slack: Array | float = 0.0, b_slack: Array | float = 0.0,
    *, near: float = 0.0, saturation: bool = True, add: Sum = WORST,
) -> Array:  # fmt: skip
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
    near : float
        The bound is to hold as well around all other a and b that differ by this much of each element.
    saturation : bool
        False to leave out what saturation cuts off: the difference from the product of the saturated a and b.
    add : Sum
        How errors add up.
    """
    sides = []
    for x, slack in ((a, a_slack), (b, b_slack)):
        size, reach = np.abs(x) * (1 + near), slack + near * np.abs(x)
        off = add(slack, quantisation_bound(x, side, precision, reach, saturation=saturation))
        power = np.where(size + slack > 0, _tile_powers(size + slack, side), 0.0)
        lower = sum(2.0 ** (1 - 8 * limb) for limb in range(1, precision.limbs))
        sides.append((size, off, power, size + off + 2 * lower * power))
    (a_size, a_off, a_power, a_limbs), (b_size, b_off, b_power, b_limbs) = sides
    errors = [add.products(a_off, b_size), add.products(a_size, b_off), add.products(a_off, b_off)]
    if precision == Precision.P32:
        errors.append(add.products(a_power, b_power) * add(2.0**-22, 2.0**-22, 2.0**-30))
    additions = -(-a.shape[1] // side) * len(limb_passes(precision, precision)) - 1
    errors.append(a_limbs @ b_limbs * (add.times(additions) * UNIT / (1 - additions * UNIT)))
    return add(*errors)
