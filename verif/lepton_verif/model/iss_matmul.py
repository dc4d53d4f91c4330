"""MATMUL of the instruction-set simulator.

A column sum is exact in binary32 (at most 21 bits), so it comes from a floating-point matrix product. The additions to
an accumulator keep the specified order: `numpy.add.accumulate` adds one pass after another. Where a sum would
leave the normal numbers, the twins of the adder do it again, step by step. Most commands need none of this and go
through `DirectProduct`.
"""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .arith import fp32
from .arith.quantise import NAN_EXPONENT
from .iss_matmul_direct import DirectProduct
from .iss_matmul_plan import MatmulPlan, limb_passes
from .iss_state import CoreState

__all__ = ["limb_passes", "prepare_matmul", "scale_sums"]

_CHUNK = 1 << 21
_UNIT = 254 + 12
_SMALLEST_NORMAL = np.float32(2.0**-126)


def scale_sums(
    sums: NDArray[np.float32], a_exponents: NDArray, b_exponents: NDArray, limb_sum: NDArray | int
) -> NDArray[np.float32]:
    """Integers S as binary32 numbers ``S * 2^(Ea + Eb - 266 - 8 * limb_sum)``, flushed; NaN for a NaN tile.

    The three last arguments must broadcast to the shape of ``sums`` (exact integers held in binary32).
    """
    a, b = np.asarray(a_exponents, np.int32), np.asarray(b_exponents, np.int32)
    shift = a + b - (_UNIT + 8 * np.asarray(limb_sum, np.int32))
    nan = (a == NAN_EXPONENT) | (b == NAN_EXPONENT)
    # Tiles of exponent 0 hold zeros only: their scale does not matter.
    shift = np.where((a == 0) | (b == 0), 0, shift)
    if not nan.any() and shift.min() >= -126 and shift.max() <= 127 - 21:
        return sums * np.ldexp(np.float32(1), shift) + np.float32(0)  # -0, of 0 * S, is not possible; + 0 is exact
    with np.errstate(over="ignore", invalid="ignore"):
        exact = sums.astype(np.float64) * np.where(nan, np.nan, np.ldexp(1.0, shift))
        exact = np.where(np.abs(exact) < _SMALLEST_NORMAL, np.copysign(0.0, exact), exact)
        exact = np.where((sums == 0) & ~nan, 0.0, exact)
        return exact.astype(np.float32)


def _accumulate(terms: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Sum over the first axis, from index 0 up, each addition as the core's adder does it."""
    with np.errstate(over="ignore", invalid="ignore"):
        partial = np.add.accumulate(terms, axis=0)
        magnitude = np.abs(partial)
        if not (np.isfinite(partial).all() and ((magnitude >= _SMALLEST_NORMAL) | (magnitude == 0)).all()):
            total = fp32.canonicalize(terms[0])
            for term in terms[1:]:
                total = fp32.add(total, term)
            return fp32.bits(total)
    return partial[-1].view(np.uint32)


class _PassByPass:
    """Runs any MATMUL, in groups of accumulator rows that are named once, a few passes at a time."""

    def __init__(self, plan: MatmulPlan):
        self.plan = plan

    def run(self, state: CoreState):
        """Execute on ``state``."""
        plan, steps = self.plan, self.plan.a_offset.size
        if plan.repeated:  # Rows meet themselves within a pass: passes one by one.
            for j in range(plan.n_tiles):
                for step in range(steps):
                    fresh = step == 0 and not plan.accumulate
                    for group in (g for g in plan.groups if g[0] == j):
                        self._add(state, group, slice(step, step + 1), fresh)
            return
        for group in plan.groups:
            elements = (group[1] - group[0]) * (group[3] - group[2]) * plan.side
            chunk = max(1, _CHUNK // elements)
            for begin in range(0, steps, chunk):
                fresh = begin == 0 and not plan.accumulate
                self._add(state, group, slice(begin, min(begin + chunk, steps)), fresh)

    def _streamed(self, state: CoreState, steps: slice, start: int, stop: int) -> tuple[NDArray, NDArray]:
        """Rows of A as (step, m, T) binary32 and their exponents (step, m)."""
        plan = self.plan
        address = plan.stream[start:stop] + plan.a_offset[steps, None] * plan.side
        tile, row = np.divmod(address, plan.side)
        source = state.tiles.swapaxes(1, 2) if plan.a_transpose else state.tiles
        return source[tile, row].astype(np.float32), state.exponents[tile]

    def _stationary(self, state: CoreState, steps: slice, first: int, last: int) -> tuple[NDArray, NDArray]:
        """Tiles of B as (step, T, n * T) binary32 and their exponents (step, n)."""
        index = self.plan.b_tiles[first:last, steps].T
        source = state.tiles.swapaxes(1, 2) if self.plan.b_transpose else state.tiles
        tiles = source[index].astype(np.float32)  # (step, n, T, T)
        side = self.plan.side
        return tiles.swapaxes(1, 2).reshape(-1, side, (last - first) * side), state.exponents[index]

    def _add(self, state: CoreState, group: tuple[int, int, int, int], steps: slice, fresh: bool):
        """Add (or, when ``fresh``, set) the sums of these steps to accumulators of a group without repeated rows."""
        plan = self.plan
        first, last, start, stop = group
        x, a_exponents = self._streamed(state, steps, start, stop)
        w, b_exponents = self._stationary(state, steps, first, last)
        sums = (x @ w).reshape(x.shape[0], stop - start, last - first, plan.side)
        limb_sum = plan.limb_sum[np.arange(plan.a_offset.size)[steps] % len(plan.passes)]
        terms = scale_sums(
            sums, a_exponents[:, :, None, None], b_exponents[:, None, :, None], limb_sum[:, None, None, None]
        )
        rows = plan.rows[first:last, start:stop].T  # (m, n)
        if not fresh:
            terms = np.concatenate([state.local[rows].view(np.float32)[None], terms])
        state.local[rows] = _accumulate(terms)


def prepare_matmul(config: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """Rows of A through tiles of B, into accumulators, for use within ``numpy.errstate(all="ignore")``."""
    plan = MatmulPlan(config, f)
    general = _PassByPass(plan).run
    if not DirectProduct.suits(plan):
        return general
    direct = DirectProduct(plan)

    def execute(state: CoreState):
        if not direct.run(state):
            general(state)

    return execute
