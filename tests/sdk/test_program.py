"""`Program`: records as the command set packs them, and errors that say what is wrong."""

import numpy as np
import pytest
from lepton_npu.spec.commands import COMMANDS, Format, Opcode, Precision, VectorOp, decode
from lepton_npu.spec.config import ACC_SPACE, PRESETS
from lepton_verif.model.iss import Iss
from leptonaicsdk.program import Program

TINY = PRESETS["tiny"]
P8 = Precision.P8
QUANT = {"precision": P8, "rows": 4, "cols": 4}
MATMUL = {
    "a_precision": P8,
    "b_precision": P8,
    "acc": ACC_SPACE,
    "acc_stride0": 1,
    "a_stride0": 1,
    "rows": 4,
    "count0": 4,
}
DMA = {"rows": 2, "words": 4, "stride": 16}


def test_records_decode_to_the_fields_given():
    program = Program(TINY)
    program.load(address=0x40, local=3, local_stride=1, wait=2, post=(0, 15), **DMA)
    program.vector(VectorOp.MULADD, dst=1, a=2, imm_b=0.5, c=7, c_stride0=-1, count0=3, a_format=Format.BF16, relu=1)
    program.irq(0xABCD, wait={1, 3})
    records = program.records()
    assert len(program) == 3
    assert len(records) == 192
    command, fields = decode(records[:64])
    assert command.opcode == Opcode.LOAD
    assert (fields["wait"], fields["post"], fields["address"], fields["local"]) == (1 << 2, 1 << 15 | 1, 0x40, 3)
    command, fields = decode(records[64:128])
    assert (fields["imm_b"], fields["b_imm"], fields["c_imm"], fields["relu"]) == (0x3F000000, 1, 0, 1)
    assert records[128:] == COMMANDS[Opcode.IRQ].pack(tag=0xABCD, wait=0b1010)


def test_semaphores_added_later_are_in_the_record():
    program = Program(TINY)
    first = program.nop(post=1, wait=2)
    program.add_post(first, 4)
    program.add_wait(first, (0, 3))
    fields = decode(program.records())[1]
    assert (fields["post"], fields["wait"]) == (0b10010, 0b1101)


def test_program_runs_on_the_simulator():
    rng = np.random.default_rng(1)
    memory = np.zeros(4096, np.uint8)
    values = rng.standard_normal((4, 4)).astype(np.float32)
    memory[2048:2112] = values.view(np.uint8).ravel()
    program = Program(TINY)
    program.load(address=2048, rows=4, words=4, stride=16, local_stride=1, post=0)
    program.vector(
        VectorOp.MULADD, dst=8, a=0, imm_b=2.0, imm_c=1.0, count0=4, a_stride0=1, dst_stride0=1, wait=0, post=1
    )
    program.store(address=3072, local=8, rows=4, words=4, stride=16, local_stride=1, wait=1)
    program.fence()
    program.irq(7)
    memory[: 64 * len(program)] = np.frombuffer(program.records(), np.uint8)
    iss = Iss(TINY, memory)
    assert iss.run(0, 3, len(program)) is None
    assert iss.tag == 7
    assert np.array_equal(memory[3072:3136].view(np.float32).reshape(4, 4), values * 2 + 1)


def test_a_loop_runs_on_the_simulator():
    """A body of its own doubles row after row, with the addresses in registers."""
    memory = np.zeros(4096, np.uint8)
    memory[2048:2112] = np.arange(16, dtype=np.float32).view(np.uint8)
    body = Program(TINY)
    body.load(address=0, base=1, rows=1, words=4, post=0)
    body.vector(VectorOp.MULADD, dst=8, a=0, imm_b=2.0, imm_c=0.0, wait=0, post=1)
    body.store(address=-64, base=7, local=8, rows=1, words=4, wait=1, post=2)
    body.address(1, 16, add=True)
    body.address(7, -16, add=True)
    body.nop(wait=2)
    program = Program(TINY)
    program.address(1, 2048)
    program.address(7, 3072 + 64 + 48)
    program.repeat(body, address=1024, count=4, post=9)
    program.irq(7, wait=9)
    memory[: 64 * len(program)] = np.frombuffer(program.records(), np.uint8)
    memory[1024 : 1024 + 64 * len(body)] = np.frombuffer(body.records(), np.uint8)
    iss = Iss(TINY, memory)
    assert iss.run(0, 3, len(program)) is None
    assert iss.tag == 7
    rows = memory[3072:3136].view(np.float32).reshape(4, 4)
    assert np.array_equal(rows[::-1].ravel(), 2 * np.arange(16))


def test_what_a_base_adds_is_not_checked():
    """But the alignment is, and the other fields."""
    program = Program(TINY)
    program.store(**DMA, base=3, address=(1 << 64) - 64)
    fields = decode(program.records())[1]
    assert (fields["base"], fields["address"]) == (3, (1 << 64) - 64)
    for address, stride, word in ((4, 16, "address"), (-4, 16, "address"), (8, 12, "stride")):
        with pytest.raises(ValueError, match=f"LOAD.{word} must be a multiple of the bus's 8 bytes, not"):
            program.load(**DMA | {"stride": stride}, base=1, address=address)
    with pytest.raises(ValueError, match=r"LOAD.base must be from 0 to 7, not 8"):
        program.load(**DMA, base=8)
    with pytest.raises(ValueError, match=r"LOAD.address must be from 0 to"):
        program.load(**DMA, base=1, address=-(1 << 63) - 8)
    with pytest.raises(ValueError, match=r"LOAD.address must be from 0 to .*, not -8"):
        program.load(**DMA, address=-8)


def body_of(*methods: str, config=TINY) -> Program:
    body = Program(config)
    for method in methods:
        body.repeat(body_of("nop"), address=0, count=1) if method == "repeat" else getattr(body, method)()
    return body


@pytest.mark.parametrize(
    "body, arguments, message",
    [
        ((), {}, "REPEAT's body must have at least 1 command, not 0"),
        (("nop", "repeat"), {}, "REPEAT's body must have no REPEAT, as its command 1 is"),
        (("nop",), {"count": 0}, "REPEAT.count must be from 1 to 4294967295, not 0"),
        (("nop",), {"count": 1 << 32}, "REPEAT.count must be from 1 to 4294967295, not"),
        (("nop",), {"address": 32}, "REPEAT.address must be a multiple of a record's 64 bytes, not 0x20"),
        (("nop",), {"address": 32, "base": 1}, "REPEAT.address must be a multiple of a record's 64 bytes, not 0x20"),
        (("nop",), {"base": 8}, "REPEAT.base must be from 0 to 7, not 8"),
        (("nop", "nop"), {"address": (1 << 40) - 64}, r"REPEAT.address must leave room for 2 records below 2\^40, not"),
        (("nop",), {"address": -64}, "REPEAT.address must be from 0 to .*, not -64"),
        (("nop",), {"wait": 16}, "wait must name semaphores"),
    ],
)
def test_bodies_that_are_refused(body, arguments, message):
    with pytest.raises(ValueError, match=message):
        Program(TINY).repeat(body_of(*body), **{"address": 0, "count": 1} | arguments)


def test_a_body_of_another_core_is_refused():
    with pytest.raises(ValueError, match="REPEAT's body must have this program's configuration, not NpuConfig"):
        Program(TINY).repeat(body_of("nop", config=PRESETS["ecp5"]), address=0, count=1)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 5), "ADDRESS.number must be from 1 to 7, not 0"),
        ((8, 5), "ADDRESS.number must be from 1 to 7, not 8"),
        ((1, 1 << 64), r"ADDRESS.value must be from -2\^63 to 2\^64 - 1, not 18446744073709551616"),
        ((1, -(1 << 63) - 1), r"ADDRESS.value must be from -2\^63 to"),
    ],
)
def test_address_registers_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Program(TINY).address(*arguments)


@pytest.mark.parametrize(
    "method, arguments, message",
    [
        ("load", {**DMA, "adress": 0}, "LOAD has no field 'adress'; its fields are opcode, wait"),
        ("load", {**DMA, "rows": 0}, r"LOAD.rows must be from 1 to 65535, not 0"),
        ("load", {**DMA, "address": 4}, "LOAD.address must be a multiple of the bus's 8 bytes, not 0x4"),
        ("load", {**DMA, "stride": 20}, "LOAD.stride must be a multiple of the bus's 8 bytes, not 0x14"),
        ("load", {**DMA, "address": (1 << 40) - 16}, r"LOAD.address must stay below 2\^40"),
        ("load", {**DMA, "address": 0, "stride": -16}, r"LOAD.address must stay below 2\^40, not reach -0x10"),
        (
            "load",
            {**DMA, "local": 1023, "local_stride": 1},
            "LOAD.local must reach rows 0 to 1023 of the vector memory only",
        ),
        ("load", {**DMA, "local": ACC_SPACE}, "LOAD.local must reach rows 0 to 1023 of the vector memory only"),
        (
            "store",
            {**DMA, "local": ACC_SPACE + 256},
            "STORE.local must reach .* or 0x8000 to 0x80ff of the accumulators only",
        ),
        ("store", {**DMA, "wait": 16}, "wait must name semaphores from 0 to 15, not 16"),
        ("store", {**DMA, "post": (1, -1)}, "post must name semaphores from 0 to 15, not -1"),
        ("quant", {**QUANT, "source": 1021, "source_stride": 1}, "QUANT.source must reach rows 0 to 1023"),
        ("quant", {**QUANT, "tile": 512}, "QUANT.tile must reach tiles 0 to 511 only, not 512..512"),
        ("quant", {**QUANT, "precision": Precision.P32, "limb_stride": 300}, "QUANT.tile must reach tiles .* 0..600"),
        ("quant", {**QUANT, "precision": 3}, "QUANT.precision must be from 0 to 2, not 3"),
        ("matmul", {**MATMUL, "b_tile": 512}, "MATMUL.b_tile must reach tiles 0 to 511 only"),
        (
            "matmul",
            {**MATMUL, "k_tiles": 3, "a_k_stride": 256},
            "MATMUL.a_tile must reach tiles 0 to 511 only, not 0..512",
        ),
        ("matmul", {**MATMUL, "a_stride0": -1}, "MATMUL.a_tile must reach tiles 0 to 511 only, not -1..0"),
        ("matmul", {**MATMUL, "acc": 0}, "MATMUL.acc must reach rows 0x8000 to 0x80ff only, not 0x0..0x3"),
        ("matmul", {**MATMUL, "n_tiles": 65, "acc_n_stride": 4}, "MATMUL.acc must reach rows .* not 0x8000..0x8103"),
        ("vector", {"op": VectorOp.MAX, "lane_xor": 4}, r"VECTOR.lane_xor must be below side \(4\), not 4"),
        (
            "vector",
            {"op": VectorOp.EXP, "dst": ACC_SPACE},
            "VECTOR.dst must reach rows 0 to 1023 of the vector memory only",
        ),
        ("vector", {"op": VectorOp.EXP, "a": 1024}, "VECTOR.a must reach rows 0 to 1023"),
        ("vector", {"op": VectorOp.MAX, "b": 1020, "b_stride1": 2, "count1": 3}, "VECTOR.b must reach rows 0 to 1023"),
        ("irq", {"tag": 1 << 32}, "IRQ.tag must be from 0 to 4294967295"),
    ],
)
def test_what_the_core_would_refuse_is_refused(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(Program(TINY), method)(**arguments)


def test_operands_that_are_not_read_are_not_checked():
    program = Program(TINY)
    program.vector(VectorOp.EXP, dst=0, a=0, b=0x7FFF, c=0x7FFF)
    program.vector(VectorOp.MULADD, dst=0, a=0, b=0x7FFF, imm_b=1.0, c=0x7FFF, imm_c=0.0)
    # 8 steps of packed bytes are two rows
    program.vector(VectorOp.MULADD, dst=0, a=1022, a_stride0=1, a_format=Format.U8, count0=8, imm_b=1.0, imm_c=0.0)
    assert len(program) == 3
