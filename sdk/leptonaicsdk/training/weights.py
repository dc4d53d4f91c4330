"""Weights where they are needed: as tiles for the array, in binary32 for the optimizer; from memory if need be."""

from dataclasses import dataclass

from leptonaicsdk.schedule import Region

from .buffers import Buffers
from .emitter import IMAGE, Emitter
from .layout import Chunk, Home

__all__ = ["StationaryTiles", "Weights"]


@dataclass(frozen=True)
class StationaryTiles:
    """Tiles of a chunk: tile (i, j) of limb p at ``start + i + j * column + p * limb``."""

    region: Region
    start: int
    column: int
    limb: int


class Weights:
    """Emits what brings a chunk of weights on the chip and back.

    The image of parameters and state is at the byte address in register IMAGE.

    Parameters
    ----------
    emitter : Emitter
    buffers : Buffers
    """

    def __init__(self, emitter: Emitter, buffers: Buffers):
        self.emitter, self.buffers, self.persistent = emitter, buffers, buffers.persistent
        self._turn = 0

    def _next(self) -> int:
        self._turn ^= 1
        return self._turn

    @staticmethod
    def _memory(slot: int, l: int, chunk: Chunk) -> Region:
        """Name of a chunk's part of the image."""
        return Region(f"image {slot} {l}", chunk.row, chunk.rows)

    def _load(self, slot: int, l: int, chunk: Chunk, target: Region):
        rows = chunk.rows * self.persistent.layers[l].n_tiles
        self.emitter.load(
            target, register=IMAGE, address=self.persistent.image_offset(slot, l, chunk.row), rows=1,
            words=rows * self.persistent.config.side, local=target.start, reads=[self._memory(slot, l, chunk)],
        )  # fmt: skip

    def tiles(self, l: int, chunk: Chunk) -> StationaryTiles:
        """The tiles of a chunk of layer l; loaded and quantised here if they are not on the chip."""
        layer, home = self.persistent.layers[l], self.persistent.tiles[l]
        if home is not None:
            region = self.buffers.weight_tiles(l, chunk)
            return StationaryTiles(region, home.start + chunk.first, layer.k_tiles, layer.k_tiles * layer.n_tiles)
        turn = self._next()
        rows, region = self.buffers.staging[turn][0], self.buffers.tile_staging[turn]
        self._load(0, l, chunk, rows)
        tiles = StationaryTiles(region, region.start, chunk.tiles, chunk.tiles * layer.n_tiles)
        self._quantise(l, chunk, rows, tiles)
        return tiles

    def _quantise(self, l: int, chunk: Chunk, rows: Region, tiles: StationaryTiles):
        layer = self.persistent.layers[l]
        self.emitter.quant(
            [rows], [tiles.region], self.persistent.precision, source=rows.start, source_stride=layer.n_tiles,
            rows=chunk.rows, cols=layer.units, tile=tiles.start, tile_stride=tiles.column, limb_stride=tiles.limb,
        )  # fmt: skip

    def begin_update(self, l: int, chunk: Chunk) -> list[Region]:
        """Rows of a chunk in every slot, for its update; with its bias only if they are at home on the chip."""
        numbers = range(len(self.persistent.slots))
        if self.persistent.on_chip(l):
            return [self.buffers.slot(number, l, chunk) for number in numbers]
        regions = self.buffers.staging[self._next()]
        for number in numbers:
            self._load(number, l, chunk, regions[number])
        return regions

    def end_update(self, l: int, chunk: Chunk, regions: list[Region]):
        """The updated rows become tiles if these stay on the chip, and go back to memory if they live there."""
        if self.persistent.homes[l] != Home.MEMORY:
            self._quantise(l, chunk, regions[0], self.tiles(l, chunk))
        if self.persistent.on_chip(l):
            return
        rows = chunk.rows * self.persistent.layers[l].n_tiles
        for number, region in enumerate(regions):
            self.emitter.store(
                [region], register=IMAGE, address=self.persistent.image_offset(number, l, chunk.row), rows=1,
                words=rows * self.persistent.config.side, local=region.start, writes=[self._memory(number, l, chunk)],
            )  # fmt: skip

    def first_tiles(self, l: int, chunk: Chunk):
        """Tiles of a chunk whose weights have just come: from their home on the chip, or loaded."""
        if self.persistent.on_chip(l):
            self._quantise(l, chunk, self.buffers.slot(0, l, chunk), self.tiles(l, chunk))
        elif self.persistent.homes[l] == Home.TILES:
            rows = self.buffers.staging[self._next()][0]
            self._load(0, l, chunk, rows)
            self._quantise(l, chunk, rows, self.tiles(l, chunk))
