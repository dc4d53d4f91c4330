"""A session and a backend in NumPy, with the interface of the device's: what the SDK builds on, in its tests."""

import dataclasses
import signal
from typing import ClassVar

import numpy as np
from leptonaicsdk.driver import COUNTERS, CoreFaultError
from leptonaicsdk.network import Activation, Adam, Loss
from leptonaicsdk.session import Metrics
from leptonaicsdk.state import State, slot_names


class StandInBackend:
    """Counts what is open."""

    alive: ClassVar[int] = 0

    def __init__(self, kind, config, *, memory_bytes, timing=None, page_bytes=None):
        self.kind, self.config, self.memory_bytes, self.closed = kind, config, memory_bytes, False
        self.rows, self.timing = 0, timing
        StandInBackend.alive += 1

    def counters(self):
        return dict.fromkeys(COUNTERS, self.rows)

    def close(self):
        assert not self.closed, "a backend is closed once"
        self.closed = True
        StandInBackend.alive -= 1


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


FUNCTIONS = {
    Activation.LINEAR: (lambda z: z, lambda a: np.ones_like(a)),
    Activation.RELU: (lambda z: np.maximum(z, 0), lambda a: (a > 0) * 1.0),
    Activation.SIGMOID: (sigmoid, lambda a: a * (1 - a)),
    Activation.TANH: (np.tanh, lambda a: 1 - a * a),
    Activation.SOFTMAX: (softmax, None),
}


class StandInSession:
    """Trains in float64, and rounds to float32 what it keeps after each step, so that it can be handed on exactly.

    ``fault_at``, ``interrupts_at``: the step of the whole program at which a fault is raised, or at which so many
    interrupts arrive.
    """

    made: ClassVar[int] = 0
    pushed: ClassVar[int] = 0
    steps: ClassVar[int] = 0
    fault_at: ClassVar[dict] = {}
    interrupts_at: ClassVar[dict] = {}

    def __init__(
        self, backend, network, *, loss, optimizer, batch, precision=8, input_scale=1.0, stochastic_rounding=None
    ):
        assert not backend.closed
        if any(size > 4096 for size in network.sizes):
            raise ValueError(f"layer {int(np.argmax(network.sizes)) - 1}: more than 4096 values")
        self.backend, self.network, self.loss, self.optimizer = backend, network, loss, optimizer
        self.batch, self.precision, self.scale = batch, precision, input_scale
        self.stochastic_rounding = stochastic_rounding
        self._parameters = [(np.zeros((i, o)), np.zeros(o)) for i, o in zip(network.sizes, network.sizes[1:])]
        names = slot_names(optimizer) if optimizer else ()
        self._slots = [{n: tuple(np.zeros_like(p) for p in pair) for n in names} for pair in self._parameters]
        self.step, self.closed = 0, False
        StandInSession.made += 1

    @property
    def state(self):
        slots = [{n: tuple(p.astype(np.float32) for p in pair) for n, pair in s.items()} for s in self._slots]
        return State(self.parameters, slots, self.step)

    @state.setter
    def state(self, value):
        StandInSession.pushed += 1
        self.parameters = value.parameters
        self._slots = [{n: tuple(p.astype(np.float64) for p in pair) for n, pair in s.items()} for s in value.slots]
        self.step = value.step

    @property
    def parameters(self):
        return [tuple(p.astype(np.float32) for p in pair) for pair in self._parameters]

    @parameters.setter
    def parameters(self, value):
        self._parameters = [tuple(p.astype(np.float64) for p in pair) for pair in value]

    def close(self):
        assert not self.closed, "a session is closed once"
        self.closed = True

    def _forward(self, x):
        assert not self.closed
        assert not self.backend.closed
        assert x.ndim == 2
        assert x.dtype in (np.uint8, np.float32)
        assert np.isfinite(x).all()
        self.backend.rows += len(x)
        outputs = [x.astype(np.float64) * self.scale]
        for layer, (w, b) in zip(self.network.layers, self._parameters):
            outputs.append(FUNCTIONS[layer.activation][0](outputs[-1] @ w + b))
        return outputs

    def _measure(self, a, y):
        if self.loss == Loss.SPARSE_CATEGORICAL_CROSSENTROPY:
            assert y.dtype == np.int32
            losses = -np.log(np.maximum(a[np.arange(len(y)), y], 1e-7))
            return Metrics(len(y), float(losses.sum()), int((a.argmax(axis=1) == y).sum()))
        losses = np.square(a - y)
        losses = losses.mean(axis=1) if self.loss == Loss.MEAN_SQUARED_ERROR else losses.sum(axis=1)
        return Metrics(len(y), float(losses.sum()), int((a.argmax(axis=1) == y.argmax(axis=1)).sum()))

    def evaluate(self, x, y):
        return self._measure(self._forward(x)[-1], y)

    def predict(self, x):
        return self._forward(x)[-1].astype(np.float32)

    def train(self, x, y, *, learning_rate=None):
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        total = Metrics(0, 0.0, 0)
        for start in range(0, len(x), self.batch):
            for _ in range(self.interrupts_at.get(StandInSession.steps, 0)):
                signal.raise_signal(signal.SIGINT)
            if StandInSession.steps in self.fault_at:
                raise CoreFaultError(self.fault_at.pop(StandInSession.steps))
            part = self._step(x[start : start + self.batch], y[start : start + self.batch], rate)
            total = Metrics(*(a + b for a, b in zip(dataclasses.astuple(total), dataclasses.astuple(part))))
            StandInSession.steps += 1
        return total

    def _step(self, x, y, rate):
        outputs = self._forward(x)
        a = outputs[-1]
        last = self.network.layers[-1].activation
        if self.loss == Loss.SPARSE_CATEGORICAL_CROSSENTROPY:
            delta = (a - np.eye(a.shape[1])[y]) / len(x)
        else:
            mean = a.shape[1] if self.loss == Loss.MEAN_SQUARED_ERROR else 1
            delta = 2 * (a - y) / len(x) / mean * FUNCTIONS[last][1](a)
        self.step += 1
        gradients = []
        for l in reversed(range(len(self.network.layers))):
            gradients.insert(0, (outputs[l].T @ delta, delta.sum(axis=0)))
            if l:
                derivative = FUNCTIONS[self.network.layers[l - 1].activation][1]
                delta = delta @ self._parameters[l][0].T * derivative(outputs[l])
        for l, layer in enumerate(self.network.layers):
            pairs = zip(self._parameters[l], gradients[l], range(2))
            self._parameters[l] = tuple(
                p if k and not layer.use_bias else self._update(l, k, p, g, rate) for p, g, k in pairs
            )
        self.state = self.state
        StandInSession.pushed -= 1
        return self._measure(a, y)

    def _slot(self, layer, name, part, value):
        pair = list(self._slots[layer][name])
        pair[part] = value
        self._slots[layer][name] = tuple(pair)
        return value

    def _update(self, layer, part, p, g, rate):
        o, slots = self.optimizer, self._slots[layer]
        if isinstance(o, Adam):
            m = self._slot(layer, "m", part, slots["m"][part] + (1 - o.beta_1) * (g - slots["m"][part]))
            v = self._slot(layer, "v", part, slots["v"][part] + (1 - o.beta_2) * (g * g - slots["v"][part]))
            alpha = rate * np.sqrt(1 - o.beta_2**self.step) / (1 - o.beta_1**self.step)
            return p - alpha * m / (np.sqrt(v) + o.epsilon)
        if not o.momentum:
            return p - rate * g
        v = self._slot(layer, "velocity", part, o.momentum * slots["velocity"][part] - rate * g)
        return p + o.momentum * v - rate * g if o.nesterov else p + v
