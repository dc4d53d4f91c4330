"""A skid buffer: the small design that the simulation flow itself is tested with."""

from amaranth.hdl import Module, Shape, ShapeLike, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class SkidBuffer(wiring.Component):
    """Stream register with registered outputs on both sides: latency 1, full throughput.

    Parameters
    ----------
    shape : ShapeLike
        Shape of the payload.
    drop : bool
        Plant a bug: the held payload is lost when the output stalls (to see that tests fail).
    """

    def __init__(self, shape: ShapeLike = unsigned(8), *, drop: bool = False):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})
        self._drop = drop

    def elaborate(self, platform):
        m = Module()
        held = Signal(Shape.cast(self.i.p.shape()))
        with m.FSM():
            with m.State("EMPTY"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid):
                    m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(1)]
                    m.next = "ONE"
            with m.State("ONE"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.o.ready):
                    m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(self.i.valid)]
                    with m.If(~self.i.valid):
                        m.next = "EMPTY"
                with m.Elif(self.i.valid):
                    m.d.sync += held.eq(self.i.payload)
                    m.next = "TWO"
            with m.State("TWO"), m.If(self.o.ready):
                if not self._drop:
                    m.d.sync += self.o.payload.eq(held)
                m.next = "ONE"
        return m
