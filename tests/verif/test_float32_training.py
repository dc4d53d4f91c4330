"""NumPy's float32 training against the equations, and the parts of the bound that compares the core with it."""

import dataclasses

import numpy as np
import pytest
from lepton_npu.spec.commands import Precision
from lepton_verif.model import equations as eq
from lepton_verif.model import training_bound
from lepton_verif.model.arith.quantise import dequantise, quantise
from lepton_verif.model.bounds import INDEPENDENT, WORST
from lepton_verif.model.float32_training import _saturated, train, trajectory
from lepton_verif.model.gradient_bound import core_arithmetic, gradient_bound, numpy_arithmetic
from lepton_verif.model.training_bound import SIGMAS, training_tolerance

from tests.verif.float32_example import CROSS_ENTROPY, OPTIMIZERS, example, ratio

SIDE = 4
CASES = [
    (("tanh", "softmax"), CROSS_ENTROPY, "sgd"),
    (("sigmoid", "tanh"), "mean_squared_error", "momentum"),
    (("tanh", "sigmoid"), "squared_error", "nesterov"),
    (("sigmoid", "softmax"), CROSS_ENTROPY, "adam"),
]


def _exact(example, loss, optimizer):
    """The same training in the equations."""
    layers = [eq.Dense(layer.weights + 0.0, layer.bias + 0.0, layer.activation) for layer in example.layers]
    settings = vars(optimizer)
    names = ("beta_1", "beta_2", "epsilon") if isinstance(optimizer, eq.Adam) else ("momentum", "nesterov")
    own = type(optimizer)(layers, optimizer.rate, **{name: settings[name] for name in names})
    for x, y in example.batches:
        layers = own.step(layers, eq.loss_and_gradients(layers, x.astype(np.float64), y, loss)[1])
    return [(layer.weights, layer.bias) for layer in layers]


@pytest.mark.parametrize(("activations", "loss", "name"), CASES)
def test_training_is_that_of_the_equations(activations, loss, name, monkeypatch):
    """Within the bound of NumPy's errors alone; a learning rate that is off by 10^-4 of itself is not."""
    monkeypatch.setattr(training_bound, "core_arithmetic", lambda add, side, saturation: numpy_arithmetic(add))
    data, optimizer = example(activations, loss, 2), OPTIMIZERS[name]
    tolerance = training_tolerance(data.layers, data.batches, loss, optimizer, SIDE, saturated=True)
    expected = _exact(data, loss, optimizer)
    found = train(data.layers, data.batches, loss, optimizer)
    assert all(weights.dtype == bias.dtype == np.float32 for weights, bias in found)
    assert ratio(found, expected, tolerance) <= 1
    moved = [np.abs(weights - layer.weights).max() for (weights, _), layer in zip(found, data.layers)]
    assert min(moved) > 0.1
    other = type(optimizer)([], optimizer.rate * 1.0001)
    for key in ("momentum", "nesterov"):
        if hasattr(optimizer, key):
            setattr(other, key, getattr(optimizer, key))
    assert ratio(train(data.layers, data.batches, loss, other), expected, tolerance) > 1


@pytest.mark.parametrize("add", [WORST, INDEPENDENT])
@pytest.mark.parametrize(("activations", "loss", "name"), CASES)
def test_gradients_are_within_their_bound(activations, loss, name, add):
    """The gradient of one step in float32, seen in the weights of gradient descent with a large rate."""
    data = example(activations, loss, 3, steps=1)
    batch = data.batches[0]
    rate = 2.0**20  # so that the old weights hide nothing
    moved = train(data.layers, data.batches, loss, eq.Sgd([], rate))
    layers = [dataclasses.replace(layer, weights=layer.weights + 0.0) for layer in data.layers]
    _, exact = eq.loss_and_gradients(layers, batch[0].astype(np.float64), batch[1], loss)
    bounds = gradient_bound(layers, batch[0].astype(np.float64), batch[1], loss, numpy_arithmetic(add))
    core = gradient_bound(
        layers, batch[0].astype(np.float64), batch[1], loss, core_arithmetic(add, SIDE, saturation=False)
    )
    factor = 1 if add == WORST else SIGMAS
    for after, layer, gradient, bound, of_core in zip(moved, layers, exact, bounds, core, strict=True):
        for found, old, g, limit, larger in zip(
            after, (layer.weights, layer.bias), gradient, bound, of_core, strict=True
        ):
            error = np.abs((old - found.astype(np.float64)) / rate - g)
            assert (error <= factor * limit + 2.0**-22 * (np.abs(g) + 2 / rate)).all()
            assert (limit < larger).all()
            assert (larger < 1e-4).all()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_derivatives_of_a_step(name):
    """J_t against central differences of the optimizer's step, for state and weights."""
    data, optimizer = example(("tanh", "softmax"), CROSS_ENTROPY, 4, steps=5), OPTIMIZERS[name]
    step = training_bound._Step(data.layers, optimizer, CROSS_ENTROPY)
    states = [step.flat(state) for state in trajectory(data.layers, data.batches, CROSS_ENTROPY, optimizer)]
    t, n = 5, step.size
    x, y = data.batches[t - 1]
    batch, before = (x.astype(np.float64), y), states[t - 1]

    def function(state):
        return step.apply(state, step.gradient(state[:n], batch), t)

    g, hessian = step.gradient(before[:n], batch), step.hessian(before[:n], batch)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-9)
    found = training_bound._jacobian(step, g, hessian, function(before), t)
    for j in range(before.size):
        # v is a square, small, and must stay above 0.
        h = 1e-3 * before[j] if j >= 2 * n else 1e-6
        change = np.zeros_like(before)
        change[j] = h
        expected = (function(before + change) - function(before - change)) / (2 * h)
        np.testing.assert_allclose(found[:, j], expected, rtol=1e-5, atol=1e-6)


def test_growth_by_closed_form():
    """One weight and bias, linear: H is constant, so that n steps make the sum of |(1 - rate H)^k| e."""
    x = np.array([[1.0], [-1.0], [2.0], [-2.0]], np.float32)  # H is diagonal: 2 mean(x^2) = 5, and 2
    layers = [eq.Dense(np.full((1, 1), 0.5, np.float32), np.full(1, 0.25, np.float32), "linear")]
    y = x / 2 + 1 / 4
    one, many = (
        training_tolerance(layers, [(x, y)] * n, "squared_error", eq.Sgd([], 0.1), SIDE, saturated=True, add=WORST)[0]
        for n in (1, 20)
    )
    # The weights are the best ones and stay so: the errors of every step are the same.
    assert one.weights.item() > 0
    np.testing.assert_allclose(many.weights / one.weights, sum(0.5**k for k in range(20)), rtol=1e-6)
    np.testing.assert_allclose(many.bias / one.bias, sum(0.8**k for k in range(20)), rtol=1e-6)


def test_saturation_is_that_of_the_quantiser(seed):
    """But for rounding to half a step; and most numbers are left alone."""
    rng = np.random.default_rng(seed)
    cut = 0
    for _ in range(300):
        x = (rng.standard_normal(rng.integers(1, 10, 2)) * 2.0 ** rng.integers(-9, 9)).astype(np.float32)
        found, core = _saturated(x, SIDE), dequantise(quantise(x, Precision.P32, SIDE), *x.shape)
        assert found.dtype == np.float32
        power = 2.0 ** np.floor(np.log2(np.abs(x).max()))
        assert (np.abs(found - core) <= power * 2.0**-23).all()
        assert (np.abs(found[found != x]) < np.abs(x[found != x])).all()
        cut += (found != x).sum()
    assert 0 < cut < 300
    assert _saturated(x, None) is x


def test_what_cannot_be_bounded_is_refused():
    relu = example(("relu", "softmax"), CROSS_ENTROPY, 0, steps=3)
    relu.layers[0].bias[:] = -(
        relu.x[9] @ relu.layers[0].weights
    )  # a sample of step 2 has z = 0 but for the first step
    squared, descent = "squared_error", eq.Sgd([], 1.0)
    for data, loss, optimizer, saturated, message in (
        (relu, CROSS_ENTROPY, eq.Sgd([], 1e-6), True, "step 2: the loss is not smooth here"),
        (example(("tanh", "linear"), squared, 2, steps=30), squared, descent, False, "deviations are not small"),
        (example(("linear", "linear"), squared, 1, steps=30), squared, descent, True, "does not stay finite"),
        (example(("tanh", "softmax"), CROSS_ENTROPY, 0, sizes=(30, 30, 3), steps=1), CROSS_ENTROPY, descent, True,
         "weights and optimizer state must be at most 1000 numbers, not 1023"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
            training_tolerance(data.layers, data.batches, loss, optimizer, SIDE, saturated=saturated)
    dead = example(("tanh", "tanh"), "squared_error", 0, steps=1)
    outputs = eq.forward(dead.layers, dead.x.astype(np.float64)).output
    near = dead._replace(y=(outputs + 1e-8).astype(np.float32))
    with pytest.raises(ValueError, match="step 1: a gradient is too small against its error"):
        training_tolerance(near.layers, near.batches, "squared_error", eq.Adam([]), SIDE, saturated=True)
    for activations, loss in ((("softmax", "softmax"), CROSS_ENTROPY), (("tanh", "tanh"), CROSS_ENTROPY),
                              (("tanh", "softmax"), "squared_error")):  # fmt: skip
        data = example(activations, loss, 0, steps=1)
        with pytest.raises(ValueError, match="softmax must be the last layer of a cross-entropy and nothing else"):
            train(data.layers, data.batches, loss, eq.Sgd([]))
