"""Keras models on the bit-exact model of the core."""

import numpy as np
import pytest
from leptonaicsdk import Device
from leptonaicsdk.datasets import digits


def test_precision_32_agrees_with_keras(keras, build, data):
    """Three epochs of Adam against Keras's own, weights and optimizer variables."""
    if keras.backend.backend() in ("numpy", "openvino"):
        pytest.skip("Keras cannot train on this backend")
    mine, theirs = build(), build()
    theirs.set_weights(mine.get_weights())
    for model in (mine, theirs):
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    options = {"epochs": 3, "batch_size": 16, "shuffle": False, "validation_split": 0.2, "verbose": 0}
    with Device("model") as device:
        device.set_precision(32)
        found = mine.fit(*data, **options)
        outputs = mine.predict(data[0], verbose=0)
    expected = theirs.fit(*data, **options)
    for name in ("loss", "val_loss"):
        assert found.history[name] == pytest.approx(expected.history[name], rel=1e-3)
    assert outputs == pytest.approx(theirs.predict(data[0], verbose=0), abs=1e-3)
    for a, b in zip(mine.optimizer.variables, theirs.optimizer.variables, strict=True):
        mine_values, other = (np.array(keras.ops.convert_to_numpy(v)) for v in (a, b))
        assert mine_values == pytest.approx(other, abs=2e-3 * float(np.abs(other).max()) + 1e-7)


def test_the_founding_program(keras):
    """Its calls as printed, with the sample that the project carries; 8 bits."""
    data = digits()
    x_train, x_test = (part.reshape(-1, 784).astype("float32") / 255 for part in (data.x_train, data.x_test))
    device = Device("model")
    device.initialize()
    device.set_precision(8)
    model = keras.Sequential(
        [
            keras.layers.Dense(64, activation="relu", input_shape=(784,)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x_train, data.y_train, epochs=3, verbose=0)
    device.load_model(model)
    test_loss, test_acc = model.evaluate(x_test, data.y_test, verbose=0)
    device.deinitialize()
    assert history.history["accuracy"][-1] > 0.85
    assert test_acc > 0.85
    outputs = model(x_test[:100])  # on the host, with what the device has learned
    assert (np.array(keras.ops.convert_to_numpy(outputs)).argmax(axis=1) == data.y_test[:100]).mean() > 0.85
    assert test_loss < 0.6
