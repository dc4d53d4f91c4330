"""What every engine looks like from outside: its command stream, completion and faults."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import COMMANDS, HEADER, FaultCause, Opcode

__all__ = ["INDEX_BITS", "EngineSignature", "FaultReport", "command_layout"]

INDEX_BITS = 32
"""Bits of a command index (commands executed before it since reset, modulo 2^32)."""

OPCODE_BITS = next(field.width for field in HEADER if field.name == "opcode")


def command_layout(*opcodes: Opcode) -> data.StructLayout:
    """Layout of a decoded command: its ``index`` and every body field under its own name and width.

    Several opcodes are those of one engine: the layout has the fields of all, and their ``opcode``.
    The number of an address register is not in it: its content has been added to ``address``.
    Enumerated fields are plain unsigned here.
    """
    members = {"index": unsigned(INDEX_BITS)}
    if len(opcodes) > 1:
        members["opcode"] = unsigned(OPCODE_BITS)
    for opcode in opcodes:
        for field in COMMANDS[opcode].body:
            if field.name == "base":
                continue
            if field.name in members:
                raise ValueError(f"Commands of one engine must not share the field {field.name!r}, as {opcodes!r} do")
            members[field.name] = signed(field.width) if field.signed else unsigned(field.width)
    return data.StructLayout(members)


class FaultReport(data.Struct):
    """A fault: ``valid`` rises for one cycle or more; only the first cycle's content counts.

    ``address`` is the byte address for bus causes, else the offending local, accumulator or tile-row address (low 64
    bits of it), and zero where there is none.
    """

    valid: 1
    cause: unsigned(max(FaultCause).bit_length())
    index: INDEX_BITS
    address: 64


class EngineSignature(wiring.Signature):
    """Ports of an engine, seen from the engine.

    Members
    -------
    cmd : In(stream)
        Commands in order, semaphores already taken. An engine may accept the next one before it is done with the last.
    done : Out(1)
        One cycle high for each command that has finished, in order: all its writes are visible.
    busy : Out(1)
        The engine holds a command that is not done.
    progress : Out(1)
        Something moved in this cycle (a row, a bus beat): feeds the watchdog.
    fault : Out(FaultReport)
        The command cannot go on. The engine stays stopped (bus transactions in flight are finished, then it is
        quiet) until it is reset; it does not pulse ``done`` for this command.
    halt : In(1)
        A reset of the engine is coming: start no new bus burst, ask the MMU for no more pages. A fault of another
        engine is no reason for it: commands that run finish. Engines without a bus ignore it.
    quiet : Out(1)
        Nothing of the engine is on the bus or asked of the MMU, and while ``halt`` is high that stays so. Engines
        without a bus: not after a fault while results of what was begun before it are still on their way to a memory.
        Without a fault they may be reset in any cycle, and what is on its way is lost: a reset of a context does not
        take as long as its commands.
    rewind : Out(1)
        For one cycle, some cycles after the engine was reset for a fault: commands that it took and was not done with
        are to be given to it again. Driven by what resets the engine; 0 in the engine itself.
    """

    def __init__(self, *opcodes: Opcode):
        self.opcodes = opcodes
        super().__init__(
            {
                "cmd": In(stream.Signature(command_layout(*opcodes))),
                "done": Out(1),
                "busy": Out(1),
                "progress": Out(1),
                "fault": Out(FaultReport),
                "halt": In(1),
                "quiet": Out(1),
                "rewind": Out(1),
            }
        )
