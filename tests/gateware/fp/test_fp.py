"""binary32 units against their twins: a million vectors each, with every corner class."""

import numpy as np
import pytest
from lepton_npu.fp.add import Fp32Add
from lepton_npu.fp.compare import CompareOp, Fp32Compare
from lepton_npu.fp.convert import ElementToFp32, Fp32ToElement, ScaledIntToFp32
from lepton_npu.fp.function import Fp32Function, FunctionOp
from lepton_npu.fp.mul import Fp32Mul, Fp32MulAdd
from lepton_npu.spec.commands import Format
from lepton_npu.spec.function_tables import SEGMENTS
from lepton_sim.vectors import run_vectors
from lepton_verif.model.arith import convert, fp32, functions

pytestmark = pytest.mark.verilator

COUNT = 1_000_000

CORNERS = np.array(
    [
        0x00000000, 0x80000000,  # zeros
        0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF,  # subnormals
        0x00800000, 0x80800000, 0x00800001, 0x00FFFFFF,  # least normals
        0x7F7FFFFF, 0xFF7FFFFF, 0x7F000000,  # greatest
        0x7F800000, 0xFF800000,  # infinities
        0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFABCDEF,  # NaNs, quiet and signalling
        0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x40000000, 0x4B000000, 0x4B7FFFFF, 0x4F000000, 0xCF000000,
    ],
    np.uint32,
)  # fmt: skip


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    """A mix of all bit patterns, middling numbers, corners, nearly equal exponents, and short significands (ties)."""
    any_bits = rng.integers(0, 1 << 32, count, dtype=np.uint32)
    middling = (any_bits & 0x807FFFFF) | rng.integers(100, 154, count, dtype=np.uint32) << 23
    short = (any_bits & 0x807FC003) | rng.integers(120, 134, count, dtype=np.uint32) << 23
    tiny = (any_bits & 0x807FFFFF) | rng.integers(0, 66, count, dtype=np.uint32) << 23
    kinds = np.stack([any_bits, middling, rng.choice(CORNERS, count), short, tiny])
    return kinds[rng.integers(0, len(kinds), count), np.arange(count)]


def pairs(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two operands; a quarter of the second ones differ from the first in the last bits or the sign only."""
    a, b = words(rng, count), words(rng, count)
    near = a ^ rng.integers(0, 8, count, dtype=np.uint32) ^ rng.integers(0, 2, count, dtype=np.uint32) << 31
    b = np.where(rng.integers(0, 4, count) == 0, near, b)
    grid = np.meshgrid(CORNERS, CORNERS)
    a[: grid[0].size], b[: grid[0].size] = grid[0].ravel(), grid[1].ravel()
    return a, b


def same(found: np.ndarray, expected: np.ndarray, **operands: np.ndarray):
    wrong = np.flatnonzero(found != expected.astype(np.uint64))
    if wrong.size:
        i = wrong[0]
        values = ", ".join(f"{name}=0x{int(value[i]) & 0xFFFFFFFF:08x}" for name, value in operands.items())
        raise AssertionError(
            f"{wrong.size} of {len(found)} differ; first {values}: 0x{int(found[i]):08x}, "
            f"expected 0x{int(expected[i]):08x}"
        )


@pytest.mark.parametrize("subtract", [0, 1])
def test_add(seed, subtract):
    a, b = pairs(np.random.default_rng([seed, subtract]), COUNT)
    out = run_vectors(Fp32Add(), {"a": a, "b": b, "sub": np.full(COUNT, subtract)}, bubble=0.1, seed=seed)
    twin = fp32.sub if subtract else fp32.add
    same(out["o"], fp32.bits(twin(fp32.from_bits(a), fp32.from_bits(b))), a=a, b=b)


def test_mul(seed):
    a, b = pairs(np.random.default_rng([seed, 2]), COUNT)
    out = run_vectors(Fp32Mul(), {"a": a, "b": b}, bubble=0.1, seed=seed)
    same(out["o"], fp32.bits(fp32.mul(fp32.from_bits(a), fp32.from_bits(b))), a=a, b=b)


def test_mul_near_underflow(seed):
    """Products around 2^-126: a tiny exact product that rounds up to the least normal number is still flushed."""
    rng = np.random.default_rng([seed, 3])
    a = rng.integers(0, 1 << 23, COUNT, dtype=np.uint32) | 0x3F000000 | rng.integers(0, 2, COUNT, dtype=np.uint32) << 31
    exact = 2.0**-126 / fp32.from_bits(a).astype(np.float64)
    b = fp32.bits(exact.astype(np.float32)) + rng.integers(-2, 3, COUNT).astype(np.uint32)
    out = run_vectors(Fp32Mul(), {"a": a, "b": b}, seed=seed)
    product = fp32.from_bits(a).astype(np.float64) * fp32.from_bits(b).astype(np.float64)
    rounds_up = (np.abs(product) < 2.0**-126) & (np.abs(product) >= 2.0**-126 - 2.0**-151)
    assert rounds_up.any()
    same(out["o"], fp32.bits(fp32.mul(fp32.from_bits(a), fp32.from_bits(b))), a=a, b=b)
    assert not (out["o"][rounds_up] & 0x7FFFFFFF).any()


def test_muladd(seed):
    rng = np.random.default_rng([seed, 4])
    a, b = pairs(rng, COUNT)
    c = words(rng, COUNT)
    cancel = fp32.bits(-fp32.mul(fp32.from_bits(a), fp32.from_bits(b)))
    c = np.where(rng.integers(0, 4, COUNT) == 0, cancel, c)
    out = run_vectors(Fp32MulAdd(), {"a": a, "b": b, "c": c}, bubble=0.1, seed=seed)
    expected = fp32.muladd(*(fp32.from_bits(x) for x in (a, b, c)))
    same(out["o"], fp32.bits(expected), a=a, b=b, c=c)


def test_compare(seed):
    rng = np.random.default_rng([seed, 5])
    a, b = pairs(rng, COUNT)
    c = words(rng, COUNT)
    op = rng.integers(0, len(CompareOp), COUNT)
    out = run_vectors(Fp32Compare(), {"a": a, "b": b, "c": c, "op": op}, bubble=0.1, seed=seed)
    x, y, z = (fp32.from_bits(v) for v in (a, b, c))
    expected = np.select(
        [op == member.value for member in CompareOp],
        [
            fp32.bits(result.astype(np.float32))
            for result in (
                fp32.minimum(x, y),
                fp32.maximum(x, y),
                fp32.lt(x, y),
                fp32.le(x, y),
                fp32.eq(x, y),
                fp32.canonicalize(fp32.flush(np.where(fp32.eq(x, np.float32(0)), z, y))),
            )
        ],
    )
    same(out["o"], expected, a=a, b=b, c=c, op=op)


@pytest.mark.parametrize("width", [18, 19, 20, 21, 25])
def test_scaled_int(seed, width):
    rng = np.random.default_rng([seed, 6])
    value = rng.integers(-(1 << (width - 1)), 1 << (width - 1), COUNT) >> rng.integers(0, width, COUNT)
    value[:4] = [0, 1 - (1 << (width - 1)), -(1 << (width - 1)), -1]
    scale = np.where(rng.integers(0, 2, COUNT), rng.integers(-600, 600, COUNT), rng.integers(-150, -120, COUNT))
    nan = rng.integers(0, 16, COUNT) == 0
    out = run_vectors(ScaledIntToFp32(width), {"value": value, "scale": scale, "nan": nan}, bubble=0.1, seed=seed)
    expected = np.where(nan, fp32.CANONICAL_NAN, fp32.bits(convert.scaled_int_to_fp32(value, scale)))
    same(out["o"], expected, value=value, scale=scale, nan=nan)


@pytest.mark.parametrize("width", [1, 26])
def test_scaled_int_width(width):
    with pytest.raises(ValueError, match=f"width must be from 2 to 25, not {width}"):
        ScaledIntToFp32(width)


def test_scaled_int_scale_bits():
    with pytest.raises(ValueError, match="scale_bits must be from 2 to 16, not 1"):
        ScaledIntToFp32(20, 1)


def test_from_element(seed):
    rng = np.random.default_rng([seed, 7])
    i = rng.integers(0, 1 << 32, COUNT, dtype=np.uint32) >> rng.integers(0, 32, COUNT, dtype=np.uint32)
    i = np.where(rng.integers(0, 2, COUNT), i, np.uint32(0) - i)
    form = rng.integers(0, len(Format), COUNT)
    out = run_vectors(ElementToFp32(), {"i": i, "format": form}, bubble=0.1, seed=seed)
    expected = np.select([form == f for f in Format], [fp32.bits(convert.from_element(i, f)) for f in Format])
    same(out["o"], expected, i=i, format=form)


def test_to_element(seed):
    rng = np.random.default_rng([seed, 8])
    i = words(rng, COUNT)
    halves = fp32.bits((rng.integers(-1200, 1200, COUNT) / 4).astype(np.float32))
    i = np.where(rng.integers(0, 3, COUNT) == 0, halves, i)
    form = rng.integers(0, len(Format), COUNT)
    out = run_vectors(Fp32ToElement(), {"i": i, "format": form}, bubble=0.1, seed=seed)
    x = fp32.from_bits(i)
    expected = np.select([form == f for f in Format], [convert.to_element(x, f) for f in Format])
    same(out["o"], expected, i=i, format=form)


def function_edges() -> np.ndarray:
    """Words around the ends of all segments of all tables, of both signs, and where rules change."""
    ends = np.arange(SEGMENTS, dtype=np.uint32) << 16
    fractions = (ends[:, None] + np.arange(-2, 3).astype(np.uint32)).ravel() & np.uint32(0x7FFFFF)
    by_fraction = (np.arange(512, dtype=np.uint32) << 23)[:, None] | fractions
    log2 = np.log(2)
    powers = np.arange(1, 150 * SEGMENTS) * (log2 / SEGMENTS)  # ends of exp2's segments; of half of them for tanh
    inverse = 1 + np.arange(1, SEGMENTS) / SEGMENTS
    # 1 + e^x at an end of a segment of the reciprocal, times 2^k.
    logistic = np.log(np.ldexp(inverse, np.arange(126)[:, None]) - 1).ravel()
    squares = np.sqrt(np.arange(1, SEGMENTS // 2 + 1) / SEGMENTS)
    limits = [0.625, 64.0, 88.722839, 87.336545, 128.0, 2.0**-14]
    places = np.concatenate([powers, powers / 2, np.abs(logistic), np.abs(logistic) / 2, squares, limits])
    near = fp32.bits(places.astype(np.float32))[:, None] + np.arange(-3, 4).astype(np.uint32)
    return np.concatenate([by_fraction.ravel(), near.ravel(), near.ravel() | np.uint32(1 << 31)])


@pytest.mark.parametrize("op", list(FunctionOp))
def test_function(seed, op):
    """Random inputs, and the neighbourhood of every table's edges in every binade."""
    rng = np.random.default_rng([seed, 9 + op.value])
    i = np.concatenate([words(rng, COUNT), function_edges()])
    inputs = {"i": i, "op": np.full(i.size, op.value)}
    out = run_vectors(Fp32Function(), inputs, bubble=0.1, seed=seed, latency=Fp32Function.latency[op])
    twin = getattr(functions, op.name.lower())
    same(out["o"], fp32.bits(twin(fp32.from_bits(i))), i=i)
