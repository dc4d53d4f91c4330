"""Soft reset: waits until the bus is quiet, then resets everything but memories and registers."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SoftReset"]

_QUIET = 4  # cycles; more than an engine needs to offer a burst that it had begun when it was halted


class SoftReset(wiring.Component):
    """Resets the core between bus transactions, never in one.

    From ``request`` on, ``resetting`` is high (engines start no burst) until the bus has been quiet for 4 cycles; in
    the last of them ``reset`` is high for one cycle.

    Members
    -------
    request, quiet : In(1)
    resetting, reset : Out(1)
    """

    request: In(1)
    quiet: In(1)
    resetting: Out(1)
    reset: Out(1)

    def elaborate(self, platform):
        m = Module()
        count = Signal(range(_QUIET))
        m.d.comb += self.reset.eq(self.resetting & self.quiet & (count == _QUIET - 1))
        with m.If(~self.resetting):
            m.d.sync += [self.resetting.eq(self.request), count.eq(0)]
        with m.Elif(~self.quiet):
            m.d.sync += count.eq(0)
        with m.Else():
            m.d.sync += [count.eq(count + 1), self.resetting.eq(~self.reset)]
        return m
