"""``bench/function_error.c`` against the NumPy twins, and the figures that it measures."""

import numpy as np
import pytest
from lepton_verif.model.arith import functions

from bench.function_error import FUNCTIONS, CompilerError, measure, results

NAN, INFINITY = 0x7FC00000, 0x7F800000


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Every exponent with the ends of its fractions, and random words of which a half are middling numbers."""
    ends = np.array([0, 1, 2, 0x1FFFFF, 0x200000, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF], np.uint32)
    edges = (np.arange(512, dtype=np.uint32)[:, None] << 23) | ends
    any_bits = rng.integers(0, 1 << 32, count, dtype=np.uint32)
    middling = (any_bits & 0x807FFFFF) | rng.integers(96, 136, count, dtype=np.uint32) << 23
    return np.concatenate([edges.ravel(), any_bits, middling])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_twin(name, seed):
    x = words(np.random.default_rng(seed), 1 << 20)
    found = results(name, x)
    expected = getattr(functions, name)(x.view(np.float32)).view(np.uint32)
    wrong = np.flatnonzero(found != expected)
    assert not wrong.size, f"{name} of 0x{x[wrong[0]]:08x}"


def test_sees_errors_and_steps():
    """A known worst error; a range of NaNs; a range that ends with infinity."""
    worst = measure("recip", 0x3F80C000, 0x3F80D000)
    assert (worst.inputs, worst.normal, worst.at, worst.steps, worst.edges) == (0x1000, 0x1000, 0x3F80C3B5, 0, 0)
    assert worst.worst == pytest.approx(0.9038, abs=1e-4)
    assert measure("recip", 0x7F800001, 0x7F800101).inputs == 0
    last = measure("exp", INFINITY - 0x100, INFINITY + 1)
    assert (last.inputs, last.normal, last.edges, last.steps) == (0x101, 0, 0, 0)


def test_sums_keep_the_worst():
    first, second = measure("tanh", 0x3F800000, 0x3F801000), measure("tanh", 0x3F801000, 0x3F802000)
    both = measure("tanh", 0x3F800000, 0x3F802000)
    assert first + second == both == second + first


def test_without_a_compiler(monkeypatch):
    from bench import function_error

    function_error._library.cache_clear()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CompilerError, match="no C compiler: none of cc, gcc, clang is there"):
        results("exp", np.zeros(1, np.uint32))
    monkeypatch.undo()
    assert results("exp", np.zeros(1, np.uint32))[0] == 0x3F800000


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "start", [0, 0x007FF000, 0x7E000000, 0x7EFFF000, 0x80000000, 0xBFFFF000, 0xFEFFF000, 0xFF7FF001]
)
def test_specials_are_where_they_should_be(name, start):
    """Zeros, infinities and NaNs around the edges of the formats."""
    found = measure(name, start, start + 0x1000)
    assert (found.edges, found.steps) == (0, 0)
