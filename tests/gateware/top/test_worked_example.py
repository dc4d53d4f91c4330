"""The worked example (docs/worked-example.md) on the core at precision 32, written by hand as commands.

2-3-1 with relu on both layers: forward, backward, gradient descent, and forward again with the new weights. Up to the
update every number is a small binary fraction, and the core must be exact. From then on it may be off by what `_bounds`
derives. The RTL must equal the simulator bit for bit, as always.
"""

import numpy as np
import pytest
from lepton_npu.spec.commands import Precision, VectorOp
from lepton_npu.spec.config import ACC_SPACE, PRESETS, RECORD_BYTES
from lepton_sim.core import core_library, run_job
from lepton_sim.harness import Harness
from lepton_verif.job import Job
from lepton_verif.model import equations as eq
from lepton_verif.model.bounds import UNIT, product_bound
from lepton_verif.model.iss import Iss
from leptonaicsdk.program import Program

RATE = 0.1
P32 = Precision.P32
BASE, RING_LOG2 = 0x10000, 6
X, W1, B1, W2, B2, Y, H, A, DELTA2, DELTA1, H_AFTER, A_AFTER, ROWS = 0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15
"""Local rows in the vector memory: matrices of a row or more, one local row each."""
Z1, Z2, DH, GW2, GW1, SUMS = 0, 1, 2, 3, 6, 8
"""Accumulator rows."""
TILE = {X: 0, W1: 3, H: 6, W2: 9, DELTA2: 12, DELTA1: 15, H_AFTER: 18}
"""First of the three tiles, one a limb, of what is multiplied; no matrix here is larger than a tile."""


class _Step:
    """The program. Every command waits for all before it: a fence between any two."""

    def __init__(self, config):
        self.program = Program(config)

    def _quantise(self, source: int, rows: int, cols: int):
        self.program.quant(
            precision=P32, source=source, source_stride=1, rows=rows, cols=cols, tile=TILE[source], limb_stride=1
        )
        self.program.fence()

    def _multiply(self, a: int, b: int, acc: int, rows: int, **transposed: int):
        self.program.matmul(
            a_precision=P32, b_precision=P32, a_tile=TILE[a], b_tile=TILE[b], a_limb_stride=1, b_limb_stride=1,
            k_tiles=1, n_tiles=1, acc=ACC_SPACE + acc, rows=rows, count0=rows, a_stride0=1, acc_stride0=1, **transposed,
        )  # fmt: skip
        self.program.fence()

    def _vector(self, op: VectorOp, dst: int, a: int, rows: int = 1, **operands):
        strides = {f"{name}_stride0": 1 for name in ("dst", "a", "b", "c")}
        self.program.vector(op, dst=dst, a=a, count0=rows, **strides, **operands)
        self.program.fence()

    def _forward(self, hidden: int, output: int):
        """z = a W + b, a = relu(z), twice."""
        self._quantise(W1, 2, 3)
        self._multiply(X, W1, Z1, 1)
        self._vector(VectorOp.MULADD, hidden, ACC_SPACE + Z1, imm_b=1.0, c=B1, relu=1)
        self._quantise(hidden, 1, 3)
        self._quantise(W2, 3, 1)
        self._multiply(hidden, W2, Z2, 1)
        self._vector(VectorOp.MULADD, output, ACC_SPACE + Z2, imm_b=1.0, c=B2, relu=1)

    def _backward(self):
        """delta2 = 2 (a - y) where a > 0, delta1 = delta2 W2^T where h > 0, gradients H^T delta2 and X^T delta1."""
        self._vector(VectorOp.MULADD, DELTA2, A, imm_b=1.0, c=Y, negate_c=1)
        self._vector(VectorOp.MULADD, DELTA2, DELTA2, imm_b=2.0, imm_c=0.0)
        self._vector(VectorOp.SELECT, DELTA2, A, b=DELTA2, imm_c=0.0)
        self._quantise(DELTA2, 1, 1)
        self._multiply(DELTA2, W2, DH, 1, b_transpose=1)
        self._vector(VectorOp.SELECT, DELTA1, H, b=ACC_SPACE + DH, imm_c=0.0)
        self._quantise(DELTA1, 1, 3)
        self._multiply(H, DELTA2, GW2, 3, a_transpose=1)
        self._multiply(X, DELTA1, GW1, 2, a_transpose=1)

    def _descend(self):
        """w -= rate * gradient; the gradient of a bias is the delta of the one sample."""
        gradients = ((W1, ACC_SPACE + GW1, 2), (B1, DELTA1, 1), (W2, ACC_SPACE + GW2, 3), (B2, DELTA2, 1))
        for parameter, gradient, rows in gradients:
            self._vector(VectorOp.MULADD, parameter, gradient, rows, imm_b=-RATE, c=parameter)

    def emit(self, data: int, result: int, side: int) -> Program:
        """All of it; memory holds rows X to Y at ``data``, and gets all rows at ``result``."""
        row = {"words": side, "stride": 4 * side, "local_stride": 1}
        self.program.load(address=data, local=0, rows=H, **row)
        self.program.fence()
        self._quantise(X, 1, 2)
        self._forward(H, A)
        self._backward()
        self._descend()
        self._forward(H_AFTER, A_AFTER)
        self.program.store(address=result, local=0, rows=ROWS, **row)
        self.program.store(address=result + ROWS * 4 * side, local=ACC_SPACE, rows=SUMS, **row)
        self.program.irq(1)
        return self.program


def _layers():
    return [
        eq.Dense(np.full((2, 3), 0.5), np.full(3, 0.5), "relu"),
        eq.Dense(np.full((3, 1), 0.5), np.full(1, 0.5), "relu"),
    ]


def _job(config) -> tuple[Job, int]:
    """The job, and where its result begins in the memory."""
    side, first, second = config.side, *_layers()
    rows = np.zeros((H, side), np.float32)
    rows[X, :2], rows[Y, 0] = (1, 0), 1
    rows[W1:B1, :3], rows[B1, :3] = first.weights, first.bias
    rows[W2:B2, :1], rows[B2, :1] = second.weights, second.bias
    data = RECORD_BYTES << RING_LOG2
    result = data + rows.nbytes
    program = _Step(config).emit(BASE + data, BASE + result, side)
    memory = np.zeros(result + (ROWS + SUMS) * 4 * side, np.uint8)
    records = np.frombuffer(program.records(), np.uint8)
    memory[: records.size] = records
    memory[data:result] = rows.view(np.uint8).ravel()
    iss = Iss(config, memory.copy(), base=BASE)
    assert iss.run(BASE, RING_LOG2, len(program)) is None
    return Job(memory, BASE, BASE, RING_LOG2, len(program), iss.memory, tag=1, name="worked example"), result


def _bounds(after, gradients, side):
    """Greatest errors: of the new weights and biases of both layers, and of the outputs of both layers with them.

    The gradients are exact. RATE as binary32, its product and the sum each round, relative to what they make; the
    products of the second forward pass start from weights that are off by so much (`product_bound`), and so does the
    addition of the bias.
    """
    parameters = [
        [2 * UNIT * RATE * np.abs(g) + UNIT * (np.abs(w) + 1e-6) for w, g in zip((layer.weights, layer.bias), gradient)]
        for layer, gradient in zip(after, gradients)
    ]
    x, slack, outputs = np.array([[1.0, 0.0]]), np.zeros((1, 2)), []
    for layer, (weights, bias) in zip(after, parameters):
        error = product_bound(x, layer.weights, side, P32, slack, weights) + bias
        x = eq.forward([layer], x).output
        slack = error + UNIT * (x + error)
        outputs.append(slack)
    return parameters, outputs


@pytest.mark.verilator
def test_worked_example():
    config = PRESETS["tiny"]
    job, start = _job(config)
    with Harness(core_library(config), job.memory.size, base=job.base) as harness:
        run = run_job(harness, job)
    assert run.fault is None
    assert run.tag == job.tag
    job.check(run.memory)

    rows = run.memory[start:].view("<f4").reshape(ROWS + SUMS, config.side).astype(np.float64)
    sums = rows[ROWS:]
    layers, x, y = _layers(), np.array([[1.0, 0.0]]), np.array([[1.0]])
    trace = eq.forward(layers, x)
    _, gradients = eq.loss_and_gradients(layers, x, y, "squared_error")
    # Exact: what the first forward and the backward pass make (Z1 and Z2 are made again by the second forward pass).
    for found, expected in (
        (rows[H, :3], trace.activations[1][0]),
        (rows[A, :1], trace.output[0]),
        (rows[DELTA2, :1], gradients[1].bias),
        (rows[DELTA1, :3], gradients[0].bias),
        (sums[GW2 : GW2 + 3, :1], gradients[1].weights),
        (sums[GW1 : GW1 + 2, :3], gradients[0].weights),
    ):
        np.testing.assert_array_equal(found, expected)
    # Within the bounds, which are some units in the last place of binary32: the new weights, and what they give.
    after = eq.Sgd(layers, RATE).step(layers, gradients)
    again = eq.forward(after, x)
    (first, second), (hidden, output) = _bounds(after, gradients, config.side)
    for found, expected, bound in (
        (rows[W1:B1, :3], after[0].weights, first[0]),
        (rows[B1, :3], after[0].bias, first[1]),
        (rows[W2:B2, :1], after[1].weights, second[0]),
        (rows[B2, :1], after[1].bias, second[1]),
        (rows[H_AFTER, :3], again.activations[1][0], hidden[0]),
        (rows[A_AFTER, :1], again.output[0], output[0]),
    ):
        assert (np.abs(found - expected) <= bound).all()
        assert (bound < 32 * UNIT).all()
    assert (rows[W1:B1, :3] != 0.5).any()
