"""Invalidation of translations: for entries of the TLB, and for all that was made of them."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.translation import Invalidate

from .ports import invalidate_layout

__all__ = ["InvalidationControl"]

_QUIET = 4  # cycles; more than a requester needs to offer a burst that it had begun when it was held


class InvalidationControl(wiring.Component):
    """Makes the TLB and the requesters forget translations while no burst that used them is in flight.

    From ``request`` on, ``hold`` is high (requesters and walker offer the bus nothing new) until the bus has been
    quiet for 4
    cycles; in the last of them the TLB is told, and ``forget`` is high. So when ``busy`` is low again, no access by a
    translation from before is left, and none follows: what the RISC-V IOMMU specification 1.0 calls IOTINVAL and
    IOFENCE in one.

    A request that comes while another is not finished makes one of both: of everything.

    Members
    -------
    request : In(1), what : In(invalidate_layout())
    quiet : In(1)
    hold, forget : Out(1)
    invalidate : Out(stream of invalidate_layout())
        To the MMU, which accepts it in any cycle.
    busy : Out(1)
        From the cycle after the request.
    """

    request: In(1)
    what: In(invalidate_layout())
    quiet: In(1)
    hold: Out(1)
    forget: Out(1)
    invalidate: Out(stream.Signature(invalidate_layout()))
    busy: Out(1)

    def elaborate(self, platform):
        m = Module()
        count = Signal(range(_QUIET))
        what = Signal(invalidate_layout(), reset_less=True)
        ends = Signal()
        m.d.comb += [
            self.hold.eq(self.busy),
            ends.eq(self.busy & self.quiet & (count == _QUIET - 1)),
            self.forget.eq(ends),
            self.invalidate.valid.eq(ends),
            self.invalidate.payload.eq(what),
        ]
        with m.If(self.busy & self.quiet):
            m.d.sync += [count.eq(count + 1), self.busy.eq(~ends)]
        with m.Else():
            m.d.sync += count.eq(0)
        with m.If(self.request):
            m.d.sync += [self.busy.eq(1), count.eq(0), what.eq(self.what)]
            with m.If(self.busy):
                m.d.sync += what.kind.eq(Invalidate.ALL)
        return m
