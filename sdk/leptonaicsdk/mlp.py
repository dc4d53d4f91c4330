"""Compiles the forward pass of a dense network to one command program."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Format, Precision, VectorOp
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from numpy.typing import NDArray

from .plan import Layout, Plan, choose_plan
from .schedule import Region, Schedule

__all__ = ["CompiledMlp", "Layer", "compile_mlp", "precision_of"]

_LINE = 64
_TAG = 1


@dataclass(frozen=True)
class Layer:
    """A dense layer: ``weights`` (inputs, outputs) and ``bias`` (outputs,), binary32; ``relu`` on its outputs."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    relu: bool = True


@dataclass(frozen=True)
class CompiledMlp:
    """A program with its memory.

    Attributes
    ----------
    plan : Plan
        How the network was cut.
    memory : numpy.ndarray
        Memory from byte address ``base`` on, uint8: weights, biases, images, room for the result, ring.
    ring, ring_log2, records : int
        Byte address of the ring; log2 of its size in records; records in it, of which the last is an IRQ.
    tag : int
        What that IRQ leaves in the TAG register.
    images, classes : int
        Shape of the result.
    result, result_stride : int
        Byte address of the first image's probabilities; bytes from one image's to the next.
    """

    plan: Plan
    memory: NDArray[np.uint8]
    base: int
    ring: int
    ring_log2: int
    records: int
    tag: int
    images: int
    classes: int
    result: int
    result_stride: int

    def probabilities(self, memory: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The result, (images, classes), from the memory that the program left behind."""
        start = self.result - self.base
        rows = memory[start : start + self.images * self.result_stride].view("<f4").reshape(self.images, -1)
        return rows[:, : self.classes].copy()

    @property
    def macs(self) -> int:
        """Multiplications that the equations need for one image."""
        sizes = self.plan.sizes
        return sum(inputs * outputs for inputs, outputs in itertools.pairwise(sizes))


def precision_of(bits: int) -> Precision:
    """The `Precision` of 8, 16 or 32 bits."""
    if bits not in (8, 16, 32):
        raise ValueError(f"precision must be 8, 16 or 32, not {bits}")
    return {8: Precision.P8, 16: Precision.P16, 32: Precision.P32}[bits]


def compile_mlp(
    config: NpuConfig, layers: Sequence[Layer], images: NDArray[np.uint8], precision: int = 8, *, base: int = 0
) -> CompiledMlp:
    """Compile softmax(...relu(x W + b)...) for images x / 255.

    Parameters
    ----------
    config : NpuConfig
    layers : sequence of Layer
        The last one's outputs go through softmax.
    images : (images, inputs) array of uint8
    precision : int
        Mantissa of weights and activations: 8, 16 or 32.
    base : int
        Byte address of the memory, a multiple of 64.

    Raises
    ------
    ValueError
        For shapes that do not follow each other, and for a network that does not fit the configuration's memories;
        the message names the layer, what it needs, and what there is.
    """
    sizes = _sizes(layers, images)
    if base % _LINE:
        raise ValueError(f"base must be a multiple of {_LINE}, not {base:#x}")
    layout = choose_plan(config, sizes, precision_of(precision), len(images))
    image = _MemoryImage(layout.plan, layers, images, base)
    emitter = _Emitter(layout, image, [layer.relu for layer in layers], len(images))
    emitter.run()
    return image.finish(emitter.schedule.program.records())


def _sizes(layers: Sequence[Layer], images: NDArray[np.uint8]) -> tuple[int, ...]:
    if images.ndim != 2 or images.dtype != np.uint8 or not len(images):
        raise ValueError(f"images must be a uint8 matrix of a row or more, not {images.dtype} of shape {images.shape}")
    if not layers:
        raise ValueError("layers must hold a layer or more, not none")
    sizes = [images.shape[1]]
    for l, layer in enumerate(layers):
        if layer.weights.ndim != 2 or layer.weights.shape[0] != sizes[-1]:
            raise ValueError(f"layer {l}: weights must have {sizes[-1]} rows, not shape {layer.weights.shape}")
        if layer.bias.shape != (layer.weights.shape[1],):
            raise ValueError(f"layer {l}: bias must have shape ({layer.weights.shape[1]},), not {layer.bias.shape}")
        sizes.append(layer.weights.shape[1])
    if layers[-1].relu:
        raise ValueError(f"layer {len(layers) - 1}: relu must be False for the last layer: its outputs go to softmax")
    return tuple(sizes)


class _MemoryImage:
    """Weights, biases, images, result and ring, one behind the other."""

    def __init__(self, plan: Plan, layers: Sequence[Layer], images: NDArray[np.uint8], base: int):
        self._plan, self._base, self._size = plan, base, 0
        self._parts: list[NDArray[np.uint8]] = []
        side = plan.config.side
        self.weights, self.weight_strides = [], []
        for layer in layers:
            rows = self._padded(layer.weights.astype("<f4").view(np.uint8))
            self.weights.append(self._place(rows))
            self.weight_strides.append(rows.shape[1])
        biases = []
        for l, layer in enumerate(layers):
            # Lanes beyond the classes must not count in softmax: exp(-inf) is 0.
            row = np.full(plan.n_tiles(l) * side, -np.inf if l == len(layers) - 1 else 0, "<f4")
            row[: layer.bias.size] = layer.bias
            biases.append(row)
        self.biases = self._place(np.concatenate(biases).view(np.uint8))
        rows = self._padded(images)
        self.images, self.image_stride = self._place(rows), rows.shape[1]
        self._count, self._classes = len(images), plan.sizes[-1]
        rows = self._padded(np.zeros((len(images), 4 * self._classes), np.uint8))
        self.result, self.result_stride = self._place(rows), rows.shape[1]

    def _padded(self, rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Rows of whole bus words."""
        return np.pad(rows, ((0, 0), (0, -rows.shape[1] % self._plan.config.bus_bytes)))

    def _place(self, data: NDArray[np.uint8]) -> int:
        """Append ``data``; its byte address."""
        address = self._base + self._size
        flat = data.reshape(-1)
        self._parts.append(np.pad(flat, (0, -flat.size % _LINE)))
        self._size += self._parts[-1].size
        return address

    def finish(self, records: bytes) -> CompiledMlp:
        """Append the ring."""
        count = len(records) // RECORD_BYTES
        log2 = max(1, (count - 1).bit_length())
        if log2 > 16:
            raise ValueError(
                f"images must be few enough for a ring of 65536 records, not {self._count} ({count} records)"
            )
        ring = self._place(np.frombuffer(records.ljust(RECORD_BYTES << log2, b"\0"), np.uint8))
        return CompiledMlp(
            self._plan, np.concatenate(self._parts), self._base, ring, log2, count, _TAG, self._count, self._classes,
            self.result, self.result_stride,
        )  # fmt: skip


class _Emitter:
    """Writes the commands in an order in which each is right if run one after another; `Schedule` lets them overlap."""

    def __init__(self, layout: Layout, memory: _MemoryImage, relus: list[bool], images: int):
        self.layout, self.plan, self.memory = layout, layout.plan, memory
        self.relus, self.images = relus, images
        self.side = self.plan.config.side
        self.schedule = Schedule(self.plan.config)
        self.program = self.schedule.program
        self._staged = 0

    def run(self):
        """The whole program."""
        plan, last = self.plan, self.plan.layers - 1
        batches, chunks = -(-self.images // plan.batch), len(plan.chunk_spans(0))
        self._biases()
        self._inputs(0)
        for l in range(plan.layers):
            if not plan.streamed[l]:
                self._resident_weights(l)
        items = batches * chunks
        # Layer l of a batch comes 2 l + 1 batch times after its inputs, its activation one more, in a pipelined plan.
        for item in range((batches + 2 * last) * chunks + 1):
            time, start = divmod(item, chunks)
            if 0 < item < items:
                self._inputs(item)
            if plan.pipelined and start == 0:
                for l in range(last, 0, -1):
                    self._if_batch(time - 2 * l - 1, batches, self._products, l)
            if 0 < item <= items:
                self._first_products(item - 1)
            if start == 0 and plan.pipelined:
                for l in range(last):
                    self._if_batch(time - 2 * l - 2, batches, self._activate, l)
                self._if_batch(time - 2 * last - 1, batches, self._softmax)
            elif start == 0:
                self._if_batch(time - 1, batches, self._rest)
        self.program.irq(_TAG)

    @staticmethod
    def _if_batch(batch: int, batches: int, emit, *arguments: int):
        if 0 <= batch < batches:
            emit(*arguments, batch)

    def _rows(self, batch: int) -> int:
        """Images in a batch."""
        return min(self.plan.batch, self.images - batch * self.plan.batch)

    def _bias_row(self, l: int) -> int:
        return self.layout.biases.start + sum(self.plan.n_tiles(k) for k in range(l))

    def _biases(self):
        region = self.layout.biases
        number = self.program.load(
            address=self.memory.biases, local=region.start, rows=1, words=region.size * self.side
        )
        self.schedule.add(number, writes=[region])

    def _weights(self, l: int, span: tuple[int, int], target: Region, first_tile: int, n_stride: int):
        """Load and quantise the weights of K tiles ``span``."""
        plan, staging = self.plan, self.layout.staging[self._staged % 2]
        self._staged += 1
        (k, count), wide, stride = span, plan.n_tiles(l), self.memory.weight_strides[l]
        rows = min(count * self.side, plan.sizes[l] - k * self.side)
        number = self.program.load(
            address=self.memory.weights[l] + k * self.side * stride, stride=stride, rows=rows, words=plan.sizes[l + 1],
            local=staging.start, local_stride=wide,
        )  # fmt: skip
        self.schedule.add(number, writes=[staging])
        number = self.program.quant(
            precision=plan.precision, source=staging.start, source_stride=wide, rows=rows, cols=plan.sizes[l + 1],
            tile=target.start + first_tile, tile_stride=n_stride, limb_stride=n_stride * wide,
        )  # fmt: skip
        self.schedule.add(number, reads=[staging], writes=[target])

    def _resident_weights(self, l: int):
        """All weights of layer l, in parts, so that loading one overlaps quantising the one before."""
        plan, total = self.plan, self.plan.k_tiles(l)
        step = min(self.layout.staging[0].size // (self.side * plan.n_tiles(l)), -(-total // 8))
        for k in range(0, total, step):
            self._weights(l, (k, min(step, total - k)), self.layout.weights[l][0], k, total)

    def _item(self, item: int) -> tuple[int, int]:
        """Batch and chunk of a part of layer 0's work."""
        return divmod(item, len(self.plan.chunk_spans(0)))

    def _inputs(self, item: int):
        """Load a chunk of a batch as bytes, scale it to 0..1, quantise it; and the weights of a streamed layer 0."""
        plan, memory, layout = self.plan, self.memory, self.layout
        batch, chunk = self._item(item)
        k, count = span = plan.chunk_spans(0)[chunk]
        rows, cols = self._rows(batch), min(count * self.side, plan.sizes[0] - k * self.side)
        pixels, tiles = layout.pixels[item % 2], layout.activations[0][item % 2]
        packed = -(-count // 4)
        number = self.program.load(
            address=memory.images + batch * plan.batch * memory.image_stride + k * self.side,
            stride=memory.image_stride, rows=rows, words=-(-cols // 4), local=pixels.start, local_stride=packed,
        )  # fmt: skip
        self.schedule.add(number, writes=[pixels])
        number = self.program.vector(
            VectorOp.MULADD, a_format=Format.U8, a=pixels.start, a_stride0=1, a_stride1=packed,
            imm_b=1 / 255, imm_c=0.0, dst=layout.inputs.start, dst_stride0=1, dst_stride1=count,
            count0=count, count1=rows,
        )  # fmt: skip
        self.schedule.add(number, reads=[pixels], writes=[layout.inputs])
        self._quantise(layout.inputs, tiles, rows, cols, count)
        if plan.streamed[0]:
            self._weights(0, span, layout.weights[0][item % 2], 0, count)

    def _quantise(self, source: Region, target: Region, rows: int, cols: int, k_tiles: int):
        """A batch of rows of ``k_tiles`` local rows to tiles."""
        high = -(-rows // self.side)
        number = self.program.quant(
            precision=self.plan.precision, source=source.start, source_stride=k_tiles, rows=rows, cols=cols,
            tile=target.start, tile_stride=high, limb_stride=high * k_tiles,
        )  # fmt: skip
        self.schedule.add(number, reads=[source], writes=[target])

    def _multiply(
        self, l: int, batch: int, span: tuple[int, int], a: Region, a_first: int, a_tiles: int, b: Region, n_stride: int
    ):  # fmt: skip
        """One MATMUL: K tiles ``span`` of a batch, which start at K tile ``a_first`` of the ``a_tiles`` in ``a``."""
        plan, rows = self.plan, self._rows(batch)
        high, wide = -(-rows // self.side), plan.n_tiles(l)
        sums = self.layout.sums[l][batch % len(self.layout.sums[l])]
        number = self.program.matmul(
            a_precision=plan.precision, b_precision=plan.precision, accumulate=int(span[0] > 0),
            a_tile=a.start + a_first * high, a_k_stride=high, a_limb_stride=high * a_tiles, a_stride0=1,
            b_tile=b.start, b_k_stride=1, b_n_stride=n_stride, b_limb_stride=n_stride * wide,
            acc=sums.start, acc_n_stride=1, acc_stride0=wide, rows=rows, count0=rows, k_tiles=span[1], n_tiles=wide,
        )  # fmt: skip
        self.schedule.add(number, reads=[a, b], writes=[sums])

    def _first_products(self, item: int):
        """A chunk of layer 0."""
        plan, layout = self.plan, self.layout
        batch, chunk = self._item(item)
        k, count = span = plan.chunk_spans(0)[chunk]
        a, weights = layout.activations[0][item % 2], layout.weights[0]
        if plan.streamed[0]:
            self._multiply(0, batch, span, a, 0, count, weights[item % 2], count)
        else:
            tiles = weights[0]._replace(start=weights[0].start + k)
            self._multiply(0, batch, span, a, 0, count, tiles, plan.k_tiles(0))

    def _products(self, l: int, batch: int):
        """Layer l > 0."""
        plan, layout = self.plan, self.layout
        a, total = layout.activations[l][0], plan.k_tiles(l)
        for index, span in enumerate(plan.chunk_spans(l)):
            if plan.streamed[l]:
                weights, stride = layout.weights[l][index % 2], span[1]
                self._weights(l, span, weights, 0, stride)
            else:
                weights, stride = layout.weights[l][0], total
            self._multiply(l, batch, span, a, span[0], total, weights, stride)

    def _add_bias(self, l: int, batch: int, target: Region):
        """Accumulators plus bias, through relu if the layer has it."""
        wide, rows = self.plan.n_tiles(l), self._rows(batch)
        sums = self.layout.sums[l][batch % len(self.layout.sums[l])]
        number = self.program.vector(
            VectorOp.MULADD, relu=int(self.relus[l]), a=sums.start, a_stride0=1, a_stride1=wide, imm_b=1.0,
            c=self._bias_row(l), c_stride0=1, dst=target.start, dst_stride0=1, dst_stride1=wide,
            count0=wide, count1=rows,
        )  # fmt: skip
        self.schedule.add(number, reads=[sums, self.layout.biases], writes=[target])

    def _activate(self, l: int, batch: int):
        """Bias and relu of a layer, then the tiles of the next one's inputs."""
        plan, hidden = self.plan, self.layout.hidden[l]
        self._add_bias(l, batch, hidden)
        self._quantise(hidden, self.layout.activations[l + 1][0], self._rows(batch), plan.sizes[l + 1], plan.n_tiles(l))

    def _rest(self, batch: int):
        """Everything behind layer 0's products, of a batch by itself."""
        for l in range(self.plan.layers - 1):
            self._activate(l, batch)
            self._products(l + 1, batch)
        self._softmax(batch)

    def _softmax(self, batch: int):
        """exp(z - max z) / sum of it, and its store."""
        plan, scores, scratch = self.plan, self.layout.scores, self.layout.scratch
        last, rows = plan.layers - 1, self._rows(batch)
        wide = plan.n_tiles(last)
        each = {
            "dst": scores.start, "dst_stride0": 1, "dst_stride1": wide,
            "a": scores.start, "a_stride0": 1, "a_stride1": wide, "count0": wide, "count1": rows,
        }  # fmt: skip
        self._add_bias(last, batch, scores)
        self._reduce(VectorOp.MAX, rows)
        both = [scores, scratch]
        number = self.program.vector(VectorOp.MULADD, **each, imm_b=1.0, c=scratch.start, c_stride1=1, negate_c=1)
        self.schedule.add(number, reads=both, writes=[scores])
        self.schedule.add(self.program.vector(VectorOp.EXP, **each), reads=[scores], writes=[scores])
        self._reduce(VectorOp.MULADD, rows)
        number = self.program.vector(
            VectorOp.RECIP, dst=scratch.start, dst_stride0=1, a=scratch.start, a_stride0=1, count0=rows
        )
        self.schedule.add(number, reads=[scratch], writes=[scratch])
        number = self.program.vector(VectorOp.MULADD, **each, b=scratch.start, b_stride1=1, imm_c=0.0)
        self.schedule.add(number, reads=both, writes=[scores])
        memory = self.memory
        number = self.program.store(
            address=memory.result + batch * plan.batch * memory.result_stride, stride=memory.result_stride,
            rows=rows, words=plan.sizes[-1], local=scores.start, local_stride=wide,
        )  # fmt: skip
        self.schedule.add(number, reads=[scores])

    def _reduce(self, op: VectorOp, rows: int):
        """Maximum (MAX) or sum (MULADD) of each image's scores, in every lane of its scratch row."""
        plan, scores, scratch = self.plan, self.layout.scores.start, self.layout.scratch.start
        wide = plan.n_tiles(plan.layers - 1)
        # First over the columns of tiles, then over lanes whose numbers differ in one bit.
        steps = [(scratch if column > 1 else scores, scores + column, 0) for column in range(1, wide)]
        for bit in range(plan.config.side_bits):
            source = scores if wide == 1 and bit == 0 else scratch
            steps.append((source, source, 1 << bit))
        for a, other, xor in steps:
            operands = {"a": a, "a_stride0": 1 if a == scratch else wide, "lane_xor": xor}
            name = "b" if op == VectorOp.MAX else "c"
            operands |= {name: other, f"{name}_stride0": 1 if other == scratch else wide}
            factor = None if op == VectorOp.MAX else 1.0
            number = self.program.vector(op, dst=scratch, dst_stride0=1, count0=rows, imm_b=factor, **operands)
            self.schedule.add(number, reads=[self.layout.scores, self.layout.scratch], writes=[self.layout.scratch])
