"""MATMUL of the instruction-set simulator.

A column sum is exact in binary32 (at most 21 bits), so it comes from a floating-point matrix product. The additions to
an accumulator keep the specified order: `numpy.add.accumulate` adds one pass after another. Where a sum would
leave the normal numbers, the twins of the adder do it again, step by step.
"""

from collections.abc import Callable, Iterator

import numpy as np
from lepton_npu.spec.commands import FaultCause, Precision
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from numpy.typing import NDArray

from .arith import fp32
from .arith.quantise import NAN_EXPONENT
from .iss_addresses import check_range
from .iss_state import CoreState, EngineFaultError

__all__ = ["limb_passes", "prepare_matmul", "scale_sums"]

_CHUNK = 1 << 21
_MAX_LIMB_SUM = 2
_UNIT = 254 + 12
_SMALLEST_NORMAL = np.float32(2.0**-126)


def limb_passes(a_precision: int, b_precision: int) -> list[tuple[int, int]]:
    """Limb passes (la, lb) in their order."""
    return [
        (la, lb)
        for lb in range(Precision(b_precision).limbs)
        for la in range(Precision(a_precision).limbs)
        if la + lb <= _MAX_LIMB_SUM
    ]


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


def _distinct_runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Longest runs [start, stop) of ``rows`` in which no row is named twice."""
    start, seen = 0, set[int]()
    for position, row in enumerate(rows.tolist()):
        if row in seen:
            yield start, position
            start, seen = position, set()
        seen.add(row)
    yield start, rows.size


class _Plan:
    """Addresses of a MATMUL, checked."""

    def __init__(self, config: NpuConfig, f: dict[str, int]):
        side = config.side
        self.side = side
        self.passes = limb_passes(f["a_precision"], f["b_precision"])
        la, lb = np.array(self.passes).T
        self.limb_sum = la + lb
        self.k_tiles, self.n_tiles = f["k_tiles"], f["n_tiles"]
        self.accumulate = bool(f["accumulate"])
        self.a_transpose, self.b_transpose = bool(f["a_transpose"]), bool(f["b_transpose"])
        k = np.arange(self.k_tiles)[:, None]
        # Steps of the contraction in their order: all limb passes of a K tile, then the next K tile.
        a_offset = (k * f["a_k_stride"] + la * f["a_limb_stride"]).reshape(-1)
        b_offset = (k * f["b_k_stride"] + lb * f["b_limb_stride"]).reshape(-1)
        n = np.arange(self.n_tiles)
        self.b_tiles = f["b_tile"] + n[:, None] * f["b_n_stride"] + b_offset  # (n, step)

        m = np.arange(f["rows"], dtype=np.int64)
        i0, rest = m % f["count0"], m // f["count0"]
        i1, i2 = rest % f["count1"], rest // f["count1"]
        stream = f["a_tile"] * side + f["a_row"] + i0 * f["a_stride0"] + i1 * f["a_stride1"] + i2 * f["a_stride2"]
        self.stream, self.a_offset = stream, a_offset
        rows = f["acc"] + i0 * f["acc_stride0"] + i1 * f["acc_stride1"] + i2 * f["acc_stride2"]
        self.rows = rows + n[:, None] * f["acc_n_stride"]  # (n, m)
        self._check(config)

        flat = self.rows.reshape(-1)
        if np.unique(flat).size == flat.size:
            self.groups = [(0, self.n_tiles, 0, f["rows"])]
        else:
            self.groups = [(j, j + 1, *run) for j in range(self.n_tiles) for run in _distinct_runs(self.rows[j])]
        self.repeated = any(stop - start < f["rows"] for _, _, start, stop in self.groups)

    def _check(self, config: NpuConfig):
        """LOCAL_RANGE of the first bad address: stationary tile, then streamed row and accumulator row of each m."""
        limit, low, high = config.tiles * self.side, ACC_SPACE, ACC_SPACE + config.acc_rows
        if (
            self.b_tiles.max() < config.tiles
            and self.stream.min() + self.a_offset.min() * self.side >= 0
            and self.stream.max() + self.a_offset.max() * self.side < limit
            and self.rows.min() >= low
            and self.rows.max() < high
        ):
            return
        for j in range(self.n_tiles):
            for step, offset in enumerate(self.a_offset):
                if self.b_tiles[j, step] >= config.tiles:
                    raise EngineFaultError(FaultCause.LOCAL_RANGE, int(self.b_tiles[j, step]) * self.side)
                streamed = self.stream + offset * self.side
                bad_stream = (streamed < 0) | (streamed >= limit)
                bad_row = (self.rows[j] < low) | (self.rows[j] >= high)
                if (bad := bad_stream | bad_row).any():
                    first = int(np.argmax(bad))
                    check_range(streamed[first : first + 1], 0, limit)
                    raise EngineFaultError(FaultCause.LOCAL_RANGE, int(self.rows[j, first]))
        raise AssertionError("a bad address was found by its extremes only")

    def streamed(self, state: CoreState, steps: slice, start: int, stop: int) -> tuple[NDArray, NDArray]:
        """Rows of A as (step, m, T) binary32 and their exponents (step, m)."""
        address = self.stream[start:stop] + self.a_offset[steps, None] * self.side
        tile, row = np.divmod(address, self.side)
        source = state.tiles.swapaxes(1, 2) if self.a_transpose else state.tiles
        return source[tile, row].astype(np.float32), state.exponents[tile]

    def stationary(self, state: CoreState, steps: slice, first: int, last: int) -> tuple[NDArray, NDArray]:
        """Tiles of B as (step, T, n * T) binary32 and their exponents (step, n)."""
        index = self.b_tiles[first:last, steps].T
        source = state.tiles.swapaxes(1, 2) if self.b_transpose else state.tiles
        tiles = source[index].astype(np.float32)  # (step, n, T, T)
        side = self.side
        return tiles.swapaxes(1, 2).reshape(-1, side, (last - first) * side), state.exponents[index]

    def run(self, state: CoreState, group: tuple[int, int, int, int], steps: slice, fresh: bool):
        """Add (or, when ``fresh``, set) the sums of these steps to accumulators of a group without repeated rows."""
        first, last, start, stop = group
        side, wide = self.side, last - first
        x, a_exponents = self.streamed(state, steps, start, stop)
        w, b_exponents = self.stationary(state, steps, first, last)
        sums = (x @ w).reshape(x.shape[0], stop - start, wide, side)
        limb_sum = self.limb_sum[np.arange(self.a_offset.size)[steps] % len(self.passes)]
        terms = scale_sums(
            sums, a_exponents[:, :, None, None], b_exponents[:, None, :, None], limb_sum[:, None, None, None]
        )
        rows = self.rows[first:last, start:stop].T  # (m, n)
        if not fresh:
            terms = np.concatenate([state.local[rows].view(np.float32)[None], terms])
        state.local[rows] = _accumulate(terms)


def prepare_matmul(config: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """Rows of A through tiles of B, into accumulators."""
    plan = _Plan(config, f)
    steps = plan.a_offset.size

    def execute(state: CoreState):
        if plan.repeated:  # Rows meet themselves within a pass: passes one by one.
            for j in range(plan.n_tiles):
                for step in range(steps):
                    fresh = step == 0 and not plan.accumulate
                    for group in (g for g in plan.groups if g[0] == j):
                        plan.run(state, group, slice(step, step + 1), fresh)
            return
        for group in plan.groups:
            elements = (group[1] - group[0]) * (group[3] - group[2]) * plan.side
            chunk = max(1, _CHUNK // elements)
            for begin in range(0, steps, chunk):
                fresh = begin == 0 and not plan.accumulate
                plan.run(state, group, slice(begin, min(begin + chunk, steps)), fresh)

    return execute
