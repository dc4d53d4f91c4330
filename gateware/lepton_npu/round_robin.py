"""Round robin: who of several is next."""

from amaranth.hdl import Cat, Module, Signal, Value

__all__ = ["round_robin"]


def round_robin(m: Module, wants: Value, last: Signal, chosen: Signal, number: Signal) -> None:
    """Of ``wants`` the first after ``last``, as one bit in ``chosen`` and as a ``number``; 0 if nobody wants.

    ``last`` may want again: it is the last in turn. Combinational.
    """
    count = len(wants)
    with m.Switch(last):
        for before in range(count):
            with m.Case(before):
                order = [(before + 1 + step) % count for step in range(count)]
                for place, candidate in enumerate(order):
                    earlier = Cat(wants[other] for other in order[:place])
                    with m.If(wants[candidate] & ~earlier.any()):
                        m.d.comb += [chosen[candidate].eq(1), number.eq(candidate)]
