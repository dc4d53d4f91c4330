"""Stochastic rounding: the generator, its lanes, what the rounding promises; against docs/numerics.md, section 6."""

from fractions import Fraction
from itertools import combinations, pairwise, product

import numpy as np
import pytest
from lepton_npu.spec.commands import SEED_AT_RESET, Engine, FaultCause, Opcode, Precision, Rounding
from lepton_npu.spec.config import PRESETS
from lepton_verif.model.arith.quantise import quantise
from lepton_verif.model.arith.stochastic import row_numbers, states, tile_numbers

from tests.verif.iss_machine import Machine, record
from tests.verif.test_model_quantise import LIMIT, SCALE, exact_tile, integers_of

TINY = PRESETS["tiny"]
SIDE = TINY.side
WORD = (1 << 32) - 1


# ---- The generator. Everything in it is linear over GF(2): 32 unit states show it all.


def images(function) -> list[int]:
    """What a linear function makes of every unit state."""
    return [function(1 << bit) for bit in range(32)]


def apply(matrix: list[int], state: int) -> int:
    result = 0
    for bit, image in enumerate(matrix):
        result ^= image * (state >> bit & 1)
    return result


def power(matrix: list[int], exponent: int) -> list[int]:
    result = images(lambda state: state)
    while exponent:
        if exponent & 1:
            result = [apply(matrix, image) for image in result]
        matrix, exponent = [apply(matrix, image) for image in matrix], exponent >> 1
    return result


def rank(rows: list[int]) -> int:
    found = 0
    rows = list(rows)
    while rows:
        if pivot := rows.pop():
            found, low = found + 1, pivot & -pivot
            rows = [row ^ pivot if row & low else row for row in rows]
    return found


def multiply(a: int, b: int) -> int:
    """In GF(2)[x] modulo x^16 + x^5 + x^3 + x^2 + 1, by the definition."""
    result = 0
    for bit in range(16):
        result ^= (a << bit) * (b >> bit & 1)
    for bit in range(31, 15, -1):
        result ^= 0b1_0000_0000_0010_1101 << (bit - 16) if result >> bit & 1 else 0
    return result


STEP = images(lambda state: states(state, 1)[0])


def test_first_states():
    """Marsaglia's xor, with y ^= y << 13 and so on, from the state 1 and the one at reset."""
    y, found = 1, []
    for _ in range(4):
        y = (y ^ y << 13) & WORD
        y = y ^ y >> 17
        y = (y ^ y << 5) & WORD
        found.append(y)
    assert states(1, 4) == found
    assert found[0] == 0x00042021
    assert round(2**32 * (5**0.5 - 1) / 2) == SEED_AT_RESET


def test_period():
    """2^32 - 1 = 3 * 5 * 17 * 257 * 65537 steps are none, and no divisor of it is enough."""
    one = images(lambda state: state)
    assert power(STEP, WORD) == one
    assert all(power(STEP, WORD // prime) != one for prime in (3, 5, 17, 257, 65537))


def test_numbers_are_the_products_in_the_field(seed):
    rng = np.random.default_rng(seed)
    found = [int(state) for state in rng.integers(1, 1 << 32, 50)]
    numbers, factor = row_numbers(found, 32), 1
    for lane in range(32):
        assert numbers[:, lane].tolist() == [state >> 16 ^ multiply(factor, state & 0xFFFF) for state in found]
        factor = multiply(factor, 2)


def test_lanes_of_a_row_are_independent_in_pairs():
    """Two lanes together are a map of the state that can be inverted."""
    numbers = row_numbers(images(lambda state: state), 32).tolist()
    for one, two in combinations(range(32), 2):
        assert rank([row[one] << 16 | row[two] for row in numbers]) == 32


def test_near_rows_are_independent_in_their_upper_bits():
    first = row_numbers(images(lambda state: state), 32) >> 9
    matrix = STEP
    for _ in range(39):
        later = row_numbers(matrix, 32) >> 9
        for one, two in product(range(32), repeat=2):
            assert rank((first[:, one] << 7 | later[:, two]).tolist()) == 14
        matrix = [apply(STEP, image) for image in matrix]


# ---- Rounding.


@pytest.mark.parametrize("precision", Precision)
def test_one_tile_is_exact(precision, seed):
    """Every element by the definition, in rational numbers; exponents as with rounding to nearest."""
    rng, scale, limit = np.random.default_rng([seed, precision]), SCALE[precision], LIMIT[precision]
    for number in range(60):
        tile = (rng.standard_normal((4, 4)) * np.exp2(rng.integers(-scale - 20, 1, (4, 4)))).astype(np.float32)
        words = tile.view(np.uint32)
        if number % 4 == 0:
            words = rng.integers(0, 1 << 32, (4, 4), np.uint32)
        if number % 4 == 1:  # one step below a power of two: saturates, or does not
            words = np.uint32(0x3FFFFFFF) - rng.integers(0, 1 << 18, (4, 4), np.uint32)
        numbers = rng.integers(0, 1 << 16, (4, 4))
        numbers[rng.random((4, 4)) < 0.3] = 0xFFFF
        mantissas, exponents = quantise(words, precision, 4, numbers)
        exponent = exact_tile(words, precision)[1]
        assert exponents.tolist() == [[exponent]]
        found = integers_of(mantissas)[0, 0]
        for (r, c), word in np.ndenumerate(words):
            e = int(word) >> 23 & 0xFF
            value = Fraction(int(word) & 0x7FFFFF | 0x800000) * Fraction(2) ** (e - 150 + scale - exponent + 127)
            if e == 0 or exponent == 255:
                value = Fraction(0)
            wanted = min((value * 65536 // 1 + int(numbers[r, c])) // 65536, limit)
            assert found[r, c] == (-wanted if int(word) >> 31 else wanted), (hex(word), numbers[r, c])


@pytest.mark.parametrize("precision", Precision)
def test_exact_values_stay(precision, seed):
    rng, limit = np.random.default_rng([seed, precision]), LIMIT[precision]
    integers = rng.integers(-limit, limit + 1, (16, 16))
    integers[0, :2] = limit, -limit
    matrix = (integers * 2.0 ** -SCALE[precision]).astype(np.float32)
    for start in (1, 0x80000000, SEED_AT_RESET):
        tiles = quantise(matrix, precision, 16, tile_numbers(start, 1, 1, 16)[0])
        assert tiles.exponents[0, 0] == 127
        np.testing.assert_array_equal(integers_of(tiles.mantissas)[0, 0], integers)


@pytest.mark.parametrize("precision", Precision)
def test_unbiased(precision, seed):
    """The mean of many roundings is the value, and the variance is that of independent ones.

    N roundings of i + f are i or i + 1; their mean has the standard deviation sqrt(f (1 - f) / N), and the cut after
    16 bits takes less than 2^-16. 5 standard deviations of 256 elements are exceeded in one of 6,000 runs.
    """
    rng, side, count = np.random.default_rng([seed, precision]), 16, 4096
    steps = rng.uniform(0, 20, (side, side)) * rng.choice([-1, 1], (side, side))
    matrix = (steps * 2.0 ** -SCALE[precision]).astype(np.float32)
    matrix[0, 0] = 1.0
    exact = matrix.astype(np.float64) * 2.0 ** SCALE[precision]
    state, total = int(rng.integers(1, 1 << 32)), np.zeros((side, side))
    errors = []
    for _ in range(count):
        numbers, state = tile_numbers(state, 1, 1, side)
        found = integers_of(quantise(matrix, precision, side, numbers).mantissas)[0, 0]
        assert (np.abs(found - exact) < 1).all()
        total += found
        errors.append(found - exact)
    fraction = np.abs(exact) % 1
    bound = 5 * np.sqrt(fraction * (1 - fraction) / count) + 2.0**-16
    assert (np.abs(total / count - exact) <= bound).all()
    # Sums over a row and over a column of the tile: the variance of a sum of so many errors is that of its terms.
    for axis in (0, 1):
        sums = np.array(errors).sum(axis=axis + 1)
        wanted = (fraction * (1 - fraction)).sum(axis=axis)
        # The variance of a sample variance is at most about 2 / N of its square; 6 standard deviations of it.
        np.testing.assert_allclose(sums.var(axis=0), wanted, rtol=6 * np.sqrt(2 / count))


# ---- Commands.


def quant(rounding: Rounding = Rounding.STOCHASTIC, **fields: int) -> bytes:
    f = {"rows": 2 * SIDE, "cols": 2 * SIDE, "source_stride": 2, "tile_stride": 2, "limb_stride": 4}
    return record(Opcode.QUANT, rounding=rounding, **f | fields)


def filled(seed: int) -> Machine:
    machine = Machine()
    rng = np.random.default_rng(seed)
    machine.iss.state.local[:200] = rng.standard_normal((200, SIDE)).astype(np.float32).view(np.uint32)
    return machine


@pytest.mark.parametrize("precision", Precision)
def test_tiles_take_the_states_in_the_order_of_their_writing(precision, seed):
    """Rows beyond the matrix take one as well; planes take none of their own."""
    machine, rows, cols = filled(seed), 3 * SIDE - 1, 2 * SIDE - 3
    f = {"rows": rows, "cols": cols, "tile_stride": 3, "limb_stride": 6, "precision": precision}
    assert machine.run(record(Opcode.SEED, seed=77), quant(**f)) is None
    state = machine.iss.state
    matrix = state.local[: 2 * rows].reshape(rows, 2 * SIDE)[:, :cols]
    numbers = iter(states(77, 6 * SIDE))
    for j in range(2):
        for i in range(3):
            block = matrix[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE]
            own = row_numbers([next(numbers) for _ in range(SIDE)], SIDE)
            wanted = quantise(block, precision, SIDE, own)
            for plane in range(precision.limbs):
                found = state.tiles[i + 3 * j + 6 * plane]
                np.testing.assert_array_equal(found, wanted.mantissas[plane, 0, 0])
    assert state.generator == states(77, 6 * SIDE)[-1]


def test_nearest_draws_nothing():
    machine = filled(3)
    assert machine.run(record(Opcode.SEED, seed=5), quant(Rounding.NEAREST)) is None
    assert machine.iss.state.generator == 5


def test_a_seed_gives_one_sequence(seed):
    """The same seed the same tiles; without one, or with another one, others; and each QUANT goes on."""
    machine, found = filled(seed), []
    for command in (record(Opcode.SEED, seed=9), b"", record(Opcode.SEED, seed=10), record(Opcode.SEED, seed=9), b""):
        assert machine.run(*[command] * bool(command), quant()) is None
        found.append(machine.iss.state.tiles[:4].tobytes())
    assert found[0] == found[3]
    assert found[1] == found[4]
    assert len(set(found)) == 3


def test_reset_begins_anew(seed):
    machine, found = filled(seed), []
    for _ in range(2):
        assert machine.iss.state.generator == SEED_AT_RESET
        assert machine.run(quant()) is None
        found.append(machine.iss.state.tiles[:4].tobytes())
        machine.iss.soft_reset()
        machine.written = 0
    assert found[0] == found[1]


def test_every_round_of_a_loop_draws_anew(seed):
    """Rounds of a body that quantises to the same tiles, each read out by a product with the identity."""
    machine, rounds = filled(seed), 4
    state = machine.iss.state
    state.local[300 : 300 + SIDE] = np.eye(SIDE, dtype=np.float32).view(np.uint32)
    stride = SIDE * 4
    body = [
        quant(rows=SIDE, cols=SIDE, source_stride=1, tile=0, post=1),
        record(Opcode.MATMUL, a_tile=0, b_tile=8, acc=0x8000, rows=SIDE, count0=SIDE, a_stride0=1, acc_stride0=1,
               wait=1, post=2),
        record(Opcode.STORE, base=1, local=0x8000, rows=SIDE, words=SIDE, local_stride=1, stride=stride, wait=2),
        record(Opcode.ADDRESS, number=1, add=1, value=SIDE * stride),
        record(Opcode.FENCE),
    ]  # fmt: skip
    where = 1 << 15
    memory = machine.memory[where : where + 64 * len(body)]
    memory[:] = np.frombuffer(b"".join(body), np.uint8)
    base = machine.iss.state.base
    once = quant(Rounding.NEAREST, source=300, rows=SIDE, cols=SIDE, source_stride=1, tile=8)
    setup = [record(Opcode.SEED, seed=21), once, record(Opcode.ADDRESS, number=1, value=base + (1 << 14))]
    repeat = record(Opcode.REPEAT, address=base + where, records=len(body), count=rounds)
    assert machine.run(*setup, record(Opcode.FENCE), repeat, record(Opcode.FENCE)) is None
    size = SIDE * stride * rounds
    results = machine.memory[1 << 14 : (1 << 14) + size].view(np.float32).reshape(rounds, SIDE, SIDE)
    matrix, draws = state.local[:SIDE], 21
    for result in results:
        numbers, draws = tile_numbers(draws, 1, 1, SIDE)
        tiles = quantise(matrix, Precision.P8, SIDE, numbers)
        wanted = tiles.mantissas[0, 0, 0] * 2.0 ** (float(tiles.exponents[0, 0]) - 127 - 6)
        np.testing.assert_array_equal(result, wanted)
    assert any(not np.array_equal(one, two) for one, two in pairwise(results))


@pytest.mark.parametrize(("byte", "value"), [(8, 0), (12, 1)])
def test_seed_must_not_be_zero(byte, value):
    """Nor may a bit behind it be set."""
    command = bytearray(record(Opcode.SEED, seed=1))
    command[byte] = value
    fault = Machine().run(bytes(command))
    assert (fault.cause, fault.engine, fault.index) == (FaultCause.ILLEGAL_FIELD, Engine.CONTROL, 0)


@pytest.mark.parametrize(
    ("opcode", "fields", "message"),
    [
        (Opcode.SEED, {"seed": 0}, "SEED.seed must be from 1 to 4294967295, not 0"),
        (Opcode.SEED, {"seed": 1 << 32}, "SEED.seed must be from 1 to 4294967295, not 4294967296"),
        (Opcode.QUANT, {"rounding": 2}, "QUANT.rounding must be from 0 to 1, not 2"),
    ],
)
def test_values_out_of_range_are_refused(opcode, fields, message):
    with pytest.raises(ValueError, match=message):
        record(opcode, **fields)


def test_old_programs_keep_their_bytes():
    assert record(Opcode.QUANT, rows=1, cols=1) == record(Opcode.QUANT, rows=1, cols=1, rounding=Rounding.NEAREST)
    assert record(Opcode.QUANT, precision=2)[1] == 2
