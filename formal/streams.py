"""The contract of a stream: what is offered stays until it is taken (Amaranth, RFC 61)."""

from typing import Any

from amaranth.hdl import Signal, Value

from .harness import Harness

__all__ = ["assume_stable", "prove_stable", "stable"]


def stable(h: Harness, valid: Value, ready: Value, *payload: Value, unless: Value | None = None) -> Value:
    """Whether an offer that was not taken in the cycle before is offered still, with the same ``payload``.

    ``unless`` in that cycle allows it to be withdrawn.
    """
    waits = Signal()
    condition = ~waits | valid
    h.m.d.sync += waits.eq(valid & ~ready & (1 if unless is None else ~unless))
    for value in payload:
        value = Value.cast(value)
        before = Signal(len(value), reset_less=True)
        h.m.d.sync += before.eq(value)
        condition &= ~waits | (value == before)
    return condition


def assume_stable(h: Harness, name: str, stream: Any) -> None:
    """Assume that of a stream into a unit."""
    h.assume(f"{name} stays until it is taken", stable(h, stream.valid, stream.ready, stream.payload))


def prove_stable(h: Harness, name: str, stream: Any) -> None:
    """Prove that of a stream out of a unit."""
    h.prove(f"{name} stays until it is taken", stable(h, stream.valid, stream.ready, stream.payload))
