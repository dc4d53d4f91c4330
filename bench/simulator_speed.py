"""Speed of the instruction-set simulator: milliseconds for a training step of 784-64-10, batch 32, with Adam.

``python -m bench.simulator_speed`` trains the network of ``make mnist`` with the SDK on synthetic images, and prints
the processor time of a step and how much of it each kind of command takes. Set OPENBLAS_NUM_THREADS=1 for one core.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from lepton_npu.spec.commands import Opcode, VectorOp
from lepton_npu.spec.config import NpuConfig
from lepton_sim.core import preset
from lepton_sim.mnist import NETWORK, Run, headline_session
from lepton_verif.model.iss import Iss
from leptonaicsdk.backend import RING_LOG2, ModelBackend
from leptonaicsdk.network import Adam
from leptonaicsdk.session import Metrics, Session
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

__all__ = ["TimedBackend", "main", "new_session", "synthetic_digits"]

STEPS = 1875 * 5
GOAL_MS = 6.4
_MEMORY_BYTES = 1 << 25
_SLICE = 100
_ROWS = 30  # kinds of commands that are shown


def synthetic_digits(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images like MNIST's where speed is concerned, (count, 784), and labels.

    The corners are always 0, towards them pixels are set ever more rarely, so that there are decaying averages of every
    magnitude; each class has two rows of its own.
    """
    row, col = np.mgrid[0:28, 0:28]
    distance = np.hypot(row - 13.5, col - 13.5)
    chance = np.where(distance < 16, 0.6 * np.exp(-((distance / 6) ** 2)), 0)
    images = np.where(rng.random((count, 28, 28)) < chance, rng.integers(1, 256, (count, 28, 28)), 0).astype(np.uint8)
    labels = rng.integers(0, NETWORK.sizes[-1], count)
    for label in range(NETWORK.sizes[-1]):
        images[labels == label, 4 + 2 * label : 6 + 2 * label, 8:20] |= np.uint8(64)
    return images.reshape(count, NETWORK.inputs), labels


class TimedBackend(ModelBackend):
    """The simulator with a clock in it.

    Attributes
    ----------
    seconds, commands : dict
        Processor time and number of commands by kind; only counted while ``timed``.
    """

    def __init__(self, config: NpuConfig, memory_bytes: int):
        super().__init__(config, memory_bytes)
        self.timed = False
        self.seconds: dict[str, float] = defaultdict(float)
        self.commands: dict[str, int] = defaultdict(int)
        self._iss = _TimedIss(config, self.memory, self)
        self._iss.start(self.base, RING_LOG2)


class _TimedIss(Iss):
    def __init__(self, config: NpuConfig, memory: NDArray[np.uint8], backend: TimedBackend):
        super().__init__(config, memory)
        self._backend = backend

    def _complete(self, issued):
        if not self._backend.timed:
            super()._complete(issued)
            return
        start = time.process_time()
        super()._complete(issued)
        seconds = time.process_time() - start
        kind = _kind(issued.decoded.opcode, issued.decoded.fields)
        self._backend.seconds[kind] += seconds
        self._backend.commands[kind] += 1


def _kind(opcode: Opcode, f: dict[str, int]) -> str:
    """Command with its size."""
    match opcode:
        case Opcode.VECTOR:
            return f"VECTOR {VectorOp(f['op']).name}, {f['count0'] * f['count1']} rows"
        case Opcode.MATMUL:
            return f"MATMUL {f['rows']} rows, {f['k_tiles']} x {f['n_tiles']} tiles"
        case Opcode.QUANT:
            return f"QUANT {f['rows']} x {f['cols']}"
        case Opcode.LOAD | Opcode.STORE:
            return f"{opcode.name} {f['rows']} x {f['words']} words"
    return Opcode(opcode).name


def new_session(backend: TimedBackend, *, seed: int, precision: int) -> Session:
    """The network with its first parameters."""
    return headline_session(backend, optimizer=Adam(), batch=Run.batch, precision=precision, seed=seed)


def _train(session: Session, rng: np.random.Generator, steps: int) -> Iterator[tuple[Metrics, float]]:
    """Train on new images in slices: their metrics and seconds."""
    for first in range(0, steps, _SLICE):
        images, labels = synthetic_digits(rng, min(_SLICE, steps - first) * session.batch)
        start = time.process_time()
        metrics = session.train(images, labels)
        yield metrics, time.process_time() - start


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if a step takes longer than the goal."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulator_speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=500, help="steps measured (500)")
    parser.add_argument("--warm-up", type=int, default=1000, help="steps before, that bring realistic numbers (1000)")
    parser.add_argument("--precision", type=int, choices=(8, 16, 32), default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    backend = TimedBackend(preset(Run.preset), _MEMORY_BYTES)
    session = new_session(backend, seed=options.seed, precision=options.precision)
    for _ in _train(session, rng, options.warm_up):
        pass
    done = list(_train(session, rng, options.steps))
    seconds = sum(each for _, each in done) / options.steps
    timed = max(options.steps // 5, 1)
    backend.timed = True
    for _ in _train(session, rng, timed):
        pass

    table = Table("command", "a step", "us each", "ms a step", title="Time of the commands, without fetch and queues")
    for kind, spent in sorted(backend.seconds.items(), key=lambda item: -item[1])[:_ROWS]:
        number = backend.commands[kind]
        table.add_row(kind, f"{number / timed:.1f}", f"{spent / number * 1e6:.1f}", f"{spent / timed * 1e3:.3f}")
    number, spent = sum(backend.commands.values()), sum(backend.seconds.values())
    table.add_row("all", f"{number / timed:.1f}", f"{spent / number * 1e6:.1f}", f"{spent / timed * 1e3:.3f}")
    console = Console()
    console.print(table)
    accuracy = sum((metrics for metrics, _ in done), Metrics(0, 0.0, 0)).accuracy
    console.print(
        f"{seconds * 1e3:.2f} ms a step (goal {GOAL_MS}), {seconds * STEPS:.1f} s for {STEPS} steps; "
        f"accuracy {accuracy:.1%} in training"
    )
    return int(seconds * 1e3 > GOAL_MS)


if __name__ == "__main__":
    raise SystemExit(main())
