"""Speed of the instruction-set simulator: milliseconds for a training step of 784-64-10, batch 32, with Adam.

``python -m bench.simulator_speed`` prints the processor time of whole steps, and a breakdown by command, for which
every command is run by itself (so that its sum is a little more than a step).
"""

import argparse
import time
from collections import defaultdict

import numpy as np
from lepton_npu.spec.commands import COMMANDS, Opcode, Precision, VectorOp
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_verif.model.iss import Iss
from rich.console import Console
from rich.table import Table

from .training_step import BATCH, TrainingStep, synthetic_digits

__all__ = ["CONFIG", "StepBench", "main"]

CONFIG = NpuConfig(vmem_rows=16384, acc_rows=4096, tiles=1024, queue_depth=16)
EPOCHS, STEPS = 5, 1875
GOAL_MS = 6.4


class StepBench:
    """A training step on a simulator, again and again with new images of a few classes."""

    def __init__(self, *, seed: int = 1, precision: Precision = Precision.P8):
        self._rng = np.random.default_rng(seed)
        self._labels = self._rng.integers(0, 10, 60 * BATCH)
        images = synthetic_digits(self._rng, self._labels.size)
        # A class shows in two rows of pixels, so that training has something to find.
        shown = images.reshape(-1, 28, 28)
        for label in range(10):
            shown[self._labels == label, 4 + 2 * label : 6 + 2 * label, 8:20] = 200
        self._images = images
        self.step = TrainingStep(CONFIG, seed=seed, precision=precision)
        self.iss = Iss(CONFIG, self.step.memory, base=self.step.base)
        self.iss.start(self.step.base, self.step.ring_log2)
        self._advance(self.step.setup)

    def _advance(self, records: int):
        self.iss.doorbell(self.iss.tail + records)
        if (fault := self.iss.run()) is not None:
            raise AssertionError(f"the simulator stopped: {fault}")

    def _new_batch(self):
        chosen = self._rng.integers(0, self._labels.size, BATCH)
        self.step.put_batch(self._images[chosen], self._labels[chosen])
        # The ring is played again from the step's first record on.
        self.iss.soft_reset()
        self.iss.head = self.iss.tail = self.step.setup

    def run(self, steps: int) -> float:
        """Run steps; seconds for each on average, without those for new images."""
        seconds = 0.0
        for _ in range(steps):
            self._new_batch()
            start = time.process_time()
            self._advance(self.step.records)
            seconds += time.process_time() - start
        return seconds / steps

    def hits(self) -> int:
        """Images of the last batch that were classified rightly before its update."""
        return int((self.step.metrics() >= 1).any(axis=1).sum())

    def breakdown(self, steps: int) -> dict[str, tuple[int, float]]:
        """For each kind of command: how many a step has, and their seconds in it, each run by itself."""
        kinds = [self._kind(number) for number in range(self.step.setup, len(self.step.program))]
        seconds: dict[str, float] = defaultdict(float)
        for _ in range(steps):
            self._new_batch()
            for kind in kinds:
                start = time.process_time()
                self._advance(1)
                seconds[kind] += time.process_time() - start
        return {kind: (kinds.count(kind), seconds[kind] / steps) for kind in sorted(seconds)}

    def _kind(self, number: int) -> str:
        record = self.step.memory[number * RECORD_BYTES :][:RECORD_BYTES].tobytes()
        command = COMMANDS[Opcode(record[0])]
        f = command.unpack(record)
        if command.opcode == Opcode.VECTOR:
            return f"VECTOR {VectorOp(f['op']).name}, {f['count0'] * f['count1']} rows"
        if command.opcode == Opcode.MATMUL:
            return f"MATMUL {f['rows']} rows, {f['k_tiles']} x {f['n_tiles']} tiles"
        if command.opcode == Opcode.QUANT:
            return f"QUANT {f['rows']} x {f['cols']}"
        return command.name


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if a step takes longer than the goal."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator_speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help="steps measured (300)")
    parser.add_argument("--warm-up", type=int, default=100, help="steps before (100)")
    parser.add_argument("--precision", type=int, choices=(8, 16, 32), default=8)
    options = parser.parse_args(arguments)
    bench = StepBench(precision=Precision(options.precision // 16))
    bench.run(options.warm_up)
    step = bench.run(options.steps)
    parts = bench.breakdown(max(1, options.steps // 5))

    table = Table("command", "a step", "us each", "ms a step", title="Breakdown, every command by itself")
    for kind, (count, seconds) in sorted(parts.items(), key=lambda item: -item[1][1]):
        table.add_row(kind, str(count), f"{seconds / count * 1e6:.1f}", f"{seconds * 1e3:.3f}")
    total = sum(seconds for _, seconds in parts.values())
    table.add_row("all", str(sum(count for count, _ in parts.values())), "", f"{total * 1e3:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{step * 1e3:.2f} ms a step (goal {GOAL_MS}), {step * STEPS * EPOCHS:.1f} s for {STEPS} x {EPOCHS} steps; "
        f"{bench.hits()} of the last {BATCH} images right"
    )
    return int(step * 1e3 > GOAL_MS)


if __name__ == "__main__":
    raise SystemExit(main())
