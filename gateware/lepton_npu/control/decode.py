"""Decoding of command records, from the definitions of the command set."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import COMMANDS, HEADER, Engine, FaultCause, Field, Opcode
from lepton_npu.spec.config import NpuConfig

from .engine import INDEX_BITS, command_layout
from .fetch import RECORD_BITS

__all__ = ["ENGINES", "RecordDecoder"]

ENGINES: dict[Engine, tuple[Opcode, ...]] = {
    engine: tuple(opcode for opcode, command in COMMANDS.items() if command.engine == engine)
    for engine in Engine
    if engine != Engine.CONTROL
}
"""The engines with a queue, and the opcodes of each."""


_CONTROL_FIELDS = {Opcode.IRQ: ("tag",), Opcode.ADDRESS: ("add",), Opcode.REPEAT: ("records", "count")}
_REGISTER_OFFSET = {"base": "address", "number": "value"}  # the field of a register, and that of what is added to it


def _register_fields() -> tuple[Field, Field]:
    """The fields that name an address register and hold an offset: at one place in all commands that have them."""
    found = [
        (field, next(other for other in command.body if other.name == _REGISTER_OFFSET[field.name]))
        for command in COMMANDS.values()
        for field in command.body
        if field.name in _REGISTER_OFFSET
    ]
    places = {(number.offset, number.width, offset.offset, offset.width) for number, offset in found}
    if len(places) != 1:
        raise ValueError(f"register and offset must be at one place in all commands, not at {places}")
    return found[0]


def _bits(record, field: Field):
    return record[field.offset : field.offset + field.width]


class RecordDecoder(wiring.Component):
    """The static checks of `lepton_npu.spec.commands.decode`, and the fields of every engine; combinational.

    Every record ends in a cause: NONE, ILLEGAL_OPCODE, or ILLEGAL_FIELD (a reserved bit that is set, a field out of
    range, a lane mask not below T).

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    record : In(512), index : In(32)
    cause : Out(4), engine : Out(3), opcode : Out(8)
    wait, post : Out(16)
    tag : Out(32)
        Of an IRQ.
    base : Out(3), offset : Out(64)
        Of ADDRESS, LOAD, STORE and REPEAT: an address register, and what is added to it.
    add : Out(1)
        Of an ADDRESS.
    records : Out(16), count : Out(32)
        Of a REPEAT.
    commands : Out(struct of command_layout by engine name in lower case)
        The record read as a command of each engine; addresses without those of their registers.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        layouts = {engine.name.lower(): command_layout(*opcodes) for engine, opcodes in ENGINES.items()}
        super().__init__(
            {
                "record": In(RECORD_BITS),
                "index": In(INDEX_BITS),
                "cause": Out(max(FaultCause).bit_length()),
                "engine": Out(max(Engine).bit_length()),
                "opcode": Out(8),
                "wait": Out(16),
                "post": Out(16),
                "tag": Out(32),
                "base": Out(3),
                "offset": Out(64),
                "add": Out(1),
                "records": Out(16),
                "count": Out(32),
                "commands": Out(data.StructLayout(layouts)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        record = self.record
        for field in HEADER:
            m.d.comb += getattr(self, field.name).eq(_bits(record, field))
        for opcode, names in _CONTROL_FIELDS.items():
            for field in COMMANDS[opcode].body:
                if field.name in names:
                    m.d.comb += getattr(self, field.name).eq(_bits(record, field))
        register, offset = _register_fields()
        m.d.comb += [self.base.eq(_bits(record, register)), self.offset.eq(_bits(record, offset))]
        for engine, opcodes in ENGINES.items():
            command = self.commands[engine.name.lower()]
            members = command.shape().members
            m.d.comb += command.index.eq(self.index)
            if "opcode" in members:
                m.d.comb += command.opcode.eq(self.opcode)
            for opcode in opcodes:
                for field in COMMANDS[opcode].body:
                    if field.name in members:
                        m.d.comb += command[field.name].eq(_bits(record, field))

        with m.Switch(self.opcode):
            for opcode, command in COMMANDS.items():
                with m.Case(opcode):
                    illegal = Signal(name=f"{command.name.lower()}_illegal")
                    m.d.comb += [
                        illegal.eq((record & Const(command.reserved_mask, RECORD_BITS)).any() | self._wrong(command)),
                        self.engine.eq(command.engine),
                        self.cause.eq(Mux(illegal, FaultCause.ILLEGAL_FIELD, FaultCause.NONE)),
                    ]
            with m.Default():
                m.d.comb += self.cause.eq(FaultCause.ILLEGAL_OPCODE)
        return m

    def _wrong(self, command):
        """Whether a field of the body is out of its range."""
        wrong = []
        for field in command.body:
            value = _bits(self.record, field)
            value = value.as_signed() if field.signed else value
            low = -(1 << (field.width - 1)) if field.signed else 0
            high = (1 << (field.width - field.signed)) - 1
            most = min(field.high, self._config.side - 1) if field.name in ("lane_bcast", "lane_xor") else field.high
            if field.low > low:
                wrong.append(value == 0 if field.low == 1 else value < field.low)
            if most < high:
                wrong.append(value > most)
        return Cat(wrong).any() if wrong else Const(0, 1)
