"""The model of address translation against a second reading, and the builder of page tables against both."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lepton_npu.spec.page_table import PAGE_SIZES, READ_ONLY, READ_WRITE, PageTable, canonical, entry
from lepton_npu.spec.translation import NEEDED, Access, Pte, TranslationFault
from lepton_verif.model.translation import BusError, translate

WIDTH = 40
NONE = TranslationFault.NONE
COMBINATIONS_OF_RWX = {"": "pointer", "R": "leaf", "X": "leaf", "RX": "leaf", "RW": "leaf", "RWX": "leaf"}
"""What the Privileged Architecture's table of R, W, X says; what is not there is reserved."""


def second_reading(level: int, low: int, reserved: int, page: int, access: Access) -> str:
    """What entry means at a level, from the table of R, W, X: "page", "pointer" or "ok"."""
    kind = COMBINATIONS_OF_RWX.get("".join(c for c in "RWX" if low & Pte[c]), "reserved")
    if not low & Pte.V or reserved or kind == "reserved":
        return "page"
    if kind == "pointer":
        return "page" if level == 0 or low & (Pte.U | Pte.A | Pte.D) else "pointer"
    aligned = page % 512**level == 0
    return "ok" if aligned and low & NEEDED[access] == NEEDED[access] else "page"


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("level", range(3))
def test_every_low_byte_reserved_bit_and_misalignment(level, access):
    cases = [(low, reserved, 0) for low in range(256) for reserved in (0, *(1 << n for n in range(10)))]
    cases += [(low, 0, 1 << n) for low in range(256) for n in range(28)]
    page_fault = 1 + access
    for low, reserved, page in cases:
        under_test = low | page << 10 | reserved << 54
        # Tables at 9, 10, 11; everything else that may be pointed to is page 0's good leaves, valid at any level.
        memory = {0x9000 + 8 * 3: entry(10, Pte.V), 0xA000 + 8 * 3: entry(11, Pte.V)}
        memory[(0xB000, 0xA000, 0x9000)[level] + 8 * 3] = under_test
        va = 3 << 30 | 3 << 21 | 3 << 12 | 0x123
        if level == 2:
            memory[0x9000 + 8 * 3] = under_test
        found = translate(lambda a, m=memory: m.get(a, int(READ_WRITE)), 9, va, access, addr_width=WIDTH)
        expected = second_reading(level, low, reserved, page, access)
        if expected == "page":
            assert found.fault == page_fault
        elif expected == "ok":
            size = PAGE_SIZES[level]
            assert (found.fault, found.physical, found.page_bytes) == (NONE, page * 4096 + va % size, size)
            assert found.is_global == bool(low & Pte.G)
        else:
            # The next entry is a good leaf with page 0, or, if the page is one of the tables, what is there.
            assert len(found.reads) > 3 - level
            assert found.reads[3 - level] == page * 4096 + 8 * 3


def test_what_is_no_table_and_no_memory():
    good = int(READ_WRITE)
    for access in Access:
        access_fault = 5 + access

        def ask(memory, root=0, va=0, width=WIDTH, access=access):
            return translate(memory, root, va, access, addr_width=width)

        def fails(address):
            raise BusError

        assert ask(fails).fault == access_fault
        assert ask(lambda a: good, root=1 << 28) == ask(lambda a: good, root=1 << 43)
        assert ask(lambda a: good, root=1 << 28).reads == ()
        assert ask(lambda a: entry(1 << 28, Pte.V)).fault == access_fault  # a table
        assert ask(lambda a: entry(1 << 28, good)).fault == access_fault  # a page
        assert ask(lambda a: entry(1 << 28, good), width=41).fault == NONE
        assert ask(lambda a: entry(1 << 28 | 1, good)).fault == 1 + access  # misaligned comes first
        for va in (1 << 38, 1 << 39, 1 << 63, (1 << 64) - (1 << 39)):
            assert ask(lambda a: good, va=va).fault == 1 + access, hex(va)
            assert not canonical(va)
        for va in (0, (1 << 38) - 1, (1 << 64) - (1 << 38), (1 << 64) - 1):
            assert ask(lambda a: good, va=va).fault == NONE, hex(va)
            assert canonical(va)


@given(st.integers(0, 2**32))
def test_a_table_maps_what_it_was_told(seed):
    rng = random.Random(seed)
    table, mapped = PageTable(iter(range(0x80000, 0x81000))), {}
    for _ in range(rng.randrange(1, 12)):
        size = rng.choice(PAGE_SIZES)
        address = rng.choice((0, 2**64 - 2**38)) + rng.randrange(2**36 // size) * size
        if any(address < a + s and a < address + size for a, (_, s, _) in mapped.items()):
            continue
        physical, flags = rng.randrange(2**30 // size) * size, rng.choice((READ_ONLY, READ_WRITE))
        try:
            table.map_page(address, physical, flags, size=size)
        except ValueError:
            # A page within 2 MiB or 1 GiB that holds a table already, even if an empty part of it.
            assert size > PAGE_SIZES[0]
            continue
        mapped[address] = (physical, size, flags)
    for address, (physical, size, flags) in mapped.items():
        for offset in (0, size - 1, rng.randrange(size)):
            for access in Access:
                found = translate(
                    lambda a: table.entries.get(a, 0), table.root, address + offset, access, addr_width=WIDTH
                )
                if access == Access.WRITE and flags == READ_ONLY:
                    assert found.fault == TranslationFault.PAGE_WRITE
                else:
                    assert (found.fault, found.physical, found.page_bytes) == (NONE, physical + offset, size)
    for address, (_, size, _) in mapped.items():
        assert table.unmap(address + rng.randrange(size)) == size
        found = translate(lambda a: table.entries.get(a, 0), table.root, address, Access.READ, addr_width=WIDTH)
        assert found.fault == TranslationFault.PAGE_READ


def test_ranges_take_the_largest_pages():
    table = PageTable(iter(range(100)))
    start, end = 0x3FE00000 - 0x1000, 0x80201000
    table.map_range(start, start, end - start)
    sizes = [
        translate(lambda a: table.entries[a], table.root, va, Access.READ, addr_width=WIDTH).page_bytes
        for va in (start, 0x3FE00000, 0x40000000, 0x7FFFFFFF, 0x80000000, 0x80200000)
    ]
    assert sizes == [PAGE_SIZES[n] for n in (0, 1, 2, 2, 1, 0)]
    small = PageTable(iter(range(2000)))
    small.map_range(0, 0, 4 << 20, largest=4096)
    leaves = [e for e in small.entries.values() if e & Pte.R]
    assert len(leaves) == 1024


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.map_page(0, 0, size=8192), "size must be one of 4096, 2097152, 1073741824, not 8192"),
        (lambda t: t.map_page(1, 0), "address must be a multiple of the page size 0x1000 below .*, not 0x1"),
        (lambda t: t.map_page(0, 4096, size=2 << 20), "physical must be a multiple of the page size .*, not 0x1000"),
        (lambda t: t.map_page(1 << 38, 0), "address must have bits 63:39 equal to bit 38, not 0x4000000000"),
        (lambda t: t.map_page(2 << 20, 0), "address 0x200000 is already in a page of 2097152 bytes"),
        (lambda t: t.map_page(0, 0, size=2 << 20), "address 0x0 already has pages smaller than 2097152 bytes"),
        (lambda t: t.map_range(0, 0, 100), "size must be a positive multiple of 4096, not 100"),
        (lambda t: t.map_range(0, 0, 4096, largest=1), "largest must be one of .*, not 1"),
        (lambda t: entry(1 << 44, 1), r"page must be a physical page number from 0 to 2\*\*44 - 1, not 0x1.*"),
    ],
)
def test_messages(call, message):
    table = PageTable(iter(range(10)))
    table.map_page(0x1000, 0)
    table.map_page(2 << 20, 0, size=2 << 20)
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(table)


def test_unmapped():
    with pytest.raises(KeyError, match="no page is mapped at 0x5000"):
        PageTable(iter([1])).unmap(0x5000)
