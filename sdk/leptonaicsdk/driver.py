"""Talking to a core through its registers: start, doorbell, faults, counters, reset."""

from dataclasses import dataclass
from typing import Protocol

from lepton_npu.spec.commands import Engine, FaultCause
from lepton_npu.spec.translation import ASID_BITS, PPN_BITS, Access, Invalidate

from .errors import LeptonError
from .registers import REGISTERS, Register

__all__ = ["COUNTERS", "CoreFaultError", "Driver", "Fault", "RegisterBus", "satp"]

ENABLE, RESET, CLEAR_COUNTERS, RESUME = 1 << 0, 1 << 1, 1 << 2, 1 << 3
IRQ_DONE, IRQ_FAULT = 1 << 0, 1 << 1
PAGE_BITS = 12
"""Bits of an address within the registers of a context."""
STATUS_IDLE, STATUS_RESETTING, STATUS_INVALIDATING = 1 << 0, 1 << 3, 1 << 4

COUNTERS = (
    "CYCLES",
    "MATMUL_BUSY",
    "MATMUL_ROWS",
    "VECTOR_BUSY",
    "VECTOR_ROWS",
    "QUANT_BUSY",
    "QUANT_ROWS",
    "LOAD_BUSY",
    "LOAD_BEATS",
    "STORE_BUSY",
    "STORE_BEATS",
    "COMMANDS",
    "TLB_HITS",
    "TLB_MISSES",
)
"""Names of the 64-bit counters; what each counts is in the register map."""


class RegisterBus(Protocol):
    """What reaches the AXI4-Lite port: the compiled harness, or a memory-mapped window of a board."""

    def read(self, address: int) -> int:
        """Read the 32-bit register at byte ``address``."""

    def write(self, address: int, value: int) -> None:
        """Write the 32-bit register at byte ``address``."""


@dataclass(frozen=True)
class Fault:
    """The first fault since reset or resume: what, where, and which command (how many the core executed before it).

    Attributes
    ----------
    cause, engine, index, address :
        As in the registers.
    access : Access
        What the command did with memory.
    asid : int
        Number of its address space; 0 without translation.
    resumable : bool
        Whether the context can go on at this command, once the cause is mended.
    """

    cause: FaultCause
    engine: Engine
    index: int
    address: int
    access: Access = Access.FETCH
    asid: int = 0
    resumable: bool = False

    def __str__(self) -> str:
        return f"{self.cause.name} in {self.engine.name}, command {self.index}, address 0x{self.address:x}"


def satp(root: int | None, asid: int = 0) -> dict[str, int]:
    """What the SATP registers are for a table with root page ``root``, by their names; None: for no translation.

    Raises
    ------
    ValueError
        For numbers that the core does not have.
    """
    if not 0 <= asid < 1 << ASID_BITS:
        raise ValueError(f"asid must be from 0 to {(1 << ASID_BITS) - 1}, not {asid}")
    if root is None:
        return {"SATP_LO": 0, "SATP_HI": 0}
    if not 0 <= root < 1 << PPN_BITS:
        raise ValueError(f"root must be a physical page number from 0 to 2^{PPN_BITS} - 1, not {root:#x}")
    fields = {field.name: field.lsb for field in REGISTERS["SATP_HI"].fields}
    high = 1 << fields["MODE"] | asid << fields["ASID"] | root >> 32 << fields["PPN"]
    return {"SATP_LO": root & 0xFFFFFFFF, "SATP_HI": high}


def _values(register: Register, value: int) -> dict[str, int]:
    """The fields of a register that was read."""
    return {field.name: value >> field.lsb & (1 << field.width) - 1 for field in register.fields}


class CoreFaultError(LeptonError, RuntimeError):
    """A context stopped with a fault, kept as ``fault``; ``where`` says what is at its address, if that is known."""

    def __init__(self, fault: Fault, where: str | None = None):
        text = f"the core stopped: {fault}" + (f" ({where})" if where else "")
        super().__init__(text + ("; it can be resumed" if fault.resumable else ""))
        self.fault, self.where = fault, where


class Driver:
    """A context of a core behind a `RegisterBus`, by register names.

    Parameters
    ----------
    bus : RegisterBus
        Reaches the core's registers.
    context : int
        Whose registers.
    """

    def __init__(self, bus: RegisterBus, context: int = 0):
        self._bus, self._page = bus, context << PAGE_BITS

    def read(self, name: str) -> int:
        """Read a register by its name."""
        return self._bus.read(self._page | REGISTERS[name].address)

    def write(self, name: str, value: int):
        """Write a register by its name."""
        self._bus.write(self._page | REGISTERS[name].address, value)

    def _read64(self, name: str) -> int:
        low = self.read(f"{name}_LO")  # latches the high half
        return self.read(f"{name}_HI") << 32 | low

    def start(self, ring: int, ring_log2: int):
        """Give the core its ring and enable it."""
        self.write("RING_BASE_LO", ring & 0xFFFFFFFF)
        self.write("RING_BASE_HI", ring >> 32)
        self.write("RING_LOG2", ring_log2)
        self.write("IRQ_STATUS", IRQ_DONE | IRQ_FAULT)
        self.write("IRQ_ENABLE", IRQ_DONE | IRQ_FAULT)
        self.write("CTRL", ENABLE)

    def translate(self, root: int | None, asid: int = 0):
        """Take addresses for virtual ones of the table with root page ``root``; None: for physical ones.

        Only while the core is disabled or idle.

        Raises
        ------
        ValueError
            For numbers that the core does not have.
        """
        for name, value in satp(root, asid).items():
            self.write(name, value)

    def invalidate(self, kind: Invalidate = Invalidate.ALL, *, asid: int = 0, address: int = 0, attempts: int = 1000):
        """Make the core forget translations; when this returns, no access by them is in flight, and none follows.

        Raises
        ------
        TimeoutError
            If it is not over after ``attempts`` looks.
        """
        fields = {field.name: field.lsb for field in REGISTERS["INVALIDATE"].fields}
        self.write("INVALIDATE_LO", address & 0xFFFFFFFF)
        self.write("INVALIDATE_HI", address >> 32 & 0xFFFFFFFF)
        self.write("INVALIDATE", 1 << fields["START"] | kind << fields["KIND"] | asid << fields["ASID"])
        self._until_over(STATUS_INVALIDATING, "the invalidation was not over", attempts)

    def doorbell(self, tail: int):
        """Announce that the ring holds records up to count ``tail``."""
        self.write("TAIL", tail & 0xFFFFFFFF)

    def acknowledge(self) -> int:
        """Clear the pending interrupts and return what they were."""
        pending = self.read("IRQ_STATUS")
        self.write("IRQ_STATUS", pending)
        return pending

    def mask_interrupts(self):
        """Keep pending interrupts, and those to come, from the irq output, until `start`."""
        self.write("IRQ_ENABLE", 0)

    @property
    def fault(self) -> Fault | None:
        """The fault that stopped the core, or None."""
        cause = FaultCause(self.read("FAULT_CAUSE"))
        if cause == FaultCause.NONE:
            return None
        more = _values(REGISTERS["FAULT_ACCESS"], self.read("FAULT_ACCESS"))
        return Fault(
            cause, Engine(self.read("FAULT_ENGINE")), self.read("FAULT_INDEX"), self._read64("FAULT_ADDRESS"),
            Access(more["ACCESS"]), more["ASID"], bool(more["RESUMABLE"]),
        )  # fmt: skip

    def resume(self):
        """End a fault and go on at the command at fault; no effect unless the fault is ``resumable``."""
        self.write("CTRL", ENABLE | RESUME)

    def set_partition(self, vmem_rows: range, acc_rows: range, tiles: range):
        """What the context has of the memories on the chip; only while it is disabled or idle.

        Raises
        ------
        ValueError
            For a part whose size is no power of two, or that does not begin at a multiple of it.
        """
        parts = {"VMEM_PARTITION": vmem_rows, "ACC_PARTITION": acc_rows, "TILE_PARTITION": tiles}
        for name, part in parts.items():
            size = len(part)
            if part.step != 1 or not size or size & (size - 1) or part.start % size:
                raise ValueError(f"{name} must be a power of two of rows from a multiple of it on, not {part}")
            fields = {field.name: field.lsb for field in REGISTERS[name].fields}
            self.write(name, part.start << fields["BASE"] | (size.bit_length() - 1) << fields["LOG2"])

    def set_weight(self, commands: int):
        """Commands that the context may start in a row on an engine for which another one waits."""
        self.write("WEIGHT", commands)

    def check(self):
        """Raise `CoreFaultError` if the core has stopped with a fault."""
        if (fault := self.fault) is not None:
            raise CoreFaultError(fault)

    @property
    def idle(self) -> bool:
        """No command and no body is waiting or running."""
        return bool(self.read("STATUS") & STATUS_IDLE)

    def soft_reset(self, attempts: int = 1000):
        """Reset the core (memories and configuration stay); waits until the bus is quiet.

        Raises
        ------
        TimeoutError
            If the core is still resetting after ``attempts`` looks.
        """
        self.write("CTRL", RESET)
        self._until_over(STATUS_RESETTING, "the core was still resetting", attempts)

    def _until_over(self, bit: int, what: str, attempts: int):
        for _ in range(attempts):
            if not self.read("STATUS") & bit:
                return
        raise TimeoutError(f"{what} after {attempts} reads of STATUS: the bus does not answer")

    def counters(self) -> dict[str, int]:
        """All counters by name."""
        return {name: self._read64(name) for name in COUNTERS}

    def clear_counters(self):
        """Set all counters to zero; the core stays enabled."""
        self.write("CTRL", ENABLE | CLEAR_COUNTERS)
