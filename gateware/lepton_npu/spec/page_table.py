"""Builds Sv39 page tables: what a host writes into memory so that the core may use its pages (docs/mmu.md)."""

from collections.abc import Iterator

from .translation import ENTRIES, LEVELS, PAGE_BITS, PAGE_BYTES, PPN_BITS, PPN_LSB, PTE_BYTES, VPN_BITS, Pte

__all__ = ["PAGE_SIZES", "READ_ONLY", "READ_WRITE", "PageTable", "canonical", "entry"]

PAGE_SIZES = tuple(PAGE_BYTES << VPN_BITS * level for level in range(LEVELS))
"""Bytes that an entry of level 0, 1 and 2 maps: 4 KiB, 2 MiB, 1 GiB."""

READ_ONLY = Pte.V | Pte.R | Pte.U | Pte.A
READ_WRITE = READ_ONLY | Pte.W | Pte.D


def entry(page: int, flags: int) -> int:
    """Entry with physical page number ``page`` (44 bits) and low bits ``flags``."""
    if not 0 <= page < 1 << PPN_BITS:
        raise ValueError(f"page must be a physical page number from 0 to 2**{PPN_BITS} - 1, not 0x{page:x}")
    return page << PPN_LSB | flags


def canonical(address: int) -> bool:
    """Whether bits 63:39 of a 64-bit ``address`` are equal to bit 38."""
    high = address >> PAGE_BITS + LEVELS * VPN_BITS - 1
    return high in (0, (1 << 65 - PAGE_BITS - LEVELS * VPN_BITS) - 1)


class PageTable:
    """One address space.

    Parameters
    ----------
    frames : iterator of int
        Physical page numbers to keep tables in, one for each table; their memory is written through `entries` only,
        and must be zero before.
    root : int, optional
        Physical page number of the root; by default the first of ``frames``.

    Attributes
    ----------
    root : int
    entries : dict of int to int
        Every entry that has been set, by the physical address of its 8 bytes. What is not there is 0.
    """

    def __init__(self, frames: Iterator[int], root: int | None = None):
        self._frames = frames
        self.root = next(frames) if root is None else root
        self.entries: dict[int, int] = {}

    def place(self, address: int, level: int) -> int:
        """Physical address of the entry of ``level`` for virtual ``address``; tables on the way are made.

        Raises
        ------
        ValueError
            If a larger page is already mapped there.
        """
        table = self.root
        for above in range(LEVELS - 1, level - 1, -1):
            place = table * PAGE_BYTES + (address >> PAGE_BITS + VPN_BITS * above) % ENTRIES * PTE_BYTES
            if above == level:
                break
            found = self.entries.get(place, 0)
            if found & (Pte.R | Pte.X):
                raise ValueError(f"address 0x{address:x} is already in a page of {PAGE_SIZES[above]} bytes")
            if not found & Pte.V:
                found = self.entries[place] = entry(next(self._frames), Pte.V)
            table = found >> PPN_LSB & (1 << PPN_BITS) - 1
        return place

    def map_page(self, address: int, physical: int, flags: int = READ_WRITE, *, size: int = PAGE_BYTES) -> None:
        """Map one page of ``size`` bytes at virtual ``address`` to ``physical``; the same page again replaces it.

        Raises
        ------
        ValueError
            For a size that is no page size, addresses that are not multiples of it, an address that is not canonical,
            or another size that is mapped there.
        """
        if size not in PAGE_SIZES:
            raise ValueError(f"size must be one of {', '.join(map(str, PAGE_SIZES))}, not {size}")
        for name, value in (("address", address), ("physical", physical)):
            if not 0 <= value < 1 << 64 or value % size:
                raise ValueError(f"{name} must be a multiple of the page size 0x{size:x} below 2**64, not 0x{value:x}")
        if not canonical(address):
            raise ValueError(f"address must have bits 63:39 equal to bit 38, not 0x{address:x}")
        level = PAGE_SIZES.index(size)
        place = self.place(address, level)
        found = self.entries.get(place, 0)
        if level and found & Pte.V and not found & (Pte.R | Pte.X):
            raise ValueError(f"address 0x{address:x} already has pages smaller than {size} bytes")
        self.entries[place] = entry(physical >> PAGE_BITS, flags)

    def map_range(
        self, address: int, physical: int, size: int, flags: int = READ_WRITE, *, largest: int = PAGE_SIZES[-1]
    ) -> None:
        """Map ``size`` bytes, by pages as large as alignment and ``largest`` allow.

        Raises
        ------
        ValueError
            As `map_page`; all three must be multiples of 4096, and ``largest`` a page size.
        """
        if largest not in PAGE_SIZES:
            raise ValueError(f"largest must be one of {', '.join(map(str, PAGE_SIZES))}, not {largest}")
        if size <= 0 or size % PAGE_BYTES:
            raise ValueError(f"size must be a positive multiple of {PAGE_BYTES}, not {size}")
        while size:
            fits = [s for s in PAGE_SIZES if s <= min(largest, size) and not (address % s or physical % s)]
            step = fits[-1] if fits else PAGE_BYTES
            self.map_page(address, physical, flags, size=step)
            address, physical, size = address + step, physical + step, size - step

    def write(self, memory: bytearray | memoryview, base: int) -> None:
        """Write all entries into ``memory``, a writable buffer of bytes that begins at physical address ``base``."""
        view = memoryview(memory)
        for address, bits in self.entries.items():
            view[address - base : address - base + PTE_BYTES] = bits.to_bytes(PTE_BYTES, "little")

    def unmap(self, address: int) -> int:
        """Take out the page that virtual ``address`` is in, and return the size of that page.

        The TLB must be told before memory is used for something else.

        Raises
        ------
        KeyError
            If none is mapped there.
        """
        table = self.root
        for level in range(LEVELS - 1, -1, -1):
            place = table * PAGE_BYTES + (address >> PAGE_BITS + VPN_BITS * level) % ENTRIES * PTE_BYTES
            found = self.entries.get(place, 0)
            if not found & Pte.V:
                break
            if found & (Pte.R | Pte.X):
                self.entries[place] = 0
                return PAGE_SIZES[level]
            table = found >> PPN_LSB & (1 << PPN_BITS) - 1
        raise KeyError(f"no page is mapped at 0x{address:x}")
