"""Conversion of rows of binary32 words to rows of int8 limbs, given their tile's exponent."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig

from .quantise_random import NUMBER_BITS, STATE_BITS, lane_numbers

__all__ = ["CONVERT_LATENCY", "QuantConverter"]

CONVERT_LATENCY = 5
"""Cycles from ``valid`` to the row of limbs."""

_GUARD_BITS = 8  # V below: one position that every shift has, and seven of the fine shift
_MAGNITUDE_BITS = 23


class QuantConverter(wiring.Component):
    """Rounds T binary32 words to signed integers of 1, 2 or 3 balanced bytes, and gives one of the bytes of each.

    With the words' 24-bit significands M and biased exponents e, and the tile's exponent E, the magnitude is M shifted
    right by ``25 - 8 * limbs + (E - e)``, rounded half to even or with a random number, saturated; see
    docs/numerics.md, section 6. Words with e = 0 give 0, and so does everything if E = 255. One row every cycle,
    `CONVERT_LATENCY` cycles.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    valid : In(1)
    words : In(T x 32)
    zero : In(1)
        The row is all zeros, whatever ``words`` holds.
    exponent : In(8)
        E; at least the exponent of every word.
    limbs : In(2)
        Limbs less one: 0, 1, 2 for precision 8, 16, 32.
    limb : In(2)
        Plane wanted, 0 the most significant.
    stochastic : In(1), state : In(32)
        Round stochastically, with the generator's state for the row.
    o_valid : Out(1), o_data : Out(T x signed(8)), o_exponent : Out(8)
    """

    def __init__(self, config: NpuConfig):
        self._side = config.side
        super().__init__(
            {
                "valid": In(1),
                "words": In(data.ArrayLayout(unsigned(32), config.side)),
                "zero": In(1),
                "exponent": In(8),
                "limbs": In(2),
                "limb": In(2),
                "stochastic": In(1),
                "state": In(STATE_BITS),
                "o_valid": Out(1),
                "o_data": Out(data.ArrayLayout(signed(8), config.side)),
                "o_exponent": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # What goes along with a row; valid[k] says that stage k has a row in its registers.
        valid = Signal(CONVERT_LATENCY)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        row = data.StructLayout({"exponent": 8, "limbs": 2, "limb": 2, "stochastic": 1})
        rows = [Signal(row, name=f"row{k}", reset_less=True) for k in range(CONVERT_LATENCY)]
        dead = Signal(reset_less=True)
        with m.If(self.valid):
            m.d.sync += [
                rows[0].exponent.eq(self.exponent),
                rows[0].limbs.eq(self.limbs),
                rows[0].limb.eq(self.limb),
                rows[0].stochastic.eq(self.stochastic),
                dead.eq(self.zero | (self.exponent == 0xFF)),
            ]
        for k in range(CONVERT_LATENCY - 1):
            with m.If(valid[k]):
                m.d.sync += rows[k + 1].eq(rows[k])
        state = Signal(STATE_BITS, reset_less=True)
        with m.If(self.valid):
            m.d.sync += state.eq(self.state)
        numbers = lane_numbers(state, self._side)
        bias = Mux(rows[2].limbs == 0, Const(0, 24), Mux(rows[2].limbs == 1, Const(0x80, 24), Const(0x8080, 24)))
        # Position of the byte wanted, counted from the least significant.
        byte = Signal(2)
        m.d.comb += byte.eq(rows[3].limbs - rows[3].limb)

        for lane in range(self._side):

            def register(name, shape, lane=lane):
                return Signal(shape, name=f"{name}_{lane}", reset_less=True)

            word = self.words[lane]
            # Stage 0: distance to the tile's exponent.
            distance, significand = register("distance", 8), register("significand", 24)
            sign = [register(f"sign{k}", 1) for k in range(4)]
            empty = register("empty", 1)
            with m.If(self.valid):
                m.d.sync += [
                    distance.eq(self.exponent - word[23:31]),
                    significand.eq(Cat(word[:23], Const(1, 1))),
                    sign[0].eq(word[31]),
                    empty.eq(word[23:31] == 0),
                ]
            # Stage 1: shift by the low three bits, exactly; whole bytes are left to stage 2 (7: nothing remains).
            shifted, coarse = register("shifted", 31), register("coarse", 3)
            number = register("number", NUMBER_BITS)
            whole = Signal(4, name=f"whole_{lane}")
            m.d.comb += whole.eq(distance[3:6] + (2 - rows[0].limbs)[:2])
            with m.If(valid[0]):
                m.d.sync += [
                    shifted.eq(Cat(Const(0, 7), significand) >> distance[:3]),
                    coarse.eq(Mux(dead | empty | distance[6:].any() | (whole > 4), 7, whole[:3])),
                    sign[1].eq(sign[0]),
                ]
                with m.If(rows[0].stochastic):
                    m.d.sync += number.eq(numbers[lane])
            # Stage 2: shift by bytes; does the part that is cut off round up? For a random number its upper 16 bits.
            magnitude, increment = register("magnitude", _MAGNITUDE_BITS), register("increment", 1)
            nearest, fraction = Signal(name=f"nearest_{lane}"), Signal(NUMBER_BITS, name=f"fraction_{lane}")
            carried = Signal(NUMBER_BITS + 1, name=f"carried_{lane}")
            m.d.comb += carried.eq(fraction + number)
            with m.If(valid[1]):
                m.d.sync += [
                    sign[2].eq(sign[1]),
                    magnitude.eq(0),
                    increment.eq(Mux(rows[1].stochastic, carried[-1], nearest)),
                ]
            with m.Switch(coarse):
                for count in range(5):
                    point = _GUARD_BITS + 8 * count
                    with m.Case(count):
                        m.d.comb += fraction.eq(Cat(Const(0, NUMBER_BITS), shifted)[point : point + NUMBER_BITS])
                        if count < 3:
                            odd_or_more = shifted[: point - 1].any() | shifted[point]
                            m.d.comb += nearest.eq(shifted[point - 1] & odd_or_more)
                            with m.If(valid[1]):
                                m.d.sync += magnitude.eq(shifted[point:])
            # Stage 3: +-(magnitude + increment) + 0x80 in every byte but the highest; the negative of it is
            # ~magnitude + 1 - increment. Each byte of the sum is then a balanced limb, but for its top bit.
            biased, full = register("biased", 24), register("full", 1)
            flipped = Cat(magnitude, Const(0, 1)) ^ sign[2].replicate(24)
            total = Signal(26, name=f"total_{lane}")
            m.d.comb += total.eq(Cat(Const(1, 1), flipped) + Cat(increment ^ sign[2], bias))
            above0 = magnitude[:7].all() & increment
            above1 = magnitude[8:15].all() & (magnitude[7] | above0)
            above2 = magnitude[16:23].all() & (magnitude[15] | above1)
            with m.If(valid[2]):
                m.d.sync += [
                    biased.eq(total[1:25]),
                    full.eq(Mux(rows[2].limbs == 0, above0, Mux(rows[2].limbs == 1, above1, above2))),
                    sign[3].eq(sign[2]),
                ]
            # Stage 4: the byte; every limb of a saturated integer is +-0x7F.
            limb = Signal(8, name=f"limb_{lane}")
            result = register("result", 8)
            m.d.comb += [
                limb.eq(biased.word_select(byte, 8) ^ Cat(Const(0, 7), rows[3].limb != 0)),
                self.o_data[lane].eq(result),
            ]
            with m.If(valid[3]):
                m.d.sync += result.eq(Mux(full, Mux(sign[3], 0x81, 0x7F), limb))
        m.d.comb += [self.o_valid.eq(valid[4]), self.o_exponent.eq(rows[4].exponent)]
        return m
