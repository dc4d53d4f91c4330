"""Losses, and the gradients of a whole network by them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .layers import Array, Dense, Gradient, backward, backward_from_delta, forward, softmax

__all__ = [
    "LOSSES",
    "Loss",
    "cross_entropy",
    "cross_entropy_delta",
    "loss_and_gradients",
    "mean_squared_error",
    "mean_squared_error_delta",
    "squared_error",
    "squared_error_delta",
]


def squared_error(a: Array, y: Array) -> float:
    """Mean over the samples of the sum over the outputs of (a - y)^2."""
    return float(np.square(a - y).sum(axis=-1).mean())


def squared_error_delta(a: Array, y: Array) -> Array:
    """dE/da of `squared_error`: 2 (a - y) / samples."""
    return 2.0 * (a - y) / len(a)


def mean_squared_error(a: Array, y: Array) -> float:
    """Mean over samples and outputs of (a - y)^2: Keras's, `squared_error` divided by the number of outputs."""
    return float(np.square(a - y).mean())


def mean_squared_error_delta(a: Array, y: Array) -> Array:
    """dE/da of `mean_squared_error`: 2 (a - y) / (samples * outputs)."""
    return 2.0 * (a - y) / a.size


def _checked(z: Array, labels: NDArray[np.integer]) -> NDArray[np.integer]:
    bad = np.flatnonzero((labels < 0) | (labels >= z.shape[-1]))
    if bad.size:
        raise ValueError(f"labels must be from 0 to {z.shape[-1] - 1}, not {labels[bad[0]]} (sample {bad[0]})")
    return labels


def cross_entropy(z: Array, labels: NDArray[np.integer]) -> float:
    """Sparse categorical cross-entropy of softmax(z): mean of -log p[label].

    Computed from z, as Keras does where it knows the softmax before the loss; where it does not, it clips p to
    1e-7..1 - 1e-7 first, which this does not.

    Raises
    ------
    ValueError
        For a label that is no column of z.
    """
    shifted = z - z.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(-log_p[np.arange(len(z)), _checked(z, labels)].mean())


def cross_entropy_delta(z: Array, labels: NDArray[np.integer]) -> Array:
    """dE/dz of `cross_entropy`: (softmax(z) - one-hot of the label) / samples."""
    delta = softmax(z)
    delta[np.arange(len(z)), _checked(z, labels)] -= 1.0
    return delta / len(z)


class Loss(NamedTuple):
    """E and its gradient by the last layer's outputs a, or by its z with ``of_sums``; both of (a or z, target)."""

    value: Callable[[Array, NDArray], float]
    gradient: Callable[[Array, NDArray], Array]
    of_sums: bool = False


LOSSES: dict[str, Loss] = {
    "squared_error": Loss(squared_error, squared_error_delta),
    "mean_squared_error": Loss(mean_squared_error, mean_squared_error_delta),
    "sparse_categorical_crossentropy": Loss(cross_entropy, cross_entropy_delta, of_sums=True),
}
"""By Keras's names, but for the founding document's squared error, which Keras does not have."""


def loss_and_gradients(layers: Sequence[Dense], x: Array, target: NDArray, loss: str) -> tuple[float, list[Gradient]]:
    """E of a batch, and dE/dW, dE/db of every layer.

    Parameters
    ----------
    layers : sequence of Dense
        The last is ``"softmax"`` for sparse categorical cross-entropy.
    x : (samples, inputs)
    target : (samples, outputs), or (samples,) integer labels for sparse categorical cross-entropy
    loss : str
        A name of `LOSSES`.

    Raises
    ------
    ValueError
        For an unknown loss, for labels out of range, and for a cross-entropy of anything but a softmax.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    value, gradient, of_sums = LOSSES[loss]
    trace = forward(layers, x)
    if not of_sums:
        return value(trace.output, target), backward(layers, trace, gradient(trace.output, target))
    if layers[-1].activation != "softmax":
        raise ValueError(f"{loss} must follow a softmax, not {layers[-1].activation!r}")
    z = trace.sums[-1]
    return value(z, target), backward_from_delta(layers, trace, gradient(z, target))
