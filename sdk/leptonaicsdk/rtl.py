"""The generated Verilog under Verilator: a core that contexts share, and a context of it."""

from collections.abc import Set

import numpy as np
from lepton_npu.spec.commands import RESUMABLE
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .context import RING_LOG2, Context, with_tables
from .driver import Driver, Fault
from .memory import LAST_BYTE, Memory
from .partition import Partition
from .turns import Turns

__all__ = ["RtlBackend", "RtlContext", "RtlMachine"]

_SLICE = 2_000_000  # cycles between two looks of Python, so that an interrupt from the keyboard is heard
_LOOK, _LOOKS = 64, 1024  # cycles between two looks whether a context with a fault has stopped, and looks


class RtlMachine:
    """One simulated core and its memory; built at first use, then cached.

    Parameters
    ----------
    config : NpuConfig
    memory_bytes : int
    base : int
        Physical address of the memory.
    timing : Memory or None

    Attributes
    ----------
    harness : lepton_sim.harness.Harness
    memory : numpy.ndarray
        uint8, all of it.
    turns : Turns
    contexts : set of int
        Those that are in use.
    """

    def __init__(self, config: NpuConfig, memory_bytes: int, *, base: int = 0, timing: Memory | None = None):
        from lepton_sim.core import core_library
        from lepton_sim.harness import Harness

        self.config, self.base = config, base
        self.harness = Harness(core_library(config), memory_bytes, base=base)
        self.memory = self.harness.memory
        self.timing = timing or Memory()
        self.turns = Turns(self)
        self.contexts: set[int] = set()
        self._driver = Driver(self.harness)

    @property
    def cycle(self) -> int:
        """See `Clock`."""
        return self.harness.cycle

    def advance(self, contexts: Set[int], until: int | None) -> Set[int]:
        """See `Clock`."""
        while True:
            left = _SLICE if until is None else min(until - self.cycle, _SLICE)
            if left <= 0:
                return frozenset()
            if self.harness.run(left):
                found = self._interrupted()
                for number in found - contexts:  # a job that did not wait for its end; until the context is reset
                    Driver(self.harness, number).mask_interrupts()
                if found & contexts:
                    return found & contexts

    def _interrupted(self) -> Set[int]:
        """The contexts whose interrupt is up."""
        if len(self.contexts) == 1:
            return self.contexts
        pending = self._driver.read("IRQ_CONTEXTS")
        return {number for number in range(self.config.contexts) if pending >> number & 1}

    @property
    def timing(self) -> Memory:
        """See `Context`."""
        return self._timing.after(self.harness.error_beats)

    @timing.setter
    def timing(self, value: Memory):
        from lepton_sim.harness import BusResponse, ErrorRange

        self._timing = value
        self.harness.configure(latency=value.latency, bandwidth=value.bandwidth)
        self.harness.inject_errors(
            [
                ErrorRange(
                    error.first, LAST_BYTE if error.last is None else error.last, BusResponse[error.response.upper()],
                    error.access == "write", error.after, error.count or 0,
                )
                for error in value.errors
            ]
        )  # fmt: skip

    def context(
        self, number: int, partition: Partition, memory: NDArray[np.uint8], base: int, size: int, *,
        page_bytes: int | None, weight: int | None,
    ) -> "RtlContext":  # fmt: skip
        """A context that is not in use."""
        return RtlContext(self, number, memory, base, size, page_bytes, partition=partition, weight=weight)

    def close(self):
        """Free everything."""
        self.memory = np.zeros(0, np.uint8)
        self.harness.close()


class RtlContext(Context):
    """One context of an `RtlMachine`; without ``partition`` it has the core's memories as they are.

    Other parameters are those of `Context`.
    """

    kind = "rtl"

    def __init__(
        self, machine: RtlMachine, number: int, memory: NDArray[np.uint8], base: int, size: int,
        page_bytes: int | None, *, partition: Partition | None = None, weight: int | None = None,
    ):  # fmt: skip
        super().__init__(
            number, machine.config, memory, base, size, page_bytes, machine.turns, partition=partition
        )  # fmt: skip
        self._machine, self._harness = machine, machine.harness
        self._driver = driver = Driver(machine.harness, number)
        if partition is not None:
            driver.set_partition(partition.vmem_rows, partition.acc_rows, partition.tiles)
        if weight is not None:
            driver.set_weight(weight)
        driver.translate(None if self.space is None else self.space.root, number)
        if self.space is not None:
            driver.invalidate()  # of what another table said that was here before
        driver.start(self.base, RING_LOG2)
        driver.clear_counters()
        machine.contexts.add(number)

    @property
    def timing(self) -> Memory:
        return self._machine.timing

    @timing.setter
    def timing(self, value: Memory):
        self._machine.timing = value

    def counters(self) -> dict[str, int]:
        return self._driver.counters()

    def close(self):
        super().close()
        self._machine.contexts.discard(self.number)

    def _ring_doorbell(self, tail: int):
        self._driver.doorbell(tail)

    def _acknowledge(self) -> Fault | None:
        self._driver.acknowledge()
        fault = self._driver.fault
        for _ in range(_LOOKS):
            if fault is None or fault.resumable or fault.cause not in RESUMABLE:
                break
            self._turns.pause(_LOOK)  # commands that run are still to end
            fault = self._driver.fault
        return fault

    def _resume(self):
        self._driver.resume()

    def _reset(self):
        self._driver.soft_reset()
        self._driver.start(self.base, RING_LOG2)

    def _invalidate(self):
        self._driver.invalidate()


class RtlBackend(RtlContext):
    """Context 0 of a core of its own, behind a memory of ``timing``.

    With ``page_bytes`` the core has all addresses translated, by pages of that size.
    """

    def __init__(
        self, config: NpuConfig, memory_bytes: int, *, base: int = 0, timing: Memory | None = None,
        page_bytes: int | None = None,
    ):  # fmt: skip
        machine = RtlMachine(config, with_tables(memory_bytes, page_bytes), base=base, timing=timing)
        super().__init__(machine, 0, machine.memory, base, memory_bytes, page_bytes)

    def close(self):
        super().close()
        self._machine.close()
