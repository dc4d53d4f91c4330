"""Keras for these tests: on JAX, or the backend that KERAS_BACKEND names."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "jax")


@pytest.fixture
def keras():
    """Keras, or a reason to skip; its generators begin with the same seed, its methods are its own before and after."""
    module = pytest.importorskip("keras", reason='Keras is not installed: pip install ".[keras]"', exc_type=ImportError)
    module.utils.clear_session(free_memory=False)  # collecting garbage would take half of these tests
    module.utils.set_random_seed(3)
    own = {"fit", "evaluate", "predict"}
    assert not own & set(vars(module.Model))
    yield module
    assert not own & set(vars(module.Model))


@pytest.fixture
def data():
    """Samples of bytes (70, 6), and labels 0 .. 2 that depend on them."""
    x = np.random.default_rng(1).integers(0, 256, (70, 6), np.uint8)
    return x, x[:, :3].argmax(axis=1)


@pytest.fixture
def build(keras):
    """Makes a model 6-5-3, not compiled."""

    def make():
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((6,)),
                layers.Rescaling(1 / 255),
                layers.Dense(5, activation="relu"),
                layers.Dense(3, activation="softmax"),
            ]
        )

    return make


@pytest.fixture
def model(build):
    """The same, compiled with Adam."""
    model = build()
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
