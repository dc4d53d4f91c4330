"""Descriptions of dense networks, losses and optimizers: what a device is asked to train.

They hold no numbers of a trained network; those are lists of (weights, bias), one pair a layer.
"""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Activation", "Adam", "Dense", "Loss", "Network", "Optimizer", "Sgd"]


class Activation(StrEnum):
    """What a layer does to z = a W + b. SOFTMAX is for a last layer."""

    LINEAR = "linear"
    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTMAX = "softmax"


class Loss(StrEnum):
    """Losses by their Keras names.

    SPARSE_CATEGORICAL_CROSSENTROPY is -log p of the labelled class, after a softmax layer; MEAN_SQUARED_ERROR the mean
    over samples and outputs of (a - y)^2; SQUARED_ERROR its sum over the outputs, and its mean over the samples.
    """

    SPARSE_CATEGORICAL_CROSSENTROPY = "sparse_categorical_crossentropy"
    MEAN_SQUARED_ERROR = "mean_squared_error"
    SQUARED_ERROR = "squared_error"

    @property
    def labelled(self) -> bool:
        """Whether the targets are labels of classes, which go with a softmax layer; else they are values."""
        return self == Loss.SPARSE_CATEGORICAL_CROSSENTROPY


def _positive(name: str, value: int):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of 1 or more, not {value!r}")


def _within(name: str, value: float, low: float, high: float):
    """``low <= value < high``, which no NaN and no infinity is."""
    if not low <= value < high:
        raise ValueError(f"{name} must be from {low} to below {high}, not {value}")


@dataclass(frozen=True)
class Dense:
    """A dense layer of ``units`` outputs: activation(a W + b).

    Raises
    ------
    ValueError
        For units below 1 and unknown activations.
    """

    units: int
    activation: Activation = Activation.LINEAR
    use_bias: bool = True

    def __post_init__(self):
        _positive("Dense.units", self.units)
        try:
            object.__setattr__(self, "activation", Activation(self.activation))
        except ValueError:
            allowed = ", ".join(Activation)
            raise ValueError(f"Dense.activation must be one of {allowed}, not {self.activation!r}") from None


@dataclass(frozen=True)
class Network:
    """Dense layers, one after another, on ``inputs`` values a sample.

    Raises
    ------
    ValueError
        Without layers, for inputs below 1, and for a softmax before the last layer; the message names the layer.
    """

    inputs: int
    layers: tuple[Dense, ...]

    def __post_init__(self):
        _positive("Network.inputs", self.inputs)
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ValueError("Network.layers must hold a layer or more, not none")
        for l, layer in enumerate(self.layers[:-1]):
            if layer.activation == Activation.SOFTMAX:
                raise ValueError(
                    f"layer {l}: softmax must be the last layer's activation, not one of {l + 1} before it"
                )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs, then the outputs of every layer."""
        return (self.inputs, *(layer.units for layer in self.layers))


@dataclass(frozen=True)
class Sgd:
    """w += v with v = momentum * v - learning_rate * g (with ``nesterov``: w += momentum * v - learning_rate * g).

    Keras's SGD, without momentum gradient descent.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self):
        _within("Sgd.learning_rate", self.learning_rate, 0.0, float("inf"))
        _within("Sgd.momentum", self.momentum, 0.0, 1.0)


@dataclass(frozen=True)
class Adam:
    """D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, in Keras's form.

    m += (1 - beta_1)(g - m), v += (1 - beta_2)(g^2 - v), w -= alpha m / (sqrt(v) + epsilon) with
    alpha = learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) in step t = 1, 2, ...
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self):
        _within("Adam.learning_rate", self.learning_rate, 0.0, float("inf"))
        _within("Adam.beta_1", self.beta_1, 0.0, 1.0)
        _within("Adam.beta_2", self.beta_2, 0.0, 1.0)
        if not 0.0 < self.epsilon < float("inf"):
            raise ValueError(f"Adam.epsilon must be above 0 and finite, not {self.epsilon}")


Optimizer = Sgd | Adam
