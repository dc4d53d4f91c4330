"""The trained network on the instruction-set simulator: probabilities against the equations, and for races.

Programs are those of `Session.predict`, recorded as jobs (`lepton_sim.inference_job`).
"""

import itertools

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS, RECORD_BYTES
from lepton_sim.data import digits, trained_mlp
from lepton_sim.inference_job import inference_job
from lepton_sim.main_job import make_job
from lepton_verif.model import equations as eq
from lepton_verif.model.iss import Iss
from leptonaicsdk.backend import ModelBackend
from leptonaicsdk.network import Dense, Loss, Network
from leptonaicsdk.program import precision_of
from leptonaicsdk.session import Session
from leptonaicsdk.training.layout import Home

from tests.sdk.inference_bound import probabilities

IMAGES = {"train": 140, "tiny": 10, "ecp5": 40, "default": 140, "large": 140}
"""More than a batch each, and the last batch is not full."""
TOO_LARGE = {("tiny", 16), ("tiny", 32)}
"""Where tiles of a batch of one sample and of a chunk of weights do not fit."""


def _run(config, job, schedule_seed=None):
    """Memory after the program."""
    iss = Iss(config, job.memory.copy(), base=job.base, schedule_seed=schedule_seed)
    assert iss.run(job.ring, job.ring_log2, job.records) is None
    assert iss.tag == job.tag
    return iss.memory


@pytest.mark.parametrize(
    ("name", "bits"), [(n, b) for n in sorted(PRESETS) for b in (8, 16, 32) if (n, b) not in TOO_LARGE]
)
def test_probabilities_are_within_the_derived_bound(name, bits):
    """The derivation is in `inference_bound`. The bound tells images apart: another image's result is outside it."""
    config, images = PRESETS[name], digits().test_images[: IMAGES[name]]
    inference = make_job(config, images, bits)
    memory = _run(config, inference.job)
    expected, bound = probabilities(trained_mlp(), images, precision_of(bits), inference.batch, config.side)
    found = inference.probabilities(memory)
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    assert (error <= bound).all()
    assert (np.abs(np.roll(found, 1, axis=0) - expected) > bound).any(axis=1).mean() > 0.9
    for seed in (1, 2):
        assert np.array_equal(_run(config, inference.job, seed), memory), f"schedule {seed} gives another result"


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_accuracy_is_that_of_the_equations(bits):
    sample = digits()
    inference = make_job(PRESETS["default"], sample.test_images, bits)
    found = inference.probabilities(inference.job.expected)
    exact = eq.forward(trained_mlp(), sample.test_images / 255).output
    assert abs(eq.accuracy(found, sample.test_labels) - eq.accuracy(exact, sample.test_labels)) <= 2 / 256


@pytest.mark.parametrize("sizes", [(50, 20), (100, 40, 10), (131, 70, 33, 20), (100, 40, 30, 50, 18)])
def test_homes_and_pieces_give_the_same_bits(sizes):
    """Where weights live, and how many batches run at a time, is not visible in the result."""
    rng = np.random.default_rng(len(sizes))
    network = Network(sizes[0], (*(Dense(units, "relu") for units in sizes[1:-1]), Dense(sizes[-1], "softmax")))
    parameters = [
        ((rng.standard_normal((i, o)) / np.sqrt(i)).astype(np.float32), rng.normal(0, 0.1, o).astype(np.float32))
        for i, o in itertools.pairwise(sizes)
    ]
    images, results = rng.integers(0, 256, (300, sizes[0]), dtype=np.uint8), []
    for home in Home:
        for seed, memory in ((None, 1 << 22), (1, 1 << 22), (2, (1 << 20) + (1 << 18))):
            session = Session(
                ModelBackend(PRESETS["default"], memory, schedule_seed=seed), network, home=home, optimizer=None,
                loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY, batch=128, input_scale=1 / 255,
            )  # fmt: skip
            session.parameters = parameters
            assert session.homes == (home,) * len(network.layers)
            results.append(session.predict(images))
    layers = [
        eq.Dense(weights, bias, "linear" if l == len(parameters) - 1 else "relu")
        for l, (weights, bias) in enumerate(parameters)
    ]
    expected, bound = probabilities(layers, images, precision_of(8), 128, 16)
    assert all(np.array_equal(result, results[0]) for result in results)
    assert (np.abs(results[0] - expected) <= bound).all()


def test_a_missing_wait_is_seen_by_the_schedules():
    """That equal memories mean something: without its semaphores the program has races that some schedule shows."""
    config = PRESETS["default"]
    job = make_job(config, digits().test_images[:200], 8).job
    memory = _run(config, job)
    code = job.memory[: 1 << 20].reshape(-1, RECORD_BYTES)  # the ring, and behind it the bodies
    code[code.any(axis=1), 4:8] = 0
    assert any(not np.array_equal(_run(config, job, seed)[1 << 20 :], memory[1 << 20 :]) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        (
            "tiny",
            (784, 2000, 10),
            "sums of layer 0 needs 500 rows of the accumulators, half 0, of whose 128 128 are left",
        ),
        ("tiny", (8, 8, 1200), r"constants of layer 1 \(8 x 1200\) needs 903 rows of the vector memory, of whose 1024"),
        ("default", (9, 70000), r"constants of layer 0 \(9 x 70000\) needs 13128 rows of the vector memory"),
    ],
)
def test_network_that_cannot_fit_is_refused(name, sizes, message):
    layers = (*(Dense(units, "relu") for units in sizes[1:-1]), Dense(sizes[-1], "softmax"))
    parameters = [(np.zeros((i, o), np.float32), np.zeros(o, np.float32)) for i, o in itertools.pairwise(sizes)]
    images = np.zeros((3, sizes[0]), np.uint8)
    with pytest.raises(ValueError, match=f"the network cannot run on this core, even with all weights.* {message}"):
        inference_job(PRESETS[name], Network(sizes[0], layers), parameters, images)


def test_images_that_do_not_fit_into_the_memory():
    parameters = [(layer.weights, layer.bias) for layer in trained_mlp()]
    network = Network(784, (Dense(64, "relu"), Dense(10, "softmax")))
    images = np.zeros((4000, 784), np.uint8)
    with pytest.raises(ValueError, match="images must fit into 4194304 bytes of memory at once, 4000 do not"):
        inference_job(PRESETS["train"], network, parameters, images)
