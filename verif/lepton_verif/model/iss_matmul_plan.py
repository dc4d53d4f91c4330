"""Addresses of MATMUL in the instruction-set simulator."""

from collections.abc import Iterator

import numpy as np
from lepton_npu.spec.commands import FaultCause, Precision
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from numpy.typing import NDArray

from .iss_addresses import check_range
from .iss_state import EngineFaultError

__all__ = ["MatmulPlan", "limb_passes"]

_MAX_LIMB_SUM = 2


def limb_passes(a_precision: int, b_precision: int) -> list[tuple[int, int]]:
    """Limb passes (la, lb) in their order."""
    return [
        (la, lb)
        for lb in range(Precision(b_precision).limbs)
        for la in range(Precision(a_precision).limbs)
        if la + lb <= _MAX_LIMB_SUM
    ]


def _distinct_runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Longest runs [start, stop) of ``rows`` in which no row is named twice."""
    start, seen = 0, set[int]()
    for position, row in enumerate(rows.tolist()):
        if row in seen:
            yield start, position
            start, seen = position, set()
        seen.add(row)
    yield start, rows.size


class MatmulPlan:
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
