"""Queues: Amaranth's `SyncFIFO`, on which all queues of the core rest, loses, invents and reorders nothing.

It is proven equal, in every cycle and at every output, to a queue that is plain to see: a row of registers of which the
first is the oldest (`VisibleFifo`). Proofs of units with queues use the latter in its place, so that an
invariant can tell what waits in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from .engine import Proof
from .harness import Harness
from .planted import Bug

__all__ = ["PROOFS", "VisibleFifo", "visible_fifos"]


def _signature(width: int, depth: int) -> wiring.Signature:
    return wiring.Signature(
        {
            "w_data": In(width),
            "w_rdy": Out(1),
            "w_en": In(1),
            "r_data": Out(width),
            "r_rdy": Out(1),
            "r_en": In(1),
            "level": Out(range(depth + 1)),
        }
    )


class VisibleFifo(wiring.Component):
    """What `SyncFIFO` is, with its content in ``entries``, of which the first ``level`` are valid, oldest first."""

    def __init__(self, *, width: int, depth: int):
        self.depth = depth
        self.entries = [Signal(width, name=f"entry{i}", reset_less=True) for i in range(depth)]
        super().__init__(_signature(width, depth))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        enters, leaves, after = Signal(), Signal(), Signal(range(self.depth + 1))
        m.d.comb += [
            self.w_rdy.eq(self.level != self.depth),
            self.r_rdy.eq(self.level != 0),
            self.r_data.eq(self.entries[0]),
            enters.eq(self.w_en & self.w_rdy),
            leaves.eq(self.r_en & self.r_rdy),
            after.eq(self.level - leaves),
        ]
        m.d.sync += self.level.eq(after + enters)
        for i, entry in enumerate(self.entries):
            with m.If(enters & (after == i)):
                m.d.sync += entry.eq(self.w_data)
            if i + 1 < self.depth:
                with m.Elif(leaves):
                    m.d.sync += entry.eq(self.entries[i + 1])
        return m


@contextmanager
def visible_fifos(*units: type) -> Iterator[None]:
    """While this is entered, ``units`` (classes) are elaborated with `VisibleFifo` for `SyncFIFO`."""
    scopes = [unit.elaborate.__globals__ for unit in units]  # type: ignore[attr-defined]
    for scope in scopes:
        scope["SyncFIFO"] = VisibleFifo
    try:
        yield
    finally:
        for scope in scopes:
            scope["SyncFIFO"] = SyncFIFO


class _Ported(wiring.Component):
    """`SyncFIFO` with a signature."""

    def __init__(self, *, width: int, depth: int):
        self._parameters = {"width": width, "depth": depth}
        super().__init__(_signature(width, depth))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.fifo = fifo = SyncFIFO(**self._parameters)
        for name, member in self.signature.members.items():
            ours, its = getattr(self, name), getattr(fifo, name)
            m.d.comb += its.eq(ours) if member.flow == In else ours.eq(its)
        return m


_WIDTH = 2  # bits: nothing in a queue depends on its data


def _same(depth: int, h: Harness) -> None:
    dut, plain = h.unit(_Ported(width=_WIDTH, depth=depth)), h.unit(VisibleFifo(width=_WIDTH, depth=depth), "plain")
    for name in ("w_data", "w_en", "r_en"):
        h.drive(getattr(plain, name), getattr(dut, name))
    for name in ("w_rdy", "r_rdy", "level"):
        h.prove(f"{name} is the same", getattr(dut, name) == getattr(plain, name))
    h.prove("the oldest is the same", ~plain.r_rdy | (dut.r_data == plain.r_data))
    h.cover("full, and the last place is read", (plain.level == depth) & plain.r_en)


_FILE = "amaranth.lib.fifo"

PROOFS = [
    Proof(
        f"A queue of {depth}: order, no loss, no invention, level",
        "SyncFIFO",
        partial(_same, depth),
        {
            "written when full": Bug(_FILE, "w_port.en.eq(self.w_en & self.w_rdy)", "w_port.en.eq(self.w_en)"),
            "no level below the full one": Bug(
                _FILE, "with m.If(do_read & ~do_write):", "with m.If(do_read & ~do_write & (self.level != self.depth)):"
            ),
        },
        search=2 * depth + 4,
        quick=depth == 4,
    )
    for depth in (1, 2, 4, 8)
]
