"""The bit-exact model in the core's place: an instruction-set simulator for each context, on one memory."""

from collections.abc import Set

import numpy as np
from lepton_npu.spec.commands import RESUMABLE
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .context import RING_LOG2, Context, with_tables
from .driver import COUNTERS, Fault
from .errors import InputError
from .memory import Memory
from .partition import Partition
from .turns import Turns

__all__ = ["ModelBackend", "ModelContext", "ModelMachine"]


class ModelMachine:
    """The memory that contexts of the model share. It has no bus, and programs take no time.

    Parameters and attributes are those of `RtlMachine`; ``schedule_seed`` is that of `lepton_verif.model.iss.Iss`.
    """

    def __init__(
        self, config: NpuConfig, memory_bytes: int, *, base: int = 0, timing: Memory | None = None,
        schedule_seed: int | None = None,
    ):  # fmt: skip
        self.config, self.base, self.schedule_seed = config, base, schedule_seed
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.timing = timing or Memory()
        self.turns = Turns(self)
        self.contexts: dict[int, ModelContext] = {}
        self._cycle = 0

    @property
    def cycle(self) -> int:
        """See `Clock`: what jobs have paused for."""
        return self._cycle

    def advance(self, contexts: Set[int], until: int | None) -> Set[int]:
        """See `Clock`: programs run to their end, one after another."""
        for number in sorted(contexts):
            self.contexts[number].work()
        if not contexts and until is not None:
            self._cycle = max(self._cycle, until)
        return contexts

    @property
    def timing(self) -> Memory:
        """See `Context`."""
        return self._timing

    @timing.setter
    def timing(self, value: Memory):
        if value.errors:
            raise InputError("memory must be without errors for the backend model, which has no bus")
        self._timing = value

    def context(
        self, number: int, partition: Partition, memory: NDArray[np.uint8], base: int, size: int, *,
        page_bytes: int | None, weight: int | None,
    ) -> "ModelContext":  # fmt: skip
        """A context that is not in use; ``weight`` has no effect."""
        return ModelContext(self, number, memory, base, size, page_bytes, partition=partition)

    def close(self):
        """Free everything."""
        self.memory = np.zeros(0, np.uint8)


class ModelContext(Context):
    """One context of a `ModelMachine`: parameters as those of `RtlContext`."""

    kind = "model"

    def __init__(
        self, machine: ModelMachine, number: int, memory: NDArray[np.uint8], base: int, size: int,
        page_bytes: int | None, *, partition: Partition | None = None,
    ):  # fmt: skip
        from lepton_verif.model.iss import Iss

        super().__init__(
            number, machine.config, memory, base, size, page_bytes, machine.turns, partition=partition
        )  # fmt: skip
        self._machine = machine
        self._iss = Iss(self.config, machine.memory, base=machine.base, schedule_seed=machine.schedule_seed)
        self._iss.translate(None if self.space is None else self.space.root)
        self._iss.start(self.base, RING_LOG2)
        machine.contexts[number] = self

    def work(self):
        """Run what is in the ring."""
        self._iss.run()

    @property
    def timing(self) -> Memory:
        return self._machine.timing

    @timing.setter
    def timing(self, value: Memory):
        self._machine.timing = value

    def counters(self) -> dict[str, int]:
        """All 0."""
        return dict.fromkeys(COUNTERS, 0)

    def close(self):
        super().close()
        self._machine.contexts.pop(self.number, None)

    def _ring_doorbell(self, tail: int):
        self._iss.doorbell(tail)

    def _acknowledge(self) -> Fault | None:
        self._iss.irq = False
        found = self._iss.fault
        if found is None:
            return None
        asid = 0 if self.space is None else self.number
        return Fault(
            found.cause, found.engine, found.index, found.address, found.engine.access, asid, found.cause in RESUMABLE
        )

    def _resume(self):
        self._iss.resume()

    def _reset(self):
        self._iss.soft_reset()

    def _invalidate(self):
        self._iss.invalidate()


class ModelBackend(ModelContext):
    """Context 0 of a model of its own. It has no bus: its counters are 0, and its memory must be without errors.

    With ``schedule_seed`` its engines take turns at random, see `lepton_verif.model.iss.Iss`; ``page_bytes`` as for the
    RTL.
    """

    def __init__(
        self, config: NpuConfig, memory_bytes: int, *, base: int = 0, timing: Memory | None = None,
        schedule_seed: int | None = None, page_bytes: int | None = None,
    ):  # fmt: skip
        machine = ModelMachine(
            config, with_tables(memory_bytes, page_bytes), base=base, timing=timing, schedule_seed=schedule_seed
        )
        super().__init__(machine, 0, machine.memory, base, memory_bytes, page_bytes)

    def close(self):
        super().close()
        self._machine.close()
