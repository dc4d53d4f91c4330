"""The Verilog of `Mmu` against the model: every kind of entry at every level, and random tables."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_npu.spec.translation import Access, TranslationFault
from lepton_sim.mmu import MmuBench, Requests, Stalls

from tests.gateware.mmu.tables import RandomTables, exhaustive

pytestmark = pytest.mark.verilator
CONFIG = PRESETS["tiny"]
NARROW = NpuConfig(**CONFIG.as_dict() | {"addr_width": 33, "bus_width": 128, "max_burst": 16, "tlb_entries": 16})


def draw_stalls(rng: random.Random) -> Stalls:
    low = rng.choice((0, 1, 7))
    return Stalls(
        request=rng.choice((1, 1, 0.3)),
        answer=rng.choice((1, 1, 0.3)),
        ar=rng.choice((1, 0.3)),
        r=rng.choice((1, 0.5)),
        latency=(low, low + rng.choice((0, 12))),
        invalidate=rng.choice((0, 0, 0.01, 0.04)),
    )


def compare(traffic, number, frames, faults, requests, note=""):
    """Every answer of a requester, bit for bit; frames only where there is no fault."""
    wrong = (traffic.fault[number] != faults) | ((faults == 0) & (traffic.frame[number] != frames))
    if wrong.any():
        k = int(np.flatnonzero(wrong)[0])
        page, access, asid, root = (int(a[k]) for a in requests)
        pytest.fail(
            f"{note} requester {number}, {k}: page 0x{page:x}, {Access(access).name}, ASID {asid}, root 0x{root:x}: "
            f"{TranslationFault(int(traffic.fault[number][k])).name} 0x{int(traffic.frame[number][k]):x}, "
            f"not {TranslationFault(int(faults[k])).name} 0x{int(frames[k]):x}"
        )


@pytest.mark.parametrize("config", [CONFIG, NARROW], ids=["tiny", "128 bits"])
def test_every_kind_of_entry_at_every_level(config, seed):
    memory, places = exhaustive()
    bench = MmuBench(config, seed)
    asked = [(root, page, access) for root, page in places for access in Access]
    root, page, access = (np.array(column, np.uint64) for column in zip(*asked))
    results = [memory.translate(r, p, a, config.addr_width) for r, p, a in asked]
    seen = Counter((r.fault, len(r.reads)) for r in results)
    assert {length for _, length in seen} == {1, 2, 3}
    assert {fault for fault, _ in seen} == set(TranslationFault)
    faults = np.array([r.fault for r in results], np.uint64)
    frames = np.array([(r.physical or 0) >> 12 for r in results], np.uint64)
    # Twice: in the second round some hit.
    requests = Requests(np.tile(page, 2), np.tile(access, 2), np.tile(root, 2), np.tile(root, 2))
    traffic = bench.run([requests], memory.words)
    columns = (requests.page, requests.access, requests.asid, requests.root)
    compare(traffic, 0, np.tile(frames, 2), np.tile(faults, 2), columns)
    # Each access also by a requester of its own, all at once, with stalls.
    bench.close()
    bench = MmuBench(config, seed + 1)
    lists = [Requests(page[access == a], access[access == a], root[access == a], root[access == a]) for a in Access]
    stalls = Stalls(request=0.7, answer=0.7, ar=0.5, r=0.5, latency=(0, 3))
    traffic = bench.run(lists, memory.words, stalls=stalls)
    for a in Access:
        chosen = access == a
        columns = (lists[a].page, lists[a].access, lists[a].asid, lists[a].root)
        compare(traffic, a, frames[chosen], faults[chosen], columns)
    bench.close()


@pytest.mark.parametrize("config", [CONFIG, NARROW], ids=["tiny", "128 bits"])
def test_random_tables(config, seed):
    """120,000 translations of 40 memories in all, each with 32 address spaces."""
    rng = random.Random(seed)
    bench = MmuBench(config, seed)
    seen: Counter = Counter()
    counts: Counter = Counter()
    for number in range(20):
        tables = RandomTables(rng, config.addr_width)
        lists = [tables.requests(1000) for _ in Access]
        bench.invalidate(0)
        traffic = bench.run(
            [Requests(*r) for r in lists], tables.memory.words, tables.memory.errors, stalls=draw_stalls(rng)
        )
        counts.update(traffic.counts)
        for requester, requests in enumerate(lists):
            frames, faults, results = tables.expected(requests)
            compare(traffic, requester, frames, faults, requests, f"SEED={seed}, memory {number}:")
            seen.update((r.fault, r.page_bytes, r.is_global) for r in results)
    # What these tables have led to: each fault, and each size of page, global or not; walks and hits.
    assert {fault for fault, _, _ in seen} == set(TranslationFault)
    for size in (1 << 12, 1 << 21, 1 << 30):
        for is_global in (False, True):
            assert seen[TranslationFault.NONE, size, is_global] > 20
    assert min(counts["hits"], counts["misses"]) > 4_000


def test_tables_that_change(seed):
    """Another memory, and all is invalidated: no later answer is of the first one."""
    rng = random.Random(seed)
    bench = MmuBench(CONFIG, seed)
    differ = 0
    for number in range(30):
        old, new = (RandomTables(rng, CONFIG.addr_width) for _ in range(2))
        new.memory.errors = old.memory.errors
        lists = [old.requests(60) for _ in Access]
        bench.invalidate(0)
        stalls = replace(draw_stalls(rng), answer=1.0)
        traffic = bench.run(
            [Requests(*r) for r in lists],
            old.memory.words,
            old.memory.errors,
            stalls=stalls,
            second=new.memory.words,
            swap_answers=rng.randrange(20, 150),
        )
        swapped = traffic.counts["swapped"] or 1 << 62  # the last answer may come before it
        for requester, requests in enumerate(lists):
            before, after = old.expected(requests), new.expected(requests)
            # An answer that was on its way is taken two cycles later at most.
            is_new = traffic.when[requester] > swapped + 2
            may_be_old = traffic.when[requester] > swapped
            first = [
                np.where(is_new | may_be_old & matches(traffic, requester, after), after[k], before[k]) for k in (0, 1)
            ]
            compare(traffic, requester, *first, requests, f"SEED={seed}, memory {number}:")
            differ += int((is_new & (before[1] != after[1])).sum())
    assert differ > 100


def matches(traffic, requester, expected):
    frames, faults, _ = expected
    return (traffic.fault[requester] == faults) & ((faults != 0) | (traffic.frame[requester] == frames))


def test_speed(seed):
    """Hits: a translation a cycle from one requester, and as many from three together."""
    memory, _ = exhaustive()
    memory.words[:] = 0b11010111  # each page is the table of all, and of itself
    bench = MmuBench(CONFIG, seed)
    pages = np.zeros(4000, np.uint64)
    requests = Requests(pages, pages, pages, pages)
    bench.run([requests], memory.words)
    alone = bench.run([requests], memory.words).counts
    assert (alone["hits"], alone["misses"]) == (4000, 0)
    assert alone["cycles"] <= 4004
    together = bench.run([requests] * 3, memory.words).counts
    assert together["hits"] == 12000
    assert together["cycles"] <= 12004


def test_message():
    with pytest.raises(
        ValueError, match=r"^config must have bus_width at most 128 and addr_width at most 56, not 128 and 64$"
    ):
        MmuBench(NpuConfig(**CONFIG.as_dict() | {"addr_width": 64, "bus_width": 128}))
