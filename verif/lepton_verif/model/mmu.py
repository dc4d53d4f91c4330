"""TLB and tables together as docs/mmu.md says, for requests that come one after the other."""

from collections.abc import Callable

from lepton_npu.spec.translation import LEVELS, PAGE_BITS, VPN_BITS, Access

from .tlb import TlbEntry, TlbModel
from .translation import Translation, translate

__all__ = ["MmuModel"]


class MmuModel:
    """``entries`` of a TLB, and walks for what is not in it.

    Attributes
    ----------
    tlb : TlbModel
    """

    def __init__(self, entries: int, addr_width: int):
        self.tlb, self._addr_width = TlbModel(entries), addr_width

    def request(
        self, memory: Callable[[int], int], root: int, page: int, access: Access, asid: int
    ) -> tuple[int | None, Translation | None]:
        """The frame that bits 63:12 ``page`` of an address hit, or None and the walk, whose leaf the TLB now has."""
        low = page % (1 << LEVELS * VPN_BITS)
        if page >> LEVELS * VPN_BITS - 1 in (0, (1 << 26) - 1):
            frame = self.tlb.lookup(low, asid, access == Access.WRITE)
            if frame is not None:
                return frame, None
        walk = translate(memory, root, page << PAGE_BITS, access, addr_width=self._addr_width)
        if walk.physical is not None and walk.page_bytes is not None:
            level = (walk.page_bytes >> PAGE_BITS).bit_length() // VPN_BITS
            first = (walk.physical - walk.physical % walk.page_bytes) >> PAGE_BITS
            new = TlbEntry.of(low, level, asid, walk.is_global, first, walk.writable)
            self.tlb.make_room(new)
            self.tlb.install(new)
        return None, walk
