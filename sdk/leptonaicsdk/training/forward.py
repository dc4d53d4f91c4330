"""The forward pass: samples in, products, activations, softmax."""

from dataclasses import dataclass

from lepton_npu.spec.commands import Format, VectorOp

from leptonaicsdk.network import Activation
from leptonaicsdk.schedule import Region

from .buffers import Buffers
from .emitter import INPUT, Emitter, View
from .layout import Chunk
from .weights import StationaryTiles, Weights

__all__ = ["Columns", "Forward"]

_FUNCTIONS = {Activation.SIGMOID: VectorOp.SIGMOID, Activation.TANH: VectorOp.TANH}


@dataclass(frozen=True)
class Columns:
    """Columns of tiles ``first`` to ``first + count - 1`` of a layer's sums and outputs.

    ``apart``: each column is ordered as a buffer of its own. All commands of a program do so with a layer, or none.
    """

    first: int
    count: int
    apart: bool = False

    def names(self, region: Region) -> list[Region]:
        """What they are called of a region."""
        if not self.apart:
            return [region]
        whose = f"column of {region.space} {region.start}"
        return [Region(whose, number, 1) for number in range(self.first, self.first + self.count)]

    def view(self, region: Region, wide: int) -> View:
        """Their rows, sample by sample, of ``wide`` rows each."""
        return View(tuple(self.names(region)), region.start + self.first, 1, wide)


class Forward:
    """Emits the forward pass of a batch.

    Parameters
    ----------
    emitter : Emitter
    buffers : Buffers
    sample_stride : int
        Bytes from one sample to the next in memory.
    scale : float
        Factor of the samples on their way in.
    clip : tuple of two floats, or None
        Samples below the first or above the second become it (before the factor).
    """

    def __init__(
        self,
        emitter: Emitter,
        buffers: Buffers,
        sample_stride: int,
        scale: float,
        clip: tuple[float, float] | None = None,
    ):
        self.emitter, self.buffers, self.persistent = emitter, buffers, buffers.persistent
        self.side, self.precision = self.persistent.config.side, self.persistent.precision
        self.sample_stride, self.scale, self.clip = sample_stride, scale, clip
        self.batch, self.high = buffers.batch, buffers.high
        self.weights = Weights(emitter, buffers)

    # ---- Samples.

    def load_samples(self, chunk: Chunk):
        """A chunk of a batch's samples from memory, at the address in register INPUT."""
        buffers, bytes_in = self.buffers, self.buffers.bytes_in
        target = (buffers.packed if bytes_in else buffers.inputs)[chunk.index % 2]
        size = 1 if bytes_in else 4
        self.emitter.load(
            target, register=INPUT, address=chunk.row * size, stride=self.sample_stride, rows=self.batch,
            words=-(-chunk.rows * size // 4), local=target.start,
            local_stride=-(-chunk.tiles // 4) if bytes_in else chunk.tiles,
        )  # fmt: skip

    def convert_samples(self, chunk: Chunk):
        """What was loaded, in binary32, clipped and scaled."""
        buffers, count = self.buffers, (chunk.tiles, self.batch)
        target = buffers.inputs[chunk.index % len(buffers.inputs)]
        if buffers.bytes_in:
            source = View.of(buffers.packed[chunk.index % 2], stride1=-(-chunk.tiles // 4))
            form = Format.U8
        else:
            source, form = View.of(target, stride1=chunk.tiles), Format.F32
        rows = View.of(target, stride1=chunk.tiles)
        if self.clip is not None:
            self.emitter.vector(VectorOp.MAX, rows, source, self.clip[0], count=count, a_format=form)
            self.emitter.vector(VectorOp.MIN, rows, rows, self.clip[1], count=count)
            source, form = rows, Format.F32
        if form != Format.F32 or self.scale != 1.0:
            self.emitter.muladd(rows, source, self.scale, 0.0, count=count, a_format=form)

    def quantise_samples(self, chunk: Chunk):
        """Tiles of a chunk."""
        buffers = self.buffers
        source = buffers.inputs[chunk.index % len(buffers.inputs)]
        tiles = buffers.tiles[0]
        self.emitter.quant(
            [source], [buffers.input_tiles(chunk)], self.precision, source=source.start, source_stride=chunk.tiles,
            rows=self.batch, cols=chunk.rows, tile=tiles.start + chunk.first * self.high, tile_stride=self.high,
            limb_stride=self.high * tiles.wide,
        )  # fmt: skip

    # ---- Layers.

    def products(self, l: int, chunk: Chunk):
        """A chunk of the contraction of layer l."""
        inputs = self.buffers.input_tiles(chunk) if l == 0 else self.buffers.tiles[l].region
        contraction = range(chunk.first, chunk.last)
        self.product(l, contraction, self.columns(l), chunk, self.weights.tiles(l, chunk), [inputs])

    def product(
        self, l: int, contraction: range, columns: Columns, chunk: Chunk, weights: StationaryTiles,
        inputs: list[Region],
    ):  # fmt: skip
        """Some K tiles, of a chunk, for some columns of tiles of layer l's sums; ``weights`` are the chunk's tiles."""
        tiles, sums, n_tiles = self.buffers.tiles[l], self.buffers.sums[l], self.persistent.layers[l].n_tiles
        self.emitter.matmul(
            [*inputs, weights.region], columns.names(sums), self.precision, self.precision,
            accumulate=int(contraction.start > 0), k_tiles=len(contraction), n_tiles=columns.count,
            a_tile=tiles.start + contraction.start * self.high, a_k_stride=self.high, a_stride0=1,
            a_limb_stride=self.high * tiles.wide,
            b_tile=weights.start + contraction.start - chunk.first + columns.first * weights.column, b_k_stride=1,
            b_n_stride=weights.column, b_limb_stride=weights.limb,
            acc=sums.start + columns.first, acc_n_stride=1, acc_stride0=n_tiles, rows=self.batch, count0=self.batch,
        )  # fmt: skip

    def columns(self, l: int) -> Columns:
        """All columns of tiles of layer l's sums."""
        return Columns(0, self.persistent.layers[l].n_tiles)

    def activate(self, l: int, columns: Columns | None = None):
        """Bias and activation of layer l (or some columns of tiles of it), in binary32; softmax is on its own."""
        buffers, wide = self.buffers, self.persistent.layers[l].n_tiles
        columns = columns or self.columns(l)
        activation = self.persistent.network.layers[l].activation
        count = (columns.count, self.batch)
        bias = View((buffers.bias(0, l),), self.persistent.bias(0, l).start + columns.first)
        outputs, sums = (columns.view(region, wide) for region in (buffers.outputs[l], buffers.sums[l]))
        relu = int(activation == Activation.RELU)
        self.emitter.muladd(outputs, sums, 1.0, bias, count=count, relu=relu)
        if activation in _FUNCTIONS:
            self.emitter.vector(_FUNCTIONS[activation], outputs, outputs, count=count)

    def quantise_outputs(self, l: int, columns: Columns | None = None):
        """Tiles of layer l's outputs (or of some columns of tiles of them), for layer l + 1."""
        buffers, layer = self.buffers, self.persistent.layers[l]
        columns = columns or self.columns(l)
        tiles, outputs = buffers.tiles[l + 1], buffers.outputs[l]
        first = columns.first * self.side
        self.emitter.quant(
            columns.names(outputs), columns.names(tiles.region), self.precision, source=outputs.start + columns.first,
            source_stride=layer.n_tiles, rows=self.batch, cols=min(columns.count * self.side, layer.units - first),
            tile=tiles.start + columns.first * self.high, tile_stride=self.high, limb_stride=self.high * tiles.wide,
        )  # fmt: skip

    def layers(self):
        """All layers; softmax not included."""
        for chunk in self.buffers.chunks[0]:
            self.products(0, chunk)
        self.behind_first()

    def behind_first(self):
        """What comes behind the products of the first layer; softmax not included."""
        self.activate(0)
        for l in range(1, len(self.persistent.layers)):
            self.quantise_outputs(l - 1)
            for chunk in self.buffers.chunks[l]:
                self.products(l, chunk)
            self.activate(l)

    # ---- Softmax.

    def softmax(self) -> Region:
        """Softmax of the last layer's outputs, in place; returns the rows of each sample's greatest probability."""
        buffers, e = self.buffers, self.emitter
        wide, batch = self.persistent.layers[-1].n_tiles, self.batch
        outputs = View.of(buffers.outputs[-1], stride1=wide)
        count = (wide, batch)
        row = buffers.scratch[2]
        each = View((row,), row.start, 0, 1)
        self.reduce(VectorOp.MAX, buffers.outputs[-1], row)
        e.muladd(outputs, outputs, 1.0, each, count=count, negate_c=1)
        e.vector(VectorOp.EXP, outputs, outputs, count=count)
        self.reduce(VectorOp.MULADD, buffers.outputs[-1], row)
        # The greatest exponential is exp(0) = 1: the reciprocal of the sum is the greatest probability.
        e.vector(VectorOp.RECIP, View.of(row), View.of(row), count=(batch, 1))
        e.muladd(outputs, outputs, each, 0.0, count=count)
        return row

    def reduce(self, op: VectorOp, source: Region, target: Region):
        """Greatest (MAX) or sum (MULADD) of the lanes of each sample of ``source``, in all lanes of its ``target`` row.

        There are as many samples as ``target`` has rows.

        The order of a sum: columns of tiles ascending, then lanes whose numbers differ in bit 0, 1 and so on.
        """
        wide, batch = self.persistent.layers[-1].n_tiles, target.size
        out = View.of(target)
        steps: list[tuple[View, View, int]] = []
        for column in range(1, wide):
            left = out if column > 1 else View.of(source, stride0=wide)
            steps.append((left, View.of(source, column, wide), 0))
        for bit in range(self.persistent.config.side_bits):
            operand = View.of(source) if wide == 1 and bit == 0 else out
            steps.append((operand, operand, 1 << bit))
        for a, other, xor in steps:
            if op == VectorOp.MAX:
                self.emitter.vector(op, out, a, other, count=(batch, 1), lane_xor=xor)
            else:
                self.emitter.muladd(out, a, 1.0, other, count=(batch, 1), lane_xor=xor)
