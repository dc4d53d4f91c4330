"""Inference as a job: what a session has the core do, recorded, to be run from a reset in any simulation."""

from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from leptonaicsdk.backend import RING_LOG2
from leptonaicsdk.memory import Memory
from leptonaicsdk.network import Loss, Network
from leptonaicsdk.session import INFERENCE_BATCH, Session
from leptonaicsdk.state import Pair

__all__ = ["InferenceJob", "inference_job"]

_MEMORY_BYTES = 1 << 22


class _Recorder:
    """A backend that runs nothing: it keeps the records; or, once it has a ``result``, leaves that in its memory."""

    def __init__(self, config: NpuConfig, base: int):
        self.config, self.base, self.timing = config, base, Memory()
        self.memory = np.zeros(_MEMORY_BYTES, np.uint8)
        self.runs: list[bytes] = []
        self.result: np.ndarray | None = None

    def run(self, records: bytes):
        """See `leptonaicsdk.backend.Backend`."""
        if self.result is not None:
            self.memory[:] = self.result
        self.runs.append(records)

    def recover(self):
        """There is nothing to recover."""

    def counters(self) -> dict[str, int]:
        """None: nothing has run."""
        return {}

    def close(self):
        """Nothing is open."""


@dataclass(frozen=True)
class InferenceJob:
    """A job that brings a network's parameters to the chip, and images to their probabilities.

    Attributes
    ----------
    job : Job
    commands : int
        That the core executes, loops unrolled.
    batch : int
        Images that go through the layers together.
    """

    job: Job
    commands: int
    batch: int
    _session: Session
    _padded: np.ndarray
    _count: int

    def probabilities(self, memory: np.ndarray) -> np.ndarray:
        """The results, (images, outputs), in the memory that the job has left behind."""
        recorder = self._session.backend
        assert isinstance(recorder, _Recorder)
        recorder.result = memory
        try:
            return self._session.predict(self._padded)[: self._count]
        finally:
            recorder.result = None


def inference_job(
    config: NpuConfig, network: Network, parameters: list[Pair], images: np.ndarray, *, precision: int = 8,
    input_scale: float = 1 / 255, base: int = 0,
) -> InferenceJob:  # fmt: skip
    """The job for ``images`` (n, inputs) of uint8, and what the instruction-set simulator says it does.

    Raises
    ------
    ValueError
        If the network cannot run on this configuration; the message names the layer. If the images do not fit into
        4 MiB of memory.
    RuntimeError
        If the simulator ends in a fault.
    """
    recorder = _Recorder(config, base)
    loss = Loss.SPARSE_CATEGORICAL_CROSSENTROPY
    session = Session(
        recorder, network, loss=loss, optimizer=None, batch=INFERENCE_BATCH, precision=precision,
        input_scale=input_scale,
    )  # fmt: skip
    batch, count = session.inference_batch, len(images)
    padded = np.pad(images, ((0, -count % batch if count > batch else 0), (0, 0)))  # to whole batches: one loop
    recorder.runs.clear()
    session.parameters = parameters
    session.predict(padded)
    *loading, inference = recorder.runs
    if len(loading) != 1:
        raise ValueError(f"images must fit into {_MEMORY_BYTES} bytes of memory at once, {count} do not")
    # The first run ends with a fence and an interrupt, the second one with the interrupt.
    records = loading[0][:-RECORD_BYTES] + inference
    number = len(records) // RECORD_BYTES
    assert number <= 1 << RING_LOG2
    recorder.memory[: len(records)] = np.frombuffer(records, np.uint8)
    iss = Iss(config, recorder.memory.copy(), base=base)
    if (fault := iss.run(base, RING_LOG2, number)) is not None:
        raise RuntimeError(f"the instruction-set simulator stopped: {fault}")
    job = Job(recorder.memory.copy(), base, base, RING_LOG2, number, iss.memory, tag=iss.tag, name="digits")
    return InferenceJob(job, iss.index, batch, session, padded, count)
