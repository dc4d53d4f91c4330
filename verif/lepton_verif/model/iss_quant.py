"""QUANT and SEED of the instruction-set simulator."""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import FaultCause, Precision, Rounding
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .arith.quantise import quantise, quantise_in_place
from .arith.stochastic import tile_numbers
from .iss_addresses import as_slice, is_local, nest
from .iss_state import CoreState, EngineFaultError

__all__ = ["prepare_quant", "prepare_seed"]


def prepare_quant(config: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """Quantise a matrix of local rows to tiles.

    Tile columns are the outer loop, tile rows the inner one. For each tile its limb planes' tiles are checked, then its
    source rows; tiles before the first bad one are written.
    """
    side, precision = config.side, Precision(f["precision"])
    stochastic = f["rounding"] == Rounding.STOCHASTIC
    rows, cols, limbs = f["rows"], f["cols"], Precision(f["precision"]).limbs
    high, wide = -(-rows // side), -(-cols // side)
    source = np.broadcast_to(nest(f["source"], (rows, f["source_stride"]), (wide, 1)), (rows, wide))
    # (limb, tile column, tile row), the order in which tiles are written
    target = f["tile"] + (
        np.arange(limbs)[:, None, None] * f["limb_stride"]
        + np.arange(wide)[:, None] * f["tile_stride"]
        + np.arange(high)
    )
    valid = bool(is_local(config, source).all()) and int(target.max()) < config.tiles
    index, places = as_slice(source), [as_slice(plane) for plane in target]
    # Rows of the tiles, in the order in which they are written, by their places in the padded matrix.
    tile_rows = np.arange(high * side * wide).reshape(high * side, wide).T.reshape(-1)

    def numbers(state: CoreState, high: int, wide: int) -> NDArray[np.int64] | None:
        """Random numbers of the next high x wide tiles, if they are rounded with them."""
        if not stochastic:
            return None
        found, state.generator = tile_numbers(state.generator, high, wide, side)
        return found

    def execute(state: CoreState):
        if valid:
            words = state.local[index].reshape(rows, wide * side)[:, :cols]
            planes, exponents = quantise_in_place(words, precision, side, numbers(state, high, wide))
            for place, plane in zip(places, planes):
                state.tiles[place] = plane.reshape(-1, side).take(tile_rows, axis=0).reshape(-1, side, side)
                state.exponents[place] = exponents.T.reshape(-1)
            return
        for j in range(wide):
            for i in range(high):
                for limb in range(limbs):
                    if target[limb, j, i] >= config.tiles:
                        raise EngineFaultError(FaultCause.LOCAL_RANGE, int(target[limb, j, i]) * side)
                read = source[i * side : (i + 1) * side, j]
                good = is_local(config, read)
                if not good.all():
                    raise EngineFaultError(FaultCause.LOCAL_RANGE, int(read[~good][0]))
                words = state.local[read][:, : min(side, cols - j * side)]
                tile = quantise(words, precision, side, numbers(state, 1, 1))
                for limb in range(limbs):
                    state.tiles[target[limb, j, i]] = tile.mantissas[limb, 0, 0]
                    state.exponents[target[limb, j, i]] = tile.exponents[0, 0]

    return execute


def prepare_seed(_: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """Set the generator."""

    def execute(state: CoreState):
        state.generator = f["seed"]

    return execute
