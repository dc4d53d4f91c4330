"""A job: a memory image with a ring of commands in it, and the memory that must be there at the end."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import RECORD_BYTES

__all__ = ["Job", "Mismatch"]


@dataclass(frozen=True)
class Mismatch:
    """One 32-bit word that differs: byte address, and both values."""

    address: int
    expected: int
    found: int

    def __str__(self) -> str:
        return f"0x{self.address:08x}: expected 0x{self.expected:08x}, found 0x{self.found:08x}"


@dataclass
class Job:
    """A program with its memory, for the simulator, the compiled harness and cocotb alike.

    Attributes
    ----------
    memory : numpy.ndarray
        Initial memory, uint8, from byte address ``base`` on.
    base : int
        Byte address of ``memory[0]``.
    ring : int
        Byte address of the ring.
    ring_log2 : int
        The ring holds ``2**ring_log2`` records.
    records : int
        Records to announce at the doorbell.
    expected : numpy.ndarray
        Memory at the end, from the instruction-set simulator.
    fault : FaultCause
        How the simulator says it ends; NONE for a program that reaches its IRQ.
    tag : int
        TAG register at the end.
    name : str
        For messages.
    root : int or None
        Physical page number of a page table in the memory: the ring's and the program's addresses are virtual.
    """

    memory: np.ndarray
    base: int
    ring: int
    ring_log2: int
    records: int
    expected: np.ndarray
    fault: FaultCause = FaultCause.NONE
    tag: int = 0
    name: str = "job"
    root: int | None = None

    def __post_init__(self):
        if self.memory.dtype != np.uint8 or self.memory.size % 4:
            raise ValueError(
                f"memory must be uint8 of a multiple of 4 bytes, not {self.memory.dtype}, {self.memory.size}"
            )
        if not 1 <= self.ring_log2 <= 16:
            raise ValueError(f"ring_log2 must be from 1 to 16, not {self.ring_log2}")
        if self.records > 1 << self.ring_log2:
            raise ValueError(f"records must be at most the ring's {1 << self.ring_log2}, not {self.records}")
        if self.ring % RECORD_BYTES:
            raise ValueError(f"ring must be a multiple of {RECORD_BYTES}, not 0x{self.ring:x}")

    def mismatches(self, memory: np.ndarray) -> list[Mismatch]:
        """The words of ``memory`` that are not as expected, in the order of their addresses."""
        found, expected = memory.view("<u4"), self.expected.view("<u4")
        return [
            Mismatch(self.base + 4 * int(index), int(expected[index]), int(found[index]))
            for index in np.flatnonzero(found != expected)
        ]

    def check(self, memory: np.ndarray, replay: str = ""):
        """Compare the whole memory.

        Raises
        ------
        AssertionError
            Naming the job, the number of differing words, and the first of them with both values.
        """
        if wrong := self.mismatches(memory):
            hint = f" (replay: {replay})" if replay else ""
            raise AssertionError(
                f"{self.name}: {len(wrong)} of {memory.size // 4} words differ, first {wrong[0]}{hint}"
            )

    def save(self, path: Path):
        """Write to an ``.npz`` file."""
        np.savez_compressed(
            path,
            memory=self.memory,
            expected=self.expected,
            numbers=np.array([self.base, self.ring, self.ring_log2, self.records, self.fault, self.tag], np.uint64),
            root=np.array(-1 if self.root is None else self.root, np.int64),
            name=np.array(self.name),
        )

    @classmethod
    def load(cls, path: Path) -> "Job":
        """Read what `save` wrote."""
        with np.load(path) as file:
            base, ring, ring_log2, records, fault, tag = (int(number) for number in file["numbers"])
            return cls(
                file["memory"],
                base,
                ring,
                ring_log2,
                records,
                file["expected"],
                FaultCause(fault),
                tag,
                str(file["name"]),
                None if int(file["root"]) < 0 else int(file["root"]),
            )
