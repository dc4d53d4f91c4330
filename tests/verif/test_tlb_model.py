"""The models of the TLB, and of TLB and tables together: cases by hand, for each sentence of docs/mmu.md, section 2."""

import pytest
from lepton_npu.spec.page_table import PAGE_SIZES, READ_ONLY, READ_WRITE, PageTable
from lepton_npu.spec.translation import Access, Invalidate, Pte, TranslationFault
from lepton_verif.model.mmu import MmuModel, WalkerModel
from lepton_verif.model.tlb import TlbEntry, TlbModel

SMALL, MEGA, GIGA = range(3)
PAGE = 5 << 18 | 7 << 9 | 3


def leaf(page=PAGE, asid=1, frame=0x40000, size=SMALL, is_global=False, writable=True):
    return TlbEntry.of(page, size, asid, is_global, frame, writable)


def filled(*entries, count=4):
    tlb = TlbModel(count)
    for new in entries:
        tlb.make_room(new)
        tlb.install(new)
    return tlb


@pytest.mark.parametrize(("size", "pages"), [(SMALL, 1), (MEGA, 512), (GIGA, 1 << 18)])
def test_a_page_is_hit_from_its_first_address_to_its_last(size, pages):
    tlb = filled(leaf(size=size))
    first = PAGE // pages * pages
    for page in (first, PAGE, first + pages - 1):
        assert tlb.lookup(page, 1, True) == 0x40000 + page - first
    for page in (first - 1, first + pages):
        assert tlb.lookup(page, 1, False) is None


def test_who_may_hit():
    tlb = filled(leaf(writable=False), leaf(PAGE + 1, is_global=True))
    assert tlb.lookup(PAGE, 1, False) == 0x40000
    assert tlb.lookup(PAGE, 1, True) is None
    assert tlb.lookup(PAGE, 2, False) is None
    assert tlb.lookup(PAGE + 1, 2, True) == 0x40000


@pytest.mark.parametrize("old", [SMALL, MEGA, GIGA])
@pytest.mark.parametrize("new", [SMALL, MEGA, GIGA])
def test_a_new_entry_replaces_what_it_overlaps(old, new):
    for old_global, new_global, asid in [(g, h, a) for g in (0, 1) for h in (0, 1) for a in (1, 2)]:
        tlb = filled(leaf(size=old, is_global=bool(old_global)), leaf(size=new, asid=asid, is_global=bool(new_global)))
        both = asid == 2 and not old_global and not new_global
        assert [slot is not None for slot in tlb.places] == [both, True, False, False]
        elsewhere = filled(leaf(size=old), leaf(PAGE ^ 1 << 26, size=new))
        assert elsewhere.places.count(None) == 2


def test_round_robin():
    tlb = filled(*[leaf(page) for page in range(6)])
    assert [slot.first for slot in tlb.places] == [4, 5, 2, 3]


def test_invalidations():
    shared = PAGE + 512
    entries = leaf(), leaf(asid=2, size=MEGA), leaf(shared, is_global=True), leaf(PAGE + 2)
    for kind, left in {
        (Invalidate.ALL, 0, 0): [],
        (Invalidate.ASID, 1, 0): [1, 2],
        (Invalidate.ASID, 2, 0): [0, 2, 3],
        (Invalidate.ADDRESS, 0, PAGE): [2, 3],
        (Invalidate.ADDRESS, 0, shared): [0, 1, 3],
        (Invalidate.ADDRESS, 0, PAGE + 500): [0, 2, 3],
        (Invalidate.ASID_ADDRESS, 1, PAGE): [1, 2, 3],
        (Invalidate.ASID_ADDRESS, 1, shared): [0, 1, 2, 3],
        (Invalidate.ASID_ADDRESS, 2, PAGE + 1): [0, 2, 3],
    }.items():
        tlb = filled(*entries)
        tlb.invalidate(*kind)
        assert [number for number, slot in enumerate(tlb.places) if slot] == left, kind


def test_cycles():
    """A refill takes two, and an invalidation in either ends it."""
    tlb, new, other = filled(leaf()), leaf(size=MEGA), leaf(size=GIGA)
    everything_else = (Invalidate.ASID, 9, 0)
    assert not tlb.cycle(new, None)
    assert tlb.places == [None] * 4
    assert tlb.cycle(new, None)
    assert tlb.places == [None, new, None, None]
    assert tlb.cycle(other, everything_else)
    assert not tlb.cycle(other, None)
    assert tlb.cycle(other, everything_else)
    assert tlb.places == [None] * 4
    assert not tlb.cycle(other, None)
    assert tlb.cycle(other, None)
    assert tlb.places == [None, None, other, None]


@pytest.mark.parametrize("size", PAGE_SIZES)
def test_with_tables(size):
    """Leaves are kept, faults are not; a page without D is hit by reads, and walks for a write."""
    table, model, va = PageTable(iter(range(9))), MmuModel(4, 40), (PAGE << 12) // size * size
    table.map_page(va, 3 * size, READ_ONLY | Pte.G, size=size)
    last = size - 1 >> 12
    levels = 3 - PAGE_SIZES.index(size)

    def ask(access, asid=1, page=(va >> 12) + last):
        frame, walk = model.request(lambda a: table.entries.get(a, 0), 0, page, access, asid)
        return frame if walk is None else (walk.fault, walk.physical, len(walk.reads))

    frame, moved = (3 * size >> 12) + last, (4 * size >> 12) + last
    again = 1 if size == PAGE_SIZES[0] else levels  # a kept pointer
    assert ask(Access.READ) == (TranslationFault.NONE, frame << 12, levels)
    assert [ask(Access.FETCH, asid) for asid in (1, 2)] == [frame, frame]
    assert ask(Access.WRITE) == (TranslationFault.PAGE_WRITE, None, levels)
    assert ask(Access.WRITE) == (TranslationFault.PAGE_WRITE, None, again)
    table.map_page(va, 4 * size, READ_WRITE, size=size)
    assert ask(Access.READ) == frame
    assert ask(Access.WRITE, 2) == (TranslationFault.NONE, moved << 12, levels)
    assert ask(Access.READ, 2) == moved
    assert ask(Access.READ, 1) == (TranslationFault.NONE, moved << 12, again)
    assert ask(Access.FETCH, 1) == moved
    assert ask(Access.READ, 1, page=PAGE | 1 << 30) == (TranslationFault.PAGE_READ, None, 0)


def test_kept_pointers():
    """One for each access, the last one that led to a table of level 0; dropped by an invalidation."""
    table, model = PageTable(iter(range(20))), WalkerModel(40)
    for page in (0, 1, 512, 1024, 1 << 26):
        table.map_page((page << 12) - (page >> 26 << 39) & (1 << 64) - 1, page << 12)
    table.map_page(8 << 30, 0, size=1 << 30)

    def reads(page, access=Access.READ, asid=1):
        page = page - (page >> 26 << 27) & (1 << 52) - 1
        return len(model.walk(lambda a: table.entries.get(a, 0), 0, page, access, asid).reads)

    assert [reads(page) for page in (0, 1, 2, 512, 513, 0, 1 << 26, 1 << 26)] == [3, 1, 1, 3, 1, 3, 3, 1]
    assert [reads(0, Access.WRITE), reads(1 << 26), reads(1, Access.WRITE)] == [3, 1, 1]
    assert [reads(1 << 26, asid=2), reads(1 << 26), reads(8 << 18), reads(9 << 18)] == [3, 3, 1, 1]
    assert reads(1 << 26) == 1
    model.forget()
    assert reads(1 << 26) == 3
