"""The equations against finite differences, against each other, and against an example worked by hand."""

import numpy as np
import pytest
from lepton_verif.model import equations as eq


def _network(rng, activations, sizes=(5, 7, 4, 3)):
    return [
        eq.Dense(rng.standard_normal((inputs, outputs)) / 2, rng.standard_normal(outputs) / 2, activation)
        for inputs, outputs, activation in zip(sizes[:-1], sizes[1:], activations)
    ]


def _numeric(layers, x, loss, part, l, step=1e-6):
    """Central differences of the loss by every number of a layer's part."""
    values = getattr(layers[l], part)
    gradient = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        kept = values[index]
        values[index] = kept + step
        high = loss(eq.forward(layers, x).output)
        values[index] = kept - step
        low = loss(eq.forward(layers, x).output)
        values[index] = kept
        gradient[index] = (high - low) / (2 * step)
    return gradient


@pytest.mark.parametrize("hidden", ["relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_gradients_are_the_finite_differences(hidden, loss):
    rng = np.random.default_rng(5)
    layers = _network(rng, (hidden, "tanh", "linear" if loss == "cross_entropy" else "sigmoid"))
    x = rng.standard_normal((6, 5))
    target = rng.integers(0, 3, 6) if loss == "cross_entropy" else rng.standard_normal((6, 3))
    trace = eq.forward(layers, x)
    gradients = eq.backward(layers, trace, getattr(eq, f"{loss}_delta")(trace.output, target))
    for l, gradient in enumerate(gradients):
        for part in ("weights", "bias"):
            expected = _numeric(layers, x, lambda a: getattr(eq, loss)(a, target), part, l)
            np.testing.assert_allclose(getattr(gradient, part), expected, rtol=1e-6, atol=1e-8)
            assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", sorted(eq.ACTIVATIONS))
def test_derivatives_are_the_finite_differences(name):
    z = np.linspace(-4, 4, 80)  # an even number: 0, where relu has no derivative, is not among them
    function, derivative = eq.ACTIVATIONS[name]
    np.testing.assert_allclose(derivative(function(z)), (function(z + 1e-6) - function(z - 1e-6)) / 2e-6, atol=1e-9)


def test_large_numbers_do_not_overflow():
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(eq.sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
        np.testing.assert_array_equal(eq.softmax(np.array([[1000.0, -1000.0, 1000.0]])), [[0.5, 0, 0.5]])
        assert eq.cross_entropy(np.array([[1000.0, -1000.0]]), np.array([1])) == 2000


def _example(hidden):
    return [
        eq.Dense(np.full((2, 3), 0.5), np.full(3, 0.5), hidden),
        eq.Dense(np.full((3, 1), 0.5), np.full(1, 0.5), "relu"),
    ]


def test_worked_example():
    """The founding document's 2-3-1 network (DESIGN.md, section 1): x = [1, 0], weights and biases 0.5, rate 0.1.

    By its equations z1 = 0.5 * 1 + 0.5 * 0 + 0.5 = 1, a1 = relu(1) = 1, z2 = 3 * 0.5 * 1 + 0.5 = 2, a2 = 2. DESIGN.md
    gives no target; with y = 1, chosen here, E = (a2 - y)^2 = 1, delta2 = 2 (a2 - y) = 2, delta1 = 0.5 * 2 = 1.

    Misprints of the document, as DESIGN.md reports them: relu(0.75) is given as 0, where max(0, 0.75) is 0.75; and the
    hidden layer has no relu (without effect here: z1 > 0). The equations count.
    """
    x, y = np.array([[1.0, 0.0]]), np.array([[1.0]])
    layers = _example("relu")
    trace = eq.forward(layers, x)
    np.testing.assert_array_equal(trace.activations[1], [[1, 1, 1]])
    np.testing.assert_array_equal(trace.output, [[2]])
    assert eq.squared_error(trace.output, y) == 1
    gradients = eq.backward(layers, trace, eq.squared_error_delta(trace.output, y))
    np.testing.assert_array_equal(gradients[1].weights, [[2], [2], [2]])
    np.testing.assert_array_equal(gradients[1].bias, [2])
    np.testing.assert_array_equal(gradients[0].weights, [[1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(gradients[0].bias, [1, 1, 1])
    first, second = eq.sgd(layers, gradients, 0.1)
    np.testing.assert_allclose(first.weights, [[0.4, 0.4, 0.4], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(first.bias, [0.4, 0.4, 0.4])
    np.testing.assert_allclose(second.weights, [[0.3], [0.3], [0.3]])
    np.testing.assert_allclose(second.bias, [0.3])
    np.testing.assert_array_equal(eq.relu(np.array([0.75])), [0.75])
    np.testing.assert_array_equal(eq.forward(_example("linear"), x).output, trace.output)


def test_adam_steps():
    """First step: mean / sqrt(square) is the gradient's sign. Second step: by hand for gradients 1, then 3."""
    layers = [eq.Dense(np.zeros((1, 1)), np.zeros(1), "linear")]
    adam = eq.Adam(layers, 0.1, epsilon=0.0)
    layers = adam.step(layers, [eq.Gradient(np.full((1, 1), 1.0), np.full(1, -2.0))])
    np.testing.assert_allclose([layers[0].weights.item(), layers[0].bias.item()], [-0.1, 0.1])
    layers = adam.step(layers, [eq.Gradient(np.full((1, 1), 3.0), np.full(1, 0.0))])
    mean, square = (0.9 * 0.1 + 0.1 * 3) / (1 - 0.9**2), (0.999 * 0.001 + 0.001 * 9) / (1 - 0.999**2)
    np.testing.assert_allclose(layers[0].weights.item(), -0.1 - 0.1 * mean / np.sqrt(square))


def test_accuracy_counts_the_greatest_score():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert eq.accuracy(scores, np.array([1, 0, 0, 0])) == 0.75
