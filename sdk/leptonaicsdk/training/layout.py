"""Where everything is on the chip: parameters and optimizer state for good, the buffers of a program behind them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from numpy.typing import NDArray

from leptonaicsdk.network import Network
from leptonaicsdk.schedule import Region

__all__ = ["Chunk", "Home", "Persistent", "Space", "Spaces", "chunks_of", "growing_chunks"]


@dataclass(frozen=True)
class Chunk:
    """K tiles ``first`` to ``last - 1`` of a layer's weights: ``rows`` inputs from input ``row`` on.

    ``with_bias``: the layer's last chunk, behind whose weights its bias is.
    """

    index: int
    first: int
    last: int
    row: int
    rows: int
    with_bias: bool

    @property
    def tiles(self) -> int:
        """Number of K tiles."""
        return self.last - self.first


def _chunks(inputs: int, side: int, starts: list[int]) -> tuple[Chunk, ...]:
    total = -(-inputs // side)
    return tuple(
        Chunk(i, a, b, a * side, min(b * side, inputs) - a * side, b == total)
        for i, (a, b) in enumerate(zip(starts, [*starts[1:], total]))
    )


def chunks_of(inputs: int, side: int, count: int, align: int = 1) -> tuple[Chunk, ...]:
    """The K tiles of ``inputs`` in at most ``count`` chunks of nearly equal size, from multiples of ``align`` on."""
    total = -(-inputs // side)
    starts = sorted({min(round(total * i / count / align) * align, total) for i in range(count)} - {total})
    return _chunks(inputs, side, starts)


def growing_chunks(inputs: int, side: int, most: int, align: int = 1) -> tuple[Chunk, ...]:
    """The K tiles of ``inputs`` in chunks of two tiles, four and so on, of at most about ``most``, from multiples of
    ``align`` on.

    The first one comes soon, and while one is multiplied the next can be prepared.
    """
    total = -(-inputs // side)
    starts, size = [0], max(align, min(2, most))
    while starts[-1] + 2 * size < total:
        starts.append(starts[-1] + size)
        size = min(2 * size, max(most // align * align, align))
    return _chunks(inputs, side, starts)


class Space:
    """One memory that hands out regions, and remembers what for."""

    def __init__(self, name: str, start: int, size: int, unit: str):
        self.name, self.start, self.size, self.unit = name, start, size, unit
        self.used = 0
        self.parts: list[tuple[str, Region]] = []

    def free(self) -> int:
        """Units that are left."""
        return self.size - self.used

    def take(self, what: str, size: int) -> Region:
        """The next ``size`` units.

        Raises
        ------
        ValueError
            If there are not as many; the message says what needs them, how many, and what is left.
        """
        if size > self.free():
            raise ValueError(
                f"{what} needs {size} {self.unit} of the {self.name}, of whose {self.size} {self.free()} are left"
            )
        region = Region(self.name, self.start + self.used, size)
        self.used += size
        self.parts.append((what, region))
        return region


class Spaces:
    """The memories of a core."""

    def __init__(self, config: NpuConfig):
        half = config.acc_rows // 2
        self.config = config
        self.vmem = Space("vector memory", 0, config.vmem_rows, "rows")
        self.halves = tuple(Space(f"accumulators, half {h}", ACC_SPACE + h * half, half, "rows") for h in range(2))
        self.tiles = Space("tile memory", 0, config.tiles, "tiles")

    def sums(self, what: str, rows: int, half: int | None = None) -> Region:
        """Accumulator rows, of the given half, or of the one with more room."""
        if half is None:
            half = int(self.halves[1].free() > self.halves[0].free())
        return self.halves[half].take(what, rows)

    def parts(self) -> list[tuple[str, Region]]:
        """All regions with their purposes."""
        return [part for space in (self.vmem, *self.halves, self.tiles) for part in space.parts]


@dataclass(frozen=True)
class _Layer:
    """Sizes of a layer, in the core's units."""

    index: int
    inputs: int
    units: int
    k_tiles: int
    n_tiles: int

    @property
    def rows(self) -> int:
        """Local rows of its weights and, behind them, its bias."""
        return (self.inputs + 1) * self.n_tiles


class Home(Enum):
    """Where a layer's weights and their optimizer state live.

    CHIP: in the vector memory, quantised in the tile memory. TILES: in host memory, loaded and stored a chunk at a time
    for the update; quantised in the tile memory. MEMORY: in host memory, loaded and quantised for every use. Biases and
    their state always live on the chip.
    """

    CHIP = 0
    TILES = 1
    MEMORY = 2


class Persistent:
    """What stays on the chip from program to program, and the image of all of it in host memory.

    The image holds the parameters, then each slot of optimizer state, all of the same shape: layer after layer, the
    weights' rows (an input's row of weights in ``n_tiles`` local rows), then the bias.

    Attributes
    ----------
    layers : list of _Layer
    rows : int
        Local rows of a slot of the image.
    first_row : list of int
        Of each layer within a slot of the image.
    homes : tuple of Home
        Of each layer.
    slots : list of list of Region
        Slot 0: parameters; the others: state of the optimizer. For each layer its rows, or those of its bias only.
    tiles : list of Region or None
        Quantised weights of each layer that has them on the chip: tile (i, j) of limb p at
        ``start + i + j * k_tiles + p * k_tiles * n_tiles``.
    ones : Region
        A tile whose row 0 holds ones.
    constants : Region
        Local rows with the values of `constant_values`.
    rate : Region
        The learning rate of a step, in every lane.

    Raises
    ------
    ValueError
        If the network does not fit; the message names the layer.
    """

    def __init__(
        self,
        config: NpuConfig,
        network: Network,
        precision: Precision,
        slots: int,
        homes: tuple[Home, ...] | None = None,
    ):
        self.config, self.network, self.precision = config, network, precision
        self.spaces = spaces = Spaces(config)
        side, sizes = config.side, network.sizes
        self.layers = [
            _Layer(l, sizes[l], sizes[l + 1], -(-sizes[l] // side), -(-sizes[l + 1] // side))
            for l in range(len(sizes) - 1)
        ]
        self.homes = homes or (Home.CHIP,) * len(self.layers)
        self.first_row, rows = [], 0
        for layer in self.layers:
            self.first_row.append(rows)
            rows += layer.rows
        self.rows = rows
        limbs = precision.limbs
        self.tiles: list[Region | None] = []
        self.slots: list[list[Region]] = [[] for _ in range(1 + slots)]
        for layer, home in zip(self.layers, self.homes):
            name = f"layer {layer.index} ({layer.inputs} x {layer.units})"
            for slot, regions in enumerate(self.slots):
                what = f"optimizer state {slot} of {name}" if slot else f"parameters of {name}"
                regions.append(spaces.vmem.take(what, layer.rows if home == Home.CHIP else layer.n_tiles))
            size = layer.k_tiles * layer.n_tiles * limbs
            self.tiles.append(None if home == Home.MEMORY else spaces.tiles.take(f"weights of {name}", size))
        self.ones = spaces.tiles.take("tile of ones", 1)
        last = self.layers[-1]
        self.constants = spaces.vmem.take(
            f"constants of layer {last.index} ({last.inputs} x {last.units})",
            sum(len(rows) for rows in self.constant_values().values()),
        )
        self.rate = spaces.vmem.take("learning rate", 1)

    def constant_values(self) -> dict[str, NDArray[np.float32]]:
        """Local rows of constants by name, in their order.

        ``lanes``: numbers of the last layer's outputs; ``left``: lanes from each of them to the last; ``used``: 1 in
        those that exist; ``lane0``, ``even``: 1 in lane 0, in the even lanes; ``ones``.
        """
        side, last = self.config.side, self.layers[-1]
        lane, outputs = np.arange(side), np.arange(last.n_tiles * side).reshape(-1, side)
        rows = {
            "lanes": outputs,
            "left": outputs.size - outputs,
            "used": outputs < last.units,
            "lane0": [lane == 0],
            "even": [lane % 2 == 0],
        }
        return {name: np.array(values, np.float32) for name, values in {**rows, "ones": [np.ones(side)]}.items()}

    def constant(self, name: str) -> Region:
        """Local rows of one of the constants."""
        start = self.constants.start
        for other, rows in self.constant_values().items():
            if other == name:
                return Region(self.constants.space, start, len(rows))
            start += len(rows)
        raise KeyError(name)

    def copy_spaces(self) -> Spaces:
        """Spaces in which all of this is taken, for the buffers of a program."""
        spaces = Spaces(self.config)
        for mine, copy in zip(
            (self.spaces.vmem, *self.spaces.halves, self.spaces.tiles), (spaces.vmem, *spaces.halves, spaces.tiles)
        ):
            copy.used, copy.parts = mine.used, list(mine.parts)
        return spaces

    def on_chip(self, l: int) -> bool:
        """Whether the weights of layer l, and not only its bias, are in the vector memory."""
        return self.homes[l] == Home.CHIP

    def chunk_rows(self, l: int, chunk: Chunk) -> int:
        """Local rows of a chunk of layer l: its weights and, with the last chunk, the bias."""
        return (chunk.rows + int(chunk.with_bias)) * self.layers[l].n_tiles

    def image_offset(self, slot: int, l: int, input_: int = 0) -> int:
        """Byte offset in the image of the weights of an input of layer l, or, behind the last one, of the bias."""
        row = slot * self.rows + self.first_row[l] + input_ * self.layers[l].n_tiles
        return row * self.config.row_bytes

    def image_places(self, names: Sequence[str]) -> Iterator[tuple[int, int, str]]:
        """Offset in the image, bytes, and name of what it holds; ``names`` are those of the optimizer's slots."""
        row = self.config.row_bytes
        for slot in range(len(self.slots)):
            of = f"optimizer's {names[slot - 1]} of the " if slot else ""
            for l, layer in enumerate(self.layers):
                weights, bias = self.image_offset(slot, l), self.image_offset(slot, l, layer.inputs)
                yield weights, bias - weights, f"{of}weights of layer {l} ({layer.inputs} x {layer.units})"
                yield bias, layer.n_tiles * row, f"{of}bias of layer {l} ({layer.units})"
        yield len(self.slots) * self.rows * row, self.constants.size * row, "constants"

    def bias(self, slot: int, l: int) -> Region:
        """Local rows of the bias of layer l."""
        layer, region = self.layers[l], self.slots[slot][l]
        return Region(region.space, region.start + region.size - layer.n_tiles, layer.n_tiles)
