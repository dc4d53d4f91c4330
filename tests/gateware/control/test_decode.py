"""Decoder against `lepton_npu.spec.commands.decode`: every field at its limits, every reserved bit, mutated records."""

import random
from dataclasses import replace

import pytest
from amaranth.sim import Simulator
from lepton_npu.control.decode import ENGINES, RecordDecoder
from lepton_npu.spec.commands import COMMANDS, RECORD_WORDS, Command, Engine, FaultCause, Opcode, decode
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig

RECORD_BITS = 32 * RECORD_WORDS
CONFIG = NpuConfig(side=4, lanes=4, vmem_rows=64, acc_rows=32, tiles=16, max_burst=16)
MASKS = ("lane_bcast", "lane_xor")


def random_record(rng: random.Random, command: Command) -> bytes:
    """A legal record, each field at a limit or anywhere between."""
    values = {}
    for field in command.fields[1:]:
        high = min(field.high, CONFIG.side - 1) if field.name in MASKS else field.high
        values[field.name] = rng.choice((field.low, high, rng.randint(field.low, high), rng.randint(field.low, high)))
    return command.pack(**values)


def expected(record: bytes) -> FaultCause:
    """What the definitions say, and the lane masks, which depend on the configuration."""
    try:
        _, values = decode(record)
    except ValueError as error:
        return error.args[0]
    if any(values.get(name, 0) >= CONFIG.side for name in MASKS):
        return FaultCause.ILLEGAL_FIELD
    return FaultCause.NONE


def put(record: bytes, offset: int, width: int, value: int) -> bytes:
    bits = int.from_bytes(record, "little") & ~(((1 << width) - 1) << offset)
    return (bits | (value & (1 << width) - 1) << offset).to_bytes(RECORD_BYTES, "little")


def check(records: list[bytes]) -> list[FaultCause]:
    """Every output of the decoder for each record; returns the causes."""
    decoder = RecordDecoder(CONFIG)
    causes = []

    async def process(ctx):
        for index, record in enumerate(records):
            index = (index * 0x1234_5677) & 0xFFFF_FFFF
            ctx.set(decoder.record, int.from_bytes(record, "little"))
            ctx.set(decoder.index, index)
            cause = expected(record)
            assert ctx.get(decoder.cause) == cause, record.hex()
            causes.append(cause)
            if cause != FaultCause.NONE:
                continue
            command, values = decode(record)
            assert ctx.get(decoder.engine) == command.engine
            for name in ("opcode", "wait", "post"):
                assert ctx.get(getattr(decoder, name)) == values[name]
            if command.opcode == Opcode.IRQ:
                assert ctx.get(decoder.tag) == values["tag"]
            if command.opcode in (Opcode.LOAD, Opcode.STORE, Opcode.REPEAT):
                assert ctx.get(decoder.base) == values["base"]
                assert ctx.get(decoder.offset) == values["address"]
            if command.opcode == Opcode.ADDRESS:
                assert ctx.get(decoder.base) == values["number"]
                assert ctx.get(decoder.offset) == values["value"]
                assert ctx.get(decoder.add) == values["add"]
            if command.opcode == Opcode.REPEAT:
                assert (ctx.get(decoder.records), ctx.get(decoder.count)) == (values["records"], values["count"])
            if command.engine != Engine.CONTROL:
                fields = decoder.commands[command.engine.name.lower()]
                assert ctx.get(fields.index) == index
                for field in command.body:
                    if field.name == "base":
                        continue
                    assert ctx.get(fields[field.name]) == values[field.name], field.name

    simulator = Simulator(decoder)
    simulator.add_testbench(process)
    simulator.run()
    return causes


def test_engines():
    assert set(ENGINES) == set(Engine) - {Engine.CONTROL}
    assert {opcode for opcodes in ENGINES.values() for opcode in opcodes} == {
        opcode for opcode, command in COMMANDS.items() if command.engine != Engine.CONTROL
    }


def test_registers_must_be_at_one_place(monkeypatch):
    """The decoder reads them before it knows the command."""
    command = COMMANDS[Opcode.STORE]
    body = tuple(replace(field, lsb=11) if field.name == "base" else field for field in command.body)
    monkeypatch.setitem(COMMANDS, Opcode.STORE, replace(command, body=body))
    with pytest.raises(ValueError, match="register and offset must be at one place in all commands, not at"):
        check([])


@pytest.mark.parametrize("opcode", Opcode)
def test_single_violations(seed, opcode):
    """Each field just inside and just outside its range, and at its ends; each reserved bit alone."""
    rng, command = random.Random(f"{seed} {opcode}"), COMMANDS[opcode]
    records, legal = [], [random_record(rng, command) for _ in range(8)]
    for field in command.fields[1:]:
        least, most = (-(1 << field.width - 1) if field.signed else 0), (1 << field.width - field.signed) - 1
        high = CONFIG.side - 1 if field.name in MASKS else field.high
        for value in {least, field.low - 1, field.low, field.low + 1, high - 1, high, high + 1, most}:
            if least <= value <= most:
                records.append(put(rng.choice(legal), field.offset, field.width, value))
    records += [put(rng.choice(legal), bit, 1, 1) for bit in range(RECORD_BITS) if command.reserved_mask >> bit & 1]
    causes = check(legal + records)
    assert causes[: len(legal)] == [FaultCause.NONE] * len(legal)
    assert causes.count(FaultCause.ILLEGAL_FIELD) >= command.reserved_mask.bit_count()


def test_every_opcode():
    """All 256 opcode bytes on an otherwise empty record; zero is illegal."""
    causes = check([bytes([opcode, *bytes(RECORD_BYTES - 1)]) for opcode in range(256)])
    illegal = {opcode for opcode, cause in enumerate(causes) if cause == FaultCause.ILLEGAL_OPCODE}
    assert illegal == set(range(256)) - set(Opcode)


def test_mutated_records(seed):
    """Legal records with some bits flipped, and plain random bits."""
    rng = random.Random(seed)
    records = []
    for _ in range(900):
        record = random_record(rng, rng.choice(list(COMMANDS.values())))
        bits = int.from_bytes(record, "little")
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            bits ^= 1 << rng.randrange(RECORD_BITS)
        records.append(bits.to_bytes(RECORD_BYTES, "little"))
    records += [rng.randbytes(RECORD_BYTES) for _ in range(100)]
    causes = check(records)
    for cause in (FaultCause.NONE, FaultCause.ILLEGAL_FIELD, FaultCause.ILLEGAL_OPCODE):
        assert causes.count(cause) > 30, cause
