"""The page walker alone: cycles, addresses and results of each walk, halted, told to begin again, and with errors."""

import random
from collections import Counter
from itertools import combinations

import pytest
from lepton_npu.mmu.walker import PageWalker
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_npu.spec.page_table import READ_ONLY, entry
from lepton_npu.spec.translation import PPN_BITS, Access, Pte, TranslationFault, fault_of
from lepton_verif.model.mmu import WalkerModel

from tests.gateware.mmu.walker_bench import GOOD, Tables, WalkerBench

CONFIG = PRESETS["tiny"]
ROOT, TABLES, FRAME = 0x41, [0x1042, 0x20043], 0x5123456
PAGE = 0x1F << 18 | 0x155 << 9 | 0xAB


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return PageWalker


def config_of(addr_width: int, bus_width: int = 64) -> NpuConfig:
    preset = PRESETS["ecp5" if bus_width == 256 else "tiny"]
    return NpuConfig(**preset.as_dict() | {"addr_width": addr_width, "bus_width": bus_width, "max_burst": 16})


def three_levels(frame: int = FRAME, tables=TABLES, flags: int = GOOD, seed: int = 0) -> Tables:
    return Tables.path(ROOT, PAGE, tables, entry(frame, flags), seed=seed)


def outcomes() -> dict[str, tuple[Tables, int, int]]:
    """Name: tables, root and page of every way to end, after no read to three."""
    beyond = 1 << CONFIG.addr_width - 12
    return {
        "not canonical": (three_levels(), ROOT, PAGE | 1 << 30),
        "root beyond": (three_levels(), ROOT | beyond, PAGE),
        "giga": (Tables.path(ROOT, PAGE, [], entry(5 << 18, GOOD)), ROOT, PAGE),
        "invalid": (Tables.path(ROOT, PAGE, [], 0), ROOT, PAGE),
        "table beyond": (Tables.path(ROOT, PAGE, [beyond], 0), ROOT, PAGE),
        "mega": (Tables.path(ROOT, PAGE, TABLES[:1], entry(77 << 9, GOOD)), ROOT, PAGE),
        "misaligned": (Tables.path(ROOT, PAGE, TABLES[:1], entry(1, GOOD)), ROOT, PAGE),
        "second table beyond": (Tables.path(ROOT, PAGE, [TABLES[0], beyond], 0), ROOT, PAGE),
        "small": (three_levels(), ROOT, PAGE),
        "frame beyond": (three_levels(beyond), ROOT, PAGE),
        "pointer": (three_levels(flags=Pte.V), ROOT, PAGE),
    }


def cycles_of(found, *, beyond: bool, latency: int = 1, ar_delay: int = 0) -> int:
    """BEGIN, then 3 cycles a read and what it waits; a table that is not read takes the one in which that is seen."""
    return 2 + len(found.reads) * (2 + latency + ar_delay) + beyond


@pytest.mark.parametrize(("latency", "ar_delay"), [(1, 0), (2, 0), (9, 0), (1, 3), (4, 2)])
def test_latency(latency, ar_delay, unit):
    """Every way to end, to the cycle; 11 cycles for three levels; walks follow one another."""
    bench = WalkerBench(CONFIG, unit)

    async def process(ctx):
        for name, (tables, root, page) in outcomes().items():
            for access in Access:
                expected = bench.expected(tables, root, page, access)
                walk = await bench.walk(ctx, tables, root, page, access, latency=latency, ar_delay=ar_delay)
                bench.check(walk, expected, page)
                beyond = "table beyond" in name or name == "root beyond"
                assert walk.cycles == cycles_of(expected, beyond=beyond, latency=latency, ar_delay=ar_delay), name
                if name == "small" and (latency, ar_delay) == (1, 0):
                    assert walk.cycles == 11

    bench.simulate(process)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_halt_at_every_cycle(length, unit):
    """No read begins, and a walk goes on where it was: as much later as a read was held up, and no more."""
    bench = WalkerBench(CONFIG, unit)

    async def process(ctx):
        for ar_delay in (0, 2):
            for start in range(24):
                tables = three_levels()
                walk = await bench.walk(
                    ctx, tables, ROOT, PAGE, ar_delay=ar_delay, halt=lambda c, s=start: s <= c < s + length
                )
                bench.check(walk, bench.expected(tables, ROOT, PAGE, Access.READ), PAGE)
                cycle, offered = 2, []
                for _ in range(3):
                    while start <= cycle < start + length:
                        cycle += 1
                    offered.append(cycle)
                    cycle += 3 + ar_delay
                assert (walk.offered, walk.cycles) == (offered, cycle)

    bench.simulate(process)


def changed(number: int) -> list[Tables]:
    """What memory may become in the middle of a walk: another path, another end of it, or the old one broken."""
    return [
        three_levels(0x777 + number, [0x91 + number, 0x30092], seed=number),
        Tables.path(ROOT, PAGE, [TABLES[0]], entry((number + 3) << 9, READ_ONLY | Pte.G), seed=number),
        Tables.path(ROOT, PAGE, [], entry((number + 3) << 18, GOOD), seed=number),
        three_levels(flags=GOOD & ~Pte.A, seed=number),
        Tables.path(ROOT, PAGE, [1 << PPN_BITS - 1], 0, seed=number),
    ]


async def restarted(bench, ctx, old: Tables, later: list[Tables], restarts, **timing) -> None:
    """One walk: its result and its last reads are of the last memory; before, it read what was its path then."""
    walk = await bench.walk(ctx, old, ROOT, PAGE, restarts=restarts, later=later, **timing)
    seen = [r for r in sorted(restarts) if r <= walk.cycles]
    memories = [old, *later][: len(seen) + 1]
    reads = 0
    for number, memory in enumerate(memories):
        expected = bench.expected(memory, ROOT, PAGE, Access.READ)
        until = seen[number] if number < len(seen) else walk.cycles
        # What was offered in the cycle of a restart, or before, is of the memory of that time.
        count = sum(o <= until for o in walk.offered) - reads
        if number < len(memories) - 1:
            assert walk.reads[reads : reads + count] == list(expected.reads)[:count], "addresses of a walk cut short"
            reads += count
        else:
            bench.check(walk, expected, PAGE, reads)
    if seen and "halt" not in timing:
        one = 2 + timing.get("latency", 1) + timing.get("ar_delay", 0)
        assert walk.cycles <= seen[-1] + one + 1 + cycles_of(expected, beyond=False) + 1 + 3 * (one - 3)


@pytest.mark.parametrize(("latency", "ar_delay"), [(1, 0), (3, 0), (1, 2), (3, 2)])
def test_restart_at_every_cycle(latency, ar_delay, unit):
    """Invalidations at each cycle, that of the taking too: the walk begins again, and none of the old one is left."""
    bench = WalkerBench(CONFIG, unit)
    last = 2 + 3 * (2 + latency + ar_delay) + 3  # the result waits for 3 cycles

    async def process(ctx):
        for start in range(last + 1):
            for new in changed(start):
                await restarted(
                    bench, ctx, three_levels(), [new], [start], latency=latency, ar_delay=ar_delay, take_delay=3
                )

    bench.simulate(process)


def test_two_restarts(unit):
    """At each pair of cycles; and three in a row."""
    bench = WalkerBench(CONFIG, unit)
    rng = random.Random(1)

    async def process(ctx):
        for first, second in combinations(range(24), 2):
            later = [rng.choice(changed(50)), rng.choice(changed(90))]
            await restarted(bench, ctx, three_levels(), later, [first, second], latency=rng.choice((1, 1, 3)))
        for start in range(14):
            later = [rng.choice(changed(n)) for n in (50, 90, 130)]
            await restarted(bench, ctx, three_levels(), later, range(start, start + 3))

    bench.simulate(process)


def test_restart_while_halted(unit):
    """A walk that halt keeps from its next read does not make that read after it was told to begin again."""
    bench = WalkerBench(CONFIG, unit)

    async def process(ctx):
        for start in range(12):
            for at in range(start, start + 6):
                for new in changed(at)[:2]:
                    for ar_delay in (0, 3):
                        await restarted(
                            bench, ctx, three_levels(), [new], [at],
                            ar_delay=ar_delay, halt=lambda c, s=start: s <= c < s + 6,
                        )  # fmt: skip

    bench.simulate(process)


@pytest.mark.parametrize("response", [1, 2, 3])
def test_error_response_at_each_level(response, unit):
    """SLVERR and DECERR are access faults, whatever the data look like, and the last read; EXOKAY is none."""
    bench = WalkerBench(CONFIG, unit)

    async def process(ctx):
        for level in range(3):
            for access in Access:
                for data in (0, int(Pte.V), entry(TABLES[0], Pte.V), entry(5 << 18, GOOD), (1 << 64) - 1, None):
                    tables = three_levels()
                    place = list(tables.entries)[level]
                    tables.responses[place] = response
                    if data is not None and response != 1:
                        tables.entries[place] = data
                    walk = await bench.walk(ctx, tables, ROOT, PAGE, access)
                    bench.check(walk, bench.expected(tables, ROOT, PAGE, access), PAGE)
                    if response == 1:
                        assert walk.fault == TranslationFault.NONE
                    else:
                        assert walk.fault == fault_of(access, page=False)
                        assert len(walk.reads) == level + 1

    bench.simulate(process)


@pytest.mark.parametrize("addr_width", [32, 40, 56, 64])
def test_page_numbers_beyond_the_bus(addr_width, unit):
    """Each bit of the root, of each pointer and leaf: a fault, and no read, from addr_width on; used below it."""
    config = config_of(addr_width)
    bench = WalkerBench(config, unit)
    reachable = min(addr_width - 12, PPN_BITS)

    async def process(ctx):
        for bit in range(PPN_BITS):
            number = 1 << bit
            aligned = 1 << max(bit, 18)
            cases = [
                (number, Tables.path(number, PAGE, TABLES, entry(FRAME % (1 << 20), GOOD))),
                (ROOT, Tables.path(ROOT, PAGE, [number | 1, TABLES[1]], entry(3, GOOD))),
                (ROOT, Tables.path(ROOT, PAGE, [TABLES[0], number | 1], entry(3, GOOD))),
                (ROOT, Tables.path(ROOT, PAGE, TABLES, entry(number, GOOD))),
                (ROOT, Tables.path(ROOT, PAGE, [], entry(aligned, GOOD))),
            ]
            for place, (root, tables) in enumerate(cases):
                walk = await bench.walk(ctx, tables, root, PAGE, Access.WRITE)
                bench.check(walk, bench.expected(tables, root, PAGE, Access.WRITE), PAGE)
                beyond = (aligned.bit_length() - 1 if place == 4 else bit) >= reachable
                assert walk.fault == (TranslationFault.ACCESS_WRITE if beyond else TranslationFault.NONE)
                assert len(walk.reads) == ((0, 1, 2, 3, 1)[place] if beyond else (3, 3, 3, 3, 1)[place])

    bench.simulate(process)


@pytest.mark.parametrize("bus_width", [64, 128, 256])
def test_lanes_of_the_bus(bus_width, unit):
    """An entry comes from its lane of the beat, at each level."""
    bench = WalkerBench(config_of(40, bus_width), unit)

    async def process(ctx):
        rng = random.Random(bus_width)
        for seed in range(12):
            page = rng.getrandbits(26)
            for new in (Tables.path(ROOT, page, TABLES[:n], entry(9 << 18, GOOD), seed=seed) for n in range(3)):
                walk = await bench.walk(ctx, new, ROOT, page)
                assert walk.fault == TranslationFault.NONE
                bench.check(walk, bench.expected(new, ROOT, page, Access.READ), page)

    bench.simulate(process)


def random_walks(seed: int, walks: int, unit=PageWalker) -> Counter:
    """Paths of which any step may be wrong; delays, halts, and memory that changes, all at random."""
    rng = random.Random(f"{seed} walker")
    bench = WalkerBench(CONFIG, unit, seed)
    seen: Counter = Counter()

    def some(page: int, root: int) -> Tables:
        depth = rng.choice((0, 1, 2, 2))
        tables = [
            rng.getrandbits(28) | (1 << rng.randrange(28, 44) if rng.random() < 0.03 else 0) for _ in range(depth)
        ]
        flags = [Pte.V | (1 << rng.randrange(8) if rng.random() < 0.1 else 0) for _ in range(2)]
        leaf = GOOD ^ (1 << rng.randrange(8) if rng.random() < 0.4 else 0)
        frame = rng.getrandbits(28) >> 9 * (2 - depth) << 9 * (2 - depth)
        frame ^= 1 << rng.randrange(44) if rng.random() < 0.1 else 0
        result = Tables.path(
            root, page, tables, entry(frame, leaf | rng.getrandbits(2) << 8), flags=flags, seed=rng.getrandbits(32)
        )
        for place in list(result.entries):
            if rng.random() < 0.03:
                result.entries[place] ^= 1 << rng.randrange(54, 64)
            if rng.random() < 0.03:
                result.responses[place] = rng.choice((1, 2, 3))
        return result

    async def process(ctx):
        for _ in range(walks):
            page = rng.getrandbits(27) | rng.choice((0, 1)) << 27
            page = page % (1 << 27) | (((1 << 25) - 1) << 27 if page >> 26 & 1 else 0)
            page ^= 1 << rng.randrange(27, 52) if rng.random() < 0.03 else 0
            root, access = rng.getrandbits(28), rng.choice(list(Access))
            chance = rng.choice((0, 0, 0.3))
            halts = {c for c in range(100) if rng.random() < chance}
            restarts = sorted(rng.sample(range(20), rng.choice((0, 0, 1, 2))))
            memories = [some(page, root) for _ in range(len(restarts) + 1)]
            walk = await bench.walk(
                ctx, memories[0], root, page, access,
                asid=rng.getrandbits(8), latency=rng.choice((1, 1, 2, 5)), ar_delay=rng.choice((0, 0, 1, 4)),
                take_delay=rng.choice((0, 0, 3)), halt=halts.__contains__, restarts=restarts, later=memories[1:],
            )  # fmt: skip
            happened = [r for r in restarts if r <= walk.cycles]
            expected = bench.expected(memories[len(happened)], root, page, access)
            bench.check(walk, expected, page, len(walk.reads) - len(expected.reads) if happened else 0)
            seen[expected.fault, expected.page_bytes] += 1
            seen["begun again"] += bool(happened)

    bench.simulate(process)
    return seen


def test_random_walks(seed):
    seen = random_walks(seed, 500)
    assert {key[0] for key in seen if isinstance(key, tuple)} == set(TranslationFault)
    for size in (1 << 12, 1 << 21, 1 << 30):
        assert seen[TranslationFault.NONE, size] > 10
    assert seen["begun again"] > 100


def test_kept_pointers(unit):
    """In the same 2 MiB of the same space a walk for the same access reads one entry, and is as exact as any."""
    bench = WalkerBench(CONFIG, unit)
    near = PAGE ^ 0x0F0
    path = three_levels().entries
    leaf = max(path)  # the table of level 0 is the last of all
    path[leaf - PAGE % 512 * 8 + near % 512 * 8] = entry(FRAME + 9, GOOD | Pte.G)
    tables = Tables(path)

    async def process(ctx):
        async def reads_of(page, access, asid=7, root=ROOT, pointers=True, **options) -> int:
            walk = await bench.walk(ctx, tables, root, page, access, asid=asid, pointers=pointers, **options)
            expected = bench.expected(tables, root, page, access)
            count = len(walk.reads)
            if count == 1:
                assert walk.cycles == 5
            beats = [a // CONFIG.bus_bytes * CONFIG.bus_bytes for a in expected.reads]
            assert (walk.fault, walk.reads) == (expected.fault, beats[3 - count :] if count else [])
            if expected.physical is not None:
                assert (walk.frame, walk.leaf["is_global"]) == (expected.physical >> 12, expected.is_global)
            return count

        for access in Access:
            assert await reads_of(PAGE, access, pointers=False) == 3
            assert await reads_of(near, access) == 1
            assert await reads_of(PAGE ^ 1, access) == 1  # not mapped: a fault, from an entry just read
            assert await reads_of(PAGE, access) == 1
            assert await reads_of(PAGE, access, asid=8) == 3  # another space, whose pointer is the one that is kept now
            assert await reads_of(PAGE, access, asid=7) == 3
            assert await reads_of(PAGE, Access((access + 1) % 3)) == 3  # each access keeps its own
            assert await reads_of(PAGE, access) == 1
        for other in (PAGE ^ 1 << 9, PAGE ^ 1 << 17, PAGE ^ 1 << 18, PAGE ^ 1 << 26 ^ 0x1FFFFFF << 27):
            await reads_of(PAGE, Access.READ, pointers=False)
            walk = await bench.walk(ctx, tables, ROOT, other, pointers=True)
            bench.check(walk, bench.expected(tables, ROOT, other, Access.READ), other)
        # A pointer that makes everything below it global does so also when it is kept.
        for flags in ((Pte.V | Pte.G, Pte.V), (Pte.V, Pte.V | Pte.G)):
            made = Tables.path(ROOT, PAGE, TABLES, entry(FRAME, GOOD), flags=flags)
            for pointers in (False, True):
                walk = await bench.walk(ctx, made, ROOT, PAGE, pointers=pointers)
                assert walk.leaf["is_global"] == 1
                assert len(walk.reads) == (1 if pointers else 3)

    bench.simulate(process)


def test_every_outcome_twice(unit):
    """The second time from a kept pointer, if the walk has a table of level 0; never from one that was refused."""
    bench = WalkerBench(CONFIG, unit)

    async def process(ctx):
        cases = [*outcomes().values()]
        for bits in (Pte.A, Pte.D, Pte.U, 1 << 54, 1 << 63, Pte.W):
            cases.append((Tables.path(ROOT, PAGE, TABLES, entry(FRAME, GOOD), flags=(Pte.V, Pte.V | bits)), ROOT, PAGE))
        for level in range(3):
            tables = three_levels()
            tables.responses[list(tables.entries)[level]] = 2
            cases.append((tables, ROOT, PAGE))
        for tables, root, page in cases:
            for access in Access:
                model = WalkerModel(CONFIG.addr_width)
                for number in range(2):
                    walk = await bench.walk(ctx, tables, root, page, access, pointers=number > 0)
                    bench.check(walk, model.walk(tables.model, root, page, access, 7), page)

    bench.simulate(process)


def random_pointers(seed: int, memories: int, unit=PageWalker) -> Counter:
    """Walks of few spaces and regions, so that pointers are used and replaced: every read is that of the model."""
    rng = random.Random(f"{seed} pointers")
    bench = WalkerBench(CONFIG, unit, seed)
    seen: Counter = Counter()

    def some(spaces, regions) -> Tables:
        result = Tables(seed=rng.getrandbits(32))
        for _, root in spaces:
            for region in regions:
                tables = [rng.getrandbits(28) | (1 << 40 if rng.random() < 0.08 else 0) for _ in range(2)]
                flags = [Pte.V | (1 << rng.randrange(8) if rng.random() < 0.15 else 0) for _ in range(2)]
                path = Tables.path(root, region, tables, 0, flags=flags)
                for low in range(4):
                    leaf = entry(rng.getrandbits(28), GOOD ^ (1 << rng.randrange(8) if rng.random() < 0.3 else 0))
                    path.entries[tables[1] * 4096 + low * 8] = leaf
                result.entries.update(path.entries)
        for place in result.entries:
            if rng.random() < 0.02:
                result.responses[place] = rng.choice((2, 3))
        return result

    async def process(ctx):
        for memory in range(memories):
            if memory % 5 == 0:  # else pointers from before would still match
                asid = rng.getrandbits(8)
                spaces = [(asid, rng.getrandbits(28)), (asid ^ 1 << rng.randrange(8), rng.getrandbits(28))]
                region = rng.getrandbits(17) << 9
                regions = [region, region ^ 1 << rng.randrange(9, 26)]
            tables, model = some(spaces, regions), WalkerModel(CONFIG.addr_width)
            for number in range(24):
                (asid, root), access = rng.choice(spaces), rng.choice(list(Access))
                page = rng.choice(regions) | rng.randrange(4)
                page ^= 1 << rng.randrange(27, 52) if rng.random() < 0.03 else 0
                halts = {c for c in range(40) if rng.random() < 0.1}
                walk = await bench.walk(
                    ctx, tables, root, page, access,
                    asid=asid, latency=rng.choice((1, 1, 3)), ar_delay=rng.choice((0, 0, 2)),
                    take_delay=rng.choice((0, 2)), halt=halts.__contains__, pointers=number > 0,
                )  # fmt: skip
                expected = model.walk(tables.model, root, page, access, asid)
                bench.check(walk, expected, page)
                seen[len(expected.reads), bool(expected.fault)] += 1

    bench.simulate(process)
    return seen


def test_random_pointers(seed):
    seen = random_pointers(seed, 20)
    assert min(seen[1, False], seen[3, False], seen[1, True], seen[3, True]) > 15, seen


def test_no_pointer_is_kept_over_an_invalidation(unit):
    """Met at whatever cycle of a walk: the next one reads all levels, or uses what was read since."""
    bench = WalkerBench(CONFIG, unit)

    async def process(ctx):
        for access in (Access.READ, Access.FETCH):
            for start in range(12):
                old, new = three_levels(), three_levels(0x777, [0x91, 0x30092], seed=1)
                await bench.walk(ctx, old, ROOT, PAGE)
                walk = await bench.walk(ctx, old, ROOT, PAGE, access, restarts=[start], later=[new], pointers=True)
                assert walk.cycles >= start or access == Access.READ, "the walk that was met"
                if walk.cycles < start:
                    continue
                assert walk.frame == bench.expected(new, ROOT, PAGE, access).physical >> 12
                for then, least in ((Access.READ, 1 if access == Access.READ else 3), (Access.WRITE, 3)):
                    again = await bench.walk(ctx, new, ROOT, PAGE, then, pointers=True)
                    expected = bench.expected(new, ROOT, PAGE, then)
                    assert (again.fault, again.frame) == (expected.fault, expected.physical >> 12)
                    assert len(again.reads) == least

    bench.simulate(process)
