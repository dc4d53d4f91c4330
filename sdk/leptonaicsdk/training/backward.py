"""Losses, their gradients, and the backward pass down to the gradient of a chunk of weights."""

from lepton_npu.spec.commands import Format, Precision, Rounding, VectorOp

from leptonaicsdk.network import Activation, Loss
from leptonaicsdk.schedule import Region

from .emitter import RESULT, TARGET, View
from .forward import Forward
from .layout import Chunk

__all__ = ["Backward", "Targets"]


class Targets:
    """The loss: targets in, loss of each sample out.

    Parameters
    ----------
    forward : Forward
    loss : Loss
    target_stride, result_stride : int
        Bytes from one sample's label or targets, and from one sample's result, to the next.
    """

    def __init__(self, forward: Forward, loss: Loss, target_stride: int, result_stride: int):
        self.forward, self.loss = forward, loss
        self.buffers, self.persistent, self.emitter = forward.buffers, forward.persistent, forward.emitter
        self.target_stride, self.result_stride = target_stride, result_stride
        wide = self.persistent.layers[-1].n_tiles
        self.wide, self.batch = wide, self.buffers.batch
        constants = (View.of(self.persistent.constant(name)) for name in ("lanes", "left", "used"))
        self.lanes, self.left, self.used = constants
        self.lane0 = View.of(self.persistent.constant("lane0"), stride0=0)
        self.outputs = View.of(self.buffers.outputs[-1], stride1=wide)
        self.everywhere = self.persistent.config.side - 1  # lane_bcast: lane 0 in all lanes

    def load(self):
        """Labels, in lane 0 of a row for each sample, or target values."""
        target = self.buffers.target
        labels = self.loss.labelled
        self.emitter.load(
            target, register=TARGET, address=0, stride=self.target_stride, rows=self.batch, local=target.start,
            words=1 if labels else self.persistent.layers[-1].units, local_stride=1 if labels else self.wide,
        )  # fmt: skip

    def difference(self, greatest: Region | None):
        """Rows of a - y in the first scratch buffer; what the loss of each sample needs in the second.

        With softmax y is the one-hot row of the label.
        """
        e, buffers, count = self.emitter, self.buffers, (self.wide, self.batch)
        self.greatest = greatest
        self.delta = delta = View.of(buffers.scratch[0], stride1=self.wide)
        if self.loss.labelled:
            hot = View.of(buffers.scratch[1], stride1=self.wide)
            label = View((buffers.target,), buffers.target.start, 0, 1)
            e.vector(VectorOp.EQ, hot, label, self.lanes, count=count, a_format=Format.I32, lane_bcast=self.everywhere)
            e.muladd(delta, hot, -1.0, self.outputs, count=count)
            return
        target = View.of(buffers.target, stride1=self.wide)
        e.muladd(delta, self.outputs, 1.0, target, count=count, negate_c=1)
        e.muladd(delta, delta, self.used, 0.0, count=count)  # unused lanes do not count

    def report(self):
        """Each sample's pair of words to memory; its loss and 0; or with labels, see `_classified`."""
        e, buffers = self.emitter, self.buffers
        row, work = buffers.scratch[3], View.of(buffers.scratch[1], stride1=self.wide)
        rows = View.of(row)
        if self.greatest is not None:
            self._classified(self.greatest)
        else:
            e.muladd(work, self.delta, self.delta, 0.0, count=(self.wide, self.batch))
            self.forward.reduce(VectorOp.MULADD, buffers.scratch[1], row)
            units = self.persistent.layers[-1].units
            factor = 1.0 / units if self.loss == Loss.MEAN_SQUARED_ERROR else 1.0
            e.muladd(rows, rows, factor, 0.0, count=(self.batch, 1))
            e.vector(VectorOp.SELECT, rows, self.lane0, rows, 0.0, count=(self.batch, 1))
        e.store(
            [row], register=RESULT, address=0, stride=self.result_stride, rows=self.batch, words=2, local=row.start,
            local_stride=1,
        )  # fmt: skip

    def _classified(self, greatest: Region):
        """The probability of each sample's label; and its number, plus the lanes from its class to the last one.

        Its class is the first one with the greatest probability. The second word is the number of lanes if that is the
        label. Both are found by one reduction: that of the probabilities' other lanes are 0.
        """
        e, buffers, count = self.emitter, self.buffers, (self.wide, self.batch)
        pair, row, size = buffers.scratch[1], buffers.scratch[3], self.batch * self.wide
        likely, first = (View.of(pair, offset, stride1=self.wide) for offset in (0, size))
        each = View((greatest,), greatest.start, 0, 1)
        e.muladd(likely, likely, self.outputs, 0.0, count=count)
        e.vector(VectorOp.EQ, first, self.outputs, each, count=count)
        e.muladd(first, first, self.left, 0.0, count=count)
        self.forward.reduce(VectorOp.MAX, pair, row)
        found, label = View.of(row, self.batch), View.of(buffers.target)
        rows, each_one = View.of(row), (self.batch, 1)
        e.muladd(found, label, 1.0, found, count=each_one, a_format=Format.I32, lane_bcast=self.everywhere)
        e.vector(VectorOp.SELECT, rows, self.lane0, rows, found, count=each_one)


class Backward:
    """Emits the backward pass of a batch.

    Parameters
    ----------
    targets : Targets
    rounding : Rounding
        Of the tiles of dE/dz.
    """

    def __init__(self, targets: Targets, rounding: Rounding = Rounding.NEAREST):
        self.targets, self.forward, self.rounding = targets, targets.forward, rounding
        self.buffers, self.persistent, self.emitter = targets.buffers, targets.persistent, targets.emitter
        self.side, self.precision = self.forward.side, self.forward.precision
        self.batch, self.high = self.buffers.batch, self.buffers.high

    def output_delta(self):
        """dE/dz of the last layer, for the mean of the loss over the batch, and its tiles."""
        e, t = self.emitter, self.targets
        layer, last = self.persistent.layers[-1], len(self.persistent.layers) - 1
        count = (layer.n_tiles, self.batch)
        factor = 1.0 / self.batch
        target = t.delta
        if not t.loss.labelled:
            factor *= 2.0 / (layer.units if t.loss == Loss.MEAN_SQUARED_ERROR else 1)
            # Not in place: the differences are the loss's, too.
            target = View.of(self.buffers.scratch[1], stride1=layer.n_tiles)
        e.muladd(target, t.delta, factor, 0.0, count=count)
        self._through(last, target, target, count)
        self._quantise(last, target)

    def _through(self, l: int, target: View, delta: View, count: tuple[int, int]):
        """target = delta * derivative of layer l's activation, in terms of its outputs."""
        e, activation = self.emitter, self.persistent.network.layers[l].activation
        outputs = View.of(self.buffers.outputs[l], stride1=count[0])
        if activation == Activation.RELU:
            e.vector(VectorOp.SELECT, target, outputs, delta, 0.0, count=count)
        elif activation in (Activation.SIGMOID, Activation.TANH):
            slope = View.of(self.buffers.slopes, stride1=count[0])
            one_or_a: View | float = outputs if activation == Activation.SIGMOID else 1.0
            e.muladd(slope, outputs, outputs, one_or_a, count=count, negate_b=1)
            e.muladd(target, delta, slope, 0.0, count=count)

    def _quantise(self, l: int, source: View):
        layer, tiles = self.persistent.layers[l], self.buffers.delta_tiles[l]
        self.emitter.quant(
            source.regions, [tiles.region], self.precision, rounding=self.rounding, source=source.start,
            source_stride=layer.n_tiles, rows=self.batch, cols=layer.units, tile=tiles.start, tile_stride=self.high,
            limb_stride=self.high * layer.n_tiles,
        )  # fmt: skip

    def hidden_delta(self, l: int):
        """dE/dz of layer l from that of layer l + 1: (delta W^T) times the derivative, and its tiles."""
        buffers, layer, above = self.buffers, self.persistent.layers[l], self.persistent.layers[l + 1]
        deltas, sums = buffers.delta_tiles[l + 1], buffers.back_sums[0]
        for chunk in buffers.chunks[l + 1]:
            weights = self.forward.weights.tiles(l + 1, chunk)
            self.emitter.matmul(
                [deltas.region, weights.region], [sums], self.precision, self.precision, b_transpose=1,
                k_tiles=above.n_tiles, n_tiles=chunk.tiles,
                a_tile=deltas.start, a_k_stride=self.high, a_limb_stride=self.high * above.n_tiles, a_stride0=1,
                b_tile=weights.start, b_k_stride=weights.column, b_n_stride=1, b_limb_stride=weights.limb,
                acc=sums.start + chunk.first, acc_n_stride=1, acc_stride0=layer.n_tiles, rows=self.batch,
                count0=self.batch,
            )  # fmt: skip
        count = (layer.n_tiles, self.batch)
        delta = View.of(sums, stride1=layer.n_tiles)
        if self.persistent.network.layers[l].activation == Activation.LINEAR:
            self._quantise(l, delta)
            return
        target = View.of(buffers.deltas[0], stride1=layer.n_tiles)
        self._through(l, target, delta, count)
        self._quantise(l, target)

    def gradient(self, l: int, chunk: Chunk, sums: Region):
        """dE/dW of a chunk of layer l: inputs^T delta; and with its last chunk dE/db: 1^T delta, behind it."""
        buffers, layer = self.buffers, self.persistent.layers[l]
        tiles, deltas = buffers.tiles[l], buffers.delta_tiles[l]
        inputs = buffers.input_tiles(chunk) if l == 0 else tiles.region
        into = {"k_tiles": self.high, "n_tiles": layer.n_tiles, "acc_n_stride": 1, "b_tile": deltas.start,
                "b_k_stride": 1, "b_n_stride": self.high, "b_limb_stride": self.high * layer.n_tiles}  # fmt: skip
        rows = chunk.rows
        self.emitter.matmul(
            [inputs, deltas.region], [sums], self.precision, self.precision, **into, a_transpose=1,
            a_tile=tiles.start + chunk.first * self.high, a_k_stride=1, a_limb_stride=self.high * tiles.wide,
            a_stride0=1, a_stride1=self.high * self.side, count0=self.side, count1=chunk.tiles,
            acc=sums.start, acc_stride0=layer.n_tiles, acc_stride1=self.side * layer.n_tiles, rows=rows,
        )  # fmt: skip
        if chunk.with_bias:
            self.emitter.matmul(
                [self.persistent.ones, deltas.region], [sums], Precision.P8, self.precision, **into,
                a_tile=self.persistent.ones.start, acc=sums.start + rows * layer.n_tiles, rows=1,
            )  # fmt: skip
