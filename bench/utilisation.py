"""Matrix products on the core, and how much of the array they keep busy, from the core's own counters."""

from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from lepton_sim.core import core_library, run_job
from lepton_sim.harness import Harness
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from leptonaicsdk.program import Program

__all__ = ["Product", "ProductRun", "measure", "square_product", "training_products"]

_BASE = 0x8000_0000
_RING_LOG2 = 7
_P8 = Precision.P8


@dataclass(frozen=True)
class Matrix:
    """A quantised matrix in the tile memory: tile (i, j) at ``tile + i + j * high``."""

    name: str
    rows: int
    cols: int
    tile: int
    high: int

    @classmethod
    def place(cls, config: NpuConfig, tile: int, name: str, rows: int, cols: int) -> "Matrix":
        """At ``tile`` and behind."""
        return cls(name, rows, cols, tile, -(-rows // config.side))

    def tiles(self, side: int) -> int:
        """How many tiles it takes."""
        return self.high * -(-self.cols // side)


@dataclass(frozen=True)
class Product:
    """op(A) @ op(B) of matrices in tiles; ``a_t`` and ``b_t`` say which of them is transposed."""

    a: Matrix
    b: Matrix
    a_t: bool = False
    b_t: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """M, K, N."""
        m, k = (self.a.cols, self.a.rows) if self.a_t else (self.a.rows, self.a.cols)
        return m, k, self.b.rows if self.b_t else self.b.cols

    @property
    def name(self) -> str:
        """Its operands and sizes."""
        m, k, n = self.sizes
        return f"{self.a.name}{'^T' * self.a_t} {self.b.name}{'^T' * self.b_t}: {m} x {k} x {n}"

    def fields(self, side: int, acc: int) -> dict[str, int]:
        """Fields of its MATMUL command, the result in accumulator rows from ``acc`` on, one column of tiles after the other."""
        m, k, n = self.sizes
        a, b = self.a, self.b
        fields = {
            "rows": m,
            "k_tiles": -(-k // side),
            "n_tiles": -(-n // side),
            "a_tile": a.tile,
            "b_tile": b.tile,
            "a_transpose": self.a_t,
            "b_transpose": self.b_t,
            "acc": ACC_SPACE + acc,
            "acc_n_stride": m,
            "a_precision": _P8,
            "b_precision": _P8,
        }
        # Down a column of tiles the tile rows are consecutive; along a row of tiles they are `high` tiles apart.
        if self.a_t:
            fields |= {"count0": side, "a_stride0": 1, "acc_stride0": 1}
            fields |= {"count1": -(-m // side), "a_stride1": a.high * side, "acc_stride1": side, "a_k_stride": 1}
        else:
            fields |= {"count0": m, "a_stride0": 1, "acc_stride0": 1, "a_k_stride": a.high}
        along, down = b.high, 1
        fields |= {"b_k_stride": along, "b_n_stride": down} if self.b_t else {"b_k_stride": down, "b_n_stride": along}
        return fields


@dataclass(frozen=True)
class ProductRun:
    """Products run one after another.

    Attributes
    ----------
    cycles, rows : int
        MATMUL_BUSY and MATMUL_ROWS: from the first weight load to the last accumulator write; rows streamed.
    simulated_cycles, seconds : int, float
        Of the whole program with its loads and stores, and the host's time for them.
    """

    products: tuple[Product, ...]
    side: int
    cycles: int
    rows: int
    simulated_cycles: int
    seconds: float

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the matrices, without padding."""
        return sum(m * k * n for m, k, n in (product.sizes for product in self.products))

    @property
    def tiled(self) -> int:
        """Cycles of a machine that takes a row of T products of T in each, ragged tiles filled up."""
        cycles = 0
        for product in self.products:
            m, k, n = product.sizes
            cycles += -(-k // self.side) * -(-n // self.side) * max(m, self.side)
        return cycles

    @property
    def utilisation(self) -> float:
        """Multiply-accumulates done / (T * T * cycles)."""
        return self.macs / (self.side**2 * self.cycles)


def square_product(config: NpuConfig, size: int) -> list[Product]:
    """One product of two matrices of ``size`` x ``size``."""
    a = Matrix.place(config, 0, "A", size, size)
    return [Product(a, Matrix.place(config, a.tiles(config.side), "B", size, size))]


def training_products(config: NpuConfig, batch: int = 64) -> list[Product]:
    """The five products of a training step of the 784-64-10 network."""
    tile, matrices = 0, {}
    for name, rows, cols in (
        ("X", batch, 784), ("W1", 784, 64), ("H", batch, 64), ("W2", 64, 10), ("dY", batch, 10), ("dH", batch, 64)
    ):  # fmt: skip
        matrices[name] = Matrix.place(config, tile, name, rows, cols)
        tile += matrices[name].tiles(config.side)
    x, w1, h, w2, dy, dh = matrices.values()
    return [
        Product(x, w1),
        Product(h, w2),
        Product(dy, w2, b_t=True),
        Product(h, dy, a_t=True),
        Product(x, dh, a_t=True),
    ]


def measure(config: NpuConfig, products: list[Product], *, repeat: int = 1, seed: int = 1) -> ProductRun:
    """Run ``products`` on the RTL in one program, ``repeat`` times one after another, when all operands are in tiles.

    Raises
    ------
    AssertionError
        If the RTL's results are not those of the instruction-set simulator.
    """
    side, bus = config.side, config.bus_bytes
    rng = np.random.default_rng(seed)
    matrices = {matrix.name: matrix for product in products for matrix in (product.a, product.b)}
    program = Program(config)
    data, blocks = _BASE + (64 << _RING_LOG2), []
    for matrix in matrices.values():
        wide = -(-matrix.cols // side)
        block = rng.standard_normal((matrix.rows, wide * side), np.float32)
        if matrix.rows * wide > config.vmem_rows:
            raise ValueError(f"{matrix.name} takes {matrix.rows * wide} local rows; there are {config.vmem_rows}")
        program.load(
            address=data, rows=matrix.rows, words=wide * side, stride=wide * side * 4, local=0, local_stride=wide
        )
        program.fence()
        program.quant(
            precision=_P8, source=0, source_stride=wide, rows=matrix.rows, cols=matrix.cols, tile=matrix.tile,
            tile_stride=matrix.high,
        )  # fmt: skip
        program.fence()
        blocks.append(block.view(np.uint8).ravel())
        data += -(-block.nbytes // bus) * bus
    for _ in range(repeat):
        acc = 0
        for product in products:
            program.matmul(**product.fields(side, acc))
            m, _k, n = product.sizes
            acc += m * -(-n // side)
    program.fence()
    program.store(address=data, rows=acc, words=side, stride=side * 4, local=ACC_SPACE, local_stride=1)
    program.irq(tag=1)
    memory = np.zeros(data - _BASE + acc * side * 4, np.uint8)
    records = program.records()
    memory[: len(records)] = np.frombuffer(records, np.uint8)
    operands = np.concatenate(blocks)
    memory[64 << _RING_LOG2 :][: operands.size] = operands

    iss = Iss(config, memory.copy(), base=_BASE)
    if (fault := iss.run(_BASE, _RING_LOG2, len(program))) is not None:
        raise AssertionError(f"the simulator stopped: {fault}")
    job = Job(memory, _BASE, _BASE, _RING_LOG2, len(program), iss.memory, tag=1, name="matrix products")
    with Harness(core_library(config), memory.size, base=_BASE) as harness:
        run = run_job(harness, job)
    assert run.fault is None, run.fault
    job.check(run.memory)
    counters = run.counters
    return ProductRun(
        tuple(products) * repeat, side, counters["MATMUL_BUSY"], counters["MATMUL_ROWS"], run.cycles, run.seconds
    )
