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
    commands : Out(struct of command_layout by engine name in lower case)
        The record read as a command of each engine.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        layouts = {engine.name.lower(): command_layout(*opcodes[:1]) for engine, opcodes in ENGINES.items()}
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
                "commands": Out(data.StructLayout(layouts)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        record = self.record
        for field in HEADER:
            m.d.comb += getattr(self, field.name).eq(_bits(record, field))
        (tag,) = COMMANDS[Opcode.IRQ].body
        m.d.comb += self.tag.eq(_bits(record, tag))
        for engine, opcodes in ENGINES.items():
            command = self.commands[engine.name.lower()]
            m.d.comb += command.index.eq(self.index)
            for field in COMMANDS[opcodes[0]].body:
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
