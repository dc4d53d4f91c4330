"""The watchdog: finds a core that has work and does not move, and the command to blame."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import Engine

from .engine import INDEX_BITS

__all__ = ["Watchdog", "candidate_layout"]


def candidate_layout() -> data.StructLayout:
    """A command that may be the one that hangs."""
    return data.StructLayout({"valid": 1, "index": INDEX_BITS, "engine": max(Engine).bit_length()})


class Watchdog(wiring.Component):
    """Counts cycles in which there is work and nothing moves; at ``limit`` (0 = never) looks for the oldest command.

    Commands that wait are looked at before those that run; without either it is the next command, in
    CONTROL. The look takes three cycles a candidate.

    Parameters
    ----------
    waiting, running : int
        How many of the candidates, in this order, may wait and may run.

    Members
    -------
    work, progress : In(1), limit : In(32)
    next_index : In(32)
        Index of the next command.
    candidates : In(array of candidate_layout)
    fault : Out(1), index : Out(32), engine : Out(3)
        Stays until reset.
    """

    def __init__(self, waiting: int, running: int):
        self._waiting, self._count = waiting, waiting + running
        super().__init__(
            {
                "work": In(1),
                "progress": In(1),
                "limit": In(32),
                "next_index": In(INDEX_BITS),
                "candidates": In(data.ArrayLayout(candidate_layout(), self._count)),
                "fault": Out(1),
                "index": Out(INDEX_BITS),
                "engine": Out(max(Engine).bit_length()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        still = Signal(32)
        number = Signal(range(self._count))
        found = Signal()
        candidate = Signal(candidate_layout())
        looked = Signal(candidate_layout(), reset_less=True)
        # Of all bits: one engine's command may wait while any number of later ones run in others.
        age, best_age = Signal(INDEX_BITS, reset_less=True), Signal(INDEX_BITS, reset_less=True)
        m.d.comb += candidate.eq(Array(self.candidates[k] for k in range(self._count))[number])
        with m.FSM():
            with m.State("COUNT"):
                with m.If(~self.work | self.progress | (self.limit == 0)):
                    m.d.sync += still.eq(0)
                with m.Else():
                    m.d.sync += still.eq(still + 1)
                    with m.If(still + 1 >= self.limit):
                        m.d.sync += [self.index.eq(self.next_index), self.engine.eq(Engine.CONTROL)]
                        m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += looked.eq(candidate)
                m.next = "AGE"
            with m.State("AGE"):
                m.d.sync += age.eq(self.next_index - looked.index)
                m.next = "COMPARE"
            with m.State("COMPARE"):
                with m.If(looked.valid & (~found | (age > best_age))):
                    m.d.sync += [found.eq(1), best_age.eq(age), self.index.eq(looked.index)]
                    m.d.sync += self.engine.eq(looked.engine)
                m.d.sync += number.eq(number + 1)
                m.next = "LOOK"
                with m.If((number == self._count - 1) | ((number == self._waiting - 1) & (found | looked.valid))):
                    m.next = "FAULT"
            with m.State("FAULT"):
                m.d.comb += self.fault.eq(1)
        return m
