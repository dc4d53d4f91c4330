"""What every engine looks like from outside: its command stream, completion and faults."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import COMMANDS, FaultCause, Opcode

__all__ = ["INDEX_BITS", "EngineSignature", "FaultReport", "command_layout"]

INDEX_BITS = 32
"""Bits of a command index (commands executed before it since reset, modulo 2^32)."""


def command_layout(*opcodes: Opcode) -> data.StructLayout:
    """Layout of a decoded command: its ``index`` and every body field under its own name and width.

    The number of an address register is not in it: its content has been added to ``address``.
    Several opcodes must have the same body fields (LOAD and STORE). Enumerated fields are plain unsigned here.
    """
    bodies = [COMMANDS[opcode].body for opcode in opcodes]
    if any([f.name for f in body] != [f.name for f in bodies[0]] for body in bodies):
        raise ValueError(f"Commands must have the same fields to share a layout, not {opcodes!r}")
    members = {"index": unsigned(INDEX_BITS)}
    for field in bodies[0]:
        if field.name == "base":
            continue
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
        Another engine has faulted or a soft reset is pending: start no new bus burst. Engines without a bus ignore it.
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
            }
        )
