"""Bugs to plant in the units of the MMU: each is a change of a line of one of them, and the rest stays as it is."""

import types
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lepton_npu.control import fetch_frames
from lepton_npu.mmu import frames_ahead, invalidation, mmu, page_sequence, tlb, walker

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
    """All units, of which one has a bug."""

    Tlb: type
    PageWalker: type
    Mmu: type
    PageSequence: type
    FramesAhead: type
    InvalidationControl: type
    FetchFrames: type


_FILES = (tlb, walker, mmu, page_sequence, frames_ahead, invalidation, fetch_frames)


_IMPORTS = "from amaranth.hdl import Const\nfrom amaranth.lib.fifo import SyncFIFOBuffered\n"
_OVERLAP = "here & (mine | leaf.is_global | fill.leaf.is_global)"
_BEGINS_AGAIN = "                with m.If(self.stale | self.restart):"
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
    # The six of test_known_walker_bugs.py.
    "A, D, U accepted in pointers": Bug(
        "walker", "pte.a | pte.d | pte.u | (level == 0)", "(level == 0)", ("pointers",)
    ),
    "reserved bits accepted in pointers": Bug(
        "walker", "pte.reserved.any()", "(pte.reserved.any() & ~pointer)", ("pointers",)
    ),
    "refill tagged with the current ASID": Bug(
        "mmu",
        "tlb.fill.payload.asid.eq(walker.request.asid)",
        "tlb.fill.payload.asid.eq(request.asid)",
        ("refill_asid",),
    ),
    "refill lands after a flush": Bug(
        "mmu", "walker.restart.eq(self.invalidate.valid)", "walker.restart.eq(0)", ("flush",)
    ),
    "refill lands in the cycle of a flush": Bug(
        "mmu", "tlb.fill.ready) & ~self.invalidate.valid)", "tlb.fill.ready))", ("flush",)
    ),
    "walk does not begin again for another space": Bug(
        "mmu",
        "walker.restart.eq(self.invalidate.valid)",
        "walker.restart.eq(self.invalidate.valid & (self.invalidate.payload.asid == walker.request.asid))",
        ("flush_other",),
    ),
    "read in flight at a flush is used": Bug(
        "walker", 'self.restart & (fsm.ongoing("READ") | fsm.ongoing("WAIT"))', "0", ("flush",)
    ),
    "leaf's page number truncated": Bug("walker", "~page_fault & pte.ppn[frames:].any()", "0", ("too_high",)),
    "pointer's page number truncated": Bug(
        "walker", "with m.Elif(table[frames:].any()):", "with m.Elif(0):", ("too_high", "walker_beyond")
    ),
    "walk skipped after a fault": Bug(
        "walker",
        "begin(self.i.payload.root)",
        "begin(self.i.payload.root)\n                    with m.If(result.answer.fault != 0):"
        "\n                        m.next = 'DONE'",
        ("after_fault",),
    ),
    "bus error is a page fault": Bug(
        "walker",
        "Cat((request.access + 1)[:2], access)",
        "Cat((request.access + 1)[:2], access & ~self.error)",
        ("error",),
    ),
    "page fault goes before a bus error": Bug(
        "walker", "access_fault.eq(self.error)", "access_fault.eq(self.error & pte.v)", ("error",)
    ),
    # Of the pointers that the walker keeps.
    "pointers kept over an invalidation": Bug(
        "walker", "self.kept_valid.eq(0)", "self.kept_valid.eq(self.kept_valid)", ("walker_forgets",)
    ),
    "stale pointer kept": Bug("walker", "ppn[frames:].any() & ~self.stale", "ppn[frames:].any()", ("walker_forgets",)),
    "pointer of another space": Bug("walker", " & (signal.asid == request.asid)", "", ("walker_pointers",)),
    "pointer of another 2 MiB": Bug("walker", " & (signal.high == high)", "", ("walker_pointers",)),
    "global pointer forgotten": Bug(
        "walker", "self.is_global.eq(kept.is_global)", "self.is_global.eq(0)", ("walker_pointers",)
    ),
    "pointer that was refused is kept": Bug(
        "walker", "pointer & ~fault & ~pte.ppn", "pointer & ~pte.ppn", ("walker_twice",)
    ),
    "pointer beyond the bus is kept": Bug(
        "walker", " & ~pte.ppn[frames:].any() & ~self.stale", " & ~self.stale", ("walker_twice",)
    ),
    "pointer of another access": Bug(
        "walker", "skips.eq(self.kept_valid[access] &", "skips.eq(self.kept_valid.any() &", ("walker_pointers_random",)
    ),
    "pointer to a table of level 1 kept": Bug(
        "walker", "keeps.eq((level == 1) &", "keeps.eq((level >= 1) &", ("walker_twice",)
    ),
    # Of the joint.
    "answers a cycle late": Bug("mmu", "queue = SyncFIFO(", "queue = SyncFIFOBuffered(", ("latency",)),
    "hits wait for a walk": Bug("mmu", "~walks[number] & (open_", "~walks.any() & (open_", ("hit_under_miss",)),
    "hits overtake a walk": Bug("mmu", "& ~walks[number] & (open_", "& (open_", ("later_wait",)),
    "hit overtakes a miss": Bug("mmu", "port_i.valid & ~looks[number] &", "port_i.valid &", ("later_wait",)),
    "one request at a time": Bug(
        "mmu", "port_i.valid & ~looks[number] &", "port_i.valid & ~asks &", ("hit_under_miss",)
    ),
    "walks by priority": Bug("mmu", "waits, walking, next_walk", "waits, Const(0, 2), next_walk", ("in_turn",)),
    "fifth answer": Bug("mmu", " & (open_ != _ANSWERS)", "", ("not_taken",)),
    "walk's answer to who asks": Bug(
        "mmu", "ended & (walking == number)", "ended & (owner == number)", ("later_wait",)
    ),
    "walk's answer lost behind others": Bug(
        "mmu", "queue.w_en.eq(from_walk |", "queue.w_en.eq((from_walk & ~queue.r_rdy) |", ("walk_ends",)
    ),
    "invalidation a cycle late": Bug(
        "mmu",
        "connect(m, flipped(self.invalidate), tlb.invalidate)",
        "m.d.comb += self.invalidate.ready.eq(1)\n"
        "        m.d.sync += tlb.invalidate.valid.eq(self.invalidate.valid)\n"
        "        m.d.sync += tlb.invalidate.payload.eq(self.invalidate.payload)",
        ("stream_of_hits",),
    ),
    "busy with walks only": Bug("mmu", "with m.If(open_ != 0):", "with m.If(walks[number]):", ("latency",)),
    "answer lost that is not taken": Bug("mmu", "queue.r_en.eq(port_o.ready)", "queue.r_en.eq(1)", ("not_taken",)),
    "halt ignored": Bug("walker", "waiting | ~self.halt", "1", ("halt", "walker_halt")),
    # Of the walker.
    "halt takes an offered read back": Bug("walker", "waiting | ~self.halt", "~self.halt", ("walker_halt",)),
    "a read of the old table after a halt": Bug(
        "walker", "with m.If(self.stale & ~waiting):", "with m.If(0):", ("walker_restart_halted",)
    ),
    "restart in CHECK lost": Bug(
        "walker",
        f"access=access_fault)\n{_BEGINS_AGAIN}",
        f"access=access_fault)\n{_BEGINS_AGAIN.replace(' | self.restart', '')}",
        ("walker_restart",),
    ),
    "restart in DONE lost": Bug(
        "walker",
        f"self.o.valid.eq(~self.stale)\n{_BEGINS_AGAIN}",
        f"self.o.valid.eq(~self.stale)\n{_BEGINS_AGAIN.replace(' | self.restart', '')}",
        ("walker_restart",),
    ),
    "walk cut short stays stale": Bug("walker", ", self.stale.eq(0)]", "]", ("walker_restart",)),
    "global of the walk before": Bug("walker", " self.is_global.eq(0),", "", ("walker_random",)),
    "pointer's G lost": Bug(
        "walker",
        "is_global.eq(self.is_global | pte.g),\n                    result.leaf.writable",
        "is_global.eq(pte.g),\n                    result.leaf.writable",
        ("walker_random",),
    ),
    "SLVERR is no error": Bug("walker", "self.r.payload.resp[1]", "(self.r.payload.resp == 3)", ("walker_error",)),
    "pointer at the last level": Bug("walker", "pte.u | (level == 0))", "pte.u)", ("walker_latency",)),
    "neighbouring entry of the beat": Bug(
        "walker", "index[:lane_bits], 64)", "request.page[:lane_bits], 64)", ("walker_lanes",)
    ),
    "writable without D": Bug("walker", "writable.eq(pte.w & pte.d)", "writable.eq(pte.w)", ("walker_random",)),
    "addresses that are not canonical": Bug(
        "walker", "with m.If(~is_canonical(request.page)):", "with m.If(0):", ("walker_latency",)
    ),
    "a cycle more for each level": Bug(
        "walker",
        'm.next = "CHECK"',
        'm.next = "CHECK2"\n            with m.State("CHECK2"):\n                m.next = "CHECK"',
        ("walker_latency",),
    ),
    # Of what asks for pages ahead.
    "page not named again": Bug("page_sequence", "first | (page != address[PAGE_BITS:])", "first", ("pages_random",)),
    "every row names its page": Bug(
        "page_sequence", "first | (page != address[PAGE_BITS:])", "1", ("pages_random", "pages_once")
    ),
    "new command does not name": Bug("page_sequence", "first.eq(1)", "first.eq(0)", ("pages_random", "pages_once")),
    "last page of a row is left out": Bug(
        "page_sequence", "(words << 2) - 1", "(words << 2) - 4096", ("pages_random", "pages_back")
    ),
    "row of 64 pages at most": Bug("page_sequence", "_ROW_PAGES = 7", "_ROW_PAGES = 6", ("pages_longest",)),
    "stride without a sign": Bug("page_sequence", "command.stride.as_signed()", "command.stride", ("pages_back",)),
    "page named without its taker": Bug("page_sequence", "~names | self.page.ready", "1", ("pages_random",)),
    "answers under way are kept": Bug(
        "frames_ahead",
        "stale.eq(stale + open_ + (request.valid & request.ready) - arrives)",
        "stale.eq(0)",
        ("frames_random", "frames_forget"),
    ),
    "asked in the cycle of forgetting": Bug(
        "frames_ahead", " + (request.valid & request.ready) - arrives", " - arrives", ("frames_random", "frames_forget")
    ),
    "page in use is not asked for again": Bug(
        "frames_ahead", "asked.eq(oldest + self.next)", "asked.eq(oldest + 1)", ("frames_random", "frames_forget_late")
    ),
    "used in the cycle of forgetting": Bug(
        "frames_ahead", "answered.eq(oldest + self.next)", "answered.eq(oldest)", ("frames_random",)
    ),
    "frame in use stays": Bug("frames_ahead", "usable.eq(0)", "usable.eq(usable - self.next)", ("frames_random",)),
    "more open than the MMU holds": Bug("frames_ahead", " & (open_ + stale != AHEAD)", "", ("frames_random",)),
    "five pages": Bug("frames_ahead", "self.page.ready.eq(held != AHEAD)", "self.page.ready.eq(1)", ("frames_cycles",)),
    "one at a time": Bug("frames_ahead", "unasked & (", "unasked & (open_ == 0) & (", ("frames_cycles",)),
    "not quiet for long": Bug("invalidation", "_QUIET = 4", "_QUIET = 2", ("invalidation_quiet",)),
    "quiet in all": Bug(
        "invalidation",
        "with m.Else():\n            m.d.sync += count.eq(0)",
        "with m.If(0):\n            pass",
        ("invalidation_random", "invalidation_busy"),
    ),
    "second request instead of the first": Bug(
        "invalidation", "with m.If(self.busy):", "with m.If(0):", ("invalidation_random", "invalidation_second")
    ),
    "second request in no time of its own": Bug(
        "invalidation",
        "self.busy.eq(1), count.eq(0)",
        "self.busy.eq(1)",
        ("invalidation_random", "invalidation_second"),
    ),
    "TLB told, and nobody else": Bug(
        "invalidation", "self.forget.eq(ends)", "self.forget.eq(0)", ("invalidation_quiet",)
    ),
    "fetch: page not compared": Bug(
        "fetch_frames", " & (chosen.page == self.page)", "", ("fetch_random", "fetch_cycles")
    ),
    "fetch: frames kept over forgetting": Bug("fetch_frames", "valid.eq(0), ", "", ("fetch_random", "fetch_forget")),
    "fetch: answer kept over forgetting": Bug(
        "fetch_frames", "stale | mmu.forget", "mmu.forget", ("fetch_random", "fetch_forget_early")
    ),
    "fetch: ready after forgetting": Bug(
        "fetch_frames", "(chosen.page == self.page) & ~mmu.forget", "(chosen.page == self.page)", ("fetch_random",)
    ),
    "fetch: denied over a jump": Bug(
        "fetch_frames", "self.denied.eq(0), dropped.eq(1)", "dropped.eq(1)", ("fetch_random", "fetch_jump")
    ),
    "fetch: denied for who jumped away": Bug(
        "fetch_frames", "self.denied.eq(~dropped)", "self.denied.eq(1)", ("fetch_random", "fetch_jump_early")
    ),
    "fetch: frame of the ring for a body": Bug(
        "fetch_frames", "Mux(self.body, held[1].as_value(), held[0].as_value())", "held[0]", ("fetch_cycles",)
    ),
    "fetch: a fault is a frame": Bug(
        "fetch_frames", "mmu.answer.payload.fault != 0", "mmu.answer.payload.fault == 3", ("fetch_random",)
    ),
}
"""By name. A change of a unit's line that is quoted here changes it here, too."""


@cache
def planted(name: str) -> Units:
    """The units with the bug ``name``; all others of its file's importers use the one with the bug."""
    bug = BUGS[name]
    units = {}
    for original in _FILES:
        unit = original.__name__.split(".")[-1]
        text = Path(str(original.__file__)).read_text()
        if unit == bug.unit:
            assert text.count(bug.old) == 1, f"planted bug {name!r}: {bug.old!r} must be in {unit}.py once"
            text = _IMPORTS + text.replace(bug.old, bug.new)
        module = types.ModuleType(f"{original.__name__}_with_a_bug")
        module.__package__ = original.__package__
        exec(compile(text, f"{unit}.py with {name}", "exec"), module.__dict__)
        module.__dict__.update(units)  # `Mmu` is made of those before it
        units |= {field: getattr(module, field) for field in Units.__annotations__ if field in original.__all__}
    return Units(**units)
