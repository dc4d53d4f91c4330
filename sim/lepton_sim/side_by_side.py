"""Random programs in all contexts of a core at once, each against the simulator of a core of its partition's size."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_verif.job import Job
from lepton_verif.random_program import random_job
from lepton_verif.translated_job import translated
from leptonaicsdk.driver import Driver
from leptonaicsdk.partition import Partition

from .core import core_library
from .harness import Harness, Stalls

__all__ = ["CONFIG", "Share", "equal_share", "random_shares", "run_side_by_side", "run_together"]

CONFIG = replace(PRESETS["tiny"], contexts=4, acc_rows=1024)
"""A small core with four contexts, in which the smallest share has room for a random program."""

_MEMORIES = tuple(field.name for field in fields(Partition))

_LAYOUTS = ((4, 4, 4, 4), (2, 4, 8, 8), (2, 2, 0, 0), (4, 8, 8, 2))
"""Parts of the memories by context, one n-th of them each; 0: the context has nothing to do."""


@dataclass(frozen=True)
class Share(Partition):
    """What a context has of the memories on the chip, and its weight."""

    weight: int

    def give(self, driver: Driver):
        """Set the registers of a context."""
        driver.set_partition(self.vmem_rows, self.acc_rows, self.tiles)
        driver.set_weight(self.weight)


def equal_share(config: NpuConfig, number: int, *, weight: int = 4) -> Share:
    """The part of context ``number``, if all contexts have as much."""
    sizes = {name: getattr(config, name) // config.contexts for name in _MEMORIES}
    return Share(**{name: range(number * size, (number + 1) * size) for name, size in sizes.items()}, weight=weight)


def random_shares(config: NpuConfig, rng: np.random.Generator) -> list[Share | None]:
    """A share for each context, or None: parts of different size in a random order, which do not overlap."""
    layout = list(_LAYOUTS[int(rng.integers(len(_LAYOUTS)))])
    rng.shuffle(layout)
    parts: list[dict[str, range]] = [{} for _ in layout]
    for name in _MEMORIES:
        size = getattr(config, name)
        order = [int(number) for number in rng.permutation(len(layout)) if layout[number]]
        start = 0
        for number in sorted(order, key=lambda number: layout[number]):  # the greatest first: aligned by that
            rows = size // layout[number]
            parts[number][name] = range(start, start + rows)
            start += rows
    return [Share(**part, weight=int(rng.integers(0, 9))) if part else None for part in parts]


def run_together(
    harness: Harness, jobs: dict[int, Job], shares: list[Share | None], rng: np.random.Generator, max_cycles: int
) -> dict[int, int]:
    """Run jobs, by context, side by side; they begin at random times.

    Returns
    -------
    dict of int to int
        By context: clock cycles from the first doorbell to its interrupt.

    Raises
    ------
    AssertionError
        If a context does not end as its job must. What is in memory is the caller's to compare.
    TimeoutError
        If one is not over after ``max_cycles``.
    """
    harness.reset()
    drivers = {number: Driver(harness, number) for number in jobs}
    for number, driver in drivers.items():
        share = shares[number]
        assert share is not None, f"context {number} has a job, but no share"
        share.give(driver)
        driver.translate(jobs[number].root, asid=number + 1)
        driver.start(jobs[number].ring, jobs[number].ring_log2)
    first = harness.cycle
    waiting = list(jobs)
    ended: dict[int, int] = {}
    for number in waiting:
        drivers[number].doorbell(jobs[number].records)
        if rng.random() < 0.5:
            harness.run(int(rng.integers(1, 2000)))
    while len(ended) < len(jobs):
        if not harness.run(max_cycles):
            raise TimeoutError(f"contexts {sorted(set(jobs) - set(ended))}: no interrupt within {max_cycles} cycles")
        pending = drivers[waiting[0]].read("IRQ_CONTEXTS")
        for number in [number for number in jobs if pending >> number & 1]:
            driver, job = drivers[number], jobs[number]
            ended[number] = harness.cycle - first
            driver.acknowledge()
            if (fault := driver.fault) is not None:
                raise AssertionError(f"context {number}, {job.name}: fault {fault}")
            if (tag := driver.read("TAG")) != job.tag:
                raise AssertionError(f"context {number}, {job.name}: tag 0x{tag:x}, expected 0x{job.tag:x}")
            if driver.read("COMMANDS_LO") < job.records:
                raise AssertionError(f"context {number}, {job.name}: counted less than {job.records} commands")
    return ended


def run_side_by_side(
    seeds: Iterable[int], config: NpuConfig = CONFIG, library: Path | None = None, *, max_cycles: int = 5_000_000
) -> tuple[int, int, list[str]]:
    """For each seed: a random program in each of some contexts, in partitions and at times of their own.

    Returns
    -------
    (programs, cycles, failures)
        Programs and cycles in all, and a line for each seed that did not end as the simulators say.
    """
    library = core_library(config) if library is None else library
    programs = cycles = 0
    failures = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        shares = random_shares(config, rng)
        jobs: dict[int, Job] = {}
        base = first = 0x0020_0000
        for number, share in enumerate(shares):
            if share is None:
                continue
            job = random_job(share.config(config), rng)
            job.name = f"program of context {number}, seed {seed}"
            jobs[number] = job = translated(job, rng, physical_base=base)
            base = job.base + job.memory.size
        latency, stalls, interleave = int(rng.integers(0, 60)), Stalls.random(rng), bool(rng.integers(2))
        with Harness(library, base - first, base=first) as harness:
            harness.configure(latency=latency, stalls=stalls, interleave=interleave, seed=seed)
            for job in jobs.values():
                harness.memory[job.base - first : job.base - first + job.memory.size] = job.memory
            try:
                ended = run_together(harness, jobs, shares, rng, max_cycles)
                for job in jobs.values():
                    job.check(harness.memory[job.base - first : job.base - first + job.memory.size])
                if harness.outstanding:
                    raise AssertionError(f"seed {seed}: {harness.outstanding} bus transactions unfinished")
                programs += len(jobs)
                cycles += max(ended.values())
            except (AssertionError, RuntimeError, TimeoutError) as error:
                failures.append(f"seed {seed}: {error}")
    return programs, cycles, failures
