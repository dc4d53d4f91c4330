"""``make tables``: random page tables on the Verilog of `Mmu` against the model, with random stalls."""

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import Access, TranslationFault
from lepton_verif.random_tables import TABLES, RandomTables
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .core import preset
from .mmu import MmuBench, Requests, Stalls

__all__ = ["first_difference", "main", "report", "run_tables"]

_EACH = 2  # requests to a table by each of three requesters


def first_difference(requests, found, expected) -> str | None:
    """The first request whose answer is not the model's, with its address; frames count only where no fault is.

    ``requests`` are (pages, accesses, ASIDs, roots); ``found`` and ``expected`` are (frames, faults).
    """
    (frames, faults), (model_frames, model_faults) = found, expected
    wrong = (faults != model_faults) | ((model_faults == 0) & (frames != model_frames))
    if not wrong.any():
        return None
    k = int(np.flatnonzero(wrong)[0])
    page, access, asid, root = (int(a[k]) for a in requests)
    return (
        f"request {k}, {Access(access).name} of address 0x{page << 12:x}, ASID {asid}, root 0x{root:x}: "
        f"{TranslationFault(int(faults[k])).name} 0x{int(frames[k]):x}, "
        f"not {TranslationFault(int(model_faults[k])).name} 0x{int(model_frames[k]):x}"
    )


def _reads_differ(found: np.ndarray, expected: np.ndarray) -> str:
    both = min(len(found), len(expected))
    different = np.flatnonzero(found[:both] != expected[:both])
    k = int(different[0]) if len(different) else both
    one, other = (f"0x{int(r[k]):x}" if k < len(r) else "none" for r in (found, expected))
    return f"read {k} of all walks: {one}, not {other}"


def run_tables(
    config: NpuConfig, first: int, tables: int, each: Callable[[range], Iterable[int]] = iter
) -> tuple[Counter, Counter, list[str]]:
    """At least ``tables`` tables, `TABLES` for each seed from ``first`` on; ``each`` may show how far it is.

    With an even seed three requesters ask, and the TLB is told to forget at random. With an odd one a single requester
    asks, nothing is forgotten, and every read of the bus is compared as well: it follows which requests hit.

    Returns
    -------
    (seen, counts, failures)
        Translations by (fault, reads, bytes of the page, global); cycles, hits, reads and the like; and for every seed
        with a difference the line that `first_difference` gives.
    """
    seen: Counter = Counter()
    counts: Counter = Counter()
    failures = []
    for seed in each(range(first, first + -(-tables // TABLES))):
        memory = RandomTables(np.random.default_rng(seed), config.addr_width)
        bench, stalls = MmuBench(config, seed), Stalls.random(random.Random(seed))
        if seed % 2:
            lists = [memory.requests(_EACH * len(Access))]
            stalls = replace(stalls, invalidate=0)
        else:
            lists = [memory.requests(_EACH) for _ in Access]
        traffic = bench.run([Requests(*r) for r in lists], memory.words, memory.errors, stalls=stalls)
        counts.update(traffic.counts, tables=TABLES)
        for requester, requests in enumerate(lists):
            found = (traffic.frame[requester], traffic.fault[requester])
            wrong = first_difference(requests, found, memory.expected(requests, seen))
            if wrong:
                failures.append(f"SEED={seed}, requester {requester}, {wrong}")
        if len(lists) == 1:
            frames, faults, reads = memory.expected_in_order(lists[0], config.tlb_entries)
            wrong = first_difference(lists[0], (traffic.frame[0], traffic.fault[0]), (frames, faults))
            if wrong is None and not np.array_equal(traffic.reads, reads):
                wrong = _reads_differ(traffic.reads, reads)
            if wrong:
                failures.append(f"SEED={seed}, in order, {wrong}")
            counts["reads compared"] += len(reads)
        bench.close()
    return seen, counts, failures


def report(seen: Counter, counts: Counter) -> Table:
    """Translations by what came of them, and all counts."""
    table = Table("translations", "of which", title="Random page tables on the RTL against the model")
    table.columns[0].justify = "right"
    rows: Counter = Counter()
    for (fault, reads, size, is_global), number in seen.items():
        what = f"page of {size} bytes{', global' * is_global}" if size else f"{fault.name} after {reads} reads"
        rows[what] += number
    for what, number in sorted(rows.items()):
        table.add_row(f"{number:,}", what)
    table.add_section()
    table.add_row(f"{sum(seen.values()):,}", f"in all, of {counts['tables']:,} tables")
    for name in ("cycles", "hits", "misses", "reads", "reads compared", "invalidations"):
        table.add_row(f"{counts[name]:,}", name)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Command line of ``make tables``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lepton_sim.page_tables", description=__doc__)
    parser.add_argument("--sim", choices=("verilator",), default="verilator")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--tables", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None, help="first seed (default: drawn, and printed)")
    options = parser.parse_args(arguments)
    config = preset(options.preset)
    first = options.seed if options.seed is not None else int.from_bytes(os.urandom(3), "little")
    print(f"{options.tables} tables on preset {options.preset}, seeds from {first} (SEED={first} repeats them)")
    seen, counts, failures = run_tables(
        config, first, options.tables, lambda seeds: track(seeds, description="memories of tables")
    )
    Console().print(report(seen, counts))
    for failure in failures:
        print(failure)
    print(f"{counts['tables']} tables, {sum(seen.values())} translations: {len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
