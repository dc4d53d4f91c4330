"""`Device` on the bit-exact model of the core: small networks, every precision, interrupts, going on from a state."""

import signal

import numpy as np
import pytest
from leptonaicsdk import Adam, Dense, Device, InputError, ModelError, Network, Sgd
from leptonaicsdk.datasets import digits
from leptonaicsdk.network import Loss

from tests.sdk.standin import StandInBackend, StandInSession

NETWORK = Network(12, (Dense(20, "relu"), Dense(3, "softmax")))
RNG = np.random.default_rng(4)
X = RNG.integers(0, 256, (90, 12), np.uint8)
Y = X[:, :3].argmax(axis=1).astype(np.int32)
OPTIMIZERS = {
    "gradient descent": Sgd(0.2),
    "momentum": Sgd(0.05, momentum=0.9),
    "nesterov": Sgd(0.05, momentum=0.9, nesterov=True),
    "adam": Adam(0.01),
}


def numbers(parameters):
    return np.concatenate([array.reshape(-1) for pair in parameters for array in pair])


@pytest.fixture(scope="module")
def device():
    with Device("model") as device:
        yield device


def load(device, optimizer=None, batch_size=16, **options):
    device.load_model(NETWORK, input_scale=1 / 255, seed=1)
    device.compile(optimizer=optimizer or Adam(0.01), batch_size=batch_size, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_precision_32_trains_like_float64(device, name):
    """Three epochs with a partial batch. A product at precision 32 is exact to about 2^-22 of its tile's largest."""
    load(device, OPTIMIZERS[name])
    device.set_precision(32)
    reference = StandInSession(
        StandInBackend("", None, memory_bytes=0),
        NETWORK,
        loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
        optimizer=OPTIMIZERS[name],
        batch=16,
        input_scale=1 / 255,
    )
    reference.parameters = device.parameters
    history = device.fit(X, Y, epochs=3, shuffle=False)
    for epoch in range(3):
        assert history["loss"][epoch] == pytest.approx(reference.train(X, Y).loss, rel=1e-4)
    assert numbers(device.parameters) == pytest.approx(numbers(reference.parameters), abs=2e-4)
    assert device.state.step == reference.step == 18
    evaluation = device.evaluate(X, Y)
    assert evaluation.loss == pytest.approx(reference.evaluate(X, Y).loss, rel=1e-4)
    assert device.predict(X) == pytest.approx(reference.predict(X), abs=1e-4)
    device.set_precision(8)


@pytest.mark.parametrize("bits", [8, 16])
def test_every_precision_learns(device, bits):
    load(device)
    device.set_precision(bits)
    history = device.fit(X, Y, epochs=15)
    assert history["accuracy"][-1] > 0.85
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    device.set_precision(8)


def test_sizes_that_are_no_multiples_of_the_array(device):
    device.load_model(Network(5, (Dense(17, "tanh"), Dense(1, "sigmoid"))))
    device.compile(optimizer=Sgd(2.0), loss="squared_error", batch_size=7)
    x = RNG.standard_normal((50, 5)).astype(np.float32)
    y = (x[:, 0] > x[:, 1]).astype(np.float32)
    history = device.fit(x, y, epochs=10, validation_data=(x, y))
    assert history["val_loss"][-1] < 0.5 * history["val_loss"][0]
    assert device.predict(x[:1]).shape == (1, 1)


def test_epochs_one_by_one_are_the_same_bits(device):
    load(device)
    device.fit(X, Y, epochs=3)
    whole = device.state
    load(device)
    for epoch in range(3):
        device.fit(X, Y, initial_epoch=epoch, epochs=epoch + 1)
        device.predict(X[:3])
    assert device.state.same(whole)


def test_interrupt_on_the_device(device, monkeypatch):
    """It arrives while a program runs, which ends first; training goes on to the same bits."""
    load(device)
    device.fit(X, Y, shuffle=False)
    whole = device.state
    load(device)
    device.predict(X[:1])
    backend, launches = device._runner._backend, []
    run = backend.run

    def interrupted(records):
        if not launches:
            signal.raise_signal(signal.SIGINT)
        launches.append(len(records))
        run(records)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            device.fit(X[:64], Y[:64], shuffle=False)
    assert len(launches) == 2  # the training, and reading the state
    assert device.state.step == 4
    device.fit(X[64:], Y[64:], shuffle=False)
    assert device.state.same(whole)


def test_a_state_goes_to_the_device_in_one_program(device, monkeypatch):
    """Parameters and what the optimizer remembers together, and once."""
    load(device)
    device.fit(X, Y)
    kept = device.state
    load(device)
    device.predict(X[:1])
    backend, launches = device._runner._backend, []
    run = backend.run
    with monkeypatch.context() as patch:
        patch.setattr(backend, "run", lambda records: (launches.append(len(records)), run(records)))
        device.state = kept
        device.predict(X[:1])
    assert len(launches) == 2  # the state, and the prediction
    assert device._runner._session.state.same(kept)


@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "mean_squared_error"])
def test_training_that_diverges_shows_it(device, loss):
    """A rate that is finite, and far too large: the loss becomes NaN, as in Keras; the device can go on from before."""
    last = "softmax" if loss.startswith("sparse") else "linear"
    device.load_model(Network(12, (Dense(20, "relu"), Dense(3, last))), seed=1)
    device.compile(optimizer=Sgd(1.0), loss=loss, batch_size=16)
    y = Y if last == "softmax" else np.eye(3)[Y]
    before = device.state
    device.learning_rate = 1e38
    history = device.fit(X, y, epochs=2)
    assert np.isnan(history["loss"][-1])
    assert np.isnan(device.evaluate(X, y).loss)
    assert not np.isfinite(numbers(device.parameters)).all()
    device.state = before
    device.learning_rate = 1e-6
    assert np.isfinite(device.fit(X, y)["loss"]).all()


def test_what_the_device_refuses(device):
    load(device)
    with pytest.raises(InputError, match="y must be integers from 0 to 2, not 3"):
        device.fit(X, Y + 1)
    device.load_model(Network(784, (Dense(4096, "relu"), Dense(10, "softmax"))))
    device.compile()
    with pytest.raises(ModelError, match="layer 0"):
        device.fit(np.zeros((4, 784), np.uint8), np.zeros(4))
    load(device)
    device.fit(X, Y)


def test_digits():
    """The headline's network, smaller, on the sample that the project carries."""
    data = digits()
    x, x_test = (part.reshape(len(part), -1) for part in (data.x_train, data.x_test))
    with Device("model") as device:
        device.load_model(Network(784, (Dense(32, "relu"), Dense(10, "softmax"))), input_scale=1 / 255)
        device.compile(optimizer="adam", batch_size=50)
        device.fit(x, data.y_train, epochs=3)
        evaluation = device.evaluate(x_test, data.y_test)
    assert evaluation.accuracy > 0.85
    assert abs(evaluation.f1 - evaluation.accuracy) < 0.05
