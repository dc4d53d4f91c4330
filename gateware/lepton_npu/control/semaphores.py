"""The counting semaphores that order the engines."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Engine

from .queue import post_layout

__all__ = ["SemaphoreFile"]


class SemaphoreFile(wiring.Component):
    """16 counters, 0 at reset: takes and posts of all engines in every cycle.

    A take is granted when every semaphore of its mask is at least 1 and those of no engine before it (in the order of
    `Engine`) that wants one of them as well are, so that no count falls below 0 even in a program in which two engines
    wait on one. Counts change a cycle after. A post beyond `SEMAPHORE_MAX` gives ``overflow`` a cycle later, for one
    cycle, with the engine and the command.

    Members
    -------
    requests, grants, takes : one bit an engine
        Asks for ``masks[engine]``; may have them; takes them in this cycle (only if granted).
    masks : In(array of 16 bits by engine)
    posts : In(array of post_layout by engine)
    overflow : Out(1), overflow_engine : Out(3)
        A cycle after the post: whose it was. Its index is the user's to keep.
    """

    def __init__(self):
        count = len(Engine)
        # Attributes, for proofs to look at.
        self.counts = [Signal(range(SEMAPHORE_MAX + 1), name=f"count{n}") for n in range(SEMAPHORES)]
        self.present = Signal(SEMAPHORES)  # counts that are not 0
        super().__init__(
            {
                "requests": In(count),
                "masks": In(data.ArrayLayout(SEMAPHORES, count)),
                "grants": Out(count),
                "takes": In(count),
                "posts": In(data.ArrayLayout(post_layout(), count)),
                "overflow": Out(1),
                "overflow_engine": Out(max(Engine).bit_length()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        present = self.present
        there = Signal(len(Engine))
        for engine in Engine:
            mask = self.masks[engine]
            # Of the ones before those that are there, not those that are granted: no chain through all engines.
            before = [there[e] & (mask & self.masks[e]).any() for e in Engine if e < engine]
            m.d.comb += [
                there[engine].eq(self.requests[engine] & ((mask & ~present) == 0)),
                self.grants[engine].eq(there[engine] & ~Cat(before).any()),
            ]

        over = Signal(SEMAPHORES)
        for number in range(SEMAPHORES):
            taken = Cat(self.takes[engine] & self.masks[engine][number] for engine in Engine).any()
            posted = Signal(range(len(Engine) + 1), name=f"posted{number}")
            m.d.comb += posted.eq(sum(self.posts[engine].valid & self.posts[engine].mask[number] for engine in Engine))
            count = self.counts[number]
            # Takes come late in the cycle, so they choose between two sums.
            shape = range(SEMAPHORE_MAX + len(Engine) + 1)
            kept, less = Signal(shape, name=f"kept{number}"), Signal(shape, name=f"less{number}")
            m.d.comb += [kept.eq(count + posted), less.eq(count + (posted - 1))]
            m.d.sync += [
                count.eq(Mux(taken, less, kept)),
                present[number].eq(Mux(taken, less != 0, kept != 0)),
                over[number].eq(Mux(taken, less > SEMAPHORE_MAX, kept > SEMAPHORE_MAX)),
            ]

        m.d.comb += self.overflow.eq(over.any())
        for engine in reversed(Engine):
            late = Signal(SEMAPHORES, name=f"late_{engine.name.lower()}")
            m.d.sync += late.eq(Mux(self.posts[engine].valid, self.posts[engine].mask, 0))
            with m.If((late & over).any()):
                m.d.comb += self.overflow_engine.eq(engine)
        return m
