"""The queue before an engine: every command starts once, in order, with its semaphores, and posts once when done."""

from functools import partial
from typing import Any
from unittest.mock import patch

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import Out
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

_BITS = 2
"""Of an index, of all other fields together, and of a mask: the queue passes them on, whatever they are."""


class _VisibleMemory(wiring.Component):
    """`Memory` with one port of each kind, and its content in ``entries``."""

    def __init__(self, *, shape: int, depth: int, init: list[int]):
        self.entries = [Signal(shape, name=f"kept{i}", reset_less=True) for i in range(depth)]
        port = {"addr": Out(range(depth)), "data": Out(shape)}
        self.write, self.read = (wiring.Signature(port | {"en": Out(1)}).create() for _ in range(2))
        super().__init__({})

    def write_port(self) -> Any:
        return self.write

    def read_port(self, *, domain: str) -> Any:
        assert domain == "comb"
        return self.read

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += self.read.data.eq(Array(self.entries)[self.read.addr])
        for i, entry in enumerate(self.entries):
            with m.If(self.write.en & (self.write.addr == i)):
                m.d.sync += entry.eq(self.write.data)
        return m


_SMALL = {
    "_RUNNING": _RUNNING,
    "_places": lambda config: _RUNNING,
    "INDEX_BITS": _BITS,
    "SEMAPHORES": _BITS,
    "command_layout": lambda *opcodes: StructLayout({"index": _BITS, "fields": _BITS}),
    "Memory": _VisibleMemory,
}


def _queue(replay: bool, h: Harness) -> None:
    m = h.m
    scope = CommandQueue.elaborate.__globals__
    with visible_fifos(CommandQueue), patch.dict(scope, _SMALL):
        dut = h.unit(CommandQueue(CONFIG, Opcode.LOAD, replay=replay))
    layout, depth = dut.i.payload.shape(), CONFIG.queue_depth
    waiting = h.unit(VisibleFifo(width=layout.size, depth=depth + replay), "waiting")
    running = h.unit(VisibleFifo(width=layout.size, depth=dut.running.depth), "running")
    oldest = layout(waiting.r_data)

    # ---- What waits, and what runs: two queues. Of what runs the engine has the first ``given``: all, but after a
    # rewind. The others start again, before what waits; that takes its semaphores, and starts in a later cycle.
    starts, granted, owns, was_granted = dut.cmd.valid & dut.cmd.ready, dut.requests & dut.grant, Signal(), Signal()
    given, again = Signal(range(_RUNNING + 1)), Signal()
    m.d.comb += again.eq(given != running.level)
    m.d.sync += given.eq(given + starts - dut.done)
    with m.If(dut.rewind):
        m.d.sync += given.eq(0)
    mask = Signal(len(dut.request), reset_less=True)
    with m.If(granted):
        m.d.sync += owns.eq(1)
    with m.Elif(starts & ~again):
        m.d.sync += owns.eq(0)
    m.d.sync += [was_granted.eq(granted), mask.eq(oldest.wait)]
    h.drive(waiting.w_data, dut.i.payload)
    h.drive(waiting.w_en, dut.i.valid & dut.i.ready)
    h.drive(waiting.r_en, starts & ~again)
    h.drive(running.w_data, oldest)
    h.drive(running.w_en, starts & ~again)
    h.drive(running.r_en, dut.done)
    h.assume("the engine is done only with what it took", ~dut.done | (given != 0))
    rewound = Signal()
    m.d.sync += rewound.eq(dut.rewind)
    if replay:
        h.assume("a rewind comes while halted, and not beside done", ~dut.rewind | dut.halt & ~dut.done)
        h.assume("and the halt goes on", ~rewound | dut.halt)
    else:
        h.assume("no rewind", ~dut.rewind)
    h.watch(owns=owns, given=given)

    if replay:
        h.prove("commands are accepted only while there is room", ~dut.i.ready | waiting.w_rdy)
    else:
        h.prove("commands are accepted while there is room", dut.i.ready == waiting.w_rdy)
    h.prove("it asks for the semaphores of the oldest", ~dut.requests | waiting.r_rdy & (dut.request == oldest.wait))
    h.prove("it asks once, and not when halted", ~dut.requests | ~owns & ~dut.halt)
    h.prove("it takes what was granted, in the cycle after", dut.taken == was_granted)
    h.prove("it takes the semaphores that were granted", ~dut.taken | (dut.request == mask))
    h.prove("it starts with its semaphores only, unless halted", ~dut.cmd.valid | (owns | again) & ~dut.halt)
    following = layout(Mux(again, Array(running.entries)[given], waiting.r_data))
    h.prove(
        "what starts is the next command",
        ~dut.cmd.valid | (Value.cast(dut.cmd.payload) == Value.cast(following.command)),
    )
    rests = stable(h, dut.cmd.valid, dut.cmd.ready, dut.cmd.payload)
    h.prove("an offer stays until it is taken, but for a halt", rests | dut.halt)
    h.prove("what starts is noted", ~starts | again | running.w_rdy)
    done, ended = Signal(), Signal(len(dut.running.r_data), reset_less=True)
    noted = [Cat(layout(entry).post, layout(entry).command.index) for entry in running.entries]
    m.d.sync += [done.eq(dut.done), ended.eq(noted[0])]
    h.prove("a command posts in the cycle after it is done", dut.post.valid == done)
    h.prove("it posts its own semaphores", ~done | (Cat(dut.post.mask, dut.post.index) == ended))
    h.prove("idle is when nothing waits, runs or posts", dut.idle == ~(waiting.r_rdy | running.r_rdy | done))
    h.prove("the watchdog sees the oldest that runs", dut.runs == running.r_rdy)
    if replay:
        h.prove("stopped only when the engine has nothing", ~dut.stopped | (given == 0))
        h.prove("and then, but for the cycle after a rewind", dut.stopped | (given != 0) | rewound)
    else:
        h.prove("stopped is when the engine has nothing", dut.stopped == (given == 0))
        h.prove("the watchdog sees the oldest that waits", ~dut.waits | (dut.waiting_index == oldest.command.index))

    # ---- The invariant.
    inside = dut.oldest_valid & dut.fresh  # a command that waits is in the register
    parked = dut.parked if replay else Const(0)
    in_register = Value.cast(dut.oldest)
    h.prove(
        "inside: what waits is in the queue, the register, or parked",
        waiting.level == dut.queue.level + inside + parked,
    )
    h.prove("inside: a valid level", (dut.queue.level <= depth) & (waiting.level <= waiting.depth))
    h.prove("inside: semaphores are those of the register", ~inside | (dut.owns == owns))
    h.prove("inside: no semaphores without a command", ~owns | inside | parked)
    h.prove("inside: the register has the oldest", ~inside | (in_register == waiting.entries[0]))
    h.prove("inside: there is room for it", ~(inside | parked) | running.w_rdy)
    for i, entry in enumerate(dut.queue.entries):
        place = waiting.entries[i : i + 2]
        out = inside | parked
        same = (entry == place[0]) if len(place) == 1 else (entry == place[0]) & ~out | (entry == place[1]) & out
        h.prove(f"inside: place {i} of the queue", (dut.queue.level <= i) | same)
    h.prove("inside: what runs", (dut.running.level == running.level) & (dut.running.level <= running.depth))
    for i, (entry, place) in enumerate(zip(dut.running.entries, noted)):
        h.prove(f"inside: place {i} of what runs", (running.level <= i) | (entry == place))
    h.cover("full, and the oldest starts", (waiting.level == depth) & starts)
    h.cover("a command is done", dut.post.valid & (dut.post.mask != 0))
    if not replay:
        h.prove("inside: all that runs was given", given == running.level)
        h.prove("inside: only with semaphores", ~dut.owns | dut.oldest_valid)
        return
    kept, bits = Array(dut.kept.entries), len(dut.first)
    given_again = dut.oldest_valid & ~dut.fresh
    h.prove("inside: places", dut.next_place == (dut.first + running.level)[:bits])
    for i, place in enumerate(running.entries):
        h.prove(f"inside: kept {i}", (running.level <= i) | (kept[(dut.first + i)[:bits]] == place))
    h.prove(
        "inside: rewinding is the cycle after a rewind", ~dut.rewinding | rewound & dut.replays & (running.level != 0)
    )
    h.prove("inside: a rewind of nothing", ~rewound | dut.rewinding | (running.level == 0))
    h.prove("inside: given", given == Mux(dut.rewinding, 0, dut.sent))
    rest = (dut.next_place - dut.again)[:bits]
    h.prove(
        "inside: what is to be given again",
        dut.rewinding | (running.level == given + given_again + Mux(dut.replays, rest, 0)),
    )
    h.prove(
        "inside: the one in the register",
        dut.rewinding | ~given_again | dut.owns & (in_register == Value.cast(following)),
    )
    h.prove("inside: owns only with a command", ~dut.owns | dut.oldest_valid)
    h.prove(
        "inside: parked is kept", ~parked | (kept[dut.next_place] == waiting.entries[0]) & (dut.parked_owns == owns)
    )
    h.prove("inside: parked while others start again", ~parked | dut.replays & ~dut.fresh & (running.level != 0))
    h.prove("inside: fresh but at the start of a replay", ~(dut.fresh & dut.replays) | dut.rewinding)
    h.cover("a command starts again, another waits with its semaphores", starts & again & owns)
    h.cover("a second rewind", dut.rewind & again & (given != 0))


_FILE = "control.queue"
PROOFS = [
    Proof(
        "Each command starts once, in order, when granted, and posts once when done",
        "CommandQueue",
        partial(_queue, False),
        {
            "starts without its semaphores": Bug(_FILE, "self.cmd.valid.eq(owns &", "self.cmd.valid.eq(oldest_valid &"),
            "takes them twice": Bug(_FILE, "oldest_valid & ~owns & ~self.halt", "oldest_valid & ~self.halt"),
            "a command is lost when the engine is not ready": Bug(
                _FILE, "queue.r_en.eq(~oldest_valid &", "queue.r_en.eq((~oldest_valid | owns) &"
            ),
            "one too many is accepted": Bug(_FILE, "queue.level + oldest_valid <", "queue.level <"),
            "posts what another command posts": Bug(
                _FILE, "self.post.mask.eq(ended.mask)", "self.post.mask.eq(starting.mask)"
            ),
        },
        induction=1,
    ),
    Proof(
        "What has started and is not done starts again after a rewind, in order, once, before what waits",
        "CommandQueue",
        partial(_queue, True),
        {
            "a new command before those that start again": Bug(_FILE, "& running.w_rdy & ~replays", "& running.w_rdy"),
            "the command that waited is lost": Bug(_FILE, "parked.eq(oldest_valid)", "parked.eq(0)"),
            "it takes its semaphores again": Bug(_FILE, "owns.eq(parked & parked_owns)", "owns.eq(0)"),
            "one that is done starts again": Bug(_FILE, "first.eq(first + self.done)", "first.eq(first)"),
            "what starts again is noted again": Bug(
                _FILE, "running.w_en.eq(started & fresh)", "running.w_en.eq(started)"
            ),
        },
        induction=1,
        quick=True,
    ),
]
