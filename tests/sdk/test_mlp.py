"""Compiled networks on the instruction-set simulator, against the equations and against each other."""

import itertools

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim.data import digits, trained_mlp
from lepton_verif.model import equations as eq
from lepton_verif.model.iss import Iss
from leptonaicsdk import mlp
from leptonaicsdk.mlp import Layer, compile_mlp, precision_of
from leptonaicsdk.plan import Layout, Plan

from tests.sdk.mlp_bound import probabilities

IMAGES = {"train": 40, "tiny": 10, "ecp5": 40, "default": 70, "large": 70}
"""More than a batch each, and the last batch is not full."""


def _layers():
    return [Layer(layer.weights, layer.bias, layer.activation == "relu") for layer in trained_mlp()]


def _random_layers(rng, *sizes):
    return [
        Layer(
            (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32),
            (rng.standard_normal(outputs) / 10).astype(np.float32),
            l < len(sizes) - 2,
        )
        for l, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
    ]


def _run(config, compiled, schedule_seed=None):
    """Memory after the program."""
    iss = Iss(config, compiled.memory.copy(), base=compiled.base, schedule_seed=schedule_seed)
    assert iss.run(compiled.ring, compiled.ring_log2, compiled.records) is None
    assert iss.tag == compiled.tag
    return iss.memory


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_probabilities_are_within_the_derived_bound(name, bits):
    """The derivation is in `mlp_bound`. The bound tells images apart: another image's result is outside it."""
    config, layers, images = PRESETS[name], _layers(), digits().test_images[: IMAGES[name]]
    compiled = compile_mlp(config, layers, images, bits, base=0x10000)
    memory = _run(config, compiled)
    expected, bound = probabilities(layers, images, precision_of(bits), compiled.plan.batch, config.side)
    found = compiled.probabilities(memory)
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    assert (error <= bound).all()
    assert (np.abs(np.roll(found, 1, axis=0) - expected) > bound).any(axis=1).mean() > 0.9
    for seed in (1, 2, 3):
        assert np.array_equal(_run(config, compiled, seed), memory), f"schedule {seed} gives another result"


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_accuracy_is_that_of_the_equations(bits):
    config, sample = PRESETS["default"], digits()
    compiled = compile_mlp(config, _layers(), sample.test_images, bits)
    found = compiled.probabilities(_run(config, compiled))
    exact = eq.forward(trained_mlp(), sample.test_images / 255).output
    assert abs(eq.accuracy(found, sample.test_labels) - eq.accuracy(exact, sample.test_labels)) <= 2 / 256


def _compile_with(monkeypatch, layers, images, **choices):
    """Compile for a plan that is given, not chosen."""
    sizes = (images.shape[1], *(layer.bias.size for layer in layers))

    def choose(config, *_):
        return Layout(Plan(config, sizes, precision_of(8), **choices))

    monkeypatch.setattr(mlp, "choose_plan", choose)
    return compile_mlp(PRESETS["default"], layers, images, 8)


@pytest.mark.parametrize("sizes", [(50, 20), (100, 40, 10), (131, 70, 33, 20), (100, 40, 30, 50, 18)])
def test_every_way_to_cut_gives_the_same_bits(monkeypatch, sizes):
    """Residence, chunks and overlap are not visible in the result; the batch is, as tiles share an exponent."""
    rng = np.random.default_rng(len(sizes))
    layers, images = _random_layers(rng, *sizes), rng.integers(0, 256, (45, sizes[0]), dtype=np.uint8)
    count, results = len(layers), []
    for pipelined, streamed, chunks in itertools.product((False, True), ((False,) * count, (True,) * count), (1, 3)):
        choices = {"batch": 8, "pipelined": pipelined, "streamed": streamed, "chunks": chunks}
        compiled = _compile_with(monkeypatch, layers, images, **choices)
        for seed in (None, 1, 2):
            results.append(compiled.probabilities(_run(PRESETS["default"], compiled, seed)))
    expected, bound = probabilities(layers, images, precision_of(8), 8, 16)
    assert all(np.array_equal(result, results[0]) for result in results)
    assert (np.abs(results[0] - expected) <= bound).all()


def test_a_missing_wait_is_seen_by_the_schedules():
    """That equal memories mean something: without its semaphores the program has races that some schedule shows."""
    config = PRESETS["default"]
    compiled = compile_mlp(config, _layers(), digits().test_images[:70], 8)
    memory = _run(config, compiled)
    ring = compiled.memory[compiled.ring - compiled.base :].reshape(-1, 64)
    ring[: compiled.records, 4:8] = 0
    assert any(not np.array_equal(_run(config, compiled, seed), memory) for seed in (1, 2, 3))


@pytest.mark.parametrize(
    "name, sizes, message",
    [
        ("tiny", (784, 2000, 10), r"layer 0 \(784 x 2000\) does not fit: a batch of 1 sums takes 500 rows, with all "
         "else 503, and the accumulator memory has 256"),
        ("tiny", (8, 600, 10), r"layer 0 \(8 x 600\) does not fit: a chunk of weights takes 300 tiles, with all else "
         r"\d+, and the tile memory has 512"),
        ("tiny", (8, 8, 900), r"layer 1 \(8 x 900\) does not fit: a chunk of weights in binary32 takes 900 rows, with "
         r"all else \d+, and the vector memory has 1024"),
        ("default", (9, 70000), r"layer 0 \(9 x 70000\) does not fit: a batch of 1 sums takes 4375 rows"),
    ],
)  # fmt: skip
def test_network_that_cannot_fit_is_refused(name, sizes, message):
    layers = [
        Layer(np.zeros((inputs, outputs), np.float32), np.zeros(outputs, np.float32), l < len(sizes) - 2)
        for l, (inputs, outputs) in enumerate(itertools.pairwise(sizes))
    ]
    with pytest.raises(ValueError, match=message):
        compile_mlp(PRESETS[name], layers, np.zeros((3, sizes[0]), np.uint8))


def test_bad_arguments_are_refused():
    layers, images = _layers(), digits().test_images[:2]
    config, (first, last) = PRESETS["default"], layers
    for arguments, message in (
        ((layers, images.astype(np.float32)), "images must be a uint8 matrix of a row or more, not float32"),
        ((layers, images[:0]), r"images must be a uint8 matrix of a row or more, not uint8 of shape \(0, 784\)"),
        ((layers, images, 12), "precision must be 8, 16 or 32, not 12"),
        (([], images), "layers must hold a layer or more, not none"),
        (([last], images), r"layer 0: weights must have 784 rows, not shape \(64, 10\)"),
        (
            ([first, Layer(last.weights, first.bias, False)], images),
            r"layer 1: bias must have shape \(10,\), not \(64,\)",
        ),
        (([first], images), "layer 0: relu must be False for the last layer"),
    ):
        with pytest.raises(ValueError, match=message):
            compile_mlp(config, *arguments)
    with pytest.raises(ValueError, match="base must be a multiple of 64, not 0x20"):
        compile_mlp(config, layers, images, base=0x20)
