"""Random numbers of stochastic rounding: docs/numerics.md, section 6."""

from amaranth.hdl import Array, Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.control.contexts import context_bits
from lepton_npu.spec.commands import SEED_AT_RESET
from lepton_npu.spec.config import NpuConfig

__all__ = ["NUMBER_BITS", "RowStates", "lane_numbers"]

NUMBER_BITS = 16
"""Bits of a random number."""

STATE_BITS = 2 * NUMBER_BITS

_POLYNOMIAL = 0x1002D  # x^16 + x^5 + x^3 + x^2 + 1


def _advanced(state):
    """xorshift32: Marsaglia, "Xorshift RNGs", J. Stat. Software 8(14), 2003, section 3."""
    state = state ^ Cat(Const(0, 13), state[:-13])
    state = state ^ state[17:]
    return state ^ Cat(Const(0, 5), state[:-5])


def lane_numbers(state, lanes: int) -> list:
    """The numbers of the lanes 0 .. ``lanes`` - 1 for a row's state of `STATE_BITS`; combinational.

    They are upper half + a^lane * lower half in GF(2^16): independent in pairs, as the state is anything but 0.
    """
    lower, upper = state[:NUMBER_BITS], state[NUMBER_BITS:]
    # a^lane times each bit of the lower half alone. A number's bit is the exclusive or of state bits: expressions that
    # are made from those of the lane before would double and more with every lane.
    products = [1 << bit for bit in range(NUMBER_BITS)]
    numbers = []
    for _ in range(lanes):
        numbers.append(
            Cat(
                upper[bit] ^ Cat(low for low, product in zip(lower, products) if product >> bit & 1).xor()
                for bit in range(NUMBER_BITS)
            )
        )
        products = [product << 1 for product in products]
        products = [product ^ _POLYNOMIAL if product >> NUMBER_BITS else product for product in products]
    return numbers


class RowStates(wiring.Component):
    """The generator, which gives a state for each row of a tile, and the same ones for each plane of the tile.

    Each context has a state of its own, which no reset of the engine touches: numbers depend on what the context itself
    has done.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    owner : In(context_bits(config))
        Whose state it is; changes only between tiles.
    forget : In(contexts)
        Of the contexts whose bits are set, the state is that after reset. This is the only reset it has.
    seed : In(32), load : In(1)
        Replaces the state; not while ``step`` is high.
    step : In(1)
        A row is rounded with ``state``: go on.
    first : In(1)
        With ``step``: it is the first row of its tile, in the first plane.
    again : In(1)
        With ``step``: it is the last row of a plane, and the next plane of the tile follows.
    state : Out(32)
        In the same cycle.
    """

    def __init__(self, config: NpuConfig):
        self._count = config.contexts
        super().__init__(
            {
                "owner": In(context_bits(config)),
                "forget": In(config.contexts),
                "seed": In(STATE_BITS),
                "load": In(1),
                "step": In(1),
                "first": In(1),
                "again": In(1),
                "state": Out(STATE_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lasts = [
            Signal(STATE_BITS, name=f"last{number}", init=SEED_AT_RESET, reset_less=True)
            for number in range(self._count)
        ]
        last, following = Signal(STATE_BITS), Signal(STATE_BITS)
        start = Signal(STATE_BITS, reset_less=True)
        m.d.comb += [
            last.eq(Array(lasts)[self.owner]),
            self.state.eq(_advanced(last)),
            following.eq(self.state),
        ]
        with m.If(self.load):
            m.d.comb += following.eq(self.seed)
        with m.Elif(self.again):
            m.d.comb += following.eq(start)
        with m.If(self.step & self.first):
            m.d.sync += start.eq(last)
        for number, register in enumerate(lasts):
            with m.If(self.forget[number]):
                m.d.sync += register.eq(SEED_AT_RESET)
            with m.Elif((self.load | self.step) & (self.owner == number)):
                m.d.sync += register.eq(following)
        return m
