"""MATMUL of the simulator: the architecture's loop nest pass by pass, exact integers, error bounds against float64."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause, Opcode, Precision
from lepton_npu.spec.config import ACC_SPACE, PRESETS, NpuConfig
from lepton_verif.model.arith import fp32
from lepton_verif.model.arith.convert import scaled_int_to_fp32
from lepton_verif.model.iss_state import CoreState

from tests.verif.iss_machine import Machine, record

TINY = PRESETS["tiny"]
B_TILE, LIMB_STRIDE = 200, 40


def limb_passes(a_limbs: int, b_limbs: int) -> list[tuple[int, int]]:
    return [(la, lb) for lb in range(b_limbs) for la in range(a_limbs) if la + lb <= 2]


def loop_nest(config: NpuConfig, state: CoreState, f: dict[str, int]) -> np.ndarray:
    """The accumulators after a MATMUL, by the loops of the architecture, one row of one pass at a time."""
    side, acc = config.side, state.acc.view(np.float32).copy()
    passes = limb_passes(Precision(f["a_precision"]).limbs, Precision(f["b_precision"]).limbs)
    for n in range(f["n_tiles"]):
        first = not f["accumulate"]
        for k in range(f["k_tiles"]):
            for la, lb in passes:
                tile = f["b_tile"] + n * f["b_n_stride"] + k * f["b_k_stride"] + lb * f["b_limb_stride"]
                stationary = state.tiles[tile].astype(np.int64)
                if f["b_transpose"]:
                    stationary = stationary.T
                for m in range(f["rows"]):
                    i0, i1 = m % f["count0"], m // f["count0"] % f["count1"]
                    i2 = m // (f["count0"] * f["count1"])
                    s = (f["a_tile"] + k * f["a_k_stride"] + la * f["a_limb_stride"]) * side + f["a_row"]
                    s += i0 * f["a_stride0"] + i1 * f["a_stride1"] + i2 * f["a_stride2"]
                    streamed = state.tiles[s // side]
                    x = (streamed[:, s % side] if f["a_transpose"] else streamed[s % side]).astype(np.int64)
                    exponents = int(state.exponents[s // side]), int(state.exponents[tile])
                    if 255 in exponents:
                        term = np.full(side, np.nan, np.float32)
                    else:
                        term = scaled_int_to_fp32(x @ stationary, sum(exponents) - 254 - 12 - 8 * (la + lb))
                    row = f["acc"] + n * f["acc_n_stride"] - ACC_SPACE
                    row += i0 * f["acc_stride0"] + i1 * f["acc_stride1"] + i2 * f["acc_stride2"]
                    acc[row] = fp32.canonicalize(term) if first else fp32.add(acc[row], term)
                first = False
    return acc.view(np.uint32)


def random_fields(rng: np.random.Generator, side: int) -> dict[str, int]:
    f = {name: int(rng.integers(2)) for name in ("a_transpose", "b_transpose", "accumulate")}
    f |= {name: int(rng.integers(3)) for name in ("a_precision", "b_precision")}
    f |= {name: int(rng.integers(1, 4)) for name in ("k_tiles", "n_tiles", "count0", "count1")}
    f |= {name: int(rng.integers(0, 5)) for name in ("a_k_stride", "a_limb_stride", "b_k_stride", "b_n_stride")}
    f |= {"rows": int(rng.integers(1, 3 * side)), "b_limb_stride": int(rng.integers(0, 5))}
    f |= {"a_row": int(rng.integers(2 * side)), "a_tile": 60, "b_tile": 20, "acc": ACC_SPACE + 100}
    f |= {f"a_stride{d}": int(rng.integers(-side, side + 1)) for d in range(3)}
    # Often 0, so that rows meet themselves within a pass.
    f |= {f"acc_stride{d}": int(rng.choice([0, 1, -1, 3, -3])) for d in range(3)}
    return f | {"acc_n_stride": int(rng.choice([0, 1, -1, 12]))}


def fill(rng: np.random.Generator, state: CoreState, kind: str):
    """Tiles whose sums are ordinary, tiny, huge, or sometimes NaN; accumulators that results can be added to."""
    state.tiles[:] = rng.integers(-128, 128, state.tiles.shape)
    low, high = {"ordinary": (120, 134), "tiny": (40, 100), "huge": (180, 215), "nan": (120, 134)}[kind]
    state.exponents[:] = rng.integers(low, high, state.exponents.shape)
    if kind == "nan":
        state.exponents[rng.random(state.exponents.shape) < 0.03] = 255
    scale = {"tiny": 2.0**-125, "huge": 2.0**125}.get(kind, 1.0)
    values = (rng.standard_normal(state.acc.shape) * scale).astype(np.float32)
    state.acc[:] = np.where(np.abs(values) < 2.0**-126, np.float32(0), values).view(np.uint32)


@pytest.mark.parametrize("kind", ["ordinary", "tiny", "huge", "nan"])
@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_loop_nest(preset, kind, seed):
    rng, config = np.random.default_rng(seed), PRESETS[preset]
    for _ in range(12):
        machine, f = Machine(config), random_fields(rng, config.side)
        fill(rng, machine.iss.state, kind)
        expected = loop_nest(config, machine.iss.state, f)
        assert machine.run(record(Opcode.MATMUL, **f)) is None
        np.testing.assert_array_equal(machine.iss.state.acc, expected, err_msg=str(f))


# ---- Whole products, through QUANT.


class Product:
    """A (M x K) times B (K x N) on a machine: both quantised, multiplied, the result read from the accumulators."""

    def __init__(self, config: NpuConfig, a_precision: Precision, b_precision: Precision, transposes=(False, False)):
        self.machine = Machine(config)
        self.precisions, self.transposes = (a_precision, b_precision), transposes

    def _put(self, matrix: np.ndarray, precision: Precision, tile: int) -> tuple[int, int]:
        """Quantise a matrix to ``tile`` on; its tiles high and wide."""
        side, state = self.machine.config.side, self.machine.iss.state
        rows, cols = matrix.shape
        high, wide = -(-rows // side), -(-cols // side)
        padded = np.zeros((rows, wide * side), np.float32)
        padded[:, :cols] = matrix
        state.local[: rows * wide] = padded.view(np.uint32).reshape(rows * wide, side)
        f = {"source": 0, "source_stride": wide, "rows": rows, "cols": cols, "tile": tile}
        f |= {"tile_stride": high, "limb_stride": LIMB_STRIDE, "precision": precision}
        assert self.machine.run(record(Opcode.QUANT, **f)) is None
        return high, wide

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        side, (a_transpose, b_transpose) = self.machine.config.side, self.transposes
        rows, cols = a.shape[0], b.shape[1]
        a_high, a_wide = self._put(a.T if a_transpose else a, self.precisions[0], 0)
        b_high, b_wide = self._put(b.T if b_transpose else b, self.precisions[1], B_TILE)
        n_tiles = b_high if b_transpose else b_wide
        f = {
            "a_precision": self.precisions[0],
            "b_precision": self.precisions[1],
            "a_transpose": a_transpose,
            "b_transpose": b_transpose,
            "b_tile": B_TILE,
            "acc": ACC_SPACE,
            "rows": rows,
            "k_tiles": a_high if a_transpose else a_wide,
            "n_tiles": n_tiles,
            "a_k_stride": 1 if a_transpose else a_high,
            "b_k_stride": b_high if b_transpose else 1,
            "b_n_stride": 1 if b_transpose else b_high,
            "a_limb_stride": LIMB_STRIDE,
            "b_limb_stride": LIMB_STRIDE,
            # A column of a transposed tile is a row of A: the next T rows are in the next tile across.
            "count0": side,
            "count1": 1 << 15,
            "a_stride0": 1,
            "a_stride1": a_high * side if a_transpose else side,
            "acc_stride0": 1,
            "acc_stride1": side,
            "acc_n_stride": rows,
        }
        assert self.machine.run(record(Opcode.MATMUL, **f)) is None
        sums = self.machine.iss.state.acc[: rows * n_tiles].view(np.float32).reshape(n_tiles, rows, side)
        return sums.transpose(1, 0, 2).reshape(rows, n_tiles * side)[:, :cols].astype(np.float64)


TRANSPOSES = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_representable_integers_are_exact(preset, precision, transposes, seed):
    """Integers that every tile holds exactly, with sums below 2^24."""
    rng = np.random.default_rng(seed)
    limit = 63 if precision == Precision.P8 else 1000
    for _ in range(4):
        M, K, N = (int(size) for size in rng.integers(1, 14, 3))
        a = rng.integers(-limit, limit + 1, (M, K)).astype(np.float32)
        b = rng.integers(-limit, limit + 1, (K, N)).astype(np.float32)
        for matrix in (a, b):
            # Where these are the largest of their tile, mantissas of 16 and 32 bits saturate.
            matrix[np.isin(np.abs(matrix), (255, 510, 511))] = 254
        found = Product(PRESETS[preset], precision, precision, transposes)(a, b)
        np.testing.assert_array_equal(found, a.astype(np.float64) @ b.astype(np.float64))


def quantised(matrix: np.ndarray, precision: Precision, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each element: value after quantisation, bound of its error, weight of limb 0; in float64."""
    bits = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}[precision]
    limit = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}[precision]
    unit = np.empty(matrix.shape)
    for i in range(0, matrix.shape[0], side):
        for j in range(0, matrix.shape[1], side):
            top = np.abs(matrix[i : i + side, j : j + side]).max()
            unit[i : i + side, j : j + side] = 2.0 ** np.floor(np.log2(top))
    step = unit * 2.0**-bits
    value = np.clip(np.rint(matrix / step), -limit, limit) * step
    return value, np.maximum(step / 2, np.abs(matrix) - limit * step), unit * 2.0**-6


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("b_precision", Precision)
@pytest.mark.parametrize("a_precision", Precision)
def test_error_bound(a_precision, b_precision, transposes, seed):
    """|C - A B| <= quantisation of A and of B + limb products left out + additions in binary32.

    With a = a' + da, b = b' + db: |a b - a' b'| <= |a| |db| + |da| |b'|. Limb p of a mantissa is at most
    128 * 2^(-8 p) of limb 0's weight w. Each of the n additions rounds by 2^-24 of a partial sum, that is at most the
    sum of the terms' magnitudes: of |limb 0| w <= |a'| + 0.51 w, and of the lower limbs together 0.51 w.
    """
    rng, side = np.random.default_rng(seed), TINY.side
    M, K, N = 7, 18, 9
    a = (rng.standard_normal((M, K)) * np.exp2(rng.integers(-3, 4, (M, 1)))).astype(np.float32)
    b = (rng.standard_normal((K, N)) * np.exp2(rng.integers(-3, 4, (K, 1)))).astype(np.float32)
    found = Product(TINY, a_precision, b_precision, transposes)(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    a_value, a_error, a_weight = quantised(a, a_precision, side)
    b_value, b_error, b_weight = quantised(b, b_precision, side)

    limbs = a_precision.limbs, b_precision.limbs
    passes = limb_passes(*limbs)
    left_out = [(la, lb) for la in range(limbs[0]) for lb in range(limbs[1]) if (la, lb) not in passes]
    lost = 128**2 * sum(2.0 ** (-8 * (la + lb)) for la, lb in left_out) * (a_weight @ b_weight)
    magnitudes = (np.abs(a_value) + 1.02 * a_weight) @ (np.abs(b_value) + 1.02 * b_weight)
    additions = len(passes) * -(-K // side)
    rounding = 1.01 * additions * 2.0**-24 * magnitudes

    # Limb products and additions only: far below what quantisation loses at 8 bits.
    assert (np.abs(found - a_value @ b_value) <= lost + rounding).all()
    bound = np.abs(a) @ b_error + a_error @ np.abs(b_value) + lost + rounding
    error = np.abs(found - a @ b)
    assert (error <= bound).all()
    # The bound is not idle: a wrong limb or tile would be far beyond it.
    assert (bound < {0: 0.2, 1: 0.02, 2: 0.02}[min(a_precision, b_precision)] * (np.abs(a) @ np.abs(b)).max()).all()


def test_accumulating_in_two_commands_is_the_same_as_in_one():
    f = {"rows": 4, "a_tile": 0, "b_tile": 20, "a_k_stride": 1, "b_k_stride": 1, "a_stride0": 1, "acc_stride0": 1}
    f |= {"acc": ACC_SPACE, "count0": 4}
    results = []
    for split in (False, True):
        machine = Machine()
        fill(np.random.default_rng(5), machine.iss.state, "ordinary")
        if split:
            machine.run(record(Opcode.MATMUL, **f, k_tiles=2))
            machine.run(record(Opcode.MATMUL, **f | {"a_tile": 2, "b_tile": 22}, k_tiles=3, accumulate=1))
        else:
            machine.run(record(Opcode.MATMUL, **f, k_tiles=5))
        results.append(machine.iss.state.acc[:4].copy())
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"b_tile": TINY.tiles - 1, "b_k_stride": 1}, TINY.tiles * TINY.side),
        ({"a_tile": TINY.tiles - 1, "a_row": 2, "a_stride0": 1}, TINY.tiles * TINY.side),
        ({"a_tile": 0, "a_stride0": -1}, (1 << 64) - 1),
        ({"acc": 5}, 5),
        ({"acc": ACC_SPACE, "acc_stride0": -1}, ACC_SPACE - 1),
        ({"acc": ACC_SPACE + TINY.acc_rows - 1, "acc_stride0": 1}, ACC_SPACE + TINY.acc_rows),
        ({"acc": ACC_SPACE + TINY.acc_rows - 1, "acc_n_stride": 5}, ACC_SPACE + TINY.acc_rows + 4),
    ],
)
def test_range(fields, address):
    machine = Machine()
    f = {"rows": 3, "count0": 4, "k_tiles": 2, "n_tiles": 2, "acc": ACC_SPACE} | fields
    fault = machine.run(record(Opcode.MATMUL, **f))
    assert (fault.cause, fault.engine, fault.address) == (FaultCause.LOCAL_RANGE, Engine.MATMUL, address)
