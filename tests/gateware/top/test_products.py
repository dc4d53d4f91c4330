"""The array exactly: integer matrices, for which no step may round, in all orientations, at every side."""

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim.core import core_library, run_job
from lepton_sim.harness import Harness

from bench.utilisation import Matrix, Product, build_job, read_results

pytestmark = pytest.mark.verilator


@pytest.mark.parametrize("preset", ["tiny", "ecp5", "train"])
def test_integer_products_are_exact(preset, seed):
    """A B, A^T B, A B^T and A^T B^T of ragged integer matrices equal NumPy's integer products; so does a repeat."""
    config = PRESETS[preset]
    rng = np.random.default_rng(seed)
    small = 2 * config.side + 3
    m, k, n = (int(rng.integers(small // 2, small)) for _ in range(3))
    shapes = {"A": (m, k), "At": (k, m), "B": (k, n), "Bt": (n, k)}
    a, at, b, bt = Matrix.place(config, shapes)
    products = [Product(a, b), Product(at, b, a_t=True), Product(a, bt, b_t=True), Product(at, bt, a_t=True, b_t=True)]
    # With |q| <= 63 a tile's exponent never makes a step larger than 1, and sums stay far below 2^24.
    operands = {name: rng.integers(-63, 64, shape).astype(np.float32) for name, shape in shapes.items()}
    job, offset = build_job(config, products, operands)
    with Harness(core_library(config), job.memory.size, base=job.base) as harness:
        run = run_job(harness, job)
    assert run.fault is None
    job.check(run.memory)
    for product, found in zip(products, read_results(config, products, run.memory, offset), strict=True):
        left = operands[product.a.name].T if product.a_t else operands[product.a.name]
        right = operands[product.b.name].T if product.b_t else operands[product.b.name]
        expected = left.astype(np.int64) @ right.astype(np.int64)
        assert np.array_equal(found.astype(np.int64), expected), product.name
