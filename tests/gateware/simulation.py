"""Amaranth's simulator for tests of units: a unit is elaborated and compiled once, and reset before each test."""

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from amaranth.hdl import Cat, Elaboratable, Module, ResetInserter, Signal, Value
from amaranth.lib import data
from amaranth.sim import Simulator

__all__ = ["Pins", "Resettable", "kept", "simulate"]

KEEP = 12
"""Units that are kept, those used last: the largest takes some 100 MB with its simulator."""

PERIOD = 1e-8

T = TypeVar("T")


@contextmanager
def _no_collection():
    """Elaboration makes millions of objects that stay: looking through them again and again finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(eq=False)
class _Kept:
    """A unit and its simulator, whose testbenches run whatever ``work`` has in their places, if anything."""

    dut: Elaboratable
    simulator: Simulator | None = None
    work: list[tuple[Callable, bool]] = field(default_factory=list)
    places: int = 0

    def run(self, work: list[tuple[Callable, bool]]) -> None:
        self.work = work
        if self.simulator is None:
            with _no_collection():
                self.simulator = Simulator(self.dut)
            self.simulator.add_clock(PERIOD)
        else:
            self.simulator.reset()
        while self.places < len(work):
            self.simulator.add_testbench(self._place(self.places), background=True)
            self.places += 1
        try:
            self.simulator.run()
        finally:
            self.work = []

    def _place(self, number: int):
        async def testbench(ctx):
            if number >= len(self.work):
                return
            bench, background = self.work[number]
            if background:
                await bench(ctx)
            else:
                with ctx.critical():
                    await bench(ctx)

        return testbench


_units: OrderedDict[tuple, _Kept] = OrderedDict()


def kept(unit: Callable[..., T], *args, **kwargs) -> T:
    """``unit(*args, **kwargs)``, made once: later calls with equal arguments give the same object.

    `simulate` then elaborates and compiles it once as well. A test must leave nothing behind in its attributes; what
    it does to signals and memories is undone.
    """
    key = (unit, args, tuple(kwargs.items()))
    if key in _units:
        _units.move_to_end(key)
    else:
        with _no_collection():
            _units[key] = _Kept(unit(*args, **kwargs))
        if len(_units) > KEEP:
            _units.popitem(last=False)
    return _units[key].dut


def simulate(dut: Elaboratable, *benches: Callable, background: Iterable[Callable] = ()) -> None:
    """Run testbenches, coroutine functions of a context, in that order on ``dut`` until all ``benches`` have ended.

    Domain ``sync`` has a clock. Signals and memories have their initial values at the start, whatever has been
    simulated before. Those of ``background`` come last in each cycle and are left where they are at the end.
    """
    work = [(bench, False) for bench in benches] + [(bench, True) for bench in background]
    for key, unit in _units.items():
        if unit.dut is dut:
            try:
                unit.run(work)
            except BaseException:
                # A simulator that was interrupted within a cycle is not used again.
                _units.pop(key, None)
                raise
            return
    _Kept(dut).run(work)


class Resettable(Elaboratable):
    """``unit(*args)`` with a further ``reset``, which resets all of it: tests go on behind a fault with it."""

    def __init__(self, unit: Callable, *args):
        self.unit, self.reset = unit(*args), Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = ResetInserter(self.reset)(self.unit)
        return m


class Pins:
    """Signals that are set together: after each ``ctx.set`` the whole unit settles, whether one or many have changed.

    Parameters
    ----------
    *signals : value-like
        In the order of the values of `set`.
    """

    def __init__(self, *signals):
        values = [Value.cast(signal) for signal in signals]
        self._all = Cat(*values)
        self._places = []
        start = 0
        for signal, value in zip(signals, values):
            fields = {}
            if isinstance(signal, data.View):
                for name, field_ in data.Layout.cast(signal.shape()):
                    fields[name] = (field_.offset, (1 << field_.width) - 1)
            self._places.append((start, (1 << len(value)) - 1, fields))
            start += len(value)

    def set(self, ctx, *values) -> None:
        """Set all, each to an integer, or a structure to a dict of integers by field; fields that it lacks are 0."""
        bits = 0
        for value, (start, mask, fields) in zip(values, self._places, strict=True):
            if isinstance(value, dict):
                for name, part in value.items():
                    offset, field_mask = fields[name]
                    bits |= (part & field_mask) << start + offset
            else:
                bits |= (value & mask) << start
        ctx.set(self._all, bits)
