"""The cycle model against the RTL: every kind of command by itself, by the core's busy counters, to the cycle."""

import numpy as np
import pytest
from lepton_npu.spec.commands import COMMANDS, Format, Opcode, Precision, VectorOp
from lepton_npu.spec.config import ACC_SPACE, PRESETS, RECORD_BYTES
from leptonaicsdk.backend import RtlBackend
from leptonaicsdk.cycles import record_cycles, timing
from leptonaicsdk.memory import Memory
from leptonaicsdk.program import Program

CONFIG = PRESETS["tiny"]
T = CONFIG.side
DATA = 4096


@pytest.fixture(scope="module")
def backend():
    backend = RtlBackend(CONFIG, 1 << 16)
    yield backend
    backend.close()


def _dma(words, rows):
    stride = -(-4 * words // CONFIG.bus_bytes) * CONFIG.bus_bytes
    return {"address": DATA, "rows": rows, "words": words, "stride": stride, "local_stride": -(-words // T)}


def _quant(precision, high, wide, rows=None):
    return {"precision": precision, "rows": rows or high * T, "cols": wide * T, "source_stride": wide,
            "tile_stride": high, "limb_stride": high * wide}  # fmt: skip


def _matmul(precision, rows, k, n):
    high = -(-rows // T)
    return {"a_precision": precision, "b_precision": precision, "b_tile": 128, "rows": rows, "count0": rows,
            "k_tiles": k, "n_tiles": n, "a_k_stride": high, "a_stride0": 1, "a_limb_stride": high * k, "b_k_stride": 1,
            "b_n_stride": k, "b_limb_stride": k * n, "acc": ACC_SPACE, "acc_n_stride": 1, "acc_stride0": n}  # fmt: skip


def _vector(op, *rows, stride=1, count=50, **fields):
    for name, row in zip(("a", "b", "c"), rows):
        fields |= {name: row, f"{name}_stride0": stride}
    return {"op": op, "dst": 800, "dst_stride0": 1, "count0": count, **fields}


CASES = [
    *((kind, _dma(words, rows)) for kind in ("load", "store") for words, rows in
      ((2, 1), (T, 1), (2, 16), (2 * T, 16), (40 * T, 1), (40 * T, 3))),
    *(("quant", fields) for p in Precision for fields in (_quant(p, 4, 3), _quant(p, 1, 5, 1), _quant(p, 1, 1, 2))),
    *(("matmul", _matmul(p, *sizes)) for p in Precision for sizes in ((12, 4, 2), (1, 4, 2), (2, 1, 1), (40, 2, 3))),
    *(("vector", _vector(op, 0, 101, 202)) for op in VectorOp),
    ("vector", _vector(VectorOp.MULADD, 0, 100, 200, stride=4)),  # three operands in one bank
    ("vector", _vector(VectorOp.MULADD, ACC_SPACE, 101, ACC_SPACE)),  # c is a
    ("vector", _vector(VectorOp.MULADD, ACC_SPACE, 101, ACC_SPACE + 1)),  # two in one half
    ("vector", _vector(VectorOp.MULADD, ACC_SPACE, 101, ACC_SPACE + 128)),  # one in each
    ("vector", _vector(VectorOp.MULADD, 0, a_format=Format.U8, a_stride1=2, b_imm=1, c_imm=1, count=5, count1=10,
                       dst_stride1=5)),
    ("vector", _vector(VectorOp.RECIP, 0, stride=0, count=5, count1=9, a_stride1=4, dst_stride1=5)),
]  # fmt: skip


def _command(kind, fields) -> tuple[Program, Opcode, dict]:
    program, fields = Program(CONFIG), dict(fields)
    if kind == "vector":
        program.vector(fields.pop("op"), **fields)
    else:
        getattr(program, kind)(**fields)
    ((opcode, complete),) = program.commands()
    return program, opcode, complete


def _busy(backend, program, opcode) -> int:
    """Cycles in which the command's engine holds it."""
    program.fence()
    program.irq(1)
    name, before = f"{COMMANDS[opcode].engine.name}_BUSY", backend.counters()
    backend.run(program.records())
    return backend.counters()[name] - before[name]


@pytest.mark.verilator
@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_a_command_by_itself(backend, kind, fields):
    """Operands that begin in one bank sort themselves out in a cycle or two, which the model leaves out."""
    program, opcode, complete = _command(kind, fields)
    expected = timing(CONFIG, Memory(), opcode, complete)
    backend.timing = Memory()
    extra = _busy(backend, program, opcode) - (expected.fill + expected.stream + expected.drain)
    assert 0 <= extra <= (2 if kind == "vector" else 0)


@pytest.mark.verilator
@pytest.mark.parametrize("memory", [Memory(latency=0), Memory(latency=3, bandwidth=2), Memory(latency=70, bandwidth=5)])
@pytest.mark.parametrize("kind", ["load", "store"])
def test_transfers_with_other_memories(backend, kind, memory):
    """The records behind a LOAD are fetched between its beats, or before them."""
    backend.timing = memory
    for words, rows in ((2, 16), (2 * T, 16), (40 * T, 3)):
        program, opcode, complete = _command(kind, _dma(words, rows))
        expected = timing(CONFIG, memory, opcode, complete)
        extra = _busy(backend, program, opcode) - (expected.fill + expected.stream + expected.drain)
        records = 2 * RECORD_BYTES // CONFIG.bus_bytes * memory.bandwidth if kind == "load" else 0
        assert -memory.bandwidth < extra <= records


@pytest.mark.verilator
@pytest.mark.parametrize("memory", [Memory(latency=0), Memory(), Memory(latency=0, bandwidth=4)])
def test_commands_follow_one_another_as_fast_as_records_come(backend, memory):
    """NOPs, 20 and 60 of them: what forty more take."""
    backend.timing = memory
    cycles = []
    for count in (20, 60):
        program = Program(CONFIG)
        for _ in range(count):
            program.nop()
        program.irq(1)
        backend.run(program.records())
        cycles.append(backend.last_cycles)
    assert np.diff(cycles)[0] / 40 == pytest.approx(record_cycles(CONFIG, memory), rel=0.15)
