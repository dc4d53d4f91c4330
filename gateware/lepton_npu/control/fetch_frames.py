"""Translation for the command fetch: the frames of the pages that the ring and a body are read in."""

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.mmu.ports import TranslationSignature, frame_bits
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import PAGE_NUMBER_BITS, Access, TranslationFault

__all__ = ["FetchFrames"]


class FetchFrames(wiring.Component):
    """Keeps a frame for the ring and one for a body, and asks for another when a record in another page is wanted.

    A page that is held is ready in the second cycle; any other takes 4 cycles more than the MMU's answer.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    page : In(52), body : In(1)
        Page of the next record, and whether it is one of a body.
    wanted : In(1)
        The record would be asked for now, and ``page`` and ``body`` are what they were in the cycle before.
    jump : In(1)
        The next record will be another one: what is said of a page that was denied does not count any more.
    ready : Out(1), frame : Out(addr_width - 12)
        The frame of ``page``, if that was the same in the cycle before.
    denied : Out(1), fault : Out(TranslationFault)
        There is no frame for ``page``.
    quiet : Out(1)
        Nothing is asked of the MMU. While ``wanted`` is low that stays so.
    mmu : Out(TranslationSignature(config))
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "page": In(PAGE_NUMBER_BITS),
                "body": In(1),
                "wanted": In(1),
                "jump": In(1),
                "ready": Out(1),
                "frame": Out(frame_bits(config)),
                "denied": Out(1),
                "fault": Out(unsigned(max(TranslationFault).bit_length())),
                "quiet": Out(1),
                "mmu": Out(TranslationSignature(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mmu, request = self.mmu, self.mmu.request
        layout = data.StructLayout({"page": PAGE_NUMBER_BITS, "frame": frame_bits(self._config)})
        held = [Signal(layout, name=name, reset_less=True) for name in ("ring", "body")]
        valid = Signal(2)
        chosen = Signal(layout)
        page, body = Signal(PAGE_NUMBER_BITS, reset_less=True), Signal(reset_less=True)
        stale, dropped = Signal(), Signal()
        m.d.comb += [
            chosen.eq(Mux(self.body, held[1].as_value(), held[0].as_value())),
            self.frame.eq(chosen.frame),
            request.payload.page.eq(page),
            request.payload.access.eq(Access.FETCH),
            request.payload.asid.eq(mmu.space.asid),
            request.payload.root.eq(mmu.space.root),
        ]
        m.d.sync += self.ready.eq(valid.bit_select(self.body, 1) & (chosen.page == self.page) & ~mmu.forget)
        with m.FSM() as states:
            with m.State("IDLE"):
                m.d.sync += [page.eq(self.page), body.eq(self.body), stale.eq(0), dropped.eq(0)]
                with m.If(self.wanted & mmu.space.translate & ~self.ready & ~self.denied & ~self.jump & ~mmu.forget):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += request.valid.eq(1)
                with m.If(request.ready):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += mmu.answer.ready.eq(1)
                with m.If(mmu.answer.valid):
                    m.next = "HELD"
                    with m.If(~(stale | mmu.forget)):
                        with m.If(mmu.answer.payload.fault != 0):
                            m.d.sync += [self.denied.eq(~dropped), self.fault.eq(mmu.answer.payload.fault)]
                        with m.Else():
                            m.d.sync += valid.bit_select(body, 1).eq(1)
                            for number in range(2):
                                with m.If(body == number):
                                    m.d.sync += [
                                        held[number].page.eq(page),
                                        held[number].frame.eq(mmu.answer.payload.frame),
                                    ]
            with m.State("HELD"):  # ``ready`` is of what was held a cycle ago
                m.next = "IDLE"
        m.d.comb += self.quiet.eq(states.ongoing("IDLE") | states.ongoing("HELD"))
        with m.If(mmu.forget):
            m.d.sync += [valid.eq(0), self.denied.eq(0), stale.eq(1)]
        with m.If(self.jump):
            m.d.sync += [self.denied.eq(0), dropped.eq(1)]
        return m
