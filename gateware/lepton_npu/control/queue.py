"""The queue of one engine: commands that wait for semaphores, and what those that run will post."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import SEMAPHORES, Opcode
from lepton_npu.spec.config import NpuConfig

from .engine import INDEX_BITS, command_layout

__all__ = ["CommandQueue", "post_layout", "queued_layout"]

_RUNNING = 32  # more than any engine accepts before its first command is done


def queued_layout(*opcodes: Opcode) -> data.StructLayout:
    """A command with its semaphore masks."""
    return data.StructLayout({"command": command_layout(*opcodes), "wait": SEMAPHORES, "post": SEMAPHORES})


def post_layout() -> data.StructLayout:
    """A command that is done, in one cycle: the semaphores it posts, and its index."""
    return data.StructLayout({"valid": 1, "mask": SEMAPHORES, "index": INDEX_BITS})


class CommandQueue(wiring.Component):
    """Holds ``config.queue_depth`` commands in front of an engine, and starts them in order, one in 3 cycles at most.

    The oldest one takes its semaphores as soon as they are there, and starts in the cycle after the grant, or when the
    engine is ready. No path leads from the engine to the semaphores or to the registers of the oldest command.

    Parameters
    ----------
    config : NpuConfig
    opcodes : Opcode
        The engine's.

    Members
    -------
    i : In(stream of queued_layout(*opcodes))
    request : Out(16), requests : Out(1)
        Semaphores of the oldest command; it waits for them.
    grant : In(1)
        They are there.
    taken : Out(1)
        Takes ``request``: granted in the cycle before.
    cmd : Out(stream of command_layout(*opcodes)), done : In(1)
        The engine's.
    post : Out(post_layout())
        Registered.
    halt : In(1)
        Start nothing.
    idle : Out(1)
        Nothing waits, nothing runs.
    waits, runs : Out(1), waiting_index, running_index : Out(32)
        The oldest command that waits, and the oldest that runs, for the watchdog.
    """

    def __init__(self, config: NpuConfig, *opcodes: Opcode):
        self._config, self._opcodes = config, opcodes
        super().__init__(
            {
                "i": In(stream.Signature(queued_layout(*opcodes))),
                "requests": Out(1),
                "request": Out(SEMAPHORES),
                "grant": In(1),
                "taken": Out(1),
                "cmd": Out(stream.Signature(command_layout(*opcodes))),
                "done": In(1),
                "post": Out(post_layout()),
                "halt": In(1),
                "idle": Out(1),
                "waits": Out(1),
                "waiting_index": Out(INDEX_BITS),
                "runs": Out(1),
                "running_index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = queued_layout(*self._opcodes)
        running_layout = data.StructLayout({"mask": SEMAPHORES, "index": INDEX_BITS})
        m.submodules.queue = queue = SyncFIFO(width=layout.size, depth=self._config.queue_depth)
        m.submodules.running = running = SyncFIFO(width=running_layout.size, depth=_RUNNING)

        # The oldest command in a register: its wait mask decides within a cycle whether it has its semaphores.
        oldest, oldest_valid = Signal(layout, reset_less=True), Signal()
        owns, granted, started = Signal(), Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(queue.level + oldest_valid < self._config.queue_depth),
            queue.w_en.eq(self.i.valid & self.i.ready),
            queue.w_data.eq(self.i.payload),
            queue.r_en.eq(~oldest_valid),
            self.requests.eq(oldest_valid & ~owns & ~self.halt),
            self.request.eq(oldest.wait),
            granted.eq(self.requests & self.grant),
            self.cmd.valid.eq(owns & running.w_rdy & ~self.halt),
            self.cmd.payload.eq(oldest.command),
            started.eq(self.cmd.valid & self.cmd.ready),
        ]
        m.d.sync += self.taken.eq(granted)
        with m.If(granted):
            m.d.sync += owns.eq(1)
        # Filled a cycle after it is emptied: that the engine takes it is known too late to load hundreds of bits.
        with m.If(started):
            m.d.sync += [owns.eq(0), oldest_valid.eq(0)]
        with m.If(queue.r_en):
            m.d.sync += [oldest_valid.eq(queue.r_rdy), oldest.eq(queue.r_data)]

        starting, ended = Signal(running_layout), running_layout(running.r_data)
        m.d.comb += [
            starting.mask.eq(oldest.post),
            starting.index.eq(oldest.command.index),
            running.w_data.eq(starting),
            running.w_en.eq(started),
            running.r_en.eq(self.done),
        ]
        m.d.sync += [
            self.post.valid.eq(self.done),
            self.post.mask.eq(ended.mask),
            self.post.index.eq(ended.index),
        ]
        m.d.comb += [
            self.idle.eq(~(queue.r_rdy | oldest_valid | running.r_rdy | self.post.valid)),
            self.waits.eq(oldest_valid),
            self.waiting_index.eq(oldest.command.index),
            self.runs.eq(running.r_rdy),
            self.running_index.eq(ended.index),
        ]
        # For proofs to look at.
        self.queue, self.running = queue, running
        self.oldest, self.oldest_valid, self.owns = oldest, oldest_valid, owns
        return m
