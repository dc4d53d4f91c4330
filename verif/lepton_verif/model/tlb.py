"""The TLB as docs/mmu.md, section 2, says: what a lookup meets, cycle by cycle. An independent reading, as ranges."""

from dataclasses import dataclass

from lepton_npu.spec.translation import ENTRIES, Invalidate

__all__ = ["TlbEntry", "TlbModel"]


@dataclass(frozen=True)
class TlbEntry:
    """Pages ``first`` to ``first + pages - 1`` of an address space, or of all, are frames from ``frame`` on."""

    first: int
    pages: int
    asid: int
    is_global: bool
    frame: int
    writable: bool

    @classmethod
    def of(cls, page: int, level: int, asid: int, is_global: bool, frame: int, writable: bool) -> "TlbEntry":
        """The entry of a leaf of ``level`` that a walk for ``page`` (27 bits) has ended at."""
        pages = ENTRIES**level
        return cls(page - page % pages, pages, asid, is_global, frame, writable)

    def has(self, page: int) -> bool:
        return self.first <= page < self.first + self.pages

    def overlaps(self, other: "TlbEntry") -> bool:
        return self.first < other.first + other.pages and other.first < self.first + self.pages


class TlbModel:
    """``entries`` places, which fill by round robin.

    Attributes
    ----------
    places : list of TlbEntry or None
    next : int
        Where the next new entry goes.
    """

    def __init__(self, entries: int):
        self.places: list[TlbEntry | None] = [None] * entries
        self.next = 0
        self._made_room = False

    def found(self, page: int, asid: int, write: bool) -> list[TlbEntry]:
        """The entries that a lookup of ``page`` hits: one at most."""
        return [
            e
            for e in self.places
            if e and e.has(page) and (e.is_global or e.asid == asid) and (e.writable or not write)
        ]

    def lookup(self, page: int, asid: int, write: bool) -> int | None:
        """Frame of ``page``, or None: a miss."""
        for e in self.found(page, asid, write):
            return e.frame + page - e.first
        return None

    def invalidate(self, kind: Invalidate, asid: int, page: int) -> None:
        """Take out what ``kind`` names."""

        def named(e: TlbEntry) -> bool:
            of_space = e.asid == asid and not e.is_global
            match kind:
                case Invalidate.ALL:
                    return True
                case Invalidate.ASID:
                    return of_space
                case Invalidate.ADDRESS:
                    return e.has(page)
                case Invalidate.ASID_ADDRESS:
                    return of_space and e.has(page)

        self._remove(named)

    def make_room(self, new: TlbEntry) -> None:
        """Take out what ``new`` overlaps and replaces."""
        self._remove(lambda e: e.overlaps(new) and (e.asid == new.asid or e.is_global or new.is_global))

    def install(self, new: TlbEntry) -> None:
        """Put ``new``, for which there is room, where round robin points to."""
        self.places[self.next] = new
        self.next = (self.next + 1) % len(self.places)

    def cycle(self, new: TlbEntry | None, invalidation: tuple[Invalidate, int, int] | None) -> bool:
        """One cycle with an entry that is offered, and (kind, ASID, page); whether the entry is accepted in it."""
        if invalidation is not None:
            self.invalidate(*invalidation)
            self._made_room = False
            return new is not None
        if new is None:
            return False
        if not self._made_room:
            self.make_room(new)
            self._made_room = True
            return False
        self.install(new)
        self._made_room = False
        return True

    def _remove(self, which) -> None:
        self.places = [None if e and which(e) else e for e in self.places]
