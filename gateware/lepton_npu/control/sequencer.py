"""The sequencer: records to queues, queues to engines, and the first fault."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.mmu.ports import TranslationSignature
from lepton_npu.spec.commands import RESUMABLE, Engine, FaultCause, Opcode
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_npu.spec.translation import Access

from .addresses import ADDRESS_BITS, AddressRegisters
from .decode import ENGINES, RecordDecoder
from .engine import INDEX_BITS, EngineSignature, FaultReport
from .fetch import RecordFetch, record_layout
from .queue import CommandQueue, post_layout
from .semaphores import SemaphoreFile
from .watchdog import Watchdog

__all__ = ["REPLAYS", "Sequencer"]

REPLAYS = (Engine.LOAD, Engine.STORE)
"""Engines that can be given a command again: it has posted nothing, and running it twice is running it once."""

_SETTLED = 5  # cycles from the last end to a fault of what it posts, and the fetch's own from its halt


class Sequencer(wiring.Component):
    """Fetches, checks and queues a command every 3 cycles, runs those of CONTROL itself in 4 each, and stops at the
    first fault, which may be resumed.

    A fault lets commands that run finish, and starts none. Of several faults the first is reported. A bus error or
    translation fault can be resumed when all has ``stopped``: commands of `REPLAYS` that are not done start again, the
    faulty one among them, or the fetch reads the record again that it could not read. What else was wrong comes again
    then; if there was a fault that would not, nothing can be resumed.

    Address registers are read and added when a command is checked, so commands in queues have their addresses.

    A command starts 5 cycles after its record has been taken, or 3 cycles after the last semaphore that it waited for
    was posted. Semaphores are granted in one cycle and taken in the next, and none is granted while any is taken.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    enable, ring_base, ring_log2, tail, watchdog : In
        Registers of these names.
    head : Out(32), idle : Out(1)
        Records taken from the ring; none is left, and no command or body waits or runs.
    done_event : Out(1), tag : Out(32)
        An IRQ command has run.
    fault_event : Out(1), fault : Out(FaultReport), fault_engine : Out(3)
        The first fault: the event for a cycle, the rest stays until it is resumed, or reset.
        An engine's report counts in one cycle; a longer one is another fault of it.
    fault_access : Out(Access)
        Of the command at fault: READ for LOAD, WRITE for STORE, FETCH for CONTROL, nothing that counts for others.
    stopped : Out(1)
        Halted, no command is in an engine, and the fetch is quiet.
    resume : In(1), resumable : Out(1)
        Go on at the command at fault; ignored while it cannot be resumed.
    quiet : Out(1)
        Nothing of the fetch is on the bus or asked of the MMU, and nothing will be while it is halted or not enabled.
    resetting : In(1)
        Start nothing from the next cycle on.
    halt : Out(1)
        Nothing new is begun: there is a fault, or a reset is coming.
    ar, r : streams, mmu : Out(TranslationSignature(config))
        The fetch's, to `AxiMaster` and MMU.
    load, store, quant, matmul, vector : In(EngineSignature)
        The engines.
    dispatched : Out(1)
        For the counter COMMANDS: a command has been decoded and given to its engine.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "enable": In(1),
                "ring_base": In(64),
                "ring_log2": In(5),
                "tail": In(32),
                "watchdog": In(32),
                "head": Out(32),
                "idle": Out(1),
                "done_event": Out(1),
                "tag": Out(32),
                "fault_event": Out(1),
                "fault": Out(FaultReport),
                "fault_engine": Out(max(Engine).bit_length()),
                "fault_access": Out(max(Access).bit_length()),
                "stopped": Out(1),
                "resume": In(1),
                "resumable": Out(1),
                "quiet": Out(1),
                "resetting": In(1),
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "mmu": Out(TranslationSignature(config)),
                "halt": Out(1),
                **{engine.name.lower(): In(EngineSignature(*opcodes)) for engine, opcodes in ENGINES.items()},
                "dispatched": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.fetch = fetch = RecordFetch(config)
        m.submodules.decode = decode = RecordDecoder(config)
        m.submodules.addresses = addresses = AddressRegisters()
        m.submodules.semaphores = semaphores = SemaphoreFile()
        queues = {}
        for engine, opcodes in ENGINES.items():
            queue = CommandQueue(config, *opcodes, replay=engine in REPLAYS)
            queues[engine] = m.submodules[f"queue_{engine.name.lower()}"] = queue
        ports = {engine: getattr(self, engine.name.lower()) for engine in ENGINES}

        halt, overrun, resuming, retrying = self.halt, Signal(), Signal(), Signal()
        waiting_records, too_many = Signal(INDEX_BITS), Signal()
        m.d.comb += [
            waiting_records.eq(self.tail - self.head),
            too_many.eq(waiting_records > (Const(1, INDEX_BITS) << self.ring_log2)),
            fetch.ring_base.eq(self.ring_base),
            fetch.ring_log2.eq(self.ring_log2),
            fetch.tail.eq(self.tail),
            self.head.eq(fetch.head),
        ]
        # A cycle late, as is the fetch when it sees a new tail.
        m.d.sync += [overrun.eq(self.enable & too_many), fetch.enable.eq(self.enable & ~too_many & ~halt)]
        connect(m, flipped(self.ar), fetch.ar)
        connect(m, flipped(self.r), fetch.r)
        connect(m, flipped(self.mmu), fetch.mmu)

        # ---- Decoding: take a record, check it, give it to its engine.
        record = Signal(record_layout(), reset_less=True)
        cause = Signal(decode.cause.shape(), reset_less=True)
        queues_idle, failed = Signal(), Signal()
        control_requests, control_takes, control_owns, control_acts = (Signal() for _ in range(4))
        good, good_control, is_address, is_repeat, may_act = (Signal() for _ in range(5))
        engine_of = Signal.like(decode.engine)
        address = Signal(ADDRESS_BITS, reset_less=True)
        record_cause, misaligned = Signal.like(decode.cause), Signal()
        control = Engine.CONTROL
        reads_fence = (decode.opcode == Opcode.FENCE) | (decode.opcode == Opcode.IRQ)
        reads_repeat = decode.opcode == Opcode.REPEAT
        m.d.comb += [
            decode.record.eq(record.bits),
            decode.index.eq(record.index),
            queues_idle.eq(Cat(queue.idle for queue in queues.values()).all()),
            addresses.number.eq(decode.base),
            addresses.offset.eq(decode.offset),
            addresses.add.eq(decode.add),
            misaligned.eq(addresses.sum[: RECORD_BYTES.bit_length() - 1].any()),
            record_cause.eq(decode.cause),
        ]
        with m.If(record.error):
            m.d.comb += record_cause.eq(fetch.error_cause)
        with m.Elif((decode.cause == FaultCause.NONE) & reads_repeat):
            with m.If(record.body):
                m.d.comb += record_cause.eq(FaultCause.NESTED_REPEAT)
            with m.Elif(misaligned):
                m.d.comb += record_cause.eq(FaultCause.MISALIGNED)
        # No queue is filled while a fence waits, so what was idle in the cycle before still is; a jump that was ready
        # stays so.
        m.d.sync += may_act.eq((queues_idle | ~reads_fence) & ((fetch.hold & fetch.jump.ready) | ~reads_repeat))
        # A jump goes to the fetch, which waits for it from the check on, a cycle after it has been decided on; no
        # record is taken in that cycle.
        dispatching, jumping = Signal(), Signal()
        with m.FSM() as states:
            with m.State("TAKE"):
                m.d.comb += fetch.o.ready.eq(~halt & ~jumping)
                m.d.sync += record.eq(fetch.o.payload)
                with m.If(fetch.o.valid & fetch.o.ready):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.sync += [
                    cause.eq(record_cause),
                    good.eq(record_cause == FaultCause.NONE),
                    failed.eq(record_cause != FaultCause.NONE),
                    address.eq(addresses.sum),
                    engine_of.eq(decode.engine),
                    good_control.eq((record_cause == FaultCause.NONE) & (decode.engine == control)),
                    is_address.eq(decode.opcode == Opcode.ADDRESS),
                    is_repeat.eq(reads_repeat),
                ]
                m.next = "DISPATCH"
            with m.State("DISPATCH"):
                m.d.comb += [
                    dispatching.eq(good & ~halt),
                    control_requests.eq(good_control & ~control_owns & ~halt),
                ]
                with m.If(self.dispatched | retrying):
                    m.next = "TAKE"
        m.d.comb += [
            control_acts.eq(control_owns & may_act & ~halt),
            addresses.write.eq(control_acts & is_address),
            fetch.hold.eq(is_repeat),
            fetch.jump.valid.eq(jumping),
            fetch.jump.payload.address.eq(address),
            fetch.jump.payload.records.eq(decode.records),
            fetch.jump.payload.count.eq(decode.count),
        ]

        with m.If(jumping):
            m.d.sync += is_repeat.eq(0)
        with m.If(retrying):
            m.d.sync += [is_repeat.eq(0), failed.eq(0)]
        m.d.sync += [
            jumping.eq(control_acts & is_repeat),
            control_takes.eq(semaphores.grants[control]),
            control_owns.eq((control_owns & ~control_acts) | semaphores.grants[control]),
        ]

        accepted = [control_acts]
        for engine, queue in queues.items():
            item = queue.i.payload
            m.d.comb += [
                item.command.eq(decode.commands[engine.name.lower()]),
                *([item.command.address.eq(address)] if engine in (Engine.LOAD, Engine.STORE) else []),
                item.wait.eq(decode.wait),
                item.post.eq(decode.post),
                queue.i.valid.eq(dispatching & (engine_of == engine)),
                queue.halt.eq(halt),
                ports[engine].halt.eq(self.resetting),
                queue.done.eq(ports[engine].done),
                queue.rewind.eq(ports[engine].rewind),
            ]
            connect(m, queue.cmd, flipped(ports[engine].cmd))
            accepted.append(queue.i.valid & queue.i.ready)
        m.d.comb += [
            self.dispatched.eq(Cat(accepted).any()),
            self.done_event.eq(control_acts & (decode.opcode == Opcode.IRQ)),
            self.tag.eq(decode.tag),
        ]

        # ---- Semaphores. A REPEAT posts a cycle after the last command of its body would, if that is of CONTROL.
        post, repeat = (Signal(post_layout(), name=name) for name in ("control_post", "repeat_post"))
        m.d.sync += [
            post.valid.eq(control_acts & ~is_repeat),
            post.mask.eq(decode.post),
            post.index.eq(record.index),
            repeat.valid.eq(self.dispatched & record.last),
        ]
        with m.If(fetch.jump.valid):
            m.d.sync += [repeat.mask.eq(decode.post), repeat.index.eq(record.index)]
        with m.If(repeat.valid):
            m.d.sync += post.eq(repeat)
        # Takes are in registers, so that counts are two cycles from counts. What was granted is still there a cycle
        # later, as nothing asks, and so nothing else is granted, while any takes.
        none_takes = Signal()
        m.d.comb += [
            none_takes.eq(~semaphores.takes.any()),
            semaphores.requests[control].eq(control_requests & none_takes),
            semaphores.masks[control].eq(decode.wait),
            semaphores.takes[control].eq(control_takes),
            semaphores.posts[control].eq(post),
        ]
        for engine, queue in queues.items():
            m.d.comb += [
                semaphores.requests[engine].eq(queue.requests & none_takes),
                semaphores.masks[engine].eq(queue.request),
                queue.grant.eq(semaphores.grants[engine]),
                semaphores.takes[engine].eq(queue.taken),
                semaphores.posts[engine].eq(queue.post),
            ]

        # ---- Watchdog.
        # Reset while halted: a look that had begun would end in a fault after a resume.
        halted = Signal()
        m.d.sync += halted.eq(halt)
        m.submodules.dog = dog = ResetInserter(halted)(Watchdog(waiting=len(queues) + 1, running=len(queues)))
        decoding = ~states.ongoing("TAKE") | jumping
        candidates = [(states.ongoing("DISPATCH"), record.index, control)]
        candidates += [(queue.waits, queue.waiting_index, engine) for engine, queue in queues.items()]
        candidates += [(queue.runs, queue.running_index, engine) for engine, queue in queues.items()]
        for entry, (valid, index, engine) in zip(dog.candidates, candidates, strict=True):
            m.d.comb += [entry.valid.eq(valid), entry.index.eq(index), entry.engine.eq(engine)]
        moves = [self.r.valid, self.dispatched, fetch.o.valid & fetch.o.ready]
        for queue, port in zip(queues.values(), ports.values()):
            moves.append((queue.cmd.valid & queue.cmd.ready) | port.done | port.progress)
        m.d.sync += [dog.progress.eq(Cat(moves).any()), dog.work.eq(self.enable & ~self.idle & ~halt)]
        m.d.comb += [
            self.idle.eq(fetch.idle & ~decoding & queues_idle),
            dog.limit.eq(self.watchdog),
            dog.next_index.eq(fetch.index),
        ]

        # ---- The first fault; of several in one cycle, the first in this order.
        record_address = Mux(record.error, fetch.error_address, Mux(cause == FaultCause.MISALIGNED, address, 0))
        # Which engine's post has overflown a semaphore is known late in a cycle; its index is chosen in the next one.
        indices = [semaphores.posts[engine].index for engine in Engine]
        for stage in range(2):  # as far as the engine is behind the post
            late = [Signal(INDEX_BITS, name=f"post{n}_index{stage}", reset_less=True) for n in range(len(indices))]
            m.d.sync += [register.eq(index) for register, index in zip(late, indices)]
            indices = late
        overflow, blamed = Signal(2), Signal.like(semaphores.overflow_engine, reset_less=True)
        overflow_engine, overflow_index = Signal.like(blamed, reset_less=True), Signal(INDEX_BITS, reset_less=True)
        m.d.sync += [
            overflow.eq(Cat(semaphores.overflow, overflow)),
            blamed.eq(semaphores.overflow_engine),
            overflow_engine.eq(blamed),
            overflow_index.eq(Array(indices)[blamed]),
        ]
        sources: list[tuple[Value, Value, Value, Value, Value]] = [
            (failed, cause, control, record.index, record_address),
            (overrun, FaultCause.RING_OVERRUN, control, fetch.index, Const(0, 64)),
            (overflow[1], FaultCause.SEMAPHORE_OVERFLOW, overflow_engine, overflow_index, Const(0, 64)),
        ]
        for engine, port in ports.items():
            fault = port.fault
            sources.append((fault.valid, fault.cause, engine, fault.index, fault.address))
        sources.append((dog.fault, FaultCause.WATCHDOG, dog.engine, dog.index, Const(0, 64)))
        found = Cat(source[0] for source in sources).any()
        with m.Switch(self.fault_engine):
            with m.Case(Engine.LOAD):
                m.d.comb += self.fault_access.eq(Access.READ)
            with m.Case(Engine.STORE):
                m.d.comb += self.fault_access.eq(Access.WRITE)
            with m.Default():
                m.d.comb += self.fault_access.eq(Access.FETCH)
        # The cycle behind ``resuming`` is not halted: a fault that is still there is then found as a new one.
        m.d.sync += [
            self.fault_event.eq(found & ~halt),
            halt.eq(((found | self.fault.valid) & ~resuming) | self.resetting),
        ]
        with m.If(found & ~halt):
            m.d.sync += self.fault.valid.eq(1)
        with m.Elif(resuming):
            m.d.sync += self.fault.valid.eq(0)
        # Its record follows the sources, 0 without one, until there is a fault: to load all only then takes too long.
        with m.If(~halt):
            targets = (self.fault.cause, self.fault_engine, self.fault.index, self.fault.address)
            m.d.sync += [target.eq(0) for target in targets]
            for valid, *values in reversed(sources):
                with m.If(valid):
                    m.d.sync += [target.eq(value) for target, value in zip(targets, values)]

        # ---- Going on behind it. All of this is a cycle or more late, as nothing here needs to be fast.
        broken, may_resume = Signal(), Signal()
        rests = Signal(_SETTLED)
        lost = [overflow[1]]
        lost += [port.fault.valid | port.rewind for engine, port in ports.items() if engine not in REPLAYS]
        m.d.comb += [
            self.quiet.eq(fetch.quiet & ~fetch.enable),
            self.stopped.eq(rests.all() & halt),
            fetch.retry.eq(retrying),
        ]
        m.d.sync += [
            # A fault that a reported one hides, and that would not come again.
            broken.eq(broken | Cat(lost).any()),
            rests.eq(Mux(Cat(halt, self.quiet, *(queue.stopped for queue in queues.values())).all(), Cat(1, rests), 0)),
            may_resume.eq(Cat(self.fault.cause == cause for cause in sorted(RESUMABLE)).any()),
            self.resumable.eq(self.fault.valid & may_resume & self.stopped & ~broken & ~resuming),
            resuming.eq(self.resume & self.resumable & ~resuming),
            retrying.eq(self.resume & self.resumable & ~resuming & (self.fault_engine == control)),
        ]
        return m
