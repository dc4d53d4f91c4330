"""The prepared operations of VECTOR against arithmetic without short cuts."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Opcode, VectorOp
from lepton_npu.spec.config import PRESETS
from lepton_verif.model.arith.vector import prepare_operation

from tests.verif.iss_machine import Machine, record
from tests.verif.slow_arith import NAN, OPERATIONS, SPECIALS, floats, mixture, muladd, near_least, operation, words

COUNT = 512
# Immediates of programs, and where the proofs of `muladd` change.
IMMEDIATES = [
    0,
    1 << 31,
    0x3F800000,
    0xBF800000,
    0x3F666666,
    0x3F7FBE77,
    0xBF000000,
    0x3B808081,
    0x33D6BF95,
    0x437F0000,
]


def check(op: str, a, b, c, **options):
    """One operation with arrays, with each immediate instead, and with both."""
    given = {"b": b, "c": c}
    for immediates in ((), ("b",), ("c",), ("b", "c")):
        constants = {name: given[name][:1].reshape(()) for name in immediates}
        operands = {name: x[:1] if name in immediates else x for name, x in given.items()}
        with np.errstate(all="ignore"):
            found = prepare_operation(VectorOp[op], **constants, **options)(a, operands["b"], operands["c"])
        expected = operation(op, a, operands["b"], operands["c"], **options)
        wrong = words(found) != words(expected)
        shown = [f"{word:08x}" for x in (a, operands["b"], operands["c"], found, expected)
                 for word in words(np.broadcast_to(x, a.shape))[wrong][:1]]  # fmt: skip
        assert not wrong.any(), f"{op} {options} {immediates}: a, b, c, found, expected {shown}"


@pytest.mark.parametrize("op", OPERATIONS)
def test_mixtures(op, seed):
    rng = np.random.default_rng([seed, VectorOp[op]])
    for _ in range(150):
        a, b, c = (mixture(rng, COUNT) for _ in range(3))
        for operand in (b, c):
            operand[0] = rng.choice([floats(rng.choice(IMMEDIATES)), floats(rng.choice(SPECIALS)), operand[1]])
        flags = {name: bool(rng.random() < 0.3) for name in ("relu", "negate_b", "negate_c")}
        before = [words(x).copy() for x in (a, b, c)]
        check(op, a, b, c, **flags)
        for x, old in zip((a, b, c), before):
            np.testing.assert_array_equal(words(x), old)


def test_products_about_the_least_number(seed):
    """With what makes a difference added: nothing, the least number of either sign, the product's negative."""
    rng = np.random.default_rng(seed)
    for _ in range(150):
        factor = mixture(rng, COUNT) if rng.random() < 0.5 else np.full(COUNT, floats(rng.choice(IMMEDIATES)))
        a = near_least(rng, factor)
        least = floats(rng.choice([0x00800000, 0x80800000, 0x00800001, 0x00FFFFFF, 0, 1 << 31], COUNT))
        with np.errstate(all="ignore"):
            c = rng.choice([least, -(a * factor), np.full(COUNT, least[0])])
        check("MULADD", a, factor, c, negate_c=bool(rng.random() < 0.3), negate_b=bool(rng.random() < 0.3))
        check("MULADD", factor, a, c)


def test_every_special_number_with_every_other():
    special = floats(SPECIALS)
    a, b, c = (x.reshape(-1) for x in np.meshgrid(special, special, special[::3]))
    for op in OPERATIONS:
        check(op, a, b, c)
        for word in SPECIALS:  # as the immediates
            first = np.full(1, floats(word))
            check(op, a, first, special[:1], negate_b=True)
            check(op, a, special[5:6], first)


@pytest.mark.parametrize("c", [None, 0, 0x80000000, 0x3F800000, 0x0D800000, 0x00800001, NAN])
@pytest.mark.parametrize("negate_b", [False, True])
def test_squares(c, negate_b, seed):
    rng = np.random.default_rng(seed)
    constant = None if c is None else floats(c)
    square = prepare_operation(VectorOp.MULADD, None, constant, square=True, negate_b=negate_b)
    for _ in range(50):
        a = np.concatenate([mixture(rng, COUNT), floats(SPECIALS)])
        other = mixture(rng, a.size)
        with np.errstate(all="ignore"):
            found = square(a, a, other)
        expected = muladd(a, -a if negate_b else a, other if c is None else constant)
        np.testing.assert_array_equal(words(found), words(expected))


def test_command_that_squares_rows(seed):
    """The simulator knows from the fields that b is a; also rows that are repeated, and that the result overwrites."""
    rng = np.random.default_rng(seed)
    for fields in ({}, {"a_stride0": 0, "b_stride0": 0}, {"lane_xor": 1}, {"b_stride0": 2}, {"negate_b": 1}):
        f = {"a": 10, "b": 10, "c": 40, "a_stride0": 1, "b_stride0": 1, "c_stride0": 1, "dst_stride0": 1, "dst": 40}
        f |= {"count0": 8} | fields
        machine = Machine(PRESETS["tiny"])
        vmem, side = machine.iss.state.vmem, machine.config.side
        vmem[:] = words(mixture(rng, vmem.size)).reshape(vmem.shape)
        vmem[10:18] = rng.choice(SPECIALS, (8, side))
        step = np.arange(8)
        a = floats(vmem[10 + step * f["a_stride0"]])[:, np.arange(side) ^ f.get("lane_xor", 0)]
        b, c = floats(vmem[10 + step * f["b_stride0"]]), floats(vmem[40 + step])
        expected = operation("MULADD", a, b, c, negate_b=bool(f.get("negate_b")))
        assert machine.run(record(Opcode.VECTOR, **f)) is None
        np.testing.assert_array_equal(vmem[40:48], words(expected), err_msg=str(fields))
