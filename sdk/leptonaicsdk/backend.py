"""What runs a device's programs: the RTL in the compiled harness, or the instruction-set simulator."""

from typing import Protocol

import numpy as np
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from numpy.typing import NDArray

from .driver import COUNTERS, CoreFaultError, Driver, Fault

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
        uint8, from byte address ``base`` on.
    """

    config: NpuConfig
    memory: NDArray[np.uint8]
    base: int

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


class RtlBackend:
    """The generated Verilog under Verilator, with a memory of ``latency`` cycles; built at first use, then cached.

    Attributes
    ----------
    last_cycles : int
        Clock cycles of the last `run`, from the doorbell's acceptance to the interrupt.
    """

    last_cycles = 0

    def __init__(self, config: NpuConfig, memory_bytes: int, *, base: int = 0, latency: int = 30):
        from lepton_sim.core import core_library
        from lepton_sim.harness import Harness

        self.config, self.base = config, base
        self._harness = Harness(core_library(config), memory_bytes, base=base)
        self._harness.configure(latency=latency)
        self.memory = self._harness.memory
        self._driver = Driver(self._harness)
        self._tail = 0
        self._driver.start(base, RING_LOG2)
        self._driver.clear_counters()

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

    def counters(self) -> dict[str, int]:
        """See `Backend`."""
        return self._driver.counters()

    def close(self):
        """See `Backend`."""
        self.memory = np.zeros(0, np.uint8)
        self._harness.close()


class ModelBackend:
    """The instruction-set simulator, which has no timing: its counters are 0.

    With ``schedule_seed`` its engines take turns at random, see `lepton_verif.model.iss.Iss`.
    """

    def __init__(self, config: NpuConfig, memory_bytes: int, *, base: int = 0, schedule_seed: int | None = None):
        from lepton_verif.model.iss import Iss

        self.config, self.base = config, base
        self.memory = np.zeros(memory_bytes, np.uint8)
        self._iss = Iss(config, self.memory, base=base, schedule_seed=schedule_seed)
        self._iss.start(base, RING_LOG2)

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

    def counters(self) -> dict[str, int]:
        """See `Backend`."""
        return dict.fromkeys(COUNTERS, 0)

    def close(self):
        """See `Backend`."""
        self.memory = np.zeros(0, np.uint8)


def open_backend(kind: str, config: NpuConfig, *, memory_bytes: int = 1 << 27, base: int = 0) -> Backend:
    """The backend of a name.

    Raises
    ------
    ValueError
        For an unknown name; the message lists them.
    """
    if kind == "rtl":
        return RtlBackend(config, memory_bytes, base=base)
    if kind == "model":
        return ModelBackend(config, memory_bytes, base=base)
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {kind!r}")
