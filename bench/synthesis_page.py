"""The tables of ``docs/synthesis.md``: each between two marks, replaced or merged by row; text around them is kept."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["PAGE", "merge_rows", "replace_table", "table_rows", "update_totals", "update_units", "update_usage"]

PAGE = Path(__file__).resolve().parents[1] / "docs" / "synthesis.md"

RESOURCES = ("LUT", "FF", "DSP", "BRAM")


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _body(text: str, name: str) -> re.Match[str]:
    begin, end = _marks(name)
    found = re.search(f"(?<={re.escape(begin)}\n)(.*?)(?={re.escape(end)})", text, re.DOTALL)
    if found is None:
        raise ValueError(f"the page has no table between {begin} and {end}")
    return found


def table_rows(text: str, name: str) -> dict[str, list[str]]:
    """Cells of the rows of table ``name``, by their first cell."""
    lines = [line for line in _body(text, name)[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row for row in rows}


def replace_table(text: str, name: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """``text`` with other content in table ``name``; numbers stand at the right.

    Raises
    ------
    ValueError
        If the page has no such table.
    """
    found = _body(text, name)
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows)]
    return text[: found.start()] + "\n".join(lines) + "\n" + text[found.end() :]


def merge_rows(
    old: Mapping[str, Sequence[object]], new: Mapping[str, Sequence[object]], order: Iterable[str]
) -> list[Sequence[object]]:
    """Rows in ``order``: the new one of a name, else the old one; names in neither are left out."""
    rows = {**old, **new}
    return [rows[name] for name in order if name in rows]


def update_units(results: Iterable[Mapping], order: Iterable[str], page: Path = PAGE) -> None:
    """Rows of units that were placed and routed (`bench.synth.place_and_route`), in the order of `bench.units`."""
    text = page.read_text()
    new = {
        row["unit"]: [
            *(row["unit"], row["fmax"], f"{row['target']:.0f}", "yes" if row["fmax"] >= row["target"] else "**no**"),
            *(row[name] for name in RESOURCES),
        ]
        for row in results
    }
    rows = merge_rows(table_rows(text, "units"), new, order)
    page.write_text(replace_table(text, "units", ("unit", "MHz", "target", "met", *RESOURCES), rows))


def update_usage(name: str, rows: Iterable[tuple[int, str, Sequence[int]]], page: Path = PAGE) -> None:
    """Table ``name``: ``(depth, unit, (LUT, FF, DSP, BRAM))`` in the order of the hierarchy."""
    lines = [["&nbsp;&nbsp;" * depth + unit, *numbers] for depth, unit, numbers in rows]
    page.write_text(replace_table(page.read_text(), name, ("unit", *RESOURCES), lines))


def update_totals(name: str, numbers: Sequence[int], device: Sequence[int], page: Path = PAGE) -> None:
    """The row of a whole core, ``name``, in table ``totals``, with its shares of the device; sorted by name."""
    text = page.read_text()
    row = [name, *(f"{number} ({number / most:.0%})" for number, most in zip(numbers, device, strict=True))]
    old = table_rows(text, "totals")
    rows = merge_rows(old, {name: row}, sorted({*old, name}))
    page.write_text(replace_table(text, "totals", ("core", *RESOURCES), rows))
