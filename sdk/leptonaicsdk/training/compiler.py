"""The programs of a session, each compiled when it is first asked for."""

from collections.abc import Callable
from typing import Any, TypeVar

from lepton_npu.spec.commands import Rounding

from leptonaicsdk.network import Loss, Optimizer
from leptonaicsdk.program import Program

from .layout import Persistent
from .programs import (
    Looped,
    Strides,
    first_tiles,
    inference_once,
    inference_step,
    loss_sum,
    training_step,
    transfer,
)

__all__ = ["Compiler"]

T = TypeVar("T")


class Compiler:
    """Makes and keeps the programs for a network whose parameters are at home as ``persistent`` says.

    Parameters
    ----------
    persistent : Persistent
    loss : Loss
    optimizer : Optimizer or None
        None if there is no training.
    scale : float
        Factor of the samples.
    clip : tuple of two floats, or None
        Their range, before the factor.
    rounding : Rounding
        Of the deltas' tiles in training.
    """

    def __init__(
        self, persistent: Persistent, loss: Loss, optimizer: Optimizer | None, *, scale: float,
        clip: tuple[float, float] | None, rounding: Rounding = Rounding.NEAREST,
    ):  # fmt: skip
        self.persistent, self.loss, self.optimizer = persistent, loss, optimizer
        self._input: dict[str, Any] = {"scale": scale, "clip": clip}
        self._rounding = rounding
        self._made: dict[tuple, Any] = {}

    def _once(self, key: tuple, make: Callable[[], T]) -> T:
        """What ``make`` gives, which is called once for a key."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def strides(self, bytes_in: bool, *, outputs: bool = False) -> Strides:
        """Of samples of bytes or binary32, and of results that are the network's outputs, or pairs of words."""
        config, sizes = self.persistent.config, self.persistent.network.sizes
        bus, last = config.bus_bytes, sizes[-1]

        def whole(size: int) -> int:
            return -(-size // bus) * bus

        return Strides(
            sample=whole(sizes[0] * (1 if bytes_in else 4)),
            target=bus if self.loss.labelled else whole(4 * last),
            result=whole(4 * last) if outputs else max(8, bus),
            rate=config.row_bytes,
        )

    def train(self, batch: int, bytes_in: bool) -> Looped:
        """A training step."""

        def make() -> Looped:
            strides = self.strides(bytes_in)
            assert self.optimizer is not None
            return training_step(
                self.persistent, batch, self.loss, self.optimizer, strides, bytes_in=bytes_in, rounding=self._rounding,
                **self._input,
            )  # fmt: skip

        return self._once(("train", batch, bytes_in), make)

    def infer(self, batch: int, bytes_in: bool, loss: Loss | None) -> Looped:
        """The forward pass of a batch, to losses, or to outputs."""

        def make() -> Looped:
            strides = self.strides(bytes_in, outputs=loss is None)
            return inference_step(self.persistent, batch, strides, loss=loss, bytes_in=bytes_in, **self._input)

        return self._once(("infer", batch, bytes_in, loss), make)

    def infer_once(self, batch: int, bytes_in: bool) -> Program:
        """The forward pass of a single batch, to outputs."""

        def make() -> Program:
            strides = self.strides(bytes_in, outputs=True)
            return inference_once(self.persistent, batch, strides, bytes_in=bytes_in, **self._input)

        return self._once(("once", batch, bytes_in), make)

    def sum_losses(self) -> Looped:
        """The sum of the losses that steps have left in memory."""
        return self._once(("sum",), lambda: loss_sum(self.persistent, self.loss))

    def upload(self, looped: Looped) -> list[Program]:
        """Parameters, optimizer state and constants to the chip, and the weights' tiles by way of a loop's buffers."""
        assert looped.buffers is not None
        slots = range(len(self.persistent.slots))
        return [transfer(self.persistent, slots, store=False), first_tiles(looped.buffers)]

    def download(self, slots: tuple[int, ...]) -> Program:
        """Parameters (slot 0), or optimizer state, to memory."""
        return self._once(("download", slots), lambda: transfer(self.persistent, slots, store=True))
