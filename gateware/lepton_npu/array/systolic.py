"""The systolic array: T x T multiply-accumulate cells on int8 mantissas, weights stationary."""

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig

__all__ = ["SystolicArray"]

_GROUP = 4
"""Columns that one edge register feeds; on an FPGA the way from it to the multipliers is the longest of the array."""


class SystolicArray(wiring.Component):
    """Multiplies rows of T mantissas with a stationary T x T tile, a row every cycle.

    Design B1 of Kung, "Why Systolic Architectures?", IEEE Computer 15(1), 1982: weights stay, inputs are broadcast
    along a row of cells from a register at its edge, sums move down a row of cells every cycle. A broadcast reaches
    `_GROUP` columns; the next ones have edge registers of their own and do everything a cycle later, and the sums of a
    row wait for each other at the bottom.

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
        """Cycles from ``x_valid`` to ``o_valid``: edge registers, product register, T rows of sums."""
        return self._groups + self._side + 1

    @property
    def _groups(self) -> int:
        return -(-self._side // _GROUP)

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
        valid, swap = Signal(self.latency + 1), Signal(side + self._groups - 1)
        m.d.comb += [valid[0].eq(self.x_valid), swap[0].eq(self.x_swap)]
        m.d.sync += [valid[1:].eq(valid[:-1]), swap[1:].eq(swap[:-1])]

        # Element k of x is delayed k cycles; delayed[k] is that of the row that came `row` cycles ago.
        edges: list[Value] = []
        delayed = {k: self.x[k] for k in range(side)}
        for row in range(side):
            edges.append(delayed[row])
            later = {k: Signal(signed(8), name=f"skew_{row}_{k}", reset_less=True) for k in range(row + 1, side)}
            with m.If(valid[row]):
                m.d.sync += [register.eq(delayed[k]) for k, register in later.items()]
            delayed = later

        weights, load = [self.w[n] for n in range(side)], moving & self.w_valid.replicate(side)
        for group in range(self._groups):
            if group:  # a cycle behind the group before
                late = [Signal(signed(8), name=f"w_{group}_{n}", reset_less=True) for n in range(len(weights) - _GROUP)]
                with m.If(load[0]):  # moves in every step
                    m.d.sync += [register.eq(value) for register, value in zip(late, weights[_GROUP:])]
                load_late = Signal(side, name=f"load_{group}")
                m.d.sync += load_late.eq(load)
                weights, load = late, load_late
            edges, sums = self._columns(m, group, edges, weights[:_GROUP], load, valid[group:], swap[group:])
            for delay in range(group + 1, self._groups):
                with m.If(valid[side + 1 + delay]):
                    held = [
                        Signal.like(total, name=f"held_{delay}_{n}") for n, total in enumerate(sums, group * _GROUP)
                    ]
                    m.d.sync += [register.eq(total) for register, total in zip(held, sums)]
                sums = held
            m.d.comb += [self.o[n].eq(total) for n, total in enumerate(sums, group * _GROUP)]

        m.d.comb += [self.o_early.eq(valid[-2]), self.o_valid.eq(valid[-1])]
        return m

    def _columns(
        self, m: Module, group: int, x: list[Value], w: list[Value], load: Value, valid: Value, swap: Value
    ) -> tuple[list[Value], list[Value]]:
        """The cells of a group: its edge registers, and its sums.

        Row k takes ``x[k]`` in the cycle of ``valid[k]``, shadow row k shifts with ``load[k]``.
        """
        edges: list[Value] = []
        sums: list[Value] = []
        above = w
        for row in range(self._side):
            edge = Signal(signed(8), name=f"edge_{group}_{row}", reset_less=True)
            with m.If(valid[row]):
                m.d.sync += edge.eq(x[row])
            edges.append(edge)
            shadow, weight, product, total = (
                [Signal(shape, name=f"{name}_{row}_{group * _GROUP + n}", reset_less=True) for n in range(len(w))]
                for name, shape in (
                    ("shadow", signed(8)), ("weight", signed(8)), ("product", signed(16)),
                    ("sum", signed(self._sum_bits)),
                )
            )  # fmt: skip
            with m.If(load[row]):
                m.d.sync += [cell.eq(new) for cell, new in zip(shadow, above)]
            with m.If(valid[row] & swap[row]):
                m.d.sync += [cell.eq(new) for cell, new in zip(weight, shadow)]
            with m.If(valid[row + 1]):
                m.d.sync += [cell.eq(edge * value) for cell, value in zip(product, weight)]
            with m.If(valid[row + 2]):
                m.d.sync += [
                    cell.eq(self._sum(sums[n], p) if sums else p) for n, (cell, p) in enumerate(zip(total, product))
                ]
            above, sums = shadow, total
        return edges, sums
