"""The TLB: a lookup gets the newest entry that maps its page in its address space, if nothing has named that since."""

from amaranth.hdl import Cat, Signal
from lepton_npu.mmu.tlb import Tlb
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import VPN_BITS, Invalidate

from .engine import Proof
from .harness import Harness
from .planted import Bug
from .streams import assume_stable

__all__ = ["PROOFS"]

_CONFIG = NpuConfig(side=4, lanes=4, addr_width=32, tlb_entries=4)


def _same(one, other, mega, giga):
    """Whether two page numbers are in one page; ``mega``: of 2 MiB at least, ``giga``: of 1 GiB."""
    low, middle, high = (one.word_select(i, VPN_BITS) == other.word_select(i, VPN_BITS) for i in range(3))
    return high & (middle | giga) & (low | mega)


def _tlb(h: Harness) -> None:
    m = h.m
    dut = h.unit(Tlb(_CONFIG))
    page, asid = h.constant("page", len(dut.page)), h.constant("asid", len(dut.asid))
    fill, invalidate = dut.fill.payload, dut.invalidate.payload

    # ---- Assumed: a refill rests until it is taken, and the pages of an entry are all readable, giga also mega.
    assume_stable(h, "the refill", dut.fill)
    h.assume("1 GiB is also 2 MiB", ~dut.fill.valid | ~fill.leaf.giga | fill.leaf.mega)
    frame = fill.leaf.frame
    h.assume(
        "the frame of a large page is aligned",
        ~dut.fill.valid
        | (~fill.leaf.mega | ~frame[:VPN_BITS].any()) & (~fill.leaf.giga | ~frame[VPN_BITS : 2 * VPN_BITS].any()),
    )

    # ---- The one leaf that maps ``page`` for ``asid``, of those that were installed: docs/mmu.md, section 2.
    mapped, kept = Signal(), Signal(fill.shape(), reset_less=True)
    new, named = Signal(), Signal()
    leaf = kept.leaf
    # Of entries that do not map the page and space, none is of interest; of those that do, any two overlap.
    m.d.comb += new.eq(
        dut.fill.valid
        & dut.fill.ready
        & ~dut.invalidate.valid
        & _same(fill.page, page, fill.leaf.mega, fill.leaf.giga)
        & ((fill.asid == asid) | fill.leaf.is_global)
    )
    here = _same(kept.page, invalidate.page, leaf.mega, leaf.giga)
    mine = (kept.asid == invalidate.asid) & ~leaf.is_global
    with m.Switch(invalidate.kind):
        with m.Case(Invalidate.ALL):
            m.d.comb += named.eq(1)
        with m.Case(Invalidate.ASID):
            m.d.comb += named.eq(mine)
        with m.Case(Invalidate.ADDRESS):
            m.d.comb += named.eq(here)
        with m.Case(Invalidate.ASID_ADDRESS):
            m.d.comb += named.eq(here & mine)
    with m.If(dut.invalidate.valid & named):
        m.d.sync += mapped.eq(0)
    # A refill takes out what it overlaps in its first cycle, and is itself there after its second.
    starts = Signal()
    second = Signal()
    m.d.comb += starts.eq(dut.fill.valid & ~second & ~dut.invalidate.valid)
    m.d.sync += second.eq(dut.fill.valid & ~dut.fill.ready)
    overlaps = _same(kept.page, fill.page, leaf.mega | fill.leaf.mega, leaf.giga | fill.leaf.giga) & (
        (kept.asid == fill.asid) | leaf.is_global | fill.leaf.is_global
    )
    with m.If(starts & overlaps):
        m.d.sync += mapped.eq(0)
    with m.If(new):
        m.d.sync += [mapped.eq(1), kept.eq(fill)]
    h.watch(mapped=mapped, kept=kept.as_value(), new=new)

    # ---- To prove, of every page and address space.
    asked = (dut.page == page) & (dut.asid == asid)
    rest = Cat(leaf.mega.replicate(VPN_BITS), leaf.giga.replicate(VPN_BITS))
    h.prove("a hit is of a leaf that was installed and not named since", ~(asked & dut.hit) | mapped)
    h.prove("a write hits only what may be written", ~(asked & dut.hit & dut.write) | leaf.writable)
    h.prove(
        "the frame is that of the leaf", ~(asked & dut.hit) | (dut.frame == (leaf.frame | (rest & page)[: len(frame)]))
    )
    hits = Signal(_CONFIG.tlb_entries)
    for i, entry in enumerate(dut.entries):
        m.d.comb += hits[i].eq(
            dut.valid[i]
            & _same(entry.page, page, entry.leaf.mega, entry.leaf.giga)
            & ((entry.asid == asid) | entry.leaf.is_global)
        )
        h.prove(
            f"inside: entry {i} is the leaf if it maps the page",
            ~hits[i] | mapped & (entry.as_value() == kept.as_value()),
        )
    h.prove("at most one entry maps the page", ~(hits & (hits - 1)[: len(hits)]).any())
    in_second = _same(fill.page, page, fill.leaf.mega, fill.leaf.giga) & ((fill.asid == asid) | fill.leaf.is_global)
    h.prove("inside: none does while a refill of it is under way", ~(dut.fill.valid & second & in_second) | ~hits.any())
    h.cover("a hit of a page of 2 MiB", asked & dut.hit & leaf.mega & ~leaf.giga)
    h.cover("a hit of a page of 4 KiB, of the second entry", asked & hits[1] & dut.hit & ~leaf.mega)


_FILE = "mmu.tlb"
PROOFS = [
    Proof(
        "A hit is of the address space or global, not stale, and allowed; one entry at most",
        "Tlb",
        _tlb,
        {
            "ASID not compared": Bug(_FILE, "mine = leaf.is_global | (entry.asid == self.asid)", "mine = 1"),
            "ADDRESS spares large pages": Bug(_FILE, "named.eq(here)", "named.eq(here & ~leaf.mega)"),
            "refill beside an invalidation stays": Bug(
                _FILE,
                "install.eq(self.fill.valid & second & ~self.invalidate.valid)",
                "install.eq(self.fill.valid & second)",
            ),
            "overlap by the smaller size": Bug(
                _FILE,
                "self._same_page(entry, page, leaf.mega | mega, leaf.giga | giga)",
                "self._same_page(entry, page, leaf.mega, leaf.giga)",
            ),
            "write hits what is read-only": Bug(_FILE, " & (leaf.writable | ~self.write)", ""),
        },
        induction=1,
        quick=True,
    ),
]
