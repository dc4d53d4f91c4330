"""Address translation as data: Sv39 addresses and entries, what an access needs, how a translation can fail.

Sv39: The RISC-V Instruction Set Manual, Volume II: Privileged Architecture, 20240411, chapter "Supervisor-Level ISA",
section "Sv39: Page-Based 39-bit Virtual-Memory System". The rules are in docs/mmu.md.
"""

from enum import IntEnum, IntFlag
from functools import cache

__all__ = [
    "ASID_BITS",
    "ENTRIES",
    "LEVELS",
    "NEEDED",
    "PAGE_BITS",
    "PAGE_BYTES",
    "PAGE_NUMBER_BITS",
    "PPN_BITS",
    "PPN_LSB",
    "PTE_BYTES",
    "RESERVED_LSB",
    "VA_BITS",
    "VPN_BITS",
    "Access",
    "Invalidate",
    "Pte",
    "TranslationFault",
    "fault_of",
]

PAGE_BITS = 12
PAGE_BYTES = 1 << PAGE_BITS
LEVELS = 3
"""Levels of a table: entries of level 2 map 1 GiB, of level 1 2 MiB, of level 0 4 KiB."""

VPN_BITS = 9
"""Bits of a page number that index one level."""

ENTRIES = 1 << VPN_BITS
PTE_BYTES = 8
VA_BITS = PAGE_BITS + LEVELS * VPN_BITS
"""39; bits above them repeat the highest one."""

PAGE_NUMBER_BITS = 64 - PAGE_BITS
"""Bits of the page number of a 64-bit virtual address, whether it is canonical or not."""

PPN_LSB = 10
PPN_BITS = 44
"""Place and width of the physical page number in an entry; a root has this width, too."""

RESERVED_LSB = PPN_LSB + PPN_BITS
"""Bits from here up (of later extensions, Svpbmt and Svnapot among them) must be 0."""

ASID_BITS = 8
"""Bits of an address space's number: many times the contexts that a core can have, half of what Sv39 may have."""


class Pte(IntFlag):
    """Low bits of an entry. Bits 8 and 9 (RSW) are free for software."""

    V = 1 << 0
    R = 1 << 1
    W = 1 << 2
    X = 1 << 3
    U = 1 << 4
    G = 1 << 5
    A = 1 << 6
    D = 1 << 7


class Access(IntEnum):
    """What a translation is for."""

    READ = 0
    WRITE = 1
    FETCH = 2


_READ = Pte.V | Pte.R | Pte.U | Pte.A
NEEDED: dict[Access, Pte] = {
    Access.READ: _READ,
    Access.WRITE: _READ | Pte.W | Pte.D,
    Access.FETCH: _READ,
}
"""Bits that a leaf must have. Command records are data: a fetch needs R, and X says nothing."""


class TranslationFault(IntEnum):
    """Why there is no translation: bits 1:0 are the access, and 1 more; bit 2 tells access faults from page faults."""

    NONE = 0
    PAGE_READ = 1
    PAGE_WRITE = 2
    PAGE_FETCH = 3
    ACCESS_READ = 5
    ACCESS_WRITE = 6
    ACCESS_FETCH = 7


@cache
def fault_of(access: Access, *, page: bool) -> TranslationFault:
    """The page fault (the table forbids it) or access fault (the table cannot be read, or names no memory)."""
    return TranslationFault(access + 1 + (0 if page else 4))


class Invalidate(IntEnum):
    """What an invalidation takes out of the TLB."""

    ALL = 0
    """Every entry."""
    ASID = 1
    """Entries of an address space, but not global ones."""
    ADDRESS = 2
    """Entries of every address space, and global ones, that map an address."""
    ASID_ADDRESS = 3
    """Entries of an address space that map an address, but not global ones."""
