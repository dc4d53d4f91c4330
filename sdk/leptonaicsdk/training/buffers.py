"""Buffers of one program: samples on their way in, activations, sums, gradients."""

from dataclasses import dataclass

from leptonaicsdk.network import Activation
from leptonaicsdk.schedule import Region

from .layout import Chunk, Home, Persistent, chunks_of, growing_chunks

__all__ = ["Buffers", "choose_buffers"]

_CHUNK_COUNTS = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class _Tiles:
    """Tiles of a batch's matrix: tile (i, j) of limb p at ``start + i + j * high + p * high * wide``."""

    region: Region
    high: int
    wide: int

    @property
    def start(self) -> int:
        return self.region.start


class Buffers:
    """Buffers of a program that takes ``batch`` samples at a time.

    Attributes
    ----------
    chunks : list of tuple of Chunk
        Of each layer's contraction.
    tiles : list of _Tiles
        Quantised inputs of each layer.
    outputs : list of Region
        Activations of each layer in binary32; the last one's are the network's results.
    sums : list of Region
        Accumulators of each layer's products.
    packed, inputs : list of Region
        Staging of a chunk of samples as bytes (uint8 samples only), and in binary32; used in turn. Of the latter one is
        enough for bytes, unless the next chunk is wanted ``ahead``.
    scratch : list of Region
        Of softmax and of losses: rows for the last layer's outputs of a batch (2), and a row for each sample (2); the
        second of each are twice as many with labels.
    target : Region
        Labels (a row for each sample) or target values.
    back_sums, deltas, delta_tiles
        When training: sums of dE/da of a hidden layer, dE/dz in binary32, and quantised dE/dz of each layer.
    gradients : tuple of Region
        Sums of a chunk's gradient, in both halves of the accumulators, used in turn.
    work : Region
        Scratch rows of the optimizer.
    staging : list of list of Region
        Where weights (and, when training, their optimizer state) that live in memory are on their way; used in turn.
    tile_staging : list of Region
        The same for their tiles.
    """

    def __init__(
        self, persistent: Persistent, batch: int, *, bytes_in: bool, training: bool, labels: bool, scratch: int,
        chunks: tuple[Chunk, ...], ahead: bool = False,
    ):  # fmt: skip
        self.persistent, self.batch, self.bytes_in, self.training = persistent, batch, bytes_in, training
        config, layers, limbs = persistent.config, persistent.layers, persistent.precision.limbs
        side, last = config.side, layers[-1]
        spaces = self.spaces = persistent.copy_spaces()
        vmem = spaces.vmem
        high = self.high = -(-batch // side)
        self.chunks = [chunks]
        most = max(self._rows(0, chunk) for chunk in self.chunks[0])
        for layer in layers[1:]:
            parts = max(1, -(-layer.rows // max(most, (side + 1) * layer.n_tiles)))
            if not persistent.on_chip(layer.index):
                parts = max(parts, min(4, layer.k_tiles))
            self.chunks.append(chunks_of(layer.inputs, side, parts))

        self.tiles, self.outputs, self.sums = [], [], []
        for layer in layers:
            region = spaces.tiles.take(f"inputs of layer {layer.index}", high * layer.k_tiles * limbs)
            self.tiles.append(_Tiles(region, high, layer.k_tiles))
            self.outputs.append(vmem.take(f"outputs of layer {layer.index}", batch * layer.n_tiles))
            # The first layer's sums stay clear of the half in which the last chunk of a step has its gradient.
            half = 0 if layer.index == 0 else None
            self.sums.append(spaces.sums(f"sums of layer {layer.index}", batch * layer.n_tiles, half))
        moving = [
            (self._rows(l, chunk), chunk.tiles * layers[l].n_tiles * limbs)
            for l, chunks in enumerate(self.chunks)
            if not persistent.on_chip(l)
            for chunk in chunks
        ]
        self.staging: list[list[Region]] = []
        self.tile_staging: list[Region] = []
        if moving:
            slots = len(persistent.slots) if training else 1
            size = max(rows for rows, _ in moving)
            self.staging = [[vmem.take("weights and state of a chunk", size) for _ in range(slots)] for _ in range(2)]
        if Home.MEMORY in persistent.homes:
            size = max(size for _, size in moving)
            self.tile_staging = [spaces.tiles.take("weights of a chunk", size) for _ in range(2)]
        wide = max(chunk.tiles for chunk in self.chunks[0])
        self.packed: list[Region] = []
        if bytes_in:
            self.packed = [vmem.take("samples as bytes", batch * -(-wide // 4)) for _ in range(2)]
        self.inputs = [vmem.take("samples", batch * wide) for _ in range(1 if bytes_in and not ahead else 2)]
        rows = batch * last.n_tiles
        each = 2 if labels else 1
        sizes = (rows, each * rows, batch, each * batch)[:scratch]
        self.scratch = [vmem.take("scratch of the loss", size) for size in sizes]
        if scratch > 2:
            self.target = vmem.take("labels", batch if labels else rows)
        self.back_sums: list[Region] = []
        self.delta_tiles: list[_Tiles] = []
        self.deltas: list[Region] = []
        self.gradients: tuple[Region, ...] = ()
        if training:
            for layer in layers:
                region = spaces.tiles.take(f"deltas of layer {layer.index}", high * layer.n_tiles * limbs)
                self.delta_tiles.append(_Tiles(region, high, layer.n_tiles))
            if len(layers) > 1:
                hidden = batch * max(layer.n_tiles for layer in layers[:-1])
                self.back_sums = [spaces.sums("sums of deltas", hidden)]
                self.deltas = [vmem.take("deltas", hidden)]
            curved = [
                layer.n_tiles
                for layer, dense in zip(layers, persistent.network.layers)
                if dense.activation in (Activation.SIGMOID, Activation.TANH)
            ]
            if curved:
                self.slopes = vmem.take("slopes", batch * max(curved))
            most = max(self._rows(l, chunk) for l, chunks in enumerate(self.chunks) for chunk in chunks)
            self.gradients = tuple(spaces.sums("gradients of a chunk", most, half) for half in range(2))
            self.work = vmem.take("scratch of the optimizer", most)

    def _rows(self, l: int, chunk: Chunk) -> int:
        return self.persistent.chunk_rows(l, chunk)

    def slot(self, number: int, l: int, chunk: Chunk) -> Region:
        """Rows of a chunk of a layer on the chip, its bias included, in a slot of parameters (0) or optimizer state."""
        layer, region = self.persistent.layers[l], self.persistent.slots[number][l]
        return Region(region.space, region.start + chunk.row * layer.n_tiles, self._rows(l, chunk))

    def bias(self, number: int, l: int) -> Region:
        """Name of the rows of the bias of layer l: those of its last chunk, or its own."""
        if self.persistent.on_chip(l):
            return self.slot(number, l, self.chunks[l][-1])
        return self.persistent.bias(number, l)

    def weight_tiles(self, l: int, chunk: Chunk) -> Region:
        """Name of the tiles of a chunk's weights on the chip (their addresses are those of `Persistent.tiles`)."""
        tiles = self.persistent.tiles[l]
        assert tiles is not None
        return Region(f"weight tiles {l}", tiles.start + chunk.first, chunk.tiles)

    def input_tiles(self, chunk: Chunk) -> Region:
        """Name of the tiles of a chunk of the samples."""
        return Region("input tiles", self.tiles[0].start + chunk.first * self.high, chunk.tiles * self.high)

    def describe(self) -> list[tuple[str, Region]]:
        """All regions with their purposes, persistent ones first."""
        return self.spaces.parts()


def choose_buffers(
    persistent: Persistent, batch: int, *, bytes_in: bool, training: bool, labels: bool, scratch: int,
    growing: bool = False,
) -> Buffers:  # fmt: skip
    """The buffers with the fewest chunks that fit, of 4 or more; ``growing`` ones for a batch on its own.

    Raises
    ------
    ValueError
        If none does: what does not fit, with the finest chunks, and of which layer.
    """
    inputs, side = persistent.layers[0].inputs, persistent.config.side
    # A chunk begins at a whole beat of the bus.
    align = max(1, persistent.config.bus_bytes // (side * (1 if bytes_in else 4)))
    if growing:
        choices = [growing_chunks(inputs, side, most, align) for most in (256, 64, 16, 4, 1)]
    else:
        align = max(align, 4 if bytes_in else 1)  # and fills rows of packed samples
        choices = [chunks_of(inputs, side, count, align) for count in _CHUNK_COUNTS]
    refusal: ValueError | None = None
    for chunks in dict.fromkeys(choices):
        try:
            return Buffers(
                persistent, batch, bytes_in=bytes_in, training=training, labels=labels, scratch=scratch,
                chunks=chunks, ahead=growing,
            )  # fmt: skip
        except ValueError as error:
            refusal = error
    raise ValueError(f"a batch of {batch} does not fit: {refusal}") from None
