"""A context of a core: a ring and an address space of its own, a part of the memory, a partition of the chip."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from numpy.typing import NDArray

from .address_space import VIRTUAL_BASE, AddressSpace, table_bytes
from .driver import CoreFaultError, Fault
from .errors import StateError
from .memory import Memory
from .partition import Partition
from .scrub import scrub_program
from .turns import ContextKilledError, Turns

__all__ = ["RING_LOG2", "Context", "FaultHandler", "with_tables"]

RING_LOG2 = 6
"""log2 of the records of a context's ring, which stands at the start of its memory."""

FaultHandler = Callable[[Fault], bool]
"""Mends what caused a fault, and says whether it has."""


def with_tables(size: int, page_bytes: int | None) -> int:
    """Bytes of ``size`` for use and, with pages, of the tables behind them."""
    return size if page_bytes is None else size + table_bytes(size, page_bytes)


class Context(ABC):
    """A `Backend` that has a core for itself, or shares one with others.

    Parameters
    ----------
    number : int
        Of the context, and of its address space (ASID).
    config : NpuConfig
        The core's.
    memory : numpy.ndarray
        uint8: its part of the core's memory, with room for tables behind ``size`` bytes.
    base : int
        Physical address of ``memory[0]``.
    size : int
    page_bytes : int or None
    turns : Turns
        Of the core.
    partition : Partition or None
        What its programs see of the memories on the chip; None: all, and the core is not shared.

    Attributes
    ----------
    config : NpuConfig
        What its programs see.
    memory : numpy.ndarray
        uint8, ``size`` bytes; the first are the ring.
    base : int
        Address of ``memory[0]`` for its programs: virtual if there is an address space.
    physical : int
        Physical address of ``memory[0]``.
    space : AddressSpace or None
    on_fault : function of a `Fault`, or None
        Asked about a fault that can be resumed. If it returns True the program goes on at the command at fault, else
        `run` raises.
    on_close : function of this context, or None
        Called first when it is closed.
    last_cycles : int
        Clock cycles of the last `run`, from the doorbell's acceptance to the interrupt.
    """

    kind: str
    """"rtl" or "model"."""

    def __init__(
        self, number: int, config: NpuConfig, memory: NDArray[np.uint8], base: int, size: int, page_bytes: int | None,
        turns: Turns, *, partition: Partition | None = None,
    ):  # fmt: skip
        self.number, self.physical = number, base
        self.config = config if partition is None else partition.config(config)
        self.memory = memory[:size]
        # All contexts of a shared core use the same addresses: ASIDs tell them apart.
        virtual = None if partition is None else VIRTUAL_BASE
        self.space = None if page_bytes is None else AddressSpace(memory, base, size, page_bytes, virtual=virtual)
        self.base = base if self.space is None else self.space.base
        self.on_fault: FaultHandler | None = None
        self.on_close: Callable[[Context], None] | None = None
        self.last_cycles = 0
        self._turns = turns
        self._tail = 0
        self._fault: Fault | None = None

    def run(self, records: bytes):
        """Run records, of which the last is an IRQ, to their end.

        Raises
        ------
        CoreFaultError
            If the context stops with a fault: `resume` goes on if that says so, `recover` makes it ready again.
        ContextKilledError
            If another job kills the context meanwhile.
        """
        self._turns.check()
        count = len(records) // RECORD_BYTES
        if count > 1 << RING_LOG2:
            raise ValueError(f"records must be at most the ring's {1 << RING_LOG2}, not {count}")
        for i in range(count):
            slot = (self._tail + i) % (1 << RING_LOG2) * RECORD_BYTES
            record = records[i * RECORD_BYTES : (i + 1) * RECORD_BYTES]
            self.memory[slot : slot + RECORD_BYTES] = np.frombuffer(record, np.uint8)
        self._tail += count
        self._ring_doorbell(self._tail)
        self._finish()

    def resume(self):
        """Go on after a fault, at the command that met it, when its cause has been mended; returns and raises as `run`.

        Raises
        ------
        StateError
            If there is no fault, or none that can be resumed.
        """
        self._turns.check()
        if self._fault is None or not self._fault.resumable:
            raise StateError(f"context {self.number} cannot be resumed: {self._fault or 'it has no fault'}")
        self._resume()
        self._finish()

    def _finish(self):
        first = self._turns.clock.cycle
        while True:
            self._fault = None
            self.last_cycles = self._turns.wait(self.number) - first
            self._fault = fault = self._acknowledge()
            if fault is None:
                return
            if not (fault.resumable and self.on_fault is not None and self.on_fault(fault)):
                raise CoreFaultError(fault)
            self._resume()

    def recover(self):
        """Reset the context; memories stay, and other contexts go on."""
        self._reset()
        self._tail, self._fault = 0, None

    def kill(self):
        """Reset the context whatever it is doing; a job that waits for it gets `ContextKilledError`.

        What it has in its partition stays there: `scrub` makes it zero.
        """
        self._turns.check()
        self.recover()
        self._turns.throw(self.number, ContextKilledError(f"context {self.number} was killed"))

    def scrub(self):
        """Make vector memory, accumulators, tiles and their exponents zero, in the partition of this context.

        A program of the context does it, while others go on. Raises as `run` does.
        """
        self.run(scrub_program(self.config).records())

    def remap(self):
        """Write the address space's table, which was changed, and have the core forget what it knew of it."""
        if self.space is not None:
            self.space.write()
            self._invalidate()

    def close(self):
        """Free what is this context's; it must not be used afterwards.

        One of a `Core` is killed, and can then be taken into use again. Its partition keeps what is in it.
        """
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close(self)
        self.memory, self.space = np.zeros(0, np.uint8), None

    @property
    @abstractmethod
    def timing(self) -> Memory:
        """How the core's memory answers, or would if it had any timing; errors that are over are left out."""

    @timing.setter
    @abstractmethod
    def timing(self, value: Memory): ...

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """The context's counters since the start."""

    @abstractmethod
    def _ring_doorbell(self, tail: int): ...

    @abstractmethod
    def _acknowledge(self) -> Fault | None:
        """Take the interrupt back; the fault, if it was one."""

    @abstractmethod
    def _resume(self): ...

    @abstractmethod
    def _reset(self): ...

    @abstractmethod
    def _invalidate(self): ...
