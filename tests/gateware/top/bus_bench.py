"""A core for sweeps over errors and resets: programs are put into memory once, every case is checked to the byte."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lepton_npu.spec.commands import COMMANDS, Engine, FaultCause, Opcode
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_sim.core import core_library
from lepton_sim.harness import BusResponse, ErrorRange, Harness
from leptonaicsdk.driver import RESET, STATUS_RESETTING, Driver

__all__ = ["ERRORS", "RESET_CYCLES", "TAG", "BusBench", "Sweep", "pack", "transfer"]

TAG = 0x600D
ERRORS = (BusResponse.SLVERR, BusResponse.DECERR)

RESET_CYCLES = 40
"""Most cycles that a reset takes once the bus is quiet: 4 of a quiet bus, 16 in which engines are held in reset, and
what the write of CTRL and the reads of STATUS take that see it."""


def pack(opcode: Opcode, **fields: int) -> bytes:
    """A record."""
    return COMMANDS[opcode].pack(**fields)


def transfer(opcode: Opcode, address: int, words: int, **fields: int) -> bytes:
    """A LOAD or STORE; rows of up to 2048 bytes follow one another in memory at multiples of that."""
    shape = {"rows": 1, "stride": 2048, "local": 0, "local_stride": 0} | fields
    return pack(opcode, address=address, words=words, **shape)


@dataclass
class Sweep:
    """What a sweep has found: cases, and the most cycles that a reset took from a quiet bus on, and in all."""

    cases: int = 0
    recovery: int = 0
    reset: int = 0
    causes: set[FaultCause] = field(default_factory=set)

    def __str__(self) -> str:
        return f"{self.cases} cases, a reset takes {self.reset} cycles at most, {self.recovery} behind a quiet bus"


class BusBench:
    """One core and its memory; `image` is what every case begins with.

    Parameters
    ----------
    config : NpuConfig
    size : int
        Bytes of memory.
    base : int
        Its first byte address.
    library : Path, optional
        Another build than that of the core, such as one with a bug.
    """

    def __init__(
        self, config: NpuConfig, size: int, base: int, rng: np.random.Generator, library: Path | None = None
    ):  # fmt: skip
        self.config, self.base = config, base
        self.harness = Harness(library or core_library(config), size, base=base)
        self.driver = Driver(self.harness)
        self.image = rng.integers(0, 256, size, np.uint8)
        self.sweep = Sweep()

    def close(self):
        assert self.harness.outstanding == 0
        self.harness.close()

    def at(self, address: int, size: int) -> slice:
        """Index of bytes at a physical address."""
        return slice(address - self.base, address - self.base + size)

    def put(self, address: int, *records: bytes):
        """Write records into the image, at a physical address."""
        text = np.frombuffer(b"".join(records), np.uint8)
        self.image[self.at(address, text.size)] = text

    def begin(self, ring: int, log2: int, records: int):
        """Memory is the image; ring the doorbell."""
        self.harness.memory[:] = self.image
        self.driver.start(ring, log2)
        self.driver.doorbell(records)

    def read_error(self, address: int, response: BusResponse, *, write: bool = False, after: int = 0, count: int = 0):
        """The beat at a physical address has an error response."""
        last = address + self.config.bus_bytes - 1
        self.harness.inject_errors([ErrorRange(address, last, response, write, after, count)])

    def expect_fault(self, cause: FaultCause, engine: Engine, index: int, address: int, what: object):
        """Run to the interrupt; the fault is this one."""
        assert self.harness.run(100_000), f"{what}: no interrupt"
        fault = self.driver.fault
        found = fault and (fault.cause, fault.engine, fault.index, fault.address)
        assert found == (cause, engine, index, address), f"{what}: {fault}"
        self.sweep.causes.add(cause)

    def expect_tag(self, expected: np.ndarray, what: object):
        """Run to the interrupt of the IRQ command; the memory is as expected."""
        assert self.harness.run(100_000), f"{what}: no interrupt"
        assert self.driver.fault is None, f"{what}: {self.driver.fault}"
        assert self.driver.read("TAG") == TAG, what
        self.same(expected, what)

    def same(self, expected: np.ndarray, what: object):
        if not np.array_equal(self.harness.memory, expected):
            wrong = np.flatnonzero(self.harness.memory != expected)
            raise AssertionError(f"{what}: {wrong.size} bytes differ, first at 0x{self.base + wrong[0]:x}")

    def reset(self, what: object, bound: int | None = None) -> int:
        """A soft reset by the register; its cycles are within the bound, and nothing is left on the bus.

        Parameters
        ----------
        bound : int, optional
            Most cycles from the write of CTRL on; that of a quiet bus always holds.
        """
        harness, driver = self.harness, self.driver
        driver.write("CTRL", RESET)
        start = harness.accepted
        while driver.read("STATUS") & STATUS_RESETTING:
            assert harness.accepted - start < 100_000, f"{what}: the reset does not end"
        taken, quiet = harness.accepted - start, harness.accepted - max(start, harness.quiet_since)
        assert quiet <= RESET_CYCLES, f"{what}: {quiet} cycles after the bus was quiet"
        assert bound is None or taken <= bound, f"{what}: {taken} cycles"
        assert harness.outstanding == 0, what
        assert driver.fault is None, what
        self.sweep.recovery, self.sweep.reset = max(self.sweep.recovery, quiet), max(self.sweep.reset, taken)
        return taken


def ring_log2(records: int) -> int:
    """Of the smallest ring for so many records."""
    return max(1, (records - 1).bit_length())


assert RECORD_BYTES == 64, "addresses of records in the sweeps"
