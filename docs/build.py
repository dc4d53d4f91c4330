"""``make docs``: command set and register map from their definitions.

Writes ``docs/commands.md``, ``docs/registers.md`` and the C headers in ``sdk/c``, which are kept in the repository, and
the register map as web pages into ``build/docs/registers``. With ``--check`` nothing is written; the exit status is 1
if a kept file is not what the definitions give.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lepton_npu.spec.registers import elaborate
from peakrdl_cheader.c_standards import CStandard
from peakrdl_cheader.exporter import CHeaderExporter
from peakrdl_html import HTMLExporter

from .c_header import c_header
from .markdown import commands_page, registers_page

__all__ = ["generate", "main", "stale"]

ROOT = Path(__file__).resolve().parents[1]


def _register_header() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lepton_npu_registers.h")
        CHeaderExporter().export(elaborate(), path=str(path), std=CStandard.gnu11)
        return path.read_text()


def generate() -> dict[str, str]:
    """The text of every kept file, by its path in the repository."""
    return {
        "docs/commands.md": commands_page(),
        "docs/registers.md": registers_page(" ".join(elaborate().get_property("desc").split())),
        "sdk/c/lepton_npu.h": c_header(),
        "sdk/c/lepton_npu_registers.h": _register_header(),
    }


def stale(root: Path = ROOT) -> list[str]:
    """The kept files below ``root`` that are missing or not what the definitions give."""
    return [
        name for name, text in generate().items() if not (root / name).is_file() or (root / name).read_text() != text
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Program entry; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a kept file is stale")
    options = parser.parse_args(arguments)
    if options.check:
        old = stale()
        for name in old:
            print(f"{name} is not what the definitions give: run `make docs` and commit it", file=sys.stderr)
        return int(bool(old))
    for name, text in generate().items():
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(f"wrote {name}")
    pages = ROOT / "build" / "docs" / "registers"
    pages.mkdir(parents=True, exist_ok=True)
    HTMLExporter().export(elaborate(), str(pages))
    print(f"wrote {pages.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
