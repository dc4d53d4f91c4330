"""Precision 32: weights after 100 steps on the simulator agree with NumPy's float32 training, and are the RTL's.

The tolerances are derived (`lepton_verif.model.training_bound`), element by element. Against a float32 training that
saturates the operands of products as the core does they are sharp: precision 16 is outside. Against plain float32 they
are wide, because saturation is.
"""

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_verif.model import equations as eq
from lepton_verif.model.float32_training import train
from lepton_verif.model.training_bound import training_tolerance
from leptonaicsdk import network as net
from leptonaicsdk.backend import ModelBackend, RtlBackend
from leptonaicsdk.session import Session

from tests.verif.float32_example import CROSS_ENTROPY, OPTIMIZERS, example, ratio

CONFIG = PRESETS["tiny"]
CASES = [
    (("tanh", "softmax"), CROSS_ENTROPY, "sgd", 0),
    (("linear", "softmax"), CROSS_ENTROPY, "adam", 1),
    (("sigmoid", "tanh"), "mean_squared_error", "adam", 2),
    (("linear", "linear"), "squared_error", "momentum", 3),
    (("tanh", "sigmoid"), "squared_error", "nesterov", 4),
    (("relu", "softmax"), CROSS_ENTROPY, "sgd", 5),
]


def _optimizer(optimizer):
    """The SDK's description of it."""
    if isinstance(optimizer, eq.Adam):
        return net.Adam(optimizer.rate, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)
    return net.Sgd(optimizer.rate, optimizer.momentum, optimizer.nesterov)


def _session(backend, data, loss, optimizer, bits):
    layers = tuple(net.Dense(layer.bias.size, layer.activation) for layer in data.layers)
    session = Session(
        backend(CONFIG, 1 << 22), net.Network(data.x.shape[1], layers), loss=loss, optimizer=_optimizer(optimizer),
        batch=data.batch, precision=bits,
    )  # fmt: skip
    session.parameters = [(layer.weights, layer.bias) for layer in data.layers]
    session.train(data.x, data.y)
    return session


def _on_the_core(data, loss, optimizer, bits):
    return _session(ModelBackend, data, loss, optimizer, bits).parameters


@pytest.mark.slow
@pytest.mark.parametrize(("activations", "loss", "name", "seed"), CASES)
def test_weights_after_100_steps(activations, loss, name, seed):
    data, optimizer = example(activations, loss, seed), OPTIMIZERS[name]
    assert len(data.batches) == 100
    arguments = (data.layers, data.batches, loss, optimizer)
    sharp = training_tolerance(*arguments, CONFIG.side, saturated=True)
    expected = train(*arguments, side=CONFIG.side)
    core = _on_the_core(data, loss, optimizer, 32)
    assert ratio(core, expected, sharp) <= 1
    assert ratio(_on_the_core(data, loss, optimizer, 16), expected, sharp) > 1
    changes = [np.abs(weights - layer.weights).max() for (weights, _), layer in zip(core, data.layers)]
    assert all(gradient.weights.max() < 1e-3 * change for gradient, change in zip(sharp, changes))
    if "relu" not in activations:  # with the wide tolerance a z may always be near 0
        assert ratio(core, train(*arguments), training_tolerance(*arguments, CONFIG.side)) <= 1


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize(("activations", "loss", "name", "seed"), CASES)
def test_the_same_words_on_the_rtl(activations, loss, name, seed):
    """After the 100 steps: parameters and optimizer state, so that the tolerances above are the RTL's as well."""
    data, optimizer = example(activations, loss, seed), OPTIMIZERS[name]
    words = []
    for backend in (ModelBackend, RtlBackend):
        session = _session(backend, data, loss, optimizer, 32)
        assert session.step == 100
        words.append(session.raw_state())
        session.backend.close()
    np.testing.assert_array_equal(*words)
