"""What is where in a device's memory, so that a fault can be told in the words of who trains a network."""

from lepton_npu.spec.commands import FaultCause

from .driver import Fault

__all__ = ["Places"]

_BYTE_ADDRESSES = {
    FaultCause.ADDRESS_RANGE,
    FaultCause.MISALIGNED,
    FaultCause.BUS_READ,
    FaultCause.BUS_WRITE,
    FaultCause.BUS_FETCH,
    FaultCause.PAGE_READ,
    FaultCause.PAGE_WRITE,
    FaultCause.PAGE_FETCH,
    FaultCause.ACCESS_READ,
    FaultCause.ACCESS_WRITE,
    FaultCause.ACCESS_FETCH,
}
"""Causes whose fault has the address of a byte of memory."""


class Places:
    """Names of ranges of bytes; a later one hides an earlier one where they overlap.

    Attributes
    ----------
    ranges : list of (int, int, str)
        First byte, bytes, name; offsets in the device's memory.
    """

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, str]] = []

    def add(self, start: int, size: int, name: str):
        """Name ``size`` bytes from offset ``start`` on; the same name names nothing else from now on."""
        self.ranges = [entry for entry in self.ranges if entry[2] != name]
        if size:
            self.ranges.append((start, size, name))

    def at(self, offset: int) -> str | None:
        """The name of a byte, and which byte of how many it is there; None if it has no name."""
        for start, size, name in reversed(self.ranges):
            if start <= offset < start + size:
                return f"{name}, byte {offset - start} of {size}"
        return None

    def of(self, fault: Fault, base: int) -> str | None:
        """Where a fault was, in a memory whose first byte has address ``base``; None without such an address.

        That of a bus error is the burst's, whose bytes may go on in what lies behind.
        """
        return self.at(fault.address - base) if fault.cause in _BYTE_ADDRESSES else None
