"""Frames that a requester will need, asked for before it needs them."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import PAGE_NUMBER_BITS, Access

from .ports import TranslationSignature, answer_layout

__all__ = ["AHEAD", "FramesAhead"]

AHEAD = 4
"""Pages that are held: the one in use, and three to come."""


class FramesAhead(wiring.Component):
    """Keeps pages and their translations in order, the oldest for use.

    A page is asked for in the cycle after it came, at most one each cycle; an answer can be used a cycle after it
    came. When it is told to
    forget, every page that it holds, the one in use too, is asked for again; answers under way are thrown away.

    Parameters
    ----------
    config : NpuConfig
    access : Access
        What all translations are for.

    Members
    -------
    page : In(stream of 52 bits)
        Page number of a 64-bit address.
    mmu : Out(TranslationSignature(config))
    valid : Out(1), frame : Out(answer_layout(config))
        The translation of the oldest page; a fault is one, too.
    next : In(1)
        Drop the oldest page; only while ``valid``.
    halt : In(1)
        From the next cycle on no request is offered, but one that was offered already stays until it is taken.
    quiet : Out(1)
        No request is offered, and none is without its answer. While ``halt`` is high that stays so.
    """

    def __init__(self, config: NpuConfig, access: Access):
        if not isinstance(access, Access):
            raise TypeError(f"access must be an Access, not {access!r}")
        self._config, self._access = config, access
        super().__init__(
            {
                "page": In(stream.Signature(PAGE_NUMBER_BITS)),
                "mmu": Out(TranslationSignature(config)),
                "valid": Out(1),
                "frame": Out(answer_layout(config)),
                "next": In(1),
                "halt": In(1),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        mmu, request, answer = self.mmu, self.mmu.request, self.mmu.answer
        pages = Signal(ArrayLayout(PAGE_NUMBER_BITS, AHEAD), reset_less=True)
        frames = Signal(ArrayLayout(answer_layout(self._config), AHEAD), reset_less=True)
        # Places, modulo AHEAD: of the oldest page, the next answer, the next request, the next page to come.
        oldest, answered, asked, came = (Signal(range(AHEAD), name=n) for n in ("oldest", "answered", "asked", "came"))
        held, usable, open_, stale = (Signal(range(AHEAD + 1), name=n) for n in ("held", "usable", "open", "stale"))
        enters, asks, arrives, keeps = Signal(), Signal(), Signal(), Signal()
        unasked = Signal()  # a page is held that was not asked for
        rests = Signal()  # halted, and no request was offered that must stay
        m.d.comb += [
            self.page.ready.eq(held != AHEAD),
            enters.eq(self.page.valid & self.page.ready),
            unasked.eq(held != usable + open_),
            request.valid.eq(unasked & (open_ + stale != AHEAD) & ~rests),
            self.quiet.eq((open_ == 0) & (stale == 0) & (rests | ~unasked)),
            request.payload.page.eq(pages[asked]),
            request.payload.access.eq(self._access),
            request.payload.asid.eq(mmu.space.asid),
            request.payload.root.eq(mmu.space.root),
            asks.eq(request.valid & request.ready & ~mmu.forget),
            answer.ready.eq(1),
            arrives.eq(answer.valid),
            keeps.eq(arrives & (stale == 0)),
            self.valid.eq(usable != 0),
            self.frame.eq(frames[oldest]),
        ]
        m.d.sync += rests.eq(self.halt & (~request.valid | request.ready))
        with m.If(enters):
            m.d.sync += pages[came].eq(self.page.payload)
        with m.If(keeps):
            m.d.sync += frames[answered].eq(answer.payload)
        m.d.sync += [
            came.eq(came + enters),
            oldest.eq(oldest + self.next),
            held.eq(held + enters - self.next),
        ]
        with m.If(mmu.forget):
            # What is asked in this very cycle counts as under way.
            m.d.sync += [
                answered.eq(oldest + self.next),
                asked.eq(oldest + self.next),
                usable.eq(0),
                open_.eq(0),
                stale.eq(stale + open_ + (request.valid & request.ready) - arrives),
            ]
        with m.Else():
            m.d.sync += [
                answered.eq(answered + keeps),
                asked.eq(asked + asks),
                usable.eq(usable + keeps - self.next),
                open_.eq(open_ + asks - keeps),
                stale.eq(Mux(stale != 0, stale - arrives, 0)),
            ]
        # For proofs to look at.
        self.pages, self.frames = pages, frames
        self.held, self.usable, self.open_, self.stale = held, usable, open_, stale
        self.oldest, self.answered, self.asked, self.came = oldest, answered, asked, came
        return m
