"""What a Keras model was compiled with: loss, metrics, optimizer, as the device knows them."""

from dataclasses import dataclass
from typing import Any

import keras

from ..errors import ModelError, StateError
from ..network import Adam, Loss, Optimizer, Sgd

__all__ = ["Compiled", "compiled", "optimizer_of", "rate", "scheduled"]

MSE, SPARSE = Loss.MEAN_SQUARED_ERROR, Loss.SPARSE_CATEGORICAL_CROSSENTROPY
LOSSES = {
    "mse": MSE,
    "MSE": MSE,
    "mean_squared_error": MSE,
    "MeanSquaredError": MSE,
    "sparse_categorical_crossentropy": SPARSE,
    "SparseCategoricalCrossentropy": SPARSE,
    "categorical_crossentropy": SPARSE,
    "CategoricalCrossentropy": SPARSE,
}
ONE_HOT = ("categorical_crossentropy", "CategoricalCrossentropy")
PLAIN_LOSS: dict[str, tuple[Any, ...]] = {
    "from_logits": (False,),
    "ignore_class": (None,),
    "label_smoothing": (0, 0.0),
    "axis": (-1, 1),
    "reduction": ("sum_over_batch_size", "mean", "mean_with_sample_weight"),
}
ACCURACY = ("accuracy", "acc")
ACCURACY_SPARSE = ("sparse_categorical_accuracy", "SparseCategoricalAccuracy")
ACCURACY_ONE_HOT = ("categorical_accuracy", "CategoricalAccuracy")
PLAIN_OPTIMIZER: dict[str, tuple[Any, ...]] = {
    "weight_decay": (None, 0, 0.0),
    "clipnorm": (None,),
    "global_clipnorm": (None,),
    "clipvalue": (None,),
    "use_ema": (False,),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
    "amsgrad": (False,),
}


@dataclass(frozen=True)
class Compiled:
    """Attributes
    ----------
    loss : Loss
    one_hot : bool
        Labels come as rows with one 1.
    metrics : tuple of str
        Names of the metrics, in their order.
    accuracies : tuple of str
        Those that are the share of right classes.
    """

    loss: Loss
    one_hot: bool
    metrics: tuple[str, ...]
    accuracies: tuple[str, ...]

    @property
    def others(self) -> tuple[str, ...]:
        """Metrics that are no accuracies."""
        return tuple(name for name in self.metrics if name not in self.accuracies)


def _named(item: Any) -> tuple[str, dict[str, Any]]:
    """Name, and configuration if there is one, of a string or of Keras's serialised function or object."""
    if isinstance(item, dict):
        if item.get("class_name") == "function":
            return str(item["config"]), {}
        return str(item["class_name"]), item["config"]
    return str(item), {}


def _loss(configuration: dict[str, Any]) -> tuple[Loss, bool]:
    item = configuration["loss"]
    if item is None:
        raise ModelError("the model is compiled without a loss")
    name, options = _named(item)
    if name not in LOSSES:
        raise ModelError(f"loss {name} is not one the device has: {', '.join(LOSSES)}")
    for option, allowed in PLAIN_LOSS.items():
        if option in options and options[option] not in allowed:
            hint = "; give the last layer a softmax" if option == "from_logits" else ""
            raise ModelError(f"loss {name} must have {option}={allowed[0]!r}, not {options[option]!r}{hint}")
    if configuration.get("loss_weights") is not None:
        raise ModelError(f"loss_weights must be None, not {configuration['loss_weights']!r}")
    return LOSSES[name], name in ONE_HOT


def _flat(metrics: Any) -> list[Any]:
    if metrics is None:
        return []
    if isinstance(metrics, dict) and "class_name" not in metrics:
        return [m for value in metrics.values() for m in _flat(value)]
    if isinstance(metrics, list | tuple):
        return [m for value in metrics for m in _flat(value)]
    return [metrics]


def _metrics(configuration: dict[str, Any], loss: Loss, one_hot: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if configuration.get("weighted_metrics") is not None:
        raise ModelError(f"weighted_metrics must be None, not {configuration['weighted_metrics']!r}")
    known = ACCURACY + (ACCURACY_ONE_HOT if one_hot else ACCURACY_SPARSE) if loss == SPARSE else ()
    names, accuracies = [], []
    for item in _flat(configuration["metrics"]):
        kind, options = _named(item)
        names.append(str(options.get("name", kind)))
        if kind in known:
            accuracies.append(names[-1])
    return tuple(names), tuple(accuracies)


def _check_compiled(model: Any) -> None:
    if not model.compiled:
        raise StateError(f"model {model.name!r} is not compiled: call its compile() first")


def compiled(model: Any) -> Compiled:
    """Read the loss and the metrics that ``model`` was compiled with.

    Raises
    ------
    StateError
        If it is not compiled.
    ModelError
        For what the device does not have; the message names it.
    """
    _check_compiled(model)
    configuration = model.get_compile_config()
    loss, one_hot = _loss(configuration)
    metrics, accuracies = _metrics(configuration, loss, one_hot)
    return Compiled(loss, one_hot, metrics, accuracies)


def optimizer_of(model: Any) -> Optimizer:
    """The optimizer of ``model``, with the default learning rate: the present one goes to the device with each call.

    Raises
    ------
    StateError
        If the model is not compiled.
    ModelError
        For an optimizer, or an option of it, that the device does not have; the message names it.
    """
    _check_compiled(model)
    optimizer = model.optimizer
    if optimizer is None:
        raise ModelError(f"model {model.name!r} is compiled without an optimizer")
    serialised = keras.optimizers.serialize(optimizer)
    name, options = serialised["class_name"], serialised["config"]
    if serialised.get("registered_name") or name not in ("Adam", "SGD"):
        raise ModelError(f"optimizer {name} is not one the device has: SGD, with or without momentum, and Adam")
    for option, allowed in PLAIN_OPTIMIZER.items():
        if option in options and options[option] not in allowed:
            raise ModelError(f"optimizer {name} must have {option}={allowed[0]!r}, not {options[option]!r}")
    try:
        if name == "SGD":
            return Sgd(momentum=float(options["momentum"]), nesterov=bool(options["nesterov"]))
        return Adam(beta_1=options["beta_1"], beta_2=options["beta_2"], epsilon=options["epsilon"])
    except ValueError as error:
        raise ModelError(f"optimizer {name}: {error}") from None


def scheduled(optimizer: Any) -> bool:
    """Whether the learning rate follows a schedule, and so may change at every step."""
    return isinstance(keras.optimizers.serialize(optimizer)["config"]["learning_rate"], dict)


def rate(optimizer: Any) -> float:
    """Learning rate of the next step."""
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))
