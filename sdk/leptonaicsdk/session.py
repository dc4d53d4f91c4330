"""A network on a core: its parameters and optimizer state stay on the chip, samples stream through."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Precision, Rounding
from numpy.typing import NDArray

from .backend import Backend
from .launcher import Launcher
from .network import Activation, Loss, Network, Optimizer
from .program import precision_of
from .staging import Staging, checked_samples, checked_targets
from .state import Pair, State
from .training.compiler import Compiler
from .training.emitter import IMAGE, INPUT, RATE, RESULT, TARGET
from .training.homes import choose_homes
from .training.image import pack, unpack
from .training.layout import Home, Persistent
from .training.plan import Plan, make_plan
from .training.programs import SUM_ROWS, Looped
from .training.update import rates, slots_of

__all__ = ["INFERENCE_BATCH", "Metrics", "Session"]

INFERENCE_BATCH = 128
"""Samples of a batch in `Session.evaluate` and `Session.predict`; on a small core it is a training step's batch, or
without training what fits."""


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


class Session:
    """A network on a backend's core, ready to train and infer.

    Parameters
    ----------
    backend : Backend
    network : Network
    loss : Loss
        SPARSE_CATEGORICAL_CROSSENTROPY goes with a softmax layer at the end, and only with one.
    optimizer : Optimizer or None
        None for a session that only infers: there is more room on the chip then.
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
    stochastic_rounding : int or None
        With a seed of 0 or more, the tiles of dE/dz are rounded stochastically. The numbers follow from the seed and
        the number of the step that a launch begins with: a ``train`` is a launch, or some if the samples do not fit in
        memory at once or do not fill the last batch.

    Raises
    ------
    ValueError
        For a loss that does not go with the last layer, and for a network or batch that does not fit the core; the
        message names the layer, what it needs and what there is.
    """

    def __init__(
        self, backend: Backend, network: Network, *, loss: Loss, optimizer: Optimizer | None, batch: int,
        precision: int = 8, input_scale: float = 1.0, clip: tuple[float, float] | None = None, home: Home = Home.CHIP,
        stochastic_rounding: int | None = None,
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
        self.batch, self.precision, self.step = batch, precision, 0
        self.stochastic_rounding = stochastic_rounding
        self.config = config = backend.config
        self._slots = slots_of(optimizer) if optimizer else ()
        self._persistent, self.inference_batch = self._at_home(precision_of(precision), home)
        persistent = self._persistent
        rounding = Rounding.NEAREST if stochastic_rounding is None else Rounding.STOCHASTIC
        self._compiler = Compiler(persistent, loss, optimizer, scale=input_scale, clip=clip, rounding=rounding)
        self._launcher = Launcher(backend)
        self._image = self._launcher.end
        rows = persistent.rows * (1 + len(self._slots)) + persistent.constants.size
        self._staging = Staging(backend, self._image + -(-rows * config.row_bytes // 64) * 64)
        for start, size, name in persistent.image_places([slot.name for slot in self._slots]):
            self._launcher.places.add(self._image + start, size, name)
        self._uploads = self._compiler.upload(self._main_loop(training=optimizer is not None, bytes_in=True))
        zero: list[Pair] = [
            (np.zeros((layer.inputs, layer.units), np.float32), np.zeros(layer.units, np.float32))
            for layer in persistent.layers
        ]
        self.state = State(zero, [{slot.name: pair for slot in self._slots} for pair in zero], 0)

    def _at_home(self, precision: Precision, least: Home) -> tuple[Persistent, int]:
        """Where everything lives, and the samples of a batch of inference."""
        most = max(self.batch, INFERENCE_BATCH)
        training: int | None = self.batch
        if self.optimizer is None:
            training, sizes = None, [max(most >> halved, 1) for halved in range(most.bit_length())]
        else:
            sizes = [most if self.config.acc_rows >= 4096 else self.batch]
        refusal: ValueError | None = None
        for size in sizes:
            try:
                persistent = choose_homes(
                    self.config, self.network, precision, len(self._slots), loss=self.loss, batch=training,
                    inference_batch=size, least=least,
                )  # fmt: skip
                return persistent, size
            except ValueError as error:
                refusal = error
        assert refusal is not None
        raise refusal

    def _main_loop(self, *, training: bool, bytes_in: bool) -> Looped:
        """The step of `train`, or of `predict`."""
        if training:
            return self._compiler.train(self.batch, bytes_in)
        return self._compiler.infer(self.inference_batch, bytes_in, None)

    # ---- Parameters and state of the optimizer.

    @property
    def state(self) -> State:
        """Parameters, the optimizer's memory in Keras's units, and steps made."""
        images = self._download(range(1 + len(self._slots)))
        slots: list[dict[str, Pair]] = [{} for _ in self._persistent.layers]
        for slot, image in zip(self._slots, images[1:]):
            for layer, pair in zip(slots, unpack(self._persistent, image, slot.unit)):
                layer[slot.name] = pair
        return State(unpack(self._persistent, images[0]), slots, self.step)

    @state.setter
    def state(self, value: State):
        images = [pack(self._persistent, value.parameters, parameters=True)]
        for slot in self._slots:
            unit = np.float32(slot.unit)
            values = [
                (np.asarray(weights, np.float32) / unit, np.asarray(bias, np.float32) / unit)
                for weights, bias in (layer[slot.name] for layer in value.slots)
            ]
            images.append(pack(self._persistent, values, parameters=False))
        self._upload(images)
        self.step = int(value.step)

    @property
    def parameters(self) -> list[Pair]:
        """Weights (inputs, outputs) and bias (outputs,) of each layer."""
        return unpack(self._persistent, self._download([0])[0])

    @parameters.setter
    def parameters(self, values: list[Pair]):
        image = pack(self._persistent, values, parameters=True)
        self._upload([image, *self._download(range(1, 1 + len(self._slots)))])

    def raw_state(self) -> NDArray[np.uint32]:
        """Parameters and optimizer state as the words on the chip, (slots, rows, T): for comparisons bit for bit."""
        images = self._download(range(1 + len(self._slots)))
        return np.stack([image.view(np.uint32) for image in images])

    def load_raw_state(self, words: NDArray[np.uint32], step: int):
        """What `raw_state` gave, and the number of steps that had been made then."""
        self._upload(list(np.asarray(words, np.uint32).view(np.float32)))
        self.step = step

    def _upload(self, images: list[NDArray[np.float32]]):
        """All slots, from memory to the chip, and the weights' tiles."""
        data = np.concatenate([*images, *self._persistent.constant_values().values()])
        self._staging.view(self._image, data.nbytes)[:] = data.view(np.uint8).reshape(-1)
        self._launcher.run({IMAGE: self._image}, self._uploads)

    def _download(self, slots: Iterable[int]) -> list[NDArray[np.float32]]:
        """Slots, from the chip to memory, where some of them live anyway."""
        slots = tuple(slots)
        if not slots:
            return []
        self._launcher.run({IMAGE: self._image}, [self._compiler.download(slots)])
        size = self._persistent.rows * self.config.row_bytes
        return [
            self._staging.view(self._image + slot * size, size).copy().view(np.float32).reshape(-1, self.config.side)
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
        self._check_training(training)
        batch, what = (self.batch, "training step") if training else (self.inference_batch, "inference")
        title = f"{what} of {'-'.join(map(str, self.network.sizes))}, batch {batch}, precision {self.precision}, "
        title += f"samples {'uint8' if bytes_in else 'binary32'}"
        looped = self._main_loop(training=training, bytes_in=bytes_in)
        return make_plan(title, looped, self.homes, self.backend.timing)

    # ---- Work.

    def _check_training(self, training: bool):
        if training and self.optimizer is None:
            raise ValueError("optimizer must be given to a session that is to train, not None")

    def train(self, x: NDArray, y: NDArray, *, learning_rate: float | None = None) -> Metrics:
        """One optimizer step for every ``batch`` samples, in their order; the last one may have fewer.

        Parameters
        ----------
        x : (n, inputs) array of uint8 or float32
        y : (n,) labels, or (n, outputs) targets
        learning_rate : float or None
            Instead of the optimizer's.
        """
        self._check_training(True)
        assert self.optimizer is not None
        rate = self.optimizer.learning_rate if learning_rate is None else learning_rate
        if not 0 <= rate < np.inf:
            raise ValueError(f"learning_rate must be from 0 to below infinity, not {rate}")
        return self._work(x, y, self.batch, rate)

    def evaluate(self, x: NDArray, y: NDArray) -> Metrics:
        """Losses of samples, without an update."""
        return self._work(x, y, self.inference_batch, None)

    def predict(self, x: NDArray, *, batch: int | None = None) -> NDArray[np.float32]:
        """Outputs of the network, (n, outputs); ``batch`` samples at a time share tiles, or `inference_batch`."""
        batch = self.inference_batch if batch is None else batch
        if batch < 1:
            raise ValueError(f"batch must be at least 1, not {batch}")
        x, staging = checked_samples(self.network, x), self._staging
        bytes_in, parts = x.dtype == np.uint8, []
        strides = self._compiler.strides(bytes_in, outputs=True)
        for first, batches, each in staging.pieces(len(x), batch, strides):
            part = x[first : first + batches * each]
            end = staging.put(staging.start, part, strides.sample, each)
            self._name(samples=(staging.start, end), outputs=(end, end + len(part) * strides.result))
            registers = {INPUT: staging.start, RESULT: end, IMAGE: self._image}
            if batches == 1:
                self._launcher.run_once(registers, self._compiler.infer_once(each, bytes_in))
            else:
                self._launcher.run({}, looped=[(self._compiler.infer(each, bytes_in, None), batches, registers)])
            size = len(part) * strides.result
            rows = staging.view(end, size).copy().view(np.float32).reshape(len(part), -1)
            parts.append(rows[:, : self.network.sizes[-1]].copy())
        return np.concatenate(parts)

    def _work(self, x: NDArray, y: NDArray, batch: int, rate: float | None) -> Metrics:
        """Losses of samples; with a learning rate, the steps as well."""
        x, staging = checked_samples(self.network, x), self._staging
        y = checked_targets(self.network, self.loss, y, len(x))
        bytes_in = x.dtype == np.uint8
        strides, total = self._compiler.strides(bytes_in), _NONE
        for first, batches, size in staging.pieces(len(x), batch, strides):
            count = batches * size
            part = slice(first, first + count)
            targets = staging.put(staging.start, x[part], strides.sample, size)
            results = rate_rows = staging.put(targets, y[part], strides.target)
            registers = {INPUT: staging.start, TARGET: targets}
            if rate is None:
                looped = self._compiler.infer(size, bytes_in, self.loss)
            else:
                assert self.optimizer is not None
                factors = rates(self.optimizer, rate, self.step + 1, batches)
                table = np.repeat(factors[:, None], self.config.side, axis=1)
                results = staging.put(rate_rows, table, strides.rate)
                looped = self._compiler.train(size, bytes_in)
                registers[RATE] = rate_rows
            registers[RESULT] = results
            # Results that no sample fills: probability 1, another class; or loss 0.
            block = SUM_ROWS * self.config.row_bytes
            blocks = -(-count * strides.result // block)
            unused = np.array([1.0, 0.0] if self.loss.labelled else [0.0, 0.0], np.float32)
            staging.view(results, blocks * block).view(np.float32).reshape(-1, 2)[:] = unused
            sums = results + blocks * block
            self._name(
                samples=(staging.start, targets), targets=(targets, rate_rows), losses=(results, sums + block),
                **({} if rate is None else {"learning rates": (rate_rows, results)}),
            )  # fmt: skip
            summing = (self._compiler.sum_losses(), blocks, {RESULT: results, TARGET: sums})
            seed = None if rate is None else self._generator_seed()
            self._launcher.run({IMAGE: self._image}, looped=[(looped, batches, registers), summing], seed=seed)
            if rate is not None:
                self.step += batches
            loss, correct = staging.view(sums, 8).view(np.float32)
            total += Metrics(count, float(loss), int(correct))
        return total

    def _name(self, **parts: tuple[int, int]):
        """Where the parts of a call are: first byte, and the one behind the last."""
        for name, (start, end) in parts.items():
            self._launcher.places.add(start, end - start, name)

    def _generator_seed(self) -> int | None:
        """State of the generator for steps from ``step`` on, never 0; None without stochastic rounding."""
        if self.stochastic_rounding is None:
            return None
        return int(np.random.SeedSequence([self.stochastic_rounding, self.step]).generate_state(1)[0]) or 1

    @property
    def counters(self) -> dict[str, int]:
        """The core's counters, since the backend was opened."""
        return self.backend.counters()

    def close(self):
        """The session must not be used afterwards; its backend stays open."""
        del self._compiler, self._launcher
