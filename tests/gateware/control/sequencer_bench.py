"""The sequencer with engines and a memory in Python, and what a program may do at each moment."""

import random
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from lepton_npu.control.sequencer import Sequencer
from lepton_npu.spec.commands import COMMANDS, SEMAPHORES, Engine, FaultCause, Opcode, decode
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig

from tests.gateware.simulation import Pins, kept, simulate

CONFIG = NpuConfig(side=8, lanes=4, vmem_rows=64, acc_rows=32, tiles=16, addr_width=32, bus_width=256, max_burst=4)
BASE = 0x1000
BODIES = 0x100000
RING_LOG2 = 10
ENGINES = [engine for engine in Engine if engine != Engine.CONTROL]
BEATS = RECORD_BYTES // CONFIG.bus_bytes
MASKS = ("lane_bcast", "lane_xor")


def body_address(number: int) -> int:
    """Where the body of this number is."""
    return BODIES + (number << 12)


class Step(NamedTuple):
    """One command in the order of execution: its record, address with base, and what CONTROL posts behind it."""

    record: bytes
    address: int
    posts: int


def execution(program: list[bytes], memory: dict[int, bytes]) -> list[Step]:
    """The commands that a program executes, by the index of each; bad ones do nothing."""
    steps: list[Step] = []
    registers = [0] * 8

    def execute(item: bytes) -> tuple[int, dict[str, int]] | None:
        try:
            command, f = decode(item)
        except ValueError:
            steps.append(Step(item, 0, 0))
            return None
        address = (f.get("address", 0) + registers[f.get("base", 0)]) % (1 << 64)
        if command.opcode == Opcode.ADDRESS:
            registers[f["number"]] = (f["value"] + f["add"] * registers[f["number"]]) % (1 << 64)
        posts = f["post"] if command.engine == Engine.CONTROL and command.opcode != Opcode.REPEAT else 0
        steps.append(Step(item, address, posts))
        return (address, f) if command.opcode == Opcode.REPEAT else None

    for item in program:
        if (loop := execute(item)) is not None:
            address, f = loop
            for _ in range(f["count"]):
                for number in range(f["records"]):
                    if (found := memory.get(address + RECORD_BYTES * number)) is None:
                        return steps
                    execute(found)
            steps[-1] = steps[-1]._replace(posts=steps[-1].posts << SEMAPHORES | f["post"])
    return steps


def record(rng: random.Random, opcode: Opcode, wait: int = 0, post: int = 0) -> bytes:
    """A legal record with random fields; a REPEAT leads nowhere."""
    values = {}
    for field in COMMANDS[opcode].body:
        values[field.name] = rng.randint(field.low, CONFIG.side - 1 if field.name in MASKS else field.high)
    return COMMANDS[opcode].pack(**values, wait=wait, post=post)


class SequencerDriver:
    """Runs a program; checks at every start and every act that it may be, and that all is in order.

    ``bodies`` are at their `body_address`. Commands are known by their index, the place in ``steps``.
    ``started`` and ``ended`` are (cycle, index) by engine, without what starts ``again``; ``acted`` are (cycle, index)
    of everything dispatched,
    ``tags`` what IRQ commands have left.
    """

    def __init__(self, program: list[bytes], rng: random.Random, bodies: Sequence[list[bytes]] = ()):
        self.program, self.rng = program, rng
        self.memory = {BASE + RECORD_BYTES * number: item for number, item in enumerate(program)}
        for number, body in enumerate(bodies):
            self.memory |= {body_address(number) + RECORD_BYTES * place: item for place, item in enumerate(body)}
        self.steps = execution(program, self.memory)
        self.dut = kept(Sequencer, CONFIG)
        ports = [self.port(engine) for engine in ENGINES]
        engines = [signal for port in ports for signal in (port.cmd.ready, port.done, port.busy)]
        self.pins = Pins(self.dut.ar.ready, self.dut.r.valid, self.dut.r.payload, *engines)
        self.taken_from = {engine: port.cmd.valid & port.cmd.ready for engine, port in zip(ENGINES, ports)}
        self.read_beat: dict[str, int] = {}
        self.move = {"ar": 1.0, "r": 1.0, "cmd": 1.0, "done": 1.0}
        self.latency = 1
        self.in_flight = 3
        self.pending: deque[tuple[int, int]] = deque()
        self.beat = 0
        self.offering = False
        self.bad_address: int | None = None
        self.running: dict[Engine, deque[int]] = {engine: deque() for engine in ENGINES}
        self.started: dict[Engine, list[tuple[int, int]]] = {engine: [] for engine in ENGINES}
        self.ended: dict[Engine, list[tuple[int, int]]] = {engine: [] for engine in ENGINES}
        self.again: set[int] = set()  # of what has started: an engine has forgotten it
        self.acted: list[tuple[int, int]] = []
        self.tags: list[int] = []
        self.counts = [0] * SEMAPHORES
        self.fault_events = 0
        self.taken: list[int] = []  # cycles in which records were taken
        self.cycles = 0
        self.check_counts = True

    def port(self, engine: Engine):
        return getattr(self.dut, engine.name.lower())

    def moves(self, name: str) -> bool:
        return self.rng.random() < self.move[name]

    def takes(self, engine: Engine) -> bool:
        """Whether the engine would take a command now."""
        return self.moves("cmd")

    def ends(self, engine: Engine) -> bool:
        """Whether the oldest command that it has is done now."""
        return self.moves("done")

    def read_fails(self, address: int) -> bool:
        """Whether a beat of the record there has an error response."""
        return address == self.bad_address

    def _take(self, mask: int):
        for number in range(SEMAPHORES):
            self.counts[number] -= mask >> number & 1
            assert not self.check_counts or self.counts[number] >= 0, f"semaphore {number} was not there"

    def _post(self, mask: int):
        for number in range(SEMAPHORES):
            self.counts[number] += mask >> number & 1

    async def cycle(self, ctx):
        dut = self.dut
        pins: list = [*self._memory_pins()]
        ends = {}
        for engine in ENGINES:
            running = self.running[engine]
            ready = len(running) < self.in_flight and self.takes(engine)
            ends[engine] = bool(running) and self.ends(engine)
            pins += [ready, ends[engine], bool(running)]
        self.pins.set(ctx, *pins)

        if ctx.get(dut.ar.valid) and ctx.get(dut.ar.ready):
            where = ctx.get(dut.ar.payload.addr)
            assert where in self.memory
            self.pending.append((where, self.cycles + self.rng.randint(1, self.latency)))
        if self.offering and ctx.get(dut.r.ready):
            self.offering = False
            self.beat = (self.beat + 1) % BEATS
            if self.beat == 0:
                self.pending.popleft()
        # Ends are seen before starts: both may be in a cycle, and a post needs more than one.
        for engine in ENGINES:
            if ends[engine]:
                index = self.running[engine].popleft()
                self.ended[engine].append((self.cycles, index))
                self._post(decode(self.steps[index].record)[1]["post"])
        for engine in ENGINES:
            port = self.port(engine)
            if ctx.get(self.taken_from[engine]):
                index = ctx.get(port.cmd.payload.index)
                command, values = decode(self.steps[index].record)
                assert command.engine == engine
                values["address"] = self.steps[index].address
                for field in command.body:
                    if field.name == "base":
                        continue
                    assert ctx.get(port.cmd.payload[field.name]) == values[field.name], field.name
                assert index in {acted for _, acted in self.acted}, "started before it was dispatched"
                self.running[engine].append(index)
                if index in self.again:
                    self.again.remove(index)
                    continue
                self._take(values["wait"])
                self.started[engine].append((self.cycles, index))
        self._observe_dispatch(ctx)
        self.fault_events += ctx.get(dut.fault_event)
        self.cycles += 1
        await ctx.tick()
        if ctx.get(dut.head) > len(self.taken):
            self.taken.append(self.cycles - 1)

    def _observe_dispatch(self, ctx):
        dut = self.dut
        done_event = ctx.get(dut.done_event)
        if not ctx.get(dut.dispatched):
            assert not done_event
            return
        index = len(self.acted)
        command, values = decode(self.steps[index].record)
        self.acted.append((self.cycles, index))
        assert done_event == (command.opcode == Opcode.IRQ)
        if done_event:
            assert ctx.get(dut.tag) == values["tag"]
            self.tags.append(values["tag"])
        if command.opcode in (Opcode.FENCE, Opcode.IRQ):
            ended = sum(len(found) for found in self.ended.values())
            earlier = sum(decode(step.record)[0].engine != Engine.CONTROL for step in self.steps[:index])
            assert ended == earlier, f"{command.name} {index} did not wait"
        if command.engine == Engine.CONTROL:
            self._take(values["wait"])
        posts = self.steps[index].posts
        self._post(posts & (1 << SEMAPHORES) - 1)
        self._post(posts >> SEMAPHORES)

    def _memory_pins(self) -> tuple[bool, bool, dict[str, int]]:
        """Ready of ``ar``, valid and payload of ``r``, which keeps its last beat when there is none."""
        ready = self.moves("ar")
        self.offering = self.offering or bool(self.pending and self.pending[0][1] <= self.cycles and self.moves("r"))
        if self.offering:
            where, width = self.pending[0][0], CONFIG.bus_width
            bits = int.from_bytes(self.memory[where], "little") >> self.beat * width & (1 << width) - 1
            resp = 2 if self.read_fails(where) else 0
            self.read_beat = {"data": bits, "resp": resp, "last": self.beat == BEATS - 1}
        return ready, self.offering, self.read_beat

    async def until(self, ctx, condition, limit: int = 6000):
        for _ in range(limit):
            if condition():
                return
            await self.cycle(ctx)
        raise AssertionError(f"still waiting after {limit} cycles: {len(self.acted)} dispatched")

    async def until_fault(self, ctx, extra: int = 40) -> tuple[FaultCause, Engine, int, int]:
        """Run on to a fault, and beyond; (cause, engine, index, address). It stays, and was reported once."""
        fault = self.dut.fault
        await self.until(ctx, lambda: ctx.get(fault.valid))

        def report():
            return (
                FaultCause(ctx.get(fault.cause)),
                Engine(ctx.get(self.dut.fault_engine)),
                ctx.get(fault.index),
                ctx.get(fault.address),
            )

        first, started, acted = report(), sum(map(len, self.started.values())), len(self.acted)
        for _ in range(extra):
            assert ctx.get(self.dut.halt)
            assert not any(ctx.get(self.port(engine).halt) for engine in ENGINES)
            await self.cycle(ctx)
            assert report() == first
        assert self.fault_events == 1
        assert (started, acted) == (sum(map(len, self.started.values())), len(self.acted)), "started after the fault"
        return first

    async def finish(self, ctx):
        """All is dispatched, done and idle; every engine has had its commands in order."""
        await self.until(ctx, lambda: len(self.acted) == len(self.steps) and ctx.get(self.dut.idle))
        for _ in range(10):
            await self.cycle(ctx)
        for engine in ENGINES:
            mine = [n for n, step in enumerate(self.steps) if decode(step.record)[0].engine == engine]
            assert [index for _, index in self.started[engine]] == mine
            assert [index for _, index in self.ended[engine]] == mine
        assert not self.pending
        assert not ctx.get(self.dut.fault.valid)
        assert ctx.get(self.dut.head) == len(self.program)

    def run(self, process, *, watchdog: int = 0):
        async def testbench(ctx):
            ctx.set(self.dut.ring_base, BASE)
            ctx.set(self.dut.ring_log2, RING_LOG2)
            ctx.set(self.dut.watchdog, watchdog)
            await ctx.tick()
            ctx.set(self.dut.enable, 1)
            ctx.set(self.dut.tail, len(self.program))
            await process(ctx)

        simulate(self.dut, testbench)
