"""The queue of one engine: commands that wait for semaphores, what those that run will post, and those themselves."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import SEMAPHORES, Opcode
from lepton_npu.spec.config import NpuConfig

from .engine import INDEX_BITS, command_layout

__all__ = ["CommandQueue", "post_layout", "queued_layout"]

_RUNNING = 32  # more than any engine accepts before its first command is done


def _places(config: NpuConfig) -> int:
    """Places for commands that LOAD or STORE has, and the one that is next: a power of two.

    An engine takes a command for each burst in flight, and up to 6 that wait for pages, are cut, or are done.
    """
    return 1 << (config.outstanding + 6).bit_length()


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

    With ``replay`` commands that have started are kept until they are done. A ``rewind`` makes the queue give all of
    them to the engine again, in order, one in 2 cycles at most, before any new one; semaphores are not taken again.

    Parameters
    ----------
    config : NpuConfig
    opcodes : Opcode
        The engine's.
    replay : bool
        For LOAD and STORE: without it there must be no ``rewind``.

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
    rewind : In(1)
        The engine has forgotten all that it has taken and was not done with. Only while ``halt`` is high and stays so
        for a cycle, and not beside ``done``.
    post : Out(post_layout())
        Registered.
    halt : In(1)
        Start nothing.
    stopped : Out(1)
        The engine has nothing: all that has started is done, or rewound.
    idle : Out(1)
        Nothing waits, nothing runs.
    waits, runs : Out(1), waiting_index, running_index : Out(32)
        The oldest command that waits, and the oldest that runs, for the watchdog.
    """

    def __init__(self, config: NpuConfig, *opcodes: Opcode, replay: bool = False):
        self._config, self._opcodes, self._replay = config, opcodes, replay
        super().__init__(
            {
                "i": In(stream.Signature(queued_layout(*opcodes))),
                "requests": Out(1),
                "request": Out(SEMAPHORES),
                "grant": In(1),
                "taken": Out(1),
                "cmd": Out(stream.Signature(command_layout(*opcodes))),
                "done": In(1),
                "rewind": In(1),
                "post": Out(post_layout()),
                "halt": In(1),
                "stopped": Out(1),
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
        places = _places(self._config)
        m.submodules.queue = queue = SyncFIFO(width=layout.size, depth=self._config.queue_depth)
        # With replay one place is for the oldest command.
        depth = places - 1 if self._replay else _RUNNING
        m.submodules.running = running = SyncFIFO(width=running_layout.size, depth=depth)

        # The oldest command in a register: its wait mask decides within a cycle whether it has its semaphores. It comes
        # there only when there is room for it among those that run.
        oldest, oldest_valid = Signal(layout, reset_less=True), Signal()
        owns, granted, started = Signal(), Signal(), Signal()
        replays: Value = Signal() if self._replay else Const(0)  # commands that have started go to ``oldest``
        fresh: Value = Signal(init=1) if self._replay else Const(1)  # what ``oldest`` has, or had last, was not started
        m.d.comb += [
            self.i.ready.eq(queue.level + oldest_valid < self._config.queue_depth),
            queue.w_en.eq(self.i.valid & self.i.ready),
            queue.w_data.eq(self.i.payload),
            queue.r_en.eq(~oldest_valid & running.w_rdy & ~replays),
            self.requests.eq(oldest_valid & ~owns & ~self.halt),
            self.request.eq(oldest.wait),
            granted.eq(self.requests & self.grant),
            self.cmd.valid.eq(owns & ~self.halt),
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
            m.d.sync += oldest_valid.eq(queue.r_rdy)

        starting, ended = Signal(running_layout), running_layout(running.r_data)
        m.d.comb += [
            starting.mask.eq(oldest.post),
            starting.index.eq(oldest.command.index),
            running.w_data.eq(starting),
            running.w_en.eq(started & fresh),
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
        self.oldest, self.oldest_valid, self.owns, self.fresh, self.replays = oldest, oldest_valid, owns, fresh, replays

        if not self._replay:
            m.d.comb += self.stopped.eq(~running.r_rdy)
            with m.If(~oldest_valid):
                m.d.sync += oldest.eq(queue.r_data)
            return m

        # ---- What has started is in ``kept`` from place ``first`` to the one before ``next_place``, where the oldest
        # command is, too, if it is fresh: a rewind takes it from its register, which it gets back behind the others.
        m.submodules.kept = kept = Memory(shape=layout.size, depth=places, init=[])
        write, read = kept.write_port(), kept.read_port(domain="comb")
        first, next_place, again = (Signal(range(places), name=name) for name in ("first", "next_place", "again"))
        sent = Signal(range(places))  # commands that the engine has
        rewinding, parked, parked_owns = Signal(), Signal(), Signal()
        m.d.comb += [
            write.addr.eq(next_place),
            write.data.eq(oldest),
            write.en.eq(fresh),
            read.addr.eq(again),
            self.stopped.eq(sent == 0),
        ]
        m.d.sync += [
            first.eq(first + self.done),
            next_place.eq(next_place + running.w_en),
            sent.eq(sent + started - self.done),
            rewinding.eq(self.rewind & running.r_rdy),
        ]
        with m.If(~oldest_valid):
            m.d.sync += oldest.eq(Mux(replays, read.data, queue.r_data))
        with m.If(queue.r_en):
            m.d.sync += fresh.eq(1)
        with m.If(rewinding):
            m.d.sync += [again.eq(first), sent.eq(0), oldest_valid.eq(0), owns.eq(0), fresh.eq(0)]
            with m.If(fresh):
                m.d.sync += [parked.eq(oldest_valid), parked_owns.eq(owns)]
        with m.Elif(replays & ~oldest_valid):
            with m.If(again != next_place):
                m.d.sync += [oldest_valid.eq(1), owns.eq(1), again.eq(again + 1)]
            with m.Else():
                m.d.sync += [oldest_valid.eq(parked), owns.eq(parked & parked_owns), fresh.eq(1)]
                m.d.sync += [parked.eq(0), replays.eq(0)]
        with m.If(self.rewind & running.r_rdy):
            m.d.sync += replays.eq(1)
        # For proofs to look at.
        self.kept, self.first, self.next_place, self.again, self.sent = kept, first, next_place, again, sent
        self.rewinding, self.parked, self.parked_owns = rewinding, parked, parked_owns
        return m
