"""A short training of the 784-64-10 network on the carried digits: RTL and simulator, every memory word compared."""

import time
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_verif.job import Mismatch
from leptonaicsdk.backend import Backend, ModelBackend, RtlBackend
from leptonaicsdk.network import Adam
from leptonaicsdk.session import Metrics, Session

from .data import digits
from .mnist import headline_session

__all__ = ["TrainingRun", "compare_memories", "short_training"]

_MEMORY_BYTES = 1 << 23
_BATCHES = (32, 16, 8, 4)


@dataclass(frozen=True)
class TrainingRun:
    """What a short training gave.

    Attributes
    ----------
    images, batch, steps : int
        Training samples, samples of a step, steps.
    loss : tuple of float
        Mean of the first and of the last quarter of the steps.
    accuracy : tuple of float
        On the test samples, before and after.
    mismatching : int
        Words of host memory, and of parameters and optimizer state on the chip, that differ from the simulator's.
    words : int
        Words compared.
    failure : str
        The first difference; empty without one.
    cycles : float
        Of the core, a step; the evaluations are not in it.
    seconds : float
        Of simulating the RTL.
    """

    images: int
    batch: int
    steps: int
    loss: tuple[float, float]
    accuracy: tuple[float, float]
    mismatching: int
    words: int
    failure: str
    cycles: float
    seconds: float


def compare_memories(
    found: list[tuple[str, np.ndarray]], expected: list[tuple[str, np.ndarray]]
) -> tuple[int, int, str]:
    """Differing words, words, and the first difference, of memories of 32-bit words with their names."""
    wrong, words, first = 0, 0, ""
    for (name, mine), (_, theirs) in zip(found, expected, strict=True):
        mine, theirs = mine.reshape(-1), theirs.reshape(-1)
        differing = np.flatnonzero(mine != theirs)
        words += mine.size
        wrong += differing.size
        if differing.size and not first:
            i = differing[0]
            first = f"{name} {Mismatch(4 * int(i), int(theirs[i]), int(mine[i]))}"
    return wrong, words, first


def _session(backend: Backend, precision: int, seed: int) -> Session:
    """The network with the largest batch that fits."""
    for batch in _BATCHES:
        try:
            return headline_session(backend, optimizer=Adam(), batch=batch, precision=precision, seed=seed)
        except ValueError:
            if batch == _BATCHES[-1]:
                raise
    raise AssertionError("unreachable: the last batch returns or raises")


def _train(session: Session, images: int, seed: int) -> tuple[list[Metrics], tuple[float, float], float, int]:
    """Losses of quarters, accuracy before and after, seconds and cycles of the training alone."""
    data = digits()
    order = np.random.default_rng([seed, 1]).permutation(len(data.train_images))[:images]
    before = session.evaluate(data.test_images, data.test_labels)
    quarters, seconds, cycles = [], 0.0, 0
    size = -(-images // (4 * session.batch)) * session.batch
    for first in range(0, images, size):
        part = order[first : first + size]
        started = time.perf_counter()
        quarters.append(session.train(data.train_images[part], data.train_labels[part]))
        seconds += time.perf_counter() - started
        cycles += getattr(session.backend, "last_cycles", 0)
    after = session.evaluate(data.test_images, data.test_labels)
    return quarters, (before.accuracy, after.accuracy), seconds, cycles


def short_training(config: NpuConfig, *, images: int = 960, precision: int = 8, seed: int = 1) -> TrainingRun:
    """Train ``images`` of the carried digits with Adam, on the RTL and on the simulator.

    Raises
    ------
    ValueError
        If the network cannot run on this configuration; the message names the layer.
    """
    memories = []
    for kind in (ModelBackend, RtlBackend):
        backend = kind(config, _MEMORY_BYTES)
        session = _session(backend, precision, seed)
        quarters, accuracy, seconds, cycles = _train(session, images, seed)
        state = session.raw_state()
        memories.append([("memory", backend.memory.view(np.uint32).copy()), ("parameters and state", state)])
        backend.close()
    wrong, words, first = compare_memories(memories[1], memories[0])
    return TrainingRun(
        images, session.batch, session.step, (quarters[0].loss, quarters[-1].loss), accuracy, wrong, words, first,
        cycles / session.step, seconds,
    )  # fmt: skip
