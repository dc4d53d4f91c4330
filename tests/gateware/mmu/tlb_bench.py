"""A `Tlb` in Amaranth's simulator beside its model: every input of a cycle set, every lookup compared."""

import random
from collections import Counter

from amaranth.hdl import Value
from lepton_npu.mmu.tlb import Tlb
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import ENTRIES, Invalidate
from lepton_verif.model.tlb import TlbEntry, TlbModel

from tests.gateware.simulation import Pins, kept, simulate

__all__ = ["TlbDriver"]


class TlbDriver:
    """Drives ``unit`` (`Tlb`, or one with a bug); the pages that it knows are few, so that sizes and spaces meet.

    Attributes
    ----------
    seen : Counter
        Of lookups and events, by kind.
    """

    def __init__(self, rng: random.Random, config: NpuConfig, unit=Tlb):
        self.rng, self.config, self.dut = rng, config, kept(unit, config)
        self.model = TlbModel(config.tlb_entries)
        dut = self.dut
        self._lookup = Pins(dut.page, dut.asid, dut.write)
        self._inputs = Pins(dut.fill.valid, dut.fill.payload, dut.invalidate.valid, dut.invalidate.payload)
        self._fill = 0
        self.seen: Counter = Counter()
        self._offered: TlbEntry | None = None
        self._offered_page = 0
        # Three indices a level, and both ends of each; spaces that differ by a bit.
        self.indices = [[0, ENTRIES - 1, rng.randrange(1, ENTRIES - 1)] for _ in range(3)]
        self.asids = [0, 255, a := rng.randrange(256), a ^ 1 << rng.randrange(8)]

    def page(self) -> int:
        page = sum(self.rng.choice(i) << 9 * level for level, i in enumerate(self.indices))
        return page ^ (1 << self.rng.randrange(27) if self.rng.random() < 0.1 else 0)

    def entry(self, page: int, global_chance: float = 0.15) -> TlbEntry:
        rng, level = self.rng, self.rng.randrange(3)
        frames = self.config.addr_width - 12
        frame = rng.getrandbits(frames) >> 9 * level << 9 * level
        return TlbEntry.of(page, level, rng.choice(self.asids), rng.random() < global_chance, frame, rng.random() < 0.7)

    def look(self, ctx, page: int, asid: int, write: bool) -> None:
        """One lookup (several fit into a cycle: it is combinational): hit and frame, and how many entries hit."""
        dut = self.dut
        self._lookup.set(ctx, page, asid, write)
        expected = self.model.lookup(page, asid, write)
        found = ctx.get(dut.frame) if ctx.get(dut.hit) else None
        assert found == expected, f"page 0x{page:x}, ASID {asid}, write {write}: {found}, not {expected}"
        assert len(self.model.found(page, asid, False)) <= 1
        self.seen["hit" if found is not None else "miss"] += 1
        for e in self.model.found(page, asid, write):
            self.seen["hit", e.pages, "global" if e.is_global and e.asid != asid else "own"] += 1

    def hitting(self, ctx, page: int, asid: int) -> int:
        """Entries of the unit that map ``page``, counted in its registers, with what they allow left out."""
        count, valid = 0, ctx.get(self.dut.valid)
        for number, entry in enumerate(self.dut.entries):
            if valid >> number & 1:
                e = ctx.get(entry)
                shift = 18 if e.leaf.giga else 9 if e.leaf.mega else 0
                count += e.page >> shift == page >> shift and (e.leaf.is_global or e.asid == asid)
        return count

    async def cycle(self, ctx, lookups=(), *, new: tuple[TlbEntry, int] | None = None, invalidation=None) -> bool:
        """Set everything for a cycle and compare; whether the entry was accepted.

        ``new`` is an entry and the page, anywhere in it, that its walk was for; offered again until it is accepted.
        """
        dut, rng = self.dut, self.rng
        if new:
            e, page = new
            leaf = {
                "frame": e.frame, "mega": e.pages > 1, "giga": e.pages > ENTRIES, "is_global": e.is_global,
                "writable": e.writable,
            }  # fmt: skip
            fill = dut.fill.payload.shape().const({"page": page, "asid": e.asid, "leaf": leaf})
            self._fill = Value.cast(fill).value
        # What is not valid, and what a kind does not use, is noise.
        noise = {"kind": rng.randrange(4), "asid": rng.choice(self.asids), "page": self.page()}
        if invalidation:
            kind, asid, page = invalidation
            noise["kind"] = kind
            if kind in (Invalidate.ASID, Invalidate.ASID_ADDRESS):
                noise["asid"] = asid
            if kind in (Invalidate.ADDRESS, Invalidate.ASID_ADDRESS):
                noise["page"] = page
        self._inputs.set(ctx, new is not None, self._fill, invalidation is not None, noise)
        for lookup in lookups:
            self.look(ctx, *lookup)
        for page, asid, _ in lookups[-1:]:  # the rest is slow
            assert self.hitting(ctx, page, asid) == len(self.model.found(page, asid, False))
        assert ctx.get(dut.invalidate.ready)
        before = len([e for e in self.model.places if e])
        accepted = self.model.cycle(new[0] if new else None, invalidation)
        assert (ctx.get(dut.fill.ready) if new else accepted) == accepted
        removed = before - len([e for e in self.model.places if e])
        if new or invalidation:
            self.seen[invalidation[0] if invalidation else "fill" if accepted else "room", removed > 0] += 1
        await ctx.tick()
        return accepted

    async def put(self, ctx, entry: TlbEntry, page: int | None = None) -> None:
        """Refill, undisturbed: two cycles."""
        new = (entry, entry.first if page is None else page)
        assert not await self.cycle(ctx, new=new)
        assert await self.cycle(ctx, new=new)

    def simulate(self, process) -> None:
        simulate(self.dut, process)
