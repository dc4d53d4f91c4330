"""Where everything is on the chip: parameters and optimizer state for good, the buffers of a program behind them."""

from dataclasses import dataclass

from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import ACC_SPACE, NpuConfig

from leptonaicsdk.network import Network
from leptonaicsdk.schedule import Region

__all__ = ["Chunk", "Persistent", "Space", "Spaces", "chunks_of"]


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


def chunks_of(inputs: int, side: int, count: int, align: int = 1) -> tuple[Chunk, ...]:
    """The K tiles of ``inputs`` in at most ``count`` chunks of nearly equal size, from multiples of ``align`` on."""
    total = -(-inputs // side)
    starts = sorted({min(round(total * i / count / align) * align, total) for i in range(count)} - {total})
    ends = [*starts[1:], total]
    return tuple(
        Chunk(i, a, b, a * side, min(b * side, inputs) - a * side, b == total)
        for i, (a, b) in enumerate(zip(starts, ends))
    )


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


class Persistent:
    """What stays on the chip from program to program.

    Parameters and every slot of optimizer state have the same shape: layer after layer, the weights' rows (an input's
    row of weights in ``n_tiles`` local rows), then the bias. The same network always gets the same addresses.

    Attributes
    ----------
    layers : list of _Layer
    slots : list of Region
        Slot 0: parameters; the others: state of the optimizer.
    first_row : list of int
        Of each layer within a slot.
    tiles : list of Region
        Quantised weights of each layer: tile (i, j) of limb p at ``start + i + j * k_tiles + p * k_tiles * n_tiles``.
    ones : Region
        A tile whose row 0 holds ones.
    constants : Region
        Local rows: lane numbers of the last layer's outputs (``n_tiles`` rows), its lanes in use as 1 (``n_tiles``
        rows), lane 0 as 1, even lanes as 1, ones.
    rate : Region
        The learning rate of a step, in every lane.

    Raises
    ------
    ValueError
        If the network does not fit; the message names the layer.
    """

    def __init__(self, config: NpuConfig, network: Network, precision: Precision, slots: int):
        self.config, self.network, self.precision = config, network, precision
        self.spaces = spaces = Spaces(config)
        side, sizes = config.side, network.sizes
        self.layers = [
            _Layer(l, sizes[l], sizes[l + 1], -(-sizes[l] // side), -(-sizes[l + 1] // side))
            for l in range(len(sizes) - 1)
        ]
        self.first_row, rows = [], 0
        for layer in self.layers:
            self.first_row.append(rows)
            rows += layer.rows
        self.rows = rows
        widest = max(self.layers, key=lambda layer: layer.rows)
        name = f"layer {widest.index} ({widest.inputs} x {widest.units}) is too large: "
        try:
            names = ("parameters", *(f"optimizer state {slot}" for slot in range(1, slots + 1)))
            self.slots = [spaces.vmem.take(what, rows) for what in names]
            limbs = precision.limbs
            self.tiles = [
                spaces.tiles.take(f"weights of layer {layer.index}", layer.k_tiles * layer.n_tiles * limbs)
                for layer in self.layers
            ]
            self.ones = spaces.tiles.take("tile of ones", 1)
            self.constants = spaces.vmem.take("constants", 2 * self.layers[-1].n_tiles + 3)
            self.rate = spaces.vmem.take("learning rate", 1)
        except ValueError as error:
            raise ValueError(f"{name}{error}") from None

    def copy_spaces(self) -> Spaces:
        """Spaces in which all of this is taken, for the buffers of a program."""
        spaces = Spaces(self.config)
        for mine, copy in zip(
            (self.spaces.vmem, *self.spaces.halves, self.spaces.tiles), (spaces.vmem, *spaces.halves, spaces.tiles)
        ):
            copy.used, copy.parts = mine.used, list(mine.parts)
        return spaces

    def chunk_rows(self, l: int, chunk: Chunk) -> tuple[int, int]:
        """First local row within a slot, and number of rows, of a chunk of layer l, its bias included."""
        layer = self.layers[l]
        rows = chunk.rows * layer.n_tiles + (layer.n_tiles if chunk.with_bias else 0)
        return self.first_row[l] + chunk.row * layer.n_tiles, rows

    def bias_row(self, l: int) -> int:
        """Local row of the bias of layer l."""
        layer = self.layers[l]
        return self.slots[0].start + self.first_row[l] + layer.inputs * layer.n_tiles
