"""Optimizers: from the gradient of a chunk of parameters to their new values, in place."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import VectorOp
from numpy.typing import NDArray

from leptonaicsdk.network import Adam, Optimizer, Sgd
from leptonaicsdk.schedule import Region

from .emitter import Emitter, View

__all__ = ["Slot", "rates", "slots_of", "update"]


@dataclass(frozen=True)
class Slot:
    """State of an optimizer that has the parameters' shape: its name, and what the core keeps in units of it.

    The core keeps Adam's m / (1 - beta_1) and v / (1 - beta_2): one multiplication less for each parameter and step.
    """

    name: str
    unit: float = 1.0


def slots_of(optimizer: Optimizer) -> tuple[Slot, ...]:
    """The slots of an optimizer."""
    if isinstance(optimizer, Adam):
        return Slot("m", 1.0 - optimizer.beta_1), Slot("v", 1.0 - optimizer.beta_2)
    return (Slot("velocity"),) if optimizer.momentum else ()


def rates(optimizer: Optimizer, learning_rate: float, first_step: int, count: int) -> NDArray[np.float32]:
    """The factor of the update in steps ``first_step`` (from 1) on, for the core's row of the learning rate.

    For Adam alpha (1 - beta_1), alpha as in `Adam`; else the learning rate.
    """
    if not isinstance(optimizer, Adam):
        return np.full(count, learning_rate, np.float32)
    t = np.arange(first_step, first_step + count, dtype=np.float64)
    corrected = np.sqrt(1.0 - optimizer.beta_2**t) / (1.0 - optimizer.beta_1**t)
    return (learning_rate * (1.0 - optimizer.beta_1) * corrected).astype(np.float32)


def update(
    emitter: Emitter, optimizer: Optimizer, slots: Sequence[Region], rows: int, gradient: View, work: Region,
    rate: Region,
):  # fmt: skip
    """New values of ``rows`` rows of parameters (slot 0) and state, from their gradient.

    ``work`` are as many rows of scratch, ``rate`` is the row of the learning rate.
    """
    views, rates = [View.of(region) for region in slots], View.of(rate, stride0=0)
    _UPDATES[type(optimizer)](emitter, optimizer, views, gradient, View.of(work), rates, (rows, 1))


def _sgd(e: Emitter, o: Sgd, slots: list[View], g: View, work: View, rate: View, count: tuple[int, int]):
    w = slots[0]
    if not o.momentum:
        e.muladd(w, g, rate, w, count=count, negate_b=1)
        return
    v = slots[1]
    e.muladd(work, g, rate, 0.0, count=count, negate_b=1)
    e.muladd(v, v, o.momentum, work, count=count)
    if not o.nesterov:
        e.muladd(w, v, 1.0, w, count=count)
        return
    e.muladd(w, work, 1.0, w, count=count)
    e.muladd(w, v, o.momentum, w, count=count)


def _adam(e: Emitter, o: Adam, slots: list[View], g: View, work: View, rate: View, count: tuple[int, int]):
    w, m, v = slots
    e.muladd(m, m, o.beta_1, g, count=count)
    e.muladd(work, g, g, 0.0, count=count)
    e.muladd(v, v, o.beta_2, work, count=count)
    e.vector(VectorOp.SQRT, work, v, count=count)
    e.muladd(work, work, math.sqrt(1.0 - o.beta_2), o.epsilon, count=count)
    e.vector(VectorOp.RECIP, work, work, count=count)
    e.muladd(work, work, m, 0.0, count=count)
    e.muladd(w, work, rate, w, count=count, negate_b=1)


_UPDATES: dict[type, Callable] = {Sgd: _sgd, Adam: _adam}
