"""The quantiser twin against exact rational arithmetic, element by element, and against what it promises."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_npu.spec.commands import Precision
from lepton_verif.model.arith.quantise import NAN_EXPONENT, dequantise, quantise, split_limbs

SCALE = {Precision.P8: 6, Precision.P16: 14, Precision.P32: 22}
LIMIT = {Precision.P8: 0x7F, Precision.P16: 0x7F7F, Precision.P32: 0x7F7F7F}

words = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 0x80000000, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000, 0xBF800000]),
    # Neighbours of ties, in a few binades below 2.
    st.builds(
        lambda sign, exponent, top, low: (sign << 31) | (exponent << 23) | (top << 15) | low,
        st.integers(0, 1),
        st.integers(100, 127),
        st.integers(0, 255),
        st.sampled_from([0, 1, 0x7FFF, 0x4000, 0x3FFF, 0x4001]),
    ),
)


def exact_tile(tile: np.ndarray, precision: Precision) -> tuple[list[list[int]], int]:
    """Integers Q and exponent of one tile of words, by the definition and in rational numbers."""
    biased = [[int(word) >> 23 & 0xFF for word in row] for row in tile]
    exponent = max(map(max, biased))
    if exponent == NAN_EXPONENT:
        return [[0] * len(row) for row in tile], exponent
    integers = []
    for row, exponents in zip(tile, biased):
        integers.append([])
        for word, e in zip(row, exponents):
            if e == 0:
                integers[-1].append(0)
                continue
            value = Fraction((int(word) & 0x7FFFFF) | 0x800000) * Fraction(2) ** (e - 127 - 23)
            value = -value if int(word) >> 31 else value
            scaled = value * 2 ** SCALE[precision] / Fraction(2) ** (exponent - 127)
            rounded = round(scaled)  # Python rounds a Fraction half to even.
            integers[-1].append(max(-LIMIT[precision], min(LIMIT[precision], rounded)))
    return integers, exponent


def integers_of(limbs: np.ndarray) -> np.ndarray:
    weights = 256 ** np.arange(len(limbs))[::-1]
    return np.tensordot(weights, limbs.astype(np.int64), 1)


@pytest.mark.parametrize("precision", Precision)
@given(st.lists(words, min_size=16, max_size=16), st.booleans())
def test_one_tile_is_exact(precision, values, finite):
    tile = np.array(values, np.uint32).reshape(4, 4)
    if finite:
        tile = np.where((tile >> 23 & 0xFF) == 255, tile & 0xBFFFFFFF, tile)
    mantissas, exponents = quantise(tile, precision, 4)
    integers, exponent = exact_tile(tile, precision)
    assert exponents.tolist() == [[exponent]]
    assert integers_of(mantissas)[0, 0].tolist() == integers


@pytest.mark.parametrize("precision", Precision)
def test_ties_go_to_even(precision):
    """Every multiple of half an integer near zero and near the limit, beside an element that fixes the exponent."""
    unit = 2.0 ** -SCALE[precision]
    halves = np.concatenate([np.arange(-64, 65), np.arange(-3, 2) + 2 * LIMIT[precision]]) / 2
    for half in halves:
        tile = np.zeros((4, 4), np.float32)
        tile[0, 0], tile[1, 2] = 1.0, half * unit
        assert float(tile[1, 2]) == half * unit
        got = integers_of(quantise(tile, precision, 4).mantissas)[0, 0, 1, 2]
        assert got == min(round(Fraction(half)), LIMIT[precision])


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (3, 17), (21, 8), (30, 40)])
def test_matrix_layout_and_error_bound(precision, shape, seed):
    """Tiles are where they belong, and no element is off by more than half a unit, or what saturation cuts."""
    rng = np.random.default_rng([seed, *shape, precision])
    matrix = (rng.standard_normal(shape) * np.exp2(rng.integers(-20, 20, shape))).astype(np.float32)
    tiles = quantise(matrix, precision, 8)
    assert tiles.mantissas.shape == (precision.limbs, -(-shape[0] // 8), -(-shape[1] // 8), 8, 8)
    back = dequantise(tiles, *shape)
    for i in range(0, shape[0], 8):
        for j in range(0, shape[1], 8):
            block = np.s_[i : i + 8, j : j + 8]
            top = np.abs(matrix[block]).max()
            binade = 2.0 ** np.floor(np.log2(top))
            unit = binade * 2.0 ** -SCALE[precision]
            # Rounding is off by half a unit at most; only what is above the limit by more than that is cut.
            cut = np.maximum(np.abs(matrix[block]) - LIMIT[precision] * unit, 0)
            error = np.abs(back[block] - matrix[block])
            assert (error <= np.maximum(unit / 2, cut)).all()
    full = dequantise(tiles)
    assert not full[shape[0] :].any()
    assert not full[:, shape[1] :].any()


def test_specials():
    tile = np.ones((4, 8), np.float32)
    tile[2, 1], tile[3, 6] = np.inf, np.nan
    tile[0, 0] = 3e38
    tiles = quantise(tile, Precision.P16, 4)
    assert tiles.exponents.tolist() == [[255, 255]]
    assert not tiles.mantissas.any()
    assert np.isnan(dequantise(tiles)).all()
    subnormal = np.full((4, 4), 0x007FFFFF, np.uint32)
    tiles = quantise(subnormal, Precision.P8, 4)
    assert tiles.exponents.tolist() == [[0]]
    assert not tiles.mantissas.any()


@given(st.integers(-0x7F7F7F, 0x7F7F7F))
def test_limbs_are_balanced(integer):
    limbs = split_limbs(np.array([integer], np.int32), 3)
    assert integers_of(limbs).tolist() == [integer]


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="2-D array of float32 or uint32, not 1-D of float64"):
        quantise(np.zeros(3), Precision.P8, 4)
    with pytest.raises(ValueError, match="3 is not a valid Precision"):
        quantise(np.zeros((3, 3), np.float32), 3, 4)


def slow_integers(matrix: np.ndarray, precision: Precision, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers (rows, cols) and exponents of tiles, in binary64 and by masks."""
    high, wide = (size // side for size in matrix.shape)
    fields = (matrix.view(np.uint32) >> 23 & 0xFF).astype(np.int64)
    exponents = fields.reshape(high, side, wide, side).max(axis=(1, 3))
    each = np.kron(exponents, np.ones((side, side), np.int64))
    numbers = np.where((fields == 0) | (each == NAN_EXPONENT), np.float32(0), matrix).astype(np.float64)
    scaled = np.rint(numbers * 2.0 ** (SCALE[precision] + 127 - each))
    return scaled.clip(-LIMIT[precision], LIMIT[precision]).astype(np.int64), exponents


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("narrow", [False, True])
def test_tiles_of_every_exponent(precision, narrow, seed):
    """A tile for every exponent, alone and beside the others: zeros, subnormals, saturation, infinities, NaNs."""
    rng, side = np.random.default_rng([seed, precision]), 16
    top = np.arange(256).repeat(side * side).reshape(16, 16, side, side)
    below = rng.integers(0, 12 if narrow else 256, top.shape) * (rng.random(top.shape) < 0.9)
    words = (np.maximum(top - below, 0) << 23 | rng.integers(0, 1 << 23, top.shape)).astype(np.uint32)
    words |= rng.integers(0, 2, top.shape, np.uint32) << np.uint32(31)
    words[rng.random(top.shape) < 0.2] &= 0x80000000
    words[rng.random(top.shape) < 0.1] |= 0x007FFFFF
    matrix = words.swapaxes(1, 2).reshape(16 * side, 16 * side).view(np.float32)
    integers, exponents = slow_integers(matrix, precision, side)
    assert len(np.unique(exponents)) > 250
    parts = [matrix] + [matrix[i : i + side, j : j + side] for i in range(0, 256, side) for j in range(0, 256, side)]
    for part in parts:
        expected, e = (integers, exponents) if part is matrix else slow_integers(part, precision, side)
        tiles = quantise(part, precision, side)
        np.testing.assert_array_equal(tiles.exponents, e)
        found = integers_of(tiles.mantissas).swapaxes(1, 2).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected)
