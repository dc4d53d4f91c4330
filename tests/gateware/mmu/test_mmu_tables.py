"""The Verilog of `Mmu` against the model: every kind of entry at every level, and random tables."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_npu.spec.page_table import PAGE_SIZES
from lepton_npu.spec.translation import ENTRIES, Access, TranslationFault, fault_of
from lepton_sim.mmu import MmuBench, Requests, Stalls
from lepton_sim.page_tables import first_difference, run_tables

from tests.gateware.mmu.tables import Memory, RandomTables, entries_of_every_kind, exhaustive, misaligned

pytestmark = pytest.mark.verilator
CONFIG = PRESETS["tiny"]
NARROW = NpuConfig(**CONFIG.as_dict() | {"addr_width": 33, "bus_width": 128, "max_burst": 16, "tlb_entries": 16})


def compare(traffic, number, frames, faults, requests, note=""):
    """Every answer of a requester, bit for bit; frames only where there is no fault."""
    wrong = first_difference(requests, (traffic.frame[number], traffic.fault[number]), (frames, faults))
    if wrong:
        pytest.fail(f"{note} requester {number}, {wrong}")


@pytest.mark.parametrize("config", [CONFIG, NARROW], ids=["tiny", "128 bits"])
def test_every_kind_of_entry_at_every_level(config, seed):
    """All low bytes, with none or one of bits 63:54, and all bits of the page number, for each access."""
    seen = Counter()
    for number, cases in enumerate(entries_of_every_kind()):
        memory, places = exhaustive(cases)
        asked = [(root, page, access) for root, page in places for access in Access]
        root, page, access = (np.array(column, np.uint64) for column in zip(*asked))
        results = [memory.translate(r, p, a, config.addr_width) for r, p, a in asked]
        seen.update((r.fault, len(r.reads)) for r in results)
        faults = np.array([r.fault for r in results], np.uint64)
        frames = np.array([(r.physical or 0) >> 12 for r in results], np.uint64)
        # Twice: in the second round some hit.
        bench = MmuBench(config, seed)
        requests = Requests(np.tile(page, 2), np.tile(access, 2), np.tile(root, 2), np.tile(root, 2))
        traffic = bench.run([requests], memory.words)
        columns = (requests.page, requests.access, requests.asid, requests.root)
        compare(traffic, 0, np.tile(frames, 2), np.tile(faults, 2), columns, f"entries {number}:")
        bench.close()
        # Each access also by a requester of its own, all at once, with stalls.
        bench = MmuBench(config, seed + 1)
        lists = [Requests(page[access == a], access[access == a], root[access == a], root[access == a]) for a in Access]
        stalls = Stalls(request=0.7, answer=0.7, ar=0.5, r=0.5, latency=(0, 3), halt=0.1)
        traffic = bench.run(lists, memory.words, stalls=stalls)
        for a in Access:
            chosen = access == a
            columns = (lists[a].page, lists[a].access, lists[a].asid, lists[a].root)
            compare(traffic, a, frames[chosen], faults[chosen], columns, f"entries {number}:")
        bench.close()
    assert {length for _, length in seen} == {1, 2, 3}
    assert {fault for fault, _ in seen} == set(TranslationFault)
    assert seen.total() > 3 * 3 * 256 * 11


def test_every_misalignment(seed):
    """Large pages whose page number has every value in the bits that must be 0, for each access: 262,143 and 511."""
    numbers = np.random.default_rng(seed)
    words, root, page, values = misaligned(numbers, CONFIG.addr_width)
    bench = MmuBench(CONFIG, seed)
    # Spaces share ASIDs, but not the two that have an aligned page.
    asid = np.where(root == 0, 0, np.where(root > ENTRIES, 1, 2 + root % 254)).astype(np.uint64)
    lists = [Requests(page, np.full(len(page), a, np.uint64), asid, root) for a in Access]
    traffic = bench.run(lists, words)
    memory = Memory(words, np.zeros(len(words) // ENTRIES, np.uint8))
    some = numbers.integers(0, len(page), 1000).tolist()
    for a in Access:
        faults = np.where(values != 0, fault_of(a, page=True), 0).astype(np.uint64)
        frames = traffic.frame[a].copy()  # where there is no fault, the model's
        for k in {*some, *np.flatnonzero(values == 0).tolist()}:
            result = memory.translate(int(root[k]), int(page[k]), a, CONFIG.addr_width)
            assert result.fault == faults[k]
            frames[k] = (result.physical or 0) >> 12
        compare(traffic, a, frames, faults, (page, lists[a].access, asid, root))
    assert sum(int((t == 0).sum()) for t in traffic.fault) == 6
    bench.close()


def test_100_000_tables(seed, capsys):
    """Small tables, each with entries of its own: 600,000 translations under random stalls."""
    seen, counts, failures = run_tables(CONFIG, seed, 100_000)
    with capsys.disabled():
        print(f"\n{counts['tables']} random page tables, {seen.total()} translations: {len(failures)} mismatches")
    assert not failures, "make tables TABLES=1 SEED=... repeats them:\n" + "\n".join(failures)
    assert counts["tables"] >= 100_000
    kinds = Counter()
    for (fault, reads, size, is_global), number in seen.items():
        kinds[fault, reads if fault else size, is_global and not fault] += number
    walks = [(f, reads, False) for f in TranslationFault if f for reads in range(4)]
    pages = [(TranslationFault.NONE, size, g) for size in PAGE_SIZES for g in (False, True)]
    assert min(kinds[kind] for kind in walks + pages) > 500, kinds


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
            [Requests(*r) for r in lists], tables.memory.words, tables.memory.errors, stalls=Stalls.random(rng)
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
        stalls = replace(Stalls.random(rng), answer=1.0)
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
    """Hits: a translation a cycle of several requesters together, every other cycle of one alone (docs/mmu.md).

    `PageSequence` names a page every other cycle at most, so that is as fast as LOAD or STORE can ask.
    """
    memory = Memory.empty(16)
    memory.words[:] = 0b11010111  # each page is the table of all, and of itself
    bench = MmuBench(CONFIG, seed)
    pages = np.zeros(4000, np.uint64)
    requests = Requests(pages, pages, pages, pages)
    bench.run([requests], memory.words)
    alone = bench.run([requests], memory.words).counts
    assert (alone["hits"], alone["misses"]) == (4000, 0)
    assert alone["cycles"] <= 8004
    two = bench.run([requests] * 2, memory.words).counts
    assert two["cycles"] <= 8004
    together = bench.run([requests] * 3, memory.words).counts
    assert together["hits"] == 12000
    assert together["cycles"] <= 12004


def test_message():
    with pytest.raises(
        ValueError, match=r"^config must have bus_width at most 128 and addr_width at most 56, not 128 and 64$"
    ):
        MmuBench(NpuConfig(**CONFIG.as_dict() | {"addr_width": 64, "bus_width": 128}))
