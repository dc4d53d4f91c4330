"""VECTOR of the simulator, step by step and lane by lane as docs/architecture.md says, in this file's own words."""

import math

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause, Format, Opcode, VectorOp
from lepton_npu.spec.config import ACC_SPACE, PRESETS, NpuConfig
from lepton_verif.model.arith import fp32, functions
from lepton_verif.model.arith.convert import from_element, to_element
from lepton_verif.model.iss_state import CoreState

from tests.verif.iss_machine import Machine, record

TINY = PRESETS["tiny"]
PACK = {Format.F32: 1, Format.BF16: 2, Format.U8: 4, Format.I8: 4, Format.I32: 1}
FUNCTIONS = {
    VectorOp.EXP: functions.exp,
    VectorOp.RECIP: functions.recip,
    VectorOp.SQRT: functions.sqrt,
    VectorOp.RSQRT: functions.rsqrt,
    VectorOp.SIGMOID: functions.sigmoid,
    VectorOp.TANH: functions.tanh,
}
OPERANDS = {VectorOp.MULADD: "abc", VectorOp.SELECT: "abc"} | dict.fromkeys(FUNCTIONS, "a")
NAN = 0x7FC00000
SPECIALS = [
    0,
    1 << 31,
    1,
    0x807FFFFF,
    0x00800000,
    0x7F7FFFFF,
    0x7F800000,
    0xFF800000,
    0x7FC00000,
    0xFFC00001,
    0x7F800001,
]


def element(row: np.ndarray, fmt: Format, number: int) -> int:
    """Element ``number`` of a row, in memory order."""
    bits = 32 // PACK[fmt]
    return int(row[number // PACK[fmt]]) >> bits * (number % PACK[fmt]) & (1 << bits) - 1


def lane_result(op: VectorOp, a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """One operation on single numbers; subnormals are zero."""
    x, y, z = (np.atleast_1d(np.float32(number)) for number in (a, b, c))
    fa, fb = (0.0 if abs(number) < 2.0**-126 else float(number) for number in (a, b))
    match op:
        case VectorOp.MULADD:
            return fp32.add(fp32.mul(x, y), z)[0]
        case VectorOp.MIN:
            return fp32.minimum(x, y)[0]
        case VectorOp.MAX:
            return fp32.maximum(x, y)[0]
        case VectorOp.LT:
            return np.float32(fa < fb)
        case VectorOp.LE:
            return np.float32(fa <= fb)
        case VectorOp.EQ:
            return np.float32(fa == fb)
        case VectorOp.SELECT:
            chosen = b if fa != 0 else c
            if math.isnan(chosen):
                return np.array(NAN, np.uint32).view(np.float32)[()]
            return np.float32(math.copysign(0.0, chosen)) if abs(chosen) < 2.0**-126 else chosen
        case _:
            return FUNCTIONS[op](x)[0]


def step_by_step(config: NpuConfig, state: CoreState, f: dict[str, int]) -> np.ndarray:
    """The vector memory after a VECTOR command."""
    side, local = config.side, state.local.copy()
    op, a_format, dst_format = VectorOp(f["op"]), Format(f["a_format"]), Format(f["dst_format"])

    def number(name: str, i0: int, i1: int, lane: int) -> np.float32:
        if name not in OPERANDS.get(op, "ab"):
            return np.float32(0)
        if f.get(f"{name}_imm"):
            word = f[f"imm_{name}"]
        else:
            word = int(local[f[name] + i0 * f[f"{name}_stride0"] + i1 * f[f"{name}_stride1"], lane])
        word ^= f[f"negate_{name}"] << 31
        return np.array(word, np.uint32).view(np.float32)[()]

    for i1 in range(f["count1"]):
        for i0 in range(f["count0"]):
            pack = PACK[a_format]
            row = local[f["a"] + i0 // pack * f["a_stride0"] + i1 * f["a_stride1"]].copy()
            results = np.zeros(side, np.float32)
            for lane in range(side):
                source = (lane & ~f["lane_bcast"]) ^ f["lane_xor"]
                word = element(row, a_format, i0 % pack * side + source)
                a = from_element(np.array([word]), a_format)[0]
                result = lane_result(op, a, number("b", i0, i1, lane), number("c", i0, i1, lane))
                if f["relu"] and (result < 0 or (result == 0 and np.signbit(result))):
                    result = np.float32(0)
                results[lane] = result
            pack = PACK[dst_format]
            words = to_element(results, dst_format)
            target = local[f["dst"] + i0 // pack * f["dst_stride0"] + i1 * f["dst_stride1"]]
            if i0 % pack == 0:
                target[:] = 0
            for lane, word in enumerate(words):
                place = i0 % pack * side + lane
                target[place // pack] |= np.uint32(int(word) << 32 // pack * (place % pack))
    return local[: config.vmem_rows]


def random_fields(rng: np.random.Generator, side: int) -> dict[str, int]:
    f = {"op": int(rng.integers(len(VectorOp))), "a_format": int(rng.integers(5)), "dst_format": int(rng.integers(5))}
    f |= {name: int(rng.random() < 0.4) for name in ("relu", "b_imm", "c_imm", "negate_b", "negate_c")}
    f |= {"imm_b": int(random_words(rng, 1)[0]), "imm_c": int(random_words(rng, 1)[0])}
    f |= {"lane_bcast": int(rng.integers(side)), "lane_xor": int(rng.integers(side))}
    f |= {"count0": int(rng.integers(1, 8)), "count1": int(rng.integers(1, 4))}
    f |= {f"{name}_stride{loop}": int(rng.integers(-3, 9)) for name in ("a", "b", "c", "dst") for loop in (0, 1)}
    sources = {name: int(rng.choice([100, ACC_SPACE + 60])) for name in "abc"}
    return f | sources | {"dst": 400}


def random_words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Ordinary numbers, numbers near integers, plain bits and special cases."""
    kinds = [
        rng.standard_normal(count).astype(np.float32).view(np.uint32),
        (rng.integers(-600, 600, count) / 2).astype(np.float32).view(np.uint32),
        rng.integers(0, 1 << 32, count, np.uint32),
        rng.choice(np.array(SPECIALS, np.uint32), count),
    ]
    return np.choose(rng.choice(4, count, p=[0.4, 0.3, 0.2, 0.1]), kinds).astype(np.uint32)


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
@pytest.mark.parametrize("op", VectorOp)
def test_step_by_step(op, preset, seed):
    rng, config = np.random.default_rng([seed, op]), PRESETS[preset]
    for _ in range(25):
        machine, f = Machine(config), random_fields(rng, config.side) | {"op": int(op)}
        state = machine.iss.state
        for memory in (state.vmem, state.acc):
            memory[:] = random_words(rng, memory.size).reshape(memory.shape)
        expected = step_by_step(config, state, f)
        assert machine.run(record(Opcode.VECTOR, **f)) is None
        np.testing.assert_array_equal(state.vmem, expected, err_msg=str(f))


@pytest.mark.parametrize("a_format", Format)
@pytest.mark.parametrize("dst_format", Format)
def test_formats(a_format, dst_format, seed):
    """Every pair of formats, with more steps than fit a row, as a conversion: times 1, plus 0."""
    rng = np.random.default_rng([seed, a_format, dst_format])
    for count0 in (1, 3, 4, 9):
        machine = Machine()
        state = machine.iss.state
        state.vmem[:] = random_words(rng, state.vmem.size).reshape(state.vmem.shape)
        f = dict.fromkeys(("b_stride0", "b_stride1", "c_stride0", "c_stride1", "relu", "negate_b", "negate_c"), 0)
        f |= {"op": 0, "a": 100, "dst": 400, "b": 0, "c": 0, "b_imm": 1, "c_imm": 1, "imm_b": 0x3F800000, "imm_c": 0}
        f |= {"lane_bcast": 0, "lane_xor": 0, "count0": count0, "count1": 3, "a_format": a_format}
        f |= {"a_stride0": 1, "a_stride1": 20, "dst_stride0": 1, "dst_stride1": 9, "dst_format": dst_format}
        expected = step_by_step(TINY, state, f)
        assert machine.run(record(Opcode.VECTOR, **f)) is None
        np.testing.assert_array_equal(state.vmem, expected)


def put(machine: Machine, row: int, *values: float):
    machine.iss.state.vmem[row] = np.array(values, np.float32).view(np.uint32)


def get(machine: Machine, row: int) -> list[float]:
    return machine.iss.state.vmem[row].view(np.float32).tolist()


def test_sum_over_all_lanes():
    """The recipe of the architecture: log2 T commands x[l] + x[l ^ 2^s], in place."""
    machine = Machine()
    put(machine, 5, 1, 20, 300, 4000)
    f = {"a": 5, "b_imm": 1, "imm_b": 0x3F800000, "c": 5, "dst": 5}
    assert machine.run(*[record(Opcode.VECTOR, **f, lane_xor=1 << s) for s in range(2)]) is None
    assert get(machine, 5) == [4321] * 4


@pytest.mark.parametrize("lane", range(4))
def test_broadcast_of_a_lane(lane):
    machine = Machine()
    put(machine, 5, 1, 20, 300, 4000)
    f = {"a": 5, "b_imm": 1, "imm_b": 0x3F800000, "c_imm": 1, "dst": 6, "lane_bcast": 3, "lane_xor": lane}
    assert machine.run(record(Opcode.VECTOR, **f)) is None
    assert get(machine, 6) == [[1, 20, 300, 4000][lane]] * 4


def test_last_step_stays_in_a_row_that_all_write():
    machine = Machine()
    for row in range(4):
        put(machine, row, *[row] * 4)
    f = {"a_stride0": 1, "b_imm": 1, "imm_b": 0x3F800000, "c_imm": 1, "dst": 9, "count0": 4}
    assert machine.run(record(Opcode.VECTOR, **f)) is None
    assert get(machine, 9) == [3] * 4


def test_unused_operands_are_not_read():
    machine = Machine()
    nowhere = {"b": 0x7FFF, "c": 0x7FFF}
    assert machine.run(record(Opcode.VECTOR, op=VectorOp.EXP, **nowhere)) is None
    assert machine.run(record(Opcode.VECTOR, op=VectorOp.MIN, b_imm=1, **nowhere)) is None
    assert machine.run(record(Opcode.VECTOR, op=VectorOp.MIN, **nowhere)).cause == FaultCause.LOCAL_RANGE


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"dst": ACC_SPACE}, ACC_SPACE),
        ({"dst": TINY.vmem_rows - 2, "dst_stride0": 1}, TINY.vmem_rows),
        ({"a": TINY.vmem_rows - 1, "a_stride1": 1}, TINY.vmem_rows),
        ({"b": ACC_SPACE + TINY.acc_rows}, ACC_SPACE + TINY.acc_rows),
        ({"c": 0, "c_stride0": -1}, (1 << 64) - 1),
        ({"a": TINY.vmem_rows - 1, "a_stride0": 1, "a_format": Format.U8, "count0": 5}, TINY.vmem_rows),
        ({"b": 0, "b_stride0": -2, "c": 1, "c_stride0": -1}, (1 << 64) - 2),  # step 1 comes before step 2
        # Row 1 of packed bytes is read at step 4, after the bad row of c at step 2.
        (
            {"a": TINY.vmem_rows - 1, "a_stride0": 1, "a_format": Format.U8, "count0": 5, "c": 1, "c_stride0": -1},
            (1 << 64) - 1,
        ),
    ],
)
def test_range(fields, address):
    machine = Machine()
    fault = machine.run(record(Opcode.VECTOR, **{"count0": 4, "count1": 2} | fields))
    assert (fault.cause, fault.engine, fault.address) == (FaultCause.LOCAL_RANGE, Engine.VECTOR, address)


def test_packed_rows_may_end_at_the_end_of_the_memory():
    f = {"a": TINY.vmem_rows - 1, "a_stride0": 1, "a_format": Format.U8, "count0": 4, "dst": 0, "dst_stride0": 1}
    assert Machine().run(record(Opcode.VECTOR, **f)) is None
