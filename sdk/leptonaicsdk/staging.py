"""Samples and targets of a session: checked, cut to what the memory holds, and put there."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .backend import Backend
from .network import Loss, Network
from .training.programs import SUM_ROWS, Strides

__all__ = ["Staging", "checked_samples", "checked_targets"]

_LINE = 64


def _align(size: int) -> int:
    return -(-size // _LINE) * _LINE


def checked_samples(network: Network, x: NDArray) -> NDArray:
    """``x`` as an array; ValueError unless it is (n, inputs) of uint8 or float32."""
    x = np.asarray(x)
    if x.dtype not in (np.uint8, np.float32) or x.ndim != 2 or x.shape[1] != network.inputs or not len(x):
        raise ValueError(
            f"x must be (n, {network.inputs}) of uint8 or float32, n of 1 or more, not {x.shape} of {x.dtype}"
        )
    return x


def checked_targets(network: Network, loss: Loss, y: NDArray, count: int) -> NDArray:
    """``y`` as words for the core: labels (count, 1), or targets (count, outputs); ValueError if they are neither."""
    y, units = np.asarray(y), network.sizes[-1]
    if loss.labelled:
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


class Staging:
    """The part of a backend's memory behind byte ``start``, where samples and results are while programs run.

    Raises
    ------
    ValueError
        If there is none, or less than 64 KiB.
    """

    def __init__(self, backend: Backend, start: int):
        self._backend, self.start = backend, start
        if start + (1 << 16) > backend.memory.size:
            raise ValueError(f"memory must be above {start + (1 << 16)} bytes, not {backend.memory.size}")

    def view(self, start: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the memory."""
        return self._backend.memory[start : start + size]

    def pieces(self, count: int, batch: int, strides: Strides) -> Iterator[tuple[int, int, int]]:
        """First sample, batches, and batch size of what fits at a time; the last batch may be smaller.

        Raises
        ------
        ValueError
            If not even a batch fits.
        """
        each = batch * (strides.sample + strides.target + strides.result) + strides.rate
        sums = 2 * SUM_ROWS * self._backend.config.row_bytes
        room = self._backend.memory.size - self.start - 4 * _LINE - sums
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

    def put(self, start: int, x: NDArray, stride: int, ahead: int = 0) -> int:
        """Rows of ``x`` at bytes ``start`` on, and room for ``ahead`` more, which are loaded and never used.

        Returns the offset behind.
        """
        size = len(x) * stride
        rows = self.view(start, size).reshape(len(x), stride)
        used = x.shape[1] * x.itemsize
        rows[:, :used] = np.ascontiguousarray(x).view(np.uint8).reshape(len(x), used)
        rows[:, used:] = 0
        return start + _align(size + ahead * stride)
