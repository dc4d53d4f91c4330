"""The equations against finite differences, against each other, and against closed forms.

**Bound of the finite differences.** D(h) = (E(w + h) - E(w - h)) / 2h of a smooth E is g + c h^2 + O(h^4), so the
truncation |D(h) - g| is a third of |D(2h) - D(h)| but for O(h^4), for which half of it is allowed. If E is computed
with an error of at most e, D(h) is off by e / h, and that third by (e / h + e / 2h) / 3 more: 1.5 e / h together.
`_rounding` gives e. In front of a relu no z may come near 0, where E is not smooth; `_example` takes care of that.
"""

import itertools

import numpy as np
import pytest
from lepton_verif.model import equations as eq

UNIT = 2.0**-53
"""Greatest relative error of one float64 operation."""
FUNCTION = 4 * UNIT
"""Of exp, log and tanh: 2 ulp, which is more than any libm's."""
STEP = 1e-5
HIDDEN = ("linear", "relu", "sigmoid", "tanh")
HEADS = [
    ("linear", "squared_error"),
    ("relu", "squared_error"),
    ("sigmoid", "squared_error"),
    ("tanh", "mean_squared_error"),
    ("softmax", "squared_error"),
    ("softmax", "mean_squared_error"),
    ("softmax", "sparse_categorical_crossentropy"),
]
"""Activation of the last layer, and the loss."""


def _network(rng, activations, sizes):
    return [
        eq.Dense(rng.standard_normal((inputs, outputs)) / 2, rng.standard_normal(outputs) / 2, activation)
        for (inputs, outputs), activation in zip(itertools.pairwise(sizes), activations, strict=True)
    ]


def _margin(layers, x):
    """The least |z| in front of a relu; 0 if a relu has no z above 0, and so no gradient."""
    sums = [z for z, layer in zip(eq.forward(layers, x).sums, layers) if layer.activation == "relu"]
    return min([np.abs(z).min() if z.max() > 0 else 0.0 for z in sums], default=np.inf)


def _example(rng, activations, loss, sizes=(5, 7, 4, 3)):
    """Layers, x and target. A z moves by less than 1000 times what a weight does, which is 2 STEP at most."""
    while True:
        layers, x = _network(rng, activations, sizes), rng.standard_normal((6, sizes[0]))
        if _margin(layers, x) > 2000 * STEP:
            break
    sparse = eq.LOSSES[loss].of_sums
    return layers, x, rng.integers(0, sizes[-1], 6) if sparse else rng.standard_normal((6, sizes[-1]))


def _loss(layers, x, target, loss):
    trace = eq.forward(layers, x)
    return eq.LOSSES[loss].value(trace.sums[-1] if eq.LOSSES[loss].of_sums else trace.output, target)


def _rounding(layers, x, target, loss):
    """Greatest error of the computed E.

    A sum of n products in any order, and a bias, is off by at most (n + 1) UNIT times the sum of their magnitudes
    (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 3.1), and passes on the errors of
    its inputs times the magnitudes of its weights. No activation has a derivative above 1; tanh and sigmoid are off by
    less than 2 FUNCTION themselves. Of softmax every output moves by less than twice the greatest error of z, and is
    off by (outputs + 4) FUNCTION of itself. Means and sums over samples add less than their number of UNIT.
    """
    trace, error = eq.forward(layers, x), np.zeros_like(x)
    for a, z, after, layer in zip(trace.activations, trace.sums, trace.activations[1:], layers):
        size = np.abs(a) @ np.abs(layer.weights) + np.abs(layer.bias)
        error = error @ np.abs(layer.weights) + (len(layer.weights) + 1) * UNIT * size
        if layer.activation == "softmax":
            sums, worst = error, error.max(axis=1, keepdims=True)
            error = 2 * worst + (z.shape[1] + 4) * FUNCTION * after
        elif layer.activation in ("sigmoid", "tanh"):
            error = error + 2 * FUNCTION
    if eq.LOSSES[loss].of_sums:  # log of a sum of exponentials of differences of z, minus a z
        spread = np.abs(trace.sums[-1] - trace.sums[-1].max(axis=1, keepdims=True)).max(axis=1)
        each = 2 * sums.max(axis=1) + 2 * UNIT * spread + (sums.shape[1] + 4) * FUNCTION
        return float(each.mean() + len(x) * UNIT * _loss(layers, x, target, loss))
    gap = np.abs(trace.output - target)
    each = (2 * gap * error + error**2).sum(axis=1)
    scale = 1 if loss == "squared_error" else trace.output.shape[1]
    return float(each.mean() / scale + (gap.size + 4) * UNIT * _loss(layers, x, target, loss))


def _difference(values, index, function, step):
    """Central difference of ``function`` by one number of ``values``."""
    kept = values[index]
    values[index] = kept + step
    high = function()
    values[index] = kept - step
    low = function()
    values[index] = kept
    return (high - low) / (2 * step)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("last", "loss"), HEADS)
def test_gradients_are_the_finite_differences(hidden, last, loss):
    """Every weight and bias of three layers: two activations in a row, a bound each; the bounds are tight enough."""
    rng = np.random.default_rng(5)
    layers, x, target = _example(rng, (hidden, hidden, last), loss)
    value, gradients = eq.loss_and_gradients(layers, x, target, loss)
    assert value == _loss(layers, x, target, loss)
    rounding = _rounding(layers, x, target, loss) / STEP
    for l, gradient in enumerate(gradients):
        for part in ("weights", "bias"):
            values, found = getattr(layers[l], part), getattr(gradient, part)
            assert found.shape == values.shape
            for index in np.ndindex(values.shape):
                near, far = (
                    _difference(values, index, lambda: _loss(layers, x, target, loss), step)
                    for step in (STEP, 2 * STEP)
                )
                bound = abs(far - near) / 2 + 1.5 * rounding
                assert abs(found[index] - near) <= bound, f"layer {l}, {part}{list(index)}"
                assert bound < 1e-7
            assert np.abs(found).max() > 1e-3


@pytest.mark.parametrize("name", sorted(eq.ACTIVATIONS))
def test_activations_go_back_by_their_finite_differences(name):
    """dE/dz of E = sum of u f(z), with the same bound; every f is at most |z| or 1, and off by 8 FUNCTION at most."""
    rng = np.random.default_rng(3)
    z, upstream = rng.uniform(-4, 4, (20, 4)), rng.standard_normal((20, 4))
    z[np.abs(z) < 0.01] = 0.5
    function, back = eq.ACTIVATIONS[name]
    found = back(function(z), upstream)
    # Each term, and the sum of 80 of them.
    rounding = (np.abs(upstream) * (8 * FUNCTION + 81 * UNIT * np.maximum(np.abs(z), 1))).sum()

    def value():
        return float((function(z) * upstream).sum())

    for index in np.ndindex(z.shape):
        near, far = (_difference(z, index, value, step) for step in (STEP, 2 * STEP))
        assert abs(found[index] - near) <= abs(far - near) / 2 + 1.5 * rounding / STEP


def test_cross_entropy_is_that_of_the_probabilities():
    """The gradient by z equals dE/dp = -1 / p[label] sent back through softmax; E is the mean of -log p[label]."""
    rng = np.random.default_rng(8)
    z, labels = rng.standard_normal((9, 5)) * 3, rng.integers(0, 5, 9)
    p, chosen = eq.softmax(z), (np.arange(9), labels)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=8 * UNIT)
    np.testing.assert_allclose(eq.cross_entropy(z, labels), -np.log(p[chosen]).mean(), rtol=1e-14)
    upstream = np.zeros_like(p)
    upstream[chosen] = -1 / p[chosen] / 9
    back = eq.ACTIVATIONS["softmax"].back(p, upstream)
    np.testing.assert_allclose(eq.cross_entropy_delta(z, labels), back, rtol=0, atol=1e-15)


def test_squared_errors_by_hand():
    """Two samples, two outputs: sums of squares 1 + 4 and 0 + 9."""
    a, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[0.0, 4.0], [3.0, 2.0]])
    assert eq.squared_error(a, y) == 7
    assert eq.mean_squared_error(a, y) == 3.5
    np.testing.assert_array_equal(eq.squared_error_delta(a, y), [[1, -2], [0, -3]])
    np.testing.assert_array_equal(eq.mean_squared_error_delta(a, y), [[0.5, -1], [0, -1.5]])


def test_large_numbers_do_not_overflow():
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(eq.sigmoid(np.array([-1000.0, 0.0, 1000.0])), [0, 0.5, 1])
        np.testing.assert_array_equal(eq.softmax(np.array([[1000.0, -1000.0, 1000.0]])), [[0.5, 0, 0.5]])
        assert eq.cross_entropy(np.array([[1000.0, -1000.0]]), np.array([1])) == 2000


@pytest.mark.parametrize(
    ("labels", "last", "loss", "message"),
    [
        ([0, 3], "softmax", "sparse_categorical_crossentropy", r"labels must be from 0 to 2, not 3 \(sample 1\)"),
        ([-1, 0], "softmax", "sparse_categorical_crossentropy", r"labels must be from 0 to 2, not -1 \(sample 0\)"),
        ([0, 1], "relu", "sparse_categorical_crossentropy", "must follow a softmax, not 'relu'"),
        ([0, 1], "relu", "hinge", "loss must be one of squared_error, mean_squared_error, .*, not 'hinge'"),
    ],
)
def test_bad_arguments_are_refused(labels, last, loss, message):
    layers = _network(np.random.default_rng(1), (last,), (2, 3))
    with pytest.raises(ValueError, match=message):
        eq.loss_and_gradients(layers, np.ones((2, 2)), np.array(labels), loss)
    if last == "softmax":
        with pytest.raises(ValueError, match=message):
            eq.cross_entropy_delta(np.ones((2, 3)), np.array(labels))


def _weight(layers):
    return layers[0].weights.item()


def _steps(optimizer, layers, gradients):
    """The weight after each step; the bias, whose gradients are the negative of the weight's, must mirror it."""
    weights = []
    for g in gradients:
        layers = optimizer.step(layers, [eq.Gradient(np.full((1, 1), g), np.full(1, -g))])
        assert layers[0].bias.item() == -_weight(layers)
        weights.append(_weight(layers))
    return weights


def _zero():
    return [eq.Dense(np.zeros((1, 1)), np.zeros(1), "linear")]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_by_closed_form(momentum, nesterov):
    """Of a gradient that stays 1: v_t = -rate (1 - mu^t) / (1 - mu), and w_t is its sum; Nesterov's w is one v ahead.

    Nesterov: w_t = sum over s <= t of (mu v_s - rate) = sum of v_(s+1).
    """
    found = _steps(eq.Sgd(_zero(), 0.1, momentum=momentum, nesterov=nesterov), _zero(), [1.0] * 20)
    v = -0.1 * (1 - momentum ** np.arange(1, 22)) / (1 - momentum)
    np.testing.assert_allclose(found, np.cumsum(v[1:] if nesterov else v[:20]), rtol=1e-13)


def test_momentum_by_hand():
    """Gradients 1, -2, 3; rate 1/2, momentum 1/2: v = -1/2, 3/4, -9/8; all exact."""
    gradients = [1.0, -2.0, 3.0]
    assert _steps(eq.Sgd(_zero(), 0.5, momentum=0.5), _zero(), gradients) == [-0.5, 0.25, -0.875]
    # mu v - rate g = -3/4, 11/8, -33/16
    assert _steps(eq.Sgd(_zero(), 0.5, momentum=0.5, nesterov=True), _zero(), gradients) == [-0.75, 0.625, -1.4375]
    assert _steps(eq.Sgd(_zero(), 0.5), _zero(), gradients) == [-0.5, 0.5, -1.0]


def test_adam_by_closed_form():
    """A gradient g that stays: m = (1 - b1^t) g and v = (1 - b2^t) g^2, so that with s = sqrt(1 - b2^t) a step is
    -rate s g / (s |g| + epsilon)."""
    rate, g, t = 0.01, 3e-6, np.arange(1, 51)
    found = _steps(eq.Adam(_zero(), rate), _zero(), [g] * 50)
    s = np.sqrt(1 - 0.999**t)
    np.testing.assert_allclose(found, np.cumsum(-rate * s * g / (s * g + 1e-7)), rtol=1e-12)
    # Epsilon counts here: without it every step were -rate, and in the paper's first form -rate g / (g + epsilon).
    assert np.abs(np.array(found) + rate * t).max() > 0.05
    assert np.abs(np.array(found) + rate * t * g / (g + 1e-7)).max() > 0.02


def test_adam_by_hand():
    """Gradients 1, 3, -2 in scalars."""
    rate, b1, b2, epsilon = 0.1, 0.5, 0.75, 0.25
    found = _steps(eq.Adam(_zero(), rate, beta_1=b1, beta_2=b2, epsilon=epsilon), _zero(), [1.0, 3.0, -2.0])
    m = [0.5, 1.75, -0.125]  # m / 2 + g / 2
    v = [0.25, 2.4375, 2.828125]  # 3 v / 4 + g^2 / 4
    w, expected = 0.0, []
    for t in (1, 2, 3):
        w -= rate * (1 - b2**t) ** 0.5 / (1 - b1**t) * m[t - 1] / (v[t - 1] ** 0.5 + epsilon)
        expected.append(w)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_defaults_are_those_of_keras():
    adam, sgd = eq.Adam(_zero()), eq.Sgd(_zero())
    assert (adam.rate, adam.beta_1, adam.beta_2, adam.epsilon) == (0.001, 0.9, 0.999, 1e-7)
    assert (sgd.rate, sgd.momentum, sgd.nesterov) == (0.01, 0.0, False)


def test_accuracy_counts_the_greatest_score():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert eq.accuracy(scores, np.array([1, 0, 0, 0])) == 0.75
