"""Dense layers and their activations, forward and backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Array",
    "Dense",
    "Gradient",
    "Trace",
    "accuracy",
    "affine",
    "backward",
    "backward_from_delta",
    "forward",
    "relu",
    "sigmoid",
    "softmax",
]

Array = NDArray[np.float64]


def affine(x: Array, weights: Array, bias: Array) -> Array:
    """z = x W + b: (samples, inputs) to (samples, outputs)."""
    return x @ weights + bias


def relu(z: Array) -> Array:
    """max(0, z)."""
    return np.maximum(0.0, z)


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z), without overflow for either sign."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def softmax(z: Array) -> Array:
    """e^z / sum of e^z along the last axis; subtracting the row's maximum first only avoids overflow."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Activation(NamedTuple):
    """a = f(z), and dE/dz from a and dE/da; all (samples, outputs)."""

    function: Callable[[Array], Array]
    back: Callable[[Array, Array], Array]


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda z: z, lambda a, upstream: upstream),
    "relu": Activation(relu, lambda a, upstream: upstream * (a > 0)),
    "sigmoid": Activation(sigmoid, lambda a, upstream: upstream * a * (1.0 - a)),
    "tanh": Activation(np.tanh, lambda a, upstream: upstream * (1.0 - a * a)),
    "softmax": Activation(softmax, lambda a, upstream: a * (upstream - (upstream * a).sum(axis=-1, keepdims=True))),
}
"""By Keras's names. The derivative of relu at 0 is 0. Softmax couples a sample's outputs:
da_j/dz_k = a_j ([j = k] - a_k)."""


@dataclass
class Dense:
    """A dense layer: ``weights`` (inputs, outputs), ``bias`` (outputs,), and the name of its activation."""

    weights: Array
    bias: Array
    activation: str = "relu"


class Trace(NamedTuple):
    """What a forward pass leaves: the input and every layer's output; every layer's z."""

    activations: list[Array]
    sums: list[Array]

    @property
    def output(self) -> Array:
        """Of the last layer."""
        return self.activations[-1]


class Gradient(NamedTuple):
    """dE/dW (inputs, outputs) and dE/db (outputs,) of a layer."""

    weights: Array
    bias: Array


def forward(layers: Sequence[Dense], x: Array) -> Trace:
    """z_l = a_(l-1) W_l + b_l and a_l = f(z_l) for every layer."""
    activations, sums = [x], []
    for layer in layers:
        sums.append(affine(activations[-1], layer.weights, layer.bias))
        activations.append(ACTIVATIONS[layer.activation].function(sums[-1]))
    return Trace(activations, sums)


def backward(layers: Sequence[Dense], trace: Trace, output_gradient: Array) -> list[Gradient]:
    """Gradients of all layers from dE/da of the last layer's output."""
    delta = ACTIVATIONS[layers[-1].activation].back(trace.output, output_gradient)
    return backward_from_delta(layers, trace, delta)


def backward_from_delta(layers: Sequence[Dense], trace: Trace, delta: Array) -> list[Gradient]:
    """Gradients of all layers from dE/dz of the last layer.

    dE/dW_l = a_(l-1)^T delta_l;  dE/db_l = sum of delta_l over the samples;  dE/da_(l-1) = delta_l W_l^T;
    delta_(l-1) = dE/da_(l-1) * f'(z_(l-1)).
    """
    gradients: list[Gradient] = []
    for l in reversed(range(len(layers))):
        gradients.insert(0, Gradient(trace.activations[l].T @ delta, delta.sum(axis=0)))
        if l:
            upstream = delta @ layers[l].weights.T
            delta = ACTIVATIONS[layers[l - 1].activation].back(trace.activations[l], upstream)
    return gradients


def accuracy(scores: Array, labels: NDArray[np.integer]) -> float:
    """Share of the rows whose greatest score is the label's."""
    return float((scores.argmax(axis=-1) == labels).mean())
