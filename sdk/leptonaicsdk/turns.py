"""Jobs side by side on one core, in simulated time: it goes on only while all of them wait for the core.

Each job is a function in a thread of its own. One thread runs at a time, until it waits for its context or has ended;
when all wait, the core runs until a context has something to say. So the cycles of every job are the same in every
run, and what the host computes in between takes none.
"""

import threading
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import LeptonError, StateError

__all__ = ["Clock", "ContextKilledError", "JobsDone", "Turns"]


class ContextKilledError(LeptonError, RuntimeError):
    """What a job gets that waits for a context when that is killed."""


class Clock(Protocol):
    """A core whose time goes on when it is told to."""

    @property
    def cycle(self) -> int:
        """Clock cycles so far."""

    def advance(self, contexts: Set[int], until: int | None) -> Set[int]:
        """Go on until one of ``contexts`` raises its interrupt, or to cycle ``until``; returns those that did."""


@dataclass(frozen=True)
class JobsDone:
    """What jobs returned, and how long they took.

    Attributes
    ----------
    results : tuple
        What each function returned.
    cycles : tuple of int
        Of each job, from the common start to its end.
    total : int
        To the end of the last one.
    """

    results: tuple[Any, ...]
    cycles: tuple[int, ...]
    total: int


class _Job(threading.Thread):
    """One job; it runs while `go` waits for it."""

    def __init__(self, turns: "Turns", number: int, function: Callable[[], Any]):
        super().__init__(name=f"job {number} of a core", daemon=True)
        self.turns, self._function = turns, function
        self.context: int | None = None  # what it waits for
        self.until: int | None = None
        self.thrown: BaseException | None = None  # what its wait ends with
        self.woken_at = 0
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended_at: int | None = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)

    def run(self):
        self._turn.acquire()
        try:
            if self.thrown is not None:
                raise self.thrown
            self.result = self._function()
        except BaseException as error:  # handed on by `Turns.run`
            self.error = error
        self.ended_at = self.turns.clock.cycle
        self._back.release()

    def go(self):
        """Let it run until it waits or ends; an interrupt from the keyboard is raised only then."""
        self.context = self.until = None
        self._turn.release()
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                self._back.acquire()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def wait(self, context: int | None, until: int | None) -> int:
        """In its own thread: let others run until there is what it waits for; returns the cycle."""
        self.context, self.until = context, until
        self._back.release()
        self._turn.acquire()
        thrown, self.thrown = self.thrown, None
        if thrown is not None:
            raise thrown
        return self.woken_at


class Turns:
    """Who runs when: the jobs of `run`, or, while there are none, whoever calls.

    Parameters
    ----------
    clock : Clock
    """

    def __init__(self, clock: Clock):
        self.clock = clock
        self._jobs: list[_Job] = []

    def _current(self) -> _Job | None:
        """The job that calls, if there are jobs.

        Raises
        ------
        StateError
            If there are jobs, and the caller is none of them.
        """
        thread = threading.current_thread()
        if isinstance(thread, _Job) and thread.turns is self:
            return thread
        if self._jobs:
            raise StateError(
                "the core is running jobs; what else is to use it must be one of them: run() takes several"
            )
        return None

    def check(self):
        """Refuse a caller who is not a job while there are jobs.

        Raises
        ------
        StateError
        """
        self._current()

    def wait(self, context: int) -> int:
        """Wait for the interrupt of ``context``; returns the cycle of it.

        Raises
        ------
        ContextKilledError
            If another job kills the context.
        StateError
            If another job waits for it already, or the caller is none of the jobs.
        """
        job = self._current()
        if job is None:
            while not self.clock.advance({context}, None):
                pass
            return self.clock.cycle
        if any(other.context == context for other in self._jobs if other is not job):
            raise StateError(f"context {context} runs a program of another job")
        return job.wait(context, None)

    def pause(self, cycles: int):
        """Wait for so many cycles; others go on."""
        until, job = self.clock.cycle + cycles, self._current()
        if job is not None:
            job.wait(None, until)
            return
        while self.clock.cycle < until:
            self.clock.advance(frozenset(), until)

    def throw(self, context: int, error: BaseException):
        """End the wait of the job that waits for ``context``, if one does, with an exception."""
        for job in self._jobs:
            if job.context == context:
                job.context, job.thrown = None, error

    def run(self, *functions: Callable[[], Any]) -> JobsDone:
        """Run jobs to the end of all.

        Raises
        ------
        StateError
            If jobs are running already.
        BaseException
            What a job raises, when the others have ended; an ExceptionGroup if several do. An interrupt from the
            keyboard, or an error of the simulation, ends the wait of every job.
        """
        if self._jobs:
            raise StateError("the core is running jobs already; run() takes several at once")
        start = self.clock.cycle
        self._jobs = jobs = [_Job(self, number, function) for number, function in enumerate(functions)]
        try:
            for job in jobs:
                job.start()
            self._conduct(jobs)
        finally:
            self._jobs = []
        errors = [job.error for job in jobs if job.error is not None]
        if len(errors) > 1:
            raise BaseExceptionGroup("several jobs failed", errors)
        if errors:
            raise errors[0]
        ends = tuple((job.ended_at or start) - start for job in jobs)
        return JobsDone(tuple(job.result for job in jobs), ends, max(ends, default=0))

    def _conduct(self, jobs: list[_Job]):
        ready = jobs
        try:
            while ready:
                for job in ready:
                    job.go()
                ready = self._next([job for job in jobs if job.ended_at is None])
        except BaseException as error:
            for job in jobs:
                while job.ended_at is None:
                    job.thrown = error
                    job.go()
            raise

    def _next(self, waiting: list[_Job]) -> list[_Job]:
        """Of the jobs that wait, those that have what they wait for; empty if none waits."""
        ready: list[_Job] = []
        while waiting and not ready:
            ready = [job for job in waiting if job.thrown is not None]
            if not ready:
                contexts = {job.context for job in waiting if job.context is not None}
                until = min((job.until for job in waiting if job.until is not None), default=None)
                found, now = self.clock.advance(contexts, until), self.clock.cycle
                ready = [job for job in waiting if job.context in found or (job.until is not None and now >= job.until)]
                for job in ready:
                    job.woken_at = now
        return ready
