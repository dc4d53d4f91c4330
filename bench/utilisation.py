"""Matrix products on the core, and how much of the array they keep busy, from the core's own counters."""

from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.commands import Precision
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig
from lepton_sim.core import core_library, run_job
from lepton_sim.harness import Harness
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from leptonaicsdk.program import Program

__all__ = [
    "Matrix",
    "Product",
    "ProductRun",
    "build_job",
    "measure",
    "read_results",
    "square_product",
    "training_products",
]

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
    def place(cls, config: NpuConfig, shapes: dict[str, tuple[int, int]]) -> list["Matrix"]:
        """One behind the other, from tile 0 on."""
        matrices, tile = [], 0
        for name, (rows, cols) in shapes.items():
            matrices.append(cls(name, rows, cols, tile, -(-rows // config.side)))
            tile += matrices[-1].tiles(config.side)
        return matrices

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

    def acc_rows(self, side: int) -> int:
        """Accumulator rows of its result."""
        m, _, n = self.sizes
        return m * -(-n // side)

    @property
    def name(self) -> str:
        """Its operands and sizes."""
        m, k, n = self.sizes
        return f"{self.a.name}{'^T' * self.a_t} {self.b.name}{'^T' * self.b_t}: {m} x {k} x {n}"

    def fields(self, side: int, acc: int) -> dict[str, int]:
        """Fields of its MATMUL command; accumulator rows from ``acc`` on take one column of tiles after the other."""
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
    a, b = Matrix.place(config, {"A": (size, size), "B": (size, size)})
    return [Product(a, b)]


def training_products(config: NpuConfig, batch: int = 64) -> list[Product]:
    """The five products of a training step of the 784-64-10 network."""
    x, w1, h, w2, dy, dh = Matrix.place(
        config,
        {"X": (batch, 784), "W1": (784, 64), "H": (batch, 64), "W2": (64, 10), "dY": (batch, 10), "dH": (batch, 64)},
    )
    return [
        Product(x, w1),
        Product(h, w2),
        Product(dy, w2, b_t=True),
        Product(h, dy, a_t=True),
        Product(x, dh, a_t=True),
    ]


def build_job(
    config: NpuConfig, products: list[Product], operands: dict[str, np.ndarray], *, repeat: int = 1
) -> tuple[Job, int]:
    """A program that brings ``operands`` (float32, by name) into tiles at precision 8, runs ``products`` ``repeat``
    times and stores all accumulators; and the byte offset of these in the memory.

    Raises
    ------
    ValueError
        If a matrix has more local rows than the vector memory.
    """
    side, bus = config.side, config.bus_bytes
    matrices = {matrix.name: matrix for product in products for matrix in (product.a, product.b)}
    program = Program(config)
    data, blocks = _BASE + (RECORD_BYTES << _RING_LOG2), []
    for matrix in matrices.values():
        wide = -(-matrix.cols // side)
        if matrix.rows * wide > config.vmem_rows:
            raise ValueError(f"{matrix.name} takes {matrix.rows * wide} local rows; there are {config.vmem_rows}")
        block = np.zeros((matrix.rows, wide * side), np.float32)
        block[:, : matrix.cols] = operands[matrix.name]
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
            acc += product.acc_rows(side)
    program.fence()
    program.store(address=data, rows=acc, words=side, stride=side * 4, local=ACC_SPACE, local_stride=1)
    program.irq(tag=1)
    memory = np.zeros(data - _BASE + acc * side * 4, np.uint8)
    records = np.frombuffer(program.records(), np.uint8)
    memory[: records.size] = records
    given = np.concatenate(blocks)
    memory[RECORD_BYTES << _RING_LOG2 :][: given.size] = given

    iss = Iss(config, memory.copy(), base=_BASE)
    if (fault := iss.run(_BASE, _RING_LOG2, len(program))) is not None:
        raise AssertionError(f"the simulator stopped: {fault}")
    job = Job(memory, _BASE, _BASE, _RING_LOG2, len(program), iss.memory, tag=1, name="matrix products")
    return job, data - _BASE


def read_results(config: NpuConfig, products: list[Product], memory: np.ndarray, offset: int) -> list[np.ndarray]:
    """The M x N results of ``products`` (float32) from the accumulators at ``offset`` of ``memory``."""
    results, side = [], config.side
    for product in products:
        m, _, n = product.sizes
        wide = -(-n // side)
        block = memory[offset : offset + product.acc_rows(side) * side * 4].view("<f4").reshape(wide, m, side)
        results.append(block.transpose(1, 0, 2).reshape(m, wide * side)[:, :n])
        offset += product.acc_rows(side) * side * 4
    return results


def measure(config: NpuConfig, products: list[Product], *, repeat: int = 1, seed: int = 1) -> ProductRun:
    """Run ``products`` of random matrices on the RTL, one after another, when all operands are in tiles.

    Raises
    ------
    AssertionError
        If the RTL's results are not those of the instruction-set simulator.
    """
    rng = np.random.default_rng(seed)
    matrices = [matrix for product in products for matrix in (product.a, product.b)]
    operands = {matrix.name: rng.standard_normal((matrix.rows, matrix.cols), np.float32) for matrix in matrices}
    job, _ = build_job(config, products, operands, repeat=repeat)
    with Harness(core_library(config), job.memory.size, base=job.base) as harness:
        run = run_job(harness, job)
    assert run.fault is None, run.fault
    job.check(run.memory)
    counters = run.counters
    return ProductRun(
        tuple(products) * repeat, config.side, counters["MATMUL_BUSY"], counters["MATMUL_ROWS"], run.cycles, run.seconds
    )
