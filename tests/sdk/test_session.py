"""Training and inference compiled for the core, on the instruction-set simulator: against equations, and for races."""

import dataclasses

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_verif.model import equations
from leptonaicsdk.backend import ModelBackend
from leptonaicsdk.network import Adam, Dense, Loss, Network, Sgd
from leptonaicsdk.session import Session
from leptonaicsdk.training.layout import Home

SMALL = NpuConfig(side=8, lanes=8, vmem_rows=2048, acc_rows=1024, tiles=512, queue_depth=8, contexts=1)
SPARSE = Loss.SPARSE_CATEGORICAL_CROSSENTROPY
OPTIMIZERS = {
    "sgd": Sgd(0.1),
    "momentum": Sgd(0.1, 0.9),
    "nesterov": Sgd(0.1, 0.9, nesterov=True),
    "adam": Adam(0.01),
}
NETWORKS = {
    "classes": (("relu", "softmax"), SPARSE, (21, 17, 11)),
    "one layer": (("softmax",), SPARSE, (21, 10)),
    "linear hidden": (("linear", "relu", "linear"), Loss.MEAN_SQUARED_ERROR, (40, 17, 12, 9)),
    "curved": (("sigmoid", "tanh", "sigmoid"), Loss.SQUARED_ERROR, (30, 9, 8, 20)),
    "many classes": (("tanh", "softmax"), SPARSE, (12, 20, 19)),
}


def _network(name: str) -> tuple[Network, Loss]:
    activations, loss, sizes = NETWORKS[name]
    return Network(sizes[0], tuple(Dense(n, a) for n, a in zip(sizes[1:], activations))), loss


def _parameters(network: Network, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (rng.normal(0, i**-0.5, (i, o)).astype(np.float32), rng.normal(0, 0.1, o).astype(np.float32))
        for i, o in zip(network.sizes, network.sizes[1:])
    ]


def _data(network: Network, loss: Loss, rng: np.random.Generator, count: int, bytes_in: bool):
    if bytes_in:
        x = rng.integers(0, 256, (count, network.inputs)).astype(np.uint8)
    else:
        x = rng.random((count, network.inputs)).astype(np.float32)
    outputs = network.sizes[-1]
    y = rng.integers(0, outputs, count) if loss == SPARSE else rng.random((count, outputs)).astype(np.float32)
    return x, y


def _session(config, network, loss, optimizer, *, seed=None, batch=20, precision=32, **options) -> Session:
    backend = ModelBackend(config, 1 << 22, base=0x1000, schedule_seed=seed)
    return Session(backend, network, loss=loss, optimizer=optimizer, batch=batch, precision=precision, **options)


class _Reference:
    """The equations' training of the same network, in float64."""

    def __init__(self, network, loss, optimizer, parameters):
        self.loss = str(loss)
        self.layers = [
            equations.Dense(w.astype(float), b.astype(float), str(layer.activation))
            for layer, (w, b) in zip(network.layers, parameters)
        ]
        o = optimizer
        if isinstance(o, Adam):
            self.optimizer = equations.Adam(self.layers, o.learning_rate)
        else:
            self.optimizer = equations.Sgd(self.layers, o.learning_rate, momentum=o.momentum, nesterov=o.nesterov)

    def step(self, x, y) -> float:
        loss, gradients = equations.loss_and_gradients(self.layers, x, y, self.loss)
        self.layers = self.optimizer.step(self.layers, gradients)
        return loss * len(x)


@pytest.mark.parametrize("bytes_in", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_follows_the_equations(name, optimizer, bytes_in, seed):
    """Three and a half batches at precision 32: parameters, losses and outputs as in float64, up to rounding.

    Elements in the top 0.4 % of a tile's binade saturate (docs/numerics.md, section 6), by up to 0.4 % of themselves;
    so a relative error of that size is allowed for what a step changes.
    """
    rng = np.random.default_rng([seed, len(name), len(optimizer), bytes_in])
    network, loss = _network(name)
    parameters = _parameters(network, rng)
    x, y = _data(network, loss, rng, 70, bytes_in)
    scale = 1 / 255 if bytes_in else 1.0
    session = _session(SMALL, network, loss, OPTIMIZERS[optimizer], input_scale=scale)
    session.parameters = parameters
    metrics = session.train(x, y)
    reference = _Reference(network, loss, OPTIMIZERS[optimizer], parameters)
    total = sum(reference.step(x[i : i + 20] * float(np.float32(scale)), y[i : i + 20]) for i in range(0, 70, 20))
    assert session.step == 4
    assert metrics.count == 70
    np.testing.assert_allclose(metrics.loss_sum, total, rtol=2e-3)
    for (w, b), layer, (w0, b0) in zip(session.parameters, reference.layers, parameters):
        for found, expected, first in ((w, layer.weights, w0), (b, layer.bias, b0)):
            change = np.abs(expected - first).max()
            np.testing.assert_allclose(found, expected, rtol=0, atol=0.01 * change + 1e-6)


@pytest.mark.parametrize("homes", [Home.CHIP, Home.TILES, Home.MEMORY])
@pytest.mark.parametrize("optimizer", ["adam", "nesterov"])
def test_no_race_and_no_difference_between_homes(optimizer, homes, seed):
    """Whatever order the semaphores allow, and wherever the weights live, every word of the result is the same."""
    rng = np.random.default_rng([seed, 7])
    network, loss = _network("classes")
    parameters = _parameters(network, rng)
    x, y = _data(network, loss, rng, 70, True)
    expected = None
    for schedule, kind in ((None, Home.CHIP), (None, homes), (1, homes), (2, homes), (3, homes)):
        options = {"precision": 8, "input_scale": 1 / 255, "home": kind}
        session = _session(SMALL, network, loss, OPTIMIZERS[optimizer], seed=schedule, **options)
        assert session.homes == (kind, kind)
        session.parameters = parameters
        metrics = session.train(x, y)
        found = (session.raw_state(), metrics, session.evaluate(x, y), session.predict(x))
        if expected is None:
            expected = found
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1:3] == expected[1:3]
        np.testing.assert_array_equal(found[3], expected[3])


@pytest.mark.parametrize("homes", [Home.CHIP, Home.TILES, Home.MEMORY])
@pytest.mark.parametrize("bytes_in", [True, False])
def test_layers_in_turn_give_the_same_bits(homes, bytes_in, seed):
    """A batch alone, batches in a loop, and one layer after the other, in any order that the semaphores allow.

    The last is what weights that stream do: with them nothing is begun before its layer's inputs are complete.
    """
    rng = np.random.default_rng([seed, 13])
    network = Network(75, (Dense(70, "relu"), Dense(41, "tanh"), Dense(11, "softmax")))  # 9 and 6 columns of tiles
    parameters, (x, _) = _parameters(network, rng), _data(network, SPARSE, rng, 10, bytes_in)
    config = dataclasses.replace(SMALL, vmem_rows=8192, acc_rows=2048)
    options = {"precision": 16, "input_scale": 1 / 255 if bytes_in else 1.0}
    for batch in (1, 5):
        reference = _session(config, network, SPARSE, Sgd(), home=Home.MEMORY, **options)
        reference.parameters = parameters
        expected = reference.predict(x, batch=batch)
        for schedule in (None, 1, 2):
            session = _session(config, network, SPARSE, Sgd(), seed=schedule, home=homes, **options)
            session.parameters = parameters
            np.testing.assert_array_equal(session.predict(x, batch=batch), expected)
            alone = [session.predict(x[first : first + batch], batch=batch) for first in range(0, len(x), batch)]
            np.testing.assert_array_equal(np.concatenate(alone), expected)
    with pytest.raises(ValueError, match="batch must be at least 1, not 0"):
        session.predict(x, batch=0)


def test_evaluate_and_predict_agree(seed):
    """Losses and hits of `evaluate` are those of the probabilities that `predict` gives."""
    rng = np.random.default_rng([seed, 8])
    network, loss = _network("many classes")
    session = _session(SMALL, network, loss, Adam(), input_scale=1 / 255)
    session.parameters = _parameters(network, rng)
    x, y = _data(network, loss, rng, 45, True)
    p, metrics = session.predict(x), session.evaluate(x, y)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert metrics.correct == (p.argmax(axis=1) == y).sum()
    np.testing.assert_allclose(
        metrics.loss_sum, -np.log(p[np.arange(45), y].astype(float)).sum(), rtol=1e-6, atol=45e-7
    )


@pytest.mark.parametrize("name", ["classes", "many classes", "one layer"])
def test_of_equal_probabilities_the_first_one_counts(name, seed):
    """Pairs of classes with the same weights, and then all of them: what argmax says, in `evaluate` and in `train`."""
    rng = np.random.default_rng([seed, 12])
    network, loss = _network(name)
    parameters = _parameters(network, rng)
    session = _session(SMALL, network, loss, Sgd(0.0), input_scale=1 / 255, precision=8)
    x, y = _data(network, loss, rng, 100, True)
    outputs = network.sizes[-1]
    for classes in (np.arange(outputs) // 2, (np.arange(outputs) + 1) // 2, np.zeros(outputs, int)):
        weights, bias = (array[..., classes] for array in parameters[-1])
        session.parameters = [*parameters[:-1], (weights, bias)]
        p = session.predict(x)
        ties = (p == p.max(axis=1, keepdims=True)).sum(axis=1)
        assert (ties > 1).mean() > 0.5
        last = outputs - 1 - p[:, ::-1].argmax(axis=1)
        for labels in (p.argmax(axis=1), last, y):
            right = int((p.argmax(axis=1) == labels).sum())
            assert session.evaluate(x, labels).correct == right
            assert session.train(x, labels).correct == right


def test_state_goes_in_and_out(seed):
    """Parameters and optimizer state survive a way through the host: training goes on as if nothing had happened."""
    rng = np.random.default_rng([seed, 9])
    network, loss = _network("classes")
    x, y = _data(network, loss, rng, 40, False)
    first = _session(SMALL, network, loss, Sgd(0.1, 0.9), precision=8)
    first.parameters = _parameters(network, rng)
    first.train(x, y)
    second = _session(SMALL, network, loss, Sgd(0.1, 0.9), precision=8)
    second.state = first.state
    np.testing.assert_array_equal(first.raw_state(), second.raw_state())
    assert second.step == 2
    third = _session(SMALL, network, loss, Sgd(0.1, 0.9), precision=8)
    third.load_raw_state(first.raw_state(), first.step)
    for session in (first, second, third):
        session.train(x, y)
    np.testing.assert_array_equal(first.raw_state(), second.raw_state())
    np.testing.assert_array_equal(first.raw_state(), third.raw_state())


def test_slices_do_not_matter(seed):
    """An epoch in one call, in several, and in a memory that holds only a few batches at a time."""
    rng = np.random.default_rng([seed, 10])
    network, loss = _network("classes")
    parameters = _parameters(network, rng)
    x, y = _data(network, loss, rng, 400, True)
    states, sums = [], []
    for memory, cuts in ((1 << 22, [400]), (1 << 22, [100, 400]), ((1 << 20) + (1 << 18), [400])):
        backend = ModelBackend(SMALL, memory)
        session = Session(backend, network, loss=loss, optimizer=Adam(), batch=20, input_scale=1 / 255)
        session.parameters = parameters
        metrics = [session.train(x[a:b], y[a:b]) for a, b in zip([0, *cuts], cuts)]
        states.append(session.raw_state())
        sums.append(sum(m.correct for m in metrics))
    np.testing.assert_array_equal(states[0], states[1])
    np.testing.assert_array_equal(states[0], states[2])
    assert len(set(sums)) == 1


def test_clipping(seed):
    """Outliers become the ends of the range."""
    rng = np.random.default_rng([seed, 11])
    network, loss = _network("classes")
    parameters = _parameters(network, rng)
    x, _ = _data(network, loss, rng, 20, False)
    wild = x.copy()
    wild[x < 0.1], wild[x > 0.9] = -1e30, np.inf
    outputs = []
    for samples, clip in ((np.clip(x, np.float32(0.1), np.float32(0.9)), None), (wild, (0.1, 0.9))):
        session = _session(SMALL, network, loss, Sgd(), clip=clip, input_scale=2.0)
        session.parameters = parameters
        outputs.append(session.predict(samples))
    np.testing.assert_array_equal(*outputs)


def test_large_layers_stream():
    """A network whose state does not fit stays trainable; what lives where can be read."""
    network = Network(400, (Dense(60, "relu"), Dense(10, "softmax")))
    config = dataclasses.replace(SMALL, vmem_rows=4096)
    session = _session(config, network, SPARSE, Adam(), batch=8, precision=8)
    assert session.homes[0] != Home.CHIP
    assert session.homes[1] == Home.CHIP


MESSAGES = [
    ({"batch": 0}, "batch must be an integer of 1 or more, not 0"),
    (
        {"loss": Loss.SQUARED_ERROR},
        "loss must be sparse_categorical_crossentropy exactly when the last layer is softmax",
    ),
    ({"precision": 7}, "precision must be 8, 16 or 32, not 7"),
    (
        {"batch": 4096},
        "the network cannot run on this core, even with all weights streamed: a batch of 4096 does not fit",
    ),
]


@pytest.mark.parametrize(("options", "message"), MESSAGES)
def test_refusals(options, message):
    network, loss = _network("classes")
    options = {"loss": loss, "optimizer": Sgd(), "batch": 8, **options}
    with pytest.raises(ValueError, match=message):
        Session(ModelBackend(PRESETS["tiny"], 1 << 22), network, **options)


def test_a_session_that_only_infers_has_more_room():
    """No room for gradients and optimizer state is needed; its outputs are those of a session that trains."""
    network = Network(100, (Dense(40, "relu"), Dense(10, "softmax")))
    rng = np.random.default_rng(3)
    parameters, (x, y) = _parameters(network, rng), _data(network, SPARSE, rng, 5, True)
    backend = ModelBackend(PRESETS["tiny"], 1 << 22)
    options = {"loss": SPARSE, "batch": 4, "input_scale": 1 / 255}
    with pytest.raises(ValueError, match="the network cannot run on this core"):
        Session(backend, network, optimizer=Adam(), **options)
    session = Session(backend, network, optimizer=None, **options)
    session.parameters = parameters
    assert session.evaluate(x, y).correct == (session.predict(x).argmax(axis=1) == y).sum()
    for call in (lambda: session.train(x, y), session.plan):
        with pytest.raises(ValueError, match="optimizer must be given to a session that is to train, not None"):
            call()
    assert session.plan(training=False).engines["MATMUL"].busy > 0
    outputs = []
    for optimizer in (None, Adam()):
        session = _session(SMALL, network, SPARSE, optimizer, input_scale=1 / 255)
        session.parameters = parameters
        outputs.append(session.predict(x))
    np.testing.assert_array_equal(*outputs)


def test_bad_samples_and_labels():
    network, loss = _network("classes")
    session = _session(SMALL, network, loss, Sgd())
    x, y = np.zeros((3, 21), np.uint8), np.zeros(3, np.int64)
    for bad_x, bad_y, message in (
        (x[:, :20], y, r"x must be \(n, 21\) of uint8 or float32"),
        (x[:0], y[:0], r"n of 1 or more, not \(0, 21\)"),
        (x.astype(np.float64), y, "of float64"),
        (x, y[:2], "y must be 3 integer labels"),
        (x, y + 0.5, "y must be 3 integer labels"),
        (x, y + [0, 11, 0], "y must be labels from 0 to 10, not 11 at index 1"),
        (x, y - [0, 0, 1], "y must be labels from 0 to 10, not -1 at index 2"),
    ):
        with pytest.raises(ValueError, match=message):
            session.train(bad_x, bad_y)
    for rate in (float("inf"), float("nan"), -1.0):
        with pytest.raises(ValueError, match="learning_rate must be from 0 to below infinity"):
            session.train(x, y, learning_rate=rate)
    with pytest.raises(ValueError, match="layer 0: weights and bias must have shapes"):
        session.parameters = [(np.zeros((3, 3)), np.zeros(3))] * 2
