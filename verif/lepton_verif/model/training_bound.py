"""How far weights trained on the core at precision 32 may be from those that NumPy trains in float32.

**One step.** `gradient_bound` gives the greatest error of each gradient. `_local` takes it through the optimizer, whose
operations round as well. So for each number of the state s = (weights; velocity, or m and v), there is the greatest
error e_t that step t adds.

**Growth.** Let s' = F_t(s) be a step of the equations, J_t its derivative where NumPy's training is before step t: for
gradient descent 1 - rate * H_t with H_t the second derivatives of the loss, for the others the same with more blocks.
Then to first order

    deviation after n steps = sum over t of J_(n-1) ... J_(t+1) error_t,        |error_t| <= e_t element by element.

In the worst case (`bounds.WORST`) that is the sum of |J_(n-1) ... J_(t+1)| e_t, which no training comes near:
thousands of roundings would have to point the same way. As independent errors (`bounds.INDEPENDENT`) it is `SIGMAS`
times the root of the sum of the squares. They are not quite: a weight's rounding is in the products of all samples of a
batch. But 6 bounds are 10 standard deviations of a rounding (uniform in +-e), which leaves room for that. What
saturation cuts off is no such error, and a hundred times as large as all roundings. So there are two comparisons: with
plain float32 in the worst case, and, far sharper, with a float32 training that saturates as well.

Nothing in it is estimated but H_t, which comes from central differences of the exact gradients. That the deviation is
small enough for the first order is checked: the equations take a deviation made of errors of the full size e_t and
random signs along, and it must be that of J_t to within `NONLINEAR` of the bound, which is then added to it (and to
which what saturation does to J_t is left). The loss must be smooth along the way: a z in front of a relu that the
deviation could carry across 0 is refused.
"""

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import equations as eq
from .bounds import INDEPENDENT, UNIT, WORST, Sum
from .float32_training import State, trajectory
from .gradient_bound import FUNCTION, activation_bound, core_arithmetic, gradient_bound, numpy_arithmetic

__all__ = ["MAX_STATE", "NONLINEAR", "SIGMAS", "training_tolerance"]

SIGMAS = 6
"""Factor of the root of the sum of squares of independent errors: see `bounds.INDEPENDENT`."""
NONLINEAR = 0.25
"""Share of the bound that effects of second order may have."""
MAX_STATE = 1000
"""Numbers of weights and optimizer state together, at most: J_t has the square of that."""

_DIFFERENCE = 1e-5
_TRIALS = 2
Array = NDArray[np.float64]


def _flat(parts: Sequence) -> Array:
    return np.concatenate([array.ravel() for part in parts for array in part])


class _Step:
    """Step t of the equations on a flat state: weights, then velocity, or m and v."""

    def __init__(self, layers: Sequence[eq.Dense], optimizer: eq.Sgd | eq.Adam, loss: str):
        self.layers, self.optimizer, self.loss = layers, optimizer, loss
        self.size = _flat([(layer.weights, layer.bias) for layer in layers]).size
        self.slots = 2 if isinstance(optimizer, eq.Adam) else int(optimizer.momentum != 0)

    def network(self, weights: Array) -> list[eq.Dense]:
        """Layers of these weights."""
        result, start = [], 0
        for layer in self.layers:
            middle = start + layer.weights.size
            end = middle + layer.bias.size
            shaped = weights[start:middle].reshape(layer.weights.shape)
            result.append(eq.Dense(shaped, weights[middle:end], layer.activation))
            start = end
        return result

    def flat(self, state: State) -> Array:
        """A state of `float32_training`, in float64."""
        return _flat(state[: 1 + self.slots]).astype(np.float64)

    def gradient(self, weights: Array, batch: tuple[Array, NDArray]) -> Array:
        """dE/dw."""
        return _flat(eq.loss_and_gradients(self.network(weights), *batch, self.loss)[1])

    def hessian(self, weights: Array, batch: tuple[Array, NDArray]) -> Array:
        """Second derivatives, by central differences of the gradient."""
        rows = []
        for j in range(self.size):
            change = np.zeros(self.size)
            change[j] = _DIFFERENCE
            rows.append(self.gradient(weights + change, batch) - self.gradient(weights - change, batch))
        return np.array(rows) / (2 * _DIFFERENCE)

    def apply(self, state: Array, g: Array, t: int) -> Array:
        """The state after step t (from 1) with gradient g, by the optimizer of `equations`."""
        parts, none = state.reshape(1 + self.slots, self.size), np.zeros(0)
        optimizer = copy.copy(self.optimizer)
        if isinstance(optimizer, eq.Adam):
            optimizer.steps, optimizer.mean, optimizer.square = t - 1, [parts[1], none], [parts[2], none]
            slots = [optimizer.mean, optimizer.square]
        else:
            optimizer.velocity = [parts[1] if self.slots else np.zeros(self.size), none]
            slots = [optimizer.velocity][: self.slots]
        after = optimizer.step([eq.Dense(parts[0], none, "linear")], [eq.Gradient(g, none)])[0].weights
        return np.concatenate([after, *(slot[0] for slot in slots)])


def _adam_alpha(optimizer: eq.Adam, t: int) -> float:
    return optimizer.rate * np.sqrt(1 - optimizer.beta_2**t) / (1 - optimizer.beta_1**t)


def _jacobian(step: _Step, g: Array, hessian: Array, after: Array, t: int) -> Array:
    """Derivative of the state after step t by the one before."""
    optimizer, n = step.optimizer, step.size
    one = np.eye(n)
    if isinstance(optimizer, eq.Adam):
        _, m, v = after.reshape(3, n)
        b1, b2, root = optimizer.beta_1, optimizer.beta_2, np.sqrt(v)
        by_m = -_adam_alpha(optimizer, t) / (root + optimizer.epsilon)
        by_v = -by_m * m / (root + optimizer.epsilon) / np.where(root > 0, 2 * root, 1.0)
        m_w, v_w = (1 - b1) * hessian, 2 * (1 - b2) * g[:, None] * hessian
        zero = np.zeros_like(one)
        return np.block(
            [
                [one + by_m[:, None] * m_w + by_v[:, None] * v_w, np.diag(b1 * by_m), np.diag(b2 * by_v)],
                [m_w, b1 * one, zero],
                [v_w, zero, b2 * one],
            ]
        )
    descent, mu = optimizer.rate * hessian, optimizer.momentum
    if not step.slots:
        return one - descent
    if optimizer.nesterov:
        return np.block([[one - (1 + mu) * descent, mu * mu * one], [-descent, mu * one]])
    return np.block([[one - descent, mu * one], [-descent, mu * one]])


def _local(add: Sum, step: _Step, g: Array, g_error: Array, before: Array, after: Array, t: int) -> Array:
    """Greatest error that step t adds to each number of the state; constants round as well."""
    optimizer, n = step.optimizer, step.size
    w, w_after = np.abs(before[:n]), np.abs(after[:n])
    two = add.times(2) * UNIT
    if not isinstance(optimizer, eq.Adam):
        move = optimizer.rate * add(g_error, two * (np.abs(g) + g_error))
        if not step.slots:
            return add(move, UNIT * (w_after + move))
        mu, v, v_after = optimizer.momentum, np.abs(before[n:]), np.abs(after[n:])
        v_error = add(move, two * mu * v, UNIT * v_after)
        if optimizer.nesterov:
            partial = w + optimizer.rate * np.abs(g)
            return np.concatenate(
                [add(move, mu * v_error, two * mu * v_after, UNIT * partial, UNIT * w_after), v_error]
            )
        return np.concatenate([add(v_error, UNIT * w_after), v_error])
    (_, m, v), (_, m_after, v_after) = np.abs(before).reshape(3, n), np.abs(after).reshape(3, n)
    b1, b2, size = optimizer.beta_1, optimizer.beta_2, np.abs(g) + g_error
    m_error = add((1 - b1) * add(g_error, add.times(3) * UNIT * (size + m)), two * b1 * m, UNIT * m_after)
    square = add(2 * size * g_error, add.times(4) * UNIT * (size**2 + v))
    v_error = add((1 - b2) * square, two * b2 * v, UNIT * v_after)
    root = np.sqrt(v_after)
    lowest = root + np.sqrt(np.maximum(v_after - v_error, 0))
    root_error = add(v_error / np.where(lowest > 0, lowest, 1.0), root * FUNCTION, add.times(3) * UNIT * root)
    below = root + optimizer.epsilon
    below_error = add(root_error, two * below)
    if (below_error > below / 2).any():
        raise ValueError(f"step {t}: a gradient is too small against its error for a bound of Adam")
    alpha = _adam_alpha(optimizer, t)
    change = alpha * m_after / below
    error = alpha * add(m_error, m_after * below_error / below) / (below - below_error)
    error = add(error, change * FUNCTION, add.times(5) * UNIT * change)
    return np.concatenate([add(error, UNIT * (w_after + error)), m_error, v_error])


def _check_smooth(step: _Step, weights: Array, tolerance: Array, batch: tuple[Array, NDArray], t: int):
    """No z in front of a relu may change its sign if every weight is off by its tolerance."""
    layers, errors = step.network(weights), step.network(tolerance)
    trace, a_error = eq.forward(layers, batch[0]), np.zeros_like(batch[0])
    for layer, off, a, z, after in zip(layers, errors, trace.activations, trace.sums, trace.activations[1:]):
        z_error = a_error @ (np.abs(layer.weights) + off.weights) + np.abs(a) @ off.weights + off.bias
        if layer.activation == "relu" and (np.abs(z) <= z_error).any():
            raise ValueError(f"step {t}: the loss is not smooth here, a relu may be on or off")
        a_error = activation_bound(WORST, layer.activation, z, after, z_error)


def training_tolerance(
    layers: Sequence[eq.Dense],
    batches: Sequence[tuple[NDArray, NDArray]],
    loss: str,
    optimizer: eq.Sgd | eq.Adam,
    side: int,
    *,
    saturated: bool = False,
    add: Sum | None = None,
) -> list[eq.Gradient]:
    """Greatest difference of weights and biases between the core at precision 32 and `float32_training.train`.

    Parameters
    ----------
    layers, batches, loss, optimizer
        As for `float32_training.train`; all numbers are float32, or are rounded to it.
    side : int
        Side T of the core's array.
    saturated : bool
        Whether `float32_training.train` has this ``side``, too, and not None.
    add : Sum or None
        How errors add up. None for independent errors if ``saturated``; else for the worst case, as what saturation
        cuts off has always the same sign.

    Raises
    ------
    ValueError
        For a state of more than `MAX_STATE` numbers; and where the derivation does not hold: a relu near 0, a gradient
        that is lost in its own error (Adam), deviations that are not small, weights that are not finite. The message
        names the step.
    """
    if add is None:
        add = INDEPENDENT if saturated else WORST
    step = _Step(layers, optimizer, loss)
    if step.size * (1 + step.slots) > MAX_STATE:
        raise ValueError(
            f"weights and optimizer state must be at most {MAX_STATE} numbers, not {step.size * (1 + step.slots)}"
        )
    data = [(np.asarray(x, np.float32).astype(np.float64), y) for x, y in batches]
    path = trajectory(layers, data, loss, optimizer, side=side if saturated else None)
    states = [step.flat(state) for state in path]
    for t, state in enumerate(states):
        if not np.isfinite(state).all():
            raise ValueError(f"step {t}: the training does not stay finite")
    errors, jacobians = [], []
    for t, batch in enumerate(data, 1):
        before, after = states[t - 1], states[t]
        g = step.gradient(before[: step.size], batch)
        jacobians.append(_jacobian(step, g, step.hessian(before[: step.size], batch), after, t))
        both = []
        for arithmetic in (core_arithmetic(add, side, saturation=not saturated), numpy_arithmetic(add)):
            g_error = _flat(gradient_bound(step.network(before[: step.size]), *batch, loss, arithmetic))
            both.append(_local(add, step, g, g_error, before, after, t))
        errors.append(add(*both))

    factor = np.eye(step.size, states[0].size)
    bound = add.products(factor, errors[-1])
    for t in range(len(data) - 1, 0, -1):
        factor = factor @ jacobians[t]
        bound = add(bound, add.products(factor, errors[t - 1]))
    if add.order > 1:
        bound *= SIGMAS
    tolerance = bound * (1 + NONLINEAR)
    for t, batch in enumerate(data, 1):
        _check_smooth(step, states[t - 1][: step.size], tolerance, batch, t)
    _check_linear(step, data, states, errors, jacobians, bound)
    return [eq.Gradient(layer.weights, layer.bias) for layer in step.network(tolerance)]


def _check_linear(step: _Step, data, states: list[Array], errors: list[Array], jacobians: list[Array], bound: Array):
    """The equations with errors of full size and random signs follow their derivatives."""
    for trial in range(_TRIALS):
        rng = np.random.default_rng(trial)
        actual, linear = np.zeros_like(states[0]), np.zeros_like(states[0])
        for t, batch in enumerate(data):
            error = errors[t] * rng.choice([-1.0, 1.0], errors[t].size)
            moved = states[t] + actual
            if isinstance(step.optimizer, eq.Adam):  # v is a sum of squares
                moved[2 * step.size :] = np.maximum(moved[2 * step.size :], 0)
            ends = [step.apply(state, step.gradient(state[: step.size], batch), t + 1) for state in (moved, states[t])]
            actual = ends[0] - ends[1] + error
            linear = jacobians[t] @ linear + error
        missed = np.abs(actual - linear)[: step.size]
        if (missed > NONLINEAR * bound).any():
            worst = (missed / bound).max()
            raise ValueError(f"deviations are not small: second order makes {worst:.2f} of the bound, not {NONLINEAR}")
