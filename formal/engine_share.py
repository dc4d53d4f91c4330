"""An engine that contexts share: it runs commands of its owner only, and changes hands when nothing is left in it."""

from dataclasses import replace
from functools import partial
from typing import Any
from unittest.mock import patch

from amaranth.hdl import Array, Cat, Mux, Signal, Value
from amaranth.lib.data import StructLayout
from lepton_npu.control.engine import EngineSignature
from lepton_npu.control.engine_share import RESET_CYCLES, EngineShare
from lepton_npu.mmu.ports import space_layout
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig

from .dma import CONFIG
from .engine import Proof
from .harness import Harness
from .planted import Bug
from .streams import stable

__all__ = ["MOST", "PROOFS", "shared_config", "small_commands"]

_BITS = 2
"""Of a command: it is passed on, whatever it is."""

MOST = 62
"""Commands that an engine holds at most; those of the core hold far fewer."""


def shared_config(contexts: int) -> NpuConfig:
    """A core with so many contexts and the least memories that these need."""
    return replace(CONFIG, contexts=contexts, vmem_rows=16 * contexts, acc_rows=4 * contexts, tiles=4 * contexts)


def small_commands() -> Any:
    """While this is entered, engines are made for commands of `_BITS` bits."""
    layout = StructLayout({"all": _BITS})
    return patch.dict(EngineSignature.__init__.__globals__, {"command_layout": lambda *opcodes: layout})


def _before(h: Harness, value: Value, init: int = 0) -> Signal:
    """``value`` in the cycle before."""
    value = Value.cast(value)
    signal = Signal(len(value), init=init)
    h.m.d.sync += signal.eq(value)
    return signal


def _share(h: Harness, contexts: int) -> tuple[EngineShare, Signal]:
    """The unit, what is assumed of engine and sequencers, and how many commands the engine holds."""
    with small_commands():
        dut = h.unit(EngineShare(shared_config(contexts), Opcode.LOAD))
    engine, holds = dut.engine, Signal(range(MOST + 2))
    taken = engine.cmd.valid & engine.cmd.ready
    h.m.d.sync += holds.eq(holds + taken - engine.done)
    with h.m.If(dut.engine_reset):
        h.m.d.sync += holds.eq(0)
    h.watch(holds=holds)

    h.assume("the engine is done only with what it holds", ~engine.done | (holds != 0))
    h.assume("it has room for so many commands", ~engine.cmd.ready | (holds < MOST))
    fault = engine.fault
    h.assume("it has a fault only while it holds a command", ~fault.valid | (holds != 0))
    content = Cat(fault.cause, fault.index, fault.address)
    h.assume("a fault stays until it is reset", stable(h, fault.valid, ~fault.valid, content, unless=dut.engine_reset))
    for n, port in enumerate(dut.contexts):
        h.assume(f"context {n} offers nothing while it is reset", ~port.cmd.valid | ~port.halt)
    return dut, holds


def _inside(h: Harness, dut: EngineShare, holds: Signal) -> None:
    """Why: part of the invariant."""
    h.prove("inside: commands are counted", dut.held == holds)
    h.prove("inside: serving is a state", dut.serving == dut.fsm.ongoing("SERVE"))
    h.prove("inside: there is such a context", dut.owner < len(dut.contexts))


def _turns(contexts: int, h: Harness) -> None:
    m = h.m
    dut, holds = _share(h, contexts)
    engine, owner, ports = dut.engine, dut.owner, [dut.contexts[n] for n in range(contexts)]
    taken, accepted = engine.cmd.valid & engine.cmd.ready, [port.cmd.valid & port.cmd.ready for port in ports]
    owner_before, resets = _before(h, owner), _before(h, dut.engine_reset)

    # ---- Commands. ``holder`` is the context that gave the last one.
    holder = Signal.like(owner)
    for n, port in enumerate(ports):
        with m.If(accepted[n]):
            m.d.sync += holder.eq(n)
        h.prove(f"a command of context {n} goes to the engine as it is", ~accepted[n] | taken & (owner == n))
        same = Value.cast(engine.cmd.payload) == Value.cast(port.cmd.payload)
        h.prove(f"context {n} is told so only then, unchanged", ~(taken & (owner == n)) | accepted[n] & same)
    h.watch(holder=holder)
    h.prove("a command of the engine is one of a context", ~taken | (sum(accepted) == 1))
    h.prove("what the engine holds is of its owner", (holds == 0) | (holder == owner))
    free = _before(h, (holds == 0) & engine.quiet & ~taken)
    h.prove("it changes hands only while it holds nothing and is quiet", free | (owner == owner_before))
    offers = Cat(port.cmd.valid for port in ports)
    h.prove(
        "to a context that had a command", (owner == owner_before) | _before(h, _before(h, offers)).bit_select(owner, 1)
    )

    # ---- Drain and reset.
    halts = _before(h, engine.halt)
    reason = _before(h, engine.fault.valid | Array(port.halt for port in ports)[owner])
    h.prove("it is halted for a fault, or its owner's reset", ~engine.halt | halts | reason)
    h.prove("while halted it is given nothing, and changes not hands", ~engine.halt | ~engine.cmd.valid)
    h.prove("nor its owner", ~engine.halt | (owner == owner_before))
    quiet = _before(h, engine.quiet & engine.halt)
    quiet_twice = quiet & _before(h, quiet)
    h.prove("its reset begins after two cycles quiet and halted", ~dut.engine_reset | resets | quiet_twice)
    h.prove("it is halted in its reset", ~dut.engine_reset | engine.halt)
    run = Signal(range(2 * RESET_CYCLES))
    with m.If(dut.engine_reset):
        m.d.sync += run.eq(run + 1)
    with m.Else():
        m.d.sync += run.eq(0)
    whole = (run == 0) | (run == RESET_CYCLES)
    h.prove("for 16 cycles", Mux(dut.engine_reset, run < RESET_CYCLES, whole))

    # ---- What contexts are told.
    told = engine.fault.valid & ~engine.halt
    content = Cat(engine.fault.cause, engine.fault.index, engine.fault.address)
    told_before, content_before = _before(h, told), _before(h, content)
    for n, port in enumerate(ports):
        mine = holder == n
        h.prove(f"done of what context {n} gave, and of nothing else", port.done == (engine.done & mine))
        h.prove(
            f"its fault goes to context {n}, in the next cycle",
            port.fault.valid == (told_before & _before(h, mine)),
        )
        reported = Cat(port.fault.cause, port.fault.index, port.fault.address)
        h.prove(f"as it was for context {n}", ~port.fault.valid | (reported == content_before))
        h.prove(f"for one cycle to context {n}", ~port.fault.valid | ~_before(h, port.fault.valid))
        again = resets & ~dut.engine_reset & (owner_before == n)
        h.prove(f"context {n} rewinds after the reset of its commands", port.rewind == again)
        h.prove(f"context {n} is quiet only with nothing in the engine", ~port.quiet | (holds == 0) | (holder != n))
        h.prove(
            f"and then, but for a drain of the engine, {n}",
            port.quiet | (owner == n) & ((holds != 0) | engine.halt | resets),
        )
        h.prove(
            f"nothing is told to context {n} while it is quiet",
            ~port.quiet | ~(port.done | port.fault.valid | port.rewind),
        )
        rests = _before(h, port.quiet & port.halt)
        h.prove(f"context {n} stays quiet while it is reset", ~(rests & port.halt) | port.quiet)

    _inside(h, dut, holds)
    h.prove("inside: cycles of the reset", run == _by_state(dut))
    drain, begins = dut.fsm.ongoing("DRAIN"), dut.fsm.ongoing("RESET") & (run == 0)
    h.prove("inside: quiet was seen while it drained", ~dut.rested | drain & quiet | begins)
    h.prove("inside: before its reset begins, twice", ~begins | quiet_twice)
    h.prove("inside: a fault is told while it drains", drain | ~Cat(port.fault.valid for port in ports).any())
    h.prove("inside: it holds nothing after its reset", ~dut.fsm.ongoing("TELL") | (holds == 0))
    waits = Cat(dut.waiting) & ~_before(h, offers)
    h.prove("inside: those that wait had a command", waits == 0)
    h.cover("the engine is done with a command of the last context", ports[-1].done)
    h.cover("the last context rewinds", ports[-1].rewind)
    if contexts > 1:
        h.cover("the first context again, after the last", (owner == 0) & (owner_before == contexts - 1))


def _by_state(dut: EngineShare) -> Value:
    """Cycles of reset that are over, by the state that the unit is in."""
    return (
        dut.cycles & dut.fsm.ongoing("RESET").replicate(len(dut.cycles))
        | dut.fsm.ongoing("TELL").replicate(RESET_CYCLES.bit_length()) & RESET_CYCLES
    )


def _space(contexts: int, h: Harness) -> None:
    """The address space that an engine with a bus gets, by the multiplexer of `LeptonCore`."""
    dut, holds = _share(h, contexts)
    bits = space_layout().size
    spaces = [h.free(f"space{n}", bits) for n in range(contexts)]
    space = Array(spaces)[dut.owner]
    h.watch(space=space)
    for n, own in enumerate(spaces):
        port = dut.contexts[n]
        idle = _before(h, port.quiet & ~port.cmd.valid)
        h.assume(f"the space of context {n} rests unless it is idle", idle | (own == _before(h, own)))
    engine = dut.engine
    taken = engine.cmd.valid & engine.cmd.ready
    given = Signal(bits)
    with h.m.If(taken):
        h.m.d.sync += given.eq(space)
    for n, port in enumerate(dut.contexts):
        own = space == spaces[n]
        h.prove(f"a command of context {n} begins in its space", ~(port.cmd.valid & port.cmd.ready) | own)
    h.prove("it stays in the space in which it began", (holds == 0) | (space == given))
    rests = space == _before(h, space)
    h.prove("the space rests while the engine holds a command", ~_before(h, (holds != 0) | taken) | rests)
    same = dut.owner == _before(h, dut.owner)
    h.prove("while the engine is not quiet, it is the same context's", _before(h, engine.quiet) | same)
    _inside(h, dut, holds)
    h.cover("another space, of another context", ~rests & ~same)


_FILE = "control.engine_share"
_ALONE = {
    "a command in the cycle of a reset": Bug(_FILE, "passes.eq(serving & ~ending)", "passes.eq(~ending)"),
    "a fault is told until the reset": Bug(_FILE, "engine.fault.valid & serving", "engine.fault.valid"),
    "its reset begins after one quiet cycle": Bug(
        _FILE, "with m.If(engine.quiet & rested):", "with m.If(engine.quiet):"
    ),
    "a reset of 15 cycles": Bug(
        _FILE, "with m.If(cycles == RESET_CYCLES - 1):", "with m.If(cycles == RESET_CYCLES - 2):"
    ),
    "commands are counted over a reset": Bug(_FILE, "rested.eq(0), held.eq(0)", "rested.eq(0)"),
    "a context is quiet while its engine drains": Bug(_FILE, "(serving & (held == 0))", "(held == 0)"),
}
_SHARED = {
    "it changes hands while it holds commands": Bug(_FILE, "idle.eq((held == 0) & ", "idle.eq("),
    "it changes hands while it is not quiet": Bug(_FILE, "(held == 0) & engine.quiet &", "(held == 0) &"),
}
_TOLD = {
    "a fault is told to everybody": Bug(_FILE, "report.eq(fails & owned[number])", "report.eq(fails)"),
    "everybody rewinds": Bug(_FILE, "rewind.eq(owned[number])", "rewind.eq(1)"),
    "everybody is done": Bug(_FILE, "engine.done & mine", "engine.done"),
    "any context's reset halts it": Bug(
        _FILE, "Array(port.halt for port in ports)[owner]", "Cat(port.halt for port in ports).any()"
    ),
    "a context is quiet while another one's commands run": Bug(_FILE, "~owned[number] | (serving", "(serving"),
}
_TITLE = (
    "{} context{}: commands of the owner alone, which changes while nothing is held; reset when quiet; all told to it"
)

PROOFS = [
    Proof(
        _TITLE.format(contexts, "s" if contexts > 1 else ""),
        "EngineShare",
        partial(_turns, contexts),
        bugs,
        induction=1,
        quick=contexts == 2,
    )
    for contexts, bugs in ((1, _ALONE), (2, _SHARED | _TOLD | _ALONE), (4, _SHARED | _TOLD))
] + [
    Proof(
        "The address space of an engine is that of its commands' context, and rests while it holds one",
        "EngineShare",
        partial(_space, 4),
        _SHARED,
        induction=1,
    )
]
