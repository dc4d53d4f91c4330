"""The founding document's 2-3-1 example (docs/worked-example.md), by hand in rationals, against the equations."""

from fractions import Fraction as F

import numpy as np
from lepton_verif.model import equations as eq

RATE = 0.1
X, Y = np.array([[1.0, 0.0]]), np.array([[1.0]])
HALF = F(1, 2)


def example(hidden: str = "relu", last: str = "relu") -> list[eq.Dense]:
    """The network before its step: every weight and bias 1/2."""
    return [
        eq.Dense(np.full((2, 3), 0.5), np.full(3, 0.5), hidden),
        eq.Dense(np.full((3, 1), 0.5), np.full(1, 0.5), last),
    ]


def _equal(found, exact, operations):
    """Floats against rationals: each of ``operations`` rounds by 2^-53, of numbers of at most 4, and so does 0.1."""
    exact = np.array(exact, dtype=object)
    assert found.shape == exact.shape
    for value, expected in zip(found.flat, exact.flat):
        assert abs(F(float(value)) - expected) <= 4 * F(operations, 2**53), (value, expected)


def _step(layers):
    """Trace, E, gradients and the layers after gradient descent."""
    trace = eq.forward(layers, X)
    value, gradients = eq.loss_and_gradients(layers, X, Y, "squared_error")
    return trace, value, gradients, eq.Sgd(layers, RATE).step(layers, gradients)


def test_by_hand():
    """Every number is a binary fraction of few bits until the learning rate comes in: exact in float64."""
    trace, value, gradients, after = _step(example())
    z1 = HALF * 1 + HALF * 0 + HALF
    a1 = max(F(0), z1)
    z2 = 3 * HALF * a1 + HALF
    a2 = max(F(0), z2)
    assert (z1, a1, z2, a2) == (1, 1, 2, 2)
    _equal(trace.sums[0], [[z1] * 3], 0)
    _equal(trace.activations[1], [[a1] * 3], 0)
    _equal(trace.sums[1], [[z2]], 0)
    _equal(trace.output, [[a2]], 0)
    assert value == (a2 - 1) ** 2 == 1

    delta2 = 2 * (a2 - 1) * 1  # dE/da, and the derivative of relu at z2 > 0
    delta1 = delta2 * HALF * 1
    assert (delta2, delta1) == (2, 1)
    _equal(gradients[1].weights, [[delta2 * a1]] * 3, 0)
    _equal(gradients[1].bias, [delta2], 0)
    _equal(gradients[0].weights, [[delta1 * 1] * 3, [delta1 * 0] * 3], 0)
    _equal(gradients[0].bias, [delta1] * 3, 0)

    rate = F(1, 10)
    w1, w2 = HALF - rate * delta1, HALF - rate * delta2
    assert (w1, w2) == (F(2, 5), F(3, 10))
    _equal(after[0].weights, [[w1] * 3, [HALF] * 3], 3)
    _equal(after[0].bias, [w1] * 3, 3)
    _equal(after[1].weights, [[w2]] * 3, 3)
    _equal(after[1].bias, [w2], 3)


def test_the_step_makes_the_error_smaller():
    """z1 = 4/5, z2 = 51/50, E = 1/2500 instead of 1."""
    after = _step(example())[3]
    trace, value, _, _ = _step(after)
    _equal(trace.sums[0], [[F(4, 5)] * 3], 8)
    _equal(trace.output, [[F(51, 50)]], 24)
    _equal(np.array(value), F(1, 2500), 60)


def test_misprints():
    """What DESIGN.md tells of the document's numbers, against its own equations."""
    assert eq.relu(np.array([0.75])) == 0.75  # printed as 0
    sums = np.concatenate([z.ravel() for z in eq.forward(example(), X).sums])
    assert 0.75 not in sums  # nor does any z of the example come to 0.75
    # The printed hidden layer has no relu. All z are above 0, so that no result of this step shows it.
    for activations in (("linear", "relu"), ("relu", "linear"), ("linear", "linear")):
        for with_relu, without in zip(_step(example())[3], _step(example(*activations))[3]):
            np.testing.assert_array_equal(with_relu.weights, without.weights)
            np.testing.assert_array_equal(with_relu.bias, without.bias)
    # With a relu that gave 0 there, nothing would be learned: its derivative is 0.
    assert eq.ACTIVATIONS["relu"].back(np.array([0.0]), np.array([2.0])) == 0
