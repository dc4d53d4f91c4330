"""`Device` on the stand-in: the order of calls, training against the equations, and every kind of bad input."""

import gc
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause
from leptonaicsdk import (
    Adam,
    Dense,
    Device,
    InputError,
    InputTypeError,
    LeptonError,
    Loss,
    ModelError,
    Network,
    Sgd,
    StateError,
)
from leptonaicsdk.driver import CoreFaultError, Fault
from leptonaicsdk.loaded import Slice, forward_slices, slices
from leptonaicsdk.state import State, initial_parameters

from tests.sdk.standin import StandInBackend

NETWORK = Network(6, (Dense(5, "relu"), Dense(3, "softmax")))
RNG = np.random.default_rng(1)
X = RNG.integers(0, 256, (50, 6), np.uint8)
Y = (X[:, :3].argmax(axis=1)).astype(np.int64)


@pytest.fixture
def loaded(device):
    """With the network, ready to train."""
    device.load_model(NETWORK, input_scale=1 / 255, seed=2)
    device.compile(optimizer=Adam(0.01), batch_size=8)
    return device


def numbers(parameters):
    return [array.copy() for pair in parameters for array in pair]


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(numbers(a), numbers(b), strict=True))


# The order of calls


def test_whole_life(standin):
    device = Device("model", "tiny")
    assert (device.initialized, device.counters, device.fault, device.precision) == (False, {}, None, 8)
    assert (device.backend, device.preset) == ("model", "tiny")
    for _ in range(2):  # a device can be used again
        device.initialize()
        assert StandInBackend.alive == 1
        device.set_precision(16)
        device.load_model(NETWORK)
        assert device.predict(X).shape == (50, 3)
        device.deinitialize()
        assert StandInBackend.alive == 0
    assert device.counters["CYCLES"] == 100  # both times, and after the end


def test_calls_in_the_wrong_order(standin):
    device = Device("model", "tiny")
    first = "needs an initialised device: call initialize"
    for call in (
        device.deinitialize,
        lambda: device.set_precision(8),
        lambda: device.load_model(NETWORK),
        lambda: device.compile(),
        lambda: device.fit(X, Y),
        lambda: device.evaluate(X, Y),
        lambda: device.predict(X),
        lambda: device.state,
        lambda: device.learning_rate,
    ):
        with pytest.raises(StateError, match=first):
            call()
    device.initialize()
    with pytest.raises(StateError, match=r"initialised already: deinitialize\(\) comes first"):
        device.initialize()
    for call in (device.compile, lambda: device.fit(X, Y), lambda: device.predict(X), lambda: device.parameters):
        with pytest.raises(StateError, match=r"needs a model: call load_model\(\) first"):
            call()
    device.load_model(NETWORK)
    for call in (lambda: device.fit(X, Y), lambda: device.evaluate(X, Y), lambda: device.learning_rate):
        with pytest.raises(StateError, match="not compiled: call compile"):
            call()
    device.deinitialize()
    with pytest.raises(StateError, match=first):
        device.deinitialize()
    with pytest.raises(StateError, match=first):
        device.predict(X)


def test_context_manager_ends_what_is_not_ended(standin):
    with Device("model", "tiny") as device:
        device.deinitialize()
    device = Device("model", "tiny")
    with pytest.raises(ZeroDivisionError), device:
        raise ZeroDivisionError
    assert not device.initialized


def test_an_abandoned_device_is_released(standin):
    device = Device("model", "tiny")
    device.initialize()
    device.load_model(NETWORK)
    device.predict(X)
    del device
    gc.collect()
    assert StandInBackend.alive == 0


def test_a_device_is_released_at_exit():
    """In a process of its own, which ends with an initialised device."""
    script = """
        from leptonaicsdk import Device, runner
        class Backend:
            def __init__(self, *args, **options): pass
            def close(self): print("closed")
        runner.open_backend = Backend
        device = Device("model", "tiny")
        device.initialize()
        print("end")
    """
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "end\nclosed\n"


def test_a_backend_that_does_not_open_leaves_the_device_as_it_was(standin, monkeypatch):
    device = Device("model", "tiny")
    with monkeypatch.context() as patch:
        patch.setattr("leptonaicsdk.runner.open_backend", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            device.initialize()
    assert not device.initialized
    device.initialize()
    device.deinitialize()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "gpu"}, "backend must be one of rtl, model, not 'gpu'"),
        ({"preset": "huge"}, "preset must be one of .*tiny.*, not 'huge'"),
        ({"preset": "tiny", "memory_bytes": 0}, "memory_bytes must be 1 or more, not 0"),
    ],
)
def test_refused_constructions(arguments, message):
    with pytest.raises(InputError, match=message):
        Device(**{"preset": "tiny", **arguments})


def test_backend_from_the_environment(monkeypatch):
    monkeypatch.delenv("LEPTON_BACKEND", raising=False)
    assert Device(preset="tiny").backend == "rtl"
    monkeypatch.setenv("LEPTON_BACKEND", "model")
    assert Device(preset="tiny").backend == "model"
    assert Device("rtl", preset="tiny").backend == "rtl"
    monkeypatch.setenv("LEPTON_BACKEND", "fpga")
    with pytest.raises(InputError, match="backend must be one of rtl, model, not 'fpga'"):
        Device(preset="tiny")


def test_precision(loaded):
    for bits in (7, 0, -8, 8.5, True, "8", None):
        with pytest.raises(InputError, match="precision must be one of 8, 16, 32, not "):
            loaded.set_precision(bits)
    assert loaded.precision == 8
    loaded.fit(X, Y)
    loaded.set_precision(32)
    before = loaded.parameters
    loaded.fit(X, Y)
    assert loaded._runner._session.precision == 32
    assert loaded.state.step == 14  # training went on
    assert not same(before, loaded.parameters)


# Training


def test_slices():
    assert list(slices(10, 4, 2)) == [Slice(0, 1, 0, 8), Slice(2, 2, 8, 10)]
    assert list(slices(3, 4)) == [Slice(0, 0, 0, 3)]
    assert [p.last for p in slices(80, 4)] == [7, 15, 19]
    parts = list(slices(60000, 32))
    assert len(parts) == 99
    assert list(forward_slices(300)) == [Slice(0, 0, 0, 128), Slice(1, 1, 128, 256), Slice(2, 2, 256, 300)]
    assert next(forward_slices(100, 48)) == Slice(0, 2, 0, 100)
    assert {(p.stop - p.start) % 128 for p in list(forward_slices(60000, 24))[:-1]} == {0}
    assert [p.start for p in parts[1:]] == [p.stop for p in parts[:-1]]
    assert (parts[0].start, parts[-1].stop, parts[-1].last) == (0, 60000, 1874)


def test_training_is_a_step_a_batch_whatever_the_slices(loaded, standin):
    """The same epochs in one program: every batch in the order of its epoch."""
    start, seen = loaded.parameters, []
    history = loaded.fit(X, Y, epochs=3, seed=5, validation_data=(X, Y), on_progress=seen.append)
    whole = standin(StandInBackend("", None, memory_bytes=0), NETWORK, loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY,
                    optimizer=Adam(0.01), batch=8, input_scale=1 / 255)  # fmt: skip
    whole.parameters = start
    for epoch in range(3):
        order = np.random.default_rng([5, epoch]).permutation(50)
        found = whole.train(X[order], Y[order].astype(np.int32))
        assert history["loss"][epoch] == pytest.approx(found.loss, rel=1e-5)
        assert history["accuracy"][epoch] == found.accuracy
        assert history["val_loss"][epoch] == pytest.approx(whole.evaluate(X, Y.astype(np.int32)).loss, rel=1e-5)
    for mine, other in zip(numbers(loaded.parameters), numbers(whole.parameters), strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history["loss"][2] < history["loss"][0]
    assert [(p.epoch, p.batches, p.total, p.epochs) for p in seen[:8]] == [(0, i, 7, 3) for i in range(1, 8)] + [
        (1, 1, 7, 3)
    ]
    assert seen[6].metrics.count == 50
    assert loaded.state.step == 21
    StandInBackend.alive -= 1


def test_epochs_may_be_run_one_by_one_and_the_state_saved(loaded):
    loaded.fit(X, Y, epochs=3, seed=5)
    expected = loaded.state
    other = Device("model", "tiny")
    with other:
        other.load_model(NETWORK, input_scale=1 / 255, seed=2)
        other.compile(optimizer=Adam(0.01), batch_size=8)
        for epoch in range(3):
            other.fit(X, Y, initial_epoch=epoch, epochs=epoch + 1, seed=5)
            kept = other.state
            other.load_model(NETWORK, input_scale=1 / 255, seed=9)
            other.compile(optimizer=Adam(0.01), batch_size=8)
            other.state = kept
        assert other.state.same(expected)


def test_a_session_is_kept_as_long_as_nothing_changes(loaded, standin):
    loaded.fit(X, Y, epochs=2, validation_data=(X, Y))
    loaded.evaluate(X, Y)
    loaded.predict(X)
    assert (standin.made, standin.pushed) == (1, 1)
    loaded.learning_rate = 0.5
    loaded.fit(X, Y)
    assert (standin.made, standin.pushed) == (1, 1)
    loaded.parameters = initial_parameters(NETWORK, 7)
    loaded.predict(X)
    assert (standin.made, standin.pushed) == (1, 2)
    assert loaded.counters["CYCLES"] == 50 * (2 * 2 + 2 + 1 + 1 + 1)
    loaded.compile(optimizer=Sgd(0.1), batch_size=8)
    loaded.fit(X, Y)
    assert (standin.made, standin.pushed) == (2, 3)
    assert loaded.counters["CYCLES"] == 50 * (2 * 2 + 2 + 1 + 1 + 1 + 1)


def test_a_new_optimizer_begins_anew_and_the_same_one_goes_on(loaded):
    loaded.fit(X, Y)
    loaded.compile(optimizer=Adam(0.5), batch_size=10)
    assert (loaded.state.step, loaded.learning_rate, set(loaded.state.slots[0])) == (7, 0.5, {"m", "v"})
    loaded.compile(optimizer=Sgd(0.1, momentum=0.9), batch_size=10)
    assert (loaded.state.step, set(loaded.state.slots[0])) == (0, {"velocity"})
    loaded.compile(optimizer="sgd")
    assert (loaded.learning_rate, loaded.state.slots) == (0.01, [{}, {}])


def test_regression(device):
    device.load_model(Network(6, (Dense(1),)))
    device.compile(loss="mean_squared_error", optimizer=Sgd(0.1))
    x = RNG.standard_normal((64, 6))
    history = device.fit(x, x.sum(axis=1), epochs=40, validation_data=(x, x.sum(axis=1)))
    assert list(history) == ["loss", "val_loss"]
    assert history["val_loss"][-1] < 1e-3
    evaluation = device.evaluate(x, x.sum(axis=1, keepdims=True))
    assert evaluation.loss == pytest.approx(history["val_loss"][-1])
    assert (evaluation.accuracy, evaluation.scores) == (None, None)


def test_evaluate_agrees_with_predict(loaded):
    loaded.fit(X, Y, epochs=20)
    evaluation, outputs = loaded.evaluate(X, Y), loaded.predict(X)
    assert outputs.dtype == np.float32
    assert evaluation.accuracy == (outputs.argmax(axis=1) == Y).mean() > 0.8
    assert evaluation.loss == pytest.approx(-np.log(outputs[np.arange(50), Y]).mean(), rel=1e-5)
    assert evaluation.scores.support.tolist() == np.bincount(Y).tolist()
    assert 0 < evaluation.recall <= 1
    assert 0 < evaluation.f1 <= 1


def test_bytes_stay_bytes_and_floats_stay_floats(loaded):
    """No guessing: x / 255 with a scale of 1 is what the bytes are with a scale of 1 / 255."""
    outputs = loaded.predict(X)
    assert np.array_equal(loaded.predict(X.reshape(50, 2, 3)), outputs)
    assert loaded.predict(X.reshape(50, 6).tolist()) == pytest.approx(outputs, abs=1e-6)  # integers, not uint8
    loaded.load_model(NETWORK, seed=2)
    assert loaded.predict(X / 255) == pytest.approx(outputs, abs=1e-6)


# Bad input


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (
            X[:, :5],
            InputError,
            r"x must have the shape \(n, 6\), or as many values of another shape a sample, 6; not \(50, 5\)",
        ),
        (X[0], InputError, r"x must have the shape \(n, 6\), or .*; not \(6,\)"),
        (X[:0], InputError, r"x must hold a sample or more, not have the shape \(0, 6\)"),
        (5, InputError, "x must hold a sample or more"),
        (None, InputTypeError, "x must be an array of numbers, not NoneType"),
        ("digits", InputTypeError, "x must be an array of numbers, not str"),
        ({"x": X}, InputTypeError, "x must be an array of numbers, not dict"),
        ((row for row in X), InputTypeError, "x must be an array of numbers, not generator"),
        ([[1, 2], [3]], InputTypeError, "x must be an array of numbers, not list"),
        (X.astype(complex), InputTypeError, r"not ndarray \(complex128\)"),
    ],
)
def test_samples_that_are_none(loaded, x, kind, message):
    before = loaded.parameters
    for call in (lambda: loaded.fit(x, Y), lambda: loaded.evaluate(x, Y), lambda: loaded.predict(x)):
        with pytest.raises(kind, match=message):
            call()
    assert same(loaded.parameters, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_values_that_are_not_finite(loaded, value):
    x = X.astype(np.float64)
    x[17, 3] = value
    with pytest.raises(InputError, match=r"x must be finite in binary32, not .* \(sample 17, element 3\)"):
        loaded.fit(x, Y)
    with pytest.raises(InputError, match=r"validation_data x must be finite in binary32"):
        loaded.fit(X, Y, validation_data=(x, Y))
    for call in (lambda: loaded.evaluate(x, Y), lambda: loaded.predict(x)):
        with pytest.raises(InputError, match=r"x must be finite in binary32, not .* \(sample 17, element 3\)"):
            call()
    assert loaded.state.step == 0
    loaded.fit(X, Y)


def test_large_finite_values_pass():
    from leptonaicsdk.inputs import samples

    x = np.full((2, 40), 3e38)
    assert samples("x", x, (40,)).tolist() == x.astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.where(np.arange(50) == 9, 3, Y), r"y must be integers from 0 to 2, not 3 \(sample 9\)"),
        (np.where(np.arange(50) == 9, -1, Y), r"y must be integers from 0 to 2, not -1 \(sample 9\)"),
        (np.where(np.arange(50) == 9, 0.5, Y), r"y must be integers from 0 to 2, not 0.5 \(sample 9\)"),
        (np.where(np.arange(50) == 9, np.nan, Y), r"y must be integers from 0 to 2, not nan \(sample 9\)"),
        (Y[:49], r"y must be 50 labels, one a sample, not have the shape \(49,\)"),
        (np.eye(3)[Y], r"y must be 50 labels, one a sample, not have the shape \(50, 3\)"),
    ],
)
def test_labels_out_of_range(loaded, y, message):
    before = loaded.state
    for call in (lambda: loaded.fit(X, y), lambda: loaded.evaluate(X, y)):
        with pytest.raises(InputError, match=message):
            call()
    assert loaded.state.same(before)
    loaded.fit(X, Y.astype(np.float32)[:, np.newaxis])  # whole floats and a column are labels


def test_targets(device):
    device.load_model(Network(6, (Dense(2),)))
    device.compile(loss="squared_error")
    with pytest.raises(InputError, match=r"y must have the shape \(50, 2\), not \(50,\)"):
        device.fit(X, Y)
    with pytest.raises(InputError, match=r"y must be finite in binary32, not nan \(sample 4, element 1\)"):
        device.fit(X, np.where(np.arange(100).reshape(50, 2) == 9, np.nan, 0))


@pytest.mark.parametrize("value", [np.inf, np.nan, -np.inf, -0.1, 1e39])
def test_learning_rates_that_are_none(loaded, value):
    with pytest.raises(InputError, match="learning_rate must be finite and 0 or more, not "):
        loaded.learning_rate = value
    with pytest.raises(ValueError, match="learning_rate"):
        loaded.compile(optimizer=Adam(value))
    assert loaded.learning_rate == 0.01


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch_size": 0}, InputError, "batch_size must be 1 or more, not 0"),
        ({"batch_size": 2.5}, InputTypeError, "batch_size must be an integer, not 2.5"),
        ({"batch_size": True}, InputTypeError, "batch_size must be an integer, not True"),
        ({"loss": "hinge"}, InputError, "loss must be one of sparse_categorical_crossentropy, .* not 'hinge'"),
        ({"optimizer": "rmsprop"}, InputError, "optimizer must be one of adam, sgd, or an Adam or Sgd, not 'rmsprop'"),
        ({"optimizer": None}, InputError, "optimizer must be one of adam, sgd, or an Adam or Sgd, not None"),
    ],
)
def test_refused_compilations_leave_what_was_there(loaded, options, kind, message):
    with pytest.raises(kind, match=message):
        loaded.compile(**options)
    loaded.fit(X, Y)
    assert loaded.state.step == 7


def test_loss_that_does_not_go_with_the_last_layer(device):
    device.load_model(Network(6, (Dense(5), Dense(3, "relu"))))
    with pytest.raises(
        ModelError, match=r"layer 1: the loss sparse_categorical_crossentropy needs softmax .* not relu"
    ):
        device.compile()
    device.load_model(NETWORK)
    with pytest.raises(ModelError, match="layer 1: the loss squared_error needs another activation than softmax"):
        device.compile(loss="squared_error")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"epochs": 0}, InputError, "epochs must be 1 or more, not 0"),
        ({"initial_epoch": -1}, InputError, "initial_epoch must be 0 or more, not -1"),
        ({"seed": 1.0}, InputTypeError, r"seed must be an integer, not 1.0"),
        ({"validation_data": X}, InputTypeError, r"validation_data must be a tuple \(x, y\)"),
        ({"validation_data": (X, Y + 1)}, InputError, "validation_data y must be integers from 0 to 2, not 3"),
    ],
)
def test_refused_arguments_of_fit(loaded, options, kind, message):
    with pytest.raises(kind, match=message):
        loaded.fit(X, Y, **options)
    assert loaded.state.step == 0


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        ("mlp", {}, InputTypeError, "model must be a Network or a Keras model, not str"),
        (NETWORK, {"input_scale": np.nan}, InputError, "input_scale must be finite and 0 or more, not nan"),
        (NETWORK, {"seed": -1}, InputError, "seed must be 0 or more, not -1"),
        (NETWORK, {"parameters": [1]}, InputError, r"parameters must be a list of \(weights, bias\) arrays"),
        (NETWORK, {"parameters": []}, InputError, r"parameters must be a .* pair for each of 2 layers, not 0"),
        (
            NETWORK,
            {"parameters": [(np.zeros((6, 5)), np.zeros(5)), (np.zeros((5, 3)), np.zeros(4))]},
            InputError,
            r"parameters of layer 1 must be \(5, 3\) and \(3,\), not \(5, 3\) and \(4,\)",
        ),
        (
            NETWORK,
            {"parameters": [(np.full((6, 5), np.nan), np.zeros(5)), (np.zeros((5, 3)), np.zeros(3))]},
            InputError,
            "parameters of layer 0 must be finite",
        ),
        (
            NETWORK,
            {"parameters": initial_parameters(NETWORK, 1), "seed": 1},
            InputError,
            "seed must be left out when parameters are given",
        ),
    ],
)
def test_refused_models_leave_the_one_that_is_loaded(loaded, model, options, kind, message):
    before = loaded.parameters
    with pytest.raises(kind, match=message):
        loaded.load_model(model, **options)
    assert same(loaded.parameters, before)


def test_arrays_changed_after_loading_change_nothing(device):
    """What was given and what is read are the caller's copies; only setting them again changes the device's."""
    given = initial_parameters(NETWORK, 4)
    kept = [tuple(part.copy() for part in pair) for pair in given]
    device.load_model(NETWORK, parameters=given)
    given[0][0][:] = 7.0
    assert same(device.parameters, kept)
    outputs = device.predict(X)
    read = device.parameters
    read[1][0][:] = -3.0
    assert same(device.parameters, kept)
    assert np.array_equal(device.predict(X), outputs)
    device.parameters = read
    assert not np.array_equal(device.predict(X), outputs)


def test_refused_states(loaded):
    state = loaded.state
    for bad, kind, message in (
        ([], InputTypeError, "state must be a State, not list"),
        (
            State(state.parameters, [{}, {}], 0),
            InputError,
            "slots of layer 0 must be m, v for this optimizer, not none",
        ),
        (State(state.parameters, state.slots[:1], 0), InputError, "slots must be 2, one a layer, not 1"),
        (State(state.parameters, state.slots, -1), InputError, "step must be 0 or more, not -1"),
        (State(state.parameters[:1], state.slots, 0), InputError, "parameters must be a .* of 2 layers, not 1"),
        (State(state.parameters, [state.slots[1]] * 2, 0), InputError, r"slot m of layer 0 must be \(6, 5\)"),
    ):
        with pytest.raises(kind, match=message):
            loaded.state = bad
    assert loaded.state.same(state)


def test_model_that_cannot_run_names_the_layer(device):
    device.load_model(Network(6, (Dense(5000), Dense(3, "softmax"))))
    with pytest.raises(ModelError, match="layer 0: more than 4096 values"):
        device.predict(X)
    device.load_model(NETWORK)
    device.predict(X)


# Interrupts and faults


def reference(batches: int):
    """State of `loaded` after so many batches of the first epoch."""
    device = Device("model", "tiny")
    with device:
        device.load_model(NETWORK, input_scale=1 / 255, seed=2)
        device.compile(optimizer=Adam(0.01), batch_size=8)
        if batches:
            device.fit(X[: 8 * batches], Y[: 8 * batches], shuffle=False)
        return device.state


@pytest.mark.parametrize("step", [0, 3])
def test_interrupt_in_the_middle_of_fit(loaded, standin, monkeypatch, step):
    """The batch that was running is finished; its weights are there; and training goes on as if nothing had been."""
    expected, whole = reference(step + 1), reference(7)
    standin.steps = 0
    monkeypatch.setattr(standin, "interrupts_at", {step: 1})
    with pytest.raises(KeyboardInterrupt):
        loaded.fit(X, Y, shuffle=False)
    assert loaded.state.same(expected)
    monkeypatch.setattr(standin, "interrupts_at", {})
    done = 8 * (step + 1)
    loaded.fit(X[done:], Y[done:], shuffle=False)
    assert loaded.state.same(whole)


def test_second_interrupt_does_not_wait(loaded, standin, monkeypatch):
    """The epoch that was running is lost; the state before it is there; the device is opened anew and goes on."""
    expected, whole = reference(2), reference(7)
    loaded.fit(X[:16], Y[:16], shuffle=False)
    monkeypatch.setattr(standin, "interrupts_at", {standin.steps + 2: 2})
    with pytest.raises(KeyboardInterrupt):
        loaded.fit(X[16:], Y[16:], shuffle=False)
    assert loaded.state.same(expected)
    assert StandInBackend.alive == 0
    monkeypatch.setattr(standin, "interrupts_at", {})
    loaded.fit(X[16:], Y[16:], shuffle=False)
    assert loaded.state.same(whole)
    assert loaded.initialized


def test_interrupt_between_calls_is_an_ordinary_one(loaded):
    def stop(progress):
        raise KeyboardInterrupt

    expected = reference(1)
    with pytest.raises(KeyboardInterrupt):
        loaded.fit(X, Y, shuffle=False, on_progress=stop)
    assert loaded.state.same(expected)


def test_fault_of_the_core(loaded, standin, monkeypatch):
    fault = Fault(FaultCause.BUS_READ, Engine.LOAD, 7, 0x1000)
    expected, whole = reference(4), reference(7)
    loaded.fit(X[:32], Y[:32], shuffle=False)
    monkeypatch.setattr(standin, "fault_at", {standin.steps + 2: fault})
    with pytest.raises(CoreFaultError, match="BUS_READ in LOAD, command 7, address 0x1000"):
        loaded.fit(X[32:], Y[32:], shuffle=False)
    assert loaded.fault == fault
    assert loaded.state.same(expected)
    loaded.fit(X[32:], Y[32:], shuffle=False)
    assert loaded.state.same(whole)


def test_a_callback_may_read_and_set_the_state(loaded):
    """Between two batches it is that after the last one; and what is set is what the next batch begins with."""
    first, seen = loaded.state, []

    def look(progress):
        seen.append(loaded.state.step)
        if progress.batches == 6:
            assert loaded.state.same(after)
            loaded.state = first

    after = reference(6)
    loaded.fit(X[:48], Y[:48], shuffle=False, on_progress=look)
    assert loaded.state.same(first)
    assert seen == [1, 2, 3, 4, 5, 6]
    loaded.fit(X, Y, shuffle=False, on_progress=look)
    assert loaded.state.step == 1  # the seventh batch only


def test_every_error_of_the_sdk_is_one_kind_and_a_usual_one():
    assert issubclass(StateError, LeptonError) and issubclass(StateError, RuntimeError)  # noqa: PT018
    assert all(issubclass(kind, LeptonError) and issubclass(kind, ValueError) for kind in (InputError, ModelError))
    assert issubclass(InputTypeError, LeptonError) and issubclass(InputTypeError, TypeError)  # noqa: PT018
