"""``make hostile``: contexts that do all the wrong things beside contexts whose results must not change."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import NpuConfig
from lepton_verif.job import Job
from lepton_verif.random_program import random_job
from lepton_verif.translated_job import translated
from leptonaicsdk.driver import IRQ_DONE, IRQ_FAULT, Driver
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .core import core_library
from .harness import ErrorRange, Harness, Stalls
from .hostile_context import KINDS, REGION_BYTES, HostileContext
from .side_by_side import CONFIG, equal_share

__all__ = ["Tally", "main", "run_hostile"]

_BASE = 0x0020_0000
_PATIENCE = 400_000  # cycles for one pass of a victim: many times what it takes


class Tally(Counter):
    """Events by kind; ``faults`` has the causes that they led to, ``passes`` the victims' runs, ``cycles`` all."""

    def __init__(self):
        super().__init__()
        self.faults: Counter[str] = Counter()
        self.passes = self.cycles = 0


class _Victim:
    """A context that runs one program again and again, and compares all of its memory each time."""

    def __init__(self, harness: Harness, number: int, job: Job):
        self._harness, self._job, self.driver = harness, job, Driver(harness, number)
        first = job.base - harness.base
        self._memory = harness.memory[first : first + job.memory.size]
        self._number, self._begun = number, 0
        self._begin()

    def _begin(self):
        job, driver = self._job, self.driver
        self._memory[:] = job.memory
        driver.soft_reset(attempts=20_000)
        driver.translate(job.root, asid=self._number + 1)
        driver.start(job.ring, job.ring_log2)
        driver.write("IRQ_ENABLE", 0)
        driver.doorbell(job.records)
        self._begun = self._harness.cycle

    def look(self) -> int:
        """Passes that have ended since the last look: 0 or 1."""
        pending = self.driver.read("IRQ_STATUS")
        if pending & IRQ_FAULT:
            raise AssertionError(f"context {self._number}, {self._job.name}: fault {self.driver.fault}")
        if not pending & IRQ_DONE:
            if self._harness.cycle - self._begun > _PATIENCE:
                raise AssertionError(f"context {self._number}, {self._job.name}: not over after {_PATIENCE}")
            return 0
        if (tag := self.driver.read("TAG")) != self._job.tag:
            raise AssertionError(f"context {self._number}, {self._job.name}: tag 0x{tag:x}, not 0x{self._job.tag:x}")
        self._job.check(self._memory)
        self._begin()
        return 1


def run_hostile(
    events: int, seed: int, config: NpuConfig = CONFIG, *, progress: Callable = lambda numbers: numbers
) -> Tally:
    """``events`` hostile events in half of the contexts, while the others run programs.

    Raises
    ------
    AssertionError
        If a victim's result changes, it has a fault, or it is not over in time; if memory that a hostile context may
        not write has changed; if a reset does not end. The message has the seed and the number of the event.
    HarnessError
        If an AXI rule is broken.
    """
    rng = np.random.default_rng(seed)
    # Equal ones, so that neighbours are hostile.
    shares = [equal_share(config, number, weight=1 + number) for number in range(config.contexts)]
    jobs: dict[int, Job] = {}
    base = _BASE
    for number in range(0, config.contexts, 2):
        job = translated(random_job(shares[number].config(config), rng), rng, physical_base=base)
        job.name = f"program of context {number}"
        jobs[number], base = job, job.base + job.memory.size
    tally = Tally()
    hostile_bases = {number: base + place * REGION_BYTES for place, number in enumerate(range(1, config.contexts, 2))}
    end = base + len(hostile_bases) * REGION_BYTES
    with Harness(core_library(config), end - _BASE, base=_BASE) as harness:
        harness.reset()
        for number, share in enumerate(shares):
            share.give(Driver(harness, number))
        errors: dict[int, list[ErrorRange]] = {}
        hostile = [
            HostileContext(harness, config, number, first, errors, rng) for number, first in hostile_bases.items()
        ]
        victims = [_Victim(harness, number, job) for number, job in jobs.items()]

        def wait():
            harness.run(int(rng.integers(1, 100)))
            for context in hostile:
                context.step()

        number = -1
        try:
            for number in progress(range(events)):
                if number % 50 == 0:
                    harness.configure(
                        latency=int(rng.integers(0, 40)), stalls=Stalls.random(rng) if rng.integers(2) else None,
                        interleave=bool(rng.integers(2)), seed=seed + number,
                    )  # fmt: skip
                while not (free := [context for context in hostile if not context.busy]):
                    wait()
                context = free[number % len(free)]
                kind = KINDS[int(rng.integers(len(KINDS)))]
                fault = context.event(kind)
                tally[kind] += 1
                tally.faults[fault.name] += 1
                tally.passes += sum(victim.look() for victim in victims)
                for context in hostile:
                    context.step()
            while any(context.busy for context in hostile):
                wait()
            for context in hostile:
                context.restart()
        except (AssertionError, RuntimeError, TimeoutError) as error:
            raise AssertionError(f"seed {seed}, event {number}: {error}") from error
        tally.cycles = harness.cycle
    return tally


def table(tally: Tally) -> Table:
    """The counts, for people."""
    shown = Table(
        title=f"{sum(tally.values())} hostile events, {tally.passes} runs of the others, {tally.cycles} cycles"
    )
    shown.add_column("event")
    shown.add_column("count", justify="right")
    for kind in KINDS:
        shown.add_row(kind, str(tally[kind]))
    shown.add_section()
    for cause in FaultCause:
        shown.add_row(f"ended in {cause.name}" if cause else "ended without a fault", str(tally.faults[cause.name]))
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``make hostile``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lepton_sim.hostile", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="default: drawn, and printed")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    print(f"{options.events} events, SEED={seed} repeats them")
    try:
        tally = run_hostile(options.events, seed, progress=lambda numbers: track(numbers, "events"))
    except AssertionError as error:
        print(error)
        return 1
    Console().print(table(tally))
    return 0


if __name__ == "__main__":
    sys.exit(main())
