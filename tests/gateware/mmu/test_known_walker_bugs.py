"""Six bugs that other page walkers have shipped with, a directed test for each; test_planted_bugs.py plants them."""

from collections.abc import Callable

import pytest
from lepton_npu.mmu.mmu import Mmu
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.page_table import PAGE_SIZES, READ_WRITE, PageTable, entry
from lepton_npu.spec.translation import PPN_BITS, RESERVED_LSB, Access, Invalidate, Pte, TranslationFault, fault_of
from lepton_verif.model.translation import BusError

from tests.gateware.mmu.mmu_bench import MmuDriver

CONFIG = PRESETS["tiny"]
FRAME_BITS = CONFIG.addr_width - 12
NONE, READ = TranslationFault.NONE, Access.READ
PAGE = 3 << 18 | 5 << 9 | 7
FRAME = 0x4242
ROOT = 0x100


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return Mmu


def mapped(frame: int = FRAME, *, root: int = ROOT, level: int = 0, page: int = PAGE) -> PageTable:
    """A table of its own pages that maps ``page``, in a page of ``level``, to ``frame``."""
    table, size = PageTable(iter(range(root, root + 8))), PAGE_SIZES[level]
    table.map_page((page << 12) // size * size, (frame << 12) // size * size, READ_WRITE, size=size)
    return table


def read_of(*tables: PageTable) -> Callable[[int], int]:
    entries = {place: value for table in tables for place, value in table.entries.items()}
    return lambda address: entries.get(address, 0)


def in_every_entry(check, unit) -> None:
    """``check(ask, table, place, level, leaf, access)`` for the entry of each level, of walks that end at each level.

    ``place`` is its address in ``table``, ``leaf`` the level where the walk ends. ``await ask(memory)``, by default of
    what is in ``table`` now, is fault, frame and reads of a request for `PAGE` that meets an empty TLB.
    """
    driver = MmuDriver(CONFIG, read_of(), unit=unit)

    async def process(ctx):
        for leaf in range(3):
            for level in range(leaf, 3):
                for access in Access:
                    table = mapped(level=leaf)
                    place = table.place(PAGE << 12, level)

                    async def ask(memory=None, table=table, access=access):
                        driver.memory = memory or read_of(table)
                        await driver.cycle(ctx, invalidate=(Invalidate.ALL, 0, 0))
                        return await driver.one(ctx, PAGE, access, 1, ROOT)

                    await check(ask, table, place, level, leaf, access)

    driver.simulate(process)


def test_reserved_or_a_d_u_bits_in_an_entry_that_is_no_leaf(unit):
    """Each of A, D, U and 63:54 in a pointer: a page fault, and nothing below it is read. RSW and G: none."""

    async def check(ask, table, place, level, leaf, access):
        good = table.entries[place]
        if level == leaf:
            return
        for bit in (6, 7, 4, *range(RESERVED_LSB, 64)):
            table.entries[place] = good | 1 << bit
            fault, _, reads = await ask()
            assert (fault, len(reads)) == (fault_of(access, page=True), 3 - level), f"bit {bit} at level {level}"
        for bits in (0, 1 << 8, 1 << 9, int(Pte.G)):
            table.entries[place] = good | bits
            fault, _, reads = await ask()
            assert (fault, len(reads)) == (NONE, 3 - leaf)
        table.entries[place] = good

    in_every_entry(check, unit)


@pytest.mark.parametrize("requester", range(3))
def test_refill_belongs_to_the_space_of_its_request(requester, unit):
    """While a walk of ASID 5 runs, others look up in ASID 6: the entry is of ASID 5, and from its root."""
    mine, others = mapped(), mapped(FRAME + 1, root=ROOT + 8)
    others.map_page(0, 0x9000)
    driver = MmuDriver(CONFIG, read_of(mine, others), latency=4, unit=unit)

    async def process(ctx):
        await driver.one(ctx, 0, READ, 6, others.root)
        for beside in ([], [n for n in range(3) if n != requester]):
            await driver.cycle(ctx, invalidate=(Invalidate.ASID, 5, 0))
            driver.ask[requester].append((PAGE, READ, 5, mine.root))
            for number in beside:
                driver.ask[number].extend([(0, READ, 6, others.root)] * 40)
            await driver.until_answered(ctx)
            assert driver.answers[requester][-1][1:] == (NONE, FRAME)
            # There for its own space, and for no other.
            assert await driver.one(ctx, PAGE, READ, 5, mine.root) == (NONE, FRAME, [])
            fault, frame, reads = await driver.one(ctx, PAGE, READ, 6, others.root, requester=(requester + 1) % 3)
            assert (fault, frame, len(reads)) == (NONE, FRAME + 1, 3)
            await driver.cycle(ctx, invalidate=(Invalidate.ASID_ADDRESS, 6, PAGE))

    driver.simulate(process)


@pytest.mark.parametrize("kind", Invalidate)
@pytest.mark.parametrize("latency", [1, 4])
def test_no_refill_of_a_walk_that_a_flush_has_met(kind, latency, unit):
    """The page goes elsewhere and is invalidated, at every cycle of its walk: no later answer, and no entry, is old.

    An invalidation that names another space or page has the walk begin again, too.
    """
    old, new = mapped(FRAME), mapped(FRAME + 1)
    driver = MmuDriver(CONFIG, read_of(old), latency=latency, unit=unit)
    last = 15 + 3 * (latency - 1)

    async def process(ctx):
        for asid, page in ((1, PAGE), (2, PAGE ^ 1 << 20)):
            for when in range(last + 3):
                driver.memory = read_of(old)
                await driver.cycle(ctx, invalidate=(Invalidate.ALL, 0, 0))
                driver.forget()
                driver.ask[0].append((PAGE, READ, 1, ROOT))
                for _ in range(when):
                    await driver.cycle(ctx)
                flushed = driver.now
                await driver.cycle(ctx, invalidate=(kind, asid, page))
                driver.memory = read_of(new)
                await driver.until_answered(ctx)
                cycle, fault, frame = driver.answers[0][-1]
                assert (fault, frame) == (NONE, FRAME + (cycle > flushed)), f"flush {when} cycles after the request"
                assert cycle <= flushed + last + latency + 2
                if cycle > flushed:
                    assert await driver.one(ctx, PAGE, READ, 1, ROOT) == (NONE, FRAME + 1, [])

    driver.simulate(process)


def test_page_number_that_is_too_high(unit):
    """Each bit that no address has, in root, pointers, leaves: an access fault, and never a read elsewhere."""

    async def check(ask, table, place, level, leaf, access):
        good = table.entries[place]
        for bit in range(FRAME_BITS, PPN_BITS, 1 if access == READ else 15):
            table.entries[place] = good | 1 << 10 + bit
            fault, _, reads = await ask()
            assert (fault, len(reads)) == (fault_of(access, page=False), 3 - level), f"bit {bit} at level {level}"
        table.entries[place] = good | 1 << 10 + FRAME_BITS - 1  # the highest bit there is
        fault, frame, reads = await ask()
        if level == leaf:
            assert (fault, frame >> FRAME_BITS - 1, len(reads)) == (NONE, 1, 3 - leaf)
        table.entries[place] = good

    in_every_entry(check, unit)
    driver = MmuDriver(CONFIG, read_of(mapped()), unit=unit)

    async def roots(ctx):
        for bit in range(FRAME_BITS, PPN_BITS):
            for access in Access:
                fault, _, reads = await driver.one(ctx, PAGE, access, 1, ROOT | 1 << bit)
                assert (fault, reads) == (fault_of(access, page=False), [])

    driver.simulate(roots)


@pytest.mark.parametrize("requester", range(3))
def test_walk_after_a_walk_with_a_fault(requester, unit):
    """After each kind of fault the next walk, which waited or comes later, is made in full: same page, and another."""
    table = mapped()
    table.map_page((PAGE + 1) << 12, (FRAME + 1) << 12)
    empty, loop, broken, beyond = 0x200, 0x201, 0x202, 1 << PPN_BITS - 1
    good = read_of(table)

    def memory(address):
        if address >> 12 == broken:
            raise BusError(0b10, table.entries[table.place(PAGE << 12, 0)])
        return entry(loop, int(Pte.V)) if address >> 12 == loop else good(address)

    driver = MmuDriver(CONFIG, memory, latency=2, unit=unit)

    async def process(ctx):
        for root, page, fault in (
            (empty, PAGE, TranslationFault.PAGE_READ),
            (loop, PAGE, TranslationFault.PAGE_READ),
            (broken, PAGE, TranslationFault.ACCESS_READ),
            (beyond, PAGE, TranslationFault.ACCESS_READ),
            (ROOT, PAGE | 1 << 40, TranslationFault.PAGE_READ),
        ):
            for then in (PAGE, PAGE + 1):
                places = [table.place(then << 12, level) for level in (2, 1, 0)]
                for waits in (True, False):
                    await driver.cycle(ctx, invalidate=(Invalidate.ALL, 0, 0))
                    driver.forget()
                    driver.ask[0].append((page, READ, 2, root))
                    if not waits:
                        await driver.until_answered(ctx)
                    else:  # the walk with the fault is to be the first
                        await driver.cycle(ctx)
                    driver.ask[requester].append((then, READ, 1, ROOT))
                    await driver.until_answered(ctx)
                    assert driver.answers[0][0][1] == fault
                    assert driver.answers[requester][-1][1:] == (NONE, FRAME + then - PAGE)
                    assert [address for _, address in driver.reads][-3:] == places
                    assert await driver.one(ctx, then, READ, 1, ROOT) == (NONE, FRAME + then - PAGE, [])

    driver.simulate(process)


def test_error_response_is_an_access_fault(unit):
    """SLVERR and DECERR at each level: an access fault, whatever the data are, and the walk is over."""

    async def check(ask, table, place, level, leaf, access):
        good = read_of(table)
        for response in (0b10, 0b11):
            for data in (table.entries[place], 0, (1 << 64) - 1):

                def memory(address, data=data, response=response):
                    if address == place:
                        raise BusError(response, data)
                    return good(address)

                fault, _, reads = await ask(memory)
                assert (fault, len(reads)) == (fault_of(access, page=False), 3 - level)
        fault, _, reads = await ask()
        assert (fault, len(reads)) == (NONE, 3 - leaf)

    in_every_entry(check, unit)
