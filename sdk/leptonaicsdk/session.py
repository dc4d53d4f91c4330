"""A network on a core: its parameters and optimizer state stay on the chip, samples stream through."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import RECORD_BYTES
from numpy.typing import NDArray

from .backend import RING_LOG2, Backend
from .mlp import precision_of
from .network import Activation, Loss, Network, Optimizer
from .program import Program
from .training.emitter import IMAGE, INPUT, RATE, RESULT, TARGET
from .training.layout import Home, Persistent
from .training.plan import Plan, make_plan
from .training.programs import (
    SUM_ROWS,
    Looped,
    Strides,
    first_tiles,
    inference_buffers,
    inference_once,
    inference_step,
    loss_sum,
    training_buffers,
    training_step,
    transfer,
)
from .training.update import rates, slots_of

__all__ = ["INFERENCE_BATCH", "Metrics", "Session"]

T = TypeVar("T")
_CODE_BYTES = 1 << 20
_LINE = 64
INFERENCE_BATCH = 128
"""Samples of a batch in `Session.evaluate` and `Session.predict`; on a small core it is a training step's batch."""


@dataclass(frozen=True)
class Metrics:
    """Sums over ``count`` samples: of their losses, and of how many are classified as their label.

    The class of a sample is the first one with the greatest probability.
    """

    count: int
    loss_sum: float
    correct: int

    @property
    def loss(self) -> float:
        """Mean loss of a sample."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        """Share of samples classified as their label."""
        return self.correct / self.count

    def __add__(self, other: "Metrics") -> "Metrics":
        return Metrics(self.count + other.count, self.loss_sum + other.loss_sum, self.correct + other.correct)


_NONE = Metrics(0, 0.0, 0)


def _align(size: int) -> int:
    return -(-size // _LINE) * _LINE


class Session:
    """A network on a backend's core, ready to train and infer.

    Parameters
    ----------
    backend : Backend
    network : Network
    loss : Loss
        SPARSE_CATEGORICAL_CROSSENTROPY goes with a softmax layer at the end, and only with one.
    optimizer : Optimizer
    batch : int
        Samples of a training step.
    precision : int
        Mantissa of weights, activations and deltas on the array: 8, 16 or 32.
    input_scale : float
        Factor of every input on the core (1 / 255 for images of uint8, say).
    clip : tuple of two floats, or None
        Range that inputs are clipped to, before the factor.
    home : Home
        Where weights may live at best; a network that does not fit there gets the next one, its largest layers first.

    Raises
    ------
    ValueError
        For a loss that does not go with the last layer, and for a network or batch that does not fit the core; the
        message names the layer, what it needs and what there is.
    """

    def __init__(
        self, backend: Backend, network: Network, *, loss: Loss, optimizer: Optimizer, batch: int, precision: int = 8,
        input_scale: float = 1.0, clip: tuple[float, float] | None = None, home: Home = Home.CHIP,
    ):  # fmt: skip
        softmax = network.layers[-1].activation == Activation.SOFTMAX
        loss = Loss(loss)
        if softmax != loss.labelled:
            raise ValueError(
                f"loss must be {Loss.SPARSE_CATEGORICAL_CROSSENTROPY} exactly when the last layer is softmax, not "
                f"{loss} with {network.layers[-1].activation}"
            )
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"batch must be an integer of 1 or more, not {batch!r}")
        self.backend, self.network, self.loss, self.optimizer = backend, network, loss, optimizer
        self.batch, self.input_scale, self.clip, self.step = batch, input_scale, clip, 0
        self.precision = precision
        self.config = backend.config
        self.inference_batch = max(batch, INFERENCE_BATCH) if self.config.acc_rows >= 4096 else batch
        self._slots = slots_of(optimizer)
        self._persistent = self._choose(precision_of(precision), home)
        self._programs: dict[tuple, Any] = {}
        self._placed: dict[bytes, int] = {}
        self._addresses: WeakKeyDictionary[Program, int] = WeakKeyDictionary()  # packing records takes time
        self._code = _align(RECORD_BYTES << RING_LOG2)
        self._code_end = self._code + _CODE_BYTES
        persistent = self._persistent
        self._image_bytes = _align(
            (persistent.rows * (1 + len(self._slots)) + persistent.constants.size) * self.config.row_bytes
        )
        self._data = self._code_end + self._image_bytes
        if self._data + (1 << 16) > backend.memory.size:
            raise ValueError(f"memory must be above {self._data + (1 << 16)} bytes, not {backend.memory.size}")
        zero = [np.zeros((persistent.rows, self.config.side), np.float32) for _ in self._slots]
        zeros = [(np.zeros((layer.inputs, layer.units)), np.zeros(layer.units)) for layer in persistent.layers]
        self._upload([self._image(zeros, parameters=True), *zero])

    def _choose(self, precision: Precision, least: Home) -> Persistent:
        """As much on the chip as fits beside the buffers: first the largest layers' state leaves, then their tiles."""
        network, layers = self.network, len(self.network.layers)
        largest = sorted(range(layers), key=lambda l: -network.sizes[l] * network.sizes[l + 1])
        refusal: ValueError | None = None
        for home, rest in ((Home.TILES, Home.CHIP), (Home.MEMORY, Home.TILES)):
            for streamed in range(layers + 1):
                homes = tuple(
                    max(home if l in largest[:streamed] else rest, least, key=lambda kind: kind.value)
                    for l in range(layers)
                )
                try:
                    persistent = Persistent(self.config, network, precision, len(self._slots), homes)
                    for bytes_in in (True, False):
                        training_buffers(persistent, self.batch, self.loss, bytes_in=bytes_in)
                        inference_buffers(persistent, self.inference_batch, self.loss, bytes_in=bytes_in)
                except ValueError as error:
                    refusal = error
                    continue
                return persistent
        raise ValueError(f"the network cannot run on this core, even with all weights streamed: {refusal}")

    # ---- Parameters and state of the optimizer.

    @property
    def parameters(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weights (inputs, outputs) and bias (outputs,) of each layer."""
        return self._split(self._download([0])[0])

    @parameters.setter
    def parameters(self, values: list[tuple[NDArray, NDArray]]):
        images = self._download(range(1, 1 + len(self._slots)))
        self._upload([self._image(values, parameters=True), *images])

    @property
    def optimizer_state(self) -> dict:
        """``step``, and ``slots``: for each layer a dict of the optimizer's slots, (weights-like, bias-like) each."""
        images = self._download(range(1, 1 + len(self._slots)))
        slots: list[dict] = [{} for _ in self._persistent.layers]
        for slot, image in zip(self._slots, images):
            for layer, (weights, bias) in zip(slots, self._split(image)):
                layer[slot.name] = (weights * np.float32(slot.unit), bias * np.float32(slot.unit))
        return {"step": self.step, "slots": slots}

    @optimizer_state.setter
    def optimizer_state(self, state: dict):
        images = self._download([0])
        for slot in self._slots:
            unit = np.float32(slot.unit)
            values = [
                (np.asarray(weights, np.float32) / unit, np.asarray(bias, np.float32) / unit)
                for weights, bias in (layer[slot.name] for layer in state["slots"])
            ]
            images.append(self._image(values, parameters=False))
        self._upload(images)
        self.step = int(state["step"])

    def raw_state(self) -> NDArray[np.uint32]:
        """Parameters and optimizer state as the words on the chip, (slots, rows, T): for comparisons bit for bit."""
        images = self._download(range(1 + len(self._slots)))
        return np.stack([image.view(np.uint32) for image in images])

    def load_raw_state(self, words: NDArray[np.uint32], step: int):
        """What `raw_state` gave, and the number of steps that had been made then."""
        self._upload(list(np.asarray(words, np.uint32).view(np.float32)))
        self.step = step

    def _image(self, values: list[tuple[NDArray, NDArray]], *, parameters: bool) -> NDArray[np.float32]:
        """Local rows of a slot. Unused lanes of a softmax layer's bias are -inf, so that exp gives them 0."""
        side, persistent = self.config.side, self._persistent
        if len(values) != len(persistent.layers):
            raise ValueError(f"parameters must be of {len(persistent.layers)} layers, not {len(values)}")
        parts = []
        for layer, dense, (weights, bias) in zip(persistent.layers, self.network.layers, values):
            weights, bias = np.asarray(weights, np.float32), np.asarray(bias, np.float32)
            if weights.shape != (layer.inputs, layer.units) or bias.shape != (layer.units,):
                raise ValueError(
                    f"layer {layer.index}: weights and bias must have shapes {(layer.inputs, layer.units)} and "
                    f"({layer.units},), not {weights.shape} and {bias.shape}"
                )
            wide = layer.n_tiles * side
            rows = np.zeros((layer.inputs + 1, wide), np.float32)
            rows[:-1, : layer.units], rows[-1, : layer.units] = weights, bias
            if parameters and dense.activation == Activation.SOFTMAX:
                rows[-1, layer.units :] = -np.inf
            parts.append(rows.reshape(-1, side))
        return np.concatenate(parts)

    def _split(self, image: NDArray[np.float32]) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The inverse of `_image`."""
        result, side = [], self.config.side
        for layer, first in zip(self._persistent.layers, self._persistent.first_row):
            rows = image[first : first + layer.rows].reshape(layer.inputs + 1, layer.n_tiles * side)
            result.append((rows[:-1, : layer.units].copy(), rows[-1, : layer.units].copy()))
        return result

    def _view(self, start: int, size: int) -> NDArray[np.uint8]:
        return self.backend.memory[start : start + size]

    def _upload(self, images: list[NDArray[np.float32]]):
        """All slots, from memory to the chip, and the weights' tiles."""
        data = np.concatenate([*images, *self._persistent.constant_values().values()])
        self._view(self._code_end, data.nbytes)[:] = data.view(np.uint8).reshape(-1)
        self._launch({IMAGE: self._code_end}, self._compiled(("upload",), self._upload_programs))

    def _upload_programs(self) -> list[Program]:
        buffers = self._train_program(self.batch, True).buffers
        assert buffers is not None
        return [transfer(self._persistent, range(1 + len(self._slots)), store=False), first_tiles(buffers)]

    def _download(self, slots: Iterable[int]) -> list[NDArray[np.float32]]:
        """Slots, from the chip to memory, where some of them live anyway."""
        persistent, slots = self._persistent, tuple(slots)
        if not slots:
            return []
        program = self._compiled(("download", slots), lambda: transfer(persistent, slots, store=True))
        self._launch({IMAGE: self._code_end}, [program])
        size = persistent.rows * self.config.row_bytes
        return [
            self._view(self._code_end + slot * size, size).copy().view(np.float32).reshape(-1, self.config.side)
            for slot in slots
        ]

    @property
    def homes(self) -> tuple[Home, ...]:
        """Where each layer's weights and optimizer state live."""
        return self._persistent.homes

    def plan(self, *, training: bool = True, bytes_in: bool = True) -> Plan:
        """What the compiler made of a training step, or of a batch of `predict`: buffers, and cycles by engine.

        Parameters
        ----------
        training : bool
        bytes_in : bool
            Whether the samples are uint8, or binary32.
        """
        if training:
            looped, batch, what = self._train_program(self.batch, bytes_in), self.batch, "training step"
        else:
            batch, what = self.inference_batch, "inference"
            looped = self._infer_program(batch, bytes_in, None)
        sizes = "-".join(map(str, self.network.sizes))
        title = f"{what} of {sizes}, batch {batch}, precision {self.precision}, samples "
        title += "uint8" if bytes_in else "binary32"
        return make_plan(title, looped, self.homes, self.backend.timing)

    # ---- Programs.

    def _place(self, program: Program) -> int:
        """Byte address of a program's records in the memory's part for code."""
        if (address := self._addresses.get(program)) is not None:
            return address
        records = program.records()
        if records not in self._placed:
            end = self._code + len(records)
            if end > self._code_end:
                raise RuntimeError(f"programs take more than the {_CODE_BYTES} bytes of code")
            self._view(self._code, len(records))[:] = np.frombuffer(records, np.uint8)
            self._placed[records] = self.backend.base + self._code
            self._code = end
        self._addresses[program] = self._placed[records]
        return self._placed[records]

    def _launch(
        self, registers: dict[int, int], once: Iterable[Program] = (),
        looped: Iterable[tuple[Looped, int, dict[int, int]]] = (),
    ):  # fmt: skip
        """Run programs, and loops with their counts and address registers (offsets in memory), one after another."""
        ring = Program(self.config)

        def set_registers(values: dict[int, int]):
            for register, offset in values.items():
                ring.address(register=register, value=self.backend.base + offset)

        def run(program: Program, count: int = 1):
            if len(program):
                ring.repeat(program, address=self._place(program), count=count)

        set_registers(registers)
        for program in once:
            run(program)
            ring.fence()
        for loop, count, values in looped:
            set_registers(values)
            run(loop.before)
            ring.fence()
            credits = list(loop.body.credits)
            for level in range(max(credits)):
                ring.nop(post=[s for s, credit in enumerate(credits) if credit > level])
            run(loop.body.program, count)
            ring.fence()
            for level in range(max(credits)):
                ring.nop(wait=[s for s, credit in enumerate(credits) if credit > level])
            run(loop.after)
        ring.irq(1)
        self.backend.run(ring.records())

    def _strides(self, bytes_in: bool, outputs: bool = False) -> Strides:
        bus, last = self.config.bus_bytes, self.network.sizes[-1]

        def whole(size: int) -> int:
            return -(-size // bus) * bus

        return Strides(
            sample=whole(self.network.inputs * (1 if bytes_in else 4)),
            target=bus if self.loss.labelled else whole(4 * last),
            result=whole(4 * last) if outputs else max(8, bus),
            rate=self.config.row_bytes,
        )

    def _compiled(self, key: tuple, make: Callable[[], T]) -> T:
        """What ``make`` gives, which is called once for a key."""
        if key not in self._programs:
            self._programs[key] = make()
        return self._programs[key]

    def _input_options(self, bytes_in: bool) -> dict[str, Any]:
        return {"bytes_in": bytes_in, "scale": self.input_scale, "clip": self.clip}

    def _train_program(self, batch: int, bytes_in: bool) -> Looped:
        def make() -> Looped:
            strides, options = self._strides(bytes_in), self._input_options(bytes_in)
            return training_step(self._persistent, batch, self.loss, self.optimizer, strides, **options)

        return self._compiled(("train", batch, bytes_in), make)

    def _infer_program(self, batch: int, bytes_in: bool, loss: Loss | None) -> Looped:
        def make() -> Looped:
            strides, options = self._strides(bytes_in, outputs=loss is None), self._input_options(bytes_in)
            return inference_step(self._persistent, batch, strides, loss=loss, **options)

        return self._compiled(("infer", batch, bytes_in, loss), make)

    def _once_program(self, batch: int, bytes_in: bool) -> Program:
        def make() -> Program:
            strides, options = self._strides(bytes_in, outputs=True), self._input_options(bytes_in)
            return inference_once(self._persistent, batch, strides, **options)

        return self._compiled(("once", batch, bytes_in), make)

    def _loss_sum(self) -> Looped:
        return self._compiled(("sum",), lambda: loss_sum(self._persistent, self.loss))

    # ---- Work.

    def train(self, x: NDArray, y: NDArray, *, learning_rate: float | None = None) -> Metrics:
        """One optimizer step for every ``batch`` samples, in their order; the last one may have fewer.

        Parameters
        ----------
        x : (n, inputs) array of uint8 or float32
        y : (n,) labels, or (n, outputs) targets
        learning_rate : float or None
            Instead of the optimizer's.
        """
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        if not 0 <= rate < np.inf:
            raise ValueError(f"learning_rate must be from 0 to below infinity, not {rate}")
        return self._work(x, y, self.batch, rate)

    def evaluate(self, x: NDArray, y: NDArray) -> Metrics:
        """Losses of samples, without an update."""
        return self._work(x, y, self.inference_batch, None)

    def predict(self, x: NDArray) -> NDArray[np.float32]:
        """Outputs of the network, (n, outputs)."""
        x = self._samples(x)
        bytes_in, parts = x.dtype == np.uint8, []
        strides = self._strides(bytes_in, outputs=True)
        units = self._persistent.layers[-1].units
        for first, batches, batch in self._pieces(len(x), self.inference_batch, strides):
            part = x[first : first + batches * batch]
            end = self._put_samples(self._data, part, strides.sample, batch)
            registers = {IMAGE: self._code_end, INPUT: self._data, RESULT: end}
            if batches == 1:
                self._launch(registers, [self._once_program(batch, bytes_in)])
            else:
                self._launch({}, looped=[(self._infer_program(batch, bytes_in, None), batches, registers)])
            size = len(part) * strides.result
            rows = self._view(end, size).copy().view(np.float32).reshape(len(part), -1)
            parts.append(rows[:, :units].copy())
        return np.concatenate(parts)

    def _samples(self, x: NDArray) -> NDArray:
        x = np.asarray(x)
        if x.dtype not in (np.uint8, np.float32) or x.ndim != 2 or x.shape[1] != self.network.inputs or not len(x):
            raise ValueError(
                f"x must be (n, {self.network.inputs}) of uint8 or float32, n of 1 or more, not {x.shape} of {x.dtype}"
            )
        return x

    def _targets(self, y: NDArray, count: int) -> NDArray:
        y, units = np.asarray(y), self._persistent.layers[-1].units
        if self.loss.labelled:
            if y.shape != (count,) or y.dtype.kind not in "iu":
                raise ValueError(f"y must be {count} integer labels, not {y.shape} of {y.dtype}")
            bad = (y < 0) | (y >= units)
            if bad.any():
                i = int(np.argmax(bad))
                raise ValueError(f"y must be labels from 0 to {units - 1}, not {y[i]} at index {i}")
            return y.astype("<i4").reshape(-1, 1)
        if y.shape != (count, units):
            raise ValueError(f"y must be of shape ({count}, {units}), not {y.shape}")
        return y.astype("<f4")

    def _pieces(self, count: int, batch: int, strides: Strides):
        """First sample, batches, and batch size of what fits in memory at a time; the last batch may be smaller."""
        each = batch * (strides.sample + strides.target + strides.result) + strides.rate
        room = self.backend.memory.size - self._data - 4 * _LINE - 2 * SUM_ROWS * self.config.row_bytes
        most = (room - 2 * batch * strides.sample) // each
        if most < 1:
            raise ValueError(f"memory must hold a batch of {batch} samples ({each} bytes), and has {room} for it")
        first = 0
        while count - first >= batch:
            batches = min(most, (count - first) // batch)
            yield first, batches, batch
            first += batches * batch
        if first < count:
            yield first, 1, count - first

    def _put_samples(self, start: int, x: NDArray, stride: int, batch: int) -> int:
        """Samples, and room for a batch that is loaded ahead and never used; the offset behind."""
        size = len(x) * stride
        rows = self._view(start, size).reshape(len(x), stride)
        used = x.shape[1] * x.itemsize
        rows[:, :used] = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), used)
        rows[:, used:] = 0
        return start + _align(size + batch * stride)

    def _work(self, x: NDArray, y: NDArray, batch: int, rate: float | None) -> Metrics:
        x = self._samples(x)
        y = self._targets(y, len(x))
        bytes_in, strides = x.dtype == np.uint8, self._strides(x.dtype == np.uint8)
        total = _NONE
        for first, batches, size in self._pieces(len(x), batch, strides):
            count = batches * size
            part = slice(first, first + count)
            targets = self._put_samples(self._data, x[part], strides.sample, size)
            rate_rows = self._put_samples(targets, y[part], strides.target, 0)
            results = rate_rows
            registers = {INPUT: self._data, TARGET: targets}
            if rate is None:
                looped = self._infer_program(size, bytes_in, self.loss)
            else:
                factors = rates(self.optimizer, rate, self.step + 1, batches)
                table = np.repeat(factors[:, None], self.config.side, axis=1)
                results = self._put_samples(rate_rows, table, strides.rate, 0)
                looped = self._train_program(size, bytes_in)
                registers[RATE] = rate_rows
            registers[RESULT] = results
            # Results that no sample fills: probability 1, another class; or loss 0.
            block = SUM_ROWS * self.config.row_bytes
            blocks = -(-count * strides.result // block)
            unused = np.array([1.0, 0.0] if self.loss.labelled else [0.0, 0.0], np.float32)
            self._view(results, blocks * block).view(np.float32).reshape(-1, 2)[:] = unused
            sums = results + blocks * block
            self._launch(
                {IMAGE: self._code_end},
                looped=[
                    (looped, batches, registers),
                    (self._loss_sum(), blocks, {RESULT: results, TARGET: sums}),
                ],
            )
            if rate is not None:
                self.step += batches
            loss, correct = self._view(sums, 8).view(np.float32)
            total += Metrics(count, float(loss), int(correct))
        return total

    @property
    def counters(self) -> dict[str, int]:
        """The core's counters, since the backend was opened."""
        return self.backend.counters()

    def close(self):
        """The session must not be used afterwards; its backend stays open."""
        self._programs.clear()
