"""Loop nests of the commands as arrays of addresses, checked before anything is accessed."""

import numpy as np
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from numpy.typing import NDArray

from .iss_state import EngineFaultError

__all__ = ["as_slice", "check_local", "check_range", "is_local", "nest", "strided_rows"]


def nest(base: int, *loops: tuple[int, int]) -> NDArray[np.int64]:
    """Addresses ``base + sum(i_d * stride_d)`` for loops ``(count, stride)``, outermost first.

    A loop whose stride is 0 has length 1 in the result: it broadcasts, and its rows are read once.
    """
    addresses = np.array(base, np.int64)
    for count, stride in loops:
        steps = np.arange(count if stride else 1, dtype=np.int64) * stride
        addresses = addresses[..., None] + steps
    return addresses


def is_local(config: NpuConfig, addresses: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which addresses name an existing local row."""
    vmem = (addresses >= 0) & (addresses < config.vmem_rows)
    return vmem | ((addresses >= ACC_SPACE) & (addresses < ACC_SPACE + config.acc_rows))


def check_range(addresses: NDArray[np.int64], low: int, high: int):
    """LOCAL_RANGE with the first address that is not in ``low <= address < high``."""
    if addresses.size and (addresses.min() < low or addresses.max() >= high):
        bad = (addresses < low) | (addresses >= high)
        raise EngineFaultError(FaultCause.LOCAL_RANGE, int(addresses[bad][0]))


def check_local(config: NpuConfig, addresses: NDArray[np.int64]):
    """LOCAL_RANGE with the first address that names no local row."""
    good = is_local(config, addresses)
    if not good.all():
        raise EngineFaultError(FaultCause.LOCAL_RANGE, int(addresses[~good][0]))


def as_slice(addresses: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A slice where the flat addresses are consecutive (no copy on reading), else the addresses."""
    flat = addresses.reshape(-1)
    if flat.size and (flat[-1] - flat[0] == flat.size - 1) and (np.diff(flat) == 1).all():
        return slice(int(flat[0]), int(flat[-1]) + 1)
    return flat


def strided_rows(
    local: NDArray[np.uint32], base: int, counts: tuple[int, ...], strides: tuple[int, ...]
) -> NDArray[np.uint32]:
    """Rows ``base + sum(i_d * stride_d)`` of ``local``, as an array (*counts, T) that shares its memory."""
    row = local.strides[0]
    steps = (*(stride * row for stride in strides), local.itemsize)
    return np.ndarray((*counts, local.shape[1]), local.dtype, local, base * row, steps)
