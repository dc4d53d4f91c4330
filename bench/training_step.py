"""One training step of the 784-64-10 network with Adam as a command program, for measurements of simulators.

The commands are those that a compiler needs: pixels to binary32 and to tiles, the five products, softmax by lane
shuffles, biases' gradients by halving, Adam in chunks of the first layer's weights. It is not the SDK's program.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Format, Precision, VectorOp
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig
from leptonaicsdk.schedule import Region, Schedule
from numpy.typing import NDArray

__all__ = ["TrainingStep", "synthetic_digits"]

INPUTS, HIDDEN, CLASSES, BATCH = 784, 64, 10, 32
_CHUNKS = 7
_ADAM = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7}
_BASE = 0x8000_0000


def synthetic_digits(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Images like MNIST's where speed is concerned, (count, 784): dead borders, pixels that are rarely set, zeros."""
    row, col = np.mgrid[0:28, 0:28]
    distance = np.hypot(row - 13.5, col - 13.5)
    chance = np.where(distance < 13.5, 0.6 * np.exp(-((distance / 6) ** 2)), 0).reshape(-1)
    return np.where(rng.random((count, INPUTS)) < chance, rng.integers(1, 256, (count, INPUTS)), 0).astype(np.uint8)


@dataclass(frozen=True)
class _Parameters:
    """Weights or biases of a layer with Adam's moments: blocks of as many rows each, and their gradient's rows."""

    value: Region
    mean: Region
    square: Region


class TrainingStep:
    """The program and its memory.

    Parameters
    ----------
    config : NpuConfig
        Of side 16, with 16384 rows of vector memory, 4096 of accumulators and 512 tiles or more.
    seed : int
        Of the first weights.
    precision : Precision
        Mantissa of all tiles.

    Attributes
    ----------
    memory : numpy.ndarray
        From byte address ``base`` on: ring, images, one-hot labels, first parameters, room for the metrics.
    base, ring_log2 : int
        Address of the memory and the ring; log2 of the ring's records.
    setup, records : int
        Records at the ring's start that load the parameters; records of a step, which follow.
    """

    def __init__(self, config: NpuConfig, *, seed: int = 1, precision: Precision = Precision.P8):
        if config.side != 16:
            raise ValueError(f"config must have side 16, not {config.side}")
        self.config, self.base, self.ring_log2 = config, _BASE, 9
        self._precision, self._side = precision, config.side
        self._limbs = precision.limbs
        self._free = {"vmem": 0, "acc": ACC_SPACE, "tile": 0}
        self._regions()
        self._place(np.random.default_rng(seed))
        self.schedule = Schedule(config)
        self.program = self.schedule.program
        self._load_parameters()
        self.setup = len(self.program)
        self._step()
        self.schedule.add(self.program.fence())
        self.records = len(self.program) - self.setup
        ring = np.frombuffer(self.program.records(), np.uint8)
        self.memory[: ring.size] = ring

    def put_batch(self, images: NDArray[np.uint8], labels: NDArray[np.integer]):
        """Write a batch's images, (32, 784), and labels where the program reads them."""
        self.memory[self._images : self._images + images.size] = images.reshape(-1)
        targets = np.zeros((BATCH, self._side), np.float32)
        targets[np.arange(BATCH), labels] = 1
        self.memory[self._labels : self._labels + targets.nbytes] = targets.view(np.uint8).reshape(-1)

    def metrics(self) -> NDArray[np.float32]:
        """The batch's cross-entropy's exponentials and hits that the last step stored: (32, 16)."""
        return self.memory[self._metrics :][: BATCH * self._side * 4].view(np.float32).reshape(BATCH, -1)

    def _region(self, space: str, size: int) -> Region:
        self._free[space] += size
        return Region(space, self._free[space] - size, size)

    def _regions(self):
        rows, tiles, acc = (lambda size, space=space: self._region(space, size) for space in ("vmem", "tile", "acc"))
        wide, limbs = HIDDEN // self._side, self._limbs
        high = BATCH // self._side
        self.w1, self.w2, self.b1, self.b2 = (
            [_Parameters(rows(size), rows(size), rows(size)) for _ in range(count)]
            for size, count in ((INPUTS // _CHUNKS * wide, _CHUNKS), (HIDDEN, 1), (wide, 1), (1, 1))
        )
        self.pixels = [rows(2 * BATCH) for _ in range(_CHUNKS)]
        self.inputs = rows(BATCH * INPUTS // self._side // _CHUNKS)
        self.targets, self.hidden, self.mask, self.delta1 = (
            rows(BATCH),
            rows(BATCH * wide),
            rows(BATCH * wide),
            rows(BATCH * wide),
        )
        self.scores, self.scratch, self.hits, self.delta2 = rows(BATCH), rows(BATCH), rows(BATCH), rows(BATCH)
        self.halves = rows(BATCH * wide)
        self.adam = rows(INPUTS // _CHUNKS * wide)
        k = INPUTS // self._side // _CHUNKS
        self.x_tiles = [tiles(k * high * limbs) for _ in range(_CHUNKS)]
        self.w1_tiles = [tiles(k * wide * limbs) for _ in range(_CHUNKS)]
        self.h_tiles, self.w2_tiles = tiles(high * wide * limbs), tiles(wide * limbs)
        self.delta2_tiles, self.delta1_tiles = tiles(high * limbs), tiles(high * wide * limbs)
        self.sums1, self.sums2, self.back = acc(BATCH * wide), acc(BATCH), acc(BATCH * wide)
        self.gradients = [acc(INPUTS // _CHUNKS * wide) for _ in range(2)]
        self.gradient2 = acc(HIDDEN)

    def _place(self, rng: np.random.Generator):
        side = self._side
        self._images = RECORD_BYTES << self.ring_log2
        self._labels = self._images + BATCH * INPUTS
        self._metrics = self._labels + BATCH * side * 4
        self._parameters = self._metrics + BATCH * side * 4
        first = rng.standard_normal((INPUTS, HIDDEN), np.float32) * np.float32(np.sqrt(2 / INPUTS))
        second = np.zeros((HIDDEN, side), np.float32)
        second[:, :CLASSES] = rng.standard_normal((HIDDEN, CLASSES), np.float32) * np.float32(np.sqrt(1 / HIDDEN))
        bias = np.zeros(side, np.float32)
        bias[CLASSES:] = -np.inf  # Lanes beyond the classes must not count in softmax.
        self._values = (first, second, np.zeros(HIDDEN, np.float32), bias)
        blocks = np.concatenate([value.reshape(-1) for value in self._values]).view(np.uint8)
        self.memory = np.zeros(self._parameters + blocks.size, np.uint8)
        self.memory[self._parameters :] = blocks

    def _load_parameters(self):
        """Parameters into the vector memory, and the first tiles; the moments are 0 at reset."""
        address = self.base + self._parameters
        for part in (*self.w1, *self.w2, *self.b1, *self.b2):
            size = part.value.size
            number = self.program.load(
                address=address, rows=size, words=16, stride=64, local=part.value.start, local_stride=1
            )
            self.schedule.add(number, writes=[part.value])
            address += size * 64
        for part, target in zip(self.w1, self.w1_tiles):
            self._quant(part.value, target, INPUTS // _CHUNKS, HIDDEN)
        self._quant(self.w2[0].value, self.w2_tiles, HIDDEN, CLASSES)
        self.schedule.add(self.program.fence())

    def _quant(self, source: Region, target: Region, rows: int, cols: int):
        wide, high = -(-cols // self._side), -(-rows // self._side)
        number = self.program.quant(
            precision=self._precision, source=source.start, source_stride=wide, rows=rows, cols=cols,
            tile=target.start, tile_stride=high, limb_stride=high * wide,
        )  # fmt: skip
        self.schedule.add(number, reads=[source], writes=[target])

    def _vector(
        self, op: VectorOp, target: Region, a: Region, *others: Region, rows: int = 0, shift: int = 0, **fields
    ):
        """``op`` over all rows of the target, or ``rows`` of them; a from row ``shift``; others are b and c in turn."""
        f = {"dst": target.start, "dst_stride0": 1, "a": a.start + shift, "a_stride0": 1, "count0": rows or target.size}
        names = [name for name in op.operands[1:] if f"imm_{name}" not in fields]
        for name, region in zip(names, others):
            f |= {name: region.start, f"{name}_stride0": 1}
        number = self.program.vector(op, **{**f, **fields})
        self.schedule.add(number, reads=[a, *others], writes=[target])

    def _matmul(self, a: Region, b: Region, target: Region, reads: Iterable[Region] = (), **fields: int):
        number = self.program.matmul(
            a_precision=self._precision, b_precision=self._precision, a_tile=a.start, b_tile=b.start,
            acc=target.start, **fields,
        )  # fmt: skip
        self.schedule.add(number, reads=[a, b, *reads], writes=[target])

    def _step(self):
        self._forward()
        self._softmax()
        self._backward()

    def _forward(self):
        wide, high, k = HIDDEN // self._side, BATCH // self._side, INPUTS // self._side // _CHUNKS
        number = self.program.load(
            address=self.base + self._labels, rows=BATCH, words=16, stride=64, local=self.targets.start, local_stride=1
        )
        self.schedule.add(number, writes=[self.targets])
        for chunk in range(_CHUNKS):
            pixels, tiles = self.pixels[chunk], self.x_tiles[chunk]
            number = self.program.load(
                address=self.base + self._images + chunk * k * 16, stride=INPUTS, rows=BATCH, words=4 * k,
                local=pixels.start, local_stride=2,
            )  # fmt: skip
            self.schedule.add(number, writes=[pixels])
            self._vector(
                VectorOp.MULADD, self.inputs, pixels, imm_b=1 / 255, imm_c=0.0, a_format=Format.U8, a_stride1=2,
                dst_stride1=k, count0=k, count1=BATCH,
            )  # fmt: skip
            self._quant(self.inputs, tiles, BATCH, k * 16)
            self._matmul(
                tiles, self.w1_tiles[chunk], self.sums1, accumulate=chunk > 0, a_k_stride=high, a_stride0=1,
                a_limb_stride=high * k, b_k_stride=1, b_n_stride=k, b_limb_stride=k * wide, rows=BATCH, count0=BATCH,
                k_tiles=k, n_tiles=wide, acc_n_stride=1, acc_stride0=wide,
            )  # fmt: skip
        self._vector(
            VectorOp.MULADD, self.hidden, self.sums1, self.b1[0].value, imm_b=1.0, relu=1, count0=wide, count1=BATCH,
            a_stride1=wide, dst_stride1=wide,
        )  # fmt: skip
        self._quant(self.hidden, self.h_tiles, BATCH, HIDDEN)
        self._matmul(
            self.h_tiles, self.w2_tiles, self.sums2, a_k_stride=high, a_limb_stride=high * wide, a_stride0=1,
            b_k_stride=1, b_limb_stride=wide, rows=BATCH, count0=BATCH, k_tiles=wide, acc_stride0=1,
        )  # fmt: skip

    def _reduce(self, op: VectorOp, target: Region, source: Region):
        """Maximum or sum of all lanes, in every lane."""
        for bit in range(4):
            fields = {"imm_b": 1.0} if op == VectorOp.MULADD else {}
            a = target if bit else source
            self._vector(op, target, a, a, lane_xor=1 << bit, **fields)

    def _softmax(self):
        """The gradient in the scores, hits, and exp of the losses."""
        self._vector(VectorOp.MULADD, self.scores, self.sums2, self.b2[0].value, imm_b=1.0, c_stride0=0)
        self._reduce(VectorOp.MAX, self.scratch, self.scores)
        self._vector(VectorOp.EQ, self.hits, self.scores, self.scratch)
        self._vector(VectorOp.MULADD, self.hits, self.hits, self.targets, imm_c=0.0)
        self._vector(VectorOp.MULADD, self.scores, self.scores, self.scratch, imm_b=1.0, negate_c=1)
        self._vector(VectorOp.EXP, self.scores, self.scores)
        self._reduce(VectorOp.MULADD, self.scratch, self.scores)
        self._vector(VectorOp.RECIP, self.scratch, self.scratch)
        self._vector(VectorOp.MULADD, self.scores, self.scores, self.scratch, imm_c=0.0)
        self._vector(VectorOp.MULADD, self.delta2, self.scores, self.targets, imm_b=1.0, negate_c=1)
        self._vector(VectorOp.MULADD, self.delta2, self.delta2, imm_b=1 / BATCH, imm_c=0.0)
        self._vector(VectorOp.MULADD, self.hits, self.hits, self.scores, imm_b=1.0)
        number = self.program.store(
            address=self.base + self._metrics, rows=BATCH, words=16, stride=64, local=self.hits.start, local_stride=1
        )
        self.schedule.add(number, reads=[self.hits])

    def _backward(self):
        wide, high, k = HIDDEN // self._side, BATCH // self._side, INPUTS // self._side // _CHUNKS
        self._quant(self.delta2, self.delta2_tiles, BATCH, CLASSES)
        transposed = {"a_transpose": 1, "count0": 16, "a_stride0": 1, "a_stride1": high * 16, "a_k_stride": 1}
        self._matmul(
            self.h_tiles, self.delta2_tiles, self.gradient2, **transposed, a_limb_stride=high * wide, count1=wide,
            b_k_stride=1, b_limb_stride=high, rows=HIDDEN, k_tiles=high, acc_stride0=1, acc_stride1=16,
        )  # fmt: skip
        self._matmul(
            self.delta2_tiles, self.w2_tiles, self.back, a_limb_stride=high, a_stride0=1, b_transpose=1, b_n_stride=1,
            b_limb_stride=wide, rows=BATCH, count0=BATCH, n_tiles=wide, acc_n_stride=1, acc_stride0=wide,
        )  # fmt: skip
        self._vector(VectorOp.EQ, self.mask, self.hidden, imm_b=0.0)
        self._vector(VectorOp.SELECT, self.delta1, self.mask, self.back, imm_b=0.0)
        self._quant(self.delta1, self.delta1_tiles, BATCH, HIDDEN)
        self._halve(self.delta2, 1)
        self._adam(self.b2[0], self.halves)
        self._halve(self.delta1, wide)
        self._adam(self.b1[0], self.halves)
        self._adam(self.w2[0], self.gradient2)
        self._quant(self.w2[0].value, self.w2_tiles, HIDDEN, CLASSES)
        for chunk in range(_CHUNKS):
            gradient = self.gradients[chunk % 2]
            self._matmul(
                self.x_tiles[chunk], self.delta1_tiles, gradient, **transposed, a_limb_stride=high * k, count1=k,
                b_k_stride=1, b_n_stride=high, b_limb_stride=high * wide, rows=16 * k, k_tiles=high, n_tiles=wide,
                acc_n_stride=1, acc_stride0=wide, acc_stride1=16 * wide,
            )  # fmt: skip
            self._adam(self.w1[chunk], gradient)
            self._quant(self.w1[chunk].value, self.w1_tiles[chunk], 16 * k, HIDDEN)

    def _halve(self, source: Region, wide: int):
        """Sums over the batch of rows ``wide`` local rows long, into the first rows of ``halves``."""
        rows = BATCH * wide // 2
        while rows >= wide:
            self._vector(VectorOp.MULADD, self.halves, source, source, rows=rows, shift=rows, imm_b=1.0)
            source, rows = self.halves, rows // 2

    def _adam(self, part: _Parameters, gradient: Region):
        """m, v and w of `part`; the factor (1 - beta1) of the mean is in the rate, that of the square as well."""
        value, mean, square = part.value, part.mean, part.square
        work = Region("vmem", self.adam.start, value.size) if value.size != self.adam.size else self.adam
        rows, muladd = value.size, VectorOp.MULADD
        beta1, beta2 = _ADAM["beta1"], _ADAM["beta2"]
        rate = _ADAM["rate"] * (1 - beta1) / (1 - beta2) ** 0.5
        self._vector(muladd, mean, mean, gradient, imm_b=beta1)
        self._vector(muladd, work, gradient, gradient, rows=rows, imm_c=0.0)
        self._vector(muladd, square, square, work, imm_b=beta2)
        root = getattr(VectorOp, "SQRT", None)
        self._vector(root or VectorOp.RECIP, work, square, rows=rows)
        self._vector(muladd, work, work, rows=rows, imm_b=1.0, imm_c=_ADAM["epsilon"])
        self._vector(VectorOp.RECIP, work, work, rows=rows)
        self._vector(muladd, work, work, mean, rows=rows, imm_c=0.0)
        self._vector(muladd, value, work, value, imm_b=-rate)
