"""``make soak``: random programs on the compiled harness against the instruction-set simulator, on all cores."""

import argparse
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.page_table import PAGE_SIZES
from lepton_verif.job import Job
from lepton_verif.random_program import random_job
from lepton_verif.translated_job import translated
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .core import CoreRun, core_library, preset, run_job
from .harness import Harness, Stalls

__all__ = ["main", "run_programs"]

BATCH = 20


def run_programs(
    config: NpuConfig, seeds: Iterable[int], library: Path | None = None, *, max_cycles: int = 5_000_000
) -> tuple[int, int, list[str]]:
    """Run one random program per seed under random stalls, in the harness ``library`` (default: that of the core).

    Each runs twice: at physical addresses, and behind a page table. A program that is not over after ``max_cycles``
    hangs.

    Returns
    -------
    (commands, cycles, failures)
        Commands and cycles in all, and a line for every program that did not end as the simulator says. Each line
        names the seed, which alone repeats the program, its data and its stalls.
    """
    if library is None:
        library = core_library(config)
    commands = cycles = 0
    failures = []
    harness: Harness | None = None
    try:
        for seed in seeds:
            rng = np.random.default_rng(seed)
            physical = random_job(config, rng)
            physical.name = f"program of seed {seed}"
            latency, stalls, interleave = int(rng.integers(0, 60)), Stalls.random(rng), bool(rng.integers(2))
            # Small pages more often: they have more borders.
            virtual = translated(physical, rng, page_bytes=PAGE_SIZES[int(rng.integers(4)) == 0])
            for job in (physical, virtual):
                if harness is None or harness.memory.size != job.memory.size or harness.base != job.base:
                    if harness is not None:
                        harness.close()
                    harness = Harness(library, job.memory.size, base=job.base)
                try:
                    run = run_job(
                        harness, job, latency=latency, stalls=stalls, interleave=interleave, seed=seed,
                        max_cycles=max_cycles,
                    )  # fmt: skip
                    _check(job, run)
                    if harness.outstanding:
                        raise AssertionError(f"{job.name}: {harness.outstanding} bus transactions unfinished")
                    commands += run.counters["COMMANDS"]
                    cycles += run.cycles
                except (AssertionError, RuntimeError, TimeoutError) as error:
                    failures.append(str(error))
                    harness.close()
                    harness = None
    finally:
        if harness is not None:
            harness.close()
    return commands, cycles, failures


def _check(job: Job, run: CoreRun):
    """AssertionError unless the run ended as the job must."""
    if run.fault is not None:
        raise AssertionError(f"{job.name}: fault {run.fault}")
    if run.tag != job.tag:
        raise AssertionError(f"{job.name}: tag 0x{run.tag:x}, expected 0x{job.tag:x}")
    job.check(run.memory)


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``make soak``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lepton_sim.soak", description=__doc__)
    parser.add_argument("--sim", choices=("verilator",), default="verilator")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--programs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="first seed (default: drawn, and printed)")
    options = parser.parse_args(arguments)
    config = preset(options.preset)
    first = options.seed if options.seed is not None else int.from_bytes(os.urandom(4), "little")
    print(f"{options.programs} programs on preset {options.preset}, seeds from {first} (SEED={first} repeats them)")
    core_library(config)
    commands = cycles = 0
    failures: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, ProcessPoolExecutor() as pool:
        task = progress.add_task("programs", total=options.programs)
        last = first + options.programs
        futures = {
            pool.submit(run_programs, config, range(start, min(start + BATCH, last))): min(BATCH, last - start)
            for start in range(first, last, BATCH)
        }
        for future in as_completed(futures):
            some_commands, some_cycles, some_failures = future.result()
            commands, cycles = commands + some_commands, cycles + some_cycles
            failures += some_failures
            for failure in some_failures:
                progress.console.print(f"[red]{failure}")
            progress.advance(task, futures[future])
    print(f"{options.programs} programs, {commands} commands, {cycles} cycles: {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
