"""exp and reciprocal: error against float64, special cases, order of the results."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_npu.spec import function_tables as tables
from lepton_verif.model.arith.functions import exp, recip

EXP_BOUND = 0.63
RECIP_BOUND = 0.91
"""In ulp: docs/numerics.md, section 5."""

NAN, INFINITY, NEGATIVE = 0x7FC00000, 0x7F800000, 1 << 31
SAMPLES = 1 << 20
LEAST = 2.0**-126


def apply(function, words) -> np.ndarray:
    return function(np.array(words, np.uint32).view(np.float32)).view(np.uint32)


def ulps(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Error in units of the last place of the binade of the reference."""
    _, power = np.frexp(reference)
    return np.abs(found.astype(np.float64) - reference) * np.ldexp(1.0, 24 - power)


def test_exp_error(seed):
    rng = np.random.default_rng(seed)
    wide = rng.uniform(-87.33, 88.72, SAMPLES).astype(np.float32)
    # All magnitudes, down to those where the result is 1.
    small = rng.integers(np.float32(2.0**-30).view(np.uint32), np.float32(87.3).view(np.uint32), SAMPLES, np.uint32)
    small |= rng.integers(0, 2, SAMPLES, np.uint32) << 31
    for x in (wide, small.view(np.float32)):
        error = ulps(exp(x), np.exp(x.astype(np.float64)))
        assert error.max() <= EXP_BOUND, f"at {x[error.argmax()]!r}"


def test_recip_error(seed):
    rng = np.random.default_rng(seed)
    words = (
        rng.integers(0x00800000, 253 << 23, 2 * SAMPLES, np.uint32) | rng.integers(0, 2, 2 * SAMPLES, np.uint32) << 31
    )
    x = words.view(np.float32)
    error = ulps(recip(x), 1 / x.astype(np.float64))
    assert error.max() <= RECIP_BOUND, f"at {x[error.argmax()]!r}"


@pytest.mark.parametrize(
    ("word", "result"),
    [
        (0x00000000, 0x3F800000),
        (0x80000000, 0x3F800000),
        (0x007FFFFF, 0x3F800000),
        (0x807FFFFF, 0x3F800000),
        (0x00800000, 0x3F800000),
        (INFINITY, INFINITY),
        (INFINITY | NEGATIVE, 0),
        (0x7F7FFFFF, INFINITY),
        (0xFF7FFFFF, 0),
        (0x43000000, INFINITY),  # 128
        (0xC3000000, 0),
        (0x7F800001, NAN),
        (0xFFFFFFFF, NAN),
    ],
)
def test_exp_specials(word, result):
    assert apply(exp, [word])[0] == result


def neighbours(x: float) -> tuple[np.ndarray, np.ndarray]:
    """The binary32 numbers below and above ``x``."""
    nearest = np.array([x], np.float32)
    if float(nearest[0]) > x:
        return np.nextafter(nearest, np.float32(-np.inf)), nearest
    return nearest, np.nextafter(nearest, np.float32(np.inf))


def test_exp_limits():
    """The last numbers whose result is normal, and the first whose result is not."""
    below, above = neighbours(float(np.log(2.0**128)))
    assert np.isfinite(exp(below)[0])
    assert np.isposinf(exp(above)[0])
    below, above = neighbours(float(np.log(LEAST)))
    assert exp(below).view(np.uint32)[0] == 0
    assert exp(above)[0] >= LEAST


@pytest.mark.parametrize(
    ("word", "result"),
    [
        (0x00000000, INFINITY),
        (0x00000001, INFINITY),
        (0x007FFFFF, INFINITY),
        (0x00800000, 0x7E800000),  # 2^-126
        (0x3F800000, 0x3F800000),
        (0x40000000, 0x3F000000),
        (0x7E800000, 0x00800000),  # 2^126
        (0x7E800001, 0),  # below 2^-126
        (0x7F000000, 0),
        (0x7F7FFFFF, 0),
        (INFINITY, 0),
    ],
)
def test_recip_specials(word, result):
    assert apply(recip, [word])[0] == result
    assert apply(recip, [word | NEGATIVE])[0] == result | NEGATIVE


@pytest.mark.parametrize("word", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFC00000])
def test_recip_of_nan(word):
    assert apply(recip, [word])[0] == NAN


def test_recip_of_powers_of_two_is_exact():
    powers = np.ldexp(1.0, np.arange(-126, 127))
    np.testing.assert_array_equal(recip(powers.astype(np.float32)), (1 / powers).astype(np.float32))


@pytest.mark.parametrize("function", [exp, recip])
@settings(max_examples=100, deadline=None)
@given(start=st.one_of(st.integers(0x00800000, 0x7F7F0000), st.integers(0x38000000, 0x42B00000)))
def test_neighbours_are_in_order(function, start):
    """Also across the ends of segments, where two quadratics meet."""
    x = np.arange(start, start + 4096, dtype=np.uint32).view(np.float32)
    rising = function is exp
    step = np.diff(function(x).astype(np.float64)[np.isfinite(function(x))])
    assert (step >= 0).all() if rising else (step <= 0).all()
    below = function(-x)
    step = np.diff(below.astype(np.float64))
    assert (step <= 0).all() if rising else (step >= 0).all()


@pytest.mark.parametrize(
    ("table", "exact"),
    [(tables.exp2_table(), np.exp2), (tables.reciprocal_table(), lambda x: 1 / (1 + x))],
    ids=["exp2", "reciprocal"],
)
def test_tables_meet_the_function(table, exact):
    """At the start, middle and end of each segment to less than a unit of the fixed point."""
    start = np.arange(tables.SEGMENTS) / tables.SEGMENTS
    c0, c1, c2 = (np.array(c, np.float64) for c in (table.c0, table.c1, table.c2))
    for t in (0.0, 0.5, 1.0):
        value = (c0 + (c1 + c2 * t) * t) / (1 << tables.FRACTION_BITS)
        error = np.abs(value - exact(start + t / tables.SEGMENTS)) * (1 << tables.FRACTION_BITS)
        assert error.max() < 0.5 + 1e-6
    np.testing.assert_array_equal((c0 + c1 + c2)[:-1], c0[1:])
