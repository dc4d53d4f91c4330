"""Training, evaluating and predicting through Keras's methods, against Keras's own on its backend."""

import csv
import pickle

import numpy as np
import pytest

SPARSE = "sparse_categorical_crossentropy"
OPTIMIZERS = {
    "gradient descent": lambda o: o.SGD(0.3),
    "momentum": lambda o: o.SGD(0.1, momentum=0.9),
    "nesterov": lambda o: o.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda o: o.Adam(0.01),
    "schedule": lambda o: o.Adam(o.schedules.ExponentialDecay(0.05, 3, 0.8)),
}


def numbers(keras, variables):
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def assert_same(keras, a, b, **tolerance):
    """Weights and optimizer variables of two models."""
    tolerance = tolerance or {"rel": 2e-4, "abs": 2e-5}
    for mine, other in zip(numbers(keras, a.weights), numbers(keras, b.weights), strict=True):
        assert mine == pytest.approx(other, **tolerance)
    for mine, other in zip(numbers(keras, a.optimizer.variables), numbers(keras, b.optimizer.variables), strict=True):
        assert mine == pytest.approx(other, **tolerance)


def twins(keras, build, **options):
    """Two models of the same weights, compiled alike."""
    pair = build(), build()
    pair[1].set_weights(pair[0].get_weights())
    for model in pair:
        made = {name: value(keras.optimizers) if callable(value) else value for name, value in options.items()}
        model.compile(**{"loss": SPARSE, "metrics": ["accuracy"], **made})
    return pair


def trains_itself(keras):
    if keras.backend.backend() in ("numpy", "openvino"):
        pytest.skip(f"Keras cannot train on its backend {keras.backend.backend()}")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_as_on_the_host(keras, build, device, data, name):
    """Loss, accuracy, weights and optimizer variables; with a partial batch, shuffling and a validation split."""
    trains_itself(keras)
    mine, theirs = twins(keras, build, optimizer=OPTIMIZERS[name])
    device.load_model(mine)
    shuffle = keras.backend.backend() == "jax"  # the others take their own generators
    options = {"epochs": 3, "batch_size": 16, "validation_split": 0.2, "shuffle": shuffle, "verbose": 0}
    keras.utils.set_random_seed(5)
    found = mine.fit(*data, **options)
    evaluated, predicted = mine.evaluate(*data, verbose=0), mine.predict(data[0], verbose=0)
    device.deinitialize()
    theirs.evaluate(*data, verbose=0)  # else Keras draws an order more, for a batch to build the metrics with
    keras.utils.set_random_seed(5)
    expected = theirs.fit(*data, **options)
    assert list(found.history) == list(expected.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    for key, values in expected.history.items():
        assert found.history[key] == pytest.approx(values, rel=1e-4)
    assert (found.params, found.epoch) == (expected.params, expected.epoch)
    assert_same(keras, mine, theirs)
    assert evaluated == pytest.approx(theirs.evaluate(*data, verbose=0), rel=1e-4)
    assert predicted == pytest.approx(theirs.predict(data[0], verbose=0), abs=1e-4)
    device.initialize()


@pytest.mark.parametrize("shuffle", [False, "batch"])
def test_orders_of_samples(keras, build, device, data, shuffle):
    trains_itself(keras)
    mine, theirs = twins(keras, build, optimizer="adam")
    keras.utils.set_random_seed(7)
    mine.fit(*data, batch_size=12, shuffle=shuffle, verbose=0)
    device.deinitialize()
    theirs.evaluate(*data, verbose=0)
    keras.utils.set_random_seed(7)
    theirs.fit(*data, batch_size=12, shuffle=shuffle, verbose=0)
    assert_same(keras, mine, theirs)
    device.initialize()


def test_host_and_device_in_turn(keras, build, device, data):
    """Weights and optimizer memory pass from one to the other both ways."""
    trains_itself(keras)
    mine, theirs = twins(keras, build, optimizer="adam")
    options = {"batch_size": 10, "shuffle": False, "verbose": 0}
    for epoch in range(4):
        if epoch % 2:
            device.initialize()
        mine.fit(*data, **options)
        if epoch % 2 == 0:
            device.deinitialize() if device.initialized else None
    device.deinitialize()
    for _ in range(4):
        theirs.fit(*data, **options)
    assert_same(keras, mine, theirs)
    device.initialize()


def test_one_hot_and_squared_error(keras, build, device, data):
    trains_itself(keras)
    rows = np.eye(3, dtype=np.float32)[data[1]]
    mine, theirs = twins(keras, build, optimizer="adam", loss="categorical_crossentropy")
    found = mine.fit(data[0], rows, shuffle=False, verbose=0)

    def regression():
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Rescaling(1 / 255), keras.layers.Dense(3, use_bias=False)]
        )

    mine2, theirs2 = twins(keras, regression, optimizer="sgd", loss="mse", metrics=None)
    found2 = mine2.fit(data[0], rows, shuffle=False, verbose=0)
    evaluated = mine2.evaluate(data[0], rows, verbose=0)
    device.deinitialize()
    expected = theirs.fit(data[0], rows, shuffle=False, verbose=0)
    expected2 = theirs2.fit(data[0], rows, shuffle=False, verbose=0)
    assert found.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-5)
    assert found.history["accuracy"] == pytest.approx(expected.history["accuracy"])
    assert_same(keras, mine, theirs)
    assert found2.history == pytest.approx({k: pytest.approx(v, rel=1e-5) for k, v in expected2.history.items()})
    assert_same(keras, mine2, theirs2)
    assert evaluated == pytest.approx(theirs2.evaluate(data[0], rows, verbose=0), rel=1e-5)
    device.initialize()


def test_unbuilt_model_is_built_by_fit(keras, device, data):
    """Without an Input layer, as many scripts are written."""
    model = keras.Sequential([keras.layers.Dense(4, activation="relu"), keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", SPARSE)
    device.load_model(model)
    history = model.fit(data[0] / 255, data[1], verbose=0)
    assert model.input_shape == (None, 6)
    assert list(history.history) == ["loss"]
    assert isinstance(model.evaluate(data[0] / 255, data[1], verbose=0), float)


def test_images_and_lists(keras, device, data):
    """A Flatten layer takes images; lists and (n, 1) labels are arrays."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((2, 3)), layers.Flatten(), layers.Dense(3), layers.Activation("softmax")])
    model.compile("sgd", SPARSE)
    images = (data[0] / 255).reshape(70, 2, 3)
    model.fit(images, data[1][:, np.newaxis], verbose=0)
    assert model.predict(images.tolist(), verbose=0) == pytest.approx(model.predict(images, verbose=0))


# Callbacks


def test_callbacks_are_called_as_by_keras(keras, build, device, data):
    """The same calls with the same steps and keys, but for batches: one call a slice of them."""
    trains_itself(keras)

    class Recorder(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.calls = []

        def record(name):
            def method(self, *args, logs=None):
                logs = logs or next((a for a in args if isinstance(a, dict)), {})
                self.calls.append((name, *[a for a in args if isinstance(a, int)], *sorted(logs)))

            return method

        for when in ("begin", "end"):
            for what in ("train", "test", "predict", "epoch", "train_batch", "test_batch", "predict_batch"):
                locals()[f"on_{what}_{when}"] = record(f"on_{what}_{when}")

    mine, theirs = twins(keras, build, optimizer="adam", steps_per_execution=2)
    calls, data = [], (data[0][:64], data[1][:64])
    for model in (mine, theirs):
        recorder = Recorder()
        if model is theirs:
            device.deinitialize()
        model.fit(*data, batch_size=16, epochs=2, validation_data=data, callbacks=[recorder], verbose=0)
        model.evaluate(*data, callbacks=[recorder], verbose=0)
        model.predict(data[0], callbacks=[recorder], verbose=0)
        assert recorder.params["steps"] == 2  # of predict: 64 samples in 32s
        calls.append(recorder.calls)
    assert calls[0] == calls[1]
    assert ("on_train_batch_end", 3, "accuracy", "loss") in calls[0]
    device.initialize()


def test_early_stopping_restores_the_best_weights(keras, model, device, data):
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.05 if epoch < 3 else 30.0)
    stop = keras.callbacks.EarlyStopping(monitor="loss", patience=2, restore_best_weights=True)
    history = model.fit(*data, epochs=30, callbacks=[rate, stop], verbose=0)
    best = int(np.argmin(history.history["loss"]))
    assert stop.stopped_epoch == best + 2 < 29
    assert model.evaluate(*data, verbose=0)[0] < 2 * min(history.history["loss"])


def test_rates_set_by_callbacks_reach_the_device(keras, build, device, data):
    trains_itself(keras)
    mine, theirs = twins(keras, build, optimizer=lambda o: o.SGD(0.5))

    class Halve(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2

    options = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    mine.fit(*data, callbacks=[Halve()], **options)
    device.deinitialize()
    theirs.fit(*data, callbacks=[Halve()], **options)
    assert float(mine.optimizer.learning_rate) == 0.5 / 2**10
    assert_same(keras, mine, theirs)
    device.initialize()


def test_reduce_on_plateau_and_csv(keras, model, device, data, tmp_path):
    reduce = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=1, min_delta=100.0)
    log = tmp_path / "log.csv"
    history = model.fit(
        *data, epochs=4, validation_data=data, callbacks=[reduce, keras.callbacks.CSVLogger(log)], verbose=0
    )
    assert float(model.optimizer.learning_rate) < 0.001
    rows = list(csv.DictReader(log.open()))
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(history.history["val_loss"])
    assert history.history["learning_rate"][-1] < history.history["learning_rate"][0]


def test_weights_at_batches_are_those_of_the_device(keras, build, device, data):
    """A callback of batches reads the weights after each slice, and sets them before the next one."""
    model = build()
    model.compile(keras.optimizers.SGD(0.1), SPARSE)
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((int(self.model.optimizer.iterations), self.model.get_weights()[0]))
            if batch == 3:
                self.model.set_weights([np.zeros_like(w) for w in self.model.get_weights()])

    model.fit(*data, batch_size=16, callbacks=[Look()], shuffle=False, verbose=0)
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
    assert not np.array_equal(seen[0][1], seen[1][1])
    assert np.abs(seen[4][1]).max() == 0  # all-zero ReLU layers do not learn in one step
    assert np.abs(model.get_weights()[3]).max() > 0  # but biases do


def test_progress_bar(keras, model, device, data, capsys):
    model.fit(*data, batch_size=10, epochs=2, verbose=1)
    printed = capsys.readouterr().out
    assert "Epoch 2/2" in printed
    assert "7/7" in printed
    assert "accuracy:" in printed
    model.evaluate(*data, verbose=2)
    assert "3/3" in capsys.readouterr().out


def test_stop_training_in_the_middle_of_an_epoch(keras, model, device, data):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    history = model.fit(*data, batch_size=16, epochs=3, callbacks=[Stop()], verbose=0)
    assert (history.epoch, int(model.optimizer.iterations)) == ([0], 2)


def test_validation_frequency_and_initial_epoch(model, device, data):
    history = model.fit(*data, epochs=6, initial_epoch=2, validation_data=data, validation_freq=2, verbose=0)
    assert history.epoch == [2, 3, 4, 5]
    assert len(history.history["val_loss"]) == 2
    history = model.fit(*data, epochs=3, validation_data=data, validation_freq=[3], verbose=0)
    assert len(history.history["val_loss"]) == 1


# Saving, loading, copying


def test_saving_and_going_on(keras, model, device, data, tmp_path):
    """A model saved in the middle and loaded again trains on exactly as the one that went on."""
    path = tmp_path / "m.keras"
    save = keras.callbacks.ModelCheckpoint(path, monitor="loss")
    options = {"batch_size": 16, "shuffle": False, "verbose": 0}
    model.fit(*data, epochs=2, callbacks=[save], **options)
    loaded = keras.models.load_model(path)
    assert_same(keras, loaded, model, abs=0)
    assert int(loaded.optimizer.iterations) == 10
    for each in (model, loaded):
        each.fit(*data, **options)
    assert_same(keras, loaded, model, abs=0)
    assert int(loaded.optimizer.iterations) == 15


def test_checkpoints_of_batches(keras, model, device, data, tmp_path):
    save = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=2)
    model.fit(*data, batch_size=16, callbacks=[save], verbose=0)
    steps = {p.stem: int(keras.models.load_model(p).optimizer.iterations) for p in tmp_path.iterdir()}
    assert steps == {"2": 2, "4": 4}


def test_bound_models_save_weights_clone_and_pickle(keras, model, device, data, tmp_path):
    device.load_model(model)
    model.fit(*data, verbose=0)
    model.save_weights(tmp_path / "m.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "m.weights.h5")
    copy = pickle.loads(pickle.dumps(model))
    for other in (clone, copy):
        assert "fit" not in vars(other)
        assert np.array_equal(other.predict(data[0], verbose=0), model.predict(data[0], verbose=0))
    assert_same(keras, copy, model, abs=0)


def test_metrics_that_the_device_does_not_count(keras, build, device, data):
    """In evaluate() Keras computes them from the device's outputs."""
    model = build()
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile("adam", SPARSE, metrics=[top, "accuracy"])
    found = model.evaluate(*data, verbose=0, return_dict=True)
    outputs = model.predict(data[0], verbose=0)
    assert list(found) == ["accuracy", "loss", "top2"]
    assert found["accuracy"] == (outputs.argmax(axis=1) == data[1]).mean()
    best = np.argsort(outputs, axis=1)[:, 1:]
    assert found["top2"] == pytest.approx((best == data[1][:, np.newaxis]).any(axis=1).mean())
    assert found["top2"] != found["accuracy"]
    assert model.evaluate(*data, verbose=0) == pytest.approx([found["loss"], found["top2"], found["accuracy"]])


def test_only_forward(keras, build, device, data):
    """Not compiled, or compiled with what the device cannot train with, a model still predicts; and evaluates."""
    model = build()
    outputs = model.predict(data[0], verbose=0)
    assert outputs.sum(axis=1) == pytest.approx(np.ones(70), abs=1e-5)
    model.compile("rmsprop", SPARSE, metrics=["accuracy"])
    model.layers[1].trainable = False
    accuracy = model.evaluate(*data, verbose=0)[1]
    assert accuracy == pytest.approx((outputs.argmax(axis=1) == data[1]).mean())
    assert np.array_equal(model.predict(data[0], verbose=0), outputs)


def test_evaluation_of_the_device(model, device, data):
    """`Device.evaluate` takes a loaded Keras model as well, with recall and F1."""
    device.load_model(model)
    model.fit(*data, epochs=3, verbose=0)
    evaluation = device.evaluate(*data)
    loss, accuracy = model.evaluate(*data, verbose=0)
    assert (evaluation.loss, evaluation.accuracy) == (pytest.approx(loss), pytest.approx(accuracy))
    assert evaluation.scores.count == 70
    assert np.array_equal(device.predict(data[0]), model.predict(data[0], verbose=0))
