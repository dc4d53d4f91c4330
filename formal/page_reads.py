"""What a page table has said of one page since the last invalidation, seen at the walker's bus and nowhere else."""

from typing import Any

from amaranth.hdl import Cat, Const, Signal, Value
from lepton_npu.mmu.walker import pte_layout
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import LEVELS, PAGE_BITS, PPN_BITS, VPN_BITS, Access, Invalidate

from .harness import Harness

__all__ = ["FRAME", "PageReads", "frame_for", "is_pointer", "maps", "same_page"]

FRAME = 32 - PAGE_BITS
"""Bits of a frame: addresses have 32 bits here."""


def same_page(one: Value, other: Value, level: int) -> Value:
    """Whether two page numbers are in one page of ``level``."""
    return one[VPN_BITS * level : VPN_BITS * LEVELS] == other[VPN_BITS * level : VPN_BITS * LEVELS]


def frame_for(frame: Value, page: Value, level: int) -> Value:
    """Frame of ``page`` in a page of ``level`` that begins at ``frame``."""
    return Cat(page[: VPN_BITS * level], frame[VPN_BITS * level :])


def _sound(pte: Any) -> Value:
    return pte.v & (pte.r | ~pte.w) & ~pte.reserved.any()


def is_pointer(pte: Any, level: int) -> Value:
    """Whether an entry of ``level`` is a pointer that can be followed (docs/mmu.md, section 1, rules 3 to 5)."""
    return _sound(pte) & ~pte.ppn[FRAME:].any() & ~pte.r & ~pte.x & ~pte.a & ~pte.d & ~pte.u & bool(level)


def maps(pte: Any, level: int, page: Value, frame: Value, write: Value) -> Value:
    """Whether an entry of ``level`` maps ``page`` to ``frame`` and allows a read (a write, too): rules 4 to 8."""
    allowed = pte.r & pte.u & pte.a & (~write | pte.w & pte.d)
    fits = ~pte.ppn[: VPN_BITS * level].any() & ~pte.ppn[FRAME:].any()
    return _sound(pte) & allowed & fits & (frame_for(pte.ppn[:FRAME], page, level) == frame)


class PageReads:
    """Of a symbolic page, address space, root, frame and kind of access, which are never chosen but once.

    A chain of reads goes down the indices of ``page``, without an invalidation of any kind between the address of the
    first and the data of the last: from any root, ``own`` if it is ``root``; ``shared`` if an entry on it had G. It may
    end at a leaf that maps ``page`` to ``frame`` and allows the access. The reads of levels 2 and 1 follow one another;
    that of level 0 may be any later one in the table of the last pointer for some kind of access.

    What the ``walker`` says of a read (its level, page and access) only chooses which chain it may belong to. Whether
    it does is decided by addresses and data: a walker that is wrong about itself ends no chain that there is not.

    Attributes
    ----------
    page, asid, root, frame, write : Value
        27, 8, 44, 20 bits, and whether it is about writes.
    own, shared : list of Signal
        By level: a chain has ended so, and nothing has named that mapping since.
    reading : list of dict of Signal
        By level: the read in flight is of this level of a chain.
    middle : dict of Signal, tables : list of dict of Signal
        The next read may be of level 1, in its ``table``; one may be of level 0, in one of these (by access).
    """

    def __init__(self, h: Harness, config: NpuConfig, ar: Any, r: Any, invalidate: Any, walker: Any):
        assert config.addr_width == PAGE_BITS + FRAME
        assert config.bus_width == 64, "an entry is a beat"
        m = h.m
        self.page = h.constant("page", LEVELS * VPN_BITS)
        self.asid, self.root = h.constant("asid", 8), h.constant("root", PPN_BITS)
        self.frame, self.write = h.constant("frame", FRAME), h.constant("write")
        self.own = [Signal(name=f"own{level}") for level in range(LEVELS)]
        self.shared = [Signal(name=f"shared{level}") for level in range(LEVELS)]
        self.reading = [self._step(f"reading{level}") for level in range(LEVELS)]
        self.middle = self._step("middle")
        self.tables = [self._step(f"table_{access.name.lower()}") for access in Access]
        h.watch(**{s.name: s for s in self.own + self.shared})

        named = invalidate.payload
        for level in range(LEVELS):
            here, mine = same_page(self.page, named.page, level), named.asid == self.asid
            with m.If(invalidate.valid):
                with m.If((named.kind == Invalidate.ALL) | (named.kind == Invalidate.ADDRESS) & here):
                    m.d.sync += [self.own[level].eq(0), self.shared[level].eq(0)]
                with m.If(mine & ((named.kind == Invalidate.ASID) | (named.kind == Invalidate.ASID_ADDRESS) & here)):
                    m.d.sync += self.own[level].eq(0)

        address, index = ar.payload.addr, [self.page.word_select(level, VPN_BITS) for level in range(LEVELS)]
        pte = pte_layout()(r.payload.data)

        def at(level, table):
            """Whether the address is that of the entry of ``level`` in ``table``."""
            entry = Cat(Const(0, 3), index[level])
            return (address[:PAGE_BITS] == entry) & (address[PAGE_BITS:] == table[:FRAME]) & ~table[FRAME:].any()

        high, middle, low = self.reading[2], self.reading[1], self.reading[0]
        level_now, page_now, access = walker.level, walker.request.page, walker.request.access
        may = [(level_now == level) & same_page(page_now, self.page, level) for level in range(LEVELS)]
        found = [step["valid"] & at(0, step["table"]) for step in self.tables]
        with m.If(ar.valid & ar.ready):
            m.d.sync += [
                high["valid"].eq(may[2] & (address[:PAGE_BITS] == Cat(Const(0, 3), index[2]))),
                high["own"].eq(at(2, self.root)),
                high["shared"].eq(0),
                middle["valid"].eq(may[1] & self.middle["valid"] & at(1, self.middle["table"])),
                middle["own"].eq(self.middle["own"]),
                middle["shared"].eq(self.middle["shared"]),
                low["valid"].eq(may[0] & Cat(found).any()),
                low["own"].eq(Cat(f & s["own"] for f, s in zip(found, self.tables)).any()),
                low["shared"].eq(Cat(f & s["shared"] for f, s in zip(found, self.tables)).any()),
                self.middle["valid"].eq(0),
            ]
        with m.If(r.valid & r.ready):
            for level, now in enumerate(self.reading):
                shared = now["shared"] | pte.g
                m.d.sync += now["valid"].eq(0)
                with m.If(now["valid"] & ~r.payload.resp[1] & ~invalidate.valid):
                    with m.If(maps(pte, level, self.page, self.frame, self.write)):
                        m.d.sync += [
                            self.own[level].eq(self.own[level] | now["own"]),
                            self.shared[level].eq(self.shared[level] | shared),
                        ]
                    follows = [(), self.tables, (self.middle,)][level]
                    for kind, step in enumerate(follows):
                        with m.If(is_pointer(pte, level) & ((level == 2) | (access == kind))):
                            m.d.sync += [
                                step["valid"].eq(1),
                                step["own"].eq(now["own"]),
                                step["shared"].eq(shared),
                                step["table"].eq(pte.ppn),
                            ]
        with m.If(invalidate.valid):
            m.d.sync += [step["valid"].eq(0) for step in [*self.reading, self.middle, *self.tables]]

    @staticmethod
    def _step(name: str) -> dict[str, Signal]:
        return {
            part: Signal(width, name=f"{name}_{part}", reset_less=part != "valid")
            for part, width in (("valid", 1), ("own", 1), ("shared", 1), ("table", PPN_BITS))
        }

    def mapped(self) -> Value:
        """A leaf that maps the page, so and with that permission, was read since anything named it."""
        return Cat(self.own, self.shared).any()
