"""What runs a device's programs: the RTL in the compiled harness, or the instruction-set simulator."""

from typing import Protocol

import numpy as np
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from numpy.typing import NDArray

from .address_space import AddressSpace, table_bytes
from .driver import COUNTERS, CoreFaultError, Driver, Fault
from .errors import InputError
from .memory import LAST_BYTE, Memory

__all__ = ["BACKENDS", "Backend", "ModelBackend", "RtlBackend", "open_backend"]

BACKENDS = ("rtl", "model")
RING_LOG2 = 6
"""log2 of the records of a device's ring, which stands at the start of its memory."""

_SLICE = 2_000_000  # cycles between two looks of Python, so that an interrupt from the keyboard is heard


class Backend(Protocol):
    """A core with its memory, whose first bytes are the ring.

    Attributes
    ----------
    config : NpuConfig
    memory : numpy.ndarray
        uint8, from byte address ``base`` on, which is virtual if the backend has an address space.
    timing : Memory
        How the memory answers, or would if the backend had any timing.
    """

    config: NpuConfig
    memory: NDArray[np.uint8]
    base: int
    timing: Memory

    def run(self, records: bytes):
        """Run records, of which the last is an IRQ, to their end.

        Raises
        ------
        CoreFaultError
            If the core stops with a fault; `recover` makes it ready again.
        """

    def recover(self):
        """Reset the core; memories stay."""

    def counters(self) -> dict[str, int]:
        """The core's counters since the start."""

    def close(self):
        """Free everything."""


def _put(memory: NDArray[np.uint8], tail: int, records: bytes):
    """Write records into the ring behind count ``tail``."""
    count = len(records) // RECORD_BYTES
    if count > 1 << RING_LOG2:
        raise ValueError(f"records must be at most the ring's {1 << RING_LOG2}, not {count}")
    for i in range(count):
        slot = (tail + i) % (1 << RING_LOG2) * RECORD_BYTES
        memory[slot : slot + RECORD_BYTES] = np.frombuffer(records[i * RECORD_BYTES : (i + 1) * RECORD_BYTES], np.uint8)


def _with_tables(size: int, page_bytes: int | None) -> int:
    return size if page_bytes is None else size + table_bytes(size, page_bytes)


def _mapped(
    memory: NDArray[np.uint8], base: int, size: int, page_bytes: int | None
) -> tuple[NDArray[np.uint8], AddressSpace | None]:
    """The part of a memory that is not for tables, and the address space that it is in."""
    return memory[:size], None if page_bytes is None else AddressSpace(memory, base, size, page_bytes)


class RtlBackend:
    """The generated Verilog under Verilator, behind a memory of ``timing``; built at first use, then cached.

    With ``page_bytes`` the core has all addresses translated, by pages of that size.

    Attributes
    ----------
    last_cycles : int
        Clock cycles of the last `run`, from the doorbell's acceptance to the interrupt.
    """

    last_cycles = 0

    def __init__(
        self, config: NpuConfig, memory_bytes: int, *, base: int = 0, timing: Memory | None = None,
        page_bytes: int | None = None,
    ):  # fmt: skip
        from lepton_sim.core import core_library
        from lepton_sim.harness import Harness

        self.config = config
        self._harness = Harness(core_library(config), _with_tables(memory_bytes, page_bytes), base=base)
        self.timing = timing or Memory()
        self.memory, self.space = _mapped(self._harness.memory, base, memory_bytes, page_bytes)
        self.base = base if self.space is None else self.space.base
        self._driver = Driver(self._harness)
        self._tail = 0
        self._driver.translate(None if self.space is None else self.space.root)
        self._driver.start(self.base, RING_LOG2)
        self._driver.clear_counters()

    @property
    def timing(self) -> Memory:
        """See `Backend`; errors that are over are left out."""
        return self._timing.after(self._harness.error_beats)

    @timing.setter
    def timing(self, value: Memory):
        from lepton_sim.harness import BusResponse, ErrorRange

        self._timing = value
        self._harness.configure(latency=value.latency, bandwidth=value.bandwidth)
        self._harness.inject_errors(
            [
                ErrorRange(
                    error.first, LAST_BYTE if error.last is None else error.last, BusResponse[error.response.upper()],
                    error.access == "write", error.after, error.count or 0,
                )
                for error in value.errors
            ]
        )  # fmt: skip

    def run(self, records: bytes):
        """See `Backend`."""
        _put(self.memory, self._tail, records)
        self._tail += len(records) // RECORD_BYTES
        self._driver.doorbell(self._tail)
        first = self._harness.cycle
        while not self._harness.run(_SLICE):
            pass
        self.last_cycles = self._harness.cycle - first
        self._driver.acknowledge()
        self._driver.check()

    def recover(self):
        """See `Backend`."""
        self._driver.soft_reset()
        self._tail = 0
        self._driver.start(self.base, RING_LOG2)

    def remap(self):
        """Write the address space's table, which was changed, and have the core forget what it knew of it."""
        if self.space is not None:
            self.space.write()
            self._driver.invalidate()

    def counters(self) -> dict[str, int]:
        """See `Backend`."""
        return self._driver.counters()

    def close(self):
        """See `Backend`."""
        self.memory, self.space = np.zeros(0, np.uint8), None
        self._harness.close()


class ModelBackend:
    """The instruction-set simulator, which has no bus: its counters are 0, and its memory must be without errors.

    With ``schedule_seed`` its engines take turns at random, see `lepton_verif.model.iss.Iss`; ``page_bytes`` as for the
    RTL.
    """

    def __init__(
        self, config: NpuConfig, memory_bytes: int, *, base: int = 0, timing: Memory | None = None,
        schedule_seed: int | None = None, page_bytes: int | None = None,
    ):  # fmt: skip
        from lepton_verif.model.iss import Iss

        self.config = config
        self.timing = timing or Memory()
        memory = np.zeros(_with_tables(memory_bytes, page_bytes), np.uint8)
        self.memory, self.space = _mapped(memory, base, memory_bytes, page_bytes)
        self.base = base if self.space is None else self.space.base
        self._iss = Iss(config, memory, base=base, schedule_seed=schedule_seed)
        self._iss.translate(None if self.space is None else self.space.root)
        self._iss.start(self.base, RING_LOG2)

    @property
    def timing(self) -> Memory:
        """See `Backend`."""
        return self._timing

    @timing.setter
    def timing(self, value: Memory):
        if value.errors:
            raise InputError("memory must be without errors for the backend model, which has no bus")
        self._timing = value

    def run(self, records: bytes):
        """See `Backend`."""
        iss = self._iss
        _put(self.memory, iss.tail, records)
        iss.doorbell(iss.tail + len(records) // RECORD_BYTES)
        iss.irq = False
        fault = iss.run()
        if fault is not None:
            raise CoreFaultError(Fault(FaultCause(fault.cause), fault.engine, fault.index, fault.address))

    def recover(self):
        """See `Backend`."""
        self._iss.soft_reset()

    def remap(self):
        """As of `RtlBackend`."""
        if self.space is not None:
            self.space.write()
            self._iss.invalidate()

    def counters(self) -> dict[str, int]:
        """See `Backend`."""
        return dict.fromkeys(COUNTERS, 0)

    def close(self):
        """See `Backend`."""
        self.memory = np.zeros(0, np.uint8)


def open_backend(
    kind: str, config: NpuConfig, *, memory_bytes: int = 1 << 27, base: int = 0, timing: Memory | None = None,
    page_bytes: int | None = None,
) -> Backend:  # fmt: skip
    """The backend of a name.

    Raises
    ------
    ValueError
        For an unknown name; the message lists them.
    InputError
        For a memory with errors and the backend "model".
    """
    if kind == "rtl":
        return RtlBackend(config, memory_bytes, base=base, timing=timing, page_bytes=page_bytes)
    if kind == "model":
        return ModelBackend(config, memory_bytes, base=base, timing=timing, page_bytes=page_bytes)
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {kind!r}")
