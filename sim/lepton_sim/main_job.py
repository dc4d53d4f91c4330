"""``make sim``: classifies real digits on the RTL through its AXI ports, and compares the whole memory bit for bit."""

import argparse
import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from leptonaicsdk.mlp import CompiledMlp, Layer, compile_mlp
from rich.console import Console
from rich.table import Table

from .build import build_folder
from .core import core_verilog, preset, run_job
from .data import digits, trained_mlp
from .harness import Harness, Stalls
from .harness.build import build_harness
from .run import run_cocotb

__all__ = ["Stages", "main", "make_job"]

# Icarus simulates some thousand cycles a second, and the tiny core takes some ten thousand for a batch.
DEFAULT_IMAGES = {"verilator": 64, "icarus": 2}
DEFAULT_PRESET = {"verilator": "default", "icarus": "tiny"}
ICARUS_CYCLES = 5_000_000
CLOCK_NS = 10


@dataclass
class Stages:
    """Seconds of each stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


@dataclass(frozen=True)
class RtlRun:
    """What the RTL left: differing words as text (the first first), cycles, and rows through the array if known."""

    mismatches: list[str]
    cycles: int
    array_rows: int | None
    seconds: float


def make_job(config: NpuConfig, images: np.ndarray, precision: int) -> tuple[CompiledMlp, Job]:
    """The trained network's program for ``images``, and what the instruction-set simulator says it does.

    Raises
    ------
    RuntimeError
        If the simulator ends in a fault.
    """
    layers = [Layer(layer.weights, layer.bias, layer.activation == "relu") for layer in trained_mlp()]
    compiled = compile_mlp(config, layers, images, precision)
    iss = Iss(config, compiled.memory.copy(), base=compiled.base)
    if (fault := iss.run(compiled.ring, compiled.ring_log2, compiled.records)) is not None:
        raise RuntimeError(f"the instruction-set simulator stopped: {fault}")
    job = Job(
        compiled.memory, compiled.base, compiled.ring, compiled.ring_log2, compiled.records, iss.memory, tag=iss.tag,
        name="digits",
    )  # fmt: skip
    return compiled, job


def run_rtl(options: argparse.Namespace, config: NpuConfig, job: Job, stages: Stages) -> RtlRun:
    """Generate, build and run the core: the one place where RTL is simulated."""
    with stages.time("generate Verilog"):
        verilog = core_verilog(config)
    folder = build_folder() / "results" / f"main_job-{options.sim}-{options.preset}"
    folder.mkdir(parents=True, exist_ok=True)
    if options.sim == "icarus":
        return _run_icarus(options, verilog, job, folder, stages)
    with stages.time("build"):
        library = build_harness(verilog, config, trace=options.waves)
    rng = np.random.default_rng(options.seed)
    stalls = Stalls() if options.seed is None else Stalls.random(rng)
    with stages.time("run RTL"), Harness(library, job.memory.size, base=job.base) as harness:
        if options.waves:
            harness.trace(folder / "waves.vcd")
        run = run_job(harness, job, stalls=stalls, seed=options.seed or 0)
    if run.fault is not None:
        raise RuntimeError(f"the core stopped: {run.fault}")
    mismatches = [str(mismatch) for mismatch in job.mismatches(run.memory)]
    if run.tag != job.tag:
        mismatches.append(f"TAG: expected 0x{job.tag:x}, found 0x{run.tag:x}")
    return RtlRun(mismatches, run.cycles, run.counters["MATMUL_ROWS"], run.seconds)


def _run_icarus(options: argparse.Namespace, verilog: str, job: Job, folder, stages: Stages) -> RtlRun:
    """The same under cocotb, with a memory and a host that share nothing with the harness."""
    path = (folder / "job.npz").resolve()
    job.save(path)
    stall = 0.0 if options.seed is None else 0.2
    results = folder / "cocotb"
    mismatches = []
    with stages.time("build and run RTL"):
        try:
            run_cocotb(
                verilog, "lepton_npu", "lepton_verif.tb.job_tb", sim="icarus", testcase="runs_jobs",
                seed=options.seed or 1, waves=options.waves, results_dir=results,
                params={"jobs": [str(path)], "stall": stall, "cycles": ICARUS_CYCLES},
            )  # fmt: skip
        except AssertionError as error:
            mismatches.append(str(error))
    cycles, seconds = 0, 0.0
    if (results / "results.xml").exists():
        for case in ElementTree.parse(results / "results.xml").getroot().iter("testcase"):
            if case.get("name") == "runs_jobs":
                cycles = round(float(case.get("sim_time_ns", "0")) / CLOCK_NS)
                seconds = float(case.get("time", "0"))
    return RtlRun(mismatches, cycles, None, seconds)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lepton_sim.main_job", description=__doc__)
    parser.add_argument("--sim", choices=sorted(DEFAULT_IMAGES), default="verilator")
    parser.add_argument("--preset", help="configuration (default: default; tiny for Icarus)")
    parser.add_argument("--seed", type=int, help="choose images, and stalls of the memory (default: the first, none)")
    parser.add_argument("--images", type=int, help="images to classify, at most 256 (default: 64; 2 for Icarus)")
    parser.add_argument("--precision", type=int, choices=(8, 16, 32), default=8)
    parser.add_argument("--waves", action="store_true", help="record waveforms")
    options = parser.parse_args(arguments)
    options.preset = options.preset or DEFAULT_PRESET[options.sim]
    options.images = DEFAULT_IMAGES[options.sim] if options.images is None else options.images
    if not 1 <= options.images <= len(digits().test_images):
        parser.error(f"--images must be from 1 to {len(digits().test_images)}, not {options.images}")
    try:
        options.config = preset(options.preset)
    except ValueError as error:
        parser.error(str(error))
    # cocotb's flow reads these from the environment too; an empty one must not count as a choice.
    for name in ("SEED", "WAVES"):
        if not os.environ.get(name):
            os.environ.pop(name, None)
    return options


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``make sim``; returns the exit status: 1 if the RTL does not end as the simulator says."""
    options = _parse(arguments)
    config, sample, stages, console = options.config, digits(), Stages(), Console()
    chosen = np.arange(options.images)
    if options.seed is not None:
        chosen = np.random.default_rng(options.seed).permutation(len(sample.test_images))[: options.images]
    with stages.time("compile and simulate commands"):
        compiled, job = make_job(config, sample.test_images[chosen], options.precision)
    try:
        run = run_rtl(options, config, job, stages)
    except (RuntimeError, TimeoutError) as error:
        console.print(f"[red]FAILED[/red]: {error}", soft_wrap=True)
        return 1

    guesses = compiled.probabilities(job.expected).argmax(axis=1)
    right = int((guesses == sample.test_labels[chosen]).sum())
    rows = [
        ("core", f"preset {options.preset}, {config.side} x {config.side} array, precision {options.precision}"),
        ("simulator", options.sim + (f", seed {options.seed}" if options.seed is not None else "")),
        ("images", str(options.images)),
        ("accuracy", f"{right / options.images:.4f} ({right} of {options.images})"),
        ("commands", str(compiled.records)),
        ("mismatching words", f"{len(run.mismatches)} of {job.memory.size // 4}"),
        ("cycles an image", f"{run.cycles / options.images:.0f} (weights' load included)"),
    ]
    if run.array_rows is not None and run.cycles:
        rows.append(("array utilisation", f"{run.array_rows / run.cycles:.1%}"))
    if run.seconds:
        rows.append(("simulated cycles/s", f"{run.cycles / run.seconds:,.0f}"))
    rows += [(f"seconds: {name}", f"{seconds:.2f}") for name, seconds in stages.seconds.items()]
    table = Table(show_header=False, title="Digits on the RTL, against the instruction-set simulator")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if run.mismatches:
        console.print(f"[red]FAILED[/red]: first difference {run.mismatches[0]}", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
