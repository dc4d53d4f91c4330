"""``make mnist``: trains the 784-64-10 network on the whole of MNIST, on the RTL or on its model.

Every epoch's parameters, optimizer state and history are kept in ``build/mnist``; an interrupted run goes on from its
last epoch. While the RTL trains, the instruction-set simulator trains as well, on the other core of the machine: after
every epoch both must hold the same words.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from lepton_npu.spec.config import NpuConfig
from leptonaicsdk.backend import BACKENDS, Backend, open_backend
from leptonaicsdk.datasets import Dataset, DatasetError, mnist
from leptonaicsdk.metrics import Scores, confusion_matrix
from leptonaicsdk.network import Activation, Adam, Dense, Loss, Network, Optimizer, Sgd
from leptonaicsdk.session import Metrics, Session
from leptonaicsdk.state import initial_parameters
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .cache import build_folder
from .core import core_library, preset
from .training_picture import ENGINES, Epoch, draw

__all__ = ["NETWORK", "Run", "epoch_order", "headline_session", "main", "new_session"]

NETWORK = Network(784, (Dense(64, Activation.RELU), Dense(10, Activation.SOFTMAX)))
"""The headline network."""
OPTIMIZERS: dict[str, Optimizer] = {"adam": Adam(), "momentum": Sgd(0.1, 0.9), "sgd": Sgd(0.1)}
_SLICE = 100  # steps between two looks at the progress


@dataclass(frozen=True)
class Run:
    """What a run is: all that its numbers depend on."""

    preset: str = "train"
    epochs: int = 5
    images: int = 60_000
    batch: int = 32
    optimizer: str = "adam"
    precision: int = 8
    seed: int = 1

    @property
    def name(self) -> str:
        """Of its folder; runs that differ in epochs only share their first ones."""
        return (
            f"{self.preset}-{self.optimizer}-batch{self.batch}-precision{self.precision}-images{self.images}-"
            f"seed{self.seed}"
        )


def headline_session(
    backend: Backend, *, optimizer: Optimizer, batch: int, precision: int = 8, seed: int = 1
) -> Session:
    """The headline network for images of uint8 on a backend, with Glorot's first parameters (Keras's default)."""
    session = Session(
        backend, NETWORK, loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY, optimizer=optimizer, batch=batch,
        precision=precision, input_scale=1 / 255,
    )  # fmt: skip
    session.parameters = initial_parameters(NETWORK, [seed, 0])
    return session


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the samples in an epoch (from 1)."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def new_session(backend: str, config: NpuConfig, run: Run) -> Session:
    """The network on a new core, with its first parameters."""
    return headline_session(
        open_backend(backend, config), optimizer=OPTIMIZERS[run.optimizer], batch=run.batch, precision=run.precision,
        seed=run.seed,
    )  # fmt: skip


def train_epoch(session: Session, run: Run, data: Dataset, number: int) -> Iterator[Metrics]:
    """One epoch in slices."""
    order = epoch_order(run.seed, number, len(data.x_train))[: run.images]
    images = data.x_train.reshape(-1, NETWORK.inputs)
    size = _SLICE * run.batch
    for first in range(0, len(order), size):
        part = order[first : first + size]
        yield session.train(images[part], data.y_train[part])


def _model_states(run: Run, number: int, words: np.ndarray, step: int) -> tuple[np.ndarray, int]:
    """What the simulator makes of a state in epoch ``number``; runs in a process of its own."""
    session = new_session("model", preset(run.preset), run)
    session.load_raw_state(words, step)
    for _ in train_epoch(session, run, mnist(), number):
        pass
    return session.raw_state(), session.step


class _Folder:
    """Where a run keeps its epochs."""

    def __init__(self, run: Run, backend: str):
        self.path = build_folder() / "mnist" / f"{backend}-{run.name}"
        self.path.mkdir(parents=True, exist_ok=True)

    def _file(self, number: int) -> Path:
        return self.path / f"epoch-{number:03}.npz"

    def save(self, session: Session, epochs: list[Epoch]):
        """Keep the state after the last of ``epochs``, under its name only once it is whole."""
        file = self._file(epochs[-1].number)
        part = file.with_suffix(".part.npz")
        history = json.dumps([asdict(epoch) for epoch in epochs])
        np.savez(part, words=session.raw_state(), step=session.step, history=np.array(history))
        part.replace(file)

    def load(self, session: Session, at_most: int) -> list[Epoch]:
        """Go on from the last epoch that was kept, of at most ``at_most``; its history."""
        for number in range(at_most, 0, -1):
            if self._file(number).exists():
                with np.load(self._file(number)) as file:
                    session.load_raw_state(file["words"], int(file["step"]))
                    return [Epoch(**entry) for entry in json.loads(str(file["history"]))]
        return []

    def forget(self):
        """Begin anew."""
        for file in self.path.glob("epoch-*.npz"):
            file.unlink()


class MismatchError(RuntimeError):
    """The RTL and the simulator do not hold the same words."""


def _compare(found: np.ndarray, expected: np.ndarray, number: int):
    if (wrong := np.argwhere(found != expected)).size:
        slot, row, lane = (int(i) for i in wrong[0])
        raise MismatchError(
            f"epoch {number}: {len(wrong)} of {found.size} words differ from the simulator's, first slot {slot}, "
            f"row {row}, lane {lane}: expected 0x{expected[slot, row, lane]:08x}, found 0x{found[slot, row, lane]:08x}"
        )


def run_mnist(run: Run, backend: str, *, check: bool, restart: bool, console: Console) -> tuple[list[Epoch], Scores]:
    """Train, test after every epoch, and evaluate at the end.

    Raises
    ------
    DatasetError, MismatchError
    """
    data, config = mnist(), preset(run.preset)
    if backend == "rtl":
        with console.status("generating and building the RTL (cached afterwards)"):
            core_library(config)
    folder = _Folder(run, backend)
    if restart:
        folder.forget()
    session = new_session(backend, config, run)
    epochs = folder.load(session, run.epochs)
    if epochs:
        console.print(f"goes on after epoch {epochs[-1].number}, kept in {folder.path}")
    test = data.x_test.reshape(-1, NETWORK.inputs)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[loss]}"),
    )  # fmt: skip
    with ProcessPoolExecutor(1) as pool, Progress(*columns, console=console) as progress:
        samples = min(run.images, len(data.x_train))
        task = progress.add_task("training", total=run.epochs * samples, loss="", completed=len(epochs) * samples)
        for number in range(len(epochs) + 1, run.epochs + 1):
            twin = None
            if check and backend == "rtl":
                twin = pool.submit(_model_states, run, number, session.raw_state(), session.step)
            before, started, first_step = session.counters, time.perf_counter(), session.step
            total, losses = Metrics(0, 0.0, 0), []
            for metrics in train_epoch(session, run, data, number):
                total += metrics
                losses.append(metrics.loss)
                progress.update(task, advance=metrics.count, loss=f"epoch {number}, loss {metrics.loss:.4f}")
            after, seconds = session.counters, time.perf_counter() - started
            if twin is not None:
                _compare(session.raw_state(), twin.result()[0], number)
            tested = session.evaluate(test, data.y_test)
            spent = {name: after[name] - before[name] for name in after}
            figures = (total.loss, total.accuracy, tested.loss, tested.accuracy)
            epochs.append(Epoch(number, *figures, session.step - first_step, seconds, losses, spent))
            folder.save(session, epochs)
            same = ", every word as in the simulator" if twin is not None else ""
            progress.console.print(
                f"epoch {number}: loss {total.loss:.4f}, accuracy {total.accuracy:.4f}; test loss {tested.loss:.4f}, "
                f"accuracy {tested.accuracy:.4f}; {seconds:.0f} s{same}"
            )
    predicted = session.predict(test).argmax(axis=1)
    return epochs, Scores(confusion_matrix(data.y_test, predicted, NETWORK.sizes[-1]))


def summary(run: Run, backend: str, epochs: list[Epoch], result: Scores) -> Table:
    """The table that stands at the end."""
    table = Table("", "", title="784-64-10 on MNIST", show_header=False)
    steps = sum(epoch.steps for epoch in epochs)
    rows = [
        ("core", f"preset {run.preset}, precision {run.precision}, backend {backend}"),
        (
            "training",
            f"{run.epochs} epochs of {run.images} images, batch {run.batch}, {run.optimizer}, seed {run.seed}",
        ),
        ("test accuracy", f"{result.accuracy:.4f}"),
        ("recall, F1 (macro averages)", f"{result.recall:.4f}, {result.f1:.4f}"),
        ("seconds of training", f"{sum(epoch.seconds for epoch in epochs):.0f}"),
    ]
    cycles = sum(epoch.counters.get("CYCLES", 0) for epoch in epochs)
    if cycles:
        config = preset(run.preset)
        inputs, hidden, classes = NETWORK.sizes
        macs = 2 * inputs * hidden + 3 * hidden * classes  # forward and gradients; deltas of layer 1 only
        busy = {name: sum(epoch.counters[f"{name}_BUSY"] for epoch in epochs) for name in ENGINES}
        rows += [
            ("cycles a step", f"{cycles / steps:,.0f}"),
            *((f"  {name} busy", f"{busy[name] / steps:,.0f} ({busy[name] / cycles:.0%})") for name in ENGINES),
            ("array utilisation", f"{macs * run.images * len(epochs) / config.side**2 / cycles:.1%}"),
            ("simulated cycles/s", f"{cycles / sum(epoch.seconds for epoch in epochs):,.0f}"),
        ]
    for row in rows:
        table.add_row(*row)
    return table


def print_plan(run: Run):
    """What the compiler makes of the run's training step, and of a batch in its tests; nothing runs."""
    session = new_session("model", preset(run.preset), run)
    for training in (True, False):
        print(session.plan(training=training), end="\n\n")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make mnist", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="rtl")
    parser.add_argument("--preset", default="train")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=60_000, help="of the training set, in an epoch")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adam")
    parser.add_argument("--precision", type=int, choices=(8, 16, 32), default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-check", action="store_true", help="do not train the simulator beside the RTL")
    parser.add_argument("--restart", action="store_true", help="forget the epochs that were kept")
    parser.add_argument("--plan", action="store_true", help="print the compiler's plan, and do not train")
    options = parser.parse_args(arguments)
    for name in ("epochs", "images", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"{name} must be 1 or more, not {getattr(options, name)}")
    run = Run(
        options.preset, options.epochs, min(options.images, 60_000), options.batch, options.optimizer,
        options.precision, options.seed,
    )  # fmt: skip
    console = Console()
    try:
        if options.plan:
            print_plan(run)
            return 0
        epochs, result = run_mnist(
            run, options.backend, check=not options.no_check, restart=options.restart, console=console
        )
    except (DatasetError, MismatchError, ValueError) as error:
        print(f"mnist: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmnist: interrupted; the same command goes on after the last whole epoch", file=sys.stderr)
        return 130
    console.print(summary(run, options.backend, epochs, result))
    picture = draw(
        epochs, build_folder() / "mnist" / f"{options.backend}-{run.name}.png", f"{run.optimizer}, batch {run.batch}"
    )
    console.print(f"picture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
