"""The queue before an engine: every command starts once, in order, with its semaphores, and posts once when done."""

from unittest.mock import patch

from amaranth.hdl import Cat, Signal, Value
from lepton_npu.control.queue import CommandQueue
from lepton_npu.spec.commands import Opcode

from .dma import CONFIG
from .engine import Proof
from .fifo import VisibleFifo, visible_fifos
from .harness import Harness
from .planted import Bug
from .streams import stable

__all__ = ["PROOFS"]

_RUNNING = 4
"""Commands that are noted as running; 32 in the core, which takes the engine a minute."""


def _queue(h: Harness) -> None:
    m = h.m
    scope = CommandQueue.elaborate.__globals__
    with visible_fifos(CommandQueue), patch.dict(scope, _RUNNING=_RUNNING):
        dut = h.unit(CommandQueue(CONFIG, Opcode.QUANT))
    layout, depth = dut.i.payload.shape(), CONFIG.queue_depth
    waiting = h.unit(VisibleFifo(width=layout.size, depth=depth), "waiting")
    running = h.unit(VisibleFifo(width=dut.running.w_data.shape().width, depth=dut.running.depth), "running")
    oldest = layout(waiting.r_data)

    # ---- What waits, and what runs: two queues. A command takes its semaphores, and starts in a later cycle.
    starts, granted, owns, was_granted = dut.cmd.valid & dut.cmd.ready, dut.requests & dut.grant, Signal(), Signal()
    mask = Signal(len(dut.request), reset_less=True)
    with m.If(granted):
        m.d.sync += owns.eq(1)
    with m.Elif(starts):
        m.d.sync += owns.eq(0)
    m.d.sync += [was_granted.eq(granted), mask.eq(oldest.wait)]
    h.drive(waiting.w_data, dut.i.payload)
    h.drive(waiting.w_en, dut.i.valid & dut.i.ready)
    h.drive(waiting.r_en, starts)
    h.drive(running.w_data, Cat(oldest.post, oldest.command.index))
    h.drive(running.w_en, starts)
    h.drive(running.r_en, dut.done)
    h.assume("the engine is done only with what it took", ~dut.done | running.r_rdy)
    h.watch(owns=owns)

    h.prove("commands are accepted while there is room", dut.i.ready == waiting.w_rdy)
    h.prove("it asks for the semaphores of the oldest", ~dut.requests | waiting.r_rdy & (dut.request == oldest.wait))
    h.prove("it asks once, and not when halted", ~dut.requests | ~owns & ~dut.halt)
    h.prove("it takes what was granted, in the cycle after", dut.taken == was_granted)
    h.prove("it takes the semaphores that were granted", ~dut.taken | (dut.request == mask))
    h.prove("it starts with its semaphores only, unless halted", ~dut.cmd.valid | owns & ~dut.halt)
    h.prove(
        "what starts is the oldest command", ~dut.cmd.valid | (Value.cast(dut.cmd.payload) == oldest.command.as_value())
    )
    rests = stable(h, dut.cmd.valid, dut.cmd.ready, dut.cmd.payload)
    h.prove("an offer stays until it is taken, but for a halt", rests | dut.halt)
    h.prove("what starts is noted", ~starts | running.w_rdy)
    done, ended = Signal(), Signal(len(running.r_data), reset_less=True)
    m.d.sync += [done.eq(dut.done), ended.eq(running.r_data)]
    h.prove("a command posts in the cycle after it is done", dut.post.valid == done)
    h.prove("it posts its own semaphores", ~done | (Cat(dut.post.mask, dut.post.index) == ended))
    h.prove("idle is when nothing waits, runs or posts", dut.idle == ~(waiting.r_rdy | running.r_rdy | done))
    h.prove(
        "the watchdog sees the oldest of both",
        (~dut.waits | (dut.waiting_index == oldest.command.index)) & (dut.runs == running.r_rdy),
    )
    # ---- The invariant.
    h.prove("inside: what waits is in the queue and the register", waiting.level == dut.queue.level + dut.oldest_valid)
    h.prove("inside: semaphores are those of the register", (dut.owns == owns) & (~owns | dut.oldest_valid))
    h.prove("inside: the register has the oldest", ~dut.oldest_valid | (Value.cast(dut.oldest) == waiting.entries[0]))
    for i, entry in enumerate(dut.queue.entries):
        place = waiting.entries[i : i + 2]
        same = (
            (entry == place[0])
            if len(place) == 1
            else (entry == place[0]) & ~dut.oldest_valid | (entry == place[1]) & dut.oldest_valid
        )
        h.prove(f"inside: place {i} of the queue", (dut.queue.level <= i) | same)
    h.prove("inside: what runs", (dut.running.level == running.level) & (dut.running.level <= running.depth))
    for i, (entry, place) in enumerate(zip(dut.running.entries, running.entries)):
        h.prove(f"inside: place {i} of what runs", (running.level <= i) | (entry == place))
    h.cover("full, and the oldest starts", (waiting.level == depth) & starts)
    h.cover("a command is done", dut.post.valid & (dut.post.mask != 0))


_FILE = "control.queue"
PROOFS = [
    Proof(
        "Each command starts once, in order, when granted, and posts once when done",
        "CommandQueue",
        _queue,
        {
            "starts without its semaphores": Bug(
                _FILE, "self.cmd.valid.eq(owns & running.w_rdy", "self.cmd.valid.eq(oldest_valid & running.w_rdy"
            ),
            "takes them twice": Bug(_FILE, "oldest_valid & ~owns & ~self.halt", "oldest_valid & ~self.halt"),
            "a command is lost when the engine is not ready": Bug(
                _FILE, "queue.r_en.eq(~oldest_valid)", "queue.r_en.eq(~oldest_valid | owns)"
            ),
            "one too many is accepted": Bug(_FILE, "queue.level + oldest_valid <", "queue.level <"),
            "posts what another command posts": Bug(
                _FILE, "self.post.mask.eq(ended.mask)", "self.post.mask.eq(starting.mask)"
            ),
        },
        induction=1,
    ),
]
