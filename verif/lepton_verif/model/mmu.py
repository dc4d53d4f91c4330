"""Walker and TLB together as docs/mmu.md says, for requests that come one after the other and tables that stay."""

from collections.abc import Callable
from dataclasses import replace

from lepton_npu.spec.translation import LEVELS, PAGE_BITS, VPN_BITS, Access

from .tlb import TlbEntry, TlbModel
from .translation import Translation, translate

__all__ = ["MmuModel", "WalkerModel"]

Memory = Callable[[int], int]


class WalkerModel:
    """Walks, and the pointers that are kept (section 3): what is read is less with them, what is found is the same.

    Attributes
    ----------
    kept : dict
        ASID and bits 38:21 of an address, by access.
    """

    def __init__(self, addr_width: int):
        self._addr_width = addr_width
        self.kept: dict[Access, tuple[int, int]] = {}

    def walk(self, memory: Memory, root: int, page: int, access: Access, asid: int) -> Translation:
        """Translation of bits 63:12 ``page`` of an address, and the reads that are made for it."""
        found = translate(memory, root, page << PAGE_BITS, access, addr_width=self._addr_width)
        if len(found.reads) < LEVELS:  # no table of level 0 is on the way
            return found
        place = asid, page >> VPN_BITS & (1 << 2 * VPN_BITS) - 1
        if self.kept.get(access) == place:
            return replace(found, reads=found.reads[-1:])
        self.kept[access] = place
        return found

    def forget(self) -> None:
        """What any invalidation does."""
        self.kept.clear()


class MmuModel:
    """``entries`` of a TLB, and walks for what is not in it.

    Attributes
    ----------
    tlb : TlbModel
    walker : WalkerModel
    """

    def __init__(self, entries: int, addr_width: int):
        self.tlb, self.walker = TlbModel(entries), WalkerModel(addr_width)

    def request(
        self, memory: Memory, root: int, page: int, access: Access, asid: int
    ) -> tuple[int | None, Translation | None]:
        """The frame that bits 63:12 ``page`` of an address hit, or None and the walk, whose leaf the TLB now has."""
        low = page % (1 << LEVELS * VPN_BITS)
        if page >> LEVELS * VPN_BITS - 1 in (0, (1 << 26) - 1):
            frame = self.tlb.lookup(low, asid, access == Access.WRITE)
            if frame is not None:
                return frame, None
        walk = self.walker.walk(memory, root, page, access, asid)
        if walk.physical is not None and walk.page_bytes is not None:
            level = (walk.page_bytes >> PAGE_BITS).bit_length() // VPN_BITS
            first = (walk.physical - walk.physical % walk.page_bytes) >> PAGE_BITS
            new = TlbEntry.of(low, level, asid, walk.is_global, first, walk.writable)
            self.tlb.make_room(new)
            self.tlb.install(new)
        return None, walk
