"""``make bench``: utilisation of the array, cycles of the headline network's products, training and inference, speed.

All cycles are the core's own counters or the simulation's clock; only the last rows have to do with this machine.
Results go to the terminal, to ``build/bench/results.json`` and to ``build/bench/results.md``.
"""

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from lepton_npu.spec.config import NpuConfig
from lepton_sim.core import core_library, preset, run_job
from lepton_sim.data import digits
from lepton_sim.harness import Harness
from lepton_sim.main_job import make_job
from leptonaicsdk.network import Adam
from rich.console import Console
from rich.table import Table

from .training import adam_cycles, batch_inference, single_image, training_step_cycles
from .translation import dma_rates, step_ratios
from .two_jobs import BATCH, IMAGES, STEPS, two_jobs
from .utilisation import measure, square_product, training_products

__all__ = ["main"]

BUILD = Path(__file__).resolve().parents[1] / "build" / "bench"
UTILISATION_GOAL = 0.996
TRAINING_GOAL = 26_100
STEP_GOAL, ADAM_GOAL, BATCH_GOAL, SINGLE_GOAL = 77_000, 10, 260, 3_500
DMA_GOAL = 0.95
PLAN_GOAL = 0.15
TWO_JOBS_GOAL = 1.0
TRANSLATION_GOALS = {4096: 0.02, 1 << 21: 0.005}


@dataclass(frozen=True)
class Row:
    """One measured figure; ``met`` is None where there is no goal."""

    what: str
    value: float
    text: str
    goal: str = ""
    met: bool | None = None


def utilisation_row(size: int, side: int) -> Row:
    """One square product on an otherwise default core."""
    config = NpuConfig(side=side, lanes=side)
    done = measure(config, square_product(config, size))
    value = done.utilisation
    return Row(
        f"utilisation, {size} x {size} x {size}, T = {side}", value, f"{value:.2%} ({done.cycles} cycles)",
        f">= {UTILISATION_GOAL:.1%}", value >= UTILISATION_GOAL,
    )  # fmt: skip


def training_row(config: NpuConfig) -> Row:
    """The five products of a training step at batch 64."""
    done = measure(config, training_products(config))
    bound = done.macs / config.side**2
    return Row(
        f"five products of a training step of 784-64-10, batch 64, T = {config.side}", done.cycles,
        f"{done.cycles} cycles (bound {bound:.0f}, with ragged tiles {done.tiled})",
        f"<= {TRAINING_GOAL}" if config.side == 16 else "", done.cycles <= TRAINING_GOAL if config.side == 16 else None,
    )  # fmt: skip


def inference_rows(config: NpuConfig, images: int = 256) -> list[Row]:
    """The headline network at precision 8, memory of latency 20 without stalls."""
    job = make_job(config, digits().test_images[:images], 8).job
    with Harness(core_library(config), job.memory.size, base=job.base) as harness:
        run = run_job(harness, job)
    assert run.fault is None, run.fault
    job.check(run.memory)
    each = run.cycles / images
    name = f"inference of 784-64-10, precision 8, {images} images"
    rows = [Row(f"{name}, weights' load included", each, f"{each:.0f} cycles an image")]
    for engine in ("LOAD", "STORE", "QUANT", "MATMUL", "VECTOR"):
        busy = run.counters[f"{engine}_BUSY"] / run.cycles
        rows.append(Row(f"{name}: {engine} busy", busy, f"{busy:.0%} of {run.cycles} cycles"))
    return rows


def speed_rows(config: NpuConfig) -> list[Row]:
    """The five products again and again: Verilator's speed with Python asleep."""
    done = measure(config, training_products(config), repeat=12)
    cycles = done.simulated_cycles / done.seconds
    macs = done.macs / done.seconds
    return [
        Row("simulated cycles a second", cycles, f"{cycles:,.0f}"),
        Row("simulated multiply-accumulates a second", macs, f"{macs:,.0f}"),
    ]


def training_rows() -> list[Row]:
    """Whole training steps and inference of the headline network with its state on the chip (preset ``train``)."""
    config, rows = preset("train"), []
    for batch, goal in ((32, None), (128, STEP_GOAL)):
        done = training_step_cycles(config, batch, Adam())
        busy = ", ".join(f"{name} {cycles:,.0f}" for name, cycles in done.busy.items())
        what = f"training step of 784-64-10 with Adam, batch {batch}, everything included"
        met = None if goal is None else done.cycles <= goal
        rows.append(Row(what, done.cycles, f"{done.cycles:,.0f} cycles ({busy})", f"<= {goal}" if goal else "", met))
        assert done.planned is not None
        off = abs(done.planned / done.cycles - 1)
        what = f"the same step, batch {batch}, as the printed plan estimates it: off by"
        rows.append(Row(what, off, f"{off:.1%} ({done.planned:,.0f} cycles)", f"<= {PLAN_GOAL:.0%}", off <= PLAN_GOAL))
    for what, value, goal in (
        ("Adam, for each 16 parameters", adam_cycles(config), ADAM_GOAL),
        ("inference of 784-64-10, batches of 128, an image", batch_inference(config).cycles, BATCH_GOAL),
        ("inference of 784-64-10, single images, an image", batch_inference(config, 1).cycles, SINGLE_GOAL),
    ):
        rows.append(Row(what, value, f"{value:,.1f} cycles", f"<= {goal}", value <= goal))
    alone = single_image(config)
    rows.append(Row("inference of one image alone, from the doorbell to the interrupt", alone, f"{alone:,} cycles"))
    return rows


def translation_rows() -> list[Row]:
    """What the MMU costs: the DMA engines' rates with a cold TLB, and a training step of preset ``train``."""
    config, rows = preset("train"), []
    rates = dma_rates(config, 4096)
    for verb, value in (("LOAD", rates.load), ("STORE", rates.store)):
        what = f"{verb} of 64 KiB by pages of 4 KiB, of the bus's bytes a cycle"
        rows.append(Row(what, value, f"{value:.1%}", f">= {DMA_GOAL:.0%}", value >= DMA_GOAL))
    for batch in (32, 128):
        for page_bytes, value in step_ratios(config, batch).items():
            goal = TRANSLATION_GOALS[page_bytes]
            what = f"training step, batch {batch}, by pages of {page_bytes >> 10} KiB: cycles more than without"
            rows.append(Row(what, value, f"{value:.3%}", f"<= {goal:.1%}", value <= goal))
    return rows


def two_job_rows() -> list[Row]:
    """A training and an inference in two contexts of preset ``train``, each in half of the memories."""
    done = two_jobs(preset("train"))
    what = f"{STEPS} training steps of 784-64-10, batch {BATCH}, and inference of {IMAGES} images"
    text = f"{done.together:,} cycles (training ends at {done.shared_training:,}, inference at "
    text += f"{done.shared_inference:,}); alone {done.training:,} and {done.inference:,}"
    return [
        Row(f"{what}, in two contexts at once", done.together, text),
        Row(
            f"{what}, at once over one after the other", done.ratio, f"{done.ratio:.3f}", f"< {TWO_JOBS_GOAL}",
            done.ratio < TWO_JOBS_GOAL,
        ),
    ]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``make bench``; returns 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--preset", default="default", help="of all but the first row (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        config = preset(options.preset)
    except ValueError as error:
        parser.error(str(error))
    console = Console()
    rows: list[Row] = []
    with console.status("measuring (the first run builds the simulations)"):
        rows.append(utilisation_row(96, 8))
        if config.side >= 16:
            rows += [training_row(config), *speed_rows(config)]
        rows += inference_rows(config)
        rows += training_rows()
        rows += translation_rows()
        rows += two_job_rows()

    table = Table("figure", "measured", "goal", title=f"Lepton NPU, preset {options.preset}")
    lines = ["| figure | measured | goal |", "| --- | --- | --- |"]
    for row in rows:
        goal = row.goal + {True: " met", False: " MISSED", None: ""}[row.met]
        table.add_row(row.what, row.text, goal)
        lines.append(f"| {row.what} | {row.text} | {goal} |")
    console.print(table)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "results.md").write_text("\n".join(lines) + "\n")
    result = {"preset": options.preset, "machine": platform.processor() or platform.machine()}
    result["figures"] = [{"what": row.what, "value": row.value, "text": row.text, "met": row.met} for row in rows]
    (BUILD / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    return 1 if any(row.met is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
