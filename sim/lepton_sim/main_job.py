"""``make sim``: classifies real digits on the RTL through its AXI ports, then trains the network on some, bit for bit.

Under Verilator both jobs run, under Icarus the first one alone. All of the memory is compared with the simulator's.
"""

import argparse
import os
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_verif.job import Job
from rich.console import Console
from rich.table import Table

from .cache import build_folder
from .core import core_verilog, preset, run_job
from .data import digits, trained_mlp
from .harness import Harness, Stalls
from .harness.build import build_harness
from .inference_job import InferenceJob, inference_job
from .mnist import NETWORK
from .run import run_cocotb
from .short_training import TrainingRun, short_training

__all__ = ["Stages", "main", "make_job"]

# Icarus simulates some thousand cycles a second, and the tiny core takes some ten thousand for a batch.
DEFAULT_IMAGES = {"verilator": 64, "icarus": 2}
TRAINING_IMAGES = 960
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
    """What the RTL left.

    Attributes
    ----------
    mismatching : int or None
        Words that differ; None if the simulation ended before they were compared.
    failure : str
        The first difference, or what went wrong; empty if all is as expected.
    cycles : int
    array_rows : int or None
        Rows that went through the array; None if the counter was not read.
    seconds : float
        Of simulation.
    """

    mismatching: int | None
    failure: str
    cycles: int
    array_rows: int | None
    seconds: float
    memory: np.ndarray | None = None  # None where it stays in the simulator


def make_job(config: NpuConfig, images: np.ndarray, precision: int) -> InferenceJob:
    """The trained network's job for ``images``, see `inference_job`."""
    parameters = [(layer.weights.astype(np.float32), layer.bias.astype(np.float32)) for layer in trained_mlp()]
    return inference_job(config, NETWORK, parameters, images, precision=precision)


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
    mismatches = job.mismatches(run.memory)
    failure = f"first difference {mismatches[0]}" if mismatches else ""
    if run.tag != job.tag:
        failure = failure or f"TAG: expected 0x{job.tag:x}, found 0x{run.tag:x}"
    return RtlRun(len(mismatches), failure, run.cycles, run.counters["MATMUL_ROWS"], run.seconds, run.memory)


def _run_icarus(options: argparse.Namespace, verilog: str, job: Job, folder: Path, stages: Stages) -> RtlRun:
    """The same under cocotb, with a memory and a host that share nothing with the harness."""
    path = (folder / "job.npz").resolve()
    job.save(path)
    stall = 0.0 if options.seed is None else 0.2
    results = folder / "cocotb"
    failure = ""
    with stages.time("build and run RTL"):
        try:
            run_cocotb(
                verilog, "lepton_npu", "lepton_verif.tb.job_tb", sim="icarus", testcase="runs_jobs",
                seed=options.seed or 1, waves=options.waves, results_dir=results,
                params={"jobs": [str(path)], "stall": stall, "cycles": ICARUS_CYCLES},
            )  # fmt: skip
        except AssertionError as error:
            failure = str(error)
    cycles, seconds = _cocotb_time(results / "results.xml")
    counted = re.search(r"(\d+) of \d+ words differ", failure)
    mismatching = int(counted[1]) if counted else None if failure else 0
    return RtlRun(mismatching, failure, cycles, None, seconds)


def _cocotb_time(path: Path) -> tuple[int, float]:
    """Cycles (reset and register accesses included) and seconds of the testcase in a results file; 0 without one."""
    if not path.exists():
        return 0, 0.0
    root = ElementTree.parse(path).getroot()
    times = [p.get("value", "0") for p in root.iter("property") if p.get("name") == "sim_time_duration"]
    seconds = sum(float(case.get("time", "0")) for case in root.iter("testcase"))
    return round(sum(map(float, times)) / CLOCK_NS), seconds


def run_training(options: argparse.Namespace, config: NpuConfig) -> TrainingRun:
    """The second job."""
    return short_training(config, images=options.train_images, precision=options.precision, seed=options.seed or 1)


def training_rows(run: TrainingRun) -> list[tuple[str, str]]:
    """Its rows of the table."""
    return [
        ("training on the RTL", f"{run.steps} steps of {run.batch} images, Adam"),
        ("loss, first and last quarter", f"{run.loss[0]:.4f}, {run.loss[1]:.4f}"),
        ("accuracy on 256 test images", f"{run.accuracy[0]:.4f} before, {run.accuracy[1]:.4f} after"),
        ("mismatching words", f"{run.mismatching} of {run.words}"),
        ("cycles a step", f"{run.cycles:,.0f}"),
        ("simulated cycles/s", f"{run.cycles * run.steps / run.seconds:,.0f}"),
    ]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lepton_sim.main_job", description=__doc__)
    parser.add_argument("--sim", choices=sorted(DEFAULT_IMAGES), default="verilator")
    parser.add_argument("--preset", help="configuration (default: default; tiny for Icarus)")
    parser.add_argument("--seed", type=int, help="choose images, and stalls of the memory (default: the first, none)")
    parser.add_argument("--images", type=int, help="images to classify, at most 256 (default: 64; 2 for Icarus)")
    parser.add_argument("--precision", type=int, choices=(8, 16, 32), default=8)
    parser.add_argument("--train-images", type=int, default=TRAINING_IMAGES, help="images to train on; 0: none")
    parser.add_argument("--waves", action="store_true", help="record waveforms")
    options = parser.parse_args(arguments)
    options.preset = options.preset or DEFAULT_PRESET[options.sim]
    options.images = DEFAULT_IMAGES[options.sim] if options.images is None else options.images
    if not 1 <= options.images <= len(digits().test_images):
        parser.error(f"--images must be from 1 to {len(digits().test_images)}, not {options.images}")
    if not 0 <= options.train_images <= len(digits().train_images):
        parser.error(f"--train-images must be from 0 to {len(digits().train_images)}, not {options.train_images}")
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
        inference = make_job(config, sample.test_images[chosen], options.precision)
    job = inference.job
    try:
        run = run_rtl(options, config, job, stages)
    except (RuntimeError, TimeoutError) as error:
        console.print("FAILED:", error, style="red", markup=False, soft_wrap=True)
        return 1

    # Under cocotb the memory stays in the simulator, which has compared it with the expected one.
    guesses = inference.probabilities(job.expected if run.memory is None else run.memory).argmax(axis=1)
    right = int((guesses == sample.test_labels[chosen]).sum())
    rows = [
        ("core", f"preset {options.preset}, {config.side} x {config.side} array, precision {options.precision}"),
        ("simulator", options.sim + (f", stalls of seed {options.seed}" if options.seed is not None else "")),
        ("images", str(options.images)),
        ("accuracy", f"{right / options.images:.4f} ({right} of {options.images})"),
        ("commands", f"{inference.commands:,}, of which {job.records} in the ring"),
        ("mismatching words", f"{'unknown' if run.mismatching is None else run.mismatching} of {job.memory.size // 4}"),
    ]
    if run.cycles:
        rows.append(("cycles an image", f"{run.cycles / options.images:.0f} (weights' load included)"))
    if run.array_rows is not None and run.cycles:
        rows.append(("array utilisation", f"{run.array_rows / run.cycles:.1%}"))
    if run.seconds:
        rows.append(("simulated cycles/s", f"{run.cycles / run.seconds:,.0f}"))
    trained = None
    if options.sim == "verilator" and options.train_images and not run.failure:
        try:
            with stages.time("train (simulator and RTL)"):
                trained = run_training(options, config)
        except ValueError as error:
            rows.append(("training", f"not on this preset: {error}"))
    if trained is not None:
        rows += training_rows(trained)
    rows += [(f"seconds: {name}", f"{seconds:.2f}") for name, seconds in stages.seconds.items()]
    table = Table(show_header=False, title="Digits on the RTL, bit for bit against the instruction-set simulator")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    failure = run.failure or (trained.failure if trained else "")
    if failure:
        console.print("FAILED:", failure, style="red", markup=False, soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
