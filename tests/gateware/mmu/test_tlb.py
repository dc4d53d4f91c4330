"""The TLB alone against its model: every lookup of every cycle, while entries come and are taken out."""

import random
from dataclasses import replace

import pytest
from lepton_npu.mmu.tlb import Tlb
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_npu.spec.translation import Invalidate
from lepton_verif.model.tlb import TlbEntry

from tests.gateware.mmu.tlb_bench import TlbDriver

CONFIGS = {
    2: NpuConfig(**PRESETS["tiny"].as_dict() | {"tlb_entries": 2, "addr_width": 33}),
    4: PRESETS["tiny"],
    16: NpuConfig(**PRESETS["tiny"].as_dict() | {"tlb_entries": 16, "addr_width": 56}),
}


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return Tlb


def random_cycles(seed: int, entries: int, cycles: int, unit=Tlb) -> TlbDriver:
    """Each cycle three lookups; refills of all sizes and spaces back to back or not; invalidations of all kinds."""
    rng = random.Random(f"{seed} {entries}")
    driver = TlbDriver(rng, CONFIGS[entries], unit)

    async def process(ctx):
        new = None
        for number in range(cycles):
            if number % 256 == 0:  # from few invalidations, in which the TLB is full, to many
                fills, invalidations = rng.choice((0.1, 0.6, 1.0)), rng.choice((0.0, 0.02, 0.1, 0.3))
            if new is None and rng.random() < fills:
                page = driver.page()
                new = (driver.entry(page), page)
            invalidation = None
            if rng.random() < invalidations:
                kind = rng.choice([*Invalidate, Invalidate.ASID_ADDRESS, Invalidate.ASID_ADDRESS, Invalidate.ADDRESS])
                e = rng.choice(driver.model.places)
                known = e and rng.random() < 0.7
                page = e.first + rng.randrange(e.pages) if known else driver.page()
                invalidation = (kind, e.asid if known else rng.choice(driver.asids), page)
            lookups = [(driver.page(), rng.choice(driver.asids), rng.random() < 0.5)]
            for e in rng.sample(driver.model.places, 2):
                if e:  # in the page, at its ends, or beside it; in its space, or in another
                    page = rng.choice((e.first, e.first + e.pages - 1, e.first + rng.randrange(e.pages)))
                    page ^= 1 << rng.randrange(27) if rng.random() < 0.2 else 0
                    asid = e.asid if rng.random() < 0.6 else rng.choice(driver.asids)
                    lookups.append((page, asid, rng.random() < 0.5))
            if await driver.cycle(ctx, lookups, new=new, invalidation=invalidation):
                new = None

    driver.simulate(process)
    return driver


@pytest.mark.parametrize("entries", CONFIGS)
def test_random(seed, entries):
    seen = random_cycles(seed, entries, 3000 if entries < 16 else 2000).seen
    for pages in (1, 512, 512 * 512):
        assert min(seen["hit", pages, whose] for whose in ("own", "global")) > 2, seen
    for event in ("room", *Invalidate):
        assert seen[event, True] > 0, seen
    for event in (
        "room",
        Invalidate.ADDRESS,
        Invalidate.ASID_ADDRESS,
    ):  # the others always find something in a full TLB
        assert seen[event, False] > 0, seen
    assert min(seen["hit"], seen["miss"], seen["fill", False]) > 200, seen


def test_overlap(unit):
    """Each size over and under each other, in the same space, in another, and global: just one is hit afterwards."""
    driver = TlbDriver(random.Random(1), CONFIGS[4], unit)
    page = 5 << 18 | 6 << 9 | 7
    cases = [
        (old, new, *globals_, same)
        for old in range(3)
        for new in range(3)
        for globals_ in ((False, False), (False, True), (True, False), (True, True))
        for same in (False, True)
    ]

    async def process(ctx):
        for old_level, new_level, old_global, new_global, same in cases:
            await driver.cycle(ctx, invalidation=(Invalidate.ALL, 0, 0))
            # The new page is another one, where both sizes have room for that.
            other = page ^ sum(1 << 9 * level for level in range(max(old_level, new_level)))
            old = TlbEntry.of(page, old_level, 9, old_global, 1 << 18, True)
            new = TlbEntry.of(other, new_level, 9 if same else 8, new_global, 2 << 18, True)
            await driver.put(ctx, old, page)
            await driver.put(ctx, new, other)
            assert (old in driver.model.places) == (not (same or old_global or new_global))
            pages = [p ^ n for p in (page, other) for n in (0, 1, 1 << 8, 1 << 9, 1 << 17, 1 << 18, 1 << 26)]
            await driver.cycle(ctx, [(p, asid, False) for p in pages for asid in (8, 9, 10)])

    driver.simulate(process)


def test_an_entry_that_allows_more_replaces(unit):
    """A page that becomes writable: the writing misses the old entry, and its refill takes that out."""
    driver = TlbDriver(random.Random(1), CONFIGS[4], unit)

    async def process(ctx):
        old = TlbEntry.of(77, 0, 3, False, 123, False)
        await driver.put(ctx, old)
        await driver.cycle(ctx, [(77, 3, True), (77, 3, False)])
        assert driver.seen["hit"] == driver.seen["miss"] == 1
        await driver.put(ctx, replace(old, writable=True, frame=99))
        await driver.cycle(ctx, [(77, 3, True), (77, 3, False)])
        assert driver.seen["hit"] == 3

    driver.simulate(process)


def test_round_robin(unit):
    """With more pages than entries the oldest goes, also after entries in the middle were taken out."""
    config = CONFIGS[4]
    driver = TlbDriver(random.Random(1), config, unit)

    async def process(ctx):
        for number in range(11):
            await driver.put(ctx, TlbEntry.of(number, 0, 1, False, 1000 + number, True))
            await driver.cycle(ctx, [(page, 1, False) for page in range(12)])
            assert [bool(driver.model.found(p, 1, False)) for p in range(12)] == [
                number - config.tlb_entries < p <= number for p in range(12)
            ]
        await driver.cycle(ctx, invalidation=(Invalidate.ADDRESS, 0, 9))
        for number in range(20, 26):
            await driver.put(ctx, TlbEntry.of(number, 0, 1, False, 1000 + number, True))
            await driver.cycle(ctx, [(page, 1, False) for page in range(7, 26)])

    driver.simulate(process)


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("kind", Invalidate)
def test_invalidation_beside_a_refill(kind, when, unit):
    """In the cycle before, the first, the second, the one after: an entry is not there if it began before."""
    driver = TlbDriver(random.Random(1), CONFIGS[4], unit)
    entry = TlbEntry.of(0x1234567, 1, 3, False, 1 << 9, True)

    async def process(ctx):
        new, seen = (entry, 0x1234567), []
        for cycle in range(5):
            invalidation = (kind, 3, 0x1234500) if cycle == when else None
            offered = new if cycle >= 1 else None
            if await driver.cycle(ctx, [(0x12345FF, 3, True)], new=offered, invalidation=invalidation):
                new = None
            seen.append(bool(driver.model.found(0x12345FF, 3, True)))
        # The first cycle of the refill is 1.
        assert seen == [False, False, when in (0, 3), when == 0, when == 0]

    driver.simulate(process)
