"""Operand a on its way to the lanes: which elements of a packed row, and which lane gets which."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from lepton_npu.spec.commands import Format

__all__ = ["select_elements", "shuffle_lanes"]


def select_elements(m: Module, row: Value, fmt: Value, step: Value, side: int) -> list[Value]:
    """Elements ``step * T .. step * T + T-1`` of a row of packed elements, each in the low bits of a word."""
    result = Signal(side * 32, name="elements")
    m.d.comb += result.eq(row)
    for pack, formats in ((2, (Format.BF16,)), (4, (Format.U8, Format.I8))):
        width = 32 // pack
        with m.If(Cat(fmt == f for f in formats).any()):
            part = row.word_select(step[: (pack - 1).bit_length()], side * width)
            zeros = Const(0, 32 - width)
            m.d.comb += result.eq(Cat(Cat(part.word_select(lane, width), zeros) for lane in range(side)))
    return [result.word_select(lane, 32) for lane in range(side)]


def shuffle_lanes(m: Module, lanes: list[Value], bcast: Value, xor: Value) -> list[Value]:
    """Lane l of the result is lane ``(l & ~bcast) ^ xor``: a stage of exchanges for each bit of the lane number."""
    for bit in range((len(lanes) - 1).bit_length()):
        stage = []
        for number, own in enumerate(lanes):
            partner = lanes[number ^ (1 << bit)]
            exchange = xor[bit] ^ (bcast[bit] if number >> bit & 1 else 0)
            lane = Signal(32, name=f"shuffle{bit}_{number}")
            m.d.comb += lane.eq(Mux(exchange, partner, own))
            stage.append(lane)
        lanes = stage
    return lanes
