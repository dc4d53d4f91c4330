"""The order of passes of a MATMUL: N tiles, K tiles, limbs of B, limbs of A."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["MAX_LIMB_SUM", "PassCounter"]

MAX_LIMB_SUM = 2
"""Limb products whose numbers add up to more are below the result's precision and left out."""


class PassCounter(wiring.Component):
    """Counts the passes of one command: for n, for k, for lb, for la, with la + lb at most `MAX_LIMB_SUM`.

    Members
    -------
    start : In(1)
        Begin with the first pass of a command.
    step : In(1)
        Go to the next pass.
    k_tiles, n_tiles : In(16), a_precision, b_precision : In(2)
        Of the command; read in the cycle of ``start`` only.
    la, lb : Out(2)
        Limbs of the present pass.
    first_k : Out(1)
        The present pass is in K tile 0.
    next_la, next_lb, next_k, next_n : Out(1)
        What the next step changes: exactly one of them, or none after the last pass. They hold from the second cycle
        after ``start`` or ``step`` on: no step may come in the first.
    """

    start: In(1)
    step: In(1)
    k_tiles: In(16)
    n_tiles: In(16)
    a_precision: In(2)
    b_precision: In(2)
    la: Out(2)
    lb: Out(2)
    first_k: Out(1)
    next_la: Out(1)
    next_lb: Out(1)
    next_k: Out(1)
    next_n: Out(1)

    def elaborate(self, platform):
        m = Module()
        k_tiles, k_left, n_left = (Signal(16, name=n, reset_less=True) for n in ("all_k", "k_left", "n_left"))
        a_precision, b_precision = Signal(2, reset_less=True), Signal(2, reset_less=True)
        more_k, more_n = Signal(), Signal()
        more_la, more_lb = Signal(), Signal()
        m.d.comb += [
            more_la.eq((self.la < a_precision) & (self.la + self.lb < MAX_LIMB_SUM)),
            more_lb.eq(self.lb < b_precision),
            more_k.eq(k_left != 1),
            more_n.eq(n_left != 1),
        ]
        # Addresses are chosen by these: as registers, as that takes most of a cycle.
        m.d.sync += [
            self.next_la.eq(more_la),
            self.next_lb.eq(~more_la & more_lb),
            self.next_k.eq(~more_la & ~more_lb & more_k),
            self.next_n.eq(~more_la & ~more_lb & ~more_k & more_n),
        ]
        with m.If(self.start):
            m.d.sync += [
                k_tiles.eq(self.k_tiles),
                k_left.eq(self.k_tiles),
                n_left.eq(self.n_tiles),
                a_precision.eq(self.a_precision),
                b_precision.eq(self.b_precision),
                self.first_k.eq(1),
                self.la.eq(0),
                self.lb.eq(0),
            ]
        with m.Elif(self.step):
            with m.If(self.next_la):
                m.d.sync += self.la.eq(self.la + 1)
            with m.Else():
                m.d.sync += self.la.eq(0)
                with m.If(self.next_lb):
                    m.d.sync += self.lb.eq(self.lb + 1)
                with m.Else():
                    m.d.sync += self.lb.eq(0)
                    with m.If(self.next_k):
                        m.d.sync += [k_left.eq(k_left - 1), self.first_k.eq(0)]
                    with m.Else():
                        m.d.sync += [k_left.eq(k_tiles), n_left.eq(n_left - 1), self.first_k.eq(1)]
        return m
