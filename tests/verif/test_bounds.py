"""The bounds of the matrix path against the arithmetic twins: they hold, and are reached but for a small factor."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Precision
from lepton_verif.model.arith.quantise import dequantise, limb_scale, quantise
from lepton_verif.model.bounds import product_bound, quantisation_bound
from lepton_verif.model.iss_matmul import limb_passes

SIDE = 4
PRECISIONS = list(Precision)


def _product(a, b, precision):
    """What MATMUL makes of binary32 matrices, by the specification: K tiles, then limb passes, one addition each."""
    left, right = quantise(a, precision, SIDE), quantise(b, precision, SIDE)
    i, k, n = left.exponents.shape[0], *right.exponents.shape
    result = np.zeros((i, n, SIDE, SIDE), np.float32)
    for row, column in np.ndindex(i, n):
        total = np.zeros((SIDE, SIDE), np.float32)
        for inner in range(k):
            for la, lb in limb_passes(precision, precision):
                x = left.mantissas[la, row, inner] * limb_scale(left.exponents[row, inner], la)
                w = right.mantissas[lb, inner, column] * limb_scale(right.exponents[inner, column], lb)
                total = total + (x @ w).astype(np.float32)
        result[row, column] = total
    whole = result.transpose(0, 2, 1, 3).reshape(i * SIDE, n * SIDE)
    return whole[: a.shape[0], : b.shape[1]].astype(np.float64)


def _matrix(rng, shape):
    """Magnitudes over some binades, zeros, and some that saturate."""
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-4, 3, shape))
    x[rng.random(shape) < 0.1] = 0
    if rng.random() < 0.3 and x.any():
        x.flat[0] = np.exp2(np.floor(np.log2(np.abs(x).max()))) * rng.uniform(1.98, 2)
    return x.astype(np.float32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_quantisation(precision, seed):
    rng = np.random.default_rng([seed, precision])
    closest = 0.0
    for _ in range(300):
        x = _matrix(rng, rng.integers(1, 11, 2))
        error = np.abs(dequantise(quantise(x, precision, SIDE), *x.shape) - x)
        bound = quantisation_bound(x.astype(np.float64), SIDE, precision)
        assert (error <= bound).all()
        assert (bound[x == 0] == 0).all()
        closest = max(closest, (error / np.where(bound > 0, bound, 1)).max())
    assert closest > 0.99


@pytest.mark.parametrize(("precision", "largest"), [(0, 127 / 64), (1, 0x7F7F / 2**14), (2, 0x7F7F7F / 2**22)])
def test_saturation_is_reached(precision, largest):
    """1.998 becomes the largest number that there is; what is cut off is the bound."""
    x = np.array([[1.998, 1.0, 0.0]], np.float32)
    tiles = dequantise(quantise(x, precision, SIDE), 1, 3)
    bound = quantisation_bound(x.astype(np.float64), SIDE, Precision(precision))
    assert tiles.tolist() == [[largest, 1, 0]]
    assert bound[0, 0] == float(x[0, 0]) - largest
    assert bound[0, 1] == 2.0 ** (-7, -15, -23)[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_quantisation_with_slack(precision, seed):
    """Any y within the slack of x, around powers of two above all, where E changes and saturation ends."""
    rng = np.random.default_rng([seed, precision])
    for _ in range(300):
        x = _matrix(rng, (4, 4)).astype(np.float64)
        x.flat[rng.integers(16)] = 2.0 ** rng.integers(-3, 6) * rng.uniform(0.98, 1.02)
        slack = np.abs(rng.standard_normal((4, 4))) * 0.02
        y = (x + slack * rng.uniform(-0.999, 0.999, (4, 4))).astype(np.float32)
        error = np.abs(dequantise(quantise(y, precision, SIDE), 4, 4) - y)
        assert (error <= quantisation_bound(x, SIDE, precision, slack)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_products(precision, seed):
    """Worst cases are sums of magnitudes: random signs stay well below them, but not by orders of magnitude."""
    rng = np.random.default_rng([seed, precision])
    closest = 0.0
    for _ in range(100):
        m, k, n = rng.integers(1, 11, 3)
        a, b = _matrix(rng, (m, k)), _matrix(rng, (k, n))
        exact = a.astype(np.float64) @ b.astype(np.float64)
        error, bound = np.abs(_product(a, b, precision) - exact), product_bound(a, b, SIDE, precision)
        assert (error <= bound).all()
        closest = max(closest, (error / np.where(bound > 0, bound, 1)).max())
    assert closest > 0.3


def test_products_with_slack(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        a, b = _matrix(rng, (5, 6)).astype(np.float64), _matrix(rng, (6, 3)).astype(np.float64)
        a_slack, b_slack = rng.random((5, 6)) * 1e-3, rng.random((6, 3)) * 1e-5
        near_a, near_b = a + a_slack * rng.uniform(-1, 1, a.shape), b + b_slack * rng.uniform(-0.9, 0.9, b.shape)
        found = _product(near_a.astype(np.float32), near_b.astype(np.float32), Precision.P32)
        bound = product_bound(a, b, SIDE, Precision.P32, a_slack + 1e-6, b_slack)
        assert (np.abs(found - a @ b) <= bound).all()
