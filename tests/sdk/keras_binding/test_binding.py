"""When Keras's methods run on a device, whose, and that Keras is restored exactly; and what is refused."""

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause
from leptonaicsdk import Device, InputError, InputTypeError, ModelError, StateError
from leptonaicsdk.driver import CoreFaultError, Fault

NAMES = ("fit", "evaluate", "predict")
SPARSE = "sparse_categorical_crossentropy"


def originals(keras):
    return [getattr(keras.Model, name) for name in NAMES]


def test_keras_is_restored_exactly(keras, standin):
    before, names = originals(keras), set(vars(keras.Model))
    device = Device("model", "tiny")
    for _ in range(2):
        device.initialize()
        assert set(vars(keras.Model)) == names | set(NAMES)
        assert [f.__doc__ for f in originals(keras)] == [f.__doc__ for f in before]
        device.deinitialize()
        assert originals(keras) == before
        assert set(vars(keras.Model)) == names


def test_patching_can_be_switched_off(keras, model, standin, data):
    before = originals(keras)
    with Device("model", "tiny", patch_keras=False) as device:
        assert originals(keras) == before
        device.load_model(model)
        model.predict(data[0], verbose=0)
        assert device.counters["CYCLES"] == 70
        with pytest.raises(ModelError):  # the others are not touched, this one is
            model.add(keras.layers.Dropout(0.5)) or model.predict(data[0])
    assert not set(NAMES) & set(vars(model))


def test_bound_and_unbound_models_with_two_devices(build, standin, data):
    """A bound model runs on its device; others on the last initialised one that is left."""
    one, two = Device("model", "tiny"), Device("model", "tiny")
    bound, free = build(), build()

    def counts():
        return [d.counters.get("CYCLES", 0) for d in (one, two)]

    with one:
        with two:
            one.load_model(bound)
            bound.predict(data[0], verbose=0)
            assert counts() == [70, 0]
            free.predict(data[0], verbose=0)
            assert counts() == [70, 70]
            two.load_model(bound)  # a model runs on the device that loaded it last
            bound.predict(data[0], verbose=0)
            assert counts() == [70, 140]
            one.load_model(free)  # and `one` leaves it alone
            bound.predict(data[0], verbose=0)
            assert counts() == [70, 210]
        assert not set(NAMES) & set(vars(bound))
        bound.predict(data[0], verbose=0)
        assert counts() == [140, 210]


def test_loading_another_model_unbinds_the_first(build, device):
    first, second = build(), build()
    device.load_model(first)
    device.load_model(first)
    assert set(NAMES) <= set(vars(first))
    device.load_model(second)
    assert not set(NAMES) & set(vars(first))
    device.deinitialize()
    assert not set(NAMES) & set(vars(second))


def run_script(body: str) -> list[str]:
    """Output of a process of its own that has not imported Keras; its device is the stand-in."""
    start = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from leptonaicsdk import Device, runner
        from tests.sdk.standin import StandInBackend, StandInSession
        runner.open_backend, runner.Session = StandInBackend, StandInSession
        import numpy as np
        device = Device("model", "tiny")
        x, y = np.zeros((8, 4), np.uint8), np.zeros(8, np.uint8)
        def train():
            import keras
            model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
            model.compile("sgd", "{SPARSE}")
            model.fit(x, y, verbose=0)
            print("device" if device.counters.get("CYCLES") else "host")
    """
    script = textwrap.dedent(start) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_keras_imported_after_initialize(keras):
    assert run_script("""
        device.initialize()
        assert "keras" not in sys.modules
        train()
    """) == ["device"]


def test_keras_imported_after_deinitialize(keras):
    if keras.backend.backend() in ("numpy", "openvino"):
        pytest.skip("Keras cannot train on this backend")
    assert run_script("""
        finders = list(sys.meta_path)
        device.initialize()
        device.deinitialize()
        assert sys.meta_path == finders
        train()
        device.initialize()
        train()
    """) == ["host", "device"]


def test_an_import_that_fails_is_watched_on(keras):
    """As with a backend that is not installed: the next try is patched still."""
    assert run_script("""
        import os
        right = os.environ.get("KERAS_BACKEND", "")
        device.initialize()
        os.environ["KERAS_BACKEND"] = "nonsense"
        try:
            import keras
        except ValueError as error:
            print("failed")
        for name in [name for name in sys.modules if name.startswith("keras")]:
            del sys.modules[name]
        os.environ["KERAS_BACKEND"] = right
        train()
    """) == ["failed", "device"]


# A model changed after loading


def test_changes_after_loading_are_run(keras, model, device, data):
    device.load_model(model)
    model.fit(*data, verbose=0)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    assert model.predict(data[0], verbose=0) == pytest.approx(np.full((70, 3), 1 / 3))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), SPARSE)
    assert list(model.fit(*data, verbose=0).history) == ["loss"]
    assert [v.path.split("_")[-1] for v in model.optimizer.variables[2:]] == ["momentum"] * 4
    model.pop()
    model.add(keras.layers.Dense(4, activation="softmax"))
    model.compile("sgd", SPARSE)
    model.fit(*data, verbose=0)
    assert model.predict(data[0], verbose=0).shape == (70, 4)
    assert np.array_equal(device.predict(data[0]), model.predict(data[0], verbose=0))


def test_a_layer_that_cannot_run_added_after_loading(keras, model, device, data):
    device.load_model(model)
    model.fit(*data, verbose=0)
    model.add(keras.layers.Dropout(0.5, name="drop"))
    before = model.get_weights()
    for call in (lambda: model.fit(*data, verbose=0), lambda: model.predict(data[0])):
        with pytest.raises(ModelError, match="layer 'drop'"):
            call()
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    model.pop()
    model.fit(*data, verbose=0)


def test_layers_added_under_an_old_optimizer(keras, model, device, data):
    """Keras's own rule: the optimizer knows the variables that it was built with."""
    model.fit(*data, verbose=0)
    model.pop()
    model.add(keras.layers.Dense(4, activation="softmax"))
    with pytest.raises(ModelError, match="the optimizer belongs to other variables than the model's"):
        model.fit(*data, verbose=0)


def test_a_model_that_cannot_run_is_refused_by_load_model(keras, device, build):
    device.load_model(build())
    with pytest.raises(ModelError, match="layer 'drop'"):
        device.load_model(keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, name="drop")]))
    with pytest.raises(
        InputError, match=r"input_scale must be left out for a Keras model, which has its own, not 0\.5"
    ):
        device.load_model(build(), input_scale=0.5)
    with pytest.raises(StateError, match=r"Device.fit is for a Network; a Keras model has its own \(model.fit"):
        device.fit(1, 2)


# Interrupts and faults


def test_interrupt_in_the_middle_of_fit(keras, build, device, data, standin, monkeypatch):
    """The batch is finished, its weights and optimizer variables are in the model, and training goes on from there."""
    broken, whole = build(), build()
    whole.set_weights(broken.get_weights())
    for model in (broken, whole):
        model.compile("adam", SPARSE)
    options = {"batch_size": 10, "shuffle": False, "verbose": 0}
    monkeypatch.setattr(standin, "interrupts_at", {2: 1})
    ends = []
    with pytest.raises(KeyboardInterrupt):
        broken.fit(*data, **options, callbacks=[keras.callbacks.LambdaCallback(on_train_end=ends.append)])
    assert ends == []
    assert int(broken.optimizer.iterations) == 3
    monkeypatch.setattr(standin, "interrupts_at", {})
    broken.fit(data[0][30:], data[1][30:], **options)
    whole.fit(*data, **options)
    for a, b in zip(broken.get_weights(), whole.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_fault_in_the_middle_of_fit(model, device, data, standin, monkeypatch):
    model.fit(*data, batch_size=10, verbose=0)
    before = model.get_weights()
    fault = Fault(FaultCause.WATCHDOG, Engine.MATMUL, 3, 0)
    monkeypatch.setattr(standin, "fault_at", {standin.steps + 3: fault})
    with pytest.raises(CoreFaultError):
        model.fit(*data, batch_size=10, verbose=0)
    assert device.fault == fault
    assert int(model.optimizer.iterations) == 7
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    model.fit(*data, batch_size=10, verbose=0)
    assert int(model.optimizer.iterations) == 14


# Bad input


def changed(data, **parts):
    x, y = data[0].astype(np.float32), data[1].astype(np.float32)
    if "x" in parts:
        x[5, 1] = parts["x"]
    if "y" in parts:
        y[5] = parts["y"]
    return x, y


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (lambda d: dict(zip("xy", changed(d, x=np.nan))), InputError, r"x must be finite.*nan \(sample 5, element 1\)"),
        (lambda d: dict(zip("xy", changed(d, x=np.inf))), InputError, "x must be finite"),
        (
            lambda d: dict(zip("xy", changed(d, y=3))),
            InputError,
            r"y must be integers from 0 to 2, not 3.0 \(sample 5\)",
        ),
        (lambda d: dict(zip("xy", changed(d, y=-1))), InputError, r"y must be integers from 0 to 2, not -1.0"),
        (lambda d: {"x": d[0][:, :5]}, InputError, r"x must have the shape \(n, 6\); not \(70, 5\)"),
        (lambda d: {"x": d[0].reshape(70, 2, 3)}, InputError, r"x must have the shape \(n, 6\); not \(70, 2, 3\)"),
        (lambda d: {"y": d[1][:9]}, InputError, "y must be 70 labels"),
        (lambda d: {"y": None}, InputTypeError, "y must be an array of numbers, not NoneType"),
        (lambda d: {"x": iter([d[0]]), "y": None}, InputTypeError, "x must be an array of numbers, not list_iterator"),
        (lambda d: {"x": {"a": d[0]}}, InputTypeError, "x must be an array of numbers, not dict"),
        (lambda d: {"batch_size": 0}, InputError, "batch_size must be 1 or more, not 0"),
        (lambda d: {"sample_weight": d[1]}, InputError, "sample_weight must be None on the device"),
        (lambda d: {"class_weight": {0: 2.0}}, InputError, r"class_weight must be None on the device, not \{0: 2.0\}"),
        (lambda d: {"steps_per_epoch": 2}, InputError, "steps_per_epoch must be None on the device, not 2"),
        (lambda d: {"validation_split": 1.5}, InputError, "validation_split must be from 0 to below 1, not 1.5"),
        (lambda d: {"validation_split": 0.999}, InputError, "must leave a sample on both sides; 0.999 of 70 samples"),
        (lambda d: {"validation_data": (*d, d[1])}, InputTypeError, r"validation_data must be a tuple \(x, y\)"),
        (lambda d: {"validation_data": (d[0], d[1] + 1)}, InputError, "validation_data y must be integers from 0 to 2"),
    ],
)
def test_bad_input_trains_nothing(model, device, data, options, kind, message):
    before = model.get_weights()
    arguments = {"x": data[0], "y": data[1], "verbose": 0, **options(data)}
    with pytest.raises(kind, match=message):
        model.fit(**arguments)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    model.fit(*data, verbose=0)


@pytest.mark.parametrize("rate", [np.inf, np.nan, -1.0])
def test_learning_rates_that_are_none(keras, build, device, data, rate):
    model = build()
    model.compile(keras.optimizers.SGD(rate), SPARSE)
    before = model.get_weights()
    with pytest.raises(InputError, match="learning_rate must be finite and 0 or more, not "):
        model.fit(*data, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    model.optimizer.learning_rate = 0.1
    model.fit(*data, verbose=0)


def test_rate_that_goes_wrong_in_training(keras, model, device, data):
    """A callback sets it: what was trained until then stays, and the model can go on."""
    bad = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 if epoch < 2 else float("inf"))
    with pytest.raises(InputError, match="learning_rate must be finite and 0 or more, not inf"):
        model.fit(*data, batch_size=10, epochs=4, callbacks=[bad], verbose=0)
    assert int(model.optimizer.iterations) == 14
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_what_is_refused_before_training(keras, build, device, data):
    model = build()
    with pytest.raises(StateError, match="is not compiled"):
        model.fit(*data, verbose=0)
    model.compile("adam", SPARSE, metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(name="top")])
    with pytest.raises(ModelError, match=r"metric top: the device counts loss and accuracy while it trains"):
        model.fit(*data, verbose=0)
    model.compile("adam", "mse")
    with pytest.raises(ModelError, match="the loss mean_squared_error needs another activation than softmax"):
        model.fit(*data, verbose=0)
    model.layers[1].trainable = False
    model.compile("adam", SPARSE)
    with pytest.raises(ModelError, match=r"layer .* \(Dense\) is not trainable; the device trains all layers"):
        model.fit(*data, verbose=0)
    one_hot = build()
    one_hot.compile("adam", "categorical_crossentropy")
    rows = np.eye(3)[data[1]]
    rows[4] = [0.5, 0.5, 0]
    with pytest.raises(InputError, match=r"y must be rows with a single 1, not \[0.5, 0.5, 0.0\] \(sample 4\)"):
        one_hot.fit(data[0], rows, verbose=0)


def test_a_network_too_large(keras, device, data):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5000), keras.layers.Dense(3, activation="softmax")])
    model.compile("adam", SPARSE)
    with pytest.raises(ModelError, match="layer 0: more than 4096 values"):
        model.fit(*data, verbose=0)
