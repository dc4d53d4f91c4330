"""Networks, data and optimizers that trainings are compared on."""

from typing import NamedTuple

import numpy as np
from lepton_verif.model import equations as eq
from numpy.typing import NDArray

CROSS_ENTROPY = "sparse_categorical_crossentropy"
OPTIMIZERS = {
    "sgd": eq.Sgd([], 0.05),
    "momentum": eq.Sgd([], 0.02, momentum=0.9),
    "nesterov": eq.Sgd([], 0.02, momentum=0.9, nesterov=True),
    "adam": eq.Adam([], 0.002),
}


class Example(NamedTuple):
    layers: list[eq.Dense]
    x: NDArray[np.float32]
    y: NDArray
    batch: int

    @property
    def batches(self):
        return [
            (self.x[start : start + self.batch], self.y[start : start + self.batch])
            for start in range(0, len(self.x), self.batch)
        ]


def example(activations, loss, seed, *, sizes=(6, 5, 3), steps=100, batch=8) -> Example:
    """Random weights; what a random linear teacher says of random samples."""
    rng = np.random.default_rng(seed)
    layers = [
        eq.Dense(
            (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32),
            (0.1 * rng.standard_normal(outputs)).astype(np.float32),
            activation,
        )
        for inputs, outputs, activation in zip(sizes, sizes[1:], activations)
    ]
    teacher = rng.standard_normal((sizes[0], sizes[-1]))
    x = rng.standard_normal((steps * batch, sizes[0])).astype(np.float32)
    y = (x @ teacher).argmax(axis=1) if loss == CROSS_ENTROPY else np.tanh(x @ teacher).astype(np.float32)
    return Example(layers, x, y, batch)


def ratio(found, expected, tolerance) -> float:
    """Greatest difference of two lists of (weights, bias), as a share of the tolerance."""
    return max(
        float((np.abs(a.astype(np.float64) - b) / limit).max())
        for pair, other, limits in zip(found, expected, tolerance, strict=True)
        for a, b, limit in zip(pair, other, limits, strict=True)
    )
