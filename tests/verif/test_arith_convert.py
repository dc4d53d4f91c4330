"""Conversions: bfloat16 against ml_dtypes, integers and scaled integers against rational arithmetic."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lepton_npu.spec.commands import Format
from lepton_verif.model.arith.convert import from_element, scaled_int_to_fp32, to_element
from lepton_verif.model.iss_matmul import scale_sums

NAN = 0x7FC00000
LIMITS = {Format.U8: (0, 255), Format.I8: (-128, 127), Format.I32: (-(2**31), 2**31 - 1)}


def number(word: int) -> Fraction | None:
    """The number of a word, 0 for a subnormal one; None for NaN and infinity."""
    exponent = word >> 23 & 0xFF
    if exponent == 255:
        return None
    magnitude = Fraction(word & 0x7FFFFF | 0x800000) * Fraction(2) ** (exponent - 150) if exponent else Fraction(0)
    return -magnitude if word >> 31 else magnitude


def words_of(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def floats(words) -> np.ndarray:
    return np.array(words, np.uint32).view(np.float32)


def test_every_bfloat16_to_binary32():
    elements = np.arange(1 << 16, dtype=np.uint16)
    expected = elements.view(ml_dtypes.bfloat16).astype(np.float32)
    found = from_element(elements.astype(np.uint32) | 0xABCD0000, Format.BF16)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(words_of(found)[~nan], words_of(expected)[~nan])


@pytest.mark.parametrize("low", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_bfloat16_rounding_of_every_upper_half(low):
    """All 2^16 upper halves, with lower halves at and next to the tie."""
    words = np.arange(1 << 16, dtype=np.uint32) << 16 | low
    found = to_element(words.view(np.float32), Format.BF16)
    with np.errstate(invalid="ignore"):
        expected = words.view(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16).astype(np.uint32)
    field, nan = words >> 23 & 0xFF, (words & 0x7FFFFFFF) > 0x7F800000
    expected = np.where(field == 0, words >> 31 << 15, np.where(nan, 0x7FC0, expected))
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_rounding_of_random_words(seed):
    words = np.random.default_rng(seed).integers(0, 1 << 32, 1 << 20, np.uint32)
    words = words[(words >> 23 & 0xFF != 0) & ((words & 0x7FFFFFFF) <= 0x7F800000)]
    expected = words.view(np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(to_element(words.view(np.float32), Format.BF16), expected)


@pytest.mark.parametrize("upper", [0, 0xFFFFFF00])
def test_every_byte_to_binary32(upper):
    elements = np.arange(256, dtype=np.uint32) | np.uint32(upper)
    assert from_element(elements, Format.U8).tolist() == list(range(256))
    assert from_element(elements, Format.I8).tolist() == [*range(128), *range(-128, 0)]
    assert not np.signbit(from_element(elements[:1], Format.I8)).any()


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(
        st.integers(-(2**31), 2**31 - 1),
        # Ties and their neighbours: odd multiples of half an ulp in the binades from 2^24 on.
        st.builds(
            lambda shift, high, near, sign: sign * min((high << shift) + (1 << (shift - 1)) + near, 2**31 - 1),
            st.integers(1, 7),
            st.integers(1 << 23, (1 << 24) - 1),
            st.integers(-1, 1),
            st.sampled_from([-1, 1]),
        ),
    )
)
def test_int32_to_binary32(integer):
    found = from_element(np.array([integer & 0xFFFFFFFF]), Format.I32)[0]
    shift = max(0, abs(integer).bit_length() - 24)
    # Python rounds a Fraction half to even.
    assert int(found) == round(Fraction(integer, 1 << shift)) << shift
    assert np.signbit(found) == (integer < 0)


near_limits = st.sampled_from(
    [0.5, 1.5, 126.5, 127.5, 128.5, 254.5, 255.5, 256.0, 2.0**31, 2.0**31 - 128, 2.0**32, 2.0**60]
)
values = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.floats(-600, 600, width=32).map(lambda x: int(np.float32(x).view(np.uint32))),
    st.builds(
        lambda x, step, sign: (int(np.float32(x).view(np.uint32)) + step) | sign << 31,
        st.one_of(near_limits, st.integers(0, 300).map(lambda n: n + 0.5)),
        st.integers(-1, 1),
        st.integers(0, 1),
    ),
)


@pytest.mark.parametrize("format", LIMITS)
@settings(max_examples=500, deadline=None)
@given(values)
def test_binary32_to_integer(format, word):
    low, high = LIMITS[format]
    exact = number(word)
    if exact is not None:
        expected = max(low, min(high, round(exact)))
    elif word & 0x7FFFFF:
        expected = 0
    else:
        expected = low if word >> 31 else high
    found = int(to_element(floats([word]), format)[0])
    assert found == expected & (0xFFFFFFFF if format == Format.I32 else 0xFF)


@pytest.mark.parametrize("word", [0, 1 << 31, 1, 0x807FFFFF, 0x7F800001, 0xFFC12345, 0x7F800000, 0x3F800000])
def test_format_f32_keeps_the_word(word):
    assert words_of(from_element(np.array([word]), Format.F32))[0] == word
    assert to_element(floats([word]), Format.F32)[0] == word


def exact_scaled(integer: int, scale: int) -> int:
    """integer * 2^scale as a word: exact, infinite, or flushed."""
    if integer == 0:
        return 0
    sign = 1 << 31 if integer < 0 else 0
    lead = abs(integer).bit_length() - 1
    exponent = lead + scale + 127
    if exponent < 1:
        return sign
    if exponent > 254:
        return sign | 0x7F800000
    word = sign | exponent << 23 | int(Fraction(abs(integer)) * Fraction(2) ** (23 - lead)) - (1 << 23)
    assert number(word) == Fraction(integer) * Fraction(2) ** scale
    return word


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(st.integers(-(2**24), 2**24), st.sampled_from([0, 1, -1, 2**24, -(2**24), 2**24 - 1])),
    st.one_of(st.integers(-200, 200), st.integers(-2048, 2047)),
)
def test_scaled_integer(integer, scale):
    assert words_of(scaled_int_to_fp32(np.array([integer]), scale))[0] == exact_scaled(integer, scale)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=4),
    st.one_of(st.integers(1, 255), st.sampled_from([1, 2, 127, 254, 255])),
    st.one_of(st.integers(1, 255), st.sampled_from([1, 2, 127, 254, 255])),
    st.integers(0, 2),
)
def test_scaled_column_sums(integers, a, b, limb_sum):
    """What the simulator adds to accumulators, of whole arrays of sums in one binade or many."""
    found = words_of(scale_sums(np.array(integers, np.float32), a, b, limb_sum))
    if 255 in (a, b):
        assert np.isnan(found.view(np.float32)).all()
        return
    assert found.tolist() == [exact_scaled(integer, a + b - 266 - 8 * limb_sum) for integer in integers]


@pytest.mark.parametrize("exponent", [127, 10])
def test_a_column_sum_of_zero_is_plus_zero(exponent):
    """Also where the product that made it came out as -0, at ordinary and at tiny scales."""
    assert words_of(scale_sums(np.array([-0.0, 0.0], np.float32), exponent, exponent, 0)).tolist() == [0, 0]
