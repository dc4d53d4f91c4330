"""Whole programs: a training step, an inference step, the sum of losses, and the way in and out of parameters."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lepton_npu.spec.commands import Format, Precision, Rounding, VectorOp
from lepton_npu.spec.config import NpuConfig

from leptonaicsdk.network import Activation, Loss, Optimizer
from leptonaicsdk.program import Program
from leptonaicsdk.schedule import Region, Schedule

from .backward import Backward, Targets
from .buffers import Buffers, choose_buffers
from .emitter import IMAGE, INPUT, RATE, RESULT, TARGET, Emitter, View
from .forward import Forward
from .in_turn import ForwardInTurn
from .layout import Chunk, Persistent
from .loop import LoopBody, loop_body
from .update import update
from .weights import Weights

__all__ = [
    "SUM_ROWS",
    "Looped",
    "Strides",
    "first_tiles",
    "inference_buffers",
    "inference_once",
    "inference_step",
    "loss_sum",
    "training_buffers",
    "training_step",
    "transfer",
]

SUM_ROWS = 64
"""Local rows of results that one iteration of `loss_sum` adds up."""
_ROW_WORDS = 4096  # of a transfer's row: long bursts, and few rows


@dataclass(frozen=True)
class Strides:
    """Bytes in memory from one sample to the next: of the samples, their targets, their results; bytes of a rate."""

    sample: int
    target: int
    result: int
    rate: int


@dataclass(frozen=True)
class Looped:
    """A program: what runs once before the loop, the loop's body, what runs once after it."""

    before: Program
    body: LoopBody
    after: Program
    buffers: Buffers | None = None


def _straight(config: NpuConfig, emit: Callable[[Emitter], None]) -> Program:
    schedule = Schedule(config)
    emit(Emitter(config, schedule))
    return schedule.program


class _Batch:
    """What training and inference have in common: samples that are prepared a batch ahead."""

    def __init__(
        self, persistent: Persistent, buffers: Buffers, strides: Strides, scale: float, clip: tuple[float, float] | None
    ):
        self.persistent, self.buffers, self.strides = persistent, buffers, strides
        self.scale, self.clip = scale, clip

    def forward(self, e: Emitter) -> Forward:
        return Forward(e, self.buffers, self.strides.sample, self.scale, self.clip)

    def first_samples(self, e: Emitter):
        """Prepare the first batch, and point to the next."""
        forward = self.forward(e)
        for chunk in self.buffers.chunks[0]:
            forward.load_samples(chunk)
            forward.convert_samples(chunk)
            forward.quantise_samples(chunk)
        e.advance(INPUT, self.buffers.batch * self.strides.sample)

    def begin_next(self, forward: Forward):
        """Loads of the next batch that can start at once."""
        for chunk in self.buffers.chunks[0][:2]:
            forward.load_samples(chunk)

    def next_samples(self, forward: Forward, index: int):
        """Prepare chunk ``index`` of the next batch, in place of this batch's."""
        chunks = self.buffers.chunks[0]
        forward.convert_samples(chunks[index])
        forward.quantise_samples(chunks[index])
        if index + 2 < len(chunks):
            forward.load_samples(chunks[index + 2])

    def finish(self, forward: Forward):
        """Softmax if the network ends with it, and the store of the outputs."""
        last = self.persistent.layers[-1]
        if self.persistent.network.layers[-1].activation == Activation.SOFTMAX:
            forward.softmax()
        outputs = self.buffers.outputs[-1]
        forward.emitter.store(
            [outputs], register=RESULT, address=0, stride=self.strides.result, rows=self.buffers.batch,
            words=last.units, local=outputs.start, local_stride=last.n_tiles,
        )  # fmt: skip

    def advance(self, e: Emitter, *, targets: bool, rate: bool, result: bool):
        batch, strides = self.buffers.batch, self.strides
        e.advance(INPUT, batch * strides.sample)
        if targets:
            e.advance(TARGET, batch * strides.target)
        if rate:
            e.advance(RATE, strides.rate)
        if result:
            e.advance(RESULT, batch * strides.result)


def training_buffers(persistent: Persistent, batch: int, loss: Loss, *, bytes_in: bool) -> Buffers:
    """Buffers of `training_step`; ValueError if they do not fit."""
    return choose_buffers(persistent, batch, bytes_in=bytes_in, training=True, labels=loss.labelled, scratch=4)


def inference_buffers(
    persistent: Persistent, batch: int, loss: Loss | None, *, bytes_in: bool, growing: bool = False
) -> Buffers:
    """Buffers of `inference_step`; ValueError if they do not fit."""
    labels = loss is not None and loss.labelled
    softmax = persistent.network.layers[-1].activation == Activation.SOFTMAX
    scratch = 4 if loss or softmax else 0
    return choose_buffers(
        persistent, batch, bytes_in=bytes_in, training=False, labels=labels, scratch=scratch, growing=growing
    )


def training_step(
    persistent: Persistent, batch: int, loss: Loss, optimizer: Optimizer, strides: Strides, *, bytes_in: bool,
    scale: float = 1.0, clip: tuple[float, float] | None = None, rounding: Rounding = Rounding.NEAREST,
) -> Looped:  # fmt: skip
    """Forward, backward and update of a batch; the next one's samples are loaded and quantised meanwhile.

    ``rounding`` is that of the deltas' tiles.

    The order of the commands is that in which they can start: a chunk's gradient, then its update, then its tiles,
    from the last layer to the first, whose tiles the next step needs first.
    """
    buffers = training_buffers(persistent, batch, loss, bytes_in=bytes_in)
    work = _Batch(persistent, buffers, strides, scale, clip)
    last = len(persistent.layers) - 1
    total = sum(len(chunks) for chunks in buffers.chunks)

    def emit(schedule: Schedule):
        e = Emitter(persistent.config, schedule)
        forward = work.forward(e)
        targets = Targets(forward, loss, strides.target, strides.result)
        backward = Backward(targets, rounding)
        targets.load()
        rate = persistent.rate
        e.load(rate, register=RATE, address=0, rows=1, words=persistent.config.side, local=rate.start)
        work.begin_next(forward)
        forward.layers()
        targets.difference(forward.softmax() if loss.labelled else None)
        backward.output_delta()
        for l in range(last - 1, -1, -1):
            backward.hidden_delta(l)
        targets.report()
        half = total % 2  # so that the last chunk's gradient is in half 1, and the first layer's sums, in 0, are free
        for l in range(last, -1, -1):
            for chunk in buffers.chunks[l]:
                backward.gradient(l, chunk, buffers.gradients[half])
                if l == 0:
                    work.next_samples(forward, chunk.index)
                _update_chunk(forward, optimizer, l, chunk, buffers.gradients[half])
                half ^= 1
        work.advance(e, targets=True, rate=True, result=True)

    before = _straight(persistent.config, work.first_samples)
    return Looped(before, loop_body(persistent.config, emit), Program(persistent.config), buffers)


def _update_chunk(forward: Forward, optimizer: Optimizer, l: int, chunk: Chunk, sums: Region):
    """Optimizer and new tiles of a chunk of layer l."""
    persistent, buffers = forward.persistent, forward.buffers
    regions = forward.weights.begin_update(l, chunk)
    rows = persistent.chunk_rows(l, chunk)
    if chunk.with_bias and not persistent.on_chip(l):
        wide = persistent.layers[l].n_tiles
        rows -= wide
        biases = [persistent.bias(slot, l) for slot in range(len(persistent.slots))]
        update(forward.emitter, optimizer, biases, wide, View.of(sums, rows), buffers.work, persistent.rate)
    update(forward.emitter, optimizer, regions, rows, View.of(sums), buffers.work, persistent.rate)
    forward.weights.end_update(l, chunk, regions)


def inference_step(
    persistent: Persistent, batch: int, strides: Strides, *, bytes_in: bool, loss: Loss | None = None,
    scale: float = 1.0, clip: tuple[float, float] | None = None,
) -> Looped:  # fmt: skip
    """Forward pass of a batch. With a loss, each sample's result is that of `Targets.report`, else its outputs."""
    buffers = inference_buffers(persistent, batch, loss, bytes_in=bytes_in)
    work = _Batch(persistent, buffers, strides, scale, clip)

    def emit(schedule: Schedule):
        e = Emitter(persistent.config, schedule)
        forward = work.forward(e)
        work.begin_next(forward)
        targets = None
        if loss:
            targets = Targets(forward, loss, strides.target, strides.result)
            targets.load()
        layers = ForwardInTurn(forward)
        for chunk in buffers.chunks[0]:
            layers.products(chunk)
            work.next_samples(forward, chunk.index)
        layers.finish()
        if targets is None:
            work.finish(forward)
        else:
            targets.difference(forward.softmax() if targets.loss.labelled else None)
            targets.report()
        work.advance(e, targets=targets is not None, rate=False, result=True)

    before = _straight(persistent.config, work.first_samples)
    return Looped(before, loop_body(persistent.config, emit), Program(persistent.config), buffers)


def inference_once(
    persistent: Persistent, batch: int, strides: Strides, *, bytes_in: bool, scale: float = 1.0,
    clip: tuple[float, float] | None = None,
) -> Program:  # fmt: skip
    """Forward pass of one batch, as soon as possible: what has come is multiplied while the next is on its way."""
    buffers = inference_buffers(persistent, batch, None, bytes_in=bytes_in, growing=True)
    work = _Batch(persistent, buffers, strides, scale, clip)
    chunks = buffers.chunks[0]

    def emit(e: Emitter):
        forward = work.forward(e)
        layers = ForwardInTurn(forward)
        forward.load_samples(chunks[0])
        for chunk in chunks:
            forward.convert_samples(chunk)
            forward.quantise_samples(chunk)
            if chunk.index + 1 < len(chunks):
                forward.load_samples(chunks[chunk.index + 1])
            layers.products(chunk)
        layers.finish()
        work.finish(forward)

    return _straight(persistent.config, emit)


def loss_sum(persistent: Persistent, loss: Loss) -> Looped:
    """Sum of the losses in `Targets.report`'s results, and how many are correct; `SUM_ROWS` local rows an iteration.

    The two sums are stored as words 0 and 1 at register TARGET. With softmax the loss of a sample is -log of its
    label's probability p, at least 1e-7 as in Keras. There is no logarithm in the vector unit: n = -log(p) is the
    zero of p e^n - 1, found by three Newton steps n -= p e^n - 1 from the word of p read as an integer, which is
    2^23 (log2(p) + 127) to within 0.09 * 2^23 (J. N. Mitchell, "Computer Multiplication and Division Using Binary
    Logarithms", IRE Trans. EC-11, 1962). The error is 0.043 * ln 2 at first, and after a step at most half its square.
    A sample is correct if its label is the first class with the greatest probability, as NumPy's and Keras's argmax.
    """
    config = persistent.config
    lanes = persistent.layers[-1].n_tiles * config.side
    spaces = persistent.copy_spaces()
    pairs, losses, hits, work, total, right = (spaces.vmem.take("losses", SUM_ROWS) for _ in range(6))
    even, lane0 = (View.of(persistent.constant(name), stride0=0) for name in ("even", "lane0"))
    count = (SUM_ROWS, 1)
    row_bytes = config.row_bytes

    def zero(e: Emitter):
        for region in (total, right):
            e.muladd(View.of(region), even, 0.0, 0.0, count=count)

    def emit(schedule: Schedule):
        e = Emitter(config, schedule)
        e.load(pairs, register=RESULT, address=0, rows=1, words=SUM_ROWS * config.side, local=pairs.start)
        each, n, hit, scratch = (View.of(region) for region in (pairs, losses, hits, work))
        if loss.labelled:
            e.vector(VectorOp.EQ, hit, each, float(lanes), count=count, lane_xor=1)
            e.vector(VectorOp.LT, scratch, each, 1e-7, count=count)  # not MAX, in which a NaN loses: it must be seen
            e.vector(VectorOp.SELECT, each, scratch, 1e-7, each, count=count)
            slope = -math.log(2) / (1 << 23)
            e.muladd(n, each, slope, (127 - 0.043) * math.log(2), count=count, a_format=Format.I32)
            for _ in range(3):
                e.vector(VectorOp.EXP, scratch, n, count=count)
                e.muladd(scratch, scratch, each, -1.0, count=count)
                e.muladd(n, scratch, -1.0, n, count=count)
            e.muladd(View.of(total), n, even, View.of(total), count=count)
            e.muladd(View.of(right), hit, even, View.of(right), count=count)
        else:
            e.muladd(View.of(total), each, even, View.of(total), count=count)
        e.advance(RESULT, SUM_ROWS * row_bytes)

    def finish(e: Emitter):
        for region in (total, right):
            rows = SUM_ROWS
            while rows > 1:
                rows //= 2
                first = View.of(region)
                e.muladd(first, View.of(region, rows), 1.0, first, count=(rows, 1))
            for bit in range(config.side_bits):
                first = View.of(region)
                e.muladd(first, first, 1.0, first, count=(1, 1), lane_xor=1 << bit)
        e.vector(VectorOp.SELECT, View.of(total), lane0, View.of(total), View.of(right), count=(1, 1))
        e.store([total], register=TARGET, address=0, rows=1, words=2, local=total.start)

    return Looped(_straight(config, zero), loop_body(config, emit), _straight(config, finish))


def transfer(persistent: Persistent, slots: Iterable[int], *, store: bool) -> Program:
    """What lives on the chip of some slots, from the image at register IMAGE to the chip, or back.

    Into the chip the constants come as well, which are behind the image's slots.
    """
    config = persistent.config

    def move(e: Emitter, region: Region, offset: int):
        """Rows that are one behind another in memory, in long rows of a LOAD or STORE."""
        block = _ROW_WORDS // config.side
        whole = region.size // block
        for first, rows, count in ((0, whole, block), (whole * block, 1, region.size % block)):
            if rows and count:
                fields: dict[str, Any] = {
                    "register": IMAGE, "address": offset + first * config.row_bytes, "rows": rows,
                    "stride": block * config.row_bytes, "words": count * config.side, "local": region.start + first,
                    "local_stride": block,
                }  # fmt: skip
                if store:
                    e.store([region], **fields)
                else:
                    e.load(region, **fields)

    def emit(e: Emitter):
        for slot in slots:
            for l, region in enumerate(persistent.slots[slot]):
                first = 0 if persistent.on_chip(l) else persistent.layers[l].inputs
                move(e, region, persistent.image_offset(slot, l, first))
        if not store:
            move(e, persistent.constants, len(persistent.slots) * persistent.rows * config.row_bytes)

    return _straight(config, emit)


def first_tiles(buffers: Buffers) -> Program:
    """Tiles of the weights that a transfer has brought, and the tile of ones."""
    persistent = buffers.persistent
    side = persistent.config.side

    def emit(e: Emitter):
        weights = Weights(e, buffers)
        for l, chunks in enumerate(buffers.chunks):
            for chunk in chunks:
                weights.first_tiles(l, chunk)
        row, ones = persistent.constant("ones"), persistent.ones
        e.quant([row], [ones], Precision.P8, source=row.start, rows=1, cols=side, tile=ones.start)

    return _straight(persistent.config, emit)
