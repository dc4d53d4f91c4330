"""The systolic array: T x T multiply-accumulate cells on int8 mantissas, weights stationary."""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig

__all__ = ["SystolicArray"]


class SystolicArray(wiring.Component):
    """Multiplies rows of T mantissas with a stationary T x T tile, a row every cycle.

    Design B1 of Kung, "Why Systolic Architectures?", IEEE Computer 15(1), 1982: weights stay, inputs are broadcast
    along a row of cells from a register at its edge, sums move down a row of cells every cycle.

    Each cell has a weight in use and a shadow weight. A load shifts T rows into the shadows, **row T-1 first**, one for
    each cycle with ``w_valid``; shadow row k moves only from the k-th of them on, because the swap of the pass before
    is still travelling down. ``x_swap`` with a row of x takes the shadows into use for that row and all later ones. So:

    - ``x_swap`` may come in the cycle after the last row of a load, or later;
    - a load may begin in the cycle of ``x_swap``, or later.

    A pass of T rows repeats every T cycles. Sums are exact: T products of two int8 fit `NpuConfig.sum_bits`.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    w_valid, w_first : In(1), w : In(T x signed(8))
        A row of weights; ``w_first`` with the first one of a load (row T-1).
    x_valid, x_swap : In(1), x : In(T x signed(8))
        A row to multiply: element k meets weight row k.
    o_early : Out(1)
        ``o_valid`` one cycle ahead.
    o_valid : Out(1), o : Out(T x signed(sum_bits))
        ``o[n] = sum over k of x[k] * w[k][n]``, `latency` cycles after x.
    """

    def __init__(self, config: NpuConfig):
        self._side, self._sum_bits = config.side, config.sum_bits
        row = data.ArrayLayout(signed(8), config.side)
        super().__init__(
            {
                "w_valid": In(1),
                "w_first": In(1),
                "w": In(row),
                "x_valid": In(1),
                "x_swap": In(1),
                "x": In(row),
                "o_early": Out(1),
                "o_valid": Out(1),
                "o": Out(data.ArrayLayout(signed(config.sum_bits), config.side)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from ``x_valid`` to ``o_valid``: edge register, product register, T rows of sums."""
        return self._side + 2

    @staticmethod
    def _sum(above: Value, product: Value) -> Value:
        """One step of a column's sum; `sum_bits` hold all of them."""
        return above + product

    def elaborate(self, platform):
        m = Module()
        side = self._side

        # moving[k]: shadow row k moves in this step of a load.
        step, moving = Signal(side), Signal(side)
        m.d.comb += moving.eq(Cat(Const(1, 1), step[:-1]))
        with m.If(self.w_first):
            m.d.comb += moving.eq(1)
        with m.If(self.w_valid):
            m.d.sync += step.eq(moving)

        # valid[i], swap[i]: the row that came i cycles ago.
        valid, swap = Signal(self.latency + 1), Signal(side)
        m.d.comb += [valid[0].eq(self.x_valid), swap[0].eq(self.x_swap)]
        m.d.sync += [valid[1:].eq(valid[:-1]), swap[1:].eq(swap[:-1])]

        shadow_above = [self.w[n] for n in range(side)]
        sums_above = None
        # delayed[k] is element k of the row that came `row` cycles ago.
        delayed = {k: self.x[k] for k in range(side)}
        for row in range(side):
            edge = Signal(signed(8), name=f"edge_{row}", reset_less=True)
            with m.If(valid[row]):
                m.d.sync += edge.eq(delayed[row])
            later = {k: Signal(signed(8), name=f"skew_{row}_{k}", reset_less=True) for k in range(row + 1, side)}
            with m.If(valid[row]):
                m.d.sync += [register.eq(delayed[k]) for k, register in later.items()]
            delayed = later

            shadow, weight, product, total = (
                [Signal(shape, name=f"{name}_{row}_{n}", reset_less=True) for n in range(side)]
                for name, shape in (
                    ("shadow", signed(8)), ("weight", signed(8)), ("product", signed(16)),
                    ("sum", signed(self._sum_bits)),
                )
            )  # fmt: skip
            with m.If(self.w_valid & moving[row]):
                m.d.sync += [cell.eq(above) for cell, above in zip(shadow, shadow_above)]
            with m.If(valid[row] & swap[row]):
                m.d.sync += [cell.eq(new) for cell, new in zip(weight, shadow)]
            with m.If(valid[row + 1]):
                m.d.sync += [cell.eq(edge * w) for cell, w in zip(product, weight)]
            with m.If(valid[row + 2]):
                m.d.sync += [
                    cell.eq(p if sums_above is None else self._sum(sums_above[n], p))
                    for n, (cell, p) in enumerate(zip(total, product))
                ]
            shadow_above, sums_above = shadow, total

        m.d.comb += [self.o_early.eq(valid[-2]), self.o_valid.eq(valid[-1])]
        m.d.comb += [self.o[n].eq(total[n]) for n in range(side)]
        return m
