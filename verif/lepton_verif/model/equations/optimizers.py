"""Optimizers: what a step does to the layers, in Keras's formulas and with Keras's defaults."""

from collections.abc import Sequence

import numpy as np

from .layers import Array, Dense, Gradient

__all__ = ["Adam", "Sgd"]


def _changed(layers: Sequence[Dense], changes: Sequence[Array]) -> list[Dense]:
    """Layers with the changes added; two of them a layer."""
    return [
        Dense(layer.weights + changes[2 * l], layer.bias + changes[2 * l + 1], layer.activation)
        for l, layer in enumerate(layers)
    ]


def _zeros(layers: Sequence[Dense]) -> list[Array]:
    return [np.zeros(part.shape) for layer in layers for part in (layer.weights, layer.bias)]


class Sgd:
    """Gradient descent: w -= rate * g; with a momentum, v = momentum * v - rate * g and w += v.

    With ``nesterov``, w += momentum * v - rate * g instead, with the new v: the look-ahead of Y. Nesterov (1983) in the
    variables of I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in deep
    learning", ICML 2013, as Keras has it.

    Parameters
    ----------
    layers : sequence of Dense
        For their shapes.
    rate, momentum : float
    nesterov : bool

    Attributes
    ----------
    velocity : list of arrays
        v of every layer's weights and bias.
    """

    def __init__(self, layers: Sequence[Dense], rate: float = 0.01, *, momentum: float = 0.0, nesterov: bool = False):
        self.rate, self.momentum, self.nesterov = rate, momentum, nesterov
        self.velocity = _zeros(layers)

    def step(self, layers: Sequence[Dense], gradients: Sequence[Gradient]) -> list[Dense]:
        """Layers after one update."""
        changes = []
        for i, g in enumerate(part for gradient in gradients for part in gradient):
            self.velocity[i] = self.momentum * self.velocity[i] - self.rate * g
            changes.append(self.momentum * self.velocity[i] - self.rate * g if self.nesterov else self.velocity[i])
        return _changed(layers, changes)


class Adam:
    """D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, in Keras's form.

    That is the one at the end of the paper's section 2, whose epsilon is not divided by the bias correction:
    m = beta_1 m + (1 - beta_1) g, v = beta_2 v + (1 - beta_2) g^2, w -= alpha m / (sqrt(v) + epsilon) with
    alpha = rate sqrt(1 - beta_2^t) / (1 - beta_1^t) in step t = 1, 2, ...

    Parameters
    ----------
    layers : sequence of Dense
        For their shapes.
    rate, beta_1, beta_2, epsilon : float

    Attributes
    ----------
    steps : int
        Steps done.
    mean, square : list of arrays
        m and v of every layer's weights and bias.
    """

    def __init__(
        self,
        layers: Sequence[Dense],
        rate: float = 1e-3,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ):
        self.rate, self.beta_1, self.beta_2, self.epsilon = rate, beta_1, beta_2, epsilon
        self.steps = 0
        self.mean, self.square = _zeros(layers), _zeros(layers)

    def step(self, layers: Sequence[Dense], gradients: Sequence[Gradient]) -> list[Dense]:
        """Layers after one update."""
        self.steps += 1
        alpha = self.rate * np.sqrt(1 - self.beta_2**self.steps) / (1 - self.beta_1**self.steps)
        changes = []
        for i, g in enumerate(part for gradient in gradients for part in gradient):
            self.mean[i] = self.beta_1 * self.mean[i] + (1 - self.beta_1) * g
            self.square[i] = self.beta_2 * self.square[i] + (1 - self.beta_2) * g * g
            changes.append(-alpha * self.mean[i] / (np.sqrt(self.square[i]) + self.epsilon))
        return _changed(layers, changes)
