"""Two jobs on one core: training of the headline network in one context, inference in another, alone and at once."""

from dataclasses import dataclass, replace

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_sim.data import digits
from lepton_sim.mnist import NETWORK, headline_session
from leptonaicsdk.core import Core
from leptonaicsdk.memory import Memory
from leptonaicsdk.network import Adam, Loss
from leptonaicsdk.session import Session
from leptonaicsdk.state import initial_parameters

from .training import LATENCY

__all__ = ["BATCH", "IMAGES", "STEPS", "TwoJobs", "two_jobs"]

BATCH, STEPS = 32, 8
"""Of the training."""
IMAGES = 18 * 128
"""Of the inference, which takes about as long."""


@dataclass(frozen=True)
class TwoJobs:
    """Cycles of the two jobs, alone and at once, in partitions of half of the memories.

    Attributes
    ----------
    training, inference : int
        Alone.
    shared_training, shared_inference : int
        At once: to the end of each.
    """

    training: int
    inference: int
    shared_training: int
    shared_inference: int

    @property
    def together(self) -> int:
        """To the end of both."""
        return max(self.shared_training, self.shared_inference)

    @property
    def ratio(self) -> float:
        """At once over one after the other."""
        return self.together / (self.training + self.inference)


def two_jobs(config: NpuConfig, *, steps: int = STEPS, images: int = IMAGES) -> TwoJobs:
    """Measure both on a core of ``config``, whatever its contexts; each has an address space with pages of 4 KiB.

    Samples are in memory before, and results go to memory; weights and optimizer state are where they fit.
    """
    data = digits()
    x = np.resize(data.train_images, (max(images, steps * BATCH), NETWORK.inputs))
    y = np.resize(data.train_labels, steps * BATCH)
    with Core(replace(config, contexts=2), backend="rtl", memory_bytes=1 << 25, memory=Memory(latency=LATENCY)) as core:
        trainer = headline_session(core.context(0), optimizer=Adam(), batch=BATCH)
        user = Session(
            core.context(1), NETWORK, loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY, optimizer=None, batch=BATCH,
            input_scale=1 / 255,
        )  # fmt: skip
        user.parameters = initial_parameters(NETWORK, [1, 0])

        def train():
            trainer.train(x[: steps * BATCH], y)
            return trainer.raw_state()

        def infer():
            return user.predict(x[:images])

        start = trainer.raw_state()
        alone, used = core.run(train), core.run(infer)
        trainer.load_raw_state(start, 0)
        both = core.run(train, infer)
        same = all(np.array_equal(a, b) for a, b in zip((*alone.results, *used.results), both.results, strict=True))
        if not same:
            raise AssertionError("a job gives other bits when another one runs beside it")
    return TwoJobs(alone.total, used.total, *both.cycles)
