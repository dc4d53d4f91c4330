"""The address space of a device: its memory at virtual addresses, by a page table that stands behind it."""

import numpy as np
from lepton_npu.spec.page_table import PAGE_SIZES, PageTable
from lepton_npu.spec.translation import ENTRIES, LEVELS, PAGE_BYTES
from numpy.typing import NDArray

from .errors import InputError

__all__ = ["VIRTUAL_BASE", "AddressSpace", "checked_page_bytes", "table_bytes"]

VIRTUAL_BASE = 1 << 36
"""Virtual address of physical address 0: a device that used physical addresses by mistake would find nothing."""


def checked_page_bytes(value: int | None) -> int | None:
    """A page size, or None for no translation; InputError for anything else."""
    if value is not None and value not in PAGE_SIZES:
        raise InputError(f"page_bytes must be None or one of {', '.join(map(str, PAGE_SIZES))}, not {value!r}")
    return value


def table_bytes(size: int, page_bytes: int) -> int:
    """Bytes that the tables of ``size`` bytes of memory may take, with what aligns them."""
    leaves = -(-size // page_bytes) + 1
    tables = 1
    for _ in range(LEVELS - 1):
        leaves = -(-leaves // ENTRIES) + 1
        tables += leaves
    return (tables + 1) * PAGE_BYTES


class AddressSpace:
    """Maps memory by pages of one size, readable and writable, in the order of its bytes.

    Parameters
    ----------
    memory : numpy.ndarray
        uint8, all of it: ``size`` bytes for use, and `table_bytes` behind them for the tables, which are written here.
    base : int
        Physical address of ``memory[0]``, a multiple of ``page_bytes``.
    size : int
    page_bytes : int
        4 KiB, 2 MiB or 1 GiB. The last page may reach beyond the memory.
    virtual : int or None
        Virtual address of ``memory[0]``; None: VIRTUAL_BASE above the physical one.

    Attributes
    ----------
    base : int
        Virtual address of ``memory[0]``.
    table : PageTable
    """

    def __init__(
        self, memory: NDArray[np.uint8], base: int, size: int, page_bytes: int, *, virtual: int | None = None
    ):  # fmt: skip
        if base % page_bytes:
            raise InputError(f"base must be a multiple of the page size {page_bytes:#x}, not {base:#x}")
        self.base = VIRTUAL_BASE + base if virtual is None else virtual
        self._memory, self._physical = memory, base
        first = -(-(base + size) // PAGE_BYTES)
        self.table = PageTable(iter(range(first, (base + memory.size) // PAGE_BYTES)))
        for start in range(0, size, page_bytes):
            self.table.map_page(self.base + start, base + start, size=page_bytes)
        self.write()

    @property
    def root(self) -> int:
        """Physical page number of the root table."""
        return self.table.root

    def write(self):
        """Write all entries of the table into the memory; `RtlBackend.remap` then has the core forget them, too."""
        self.table.write(self._memory.data, self._physical)
