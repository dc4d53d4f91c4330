"""``python -m formal``: every proof, or those chosen, and a table of them."""

import argparse
import re
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .check import PROOFS, Result, check


def summary(results: list[Result]) -> Table:
    """A row for each proof."""
    table = Table(title="Proofs", show_lines=True)
    for heading in ("unit", "proven", "method", "depth", "seconds", "result", "planted bugs caught"):
        table.add_column(heading, justify="right" if heading in ("depth", "seconds") else "left", overflow="fold")
    for result in results:
        proof = PROOFS[result.title]
        caught = sum(map(bool, result.caught.values()))
        table.add_row(
            proof.unit,
            f"{proof.title} ({len(result.properties)} properties)",
            proof.method + ("" if not proof.depth else ", bounded"),
            str(result.outcome.depth),
            f"{result.seconds:.1f}",
            "holds" if result.passed else "FAILS" if result.outcome.holds is not None else "not proven",
            f"{caught} of {len(result.caught)}: " + ", ".join(result.caught),
        )
    return table


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m formal", description="Prove properties of the core's units.")
    parser.add_argument("--only", default="", metavar="REGEX", help="proofs whose unit or title this is found in")
    parser.add_argument("--jobs", type=int, default=2, help="proofs at a time (default: 2)")
    parser.add_argument("--seconds", type=float, help="limit of a proof (default: its own)")
    parser.add_argument("--list", action="store_true", help="list the proofs and their planted bugs, and run nothing")
    parser.add_argument("--output", type=Path, default=Path("build/formal"), help="folder for waves of counterexamples")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 150)
    titles = [t for t, p in PROOFS.items() if re.search(options.only, f"{p.unit} {t}", re.IGNORECASE)]
    if not titles:
        parser.error(f"--only {options.only!r} matches none of: {', '.join(PROOFS)}")
    if options.list:
        for title in titles:
            console.print(f"{PROOFS[title].unit}: {title} ({PROOFS[title].method})", markup=False, highlight=False)
            for bug in PROOFS[title].bugs:
                console.print(f"    bug: {bug}", markup=False, highlight=False)
        return 0
    results: dict[str, Result] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        run = partial(check, folder=options.output, seconds=options.seconds)
        for done in as_completed([pool.submit(run, title) for title in titles]):
            result = done.result()
            results[result.title] = result
            state = "holds" if result.passed else "FAILS"
            console.print(f"{PROOFS[result.title].unit}: {result.title}: {state}", markup=False, highlight=False)
            if result.counterexample is not None:
                console.print(result.counterexample)
    console.print(summary([results[title] for title in titles]))
    problems = [line for title in titles for line in results[title].problems()]
    for line in problems:
        console.print(line, markup=False, highlight=False)
    console.print(f"{len(titles) - len({p.split(': ')[0] for p in problems})} of {len(titles)} proofs hold")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
