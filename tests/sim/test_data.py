"""The sample that the project carries, and the weights trained on it."""

import numpy as np
import pytest
from lepton_sim.data import DIGITS, WEIGHTS, digits, trained_mlp
from lepton_verif.model import equations as eq

ACCURACY = 241 / 256
"""Of the carried weights on the carried test sample, as data/README.md states it."""


def test_sample_has_its_shapes():
    sample = digits()
    assert DIGITS.stat().st_size <= 400_000
    assert sample.train_images.shape == (2000, 784)
    assert sample.test_images.shape == (256, 784)
    assert sample.train_images.dtype == sample.test_images.dtype == np.uint8
    assert len(sample.train_labels) == 2000
    # The first test labels as every copy of MNIST has them.
    assert sample.test_labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert np.bincount(sample.train_labels, minlength=10).min() > 150


def test_weights_reach_the_stated_accuracy():
    layers = trained_mlp()
    assert WEIGHTS.stat().st_size <= 250_000
    assert [layer.weights.shape for layer in layers] == [(784, 64), (64, 10)]
    assert [layer.bias.shape for layer in layers] == [(64,), (10,)]
    assert {part.dtype for layer in layers for part in (layer.weights, layer.bias)} == {np.dtype(np.float32)}
    sample = digits()
    scores = eq.forward(layers, sample.test_images / 255).output
    assert eq.accuracy(scores, sample.test_labels) == ACCURACY


@pytest.mark.slow
def test_training_again_gives_the_carried_weights():
    from bench.train_sample import train

    for again, carried in zip(train(), trained_mlp()):
        # Other BLAS libraries add in another order.
        np.testing.assert_allclose(again.weights, carried.weights, rtol=0, atol=1e-6)
        np.testing.assert_allclose(again.bias, carried.bias, rtol=0, atol=1e-6)
