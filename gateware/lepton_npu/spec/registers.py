"""The register map as data, read from ``registers.rdl`` (SystemRDL 2.0) once per process."""

import functools
from dataclasses import dataclass
from pathlib import Path

from systemrdl import RDLCompiler
from systemrdl.node import AddrmapNode, FieldNode, RegNode

__all__ = ["COUNTERS", "RDL_FILE", "REGISTERS", "Register", "RegisterField", "elaborate"]

RDL_FILE = Path(__file__).with_name("registers.rdl")
"""The definition, for tools that read SystemRDL themselves."""


@dataclass(frozen=True)
class RegisterField:
    """``width`` bits from bit ``lsb`` of a register.

    ``access`` is "ro", "rw", "w1c" (write 1 to clear) or "pulse" (writing 1 triggers, reads 0). ``reset`` is the value
    after a hardware reset, None where it comes from the core; ``constant`` says that it never changes, ``soft_reset``
    that a soft reset clears the field, ``counter`` that it is the low half of a 64-bit counter.
    """

    name: str
    lsb: int
    width: int
    doc: str
    access: str
    reset: int | None
    constant: bool
    soft_reset: bool
    counter: bool

    @property
    def mask(self) -> int:
        """The field's bits in its register."""
        return ((1 << self.width) - 1) << self.lsb


@dataclass(frozen=True)
class Register:
    """A 32-bit register at byte ``address``.

    ``access`` is "ro", "rw" or "w1c". ``reset`` is the value read after a hardware reset, None where any part of it
    comes from the core.
    """

    name: str
    address: int
    access: str
    reset: int | None
    doc: str
    fields: tuple[RegisterField, ...]

    def field(self, name: str) -> RegisterField:
        """The field of that name.

        Raises
        ------
        KeyError
            If there is none; the message names those there are.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"{self.name} has no field {name!r}; its fields are {', '.join(f.name for f in self.fields)}")


def _words(node: AddrmapNode | RegNode | FieldNode) -> str:
    return " ".join((node.get_property("desc") or "").split())


def _field(node: FieldNode) -> RegisterField:
    if not node.is_sw_writable:
        access = "ro"
    elif node.get_property("singlepulse"):
        access = "pulse"
    else:
        access = "w1c" if node.get_property("onwrite") is not None else "rw"
    reset = node.get_property("reset")
    return RegisterField(
        name=node.inst_name,
        lsb=node.lsb,
        width=node.width,
        doc=_words(node),
        access=access,
        reset=reset,
        constant=access == "ro" and not node.is_hw_writable and not node.is_up_counter,
        soft_reset=node.get_property("hwclr"),
        counter=node.is_up_counter,
    )


def _register(node: RegNode) -> Register:
    fields = tuple(_field(field) for field in node.fields())
    kinds = {"rw" if field.access == "pulse" else field.access for field in fields}
    if len(kinds) != 1:
        raise ValueError(f"the fields of {node.inst_name} must be all read-only, all rw or all w1c, not {kinds}")
    reset: int | None = 0
    for field in fields:
        reset = None if reset is None or field.reset is None else reset | field.reset << field.lsb
    return Register(node.inst_name, node.absolute_address, kinds.pop(), reset, _words(node), fields)


@functools.cache
def elaborate() -> AddrmapNode:
    """The elaborated address map ``lepton_npu``, for exporters of the systemrdl-compiler family."""
    compiler = RDLCompiler()
    compiler.compile_file(str(RDL_FILE))
    return compiler.elaborate("lepton_npu").top


REGISTERS: dict[str, Register] = {node.inst_name: _register(node) for node in elaborate().registers()}
"""Every register by name, by ascending address."""

COUNTERS: tuple[str, ...] = tuple(
    name.removesuffix("_LO") for name, register in REGISTERS.items() if register.fields[0].counter
)
"""Names of the 64-bit counters; each is the pair of registers NAME_LO, NAME_HI."""
