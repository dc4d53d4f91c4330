"""The page walker: reads the entries of a table, one level after the other."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import ASID_BITS, LEVELS, PPN_BITS, PPN_LSB, PTE_BYTES, VPN_BITS, Access

from .ports import answer_layout, frame_bits, is_canonical, leaf_layout, request_layout

__all__ = ["PageWalker", "pte_layout", "walk_layout"]


def pte_layout() -> data.StructLayout:
    """An entry (docs/mmu.md, section 1)."""
    return data.StructLayout(
        {
            **dict.fromkeys("vrwxugad", 1),
            "rsw": 2,
            "ppn": unsigned(PPN_BITS),
            "reserved": unsigned(64 - PPN_LSB - PPN_BITS),
        }
    )


def walk_layout(config: NpuConfig) -> data.StructLayout:
    """How a walk has ended: the answer to the request, and for the TLB the leaf (of a walk without a fault)."""
    return data.StructLayout({"answer": answer_layout(config), "leaf": leaf_layout(config)})


class PageWalker(wiring.Component):
    """Walks for one request at a time: three levels, a single-beat read each, every check of docs/mmu.md, section 1.

    A level takes 3 cycles where the memory answers in the cycle after the read, and as many more as it takes longer; a
    walk of three levels 11 in all. ASID and root are those of the request when it was accepted.

    For each kind of access the last pointer to a table of level 0 is kept, so that a walk in the same 2 MiB of the same
    address space reads one entry, and takes 5 cycles. A ``restart`` drops all of them. (A page walk cache, as in T.
    Barr, A. Cox, S. Rixner, "Translation Caching: Skip, Don't Walk (the Page Table)", ISCA 2010, section 3; Sv39 lets
    an implementation keep pointers until an SFENCE.VMA.)

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    i : In(stream of request_layout())
        Accepted while no walk runs.
    o : Out(stream of walk_layout(config))
        Stays until it is taken, or a ``restart`` withdraws it.
    restart : In(1)
        The TLB is told to forget something: a walk that runs begins again at its root, after the read that is offered
        or in flight is answered. A result that is taken in the same cycle does not count.
    halt : In(1)
        Begin no read while high.
    ar : Out(stream of burst_layout), r : In(stream of read_beat_layout)
        To the bus. One read is in flight at most.
    request : Out(request_layout())
        That of the walk; valid while ``busy``.
    busy : Out(1)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        # Attributes, for proofs to look at.
        self.table, self.level = Signal(PPN_BITS, reset_less=True), Signal(range(LEVELS), reset_less=True)
        self.stale, self.is_global = Signal(), Signal(reset_less=True)
        self.pte, self.error = Signal(pte_layout(), reset_less=True), Signal(reset_less=True)
        kept = data.StructLayout(
            {"asid": ASID_BITS, "high": (LEVELS - 1) * VPN_BITS, "table": frame_bits(config), "is_global": 1}
        )
        self.kept = [Signal(kept, name=f"kept_{access.name.lower()}", reset_less=True) for access in Access]
        self.kept_valid = Signal(len(Access))
        super().__init__(
            {
                "i": In(stream.Signature(request_layout())),
                "o": Out(stream.Signature(walk_layout(config))),
                "restart": In(1),
                "halt": In(1),
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "request": Out(request_layout()),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, request, frames = self._config, self.request, frame_bits(self._config)
        table, level, pte = self.table, self.level, self.pte
        result = self.o.payload

        # ---- Where the entry is.
        index = Signal(VPN_BITS)
        with m.Switch(level):
            for number in range(LEVELS):
                with m.Case(number):
                    m.d.comb += index.eq(request.page.word_select(number, VPN_BITS))
        lanes = config.bus_bytes // PTE_BYTES
        lane_bits = (lanes - 1).bit_length()
        offset = Cat(Const(0, lane_bits + 3), index[lane_bits:])
        waiting = Signal()
        m.d.comb += [
            self.ar.payload.addr.eq(Cat(offset, table)),
            self.ar.payload.len.eq(0),
        ]
        m.d.sync += waiting.eq(self.ar.valid & ~self.ar.ready)

        # ---- What it says.
        fault, pointer, page_fault, access_fault = Signal(), Signal(), Signal(), Signal()
        misaligned, allowed, is_write = Signal(), Signal(), Signal()
        m.d.comb += [
            is_write.eq(request.access == Access.WRITE),
            pointer.eq(~pte.r & ~pte.x),
            misaligned.eq(
                ((level >= 1) & pte.ppn[:VPN_BITS].any()) | ((level == 2) & pte.ppn[VPN_BITS : 2 * VPN_BITS].any())
            ),
            allowed.eq(pte.r & pte.u & pte.a & (~is_write | (pte.w & pte.d))),
            access_fault.eq(self.error),
        ]
        with m.If(~pte.v | (pte.w & ~pte.r) | pte.reserved.any()):
            m.d.comb += page_fault.eq(1)
        with m.Elif(pointer):
            m.d.comb += page_fault.eq(pte.a | pte.d | pte.u | (level == 0))
        with m.Else():
            m.d.comb += page_fault.eq(~allowed | misaligned)
            with m.If(~page_fault & pte.ppn[frames:].any()):
                m.d.comb += access_fault.eq(1)

        # ---- The pointer that is kept for this kind of access.
        kept, keeps = Signal(self.kept[0].shape()), Signal()
        high, skips = request.page[VPN_BITS : LEVELS * VPN_BITS], Signal()
        with m.Switch(request.access):
            for access, signal in zip(Access, self.kept):
                with m.Case(access):
                    m.d.comb += [
                        kept.eq(signal),
                        skips.eq(self.kept_valid[access] & (signal.asid == request.asid) & (signal.high == high)),
                    ]
                    with m.If(keeps):
                        m.d.sync += [
                            self.kept_valid[access].eq(1),
                            signal.asid.eq(request.asid),
                            signal.high.eq(high),
                            signal.table.eq(pte.ppn),
                            signal.is_global.eq(self.is_global | pte.g),
                        ]
        with m.If(self.restart):
            m.d.sync += self.kept_valid.eq(0)

        def end(*, page, access):
            """The walk is over: with a page fault, an access fault (which goes first), or without."""
            m.d.sync += result.answer.fault.eq(Mux(access | page, Cat((request.access + 1)[:2], access), 0))
            m.next = "DONE"

        def begin(root):
            m.d.sync += [table.eq(root), level.eq(LEVELS - 1), self.is_global.eq(0), self.stale.eq(0)]
            m.next = "BEGIN"

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += request.eq(self.i.payload)
                    begin(self.i.payload.root)
            with m.State("BEGIN"):
                with m.If(~is_canonical(request.page)):
                    end(page=1, access=0)
                with m.Else():
                    m.next = "READ"
                    with m.If(skips & ~self.restart):
                        m.d.sync += [table.eq(kept.table), level.eq(0), self.is_global.eq(kept.is_global)]
            with m.State("READ"):
                with m.If(self.stale & ~waiting):
                    begin(request.root)
                with m.Elif(table[frames:].any()):
                    end(page=0, access=1)
                with m.Else():
                    m.d.comb += self.ar.valid.eq(waiting | ~self.halt)
                    with m.If(self.ar.valid & self.ar.ready):
                        m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += self.r.ready.eq(1)
                words = self.r.payload.data
                m.d.sync += [
                    pte.eq(words.word_select(index[:lane_bits], 64) if lane_bits else words),
                    self.error.eq(self.r.payload.resp[1]),
                ]
                with m.If(self.r.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += fault.eq(page_fault | access_fault)
                m.d.sync += [
                    result.answer.frame.eq(pte.ppn),
                    result.leaf.frame.eq(pte.ppn),
                    result.leaf.mega.eq(level >= 1),
                    result.leaf.giga.eq(level == 2),
                    result.leaf.is_global.eq(self.is_global | pte.g),
                    result.leaf.writable.eq(pte.w & pte.d),
                    self.is_global.eq(self.is_global | pte.g),
                    table.eq(pte.ppn),
                    level.eq(level - 1),
                ]
                for number in range(LEVELS - 1):
                    with m.If(level > number):
                        m.d.sync += result.answer.frame.word_select(number, VPN_BITS).eq(
                            request.page.word_select(number, VPN_BITS)
                        )
                m.next = "READ"
                m.d.comb += keeps.eq((level == 1) & pointer & ~fault & ~pte.ppn[frames:].any() & ~self.stale)
                with m.If(fault | ~pointer):
                    end(page=page_fault, access=access_fault)
                with m.If(self.stale | self.restart):
                    begin(request.root)
            with m.State("DONE"):
                m.d.comb += self.o.valid.eq(~self.stale)
                with m.If(self.stale | self.restart):
                    begin(request.root)
                with m.Elif(self.o.ready):
                    m.next = "IDLE"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        # A read in flight cannot be taken back: its answer, when it has come, is not used.
        with m.If(self.restart & (fsm.ongoing("READ") | fsm.ongoing("WAIT"))):
            m.d.sync += self.stale.eq(1)
        self.states = {name: fsm.ongoing(name) for name in ("BEGIN", "READ", "WAIT", "CHECK", "DONE")}
        return m
