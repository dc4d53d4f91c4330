"""The isolation theorem, at the MMU: no frame is given unless a leaf read since the last invalidation maps it."""

from amaranth.hdl import Cat, Signal
from lepton_npu.mmu.mmu import Mmu
from lepton_npu.mmu.ports import is_canonical
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import LEVELS, VPN_BITS, Access

from .engine import Proof
from .harness import Harness
from .page_reads import FRAME, PageReads, frame_for, is_pointer, maps, same_page
from .planted import Bug

__all__ = ["PROOFS"]

_CONFIG = NpuConfig(side=4, lanes=4, addr_width=32, tlb_entries=2)
_VPN = LEVELS * VPN_BITS


def _mmu(h: Harness, requesters: int = 2) -> tuple[Mmu, PageReads]:
    dut = h.unit(Mmu(_CONFIG, requesters))
    table = PageReads(h, _CONFIG, dut.ar, dut.r, dut.invalidate, dut.walker)
    for n, port in enumerate(dut.i):
        asks = port.payload
        h.assume(
            f"requester {n} gives an address space one root",
            ~port.valid | (asks.asid != table.asid) | (asks.root == table.root),
        )
        h.assume(f"requester {n} asks for an access that there is", asks.access <= max(Access))
    return dut, table


def _decisions(h: Harness) -> None:
    dut, table = _mmu(h)
    tlb, walker = dut.tlb, dut.walker
    about = ~table.write

    # ---- The theorem, where answers are decided.
    asked = (tlb.page == table.page) & (tlb.asid == table.asid) & (about | tlb.write)
    h.prove("a hit has such a leaf", ~(dut.hit & asked & (tlb.frame == table.frame)) | table.mapped())
    walk, end = walker.request, walker.o.payload
    ends = walker.o.valid & walker.o.ready & (end.answer.fault == 0)
    of_it = (walk.page[:_VPN] == table.page) & (walk.asid == table.asid) & (about | (walk.access == Access.WRITE))
    h.prove("an answer of a walk has such a leaf", ~(ends & of_it & (end.answer.frame == table.frame)) | table.mapped())
    h.prove("a walk of an address that is not canonical ends in a fault", ~ends | is_canonical(walk.page))
    h.prove("a hit is of a canonical address", ~dut.hit | is_canonical(dut.request.page))
    h.cover("a walk ends with the frame, of 4 KiB", ends & of_it & (end.answer.frame == table.frame) & ~end.leaf.mega)
    h.cover("the page is hit", dut.hit & asked & (tlb.frame == table.frame))

    h.narrow(~h.rst, dut.ar.ready, ~dut.halt, dut.r.valid, table.page == 0x40201, table.root == 1, table.asid == 1)
    h.narrow(*(port.ready for port in dut.o), *(~port.valid | (port.payload.root <= 2) for port in dut.i))

    # ---- Why: invariants. Roots of requests, wherever they wait.
    requests = [("looked up", dut.request, dut.hit | dut.miss), ("walked", walk, walker.busy)]
    requests += [(f"held {n}", request, dut.waits[n]) for n, request in enumerate(dut.held)]
    for name, request, valid in requests:
        one_root = (request.asid != table.asid) | (request.root == table.root)
        h.prove(f"inside: root of the request {name}", ~valid | one_root)
        h.prove(f"inside: access of the request {name}", ~valid | (request.access <= max(Access)))

    # ---- Entries of the TLB.
    def leaf_fits(leaf):
        low, middle = leaf.frame[:VPN_BITS], leaf.frame[VPN_BITS : 2 * VPN_BITS]
        return (~leaf.mega | ~low.any()) & (~leaf.giga | leaf.mega & ~middle.any())

    def leaf_read(page, leaf, own):
        """If the leaf at ``page`` maps the symbolic page, so and with that permission, it was read."""
        fine = leaf_fits(leaf)
        for level in range(LEVELS):
            is_level = (leaf.giga, leaf.mega & ~leaf.giga, ~leaf.mega)[LEVELS - 1 - level]
            to_frame = frame_for(leaf.frame, table.page, level) == table.frame
            applies = is_level & same_page(page, table.page, level) & to_frame & (about | leaf.writable)
            fine &= ~(applies & own) | table.own[level] | table.shared[level]
            fine &= ~(applies & leaf.is_global) | table.shared[level]
        return fine

    hits, filled = Signal(_CONFIG.tlb_entries), Signal()
    fill = tlb.fill.payload

    def relevant(entry):
        same = Cat(same_page(entry.page, table.page, level) for level in range(LEVELS))
        leaf = entry.leaf
        return (same[0] | leaf.mega & same[1] | leaf.giga & same[2]) & ((entry.asid == table.asid) | leaf.is_global)

    for i, entry in enumerate(tlb.entries):
        h.m.d.comb += hits[i].eq(tlb.valid[i] & relevant(entry))
        own = (entry.asid == table.asid) & ~entry.leaf.is_global
        h.prove(f"inside: entry {i} was read", ~tlb.valid[i] | leaf_read(entry.page, entry.leaf, own))
    h.prove("inside: at most one entry maps the page", ~(hits & (hits - 1)[: len(hits)]).any())
    second = Signal()
    h.m.d.sync += second.eq(tlb.fill.valid & ~tlb.fill.ready)
    h.m.d.comb += filled.eq(second & relevant(fill))
    h.prove("inside: no entry does while a refill of it is under way", ~filled | ~hits.any())
    h.prove("inside: a refill goes on", ~second | tlb.fill.valid)

    # ---- The walk: where it is in the chain of reads.
    state = walker.states
    fresh, level_now = ~walker.stale, walker.level
    own = walk.asid == table.asid
    same = [same_page(walk.page, table.page, level) for level in range(LEVELS)]
    kind = [walk.access == access for access in Access]
    pte = walker.pte

    def agrees(step, is_own, is_shared):
        """Whether this part of the chain was read in the own tables, and through an entry with G, if it must be."""
        return step["valid"] & (step["own"] | ~is_own) & (step["shared"] | ~is_shared)

    at_root = (state["BEGIN"] | state["READ"]) & (level_now == LEVELS - 1)
    h.prove("inside: a walk begins at its root", ~at_root | (walker.table == walk.root))
    h.prove(
        "inside: and with nothing shared", ~(at_root | state["WAIT"] & (level_now == LEVELS - 1)) | ~walker.is_global
    )
    reads = fresh & state["READ"]
    h.prove(
        "inside: the table of level 1 was read",
        ~(reads & (level_now == 1) & same[2] & ~walker.table[FRAME:].any())
        | agrees(table.middle, own, walker.is_global) & (table.middle["table"] == walker.table),
    )
    h.prove(
        "inside: the table of level 0 was read",
        ~(reads & (level_now == 0) & same[1] & ~walker.table[FRAME:].any())
        | Cat(
            is_kind & agrees(step, own, walker.is_global) & (step["table"] == walker.table)
            for is_kind, step in zip(kind, table.tables)
        ).any(),
    )
    read = [fresh & state["CHECK"] & (level_now == level) & same[level] & ~walker.error for level in range(LEVELS)]
    shared = walker.is_global | pte.g
    for level in range(LEVELS):
        h.prove(
            f"inside: the read of level {level} is one of the chain",
            ~(fresh & state["WAIT"] & (level_now == level) & same[level])
            | agrees(table.reading[level], own, walker.is_global),
        )
        h.prove(
            f"inside: a chain is read at level {level} only in a walk of such a page",
            ~table.reading[level]["valid"] | state["WAIT"] & (level_now == level) & same[level],
        )
        h.prove(
            f"inside: the leaf of level {level} was read",
            ~(read[level] & maps(pte, level, table.page, table.frame, table.write))
            | (table.own[level] | table.shared[level] | ~own) & (table.shared[level] | ~shared),
        )
    h.prove(
        "inside: the pointer of level 2 was read",
        ~(read[2] & is_pointer(pte, 2)) | agrees(table.middle, own, shared) & (table.middle["table"] == pte.ppn),
    )
    for access, step in zip(Access, table.tables):
        new = read[1] & is_pointer(pte, 1) & (walk.access == access)
        h.prove(
            f"inside: the pointer of level 1 was read for a {access.name}",
            ~new | agrees(step, own, shared) & (step["table"] == pte.ppn),
        )
        kept = walker.kept[access]
        h.prove(
            f"inside: the pointer that is kept for a {access.name} was read",
            ~(walker.kept_valid[access] & (kept.high == table.page[VPN_BITS:]) & ~new)
            | agrees(step, kept.asid == table.asid, kept.is_global) & (step["table"] == kept.table),
        )
    h.prove("inside: an invalidation leaves no pointer", fresh | ~walker.kept_valid.any())
    h.prove("inside: a walk begins at the highest level", ~state["BEGIN"] | (level_now == LEVELS - 1))
    walks = state["READ"] | state["WAIT"] | state["CHECK"]
    h.prove("inside: there is such a level", ~walks | (level_now < LEVELS))
    good = state["DONE"] & fresh & (end.answer.fault == 0)
    h.prove("inside: the leaf of a walk was read", ~good | leaf_read(walk.page[:_VPN], end.leaf, own))
    answer = Cat(frame_for(end.leaf.frame, walk.page, level) == end.answer.frame for level in range(LEVELS))
    right = end.leaf.giga & answer[2] | end.leaf.mega & ~end.leaf.giga & answer[1] | ~end.leaf.mega & answer[0]
    h.prove("inside: its answer is of the leaf", ~good | right)
    h.prove("inside: a write has its permission", ~good | (walk.access != Access.WRITE) | end.leaf.writable)
    h.prove("inside: of a canonical address", ~good | is_canonical(walk.page))
    h.prove("inside: which it was from the first read", ~walks | is_canonical(walk.page))


_TLB, _WALKER, _MMU = "mmu.tlb", "mmu.walker", "mmu.mmu"
PROOFS = [
    Proof(
        "Isolation: a frame is answered only if a leaf read since the last invalidation maps it so, with permission",
        "Mmu",
        _decisions,
        {
            "a refill lands after an invalidation during its walk": Bug(
                _WALKER, 'self.restart & (fsm.ongoing("READ") | fsm.ongoing("WAIT"))', "0"
            ),
            "a refill is tagged with the ASID that is looked up now": Bug(
                _MMU, "tlb.fill.payload.asid.eq(walker.request.asid)", "tlb.fill.payload.asid.eq(request.asid)"
            ),
            "a kept pointer outlives an invalidation": Bug(
                _WALKER, "self.kept_valid.eq(0)", "self.kept_valid.eq(self.kept_valid)"
            ),
            "a kept pointer is taken by another address space": Bug(_WALKER, "(signal.asid == request.asid) & ", ""),
            "a page number beyond the bus is truncated": Bug(
                _WALKER, "with m.If(~page_fault & pte.ppn[frames:].any()):", "with m.If(0):"
            ),
            "a pointer with U is followed": Bug(
                _WALKER,
                "pte.a | pte.d | pte.u |",
                "pte.a | pte.d |",
            ),
            "an error response is an entry": Bug(_WALKER, "self.error.eq(self.r.payload.resp[1])", "self.error.eq(0)"),
            "a write needs no D": Bug(_WALKER, "(~is_write | (pte.w & pte.d))", "(~is_write | pte.w)"),
            "a hit by the low bits of the address": Bug(_MMU, "asks & canonical & tlb.hit", "asks & tlb.hit"),
        },
        induction=1,
        quick=True,
    ),
]
