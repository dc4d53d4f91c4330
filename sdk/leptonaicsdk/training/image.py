"""Weights and optimizer state as the image in host memory has them, and as arrays of each layer."""

import numpy as np
from numpy.typing import NDArray

from leptonaicsdk.network import Activation
from leptonaicsdk.state import Pair

from .layout import Persistent

__all__ = ["pack", "unpack"]


def pack(persistent: Persistent, values: list[Pair], *, parameters: bool) -> NDArray[np.float32]:
    """Local rows of a slot, (rows, T), from (weights, bias) of each layer.

    With ``parameters``, unused lanes of a softmax layer's bias are -inf, so that exp gives them 0.

    Raises
    ------
    ValueError
        For shapes that are not the layers'.
    """
    side = persistent.config.side
    if len(values) != len(persistent.layers):
        raise ValueError(f"parameters must be of {len(persistent.layers)} layers, not {len(values)}")
    parts = []
    for layer, dense, (weights, bias) in zip(persistent.layers, persistent.network.layers, values):
        weights, bias = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
        if weights.shape != (layer.inputs, layer.units) or bias.shape != (layer.units,):
            raise ValueError(
                f"layer {layer.index}: weights and bias must have shapes {(layer.inputs, layer.units)} and "
                f"({layer.units},), not {weights.shape} and {bias.shape}"
            )
        rows = np.zeros((layer.inputs + 1, layer.n_tiles * side), np.float32)
        rows[:-1, : layer.units], rows[-1, : layer.units] = weights, bias
        if parameters and dense.activation == Activation.SOFTMAX:
            rows[-1, layer.units :] = -np.inf
        parts.append(rows.reshape(-1, side))
    return np.concatenate(parts)


def unpack(persistent: Persistent, image: NDArray[np.float32], unit: float = 1.0) -> list[Pair]:
    """(weights, bias) of each layer, times ``unit``, from the local rows of a slot."""
    factor, side, result = np.float32(unit), persistent.config.side, []
    for layer, first in zip(persistent.layers, persistent.first_row):
        rows = image[first : first + layer.rows].reshape(layer.inputs + 1, layer.n_tiles * side)
        result.append((rows[:-1, : layer.units] * factor, rows[-1, : layer.units] * factor))
    return result
