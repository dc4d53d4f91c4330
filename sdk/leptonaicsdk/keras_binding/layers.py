"""A Keras model's layers as a `Network`: what is understood, and what is refused by name."""

import math
from dataclasses import dataclass
from typing import Any

import keras

from ..errors import ModelError
from ..network import Activation, Dense, Network

__all__ = ["Description", "describe"]

OVERRIDES = ("call", "train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")
SUPPORTED = "InputLayer, Flatten, Rescaling, Dense, Activation, ReLU and Softmax layers in a chain"
PLAIN = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")


@dataclass(frozen=True)
class Description:
    """A Keras model, as far as the device is concerned.

    Attributes
    ----------
    network : Network
    input_shape : tuple of int
        Of a sample.
    input_scale : float
        Product of the Rescaling layers.
    dense : tuple of keras.layers.Dense
        Whose variables are the network's parameters.
    """

    network: Network
    input_shape: tuple[int, ...]
    input_scale: float
    dense: tuple[Any, ...]


def _refuse(layer: Any, why: str) -> ModelError:
    return ModelError(f"layer {layer.name!r} ({type(layer).__name__}) {why}")


def _activation(layer: Any, function: Any) -> Activation:
    name = keras.activations.serialize(function)
    try:
        return Activation(name)
    except ValueError:
        allowed = ", ".join(Activation)
        raise _refuse(layer, f"has the activation {name!r}; the device has {allowed}") from None


def _own_class(model: Any) -> None:
    """Refuse a class that computes in another way than its layers do."""
    for cls in type(model).__mro__:
        if cls.__module__.split(".")[0] == "keras":
            return
        for name in OVERRIDES:
            if name in vars(cls):
                raise ModelError(
                    f"model {model.name!r}: {cls.__name__} overrides {name}(), which the device cannot call"
                )


def _chain(model: Any) -> list[Any]:
    """Layers in the order that a sample goes through."""
    if isinstance(model, keras.Sequential):
        return list(model.layers)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ModelError(
            f"model {model.name!r} ({type(model).__name__}) must be a keras.Sequential or a "
            "keras.Model(inputs, outputs): of another one the device cannot see what it computes"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"model {model.name!r} must have one input and one output, not {len(inputs)} and {len(outputs)}"
        )
    uses = {item["name"]: len(item.get("inbound_nodes", ())) for item in model.get_config()["layers"]}
    tensor = inputs[0]
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if uses.get(layer.name, 1) > 1:
            raise _refuse(layer, "is used more than once; the device runs layers in a chain")
        try:
            follows = layer.input is tensor
        except (AttributeError, ValueError):  # Keras: it is called elsewhere as well, or takes several tensors
            follows = False
        if not follows:
            raise _refuse(layer, "does not follow the layer before it; the device runs layers in a chain")
        tensor = layer.output
    if tensor is not outputs[0]:
        raise ModelError(f"model {model.name!r}: its output must be that of its last layer, {model.layers[-1].name!r}")
    return list(model.layers)


class _Reader:
    """Takes layers one after another."""

    def __init__(self, input_shape: tuple[int, ...]):
        self.shape = input_shape
        self.scale = 1.0
        self.dense: list[Any] = []
        self.activations: list[Activation] = []

    def take(self, layer: Any) -> None:
        kind = type(layer).__name__
        method = getattr(self, f"_{kind.lower()}", None)
        if method is None or type(layer) is not getattr(keras.layers, kind, None):
            raise _refuse(layer, f"is not one the device runs: {SUPPORTED}")
        if layer.dtype_policy.name != "float32":
            raise _refuse(layer, f"must have the dtype float32, not {layer.dtype_policy.name}")
        method(layer)

    def _inputlayer(self, layer: Any) -> None:
        pass

    def _flatten(self, layer: Any) -> None:
        self.shape = (math.prod(self.shape),)

    def _rescaling(self, layer: Any) -> None:
        if self.dense:
            raise _refuse(layer, f"must come before the first Dense layer, {self.dense[0].name!r}")
        if layer.offset != 0:
            raise _refuse(layer, f"must have an offset of 0, not {layer.offset}")
        if not isinstance(layer.scale, int | float) or not 0 < layer.scale < math.inf:
            raise _refuse(layer, f"must have one scale above 0, not {layer.scale}")
        self.scale *= float(layer.scale)

    def _dense(self, layer: Any) -> None:
        if len(self.shape) != 1:
            raise _refuse(layer, f"has inputs of the shape {self.shape}; put a Flatten layer before it")
        if self.activations and self.activations[-1] == Activation.SOFTMAX:
            raise _refuse(self.dense[-1], "has a softmax, which the device runs only after the last Dense layer")
        for name in PLAIN:
            if getattr(layer, name, None) is not None:
                raise _refuse(layer, f"has a {name}, which the device does not run")
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            raise _refuse(layer, "has LoRA or quantised weights, which the device does not run")
        self.dense.append(layer)
        self.activations.append(_activation(layer, layer.activation))
        self.shape = (layer.units,)

    def _activate(self, layer: Any, activation: Activation) -> None:
        if activation == Activation.LINEAR:
            return
        if not self.dense:
            raise _refuse(layer, "must follow a Dense layer")
        if self.activations[-1] != Activation.LINEAR:
            raise _refuse(layer, f"follows {self.dense[-1].name!r}, which has the activation {self.activations[-1]}")
        self.activations[-1] = activation

    def _activation(self, layer: Any) -> None:
        self._activate(layer, _activation(layer, layer.activation))

    def _relu(self, layer: Any) -> None:
        if layer.max_value is not None or layer.negative_slope or layer.threshold:
            raise _refuse(layer, "must have no max_value, negative_slope and threshold")
        self._activate(layer, Activation.RELU)

    def _softmax(self, layer: Any) -> None:
        if layer.axis not in (-1, 1):
            raise _refuse(layer, f"must have the axis -1, not {layer.axis}")
        self._activate(layer, Activation.SOFTMAX)


def describe(model: Any) -> Description:
    """Read a built Keras model.

    Raises
    ------
    ModelError
        If the device cannot run it; the message names the layer.
    """
    _own_class(model)
    layers = _chain(model)
    input_shape = tuple(model.input_shape[1:])
    if None in input_shape:
        raise ModelError(f"model {model.name!r} must have an input of fixed shape, not {input_shape}")
    reader = _Reader(input_shape)
    for layer in layers:
        reader.take(layer)
    if not reader.dense:
        raise ModelError(f"model {model.name!r} must have a Dense layer, it has none")
    dense = tuple(Dense(layer.units, a, layer.use_bias) for layer, a in zip(reader.dense, reader.activations))
    return Description(Network(math.prod(input_shape), dense), input_shape, reader.scale, tuple(reader.dense))
