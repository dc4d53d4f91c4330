"""What runs a device's programs: the RTL in the compiled harness, or the instruction-set simulator."""

import os
from typing import Protocol

import numpy as np
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .context import RING_LOG2
from .errors import InputError
from .memory import Memory
from .model import ModelBackend
from .rtl import RtlBackend

__all__ = ["BACKENDS", "RING_LOG2", "Backend", "ModelBackend", "RtlBackend", "chosen_kind", "open_backend"]

BACKENDS = ("rtl", "model")
VARIABLE = "LEPTON_BACKEND"


class Backend(Protocol):
    """A core with its memory, whose first bytes are the ring.

    Attributes
    ----------
    config : NpuConfig
    memory : numpy.ndarray
        uint8, from byte address ``base`` on, which is virtual if the backend has an address space.
    timing : Memory
        How the memory answers, or would if the backend had any timing.
    """

    config: NpuConfig
    memory: NDArray[np.uint8]
    base: int
    timing: Memory

    def run(self, records: bytes):
        """Run records, of which the last is an IRQ, to their end.

        Raises
        ------
        CoreFaultError
            If the core stops with a fault; `recover` makes it ready again.
        """

    def recover(self):
        """Reset the core; memories stay."""

    def counters(self) -> dict[str, int]:
        """The core's counters since the start."""

    def close(self):
        """Free everything."""


def chosen_kind(name: str | None) -> str:
    """The backend of a name; None is what the environment variable LEPTON_BACKEND names, or "rtl".

    Raises
    ------
    InputError
        For an unknown one; the message lists them.
    """
    kind = os.environ.get(VARIABLE) or "rtl" if name is None else name
    if kind not in BACKENDS:
        raise InputError(f"backend must be one of {', '.join(BACKENDS)}, not {kind!r}")
    return kind


def open_backend(
    kind: str, config: NpuConfig, *, memory_bytes: int = 1 << 27, base: int = 0, timing: Memory | None = None,
    page_bytes: int | None = None,
) -> Backend:  # fmt: skip
    """The backend of a name.

    Raises
    ------
    ValueError
        For an unknown name; the message lists them.
    InputError
        For a memory with errors and the backend "model".
    """
    if kind == "rtl":
        return RtlBackend(config, memory_bytes, base=base, timing=timing, page_bytes=page_bytes)
    if kind == "model":
        return ModelBackend(config, memory_bytes, base=base, timing=timing, page_bytes=page_bytes)
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {kind!r}")
