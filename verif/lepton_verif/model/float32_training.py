"""Training of a dense network in NumPy's float32: what precision 32 on the core is compared with.

A plain implementation on its own: it shares nothing with `equations` but `Dense` and the optimizers' settings. Every
array is float32 and every operation rounds to it; sums of products are in the order of the BLAS library. Formulas are
Keras's. How far the core may be from it after some steps is in `training_bound`.

With ``side`` it does one thing that float32 would not, and the core does: operands of matrix products saturate at the
largest number of their tile, 0x7F7F7F / 2^22 * 2^E (docs/numerics.md, section 6), which is up to 0.4 % below what they
are. Without it, that would hide all smaller differences.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .equations import Adam, Dense, Sgd

__all__ = ["State", "train", "trajectory"]

Array = NDArray[np.float32]


def _activate(name: str, z: Array) -> Array:
    if name == "relu":
        return np.maximum(z, np.float32(0))
    if name == "sigmoid":
        return np.float32(1) / (np.float32(1) + np.exp(-z))
    if name == "tanh":
        return np.tanh(z)
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    return z


def _delta(name: str, a: Array, upstream: Array) -> Array:
    """dE/dz from dE/da."""
    if name == "relu":
        return np.where(a > 0, upstream, np.float32(0))
    if name == "sigmoid":
        return upstream * (a * (np.float32(1) - a))
    if name == "tanh":
        return upstream * (np.float32(1) - a * a)
    return upstream


def _output_delta(name: str, a: Array, target: NDArray, loss: str) -> Array:
    """dE/dz of the last layer, for the mean of the loss over the samples."""
    count = len(a)
    if loss == "sparse_categorical_crossentropy":
        delta = a.copy()
        delta[np.arange(count), target] -= np.float32(1)
        return delta * np.float32(1 / count)
    factor = 2 / count if loss == "squared_error" else 2 / a.size
    return _delta(name, a, (a - target.astype(np.float32)) * np.float32(factor))


def _saturated(x: Array, side: int | None) -> Array:
    """What QUANT makes of a matrix at precision 32, but for its rounding."""
    if side is None:
        return x
    rows, cols = x.shape
    padded = np.pad(x, ((0, -rows % side), (0, -cols % side)))
    largest = np.abs(padded).reshape(padded.shape[0] // side, side, -1, side).max(axis=(1, 3))
    limits = np.ldexp(np.float32(0x7F7F7F / 2**22), np.frexp(largest)[1] - 1)
    limits = np.where(largest > 0, limits, np.float32(0)).repeat(side, axis=0).repeat(side, axis=1)[:rows, :cols]
    return np.clip(x, -limits, limits)


def _gradients(
    names: list[str], parameters: list[Array], x: Array, target: NDArray, loss: str, side: int | None
) -> list[Array]:
    """dE/dW and dE/db of each layer, one behind the other, as the parameters are."""
    weights, inputs, outputs = [_saturated(w, side) for w in parameters[::2]], [], [x]
    for name, w, bias in zip(names, weights, parameters[1::2]):
        inputs.append(_saturated(outputs[-1], side))
        outputs.append(_activate(name, inputs[-1] @ w + bias))
    delta = _saturated(_output_delta(names[-1], outputs[-1], target, loss), side)
    gradients: list[Array] = []
    for l in range(len(names) - 1, -1, -1):
        gradients[:0] = [inputs[l].T @ delta, delta.sum(axis=0)]
        if l:
            delta = _saturated(_delta(names[l - 1], outputs[l], delta @ weights[l].T), side)
    return gradients


class State(NamedTuple):
    """Weights and bias of each layer; velocity or m, and v, of each of these in the same order (0 if there is none)."""

    parameters: list[Array]
    first: list[Array]
    second: list[Array]


class _Update:
    """The optimizer of ``settings``, and its state, in float32."""

    def __init__(self, settings: Sgd | Adam, parameters: list[Array]):
        self._settings, self._step = settings, 0
        self.first = [np.zeros_like(w) for w in parameters]
        self.second = [np.zeros_like(w) for w in parameters]

    def apply(self, parameters: list[Array], gradients: list[Array]):
        """One step, in place."""
        self._step += 1
        for i, g in enumerate(gradients):
            parameters[i] += self._adam(i, g) if isinstance(self._settings, Adam) else self._sgd(self._settings, i, g)

    def _sgd(self, settings: Sgd, i: int, g: Array) -> Array:
        rate, momentum, v = np.float32(settings.rate), np.float32(settings.momentum), self.first[i]
        v[:] = momentum * v - rate * g
        return momentum * v - rate * g if settings.nesterov else v

    def _adam(self, i: int, g: Array) -> Array:
        settings = self._settings
        assert isinstance(settings, Adam)
        alpha = settings.rate * (1 - settings.beta_2**self._step) ** 0.5 / (1 - settings.beta_1**self._step)
        m, v = self.first[i], self.second[i]
        m += (g - m) * np.float32(1 - settings.beta_1)
        v += (g * g - v) * np.float32(1 - settings.beta_2)
        denominator: Array = np.sqrt(v) + np.float32(settings.epsilon)
        return -(m * np.float32(alpha)) / denominator


def trajectory(
    layers: Sequence[Dense],
    batches: Iterable[tuple[NDArray, NDArray]],
    loss: str,
    optimizer: Sgd | Adam,
    *,
    side: int | None = None,
) -> Iterator[State]:
    """The state before the first step, and after each; see `train`."""
    softmax = [layer.activation == "softmax" for layer in layers]
    if softmax != [False] * (len(layers) - 1) + [loss == "sparse_categorical_crossentropy"]:
        raise ValueError(f"softmax must be the last layer of a cross-entropy and nothing else, not with {loss}")
    names = [layer.activation for layer in layers]
    parameters = [part.astype(np.float32) for layer in layers for part in (layer.weights, layer.bias)]
    update = _Update(optimizer, parameters)

    def state() -> State:
        return State(*([part.copy() for part in parts] for parts in (parameters, update.first, update.second)))

    yield state()
    for x, target in batches:
        update.apply(parameters, _gradients(names, parameters, np.asarray(x, np.float32), target, loss, side))
        yield state()


def train(
    layers: Sequence[Dense],
    batches: Iterable[tuple[NDArray, NDArray]],
    loss: str,
    optimizer: Sgd | Adam,
    *,
    side: int | None = None,
) -> list[tuple[Array, Array]]:
    """Weights and bias of every layer after one step for each batch.

    Parameters
    ----------
    layers : sequence of Dense
        Rounded to float32; the last is ``"softmax"`` for sparse categorical cross-entropy, and for nothing else.
    batches : iterable of (x, target)
        x (samples, inputs), rounded to float32; target (samples,) integer labels, or (samples, outputs).
    loss : str
        A name of `equations.LOSSES`.
    optimizer : Sgd or Adam
        Its settings; its state is left alone, and taken as none yet.
    side : int or None
        Saturate operands as a core with tiles of this side does; None for plain float32.

    Raises
    ------
    ValueError
        For a softmax that is not the last layer of a cross-entropy, or a cross-entropy without one.
    """
    parameters: list[Array] = []
    for state in trajectory(layers, batches, loss, optimizer, side=side):
        parameters = state.parameters
    return list(zip(parameters[::2], parameters[1::2]))
