"""Equations of a dense network in float64: the golden model's first level.

Rows are samples: x is (samples, inputs), W is (inputs, outputs). The delta of a layer is dE/dz, for the mean of E over
the samples. Back-propagation: D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
back-propagating errors", Nature 323, 1986.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "Adam",
    "Dense",
    "Gradient",
    "Trace",
    "accuracy",
    "affine",
    "backward",
    "cross_entropy",
    "cross_entropy_delta",
    "forward",
    "relu",
    "sgd",
    "sigmoid",
    "softmax",
    "squared_error",
    "squared_error_delta",
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
    """A function of z, and its derivative as a function of its own result a."""

    function: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


ACTIVATIONS: dict[str, Activation] = {
    "linear": Activation(lambda z: z, np.ones_like),
    "relu": Activation(relu, lambda a: (a > 0).astype(np.float64)),
    "sigmoid": Activation(sigmoid, lambda a: a * (1.0 - a)),
    "tanh": Activation(np.tanh, lambda a: 1.0 - a * a),
}
"""Elementwise activations by name. The derivative of relu at 0 is 0."""


@dataclass
class Dense:
    """A dense layer: ``weights`` (inputs, outputs), ``bias`` (outputs,), and the name of its activation.

    A last layer with softmax is ``"linear"``: softmax belongs to its loss.
    """

    weights: Array
    bias: Array
    activation: str = "relu"


class Trace(NamedTuple):
    """Activations of a forward pass: the input, then every layer's output."""

    activations: list[Array]

    @property
    def output(self) -> Array:
        """Of the last layer."""
        return self.activations[-1]


class Gradient(NamedTuple):
    """dE/dW (inputs, outputs) and dE/db (outputs,) of a layer."""

    weights: Array
    bias: Array


def forward(layers: Sequence[Dense], x: Array) -> Trace:
    """a_l = f(a_(l-1) W_l + b_l) for every layer."""
    activations = [x]
    for layer in layers:
        z = affine(activations[-1], layer.weights, layer.bias)
        activations.append(ACTIVATIONS[layer.activation].function(z))
    return Trace(activations)


def squared_error(a: Array, y: Array) -> float:
    """Mean over the samples of sum over the outputs of (a - y)^2."""
    return float(np.square(a - y).sum(axis=-1).mean())


def squared_error_delta(a: Array, y: Array) -> Array:
    """dE/da of `squared_error`: 2 (a - y) / samples."""
    return 2.0 * (a - y) / len(a)


def cross_entropy(z: Array, labels: NDArray[np.integer]) -> float:
    """Sparse categorical cross-entropy of softmax(z): mean of -log p[label]."""
    shifted = z - z.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return float(-log_p[np.arange(len(z)), labels].mean())


def cross_entropy_delta(z: Array, labels: NDArray[np.integer]) -> Array:
    """dE/dz of `cross_entropy`: (softmax(z) - one-hot of the label) / samples."""
    delta = softmax(z)
    delta[np.arange(len(z)), labels] -= 1.0
    return delta / len(z)


def backward(layers: Sequence[Dense], trace: Trace, output_gradient: Array) -> list[Gradient]:
    """Gradients of all layers from dE/da of the last layer's output.

    delta_l = dE/da_l * f'(z_l);  dE/dW_l = a_(l-1)^T delta_l;  dE/db_l = sum of delta_l;  dE/da_(l-1) = delta_l W_l^T.
    """
    gradients: list[Gradient] = []
    upstream = output_gradient
    for l in reversed(range(len(layers))):
        delta = upstream * ACTIVATIONS[layers[l].activation].derivative(trace.activations[l + 1])
        gradients.insert(0, Gradient(trace.activations[l].T @ delta, delta.sum(axis=0)))
        upstream = delta @ layers[l].weights.T
    return gradients


def sgd(layers: Sequence[Dense], gradients: Sequence[Gradient], rate: float) -> list[Dense]:
    """Layers after w - rate * dE/dw."""
    return [
        Dense(layer.weights - rate * gradient.weights, layer.bias - rate * gradient.bias, layer.activation)
        for layer, gradient in zip(layers, gradients)
    ]


class Adam:
    """Adam with bias correction (D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015).

    Parameters
    ----------
    layers : sequence of Dense
        For their shapes.
    rate, beta1, beta2, epsilon : float
        The paper's alpha, beta_1, beta_2, epsilon.
    """

    def __init__(
        self,
        layers: Sequence[Dense],
        rate: float = 1e-3,
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
    ):
        self.rate, self.beta1, self.beta2, self.epsilon = rate, beta1, beta2, epsilon
        self._steps = 0
        shapes = [part.shape for layer in layers for part in (layer.weights, layer.bias)]
        self._mean = [np.zeros(shape) for shape in shapes]
        self._square = [np.zeros(shape) for shape in shapes]

    def step(self, layers: Sequence[Dense], gradients: Sequence[Gradient]) -> list[Dense]:
        """Layers after one update."""
        self._steps += 1
        changes = []
        for i, g in enumerate(part for gradient in gradients for part in gradient):
            self._mean[i] = self.beta1 * self._mean[i] + (1 - self.beta1) * g
            self._square[i] = self.beta2 * self._square[i] + (1 - self.beta2) * g * g
            mean = self._mean[i] / (1 - self.beta1**self._steps)
            square = self._square[i] / (1 - self.beta2**self._steps)
            changes.append(self.rate * mean / (np.sqrt(square) + self.epsilon))
        return [
            Dense(layer.weights - changes[2 * l], layer.bias - changes[2 * l + 1], layer.activation)
            for l, layer in enumerate(layers)
        ]


def accuracy(scores: Array, labels: NDArray[np.integer]) -> float:
    """Share of the rows whose greatest score is the label's."""
    return float((scores.argmax(axis=-1) == labels).mean())
