"""What training changes, as the host holds it: parameters, and the optimizer's memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, InputTypeError
from .inputs import whole
from .network import Network, Optimizer
from .training.update import slots_of

__all__ = ["State", "initial_parameters", "initial_state", "slot_names"]

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of a layer: what belongs to its weights (inputs, outputs), and to its bias (outputs,)."""


def slot_names(optimizer: Optimizer) -> tuple[str, ...]:
    """Names of what ``optimizer`` remembers for each parameter."""
    return tuple(slot.name for slot in slots_of(optimizer))


@dataclass
class State:
    """Weights, and what an optimizer knows after ``step`` steps.

    Attributes
    ----------
    parameters : list of (weights, bias)
        A pair a layer: (inputs, outputs) and (outputs,), binary32.
    slots : list of dict
        For each layer, by the names of `slot_names`, pairs of the same shapes.
    step : int
        Optimizer steps so far.
    """

    parameters: list[Pair]
    slots: list[dict[str, Pair]]
    step: int

    def copy(self) -> "State":
        """With arrays of its own."""
        slots = [{name: _copied(pair) for name, pair in layer.items()} for layer in self.slots]
        return State([_copied(pair) for pair in self.parameters], slots, self.step)

    def same(self, other: "State") -> bool:
        """Whether both hold the same numbers, NaN equal to itself."""
        mine, others = self._arrays(), other._arrays()
        return (
            self.step == other.step
            and mine.keys() == others.keys()
            and all(np.array_equal(array, others[key], equal_nan=True) for key, array in mine.items())
        )

    def _arrays(self) -> dict[Any, NDArray]:
        arrays: dict[Any, NDArray] = {}
        for l, (pair, slots) in enumerate(zip(self.parameters, self.slots, strict=True)):
            for name, (weights, bias) in {"": pair, **slots}.items():
                arrays[l, name, 0], arrays[l, name, 1] = weights, bias
        return arrays


def _copied(pair: Any) -> Pair:
    weights, bias = (np.array(part, np.float32) for part in pair)
    return weights, bias


def _checked_pairs(network: Network, name: str, pairs: Any) -> list[Pair]:
    shapes = list(zip(network.sizes, network.sizes[1:]))
    try:
        copies = [_copied(pair) for pair in pairs]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be a list of (weights, bias) arrays: {error}") from None
    if len(copies) != len(shapes):
        raise InputError(f"{name} must be a (weights, bias) pair for each of {len(shapes)} layers, not {len(copies)}")
    for l, ((inputs, outputs), (weights, bias)) in enumerate(zip(shapes, copies)):
        if weights.shape != (inputs, outputs) or bias.shape != (outputs,):
            found = f"{weights.shape} and {bias.shape}"
            raise InputError(f"{name} of layer {l} must be {(inputs, outputs)} and {(outputs,)}, not {found}")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise InputError(f"{name} of layer {l} must be finite; there is a NaN or an infinity")
    return copies


def checked_parameters(network: Network, parameters: Any) -> list[Pair]:
    """``parameters`` as pairs of binary32.

    Raises
    ------
    InputError
        If they are not a pair a layer of the network's shapes, or not finite.
    """
    return _checked_pairs(network, "parameters", parameters)


def checked_state(network: Network, state: State, names: tuple[str, ...]) -> State:
    """A copy of ``state`` that goes with ``network`` and an optimizer that remembers ``names``.

    Raises
    ------
    InputError, InputTypeError
        If it does not.
    """
    if not isinstance(state, State):
        raise InputTypeError(f"state must be a State, not {type(state).__name__}")
    parameters = checked_parameters(network, state.parameters)
    for l, layer in enumerate(state.slots):
        if set(layer) != set(names):
            wanted = ", ".join(names) or "nothing"
            raise InputError(
                f"slots of layer {l} must be {wanted} for this optimizer, not {', '.join(layer) or 'none'}"
            )
    slots: list[dict[str, Pair]] = [{} for _ in parameters]
    if len(state.slots) != len(slots):
        raise InputError(f"slots must be {len(slots)}, one a layer, not {len(state.slots)}")
    for name in names:
        pairs = _checked_pairs(network, f"slot {name}", [layer[name] for layer in state.slots])
        for layer, pair in zip(slots, pairs):
            layer[name] = pair
    return State(parameters, slots, whole("step", state.step, 0))


def initial_parameters(network: Network, seed: int | Sequence[int]) -> list[Pair]:
    """Biases of 0 and weights uniform in +-sqrt(6 / (inputs + outputs)), as Keras begins.

    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010.
    """
    rng = np.random.default_rng(seed)
    parameters = []
    for inputs, outputs in zip(network.sizes, network.sizes[1:]):
        limit = np.sqrt(6 / (inputs + outputs))
        weights = rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
        parameters.append((weights, np.zeros(outputs, np.float32)))
    return parameters


def initial_state(parameters: list[Pair], optimizer: Optimizer) -> State:
    """``parameters`` before the first step of ``optimizer``."""
    names = slot_names(optimizer)
    slots = [{name: (np.zeros_like(w), np.zeros_like(b)) for name in names} for w, b in parameters]
    return State([_copied(pair) for pair in parameters], slots, 0)
