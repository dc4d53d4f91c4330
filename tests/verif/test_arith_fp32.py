"""The binary32 twins against exact rational arithmetic, with rounding code of this file's own."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lepton_verif.model.arith import fp32

NAN = 0x7FC00000
INFINITY = 0x7F800000
SIGN = 1 << 31
ONE = 0x3F800000
LEAST = Fraction(1, 1 << 126)


def is_nan(word: int) -> bool:
    return word & 0x7FFFFFFF > INFINITY


def is_infinite(word: int) -> bool:
    return word & 0x7FFFFFFF == INFINITY


def value(word: int) -> Fraction:
    """The number of a finite word; 0 for a subnormal one."""
    exponent, fraction = word >> 23 & 0xFF, word & 0x7FFFFF
    if exponent == 0:
        return Fraction(0)
    magnitude = Fraction(fraction + (1 << 23)) * Fraction(2) ** (exponent - 150)
    return -magnitude if word & SIGN else magnitude


def round_to_word(exact: Fraction, zero_sign: int) -> int:
    """The nearest word, ties to even; ``zero_sign`` is the sign word of an exact zero."""
    if exact == 0:
        return zero_sign
    sign, magnitude = (SIGN, -exact) if exact < 0 else (0, exact)
    if magnitude < LEAST:
        return sign
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    scaled = magnitude * Fraction(2) ** (23 - exponent)
    whole, rest = divmod(scaled, 1)
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1)
    if whole == 1 << 24:
        whole, exponent = 1 << 23, exponent + 1
    if exponent > 127:
        return sign | INFINITY
    return sign | (exponent + 127) << 23 | int(whole) - (1 << 23)


def exact_add(a: int, b: int) -> int:
    if is_nan(a) or is_nan(b):
        return NAN
    if is_infinite(a) or is_infinite(b):
        if is_infinite(a) and is_infinite(b):
            return a if a == b else NAN
        return a if is_infinite(a) else b
    both_negative = a & b & SIGN if value(a) == value(b) == 0 else 0
    return round_to_word(value(a) + value(b), both_negative)


def exact_mul(a: int, b: int) -> int:
    sign = (a ^ b) & SIGN
    if is_nan(a) or is_nan(b):
        return NAN
    if is_infinite(a) or is_infinite(b):
        other = b if is_infinite(a) else a
        return NAN if not is_infinite(other) and value(other) == 0 else sign | INFINITY
    return round_to_word(value(a) * value(b), sign)


def sort_key(word: int) -> tuple:
    """Orders words that are not NaN, -0 below +0."""
    if is_infinite(word):
        return (-1 if word & SIGN else 1, Fraction(0), 0)
    return (0, value(word), 0 if word & SIGN else 1)


def flushed(word: int) -> int:
    return word & SIGN if word & INFINITY == 0 else word


def exact_min(a: int, b: int) -> int:
    if is_nan(a) or is_nan(b):
        return NAN if is_nan(a) and is_nan(b) else flushed(b if is_nan(a) else a)
    return flushed(min(a, b, key=sort_key))


def exact_max(a: int, b: int) -> int:
    if is_nan(a) or is_nan(b):
        return exact_min(a, b)
    return flushed(max(a, b, key=sort_key))


def compare(a: int, b: int) -> int | None:
    """-1, 0 or 1; None with a NaN. Zeros are equal."""
    if is_nan(a) or is_nan(b):
        return None
    x, y = sort_key(a)[:2], sort_key(b)[:2]
    return (x > y) - (x < y)


CORNERS = [
    0x00000000, 0x00000001, 0x00400000, 0x007FFFFF,  # zero, subnormals
    0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000,  # least normal numbers
    0x1FFFFFFF, 0x20000000, 0x20000001,  # squares are near 2^-126
    0x337FFFFF, 0x33800000, 0x33800001, 0x34000000,  # about half an ulp of 1
    0x3F7FFFFF, ONE, 0x3F800001, 0x3F800002, 0x3FFFFFFF, 0x40000000,
    0x4B7FFFFF, 0x4B800000, 0x4C000000, 0x5F7FFFFF, 0x5F800000,  # 2^24; squares are near 2^128
    0x72FFFFFF, 0x73000000, 0x73800000,  # about half an ulp of the largest
    0x7F000000, 0x7F7FFFFE, 0x7F7FFFFF, INFINITY, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF,
]  # fmt: skip
CORNERS += [word | SIGN for word in CORNERS]

anything = st.integers(0, 0xFFFFFFFF)
words = st.one_of(anything, st.sampled_from(CORNERS))


@st.composite
def close_pairs(draw) -> tuple[int, int]:
    """Operands whose sum cancels or ties: exponents up to 26 apart, sparse fractions, either sign."""
    fractions = st.one_of(st.integers(0, 0x7FFFFF), st.sampled_from([0, 1, 2, 3, 0x400000, 0x7FFFFE, 0x7FFFFF]))
    high = draw(st.integers(1, 254))
    low = draw(st.integers(max(0, high - 26), high))
    a = draw(st.integers(0, 1)) << 31 | high << 23 | draw(fractions)
    b = draw(st.integers(0, 1)) << 31 | low << 23 | draw(fractions)
    return (b, a) if draw(st.booleans()) else (a, b)


@st.composite
def edge_products(draw) -> tuple[int, int]:
    """Operands whose product is near 2^-126, or near 2^128."""
    total = draw(st.one_of(st.integers(125, 130), st.integers(379, 383)))
    first = draw(st.integers(max(1, total - 254), min(254, total - 1)))
    fractions = st.one_of(st.integers(0, 0x7FFFFF), st.sampled_from([0, 1, 0x3504F3, 0x3504F4, 0x7FFFFE, 0x7FFFFF]))
    a = draw(st.integers(0, 1)) << 31 | first << 23 | draw(fractions)
    b = draw(st.integers(0, 1)) << 31 | (total - first) << 23 | draw(fractions)
    return a, b


@st.composite
def tie_products(draw) -> tuple[int, int]:
    """Operands whose exact product lies half way between two numbers, or next to it."""
    # Odd significands of i and 25 - i bits (or one more) have a product of 25 bits: its last bit is half an ulp.
    bits = draw(st.integers(2, 23))
    m = draw(st.integers(1 << (bits - 1), (1 << bits) - 1)) | 1
    n = draw(st.integers(1 << (24 - bits), (1 << (25 - bits)) - 1)) | 1
    return tuple(int(np.float32(number).view(np.uint32)) for number in (m, n))


pairs = st.one_of(st.tuples(words, words), close_pairs(), edge_products(), tie_products())


def one(function, *operands: int) -> int:
    """A twin on single words."""
    return int(fp32.bits(function(*(fp32.from_bits(np.array([word])) for word in operands)))[0])


@settings(max_examples=350, deadline=None)
@given(pairs)
def test_add(pair):
    a, b = pair
    assert one(fp32.add, a, b) == exact_add(a, b)
    if not is_nan(b):
        assert one(fp32.sub, a, b) == exact_add(a, b ^ SIGN)


@settings(max_examples=350, deadline=None)
@given(pairs)
@example((0x20000001, 0x1FFFFFFE))  # rounds up to 2^-126, but is below it before rounding
def test_mul(pair):
    assert one(fp32.mul, *pair) == exact_mul(*pair)


@settings(max_examples=250, deadline=None)
@given(pairs, words)
@example((0x20000001, 0x1FFFFFFE), 0x00800000)  # the product is flushed before the sum
@example((0x5F800000, 0x5F800000), 0xFF7FFFFF)  # the product overflows before the sum
@example((0x3F800001, 0x3F800001), 0xBF800002)  # a fused operation would keep 2^-46
def test_muladd_rounds_twice(pair, c):
    a, b = pair
    assert one(fp32.muladd, a, b, c) == exact_add(exact_mul(a, b), c)


@settings(max_examples=250, deadline=None)
@given(pairs)
def test_compare(pair):
    a, b = pair
    order = compare(a, b)
    x, y = (fp32.from_bits(np.array([word])) for word in pair)
    assert bool(fp32.lt(x, y)[0]) == (order == -1)
    assert bool(fp32.le(x, y)[0]) == (order in (-1, 0))
    assert bool(fp32.eq(x, y)[0]) == (order == 0)


@settings(max_examples=250, deadline=None)
@given(pairs)
def test_minimum_and_maximum(pair):
    assert one(fp32.minimum, *pair) == exact_min(*pair)
    assert one(fp32.maximum, *pair) == exact_max(*pair)


@pytest.mark.parametrize(
    ("twin", "exact"),
    [(fp32.add, exact_add), (fp32.mul, exact_mul), (fp32.minimum, exact_min), (fp32.maximum, exact_max)],
    ids=["add", "mul", "minimum", "maximum"],
)
def test_all_pairs_of_corners(twin, exact):
    """As one array, so that what depends on a neighbour in the array shows."""
    a, b = (fp32.from_bits(word) for word in np.meshgrid(CORNERS, CORNERS))
    found = fp32.bits(twin(a, b))
    expected = np.array([[exact(x, y) for x in CORNERS] for y in CORNERS], np.uint32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("twin", "exact"), [(fp32.add, exact_add), (fp32.mul, exact_mul)], ids=["add", "mul"])
def test_random_words(twin, exact, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 1 << 32, (2, 20000), np.uint32)
    # Half of the pairs with exponents close to each other, where sums round.
    b[::2] = (b[::2] & 0x807FFFFF) | (a[::2] & 0x7F800000)
    found = fp32.bits(twin(fp32.from_bits(a), fp32.from_bits(b)))
    expected = [exact(int(x), int(y)) for x, y in zip(a, b)]
    np.testing.assert_array_equal(found, np.array(expected, np.uint32))


def test_operands_are_not_changed():
    word = np.array([1, 0x7F800001, 0x20000000], np.uint32)
    a, before = fp32.from_bits(word), word.copy()
    for twin in (fp32.add, fp32.mul, fp32.minimum, fp32.maximum, fp32.lt):
        twin(a, a)
    np.testing.assert_array_equal(word, before)
