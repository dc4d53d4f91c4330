"""Bugs to plant in the units of the MMU: each is a change of a line of one of them, and the rest stays as it is."""

import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lepton_npu.mmu import mmu, tlb, walker

__all__ = ["BUGS", "Bug", "Units", "planted"]


@dataclass(frozen=True)
class Bug:
    """In file ``unit`` the text ``old``, which is there once, is ``new``; ``tests`` are those that must fail."""

    unit: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Units:
    """The three units, of which one has a bug."""

    Tlb: type
    PageWalker: type
    Mmu: type


_OVERLAP = "here & (mine | leaf.is_global | fill.leaf.is_global)"
BUGS = {
    "overlapped entry stays": Bug("tlb", _OVERLAP, "Const(0)", ("tlb_random", "tlb_overlap")),
    "overlap by the smaller size": Bug(
        "tlb",
        "self._same_page(entry, page, leaf.mega | mega, leaf.giga | giga)",
        "self._same_page(entry, page, leaf.mega, leaf.giga)",
        ("tlb_random", "tlb_overlap"),
    ),
    "overlap of one's own space only": Bug("tlb", _OVERLAP, "here & mine", ("tlb_random", "tlb_overlap")),
    "overlap of all spaces": Bug("tlb", _OVERLAP, "here", ("tlb_random", "tlb_overlap")),
    "ASID not compared": Bug("tlb", "mine = leaf.is_global | (entry.asid == self.asid)", "mine = 1", ("tlb_random",)),
    "write hits what is read-only": Bug("tlb", " & (leaf.writable | ~self.write)", "", ("tlb_random", "tlb_upgrade")),
    "refill beside an invalidation stays": Bug(
        "tlb",
        "install.eq(self.fill.valid & second & ~self.invalidate.valid)",
        "install.eq(self.fill.valid & second)",
        ("tlb_random", "tlb_beside_second"),
    ),
    "refill goes on after an invalidation": Bug(
        "tlb",
        "self.fill.ready.eq(second | self.invalidate.valid)",
        "self.fill.ready.eq(second)",
        ("tlb_random", "tlb_beside_first"),
    ),
    "ASID takes out global entries": Bug("tlb", "named.eq(mine & ~leaf.is_global)", "named.eq(mine)", ("tlb_random",)),
    "ADDRESS spares large pages": Bug("tlb", "named.eq(here)", "named.eq(here & ~leaf.mega)", ("tlb_random",)),
    "ASID_ADDRESS takes out other spaces": Bug(
        "tlb", "named.eq(here & mine & ~leaf.is_global)", "named.eq(here & ~leaf.is_global)", ("tlb_random",)
    ),
    "every refill in the same entry": Bug(
        "tlb", "victim.eq(victim + 1)", "victim.eq(victim)", ("tlb_random", "tlb_round_robin")
    ),
    "large page not filled up": Bug("tlb", "frame | (small & self.page)", "frame", ("tlb_random",)),
}
"""By name. A change of a unit's line that is quoted here changes it here, too."""


@cache
def planted(name: str) -> Units:
    """The units with the bug ``name``; all others of its file's importers use the one with the bug."""
    bug = BUGS[name]
    modules = {}
    for unit, original in {"tlb": tlb, "walker": walker, "mmu": mmu}.items():
        text = Path(str(original.__file__)).read_text()
        if unit == bug.unit:
            assert text.count(bug.old) == 1, f"planted bug {name!r}: {bug.old!r} must be in {unit}.py once"
            text = "from amaranth.hdl import Const\n" + text.replace(bug.old, bug.new)
        module = types.ModuleType(f"lepton_npu.mmu.{unit}_with_a_bug")
        module.__package__ = "lepton_npu.mmu"
        exec(compile(text, f"{unit}.py with {name}", "exec"), module.__dict__)
        modules[unit] = module
    modules["mmu"].Tlb, modules["mmu"].PageWalker = modules["tlb"].Tlb, modules["walker"].PageWalker
    return Units(modules["tlb"].Tlb, modules["walker"].PageWalker, modules["mmu"].Mmu)
