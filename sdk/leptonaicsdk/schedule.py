"""Commands in program order, with the semaphores that make engines keep that order where it matters."""

from collections.abc import Iterable
from typing import NamedTuple

from lepton_npu.spec.commands import SEMAPHORES, Engine
from lepton_npu.spec.config import NpuConfig

from .program import Program

__all__ = ["Region", "Schedule"]


class Region(NamedTuple):
    """A buffer: ``size`` local rows or tiles from ``start`` on. Regions do not overlap."""

    space: str
    start: int
    size: int


class _Users:
    """The last command that wrote a region, and each engine's last one that read it since."""

    def __init__(self):
        self.writer = -1
        self.readers: dict[Engine, int] = {}


class Schedule:
    """Adds commands to a program and orders those that share a region.

    The result is that of the commands run one after another. Each pair of engines that need an order has one
    semaphore: engines start and finish their commands in order, so the k-th wait on it is answered by the k-th post.
    An order that follows from other waits costs nothing.

    Parameters
    ----------
    config : NpuConfig

    Attributes
    ----------
    program : Program
        The commands so far.
    """

    def __init__(self, config: NpuConfig):
        self.program = Program(config)
        self._users: dict[Region, _Users] = {}
        # For a command: the last command of each engine that is surely done when it starts.
        self._done_before: list[dict[Engine, int]] = []
        self._latest: dict[Engine, int] = {}
        self._semaphores: dict[tuple[Engine, Engine], int] = {}

    def add(self, number: int, *, reads: Iterable[Region] = (), writes: Iterable[Region] = ()):
        """Order command ``number``, which was just added to the program, behind the commands that it depends on.

        Raises
        ------
        ValueError
            If more pairs of engines need an order than there are semaphores.
        """
        engine = self.program.engine(number)
        reads, writes = list(reads), list(writes)
        needs: dict[Engine, int] = {}
        for region in (*reads, *writes):
            self._need(needs, self._users.setdefault(region, _Users()).writer)
        for region in writes:
            for reader in self._users[region].readers.values():
                self._need(needs, reader)
        self._wait(number, engine, needs)
        for region in reads:
            self._users[region].readers[engine] = number
        for region in writes:
            self._users[region].writer = number
            self._users[region].readers.clear()

    def pass_over(self):
        """Account for a command of the decoder, which was just added and orders nothing."""
        self._done_before.append({})

    def _need(self, needs: dict[Engine, int], number: int):
        if number >= 0:
            engine = self.program.engine(number)
            needs[engine] = max(needs.get(engine, -1), number)

    def _wait(self, number: int, engine: Engine, needs: dict[Engine, int]):
        done: dict[Engine, int] = {}
        if engine in self._latest:
            done = dict(self._done_before[self._latest[engine]])
            done[engine] = self._latest[engine]
        # Latest first: what it waited for itself need not be waited for again.
        for source, poster in sorted(needs.items(), key=lambda item: -item[1]):
            if poster <= done.get(source, -1):
                continue
            semaphore = self._semaphores.setdefault((source, engine), len(self._semaphores))
            if semaphore >= SEMAPHORES:
                raise ValueError(
                    f"the program orders {semaphore + 1} pairs of engines; there are {SEMAPHORES} semaphores"
                )
            self.program.add_post(poster, semaphore)
            self.program.add_wait(number, semaphore)
            for other, last in (*self._done_before[poster].items(), (source, poster)):
                done[other] = max(done.get(other, -1), last)
        self._done_before.append(done)
        self._latest[engine] = number
