"""Translation of an address as docs/mmu.md says: an independent reading, from which the RTL must not differ."""

from collections.abc import Callable
from dataclasses import dataclass

from lepton_npu.spec.translation import Access, TranslationFault, fault_of

__all__ = ["BusError", "Translation", "translate"]


_FLAGS = [tuple(byte >> bit & 1 for bit in range(8)) for byte in range(256)]  # bit 0, V, first


class BusError(Exception):
    """A read of memory that has an error response."""


@dataclass(frozen=True)
class Translation:
    """Where an access goes: the byte address in memory, or the fault; and what a TLB keeps.

    ``page_bytes`` is the size of the page; ``writable`` says that a WRITE is allowed, too. ``reads`` are the
    addresses of the entries, in the order of their reading.
    """

    fault: TranslationFault
    physical: int | None = None
    page_bytes: int | None = None
    is_global: bool = False
    writable: bool = False
    reads: tuple[int, ...] = ()


def translate(memory: Callable[[int], int], root: int, va: int, access: Access, *, addr_width: int) -> Translation:
    """Where byte ``va`` of the address space with root page ``root`` is.

    Parameters
    ----------
    memory : callable
        ``memory(address)`` is the 64-bit word at a physical address, a multiple of 8; raises `BusError`.
    root : int
        Physical page number of the root table, 44 bits.
    va : int
        64-bit virtual byte address.
    access : Access
    addr_width : int
        Bits of a physical address that the core has.
    """
    page_fault, access_fault = fault_of(access, page=True), fault_of(access, page=False)
    if va >> 38 not in (0, 0x3FFFFFF):
        return Translation(page_fault)
    table, is_global = root << 12, False
    reads: list[int] = []
    for level in (2, 1, 0):
        size = 1 << 12 + 9 * level
        address = table + 8 * (va // size % 512)
        if address >= 1 << addr_width:
            return Translation(access_fault, reads=tuple(reads))
        reads.append(address)
        try:
            pte = memory(address)
        except BusError:
            return Translation(access_fault, reads=tuple(reads))
        v, r, w, x, u, g, a, d = _FLAGS[pte & 0xFF]
        physical = (pte >> 10 & (1 << 44) - 1) << 12
        is_global |= bool(g)
        if not v or (w and not r) or pte >> 54:
            return Translation(page_fault, reads=tuple(reads))
        if not (r or x):
            if a or d or u:
                return Translation(page_fault, reads=tuple(reads))
            table = physical
            continue
        allowed = r and u and a and (access != Access.WRITE or (w and d))
        if not allowed or physical % size:
            return Translation(page_fault, reads=tuple(reads))
        physical += va % size
        if physical >= 1 << addr_width:
            return Translation(access_fault, reads=tuple(reads))
        return Translation(TranslationFault.NONE, physical, size, is_global, bool(w and d), tuple(reads))
    return Translation(page_fault, reads=tuple(reads))  # a pointer at the last level
