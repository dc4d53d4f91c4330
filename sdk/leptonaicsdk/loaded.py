"""What a device has loaded: a described network with its weights, or a Keras model (in `keras_binding`)."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

from . import inputs
from .errors import InputError, ModelError, StateError
from .network import Activation, Adam, Loss, Network, Optimizer, Sgd
from .runner import Setup
from .session import INFERENCE_BATCH
from .state import Pair, State, initial_state, slot_names

__all__ = [
    "OPTIMIZERS",
    "Loaded",
    "LoadedNetwork",
    "Slice",
    "check_last_layer",
    "forward_slices",
    "hundredth",
    "slices",
]

PARTS, LEAST = 100, 8
OPTIMIZERS: dict[str, type[Adam] | type[Sgd]] = {"adam": Adam, "sgd": Sgd}
"""Optimizers by the names that ``compile`` takes."""


class Slice(NamedTuple):
    """What goes to the device in one call: batches ``first`` .. ``last``, samples ``start`` .. ``stop`` - 1."""

    first: int
    last: int
    start: int
    stop: int


def hundredth(count: int, batch: int, least: int | None = None) -> int:
    """Batches in a hundredth of ``count`` samples, but at least ``least`` or 8: a call of the device costs time."""
    return max(-(-count // (batch * PARTS)), LEAST if least is None else least)


def slices(count: int, batch: int, batches: int | None = None) -> Iterator[Slice]:
    """Cut ``count`` samples into slices of ``batches`` batches each, by default a `hundredth`."""
    steps = -(-count // batch)
    width = batches or hundredth(count, batch)
    for first in range(0, steps, width):
        last = min(first + width, steps) - 1
        yield Slice(first, last, first * batch, min((last + 1) * batch, count))


def forward_slices(count: int, batch: int = INFERENCE_BATCH) -> Iterator[Slice]:
    """The same for a forward pass: in whole batches of the device as well, however many it takes of ``batch``."""
    multiple = INFERENCE_BATCH // math.gcd(batch, INFERENCE_BATCH)
    return slices(count, batch, -(-count // (batch * multiple * PARTS)) * multiple)


def check_last_layer(name: str, network: Network, loss: Loss):
    """Refuse a loss that does not go with the last layer, called ``name``: softmax and cross-entropy go together.

    Raises
    ------
    ModelError
    """
    last = network.layers[-1].activation
    if loss.labelled and last != Activation.SOFTMAX:
        raise ModelError(f"{name}: the loss {loss} needs softmax as its activation, not {last}")
    if not loss.labelled and last == Activation.SOFTMAX:
        raise ModelError(f"{name}: the loss {loss} needs another activation than softmax, which is for cross-entropy")


class Loaded(ABC):
    """A model that a device has loaded.

    Attributes
    ----------
    network : Network
    input_shape : tuple of int
        Of a sample.
    flattens : bool
        Whether samples of another shape, with as many values, are taken.
    """

    network: Network
    input_shape: tuple[int, ...]
    flattens = False

    def refresh(self, x: Any = None) -> None:  # noqa: B027 - a Network has nothing to do here
        """Look at a model that may have changed since; ``x`` are the samples of this call."""

    def check_step(self) -> None:
        """Refuse a model of which no training step can be compiled.

        Raises
        ------
        StateError, ModelError
        """
        self.loss  # noqa: B018 - raises if there is none

    @property
    @abstractmethod
    def loss(self) -> Loss:
        """As compiled.

        Raises
        ------
        StateError
            Before the model is compiled.
        """

    @abstractmethod
    def setup(self, precision: int) -> Setup:
        """What to make a session for."""

    @abstractmethod
    def state(self) -> State:
        """Weights and optimizer memory that the device shall hold."""

    def samples(self, name: str, x: Any) -> NDArray:
        """Checked samples, see `inputs.samples`."""
        return inputs.samples(name, x, self.input_shape, flatten=self.flattens)

    def wanted(self, name: str, y: Any, count: int) -> NDArray:
        """Checked labels or targets, whichever the loss takes."""
        outputs = self.network.sizes[-1]
        if self.loss.labelled:
            return inputs.labels(name, y, count, outputs)
        return inputs.targets(name, y, count, outputs)


class LoadedNetwork(Loaded):
    """A `Network`, its weights, and what it was compiled with."""

    flattens = True

    def __init__(self, network: Network, parameters: list[Pair], input_scale: float):
        self.network = network
        self.input_shape = (network.inputs,)
        self._parameters = parameters
        self._input_scale = input_scale
        self._compiled: tuple[Loss, Optimizer, int] | None = None
        self._learning_rate = 0.0
        self._state = initial_state(parameters, Sgd())

    def compile(self, loss: Loss | str, optimizer: Optimizer | str, batch_size: int):
        """Choose loss, optimizer and batch size; a new optimizer starts at step 0.

        Raises
        ------
        InputError
            For names that do not exist, and a batch below 1.
        ModelError
            For a loss that does not go with the last layer.
        """
        try:
            loss = Loss(loss)
        except ValueError:
            raise InputError(f"loss must be one of {', '.join(Loss)}, not {loss!r}") from None
        if isinstance(optimizer, str):
            if optimizer not in OPTIMIZERS:
                allowed = ", ".join(OPTIMIZERS)
                raise InputError(f"optimizer must be one of {allowed}, or an Adam or Sgd, not {optimizer!r}")
            optimizer = OPTIMIZERS[optimizer]()
        if not isinstance(optimizer, Adam | Sgd):
            allowed = ", ".join(OPTIMIZERS)
            raise InputError(f"optimizer must be one of {allowed}, or an Adam or Sgd, not {optimizer!r}")
        batch_size = inputs.whole("batch_size", batch_size)
        learning_rate = inputs.number("learning_rate", optimizer.learning_rate)
        check_last_layer(f"layer {len(self.network.layers) - 1}", self.network, loss)
        # The rate goes to the device with each call: changing it needs no new program.
        fixed = dataclasses.replace(optimizer, learning_rate=type(optimizer)().learning_rate)
        if self._compiled is None or self._compiled[1] != fixed:
            self._state = initial_state(self._state.parameters, fixed)
        self._compiled = (loss, fixed, batch_size)
        self._learning_rate = learning_rate

    def _configuration(self) -> tuple[Loss, Optimizer, int]:
        if self._compiled is None:
            raise StateError("the network is not compiled: call compile(loss=..., optimizer=...) after load_model()")
        return self._compiled

    @property
    def loss(self) -> Loss:
        return self._configuration()[0]

    @property
    def slot_names(self) -> tuple[str, ...]:
        """What the optimizer remembers; nothing before the network is compiled."""
        return slot_names(self._compiled[1]) if self._compiled else ()

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        self._configuration()
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float):
        self._configuration()
        self._learning_rate = value

    @property
    def batch_size(self) -> int:
        """Samples a step."""
        return self._configuration()[2]

    def setup(self, precision: int) -> Setup:
        if self._compiled is None:  # forward only: any loss that goes with the last layer
            softmax = self.network.layers[-1].activation == Activation.SOFTMAX
            loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY if softmax else Loss.MEAN_SQUARED_ERROR
            return Setup(self.network, loss, None, 32, precision, self._input_scale)
        return Setup(self.network, *self._compiled, precision, self._input_scale)

    def state(self) -> State:
        return self._state

    def keep(self, state: State):
        """Take over what the device, or the user, has made."""
        self._state = state
