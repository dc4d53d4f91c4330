"""`Mmu` cycle by cycle: latencies, hits while a walk runs, the order of answers, requesters that do not take them."""

import random

import pytest
from lepton_npu.mmu.mmu import Mmu
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.page_table import PAGE_SIZES, READ_WRITE, PageTable
from lepton_npu.spec.translation import PPN_LSB, Access, Invalidate, TranslationFault

from tests.gateware.mmu.mmu_bench import MmuDriver

CONFIG = PRESETS["tiny"]
NONE, READ = TranslationFault.NONE, Access.READ
ROOT = 0x100
FIRST_FRAME = 0x8000
POINTERS = (Invalidate.ASID_ADDRESS, 0xEE, 0)
"""An invalidation that takes out none of these tests' entries, but the walker's pointers."""


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return Mmu


def table_of_pages(pages: int, size: int = PAGE_SIZES[0]) -> PageTable:
    """Pages 0, 1, ... of a size are frames from `FIRST_FRAME` on."""
    table = PageTable(iter(range(ROOT, ROOT + 10)))
    for number in range(pages):
        table.map_page(number * size, (FIRST_FRAME << 12) // size * size + number * size, READ_WRITE, size=size)
    return table


def driver_of(table: PageTable, latency: int, unit) -> MmuDriver:
    return MmuDriver(CONFIG, lambda address: table.entries.get(address, 0), latency=latency, unit=unit)


def request(page: int, asid: int = 1) -> tuple[int, Access, int, int]:
    return page, READ, asid, ROOT


@pytest.mark.parametrize("latency", [1, 2, 9])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_latency(latency, levels, unit):
    """A hit takes 3 cycles; a miss 6, and 3 for each level, and as many more as each read takes longer than a cycle."""
    driver = driver_of(table_of_pages(4, PAGE_SIZES[3 - levels]), latency, unit)
    pages = 512 ** (3 - levels)

    async def process(ctx):
        for number in range(4):
            requester = number % 3
            await driver.cycle(ctx, invalidate=POINTERS)
            for expected in (6 + levels * (2 + latency), 3):
                assert await driver.one(ctx, number * pages, READ, 1, ROOT, requester=requester)
                when, fault, frame = driver.answers[requester][-1]
                assert (fault, frame) == (NONE, FIRST_FRAME // pages * pages + number * pages)
                assert when - driver.accepted[requester][-1] == expected
        assert (driver.hits, driver.misses) == (4, 4)

    driver.simulate(process)


@pytest.mark.parametrize("latency", [1, 9])
def test_latency_with_a_kept_pointer(latency, unit):
    """A miss in the 2 MiB of the one before, for the same access, reads one entry and takes 9 cycles."""
    driver = driver_of(table_of_pages(6), latency, unit)

    async def process(ctx):
        await driver.one(ctx, 0, READ, 1, ROOT)
        for page in range(1, 6):
            fault, frame, reads = await driver.one(ctx, page, READ, 1, ROOT, requester=page % 3)
            assert (fault, frame, len(reads)) == (NONE, FIRST_FRAME + page, 1)
            assert driver.answers[page % 3][-1][0] - driver.accepted[page % 3][-1] == 8 + latency

    driver.simulate(process)


def test_hits_go_on_while_a_walk_runs(unit):
    """Of two requesters one each cycle, in turn, of one alone every other cycle; the one that walks waits."""
    driver = driver_of(table_of_pages(4), 40, unit)

    async def process(ctx):
        for others in ((1, 2), (1,)):
            await driver.cycle(ctx, invalidate=(0, 0, 0))
            for page in (1, 2):
                await driver.one(ctx, page, READ, 1, ROOT)
            await driver.cycle(ctx, invalidate=POINTERS)
            driver.forget()
            driver.ask[0].extend([request(3), request(1)])
            while not driver.reads:
                await driver.cycle(ctx)
            start = driver.now
            for number in others:
                driver.ask[number].extend([request(number)] * 200)
            for _ in range(100):
                await driver.cycle(ctx)
            assert driver.accepted[0][1:] == []  # the walk takes 3 * 42 cycles
            accepted = sorted((cycle, n) for n in others for cycle in driver.accepted[n])
            every = 2 // len(others)
            assert accepted == [(start + every * k, others[k % len(others)]) for k in range(100 // every)]
            answered = sorted((cycle, n) for n in others for cycle, *_ in driver.answers[n])
            assert answered == [(when + 3, n) for when, n in accepted if when + 3 < start + 100]
            for n in others:
                assert {answer[1:] for answer in driver.answers[n]} == {(NONE, FIRST_FRAME + n)}
            await driver.until_answered(ctx)
            assert [answer[1:] for answer in driver.answers[0]] == [(NONE, FIRST_FRAME + 3), (NONE, FIRST_FRAME + 1)]
            assert driver.answers[0][0][0] == driver.accepted[0][0] + 15 + 3 * 39
            assert driver.misses == 1

    driver.simulate(process)


def test_later_requests_wait_for_a_walk(unit):
    """Misses, hits and faults in a row: answers in the order of the requests, whoever else asks."""
    table = table_of_pages(3)
    driver = driver_of(table, 5, unit)
    pages = [0, 1, 0, 7, 1, 2, 0, 8, 8, 0]  # 7 and 8 are not mapped

    async def process(ctx):
        for number in range(3):
            driver.ask[number].extend(request(page) for page in pages)
        await driver.until_answered(ctx)
        for number in range(3):
            expected = [(NONE, FIRST_FRAME + page) if page < 3 else TranslationFault.PAGE_READ for page in pages]
            found = [(fault, frame) if fault == NONE else fault for _, fault, frame in driver.answers[number]]
            assert found == expected

    driver.simulate(process)


def test_walks_that_wait_are_served_in_turn(unit):
    """Each requester misses all the time: 0, 1, 2, 0, 1, 2, ..."""
    driver = driver_of(table_of_pages(30), 2, unit)

    async def process(ctx):
        for number in range(3):
            driver.ask[number].extend(request(10 * number + k) for k in range(10))
        await driver.until_answered(ctx)
        order = [number for _, number in sorted((a[0], n) for n in range(3) for a in driver.answers[n])]
        assert order == [(order[0] + k) % 3 for k in range(30)]
        for number in range(3):
            assert [a[2] for a in driver.answers[number]] == [FIRST_FRAME + 10 * number + k for k in range(10)]

    driver.simulate(process)


def test_answers_that_are_not_taken(unit):
    """Four wait, and no more is accepted; another goes on at full rate; afterwards all come in their order."""
    driver = driver_of(table_of_pages(4), 1, unit)

    async def process(ctx):
        for page in range(4):
            await driver.one(ctx, page, READ, 1, ROOT)
        driver.forget()
        driver.takes[0] = False
        driver.ask[0].extend(request(k % 4) for k in range(12))
        for _ in range(30):
            await driver.cycle(ctx)
        assert (len(driver.accepted[0]), driver.answers[0]) == (4, [])
        start = driver.now
        driver.ask[1].extend([request(1)] * 50)
        while driver.ask[1]:
            await driver.cycle(ctx)
        assert driver.accepted[1] == list(range(start, start + 100, 2))
        driver.takes[0] = True
        await driver.until_answered(ctx)
        assert [a[1:] for a in driver.answers[0]] == [(NONE, FIRST_FRAME + k % 4) for k in range(12)]

    driver.simulate(process)


def test_a_walk_that_ends_while_answers_wait(unit):
    """Three hits that are not taken and a miss: its answer waits behind them, and nobody waits for it."""
    driver = driver_of(table_of_pages(6), 3, unit)

    async def process(ctx):
        for page in range(4):
            await driver.one(ctx, page, READ, 1, ROOT)
        driver.forget()
        driver.takes[0] = False
        driver.ask[0].extend(request(k) for k in (0, 1, 2, 5))
        for _ in range(40):
            await driver.cycle(ctx)
        driver.ask[1].append(request(4))
        for _ in range(40):
            await driver.cycle(ctx)
        assert [a[1:] for a in driver.answers[1]] == [(NONE, FIRST_FRAME + 4)]
        driver.takes[0] = True
        await driver.until_answered(ctx)
        assert [a[1:] for a in driver.answers[0]] == [(NONE, FIRST_FRAME + k) for k in (0, 1, 2, 5)]

    driver.simulate(process)


def test_halt_rests_a_walk_and_not_the_hits(seed, unit):
    """Halted at every cycle of a walk: no read begins, hits go on, and the walk goes on where it was."""
    driver = driver_of(table_of_pages(6), 2, unit)
    length = random.Random(seed).randrange(5, 20)

    async def process(ctx):
        for when in range(20):
            await driver.cycle(ctx, invalidate=(0, 0, 0))
            await driver.one(ctx, 1, READ, 1, ROOT)
            await driver.cycle(ctx, invalidate=POINTERS)
            driver.forget()
            driver.ask[0].append(request(3))
            for _ in range(when):
                await driver.cycle(ctx)
            driver.halt, before = True, len(driver.reads)
            driver.ask[1].extend([request(1)] * length)
            start = driver.now
            while driver.ask[1]:
                await driver.cycle(ctx)
            assert driver.accepted[1] == list(range(start, start + 2 * length, 2)) or when == 0
            assert len(driver.reads) == before
            driver.halt = False
            await driver.until_answered(ctx)
            assert [a[1:] for a in driver.answers[0]] == [(NONE, FIRST_FRAME + 3)]
            assert len(driver.reads) == 3

    driver.simulate(process)


@pytest.mark.parametrize("kind", Invalidate)
def test_invalidation_in_a_stream_of_hits(kind, unit):
    """The last frame from before is that of the page looked up in the cycle of the invalidation; the next one walks."""
    table = table_of_pages(4)
    driver = driver_of(table, 2, unit)

    async def process(ctx):
        for when in range(6):
            for number, page in enumerate((1, 2, 3)):
                await driver.one(ctx, page, READ, 1, ROOT, requester=number)
            driver.forget()
            driver.ask[0].extend([request(1)] * 12)
            driver.ask[2].extend([request(2)] * 12)
            for _ in range(when):
                await driver.cycle(ctx)
            flushed = driver.now
            await driver.cycle(ctx, invalidate=(kind, 1, 1))
            for page in (1, 2):
                place = table.place(page << 12, 0)
                table.entries[place] ^= 16 << PPN_LSB
            await driver.until_answered(ctx)
            for number, page in ((0, 1), (2, 2)):
                named = page == 1 or kind in (Invalidate.ALL, Invalidate.ASID)
                for accepted, (_, fault, frame) in zip(driver.accepted[number], driver.answers[number], strict=True):
                    old = not named or accepted + 1 <= flushed
                    assert (fault, frame) == (NONE, FIRST_FRAME + page ^ 16 * ((when + (not old)) % 2))
            await driver.cycle(ctx, invalidate=(Invalidate.ALL, 0, 0))

    driver.simulate(process)


def test_message():
    with pytest.raises(ValueError, match=r"^requesters must be 2 or more, not 1$"):
        Mmu(CONFIG, 1)
