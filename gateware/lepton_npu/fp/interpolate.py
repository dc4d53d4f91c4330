"""Quadratics from a table, as stages of a pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from lepton_npu.spec import function_tables as tables

from .format import Pipeline, carry_save

__all__ = ["Interpolated", "interpolate"]

_LOW = 17  # unsigned bits that an 18-bit signed DSP multiplier takes

# 71 bits: two block RAMs of 36. The signs of c1 and c2 are not in it.
_ROW = data.StructLayout({"c0": tables.FRACTION_BITS + 1, "c1": tables.C1_BITS, "c2": tables.C2_BITS})


def _rows(parts: Sequence[tables.Table]) -> list[dict[str, int]]:
    low1, low2 = (1 << tables.C1_BITS) - 1, (1 << tables.C2_BITS) - 1
    return [
        {"c0": c0, "c1": c1 & low1, "c2": c2 & low2}
        for table in parts
        for c0, c1, c2 in zip(table.c0, table.c1, table.c2, strict=True)
    ]


@dataclass(frozen=True)
class Interpolated:
    """What the last stage gives; none of it is registered.

    Attributes
    ----------
    value : Value
        The quadratic, signed, `FRACTION_BITS` behind the point.
    product : Value
        factor * t where ``multiply`` was set, 52 bits.
    side : SimpleNamespace
        The side values.
    """

    value: Value
    product: Value
    side: SimpleNamespace


def interpolate(
    m: Module,
    pipe: Pipeline,
    name: str,
    parts: Sequence[tables.Table],
    *,
    index: Value,
    t: Value,
    c1_negative: Value,
    c2_negative: Value,
    multiply: Value | None = None,
    factor: Value | None = None,
    **side: Value,
) -> Interpolated:
    """Six stages that evaluate segment ``index`` of the tables ``parts``, one after the other, at ``t``.

    All values are those of the stage before. Block RAM and multipliers are slow: between them there is a register.

    Parameters
    ----------
    name : str
        Of the memory.
    t : Value
        `T_BITS` bits; with ``multiply`` 24.
    c1_negative, c2_negative : Value
        Signs of the segment's coefficients.
    multiply, factor : Value
        The multiplier is lent to other things: instead of the quadratic, ``factor`` (28 bits) * ``t`` is computed.
    side : Value
        What goes along.
    """

    def sides(s: SimpleNamespace) -> dict[str, Value]:
        return {key: getattr(s, key) for key in side}

    memory = Memory(shape=_ROW, depth=sum(len(table.c0) for table in parts), init=_rows(parts))
    m.submodules[name] = memory
    port = memory.read_port()
    m.d.comb += [port.addr.eq(index), port.en.eq(pipe.valid)]
    lent = {} if multiply is None else {"multiply": multiply, "factor": factor}
    s = pipe.step(t=t, c1_negative=c1_negative, c2_negative=c2_negative, **lent, **side)

    def lend(s: SimpleNamespace) -> dict[str, Value]:
        return {key: getattr(s, key) for key in lent}

    row = port.data
    s = pipe.step(
        c0=row.c0,
        c1=Cat(row.c1, s.c1_negative),
        c2=Cat(row.c2, s.c2_negative),
        t=s.t,
        **lend(s),
        **sides(s),
    )
    bend = s.c2.as_signed() * s.t[tables.T_BITS - 16 : tables.T_BITS]
    s = pipe.step(bend=bend[16:].as_signed(), c0=s.c0, c1=s.c1, t=s.t, **lend(s), **sides(s))

    slope = Signal(signed(tables.C1_BITS + 2), name=f"{name}_slope")
    m.d.comb += slope.eq(s.c1.as_signed() + s.bend)
    factors = {"slope": slope, "t": s.t, "c0": s.c0}
    if lent:
        wide = Signal(signed(29), name=f"{name}_factor")
        m.d.comb += wide.eq(Mux(s.multiply, s.factor, slope))
        factors |= {"slope": wide, "c0": Mux(s.multiply, 0, s.c0)}
    s = pipe.step(**factors, **sides(s))
    s = pipe.step(**vars(s))  # multipliers have their places on the device: a register to come near

    slope_low, slope_high = s.slope[:_LOW], s.slope[_LOW:].as_signed()
    t_low, t_high = s.t[:_LOW], s.t[_LOW:]
    s = pipe.step(
        low=slope_low * t_low,
        cross0=slope_high * t_low,
        cross1=slope_low * t_high,
        high=slope_high * t_high,
        c0=s.c0,
        **sides(s),
    )
    # c0 + slope * t in one carry chain; a product that is lent has no c0.
    parts_of_sum = (Cat(s.low, s.high).as_signed(), s.cross0 << _LOW, s.cross1 << _LOW, s.c0 << tables.T_BITS)
    total = Signal(signed(tables.T_BITS + tables.FRACTION_BITS + 4), name=f"{name}_total")
    first, second = carry_save(*carry_save(*parts_of_sum[:3], width=len(total)), parts_of_sum[3], width=len(total))
    m.d.comb += total.eq(first + second)
    return Interpolated((total >> tables.T_BITS).as_signed(), total[:52], SimpleNamespace(**sides(s)))
