"""What the simulated core holds, and how an engine says that a command cannot go on."""

from typing import TYPE_CHECKING

import numpy as np
from lepton_npu.spec.commands import SEED_AT_RESET, FaultCause
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .iss_space import AddressSpace

__all__ = ["CoreState", "EngineFaultError", "byte_view"]


class EngineFaultError(Exception):
    """A command stopped: ``cause``, and the byte, local or tile-row ``address`` (0 where there is none)."""

    def __init__(self, cause: FaultCause, address: int = 0):
        super().__init__(f"{cause.name} at 0x{address & (1 << 64) - 1:x}")
        self.cause = cause
        self.address = address & (1 << 64) - 1


def byte_view(memory: bytearray | NDArray) -> NDArray[np.uint8]:
    """Memory as a flat, writable array of bytes that shares its storage."""
    if isinstance(memory, np.ndarray):
        view = memory.reshape(-1).view(np.uint8)
        if not np.shares_memory(view, memory) and memory.size:
            raise ValueError("memory must be contiguous")
    else:
        view = np.frombuffer(memory, np.uint8)
    if not view.flags.writeable:
        raise ValueError("memory must be writable: a bytearray or a uint8 array")
    return view


class CoreState:
    """Memories of a core and the host memory it is connected to.

    Parameters
    ----------
    config : NpuConfig
    memory : numpy.ndarray
        Host memory, uint8; accesses outside it are bus errors.
    base : int
        Byte address of ``memory[0]``.

    Attributes
    ----------
    local : (ACC_SPACE + acc_rows, T) uint32
        Every local row by its address. Rows from ``vmem_rows`` to ACC_SPACE do not exist, and are never accessed.
    vmem, acc : views of ``local``
        Vector memory and accumulators.
    tiles : (tiles, T, T) int8
    exponents : (tiles,) uint8
    space : AddressSpace or None
        What addresses of commands and ring mean; None: they are physical.
    generator : int
        State of the generator of stochastic rounding.
    """

    def __init__(self, config: NpuConfig, memory: NDArray[np.uint8], base: int = 0):
        self.config = config
        self.memory = memory
        self.base = base
        side = config.side
        self.local = np.zeros((ACC_SPACE + config.acc_rows, side), np.uint32)
        self.vmem = self.local[: config.vmem_rows]
        self.acc = self.local[ACC_SPACE:]
        self.tiles = np.zeros((config.tiles, side, side), np.int8)
        self.exponents = np.zeros(config.tiles, np.uint8)
        self.space: AddressSpace | None = None
        self.generator = SEED_AT_RESET

    def holds(self, address: int, length: int) -> bool:
        """Whether host memory has all of these bytes."""
        return self.base <= address and address + length <= self.base + self.memory.size
