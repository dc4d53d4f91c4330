"""The counting semaphores that order the engines."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Engine

from .engine import INDEX_BITS
from .queue import post_layout

__all__ = ["SemaphoreFile"]


class SemaphoreFile(wiring.Component):
    """16 counters, 0 at reset: takes and posts of all engines in every cycle.

    A take is granted when every semaphore of its mask is at least 1 and no engine before it (in the order of `Engine`) takes one of them
    in the same cycle, so that no count falls below 0 even in a program in which two engines wait on one.
    Counts change a cycle after. A post beyond `SEMAPHORE_MAX` gives ``overflow`` with the engine and the command, for one cycle.

    Members
    -------
    requests, grants, takes : one bit an engine
        Asks for ``masks[engine]``; may have them; takes them in this cycle (only if granted).
    masks : In(array of 16 bits by engine)
    posts : In(array of post_layout by engine)
    overflow : Out(1), overflow_engine : Out(3), overflow_index : Out(32)
    """

    def __init__(self):
        count = len(Engine)
        super().__init__(
            {
                "requests": In(count),
                "masks": In(data.ArrayLayout(SEMAPHORES, count)),
                "grants": Out(count),
                "takes": In(count),
                "posts": In(data.ArrayLayout(post_layout(), count)),
                "overflow": Out(1),
                "overflow_engine": Out(max(Engine).bit_length()),
                "overflow_index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        counts = [Signal(range(SEMAPHORE_MAX + 1), name=f"count{n}") for n in range(SEMAPHORES)]
        present = Signal(SEMAPHORES)
        m.d.comb += present.eq(Cat(count != 0 for count in counts))

        claimed = Const(0, SEMAPHORES)
        for engine in Engine:
            here = Signal(SEMAPHORES, name=f"claimed_{engine.name.lower()}")
            mask = self.masks[engine]
            m.d.comb += [
                self.grants[engine].eq(self.requests[engine] & ((mask & ~(present & ~claimed)) == 0)),
                here.eq(claimed | Mux(self.grants[engine], mask, 0)),
            ]
            claimed = here

        over = Signal(SEMAPHORES)
        for number, count in enumerate(counts):
            taken = Cat(self.takes[engine] & self.masks[engine][number] for engine in Engine).any()
            posted = sum(self.posts[engine].valid & self.posts[engine].mask[number] for engine in Engine)
            total = Signal(range(SEMAPHORE_MAX + len(Engine) + 1), name=f"total{number}")
            m.d.comb += [total.eq(count - taken + posted), over[number].eq(total > SEMAPHORE_MAX)]
            m.d.sync += count.eq(total)
        m.d.comb += self.overflow.eq(over.any())
        for engine in reversed(Engine):
            with m.If(self.posts[engine].valid & (self.posts[engine].mask & over).any()):
                m.d.comb += [
                    self.overflow_engine.eq(engine),
                    self.overflow_index.eq(self.posts[engine].index),
                ]
        return m
