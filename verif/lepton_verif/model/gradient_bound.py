"""Errors of gradients that are computed in binary32: on the core at precision 32, and by NumPy.

The float64 equations with a greatest error beside every number. A product of matrices is off by what its operands are
off, and by its own error. For the core that is `bounds.product_bound`: the rounding to 22 bits behind the leading one
of a tile (half a step 2^(E - 22)), what saturation cuts off, the limb products left out (2^-22 of the tiles' powers of
two, twice, for each product), and the binary32 additions. For NumPy it is K times 2^-24 of the sum of magnitudes, as
its order of additions is not known. Every other operation rounds once, by 2^-24 of its result; exp, reciprocals,
sigmoid and tanh are off by at most `FUNCTION` of theirs. `bounds.Sum` says how all of these add up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Precision
from numpy.typing import NDArray

from . import equations as eq
from .bounds import UNIT, Sum, product_bound

__all__ = [
    "FUNCTION",
    "NEAR",
    "Arithmetic",
    "activation_bound",
    "core_arithmetic",
    "gradient_bound",
    "numpy_arithmetic",
]

FUNCTION = 2.0**-21
"""Relative error of exp, reciprocal, square root, sigmoid and tanh: 4 units in the last place; the core's have 2."""
NEAR = 2.0**-8
"""What deviations may be of an element, for the choice of a tile's exponent."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Arithmetic:
    """How errors add up, and the greatest error of a computed a' b' of matrices.

    ``product`` takes a, b and greatest errors of a' and b' (arrays, or 0.0).
    """

    add: Sum
    product: Callable[[Array, Array, Array | float, Array | float], Array]

    def rounded(self, value: Array, error: Array, count: int = 1) -> Array:
        """The error of ``value`` after ``count`` roundings of it."""
        return self.add(error, self.add.times(count) * UNIT * (np.abs(value) + error))


def core_arithmetic(add: Sum, side: int, *, saturation: bool) -> Arithmetic:
    """That of the core at precision 32; without ``saturation``, against products of saturated operands."""

    def product(a: Array, b: Array, a_slack: Array | float, b_slack: Array | float) -> Array:
        return product_bound(
            a, b, side, Precision.P32, a_slack, b_slack, near=NEAR, saturation=saturation, add=add
        )  # fmt: skip

    return Arithmetic(add, product)


def numpy_arithmetic(add: Sum) -> Arithmetic:
    """That of NumPy's float32."""

    def product(a: Array, b: Array, a_slack: Array | float, b_slack: Array | float) -> Array:
        a_off, b_off = np.zeros_like(a) + a_slack, np.zeros_like(b) + b_slack
        a_size, b_size, count = np.abs(a) + a_off, np.abs(b) + b_off, a.shape[1]
        own = add.times(count) * UNIT / (1 - count * UNIT) * (a_size @ b_size)
        return add(add.products(a_off, b), add.products(a, b_off), add.products(a_off, b_off), own)

    return Arithmetic(add, product)


def activation_bound(add: Sum, name: str, z: Array, a: Array, error: Array) -> Array:
    """Error of f(z) = a from that of z. No second derivative is above 1."""
    if name == "softmax":  # d log p = dz - sum of p dz; z - max, exp, sum, reciprocal and product have their own
        each = add(error, UNIT * np.abs(z - z.max(axis=1, keepdims=True)))
        own = add(add.times(3) * FUNCTION, add.times(z.shape[1] + 2) * UNIT)
        return a * np.expm1(add(each, add.products(a * each, np.ones((z.shape[1], 1))), own))
    if name in ("sigmoid", "tanh"):
        slope = a * (1 - a) if name == "sigmoid" else 1 - a * a
        return add(error * (slope + error), FUNCTION * np.abs(a))
    if name == "relu":
        return np.where(z > -error, error, 0.0)
    return error


def _delta_bound(add: Sum, name: str, a: Array, a_error: Array, upstream: Array, error: Array) -> Array:
    """Error of upstream * f'(z), f' in terms of a."""
    if name in ("linear", "relu"):
        return error * (1.0 if name == "linear" else a > 0)
    slope, change = (a * (1 - a), np.abs(1 - 2 * a)) if name == "sigmoid" else (1 - a * a, 2 * np.abs(a))
    off = add(change * a_error, a_error**2, add.times(2) * UNIT * (a * a + slope))
    size = np.abs(upstream) + error
    return add(size * off, UNIT * size * (slope + off), error * slope)


def gradient_bound(
    layers: Sequence[eq.Dense], x: Array, target: NDArray, loss: str, arithmetic: Arithmetic
) -> list[eq.Gradient]:
    """Greatest errors of a computed dE/dW and dE/db of every layer.

    Parameters
    ----------
    layers, x, target, loss
        As for `equations.loss_and_gradients`; x, the weights and the target are exact.
    arithmetic : Arithmetic
    """
    add, product, rounded = arithmetic.add, arithmetic.product, arithmetic.rounded
    trace, a_errors = eq.forward(layers, x), [np.zeros_like(x)]
    for layer, a, z, after in zip(layers, trace.activations, trace.sums, trace.activations[1:]):
        error = rounded(z, product(a, layer.weights, a_errors[-1], 0.0))
        a_errors.append(activation_bound(add, layer.activation, z, after, error))
    if eq.LOSSES[loss].of_sums:  # p - one-hot, then the product with 1 / samples
        delta = eq.LOSSES[loss].gradient(trace.sums[-1], target)
        error = rounded(delta, a_errors[-1] / len(x), 3)
    else:
        upstream = eq.LOSSES[loss].gradient(trace.output, target)
        factor = 2 / (len(x) if loss == "squared_error" else target.size)
        name = layers[-1].activation
        error = rounded(upstream, factor * a_errors[-1], 3)
        error = _delta_bound(add, name, trace.output, a_errors[-1], upstream, error)
        delta = eq.ACTIVATIONS[name].back(trace.output, upstream)
    bounds: list[eq.Gradient] = []
    ones = np.ones((1, len(x)))
    for l in reversed(range(len(layers))):
        weights = product(trace.activations[l].T, delta, a_errors[l].T, error)
        bounds.insert(0, eq.Gradient(weights, product(ones, delta, 0.0, error)[0]))
        if l:
            name, a = layers[l - 1].activation, trace.activations[l]
            upstream = delta @ layers[l].weights.T
            back = product(delta, layers[l].weights.T, error, 0.0)
            error = _delta_bound(add, name, a, a_errors[l], upstream, back)
            delta = eq.ACTIVATIONS[name].back(a, upstream)
    return bounds
