"""Functions of one argument: error against float64, special cases, order of the results, the tables."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_npu.spec import function_tables as tables
from lepton_verif.model.arith.functions import exp, recip, rsqrt, sigmoid, sqrt, tanh

NAN, INFINITY, NEGATIVE = 0x7FC00000, 0x7F800000, 1 << 31
ONE, MINUS_ONE, HALF = 0x3F800000, 0xBF800000, 0x3F000000
SAMPLES = 1 << 20
LEAST = 2.0**-126


@dataclass(frozen=True)
class Case:
    """A function: its exact twin, its bound in ulp (docs/numerics.md, section 5), where its results are normal."""

    function: Callable
    exact: Callable
    bound: float
    low: float
    high: float
    falling: bool = False


CASES = {
    "exp": Case(exp, np.exp, 0.63, -87.33, 88.72),
    "recip": Case(recip, lambda x: 1 / x, 0.91, -(2.0**125), 2.0**125, falling=True),
    "sqrt": Case(sqrt, np.sqrt, 0.65, LEAST, 3.4e38),
    "rsqrt": Case(rsqrt, lambda x: 1 / np.sqrt(x), 0.76, LEAST, 3.4e38, falling=True),
    "sigmoid": Case(sigmoid, lambda x: 1 / (1 + np.exp(-x)), 1.03, -87.33, 100.0),
    "tanh": Case(tanh, np.tanh, 1.38, -20.0, 20.0),
}
every_function = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def apply(function, words) -> np.ndarray:
    return function(np.array(words, np.uint32).view(np.float32)).view(np.uint32)


def ulps(found: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Error in units of the last place of the binade of the reference."""
    _, power = np.frexp(reference)
    return np.abs(found.astype(np.float64) - reference) * np.ldexp(1.0, 24 - power)


@every_function
def test_error(case, seed):
    """Equally spread numbers, and all magnitudes, where results are normal; the bound is met, and is not far away."""
    rng = np.random.default_rng(seed)
    wide = rng.uniform(max(case.low, -90.0), min(case.high, 90.0), SAMPLES).astype(np.float32)
    words = rng.integers(0x00800000, np.float32(case.high).view(np.uint32), SAMPLES, np.uint32)
    if case.low < 0:
        words = np.concatenate([words, words[words < np.float32(-case.low).view(np.uint32)] | np.uint32(NEGATIVE)])
    worst = 0.0
    for x in (wide, words.view(np.float32)):
        error = ulps(case.function(x), case.exact(x.astype(np.float64)))
        assert error.max() <= case.bound, f"at {x[error.argmax()]!r}"
        worst = max(worst, error.max())
    assert worst > 0.8 * case.bound


@pytest.mark.parametrize(
    ("function", "word", "result"),
    [
        (exp, 0x00000000, ONE),
        (exp, 0x80000000, ONE),
        (exp, 0x007FFFFF, ONE),
        (exp, 0x807FFFFF, ONE),
        (exp, 0x00800000, ONE),
        (exp, INFINITY, INFINITY),
        (exp, INFINITY | NEGATIVE, 0),
        (exp, 0x7F7FFFFF, INFINITY),
        (exp, 0xFF7FFFFF, 0),
        (exp, 0x43000000, INFINITY),  # 128
        (exp, 0xC3000000, 0),
        (sqrt, 0x00000000, 0),
        (sqrt, 0x80000000, NEGATIVE),
        (sqrt, 0x007FFFFF, 0),
        (sqrt, 0x807FFFFF, NEGATIVE),
        (sqrt, 0x00800000, 0x20000000),  # 2^-126: 2^-63
        (sqrt, 0x80800000, NAN),
        (sqrt, MINUS_ONE, NAN),
        (sqrt, INFINITY, INFINITY),
        (sqrt, INFINITY | NEGATIVE, NAN),
        (sqrt, 0x7F7FFFFF, 0x5F7FFFFF),
        (rsqrt, 0x00000000, INFINITY),
        (rsqrt, 0x80000000, INFINITY | NEGATIVE),
        (rsqrt, 0x007FFFFF, INFINITY),
        (rsqrt, 0x807FFFFF, INFINITY | NEGATIVE),
        (rsqrt, 0x00800000, 0x5F000000),
        (rsqrt, 0x80800000, NAN),
        (rsqrt, MINUS_ONE, NAN),
        (rsqrt, INFINITY, 0),
        (rsqrt, INFINITY | NEGATIVE, NAN),
        (sigmoid, 0x00000000, HALF),
        (sigmoid, 0x80000000, HALF),
        (sigmoid, 0x007FFFFF, HALF),
        (sigmoid, 0x00800000, HALF),
        (sigmoid, 0x80800000, HALF),
        (sigmoid, 0x43000000, ONE),
        (sigmoid, 0xC3000000, 0),
        (sigmoid, INFINITY, ONE),
        (sigmoid, INFINITY | NEGATIVE, 0),
        (tanh, 0x00000000, 0),
        (tanh, 0x80000000, NEGATIVE),
        (tanh, 0x007FFFFF, 0),
        (tanh, 0x807FFFFF, NEGATIVE),
        (tanh, 0x00800000, 0x00800000),
        (tanh, 0x80800001, 0x80800001),
        (tanh, 0x38000001, 0x38000001),  # 2^-15
        (tanh, 0x42800000, ONE),  # 64
        (tanh, 0xC2800000, MINUS_ONE),
        (tanh, INFINITY, ONE),
        (tanh, INFINITY | NEGATIVE, MINUS_ONE),
    ],
)
def test_specials(function, word, result):
    assert apply(function, [word])[0] == result


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


@every_function
def test_nan(case):
    assert (apply(case.function, [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFC00000, 0xFFFFFFFF]) == NAN).all()


@every_function
def test_shapes(case):
    x = np.array([[0.5, np.nan, 2.0], [0.0, -3.0, 0.25]], np.float32)
    found = case.function(x)
    assert found.shape == x.shape
    assert found.dtype == np.float32
    np.testing.assert_array_equal(case.function(x.T.copy()).T.view(np.uint32), found.view(np.uint32))
    assert case.function(x[:0]).shape == (0, 3)
    long = np.linspace(-9, 9, 30_000, dtype=np.float32).reshape(3, 100, 100).transpose(1, 2, 0)
    alone = np.concatenate([case.function(part) for part in np.split(long.reshape(-1), 30)])
    np.testing.assert_array_equal(case.function(long).view(np.uint32).reshape(-1), alone.view(np.uint32))


def neighbours(x: float) -> tuple[np.ndarray, np.ndarray]:
    """The binary32 numbers below and above ``x``."""
    nearest = np.array([x], np.float32)
    if float(nearest[0]) > x:
        return np.nextafter(nearest, np.float32(-np.inf)), nearest
    return nearest, np.nextafter(nearest, np.float32(np.inf))


@pytest.mark.parametrize("function", [exp, sigmoid])
def test_least_result(function):
    """The first number whose result is normal, and the last one whose result is not."""
    below, above = neighbours(float(np.log(LEAST)))
    assert function(below).view(np.uint32)[0] == 0
    assert function(above)[0] >= LEAST


def test_exp_overflow():
    below, above = neighbours(float(np.log(2.0**128)))
    assert np.isfinite(exp(below)[0])
    assert np.isposinf(exp(above)[0])


def test_recip_of_powers_of_two_is_exact():
    powers = np.ldexp(1.0, np.arange(-126, 127))
    np.testing.assert_array_equal(recip(powers.astype(np.float32)), (1 / powers).astype(np.float32))


def test_roots_of_squares_are_exact():
    roots = np.ldexp(np.arange(2048, 4096), np.arange(-70, 40)[:, None]).astype(np.float64)
    np.testing.assert_array_equal(sqrt((roots**2).astype(np.float32)), roots.astype(np.float32))
    powers = np.ldexp(1.0, np.arange(-63, 64))
    np.testing.assert_array_equal(rsqrt((powers**2).astype(np.float32)), (1 / powers).astype(np.float32))


def test_tanh_is_odd(seed):
    words = np.random.default_rng(seed).integers(0, INFINITY + 1, SAMPLES, np.uint32)
    np.testing.assert_array_equal(apply(tanh, words) | NEGATIVE, apply(tanh, words | np.uint32(NEGATIVE)))


@every_function
@settings(max_examples=50, deadline=None)
@given(start=st.one_of(st.integers(0x00800000, 0x7F7F0000), st.integers(0x38000000, 0x42B00000)))
def test_neighbours_are_in_order(case, start):
    """Also across the ends of segments, where two quadratics meet, and where a function changes its method."""
    x = np.arange(start, start + 4096, dtype=np.uint32).view(np.float32)
    for sign in (1, -1) if case.low < 0 else (1,):
        found = case.function(sign * x).astype(np.float64)
        step = np.diff(found[np.isfinite(found)]) * sign
        assert (step <= 0).all() if case.falling else (step >= 0).all()


@pytest.mark.parametrize("function", [exp, sigmoid, tanh])
def test_order_across_zero(function):
    found = apply(function, [0x80800000, 0x80000001, 0x80000000, 0, 1, 0x00800000]).view(np.float32)
    assert (np.diff(found) >= 0).all()


def test_tanh_order_where_its_method_changes():
    x = np.arange(0x3F200000 - 100, 0x3F200000 + 100, dtype=np.uint32).view(np.float32)
    assert (np.diff(tanh(x)) >= 0).all()


@pytest.mark.parametrize(
    ("table", "exact", "parts"),
    [
        (tables.exp2_table(), np.exp2, [(0, 1, 128)]),
        (tables.reciprocal_table(), lambda x: 1 / x, [(1, 2, 128)]),
        (tables.sqrt_table(), np.sqrt, [(1, 2, 64), (2, 4, 64)]),
        (tables.rsqrt_table(), lambda x: 1 / np.sqrt(x), [(1, 1.5, 64), (2, 3, 64), (1.5, 2, 32), (3, 4, 32)]),
        (tables.tanh_table(), lambda x: np.tanh(np.sqrt(x)) / np.sqrt(x), [(0, 0.5, 64)]),
    ],
    ids=["exp2", "reciprocal", "sqrt", "rsqrt", "tanh"],
)
def test_tables_meet_the_function(table, exact, parts):
    """At the start, middle and end of each segment to less than a unit of the fixed point."""
    c0, c1, c2 = (np.array(c, np.float64) for c in (table.c0, table.c1, table.c2))
    assert len(c0) == sum(segments for *_, segments in parts)
    first = 0
    for start, end, segments in parts:
        part = slice(first, first + segments)
        width = (end - start) / segments
        for t in (0.0, 0.5, 1.0):
            value = (c0[part] + (c1[part] + c2[part] * t) * t) / (1 << tables.FRACTION_BITS)
            # tanh(sqrt(u)) / sqrt(u) has no value at 0 in floating point, and its limit 1.
            x = np.maximum(start + (np.arange(segments) + t) * width, 1e-12)
            assert (np.abs(value - exact(x)) * (1 << tables.FRACTION_BITS)).max() < 0.501
        np.testing.assert_array_equal((c0 + c1 + c2)[part][:-1], c0[part][1:])
        first += segments


@pytest.mark.parametrize(
    "table",
    [
        tables.exp2_table(),
        tables.reciprocal_table(),
        tables.sqrt_table(),
        tables.rsqrt_table(),
        tables.tanh_table(),
    ],
)
def test_tables_fit_their_fields(table):
    assert max(table.c0) < 1 << tables.FRACTION_BITS + 1
    for values, bits, negative in (
        (table.c1, tables.C1_BITS, table.c1_negative),
        (table.c2, tables.C2_BITS, table.c2_negative),
    ):
        assert {value >> bits for value in values} == {-1 if negative else 0}
