"""The forward pass of inference: a layer begins with the first tiles of the one before."""

import itertools

from leptonaicsdk.schedule import Region

from .forward import Columns, Forward
from .layout import Chunk, Home
from .weights import StationaryTiles

__all__ = ["ForwardInTurn"]

_PARTS = 4  # into which a layer's columns are cut


class ForwardInTurn:
    """Emits the layers of a batch so that the array hardly waits for activations between two layers.

    The last chunk of a layer's contraction is multiplied for a quarter of the layer's columns of tiles after the other.
    While the array is busy with the next ones, those are activated and quantised, and they are K tiles of the layer
    above. All sums are made in the order of `Forward.layers`, so all bits are the same.

    Parameters
    ----------
    forward : Forward
    """

    def __init__(self, forward: Forward):
        self.forward, self.buffers, self.persistent = forward, forward.buffers, forward.persistent
        self._last = len(self.persistent.layers) - 1
        self._streams = Home.MEMORY in self.persistent.homes

    def _columns(self, l: int) -> list[Columns]:
        """Parts of the columns of a layer; those of the last one are together, as softmax wants them."""
        if l == self._last:
            return [self.forward.columns(l)]
        wide = self.persistent.layers[l].n_tiles
        size = -(-wide // _PARTS)
        return [Columns(first, min(size, wide - first), apart=True) for first in range(0, wide, size)]

    def products(self, chunk: Chunk):
        """A chunk of the first layer's contraction, in turn; with the last one what is behind it, but softmax."""
        if self._streams:
            self.forward.products(0, chunk)
            return
        weights = self.forward.weights.tiles(0, chunk)
        self._product(0, range(chunk.first, chunk.last), chunk, weights, [self.buffers.input_tiles(chunk)])

    def finish(self):
        """What is left of the layers behind the last chunk."""
        if self._streams:
            self.forward.behind_first()

    def _product(self, l: int, contraction: range, chunk: Chunk, weights: StationaryTiles, inputs: list[Region]):
        """K tiles of layer l, and behind the last ones what needs the layer's sums."""
        forward, layer = self.forward, self.persistent.layers[l]
        parts = self._columns(l)
        if contraction.stop < layer.k_tiles:
            whole = Columns(0, layer.n_tiles, apart=l < self._last)
            forward.product(l, contraction, whole, chunk, weights, inputs)
            return
        for columns, following in itertools.pairwise([None, *parts, None]):
            # The array goes on with the following columns while these become K tiles.
            if following is not None:
                forward.product(l, contraction, following, chunk, weights, inputs)
            if columns is not None:
                forward.activate(l, columns)
                if l < self._last:
                    forward.quantise_outputs(l, columns)
                    self._above(l, columns)

    def _above(self, l: int, columns: Columns):
        """The K tiles that columns of layer l are, in layer l + 1, chunk by chunk of its weights."""
        first, end = columns.first, columns.first + columns.count
        inputs = columns.names(self.buffers.tiles[l + 1].region)
        for chunk in self.buffers.chunks[l + 1]:
            part = range(max(first, chunk.first), min(end, chunk.last))
            if part:
                self._product(l + 1, part, chunk, self.forward.weights.tiles(l + 1, chunk), inputs)
