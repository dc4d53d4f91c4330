"""QUANT of the instruction-set simulator."""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import FaultCause, Precision
from lepton_npu.spec.config import NpuConfig

from .arith.quantise import quantise
from .iss_addresses import as_slice, is_local, nest
from .iss_state import CoreState, EngineFaultError

__all__ = ["prepare_quant"]


def prepare_quant(config: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """Quantise a matrix of local rows to tiles.

    Tile columns are the outer loop, tile rows the inner one. For each tile its limb planes' tiles are checked, then its
    source rows; tiles before the first bad one are written.
    """
    side, precision = config.side, Precision(f["precision"])
    rows, cols, limbs = f["rows"], f["cols"], Precision(f["precision"]).limbs
    high, wide = -(-rows // side), -(-cols // side)
    source = np.broadcast_to(nest(f["source"], (rows, f["source_stride"]), (wide, 1)), (rows, wide))
    # (limb, tile row, tile column)
    target = f["tile"] + (
        np.arange(limbs)[:, None, None] * f["limb_stride"]
        + np.arange(high)[:, None]
        + np.arange(wide) * f["tile_stride"]
    )
    valid = bool(is_local(config, source).all()) and int(target.max()) < config.tiles
    index = as_slice(source)

    def execute(state: CoreState):
        if valid:
            words = state.local[index].reshape(rows, wide * side)[:, :cols]
            tiles = quantise(words, precision, side)
            for limb in range(limbs):
                state.tiles[target[limb].T] = tiles.mantissas[limb].swapaxes(0, 1)
                state.exponents[target[limb].T] = tiles.exponents.T
            return
        for j in range(wide):
            for i in range(high):
                for limb in range(limbs):
                    if target[limb, i, j] >= config.tiles:
                        raise EngineFaultError(FaultCause.LOCAL_RANGE, int(target[limb, i, j]) * side)
                read = source[i * side : (i + 1) * side, j]
                good = is_local(config, read)
                if not good.all():
                    raise EngineFaultError(FaultCause.LOCAL_RANGE, int(read[~good][0]))
                tile = quantise(state.local[read][:, : min(side, cols - j * side)], precision, side)
                for limb in range(limbs):
                    state.tiles[target[limb, i, j]] = tile.mantissas[limb, 0, 0]
                    state.exponents[target[limb, i, j]] = tile.exponents[0, 0]

    return execute
