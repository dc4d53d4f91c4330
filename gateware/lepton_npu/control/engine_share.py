"""One engine for several contexts: whose commands it runs, and what happens to it when one of them cannot go on."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.round_robin import round_robin
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig

from .contexts import WEIGHT_BITS, context_bits
from .engine import EngineSignature

__all__ = ["RESET_CYCLES", "EngineShare"]

RESET_CYCLES = 16
"""Cycles for which an engine is reset: longer than the way of a request to an on-chip memory and back."""

_HELD = 64  # more commands than an engine accepts before its first one is done


class EngineShare(wiring.Component):
    """Gives an engine to one context at a time, its owner (docs/contexts.md).

    The owner changes only while the engine holds no command and is quiet, to the next context in turn that has one. A
    context that nobody waits for keeps the engine, and its commands pass in the same cycle. While another context
    waits, the owner may start as many commands in a row as its weight says; it loses the engine sooner when it
    offers none and none runs.

    An engine that has a fault, or whose owner is being reset, is drained (``halt``, until it is ``quiet``) and then
    reset for 16 cycles. The commands that it had not finished are forgotten; the owner is told, by ``rewind``.

    Parameters
    ----------
    config : NpuConfig
    opcodes : Opcode
        The engine's.

    Members
    -------
    contexts : Out(EngineSignature(*opcodes)), for each context
        To its sequencer. ``halt``: it is being reset. ``fault`` comes for one cycle; ``quiet`` says that nothing of
        the context is in the engine, and after a cycle of ``halt`` stays so. ``progress`` is also high while the
        context waits for another one's commands to end.
    engine : In(EngineSignature(*opcodes))
    weights : In(array of 8 bits)
        Commands in a row, by context; 0 counts as 1.
    owner : Out(range(config.contexts))
        The context whose commands the engine holds, if it holds any.
    engine_reset : Out(1)
        For a `ResetInserter` around the engine.
    """

    def __init__(self, config: NpuConfig, *opcodes: Opcode):
        self._count = config.contexts
        # Attributes, for proofs to look at.
        self.held = Signal(range(_HELD))
        self.serving = Signal(init=1)
        self.waiting = Signal(self._count)
        super().__init__(
            {
                "contexts": Out(EngineSignature(*opcodes)).array(self._count),
                "engine": In(EngineSignature(*opcodes)),
                "weights": In(data.ArrayLayout(unsigned(WEIGHT_BITS), self._count)),
                "owner": Out(context_bits(config)),
                "engine_reset": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        engine, owner, count = self.engine, self.owner, self._count
        held, serving = self.held, self.serving
        ports = [self.contexts[number] for number in range(count)]
        owned = Signal(count)
        m.d.comb += owned.eq(1 << owner)

        # ---- Commands of the owner, while it may start any.
        offered, given, passes = Signal(), Signal(), Signal()
        m.d.comb += [
            offered.eq(Array(port.cmd.valid for port in ports)[owner]),
            engine.cmd.valid.eq(offered & passes),
            given.eq(engine.cmd.valid & engine.cmd.ready),
        ]
        with m.Switch(owner):
            for number, port in enumerate(ports):
                with m.Case(number):
                    m.d.comb += engine.cmd.payload.eq(port.cmd.payload)
        for number, port in enumerate(ports):
            mine = owned[number]
            m.d.comb += [
                port.cmd.ready.eq(engine.cmd.ready & passes & mine),
                port.done.eq(engine.done & mine),
                port.busy.eq(engine.busy & mine),
                port.progress.eq(Mux(mine, engine.progress, port.cmd.valid)),
                port.fault.eq(engine.fault),
            ]
        m.d.sync += held.eq(held + given - engine.done)

        # ---- Turns. Who else waits is known a cycle late.
        waiting, others = self.waiting, Signal()
        turn = Signal(WEIGHT_BITS)
        weight = Array(self.weights[number] for number in range(count))
        next_owner, chosen = Signal.like(owner), Signal(count)
        m.d.sync += waiting.eq(Cat(port.cmd.valid for port in ports) & ~owned)
        m.d.comb += others.eq(waiting.any())
        ending, idle = Signal(), Signal()
        m.d.comb += [
            ending.eq(others & (turn == 0)),
            passes.eq(serving & ~ending),
            idle.eq((held == 0) & engine.quiet & ~given),
        ]
        with m.If(~others):
            m.d.sync += turn.eq(Mux(weight[owner] == 0, 1, weight[owner]))
        with m.Elif(given):
            m.d.sync += turn.eq(turn - 1)
        if count > 1:
            round_robin(m, waiting, owner, chosen, next_owner)
            with m.If(serving & others & idle & (ending | ~offered)):
                m.d.sync += [
                    owner.eq(next_owner),
                    waiting.eq(Cat(port.cmd.valid for port in ports) & ~chosen),
                    turn.eq(weight[next_owner]),
                ]
                with m.If(weight[next_owner] == 0):
                    m.d.sync += turn.eq(1)

        # ---- Faults and resets: drain the engine, then make it new.
        cycles = Signal(range(RESET_CYCLES))
        fails, owner_halts, rested = Signal(), Signal(), Signal()
        m.d.comb += [
            owner_halts.eq(Array(port.halt for port in ports)[owner]),
            fails.eq(engine.fault.valid & serving),
        ]
        for number, port in enumerate(ports):
            report, rewind = Signal(name=f"report{number}"), Signal(name=f"rewind{number}")
            m.d.sync += [report.eq(fails & owned[number]), rewind.eq(0)]
            m.d.comb += [
                port.fault.valid.eq(report),
                port.rewind.eq(rewind),
                port.quiet.eq(~owned[number] | (serving & (held == 0))),
            ]
            with m.If(self.engine_reset & (cycles == RESET_CYCLES - 1)):
                m.d.sync += rewind.eq(owned[number])
        with m.FSM() as fsm:
            with m.State("SERVE"), m.If(fails | (owner_halts & (held != 0))):
                m.d.sync += serving.eq(0)
                m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.comb += engine.halt.eq(1)
                m.d.sync += [cycles.eq(0), rested.eq(engine.quiet)]
                # Quiet in two cycles: the last ``done`` has come.
                with m.If(engine.quiet & rested):
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.comb += [engine.halt.eq(1), self.engine_reset.eq(1)]
                m.d.sync += [cycles.eq(cycles + 1), rested.eq(0), held.eq(0)]
                with m.If(cycles == RESET_CYCLES - 1):
                    m.next = "TELL"
            with m.State("TELL"):
                m.d.sync += serving.eq(1)
                m.next = "SERVE"
        self.fsm, self.cycles, self.rested = fsm, cycles, rested  # for proofs, too
        return m
