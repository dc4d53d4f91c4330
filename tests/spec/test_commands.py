"""The command set: layout of the records, packing, unpacking, and the decoder's static checks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_npu.spec.commands import COMMANDS, Command, Engine, FaultCause, Field, Opcode, decode
from lepton_npu.spec.config import RECORD_BYTES

everything = pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda command: command.name)


def body(command: Command) -> list[Field]:
    return [field for field in command.fields if field.name != "opcode"]


@st.composite
def field_values(draw, command: Command) -> dict[str, int]:
    """Values for all fields, their limits included."""
    values = {}
    for field in body(command):
        ends = st.sampled_from([field.low, field.high, min(max(field.low, 0), field.high)])
        values[field.name] = draw(st.one_of(ends, st.integers(field.low, field.high)))
    return values


def with_bits(record: bytes, offset: int, width: int, value: int) -> bytes:
    """A record with the bits ``offset .. offset + width - 1`` replaced."""
    bits = int.from_bytes(record, "little") & ~(((1 << width) - 1) << offset)
    return (bits | value << offset).to_bytes(RECORD_BYTES, "little")


# ---- Definitions.


@everything
def test_fields_do_not_overlap_and_are_in_the_record(command):
    used = 0
    for field in command.fields:
        mask = ((1 << field.width) - 1) << field.offset
        assert used & mask == 0, f"{command.name}.{field.name} overlaps another field"
        used |= mask
        assert 0 <= field.lsb < 32
    assert used | command.reserved_mask == (1 << RECORD_BYTES * 8) - 1
    assert used & command.reserved_mask == 0


@everything
def test_fields_have_names_limits_and_documentation(command):
    names = [field.name for field in command.fields]
    assert len(names) == len(set(names))
    for field in command.fields:
        least = -(1 << field.width - 1) if field.signed else 0
        assert least <= field.low < field.high < 1 << field.width - field.signed
        assert field.doc.endswith(".")
        assert field.name.isidentifier()
    assert command.doc.endswith(".")


def test_every_opcode_has_one_command_and_every_engine_one():
    assert set(COMMANDS) == set(Opcode)
    assert all(command.opcode == opcode and command.name == opcode.name for opcode, command in COMMANDS.items())
    assert {command.engine for command in COMMANDS.values()} == set(Engine)


# ---- Pack and unpack.


@everything
@given(data=st.data())
def test_pack_and_decode_are_inverse(command, data):
    values = data.draw(field_values(command))
    record = command.pack(**values)
    assert len(record) == RECORD_BYTES
    expected = {"opcode": int(command.opcode)} | values
    assert command.unpack(record) == expected
    assert decode(record) == (command, expected)
    assert int.from_bytes(record, "little") & command.reserved_mask == 0


@everything
@given(data=st.data())
def test_every_field_is_where_its_definition_says(command, data):
    """Word by word, as the hardware and the C header see it."""
    values = data.draw(field_values(command))
    record = command.pack(**values)
    words = [int.from_bytes(record[i : i + 4], "little") for i in range(0, RECORD_BYTES, 4)]
    for field in body(command):
        found = words[field.word] | (words[field.word + 1] << 32 if field.word < 15 else 0)
        assert found >> field.lsb & (1 << field.width) - 1 == values[field.name] % (1 << field.width)
    assert record[0] == command.opcode


@everything
def test_fields_that_are_not_given(command):
    values = decode(command.pack())[1]
    for field in body(command):
        assert values[field.name] == max(field.low, 0)


@everything
@given(data=st.data())
def test_pack_refuses_what_is_out_of_range(command, data):
    field = data.draw(st.sampled_from(body(command)))
    value = data.draw(st.one_of(st.integers(max_value=field.low - 1), st.integers(min_value=field.high + 1)))
    message = rf"^{command.name}\.{field.name} must be from {field.low} to {field.high}, not {value}$"
    with pytest.raises(ValueError, match=message):
        command.pack(**{field.name: value})


@everything
def test_pack_refuses_unknown_fields(command):
    with pytest.raises(ValueError, match=f"^{command.name} has no field 'colour'; its fields are opcode, wait, post"):
        command.pack(colour=1)
    with pytest.raises(ValueError, match=f"^{command.name} has no field 'colour'"):
        command.pack(colour="blue")


# ---- The decoder's checks.


@given(
    st.one_of(st.integers(0, 255), st.sampled_from(sorted(COMMANDS))),
    st.one_of(st.binary(min_size=RECORD_BYTES - 1, max_size=RECORD_BYTES - 1), st.just(bytes(RECORD_BYTES - 1))),
)
def test_decode_of_any_bytes(opcode, rest):
    """It gives the command and fields that pack to the same bytes, or a fault."""
    record = bytes([opcode]) + rest
    command = COMMANDS.get(opcode)
    if command is None:
        cause = FaultCause.ILLEGAL_OPCODE
    else:
        values = command.unpack(record)
        fits = all(field.low <= values[field.name] <= field.high for field in command.fields)
        if fits and command.pack(**values) == record:
            assert decode(record) == (command, values)
            return
        cause = FaultCause.ILLEGAL_FIELD
    with pytest.raises(ValueError) as error:
        decode(record)
    assert error.value.args[0] == cause


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(Opcode)))
def test_unknown_opcodes(opcode):
    with pytest.raises(ValueError, match=f"opcode 0x{opcode:02x} is not") as error:
        decode(bytes([opcode]) + bytes(RECORD_BYTES - 1))
    assert error.value.args[0] == FaultCause.ILLEGAL_OPCODE


@everything
def test_each_reserved_bit_is_checked(command):
    record = command.pack()
    for bit in range(RECORD_BYTES * 8):
        if command.reserved_mask >> bit & 1:
            with pytest.raises(ValueError, match="reserved bits") as error:
                decode(with_bits(record, bit, 1, 1))
            assert error.value.args[0] == FaultCause.ILLEGAL_FIELD


def impossible_values() -> list[tuple[Command, Field, int]]:
    """Encodings of fields that hold more than is allowed, or less."""
    found = []
    for command in COMMANDS.values():
        for field in body(command):
            if field.low > 0 and not field.signed:
                found.append((command, field, field.low - 1))
            if not field.signed and field.high < (1 << field.width) - 1:
                found += [(command, field, field.high + 1), (command, field, (1 << field.width) - 1)]
    return found


@pytest.mark.parametrize(
    ("command", "field", "value"),
    [pytest.param(*case, id=f"{case[0].name}-{case[1].name}-{case[2]}") for case in impossible_values()],
)
def test_each_limit_is_checked(command, field, value):
    record = with_bits(command.pack(), field.offset, field.width, value)
    with pytest.raises(ValueError, match=rf"{command.name}\.{field.name} must be from .* not {value}") as error:
        decode(record)
    assert error.value.args[0] == FaultCause.ILLEGAL_FIELD
