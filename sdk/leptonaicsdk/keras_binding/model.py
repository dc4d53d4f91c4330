"""`KerasModel`: a Keras model as something a device has loaded, with its variables read and written."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from .. import inputs
from ..errors import InputError, ModelError, StateError
from ..loaded import Loaded, check_last_layer
from ..network import Activation, Loss, Network, Optimizer, Sgd
from ..runner import Setup
from ..state import Pair, State, initial_state, slot_names
from .compiled import Compiled, compiled, optimizer_of
from .layers import Description, describe

__all__ = ["KerasModel"]

SLOTS = {"m": "momentum", "v": "velocity", "velocity": "momentum"}
"""Names of Keras's optimizer variables by those of a session. Keras calls SGD's velocity, and Adam's mean, momentum."""


def _numpy(variable: Any) -> NDArray[np.float32]:
    return np.array(keras.ops.convert_to_numpy(variable), np.float32)


class KerasModel(Loaded):
    """A Keras model. It holds no weights of its own: `state` reads those of the model, `keep` writes them.

    Parameters
    ----------
    model : keras.Model

    Attributes
    ----------
    batch : int
        Samples a step, of the last ``fit``.
    """

    def __init__(self, model: Any):
        self.model = model
        self.batch = 32
        self._description: Description | None = None
        self._compiled: Compiled | None = None
        self._optimizer: Optimizer | None = None

    def refresh(self, x: Any = None) -> None:
        """Look at the model, and at what it was compiled with, anew; ``x`` builds one that is not built yet.

        Raises
        ------
        ModelError
            If the device cannot run it; the message names the layer.
        """
        if not self.model.built:
            if x is None:
                raise ModelError(f"model {self.model.name!r} is not built: give it an Input, or call fit() first")
            self.model.build((None, *np.shape(x)[1:]))
        self._description, self._compiled, self._optimizer = describe(self.model), None, None

    def _described(self) -> Description:
        if self._description is None:
            self.refresh()
        assert self._description is not None
        return self._description

    @property
    def network(self) -> Network:  # type: ignore[override]
        return self._described().network

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self._described().input_shape

    @property
    def compiled(self) -> Compiled:
        """What the model was compiled with.

        Raises
        ------
        StateError
            If it is not compiled.
        ModelError
            For what the device does not have, and for a loss that does not go with the last layer.
        """
        if self._compiled is None:
            result = compiled(self.model)
            check_last_layer(f"layer {self._described().dense[-1].name!r}", self.network, result.loss)
            self._compiled = result
        return self._compiled

    @property
    def loss(self) -> Loss:
        return self.compiled.loss

    @property
    def optimizer(self) -> Optimizer:
        """The model's optimizer, see `optimizer_of`."""
        if self._optimizer is None:
            self._optimizer = optimizer_of(self.model)
        return self._optimizer

    def _trains(self) -> bool:
        """Whether the device could train the model; if not, it may still evaluate it, or predict."""
        try:
            self.check_trainable()
            return bool(self.compiled and self.optimizer)
        except (ModelError, StateError):
            return False

    def setup(self, precision: int) -> Setup:
        description = self._described()
        try:
            loss = self.compiled.loss
        except (ModelError, StateError):  # forward only: any loss that goes with the last layer
            softmax = description.network.layers[-1].activation == Activation.SOFTMAX
            loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY if softmax else Loss.MEAN_SQUARED_ERROR
        optimizer = self.optimizer if self._trains() else None
        return Setup(description.network, loss, optimizer, self.batch, precision, description.input_scale)

    def wanted(self, name: str, y: Any, count: int) -> NDArray:
        if not self.compiled.one_hot:
            return super().wanted(name, y, count)
        rows = inputs.targets(name, y, count, self.network.sizes[-1])
        bad = np.flatnonzero(((rows != 0).sum(axis=1) != 1) | (rows.sum(axis=1) != 1))
        if bad.size:
            raise InputError(f"{name} must be rows with a single 1, not {rows[bad[0]].tolist()} (sample {bad[0]})")
        return rows.argmax(axis=1).astype(np.int32)

    def check_trainable(self) -> None:
        """Refuse to train a model of which a part must stay.

        Raises
        ------
        ModelError
            For a layer that is not trainable.
        """
        for layer in self._described().dense:
            if not layer.trainable or not self.model.trainable:
                raise ModelError(f"layer {layer.name!r} (Dense) is not trainable; the device trains all layers")

    def check_step(self) -> None:
        """See `Loaded.check_step`."""
        self.check_trainable()
        super().check_step()
        self.optimizer  # noqa: B018 - raises if the device has none like it

    def _optimizer_variables(self) -> dict[str, list[Any]]:
        """For each slot, Keras's variables in the order of ``model.trainable_variables``."""
        optimizer, trainable = self.model.optimizer, self.model.trainable_variables
        if not optimizer.built:
            optimizer.build(trainable)
        found: dict[str, list[Any]] = {}
        for slot in slot_names(self.optimizer):
            variables = [v for v in optimizer.variables if v.path.endswith(f"_{SLOTS[slot]}")]
            if [tuple(v.shape) for v in variables] != [tuple(v.shape) for v in trainable]:
                raise ModelError("the optimizer belongs to other variables than the model's: compile it with a new one")
            found[slot] = variables
        return found

    def _pairs(self, variables: list[Any]) -> list[tuple[Any, Any]]:
        """From a list in the order of ``model.trainable_variables``: (of the kernel, of the bias) of every layer."""
        position = {id(v): i for i, v in enumerate(self.model.trainable_variables)}
        return [
            (variables[position[id(layer.kernel)]], variables[position[id(layer.bias)]] if layer.use_bias else None)
            for layer in self._described().dense
        ]

    def _weights(self) -> list[tuple[Any, Any]]:
        return [(layer.kernel, layer.bias if layer.use_bias else None) for layer in self._described().dense]

    def state(self) -> State:
        def read(pair: tuple[Any, Any]) -> Pair:
            kernel = _numpy(pair[0])
            return kernel, np.zeros(kernel.shape[1], np.float32) if pair[1] is None else _numpy(pair[1])

        start = initial_state([read(pair) for pair in self._weights()], Sgd())
        if not self._trains():
            return start
        for slot, variables in self._optimizer_variables().items():
            for layer, pair in zip(start.slots, self._pairs(variables)):
                layer[slot] = read(pair)
        return State(start.parameters, start.slots, int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)))

    def keep(self, state: State) -> None:
        """Write weights and optimizer memory into the model's and the optimizer's variables."""

        def write(pair: tuple[Any, Any], values: Pair) -> None:
            for variable, value in zip(pair, values):
                if variable is not None:
                    variable.assign(value)

        for pair, values in zip(self._weights(), state.parameters):
            write(pair, values)
        for slot, variables in self._optimizer_variables().items():
            for pair, layer in zip(self._pairs(variables), state.slots):
                write(pair, layer[slot])
        self.model.optimizer.iterations.assign(state.step)
