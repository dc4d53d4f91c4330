"""One core that several jobs share: contexts with parts of its memories, and jobs that run side by side."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from lepton_npu.spec.config import PRESETS, NpuConfig

from . import inputs
from .address_space import checked_page_bytes
from .backend import chosen_kind
from .context import Context, with_tables
from .errors import InputError, StateError
from .memory import Memory
from .model import ModelMachine
from .partition import Partition, choose_partition
from .rtl import RtlMachine
from .turns import JobsDone

__all__ = ["Core"]

_KIB = 1024


class Core:
    """A Lepton NPU whose contexts are given to several jobs.

    >>> with Core("train", backend="model") as core:
    ...     trained, used = Device(core.context(0)), Device(core.context(1, vmem_rows=2048))
    ...     core.run(lambda: train(trained), lambda: infer(used))

    Parameters
    ----------
    config : NpuConfig or str
        Or the name of a preset.
    backend : str or None
        "rtl" or "model", as for `Device`.
    memory_bytes : int
        Size of the memory that contexts have parts of; their page tables are beside it.
    memory : Memory
        How it answers.
    page_bytes : int or None
        Each context has an address space of its own with pages of this size: it cannot reach the memory of another.
        None: addresses are physical, and any program can reach everything.

    Attributes
    ----------
    config : NpuConfig
    kind : str
        "rtl" or "model".
    preset : str
        Its name, "" if it is none.
    contexts : dict of int to Context
        Those in use.

    Raises
    ------
    InputError
        For values that are not allowed.
    """

    def __init__(
        self, config: NpuConfig | str = "train", *, backend: str | None = None, memory_bytes: int = 1 << 27,
        memory: Memory | None = None, page_bytes: int | None = 4 * _KIB,
    ):  # fmt: skip
        self.kind = chosen_kind(backend)
        if isinstance(config, str) and config not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, not {config!r}")
        self.preset = config if isinstance(config, str) else ""
        self.config = PRESETS[config] if isinstance(config, str) else config
        self._page_bytes = checked_page_bytes(page_bytes)
        self._unit = page_bytes or 4 * _KIB
        self._share = inputs.whole("memory_bytes", memory_bytes) // self.config.contexts // self._unit * self._unit
        if not self._share:
            raise InputError(
                f"memory_bytes must be at least {self.config.contexts * self._unit}, a page for each context, not "
                f"{memory_bytes}"
            )
        # Each part has its tables behind it, and begins at a page.
        room = memory_bytes + self.config.contexts * (self._room(self._share) - self._share + self._unit)
        machine = {"rtl": RtlMachine, "model": ModelMachine}[self.kind]
        self._machine: RtlMachine | ModelMachine = machine(self.config, room, timing=memory)
        self.contexts: dict[int, Context] = {}
        self._partitions: dict[int, Partition] = {}
        self._parts: dict[int, range] = {}

    def _room(self, size: int) -> int:
        """Bytes that ``size`` bytes take with their tables."""
        return -(-with_tables(size, self._page_bytes) // self._unit) * self._unit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def context(
        self, number: int, *, vmem_rows: int | range | None = None, acc_rows: int | range | None = None,
        tiles: int | range | None = None, memory_bytes: int | None = None, weight: int | None = None,
    ) -> Context:  # fmt: skip
        """Take a context into use: a backend for a `Device` or a `Session`.

        Its memory is zero; its partition is what the context that had it before has left, so `Context.scrub` first.

        Parameters
        ----------
        number : int
            From 0 on.
        vmem_rows, acc_rows, tiles : int or range
            Its part of the memories on the chip: which ones, or how many (a power of two), or an equal share.
        memory_bytes : int
            Its part of the memory; an equal share by default.
        weight : int
            Commands that it may start in a row on an engine for which others wait; by default the register's after
            reset.

        Raises
        ------
        StateError
            If the context is in use, or the core is closed.
        InputError
            For parts that overlap those of another context, or are more than there is.
        """
        if not self._machine.memory.size:
            raise StateError("the core is closed")
        if number not in range(self.config.contexts):
            raise InputError(f"context must be from 0 to {self.config.contexts - 1}, not {number!r}")
        if number in self.contexts:
            raise StateError(f"context {number} is in use: close() it first")
        wanted = {"vmem_rows": vmem_rows, "acc_rows": acc_rows, "tiles": tiles}
        partition = choose_partition(self.config, number, wanted, self._partitions)
        size = self._share if memory_bytes is None else inputs.whole("memory_bytes", memory_bytes)
        if size % self._unit:
            raise InputError(f"memory_bytes must be a multiple of {self._unit}, not {size}")
        part = self._free_memory(number, size)
        memory = self._machine.memory[part.start : part.stop]
        if weight is not None and inputs.whole("weight", weight) > 255:
            raise InputError(f"weight must be at most 255, not {weight}")
        base = self._machine.base + part.start
        context = self._machine.context(
            number, partition, memory, base, size, page_bytes=self._page_bytes, weight=weight
        )  # fmt: skip
        context.on_close = self._take_back
        self.contexts[number], self._partitions[number], self._parts[number] = context, partition, part
        return context

    def _free_memory(self, number: int, size: int) -> range:
        """The first free place for ``size`` bytes and their tables."""
        room, start = self._room(size), 0
        for part in sorted(self._parts.values(), key=lambda part: part.start):
            if start + room <= part.start:
                break
            start = part.stop
        if start + room > self._machine.memory.size:
            raise InputError(f"memory_bytes of context {number} must fit in what others have left, not be {size}")
        return range(start, start + room)

    def _take_back(self, context: Context) -> None:
        """What `Context.close` does first."""
        context.kill()
        number = context.number
        part = self._parts[number]
        self._machine.memory[part.start : part.stop] = 0
        del self.contexts[number], self._partitions[number], self._parts[number]

    def partition(self, number: int) -> Partition:
        """What a context that is in use has of the memories on the chip."""
        return self._partitions[number]

    def run(self, *jobs: Callable[[], Any]) -> JobsDone:
        """Run jobs side by side: functions without arguments, each of which uses contexts that others do not use.

        Simulated time goes on only while all of them wait for the core, so its cycles are the same in every run.

        Returns
        -------
        JobsDone
            What each returned, its cycles, and the cycles of all.

        Raises
        ------
        StateError
            If jobs are running already.
        BaseException
            What a job raises, when the others have ended; an ExceptionGroup if several do. An interrupt from the
            keyboard ends all jobs.
        """
        return self._machine.turns.run(*jobs)

    def pause(self, cycles: int) -> None:
        """Wait for so many cycles of the core: for a job that looks after others."""
        self._machine.turns.pause(inputs.whole("cycles", cycles))

    @property
    def cycle(self) -> int:
        """Clock cycles of the core so far; the model's programs take none."""
        return self._machine.cycle

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        for context in self.contexts.values():
            context.on_close = None
            context.close()
        self.contexts.clear()
        self._partitions.clear()
        self._parts.clear()
        if self._machine.memory.size:
            self._machine.close()
