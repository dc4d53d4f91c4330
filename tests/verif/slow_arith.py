"""binary32 arithmetic of docs/numerics.md by way of binary64, without any short cut: what the fast twins must equal.

A sum or product of two binary32 numbers that is rounded to binary64 and then to binary32 is the one rounded once
(S. A. Figueroa, "When is double rounding innocuous?", SIGNUM Newsletter 30(3), 1995: 53 >= 2 * 24 + 2).
"""

import numpy as np

NAN = 0x7FC00000
SPECIALS = [
    0, 1, 0x00400000, 0x007FFFFF,  # zero, subnormals
    0x00800000, 0x00800001, 0x00FFFFFF, 0x01000000,  # least normal numbers
    0x0CFFFFFF, 0x0D000000, 0x0D000001, 0x0C800000,  # 2^-101, 2^-102
    0x1FFFFFFF, 0x20000000, 0x20000001,  # squares are near 2^-126
    0x3F7FFFFF, 0x3F800000, 0x3F800001, 0x3F000000, 0x40000000, 0x437F0000, 0x43000000, 0x3B808081,
    0x4B800000, 0x5F7FFFFF, 0x5F800000,  # squares are near 2^128
    0x7F000000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF,
]  # fmt: skip
SPECIALS += [word | 1 << 31 for word in SPECIALS]


def floats(words) -> np.ndarray:
    return np.asarray(words, np.uint32).view(np.float32)


def words(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def wide(x: np.ndarray) -> np.ndarray:
    """binary64, subnormals as zeros of their sign."""
    x = np.asarray(x, np.float64)
    return np.where(np.abs(x) < 2.0**-126, np.copysign(0.0, x), x)


def rounded(exact: np.ndarray) -> np.ndarray:
    """binary32 of what binary64 holds: tiny numbers are zeros, there is one NaN."""
    with np.errstate(all="ignore"):
        return np.where(np.isnan(exact), floats([NAN]), wide(exact).astype(np.float32))


def add(a, b):
    with np.errstate(all="ignore"):
        return rounded(wide(a) + wide(b))


def mul(a, b):
    with np.errstate(all="ignore"):
        return rounded(wide(a) * wide(b))


def muladd(a, b, c):
    return add(mul(a, b), c)


def _ordered(a, b, least: bool):
    a, b = np.broadcast_arrays(rounded(a), rounded(b))
    first = np.where(a == b, np.signbit(a) == least, (a < b) == least)
    return np.where(np.isnan(b) | (first & ~np.isnan(a)), a, b)


def select(a, b, c):
    a, b, c = np.broadcast_arrays(wide(a), rounded(b), rounded(c))
    return np.where(a != 0, b, c)


OPERATIONS = {
    "MULADD": muladd,
    "MIN": lambda a, b, c: _ordered(a, b, True),
    "MAX": lambda a, b, c: _ordered(a, b, False),
    "LT": lambda a, b, c: (wide(a) < wide(b)).astype(np.float32),
    "LE": lambda a, b, c: (wide(a) <= wide(b)).astype(np.float32),
    "EQ": lambda a, b, c: (wide(a) == wide(b)).astype(np.float32),
    "SELECT": select,
}


def operation(name: str, a, b, c, *, relu: bool = False, negate_b: bool = False, negate_c: bool = False):
    """A VECTOR operation but for the functions of one operand."""
    with np.errstate(all="ignore"):
        result = OPERATIONS[name](a, -b if negate_b else b, -c if negate_c else c)
    return np.where(np.signbit(result) & ~np.isnan(result), np.float32(0), result) if relu else result


def mixture(rng: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of training with many zeros, numbers of every magnitude, special cases."""
    ordinary = np.where(rng.random(count) < 0.3, 0, rng.standard_normal(count) * 0.01).astype(np.float32)
    kinds = [words(ordinary), rng.integers(0, 1 << 32, count, np.uint32), rng.choice(SPECIALS, count)]
    share = rng.choice([[1, 0, 0], [0.98, 0.01, 0.01], [0.4, 0.3, 0.3]])
    return floats(np.choose(rng.choice(3, count, p=share), kinds).astype(np.uint32))


def near_least(rng: np.random.Generator, factor: np.ndarray) -> np.ndarray:
    """Numbers whose product with ``factor`` is about 2^-126, or a few units of the last place from it."""
    with np.errstate(all="ignore"):
        quotient = (2.0**-126 / np.asarray(factor, np.float64)).astype(np.float32)
    near = words(quotient).astype(np.int64) + rng.integers(-2, 3, quotient.shape)
    return floats(near.clip(0, 0xFFFFFFFF).astype(np.uint32))
