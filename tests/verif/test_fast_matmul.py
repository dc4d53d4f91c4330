"""The fast way of MATMUL: that it is taken, gives what the architecture's loops give, and declines what it must."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from lepton_verif.model.iss_matmul_direct import DirectProduct
from lepton_verif.model.iss_matmul_plan import MatmulPlan
from lepton_verif.model.iss_state import CoreState

from tests.verif.iss_machine import Machine, record
from tests.verif.slow_arith import SPECIALS
from tests.verif.test_iss_matmul import loop_nest

CONFIG = NpuConfig(side=16, lanes=16, vmem_rows=32, acc_rows=512, tiles=128, contexts=1)


def random_fields(rng: np.random.Generator) -> dict[str, int]:
    """Whole or ragged tiles of A and B as matrices, results row by row or tile by tile: no row is named twice."""
    side, rows, n_tiles = CONFIG.side, int(rng.integers(1, 50)), int(rng.integers(1, 5))
    f = {name: int(rng.integers(2)) for name in ("a_transpose", "b_transpose", "accumulate")}
    f |= {name: int(rng.choice(3, p=[0.6, 0.2, 0.2])) for name in ("a_precision", "b_precision")}
    f |= {"rows": rows, "n_tiles": n_tiles, "k_tiles": int(rng.integers(1, 4)), "a_tile": 3, "b_tile": 60}
    f |= {name: int(rng.integers(6)) for name in ("a_k_stride", "a_limb_stride", "b_k_stride", "b_n_stride")}
    f |= {
        "b_limb_stride": int(rng.integers(6)),
        "acc": ACC_SPACE + int(rng.integers(100)),
        "a_row": int(rng.integers(20)),
    }
    if rng.random() < 0.5:
        f |= {"count0": side, "count1": -(-rows // side), "a_stride0": 1, "a_stride1": 16 * int(rng.integers(1, 4))}
    else:
        f |= {"count0": rows, "count1": 1, "a_stride0": int(rng.integers(3)), "a_stride1": 0}
    row, n = rng.choice([(n_tiles, 1), (1, rows), (1, 64), (5, 1)])
    f |= {"acc_stride0": int(row), "acc_stride1": int(row) * f["count0"], "acc_n_stride": int(n)}
    return f | {"a_stride2": 0, "acc_stride2": 0}


def fill(rng: np.random.Generator, state: CoreState, low: int, high: int):
    """Tiles with exponents from ``low`` to ``high``, some of them of zeros, and accumulators like sums of them."""
    state.tiles[:] = rng.integers(-128, 128, state.tiles.shape) * (rng.random(state.tiles.shape) < 0.7)
    state.exponents[:] = rng.integers(low, high + 1, state.exponents.shape)
    empty = rng.random(state.exponents.shape) < 0.1
    state.exponents[empty] = 0
    state.tiles[empty] = 0
    sums = rng.standard_normal(state.acc.shape) * 2.0 ** (low + high - 260)
    sums = np.where((rng.random(sums.shape) < 0.1) | (np.abs(sums) < 2.0**-100), -0.0, sums)
    state.acc[:] = sums.astype(np.float32).view(np.uint32)


def check(state: CoreState, machine: Machine, f: dict[str, int]) -> bool:
    """Compare with the loops; whether the fast way was taken."""
    plan = MatmulPlan(CONFIG, f)
    assert DirectProduct.suits(plan)
    expected, before = loop_nest(CONFIG, state, f), state.acc.copy()
    with np.errstate(all="ignore"):
        taken = DirectProduct(plan).run(state)
    np.testing.assert_array_equal(state.acc, expected if taken else before, err_msg=str(f))
    state.acc[:] = before
    assert machine.run(record(Opcode.MATMUL, **f)) is None
    np.testing.assert_array_equal(state.acc, expected, err_msg=str(f))
    return taken


@pytest.mark.parametrize(("low", "high", "always"), [(100, 150, True), (78, 95, True), (150, 180, True),
                                                     (55, 80, False), (176, 192, False), (1, 254, False)])  # fmt: skip
def test_random_products(low, high, always, seed):
    """In the middle of the range, where the fast way must be taken, and about its ends, where it may be."""
    rng, taken = np.random.default_rng([seed, low]), []
    for _ in range(12):
        machine, f = Machine(CONFIG), random_fields(rng)
        if low == 78:
            f |= {"a_precision": 0, "b_precision": 0}
        fill(rng, machine.iss.state, low, high)
        taken.append(check(machine.iss.state, machine, f))
    assert all(taken) if always else not all(taken)


@pytest.mark.parametrize("b_transpose", [0, 1])
@pytest.mark.parametrize("a_precision", [0, 1])
def test_transposed_whole_tiles(a_precision, b_transpose, seed):
    """As for the gradient of weights; and where a tile is not whole, which looks almost the same."""
    rng = np.random.default_rng([seed, a_precision, b_transpose])
    for rows, change, whole in ((48, {}, True), (16, {}, True), (47, {}, False), (48, {"a_row": 21}, False),
                                (48, {"a_stride1": 8}, False), (48, {"a_stride0": 0}, False)):  # fmt: skip
        f = random_fields(rng) | {"a_transpose": 1, "a_precision": a_precision, "b_transpose": b_transpose}
        f |= {"rows": rows, "a_row": 16, "count0": 16, "count1": 3, "a_stride0": 1, "a_stride1": 32}
        f |= {"acc_stride0": f["n_tiles"], "acc_stride1": 16 * f["n_tiles"], "acc_n_stride": 1} | change
        machine = Machine(CONFIG)
        fill(rng, machine.iss.state, 100, 150)
        assert DirectProduct(MatmulPlan(CONFIG, f)).a_turned == whole
        assert check(machine.iss.state, machine, f)


@pytest.mark.parametrize("word", SPECIALS)
def test_special_accumulators(word, seed):
    """Of which the fast way takes zeros and ordinary numbers only."""
    rng = np.random.default_rng([seed, word])
    machine, f = Machine(CONFIG), random_fields(rng) | {"accumulate": 1}
    state = machine.iss.state
    fill(rng, state, 120, 134)
    state.acc[rng.random(state.acc.shape) < 0.3] = word if word & 0x7F800000 else word & 0x80000000
    taken = check(state, machine, f)
    exponent = word >> 23 & 0xFF
    if exponent == 0:
        assert taken
    elif exponent < 25 or exponent == 255:
        assert not taken


@pytest.mark.parametrize("exponent", [1, 254, 255])
def test_one_tile_at_the_end_of_the_range(exponent, seed):
    rng = np.random.default_rng([seed, exponent])
    for operand in ("a_tile", "b_tile"):
        machine, f = Machine(CONFIG), random_fields(rng) | {"a_row": 0}
        fill(rng, machine.iss.state, 110, 140)
        machine.iss.state.exponents[f[operand]] = exponent
        assert not check(machine.iss.state, machine, f)


def test_rows_named_twice_are_not_for_the_fast_way():
    f = random_fields(np.random.default_rng(0)) | {"rows": 4, "count0": 4, "acc_stride0": 0, "acc_stride1": 0}
    assert not DirectProduct.suits(MatmulPlan(CONFIG, f))
