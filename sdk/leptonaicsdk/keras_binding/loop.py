"""``fit``, ``evaluate`` and ``predict`` of a Keras model on a device, with Keras's arguments, callbacks and results.

Batches go to the device in slices, as with Keras's ``steps_per_execution``: callbacks of batches are called once a
slice, up to 100 times an epoch, or every ``steps_per_execution`` batches if the model is compiled with that.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from .. import inputs
from ..errors import InputError, InputTypeError, ModelError
from ..loaded import Slice, forward_slices, hundredth, slices
from ..session import Metrics
from .compiled import rate, scheduled
from .model import KerasModel

if TYPE_CHECKING:
    from ..device import Device

__all__ = ["evaluate", "fit", "predict"]

BATCH = 32
"""Keras's default."""


def _absent(**options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name} must be None on the device, not {value!r}")


def _callbacks(model: Any, callbacks: Any, verbose: Any, epochs: int, steps: int, history: bool = False) -> Any:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=history,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )


def _given(model: Any) -> int | None:
    """Batches of a slice, if the model is compiled with a number."""
    return model.steps_per_execution if (getattr(model, "steps_per_execution", 1) or 1) > 1 else None


def _forward_parts(model: Any, count: int, batch: int) -> Iterator[Slice]:
    given = _given(model)
    return slices(count, batch, given) if given else forward_slices(count, batch)


def _looks_at_batches(calls: Any) -> bool:
    """Whether a callback may read or change the model at the end of a batch."""
    base = keras.callbacks.Callback
    return any(
        (
            type(call).on_train_batch_end is not base.on_train_batch_end
            or type(call).on_train_batch_begin is not base.on_train_batch_begin
            or type(call).on_batch_end is not base.on_batch_end
            or type(call).on_batch_begin is not base.on_batch_begin
        )
        and not isinstance(call, keras.callbacks.ProgbarLogger)
        and getattr(call, "save_freq", None) != "epoch"
        for call in calls.callbacks
    )


def _logs(loaded: KerasModel, metrics: Metrics) -> dict[str, float]:
    found = dict.fromkeys(loaded.compiled.accuracies, metrics.accuracy) | {"loss": metrics.loss}
    return dict(sorted(found.items()))


def _split(x: Any, y: Any, share: float) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """The last ``share`` of the samples for validation, before any shuffling."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"validation_split must be from 0 to below 1, not {share!r}")
    x, y = inputs.array("x", x), inputs.array("y", y)
    at = math.floor(len(x) * (1.0 - share))
    if not 0 < at < len(x):
        raise InputError(f"validation_split must leave a sample on both sides; {share} of {len(x)} samples does not")
    return (x[:at], y[:at]), (x[at:], y[at:])


def _order(shuffle: Any, count: int, batch: int) -> NDArray[np.int64]:
    """Indices of the samples of an epoch, from NumPy's global generator, which ``keras.utils.set_random_seed`` seeds.

    Keras takes the same one on JAX, in the same way; but when it builds the metrics of a freshly compiled model, it
    draws an order more for that.
    """
    if shuffle == "batch":
        starts = range(0, count, batch)
        permuted = [np.random.permutation(min(batch, count - start)) + start for start in starts]  # noqa: NPY002
        return np.concatenate(permuted)
    return np.random.permutation(count) if shuffle else np.arange(count)  # noqa: NPY002


def _validation(loaded: KerasModel, data: Any) -> tuple[NDArray, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise InputTypeError("validation_data must be a tuple (x, y) of arrays")
    x = loaded.samples("validation_data x", data[0])
    loaded.wanted("validation_data y", data[1], len(x))
    return x, data[1]


def fit(
    device: "Device",
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: Any = True,
    class_weight: Any = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: Any = None,
    validation_steps: Any = None,
    validation_batch_size: int | None = None,
    validation_freq: Any = 1,
) -> Any:
    """Train ``model``; Keras's ``Model.fit`` for arrays.

    Weights and optimizer variables are written back at the end of each epoch, and after each slice of batches if there
    is a callback of batches, before callbacks see the model. Ctrl-C leaves in the model those of the last batch that
    was trained; a second one, and a fault of the core, those that were last written.

    Returns
    -------
    keras.callbacks.History

    Raises
    ------
    StateError
        For a model that is not compiled.
    ModelError
        For a model, loss, optimizer or metric that the device does not run; the message names it.
    InputError, InputTypeError
        For data that are not arrays, of other shapes, with labels out of range, with NaN or infinities, and for
        arguments that the device does not have (weights of samples and classes, numbers of steps).
    """
    _absent(
        class_weight=class_weight,
        sample_weight=sample_weight,
        steps_per_epoch=steps_per_epoch,
        validation_steps=validation_steps,
    )
    if x is not None and y is None:
        inputs.array("x", x)  # a data set or generator, which brings its own targets: say that first
    batch = inputs.whole("batch_size", BATCH if batch_size is None else batch_size)
    if validation_split and validation_data is None:
        (x, y), validation_data = _split(x, y, validation_split)
    loaded = KerasModel(model)
    loaded.refresh(x)
    loaded.batch = batch
    loaded.check_trainable()
    loaded.optimizer  # noqa: B018 - raises if the device has none like it
    if loaded.compiled.others:
        names = ", ".join(loaded.compiled.others)
        raise ModelError(
            f"metric {names}: the device counts loss and accuracy while it trains, others in evaluate() only"
        )
    samples = loaded.samples("x", x)
    wanted = loaded.wanted("y", y, len(samples))
    validation = _validation(loaded, validation_data) if validation_data is not None else None
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    single = scheduled(model.optimizer)
    inputs.number("learning_rate", rate(model.optimizer))

    steps = -(-len(samples) // batch)
    calls = _callbacks(model, callbacks, verbose, epochs, steps, history=True)
    model.stop_training = False
    logs: dict[str, float] = {}
    calls.on_train_begin()
    watched = _looks_at_batches(calls)
    for epoch in range(getattr(model, "_initial_epoch", None) or initial_epoch, epochs):
        calls.on_epoch_begin(epoch)
        order, total = _order(shuffle, len(samples), batch), Metrics(0, 0.0, 0)
        runner = device._prepare(loaded)
        width = 1 if single else _given(model) or hundredth(len(samples), batch, 1 if watched else None)
        try:
            for part in slices(len(samples), batch, width):
                calls.on_train_batch_begin(part.first)
                if watched:
                    device._prepare(loaded)
                alpha = inputs.number("learning_rate", rate(model.optimizer))
                rows = order[part.start : part.stop]
                total += runner.train(samples[rows], wanted[rows], alpha)
                if watched:
                    loaded.keep(runner.state)
                elif single:
                    model.optimizer.iterations.assign(model.optimizer.iterations + 1)
                logs = _logs(loaded, total)
                calls.on_train_batch_end(part.last, logs)
                if model.stop_training:
                    break
        finally:
            loaded.keep(runner.state)
        if validation is not None and _due(validation_freq, epoch):
            found = evaluate(
                device,
                model,
                *validation,
                batch_size=validation_batch_size or batch,
                callbacks=calls,
                return_dict=True,
            )
            logs |= {f"val_{name}": value for name, value in found.items()}
        calls.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    calls.on_train_end(logs=logs)
    return model.history


def _due(frequency: Any, epoch: int) -> bool:
    """Keras's ``validation_freq``: every so many epochs, or those in a list, counted from 1."""
    return (epoch + 1) % frequency == 0 if isinstance(frequency, int) else epoch + 1 in frequency


def evaluate(
    device: "Device",
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: Any = "auto",
    sample_weight: Any = None,
    steps: Any = None,
    callbacks: Any = None,
    return_dict: bool = False,
) -> Any:
    """Loss and metrics of ``model``; Keras's ``Model.evaluate`` for arrays.

    Loss and accuracy are counted on the device; other compiled metrics are Keras's, of the device's predictions. Errors
    as those of `fit`.
    """
    _absent(sample_weight=sample_weight, steps=steps)
    batch = inputs.whole("batch_size", BATCH if batch_size is None else batch_size)
    loaded = KerasModel(model)
    loaded.refresh(x)
    samples = loaded.samples("x", x)
    wanted = loaded.wanted("y", y, len(samples))
    runner = device._prepare(loaded)
    calls = _callbacks(model, callbacks, verbose, 1, -(-len(samples) // batch))
    model.stop_evaluating = False
    others = _Others(model, loaded, y)
    total, logs = Metrics(0, 0.0, 0), dict[str, float]()
    calls.on_test_begin()
    for part in _forward_parts(model, len(samples), batch):
        calls.on_test_batch_begin(part.first)
        chunk = samples[part.start : part.stop]
        total += runner.evaluate(chunk, wanted[part.start : part.stop])
        if loaded.compiled.others:
            others.add(part, runner.predict(chunk))
        logs = dict(sorted((_logs(loaded, total) | others.results).items()))
        calls.on_test_batch_end(part.last, logs)
        if model.stop_evaluating:
            break
    calls.on_test_end(logs)
    if return_dict:
        return logs
    names = ["loss", *loaded.compiled.metrics]
    results = [logs[name] for name in names]
    return results[0] if len(results) == 1 else results


class _Others:
    """Compiled metrics that the device does not count: Keras computes them from its predictions."""

    def __init__(self, model: Any, loaded: KerasModel, y: Any):
        self._model, self._names, self._y = model, loaded.compiled.others, y
        self.results: dict[str, float] = {}
        if self._names:
            model.reset_metrics()

    def add(self, part: Slice, outputs: NDArray[np.float32]) -> None:
        y = keras.ops.convert_to_tensor(np.asarray(self._y)[part.start : part.stop])
        found = self._model.compute_metrics(None, y, keras.ops.convert_to_tensor(outputs))
        self.results = {name: float(found[name]) for name in self._names}


def predict(
    device: "Device",
    model: Any,
    x: Any,
    batch_size: int | None = None,
    verbose: Any = "auto",
    steps: Any = None,
    callbacks: Any = None,
) -> NDArray[np.float32]:
    """Outputs (n, outputs) of ``model``; Keras's ``Model.predict`` for arrays. Errors as those of `fit`."""
    _absent(steps=steps)
    batch = inputs.whole("batch_size", BATCH if batch_size is None else batch_size)
    loaded = KerasModel(model)
    loaded.refresh(x)
    samples = loaded.samples("x", x)
    runner = device._prepare(loaded)
    calls = _callbacks(model, callbacks, verbose, 1, -(-len(samples) // batch))
    model.stop_predicting = False
    results: list[NDArray[np.float32]] = []
    calls.on_predict_begin()
    for part in _forward_parts(model, len(samples), batch):
        calls.on_predict_batch_begin(part.first)
        results.append(runner.predict(samples[part.start : part.stop]))
        calls.on_predict_batch_end(part.last, {"outputs": results[-1]})
        if model.stop_predicting:
            break
    calls.on_predict_end()
    return np.concatenate(results)
