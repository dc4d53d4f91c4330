"""The TLB: translations that walks have found, compared with all at once."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import ASID_BITS, VPN_BITS, Invalidate

from .ports import VPN, frame_bits, invalidate_layout, leaf_layout

__all__ = ["Tlb", "fill_layout"]


def fill_layout(config: NpuConfig) -> data.StructLayout:
    """A new entry: the page number that was asked for, its address space, and the leaf that maps it."""
    return data.StructLayout({"page": unsigned(VPN), "asid": unsigned(ASID_BITS), "leaf": leaf_layout(config)})


class Tlb(wiring.Component):
    """Fully associative, ``config.tlb_entries`` entries of three page sizes (docs/mmu.md, section 2).

    A lookup is answered in the cycle in which it is made, from the entries as they are at its beginning. A refill
    replaces the entries that it overlaps, and one more, by round robin. Of valid entries no two match the same lookup.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    page : In(27), asid : In(8), write : In(1)
        What is looked up.
    hit : Out(1), frame : Out(addr_width - 12)
        Whether an entry allows it, and the 4 KiB frame that it then is.
    fill : In(stream of fill_layout(config))
        Accepted in its second cycle: the first takes out what it overlaps. An invalidation in either is accepted
        together with it, and nothing is installed.
    invalidate : In(stream of invalidate_layout())
        Accepted in any cycle; holds from the next one on.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        entry = data.StructLayout({"page": unsigned(VPN), "asid": unsigned(ASID_BITS), "leaf": leaf_layout(config)})
        # Attributes, for proofs to look at.
        self.entries = [Signal(entry, name=f"entry{i}", reset_less=True) for i in range(config.tlb_entries)]
        self.valid = Signal(config.tlb_entries)
        super().__init__(
            {
                "page": In(VPN),
                "asid": In(ASID_BITS),
                "write": In(1),
                "hit": Out(1),
                "frame": Out(frame_bits(config)),
                "fill": In(stream.Signature(fill_layout(config))),
                "invalidate": In(stream.Signature(invalidate_layout())),
            }
        )

    def elaborate(self, platform):
        m = Module()
        count = self._config.tlb_entries

        # ---- Lookup.
        hits = Signal(count)
        frame, small = 0, 0
        for i, entry in enumerate(self.entries):
            leaf = entry.leaf
            here = self._same_page(entry, self.page, leaf.mega, leaf.giga)
            mine = leaf.is_global | (entry.asid == self.asid)
            m.d.comb += hits[i].eq(self.valid[i] & here & mine & (leaf.writable | ~self.write))
            frame |= leaf.frame & hits[i].replicate(len(leaf.frame))
            # Index bits of the address that a large page leaves as they are; its frame has zeros there.
            rest = Cat(leaf.mega.replicate(VPN_BITS), leaf.giga.replicate(VPN_BITS))
            small |= rest & hits[i].replicate(2 * VPN_BITS)
        m.d.comb += [self.hit.eq(hits.any()), self.frame.eq(frame | (small & self.page))]

        # ---- What an invalidation, or a new entry, takes out. The invalidation goes first.
        fill, invalidate = self.fill.payload, self.invalidate.payload
        page, asid, mega, giga = Signal(VPN), Signal(ASID_BITS), Signal(), Signal()
        removes, second, install = Signal(), Signal(), Signal()
        m.d.comb += [
            self.invalidate.ready.eq(1),
            self.fill.ready.eq(second | self.invalidate.valid),
            removes.eq(self.invalidate.valid | (self.fill.valid & ~second)),
            install.eq(self.fill.valid & second & ~self.invalidate.valid),
        ]
        m.d.sync += second.eq(self.fill.valid & ~self.fill.ready)
        with m.If(self.invalidate.valid):
            m.d.comb += [page.eq(invalidate.page), asid.eq(invalidate.asid)]
        with m.Else():
            m.d.comb += [
                page.eq(fill.page),
                asid.eq(fill.asid),
                mega.eq(fill.leaf.mega),
                giga.eq(fill.leaf.giga),
            ]
        victim = Signal(range(count))
        for i, entry in enumerate(self.entries):
            leaf = entry.leaf
            here, mine, named = Signal(name=f"here{i}"), Signal(name=f"mine{i}"), Signal(name=f"named{i}")
            m.d.comb += [
                here.eq(self._same_page(entry, page, leaf.mega | mega, leaf.giga | giga)),
                mine.eq(entry.asid == asid),
            ]
            with m.If(~self.invalidate.valid):
                m.d.comb += named.eq(here & (mine | leaf.is_global | fill.leaf.is_global))
            with m.Else(), m.Switch(invalidate.kind):
                with m.Case(Invalidate.ALL):
                    m.d.comb += named.eq(1)
                with m.Case(Invalidate.ASID):
                    m.d.comb += named.eq(mine & ~leaf.is_global)
                with m.Case(Invalidate.ADDRESS):
                    m.d.comb += named.eq(here)
                with m.Case(Invalidate.ASID_ADDRESS):
                    m.d.comb += named.eq(here & mine & ~leaf.is_global)
            with m.If(removes & named):
                m.d.sync += self.valid[i].eq(0)
            with m.If(install & (victim == i)):
                m.d.sync += [self.valid[i].eq(1), entry.eq(fill)]
        with m.If(install):
            m.d.sync += victim.eq(victim + 1)
        return m

    @staticmethod
    def _same_page(entry, page, mega, giga):
        """Whether ``page`` is in the page of ``entry``; index 0 does not count if ``mega``, index 1 if ``giga``."""
        low, middle, high = (entry.page.word_select(i, VPN_BITS) == page.word_select(i, VPN_BITS) for i in range(3))
        return high & (middle | giga) & (low | mega)
