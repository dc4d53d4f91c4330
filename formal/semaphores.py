"""Semaphores: no count is lost, none is taken that is not there, and one too many is told."""

from amaranth.hdl import Cat, Mux, Signal
from lepton_npu.control.semaphores import SemaphoreFile
from lepton_npu.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Engine

from .engine import Proof
from .harness import Harness
from .planted import Bug

__all__ = ["PROOFS"]


def _semaphores(h: Harness) -> None:
    m = h.m
    dut = h.unit(SemaphoreFile())
    number = h.constant("semaphore", range(SEMAPHORES))
    wanted = [dut.masks[e].bit_select(number, 1) for e in Engine]
    taken = [dut.takes[e] & wanted[e] for e in Engine]
    posted = [dut.posts[e].valid & dut.posts[e].mask.bit_select(number, 1) for e in Engine]
    count, after = Signal(range(SEMAPHORE_MAX + 1)), Signal(range(-1, SEMAPHORE_MAX + len(Engine) + 1))
    over = Signal()
    told = Signal()
    m.d.comb += after.eq(count + sum(posted) - sum(taken))
    m.d.sync += [count.eq(after), over.eq(after > SEMAPHORE_MAX), told.eq(over)]
    h.watch(count=count, after=after, over=over)

    # As the sequencer uses them: taken in the cycle after the grant, in which nobody asks.
    granted, owed = Signal(len(Engine)), Signal(len(Engine))
    m.d.sync += [granted.eq(dut.grants), owed.eq(dut.grants & Cat(wanted))]
    h.assume("an engine takes what it was granted in the cycle before", dut.takes == granted)
    h.assume("that is what it asked for", (granted & Cat(wanted)) == owed)
    h.assume("nobody asks while any takes", (dut.requests == 0) | (dut.takes == 0))
    h.assume("nothing goes on after an overflow", ~told)
    for e in Engine:
        h.prove(f"{e.name} is granted only what is there", ~(dut.grants[e] & wanted[e]) | (count != 0) | over)
    h.prove("what was granted is still there", (owed == 0) | (count != 0) | over)
    h.prove("one engine takes it", (sum(owed) <= 1) | over)
    h.prove("the count never falls below 0", (after >= 0) | over)
    h.prove("an overflow is told", ~over | dut.overflow)
    h.prove("it names an engine", ~over | (dut.overflow_engine < len(Engine)))
    # What the unit counts is what is counted here: it loses none.
    own = Mux(over, 0, dut.counts[0])
    for place in range(1, SEMAPHORES):
        own = Mux(number == place, dut.counts[place], own)
    h.prove("the unit has this count", over | (own == count))
    h.prove("inside: and knows whether it is 0", over | (dut.present.bit_select(number, 1) == (count != 0)))
    h.cover("it is taken", sum(taken) == 1)
    h.cover("two", count == 2)


_FILE = "control.semaphores"
PROOFS = [
    Proof(
        "Counts: none lost, none taken twice or below 0; an overflow is told",
        "SemaphoreFile",
        _semaphores,
        {
            "granted without a look at those before": Bug(_FILE, "there[engine] & ~Cat(before).any()", "there[engine]"),
            "two posts in one cycle count as one": Bug(
                _FILE,
                "posted.eq(sum(self.posts[engine].valid & self.posts[engine].mask[number] for engine in Engine))",
                "posted.eq(Cat(self.posts[engine].valid & self.posts[engine].mask[number] for engine in Engine).any())",
            ),
            "a post beside a take is lost": Bug(_FILE, "less.eq(count + (posted - 1))", "less.eq(count - 1)"),
        },
        induction=2,
        quick=True,
    ),
]
