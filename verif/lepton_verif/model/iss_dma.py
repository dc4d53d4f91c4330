"""LOAD and STORE of the instruction-set simulator.

Order of the checks: MISALIGNED (address, then stride); then for each row ADDRESS_RANGE, LOCAL_RANGE, BUS_READ or
BUS_WRITE; with translation the faults of docs/mmu.md before the last two. Rows before the first bad one are
transferred, nothing of the bad one is.

A plan is made without the command's address, which may come from an address register: it is given at execution.
"""

from collections.abc import Callable, Iterable

import numpy as np
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import Access

from .iss_addresses import as_slice, is_local, nest
from .iss_state import CoreState, EngineFaultError

__all__ = ["prepare_load", "prepare_store"]

Transfer = Callable[[CoreState, int], None]


class _Transfer:
    """Everything about a LOAD or STORE but the byte address of its row 0."""

    def __init__(self, config: NpuConfig, f: dict[str, int], store: bool):
        self.config, self.store = config, store
        self.access = Access.WRITE if store else Access.READ
        self.rows, self.bytes, self.stride = f["rows"], 4 * f["words"], f["stride"]
        self.length = -(-f["words"] // config.side)
        self.local = nest(f["local"], (f["rows"], f["local_stride"]), (self.length, 1))
        self.local = np.broadcast_to(self.local, (self.rows, self.length))
        self.index = as_slice(self.local)
        last = (self.rows - 1) * self.stride
        self.low, self.high = min(0, last), max(0, last) + self.bytes
        self.local_good = bool(self._local_valid(self.local).all())
        self.overlapping = abs(self.stride) < self.bytes and self.rows > 1

    def _local_valid(self, addresses: np.ndarray) -> np.ndarray:
        if self.store:
            return is_local(self.config, addresses)
        return (addresses >= 0) & (addresses < self.config.vmem_rows)

    def good_rows(self, state: CoreState, start: int) -> tuple[int, EngineFaultError | None]:
        """Rows before the first fault, and that fault, of the transfer from byte ``start`` on."""
        if start % self.config.bus_bytes or self.stride % self.config.bus_bytes:
            return 0, EngineFaultError(FaultCause.MISALIGNED, start)
        low, high = start + self.low, start + self.high
        top = 1 << (64 if state.space else self.config.addr_width)
        if not state.space and self.local_good and low >= 0 and high <= top and state.holds(low, high - low):
            return self.rows, None
        for row in range(self.rows):
            address = start + row * self.stride
            if address < 0 or address + self.bytes > top:
                return row, EngineFaultError(FaultCause.ADDRESS_RANGE, address)
            valid = self._local_valid(self.local[row])
            if not valid.all():
                return row, EngineFaultError(FaultCause.LOCAL_RANGE, int(self.local[row][~valid][0]))
            try:
                for offset, place, length in self.places(state, address):
                    if not state.holds(place, length):
                        cause = FaultCause.BUS_WRITE if self.store else FaultCause.BUS_READ
                        return row, EngineFaultError(cause, address + offset)
            except EngineFaultError as fault:
                return row, fault
        return self.rows, None

    def places(self, state: CoreState, address: int) -> Iterable[tuple[int, int, int]]:
        """Of a row at byte ``address``: offset, place in memory, and bytes of each piece."""
        if state.space is None:
            return [(0, address, self.bytes)]
        return state.space.pieces(address, self.bytes, self.access)

    def straight(self, state: CoreState, start: int, rows: int) -> int | None:
        """Place in memory of byte ``start``, if ``rows`` good rows are there as they are in their address space."""
        if state.space is None:
            return start
        last = (rows - 1) * self.stride
        low = start + min(0, last)
        place = state.space.straight(low, start + max(0, last) + self.bytes, self.access)
        return None if place is None else place + start - low

    def memory_rows(self, state: CoreState, start: int, rows: int) -> np.ndarray:
        """The bytes of the first ``rows`` rows in memory, as a view."""
        shape, strides = (rows, self.bytes), (self.stride, 1)
        return np.ndarray(shape, np.uint8, state.memory, start - state.base, strides)


def prepare_load(config: NpuConfig, f: dict[str, int]) -> Transfer:
    """Rows of memory to the vector memory."""
    t = _Transfer(config, f, store=False)
    width = t.length * config.row_bytes

    def execute(state: CoreState, address: int):
        rows, fault = t.good_rows(state, address)
        if rows:
            if (place := t.straight(state, address, rows)) is not None:
                data = t.memory_rows(state, place, rows)
            else:
                data = np.empty((rows, t.bytes), np.uint8)
                for row in range(rows):
                    for offset, place, length in t.places(state, address + row * t.stride):
                        data[row, offset : offset + length] = state.memory[place - state.base :][:length]
            if width != t.bytes:
                padded = np.zeros((rows, width), np.uint8)
                padded[:, : t.bytes] = data
                data = padded
            words = np.ascontiguousarray(data).view("<u4").reshape(-1, config.side)
            # Repeated targets: NumPy keeps the last, as the engine does.
            state.local[t.index if rows == t.rows else t.local[:rows].reshape(-1)] = words
        if fault:
            raise fault

    return execute


def prepare_store(config: NpuConfig, f: dict[str, int]) -> Transfer:
    """Local rows to memory."""
    t = _Transfer(config, f, store=True)

    def execute(state: CoreState, address: int):
        rows, fault = t.good_rows(state, address)
        if rows:
            words = state.local[t.index if rows == t.rows else t.local[:rows].reshape(-1)]
            data = words.astype("<u4", copy=False).reshape(rows, -1).view(np.uint8)[:, : t.bytes]
            place = t.straight(state, address, rows)
            if t.overlapping or place is None:  # In order, so that the last row stays.
                for row in range(rows):
                    for offset, place, length in t.places(state, address + row * t.stride):
                        state.memory[place - state.base :][:length] = data[row, offset : offset + length]
            else:
                t.memory_rows(state, place, rows)[...] = data
        if fault:
            raise fault

    return execute
