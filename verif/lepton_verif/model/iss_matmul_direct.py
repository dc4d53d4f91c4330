"""MATMUL of the instruction-set simulator where nothing special happens: the fast way.

Mantissas are scaled before they are multiplied. All products of a column in a pass then have one unit,
2^(Ea + Eb - 266 - 8 * limbs), so a matrix product in binary32 gives their exact sum, scaled. If no unit is below
2^-126, and the accumulators are multiples of 2^-126 as well, no sum is subnormal, rounded or not.
"""

import numpy as np
from numpy.typing import NDArray

from .arith.fp32 import smallest
from .arith.quantise import NAN_EXPONENT
from .iss_addresses import as_slice
from .iss_matmul_plan import MatmulPlan
from .iss_state import CoreState

__all__ = ["DirectProduct"]

_LIMIT = 1 << 21
_UNIT = 127 + 6
_LIMB_BITS = 8
_LEAST_UNIT, _GREATEST_UNIT = -126, 127 - 21
_NORMAL = 7 + 2 * _LIMB_BITS  # From this exponent on, also the unit of a tile's last limb is a normal number.
_WHOLE = (127 - 102) << 23  # Numbers from 2^-102 on are multiples of 2^-125.
_ONE = np.array(1, np.uint8)
_ZERO = np.array(0, np.float32)
# The unit of a tile by its exponent. A tile of exponent 0 holds zeros.
_UNITS = np.ldexp(np.float32(1), np.arange(256, dtype=np.int32) - _UNIT)


class DirectProduct:
    """A MATMUL that names no accumulator row twice, with an index for everything that it gathers.

    Parameters
    ----------
    plan : MatmulPlan
    """

    def __init__(self, plan: MatmulPlan):
        side = plan.side
        self.side, self.accumulate = side, plan.accumulate
        lanes = np.arange(side)
        tile, row = np.divmod(plan.stream + plan.a_offset[:, None] * side, side)  # (step, m)
        b_tile = plan.b_tiles.T  # (step, n)
        # Gathered by rows of tiles, or by elements if transposed. Whole transposed tiles of A are gathered as they are.
        self.a_turned = plan.a_transpose and self._whole_tiles(tile, row, side)
        self.a_elements, self.b_elements = plan.a_transpose and not self.a_turned, plan.b_transpose
        if self.a_turned:
            self.a_index = (tile[:, ::side] * side)[:, None] + lanes[:, None]  # (step, T, m / T)
        elif self.a_elements:
            self.a_index = (tile * side * side + row)[..., None] + lanes * side  # (step, m, T)
        else:
            self.a_index = tile * side + row  # (step, m)
        # Stationary tiles stand side by side: (step, T, n, T).
        if self.b_elements:
            self.b_index = (b_tile * side * side)[:, None, :, None] + lanes[:, None, None] + lanes * side
        else:
            self.b_index = (b_tile * side)[:, None] + lanes[:, None]
        # Exponents are read once for every tile: of A, then of B.
        a_tiles, place = np.unique(tile, return_inverse=True)
        self.a_place = place.reshape(tile.shape)
        self.a_tiles, self.tiles = a_tiles.size, np.concatenate([a_tiles, b_tile.reshape(-1)])
        self.steps, self.n_tiles = b_tile.shape
        self.limb_sum = np.resize(plan.limb_sum, self.steps)
        self.limb_units = np.ldexp(np.float32(1), -_LIMB_BITS * self.limb_sum)[:, None] if self.limb_sum.any() else None
        self.last = _LIMB_BITS * int(self.limb_sum.max())
        # Two tiles of these exponents have a product within the range; the rare others are looked at more closely.
        low = _UNIT + (_LEAST_UNIT + self.last) // 2
        self.ordinary = bytes([0, *range(low, _UNIT + _GREATEST_UNIT // 2 + 1)])
        self.accumulators = as_slice(plan.rows.T)

    @staticmethod
    def suits(plan: MatmulPlan) -> bool:
        """Whether the plan is one for this way: rows named once, and not too many sums at once."""
        sums = plan.a_offset.size * plan.rows.size * plan.side
        return not plan.repeated and len(plan.groups) == 1 and sums <= _LIMIT

    @staticmethod
    def _whole_tiles(tile: NDArray[np.int64], row: NDArray[np.int64], side: int) -> bool:
        """Whether all columns of a tile, in their order, come before those of the next."""
        if tile.shape[1] % side:
            return False
        by_tile = tile.reshape(len(tile), -1, side)
        return bool((row == np.resize(np.arange(side), row.shape)).all() and (by_tile == by_tile[..., :1]).all())

    def run(self, state: CoreState) -> bool:
        """Execute on ``state``; False, with nothing changed, if there is something special about its numbers."""
        exponents = state.exponents.take(self.tiles)
        if not self._ordinary(exponents):
            return False
        units = _UNITS.take(exponents)
        a_units, b_units = units[: self.a_tiles].take(self.a_place), units[self.a_tiles :].reshape(self.steps, -1)
        if self.limb_units is not None:
            b_units = b_units * self.limb_units
        side, columns = self.side, self.n_tiles * self.side
        x = self._gather(state, self.a_index, self.a_elements)
        if self.a_turned:
            x = x.reshape(self.steps, side, -1)
            x *= a_units[:, None]
            x = x.swapaxes(1, 2)
        else:
            x = x.reshape(self.steps, -1, side)
            x *= a_units[:, :, None]
        w = self._gather(state, self.b_index, self.b_elements).reshape(self.steps, side, columns)
        w *= np.repeat(b_units, side, axis=1)[:, None]
        total = self._sum(state, np.matmul(x, w))
        if total is None:
            return False
        flat = total.reshape(-1)
        if not np.dot(flat, flat) < np.inf and not np.isfinite(total).all():
            return False
        state.local[self.accumulators] = total.view(np.uint32).reshape(-1, side)
        return True

    def _sum(self, state: CoreState, terms: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Terms along their first axis, in order; None if the accumulators may leave the multiples of the units."""
        total, rest = terms[0], terms[1:]
        if self.accumulate:
            total = state.local[self.accumulators].view(np.float32).reshape(total.shape)
            if smallest(total) < _WHOLE:
                return None
            rest = terms
        # A sum that is 0 counts as +0, whatever its sign is here: from now on there is no -0.
        total = total + _ZERO
        for term in rest:
            total += term
        return total

    def _gather(self, state: CoreState, index: NDArray[np.int64], elements: bool) -> NDArray[np.float32]:
        if elements:
            return state.tiles.reshape(-1).take(index).astype(np.float32)
        return state.tiles.reshape(-1, self.side).take(index, axis=0).astype(np.float32)

    def _ordinary(self, exponents: NDArray[np.uint8]) -> bool:
        """Whether all units are normal numbers that keep sums from overflowing; tiles of zeros do not matter."""
        if not exponents.tobytes().translate(None, self.ordinary):
            return True
        (a_low, a_high), (b_low, b_high) = (self._span(e) for e in np.split(exponents, [self.a_tiles]))
        least, greatest = a_low + b_low - 2 * _UNIT - self.last, a_high + b_high - 2 * _UNIT
        ordinary = least >= _LEAST_UNIT and greatest <= _GREATEST_UNIT and max(a_high, b_high) < NAN_EXPONENT
        return ordinary and min(a_low, b_low) >= _NORMAL

    @staticmethod
    def _span(exponents: NDArray[np.uint8]) -> tuple[int, int]:
        """Least, but for zeros, and greatest."""
        return int((exponents - _ONE).min()) + 1, int(exponents.max())
