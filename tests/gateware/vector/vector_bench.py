"""The vector engine on a memory that stalls at random, for tests in Amaranth's simulator."""

import random
from collections import Counter, deque
from collections.abc import Iterable

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import connect
from lepton_npu.memory.bounds import whole
from lepton_npu.memory.local_memory import LocalMemory
from lepton_npu.memory.ports import LOCAL_READ_LATENCY
from lepton_npu.spec.config import NpuConfig
from lepton_npu.vector.engine import VectorEngine
from lepton_verif.model.iss_state import CoreState

from tests.gateware.partition import Partition
from tests.gateware.simulation import Pins, Resettable, kept

LIMIT = 6000
"""Cycles that one command may take."""


class VectorWithMemory(wiring.Component):
    """`VectorEngine` on a real `LocalMemory`, whose LOAD port fills it."""

    def __init__(self, config: NpuConfig):
        self.config, self.vector, self.memory = config, VectorEngine(config), LocalMemory(config)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.vector, m.submodules.memory = self.vector, self.memory
        m.d.comb += self.vector.bounds.eq(whole(self.config))
        for name in "abc":
            connect(m, getattr(self.vector, name), getattr(self.memory, f"vector_{name}"))
        connect(m, self.vector.write, self.memory.vector_write)
        return m


class VectorDriver:
    """Commands to a `VectorEngine`, and the memory behind it: a `CoreState` that the engine alone writes.

    A read is answered exactly `LOCAL_READ_LATENCY` cycles after its handshake; requests are accepted with a
    probability drawn for each command and port. An address that names no row must never be asked for.
    ``kind`` is one of `tests.gateware.partition.KINDS`: the core is of ``config``, or has it as a partition.
    """

    def __init__(self, config: NpuConfig, state: CoreState, rng: random.Random, kind: str = "alone"):
        self.config, self.state, self.rng = config, state, rng
        self.part = Partition.draw(kind, config, rng)
        self.dut = kept(Resettable, VectorEngine, self.part.core)
        self.vector, self.reset = self.dut.unit, self.dut.reset
        self.engine = self.vector.engine
        self.accept = dict.fromkeys("abc", 1.0)
        self.due = {name: deque([None] * LOCAL_READ_LATENCY) for name in "abc"}
        self.reads = {name: [] for name in "abc"}
        self.writes: list[int] = []
        self.seen = Counter()
        ports = [getattr(self.vector, name) for name in "abc"]
        inputs = [signal for port in ports for signal in (port.resp_valid, port.resp_data, port.req.ready)]
        self.pins = Pins(self.vector.bounds, *inputs)
        self.bounds = Value.cast(self.part.bounds).value

    async def cycle(self, ctx):
        """One cycle of the memory; what the engine reads and writes is noted."""
        vector, config = self.vector, self.config
        pins, accepts = [self.bounds], {}
        for name in "abc":
            answer = self.due[name].popleft()
            data = self.rng.getrandbits(config.row_bits) if answer is None else answer
            accepts[name] = self.rng.random() < self.accept[name]
            pins += [answer is not None, data, accepts[name]]
        self.pins.set(ctx, *pins)
        for name, ready in accepts.items():
            port = getattr(vector, name)
            answer = None
            if ctx.get(port.req.valid):
                address = self.part.local(ctx.get(port.req.payload))
                if ready:
                    self.reads[name].append(address)
                    answer = int.from_bytes(self.state.local[address].tobytes(), "little")
                else:
                    self.seen["stall"] += 1
            self.due[name].append(answer)
        assert ctx.get(vector.row) == ctx.get(vector.write.en)
        if ctx.get(vector.write.en):
            row = self.part.vmem(ctx.get(vector.write.addr))
            words = ctx.get(vector.write.data).to_bytes(config.row_bytes, "little")
            self.state.vmem[row] = memoryview(words).cast("I")
            self.writes.append(row)
        await ctx.tick()

    async def start(self, ctx, command: dict[str, int], index: int, accept: Iterable[float] = (1, 1, 1)):
        """Hand over a command; returns once it is taken."""
        engine = self.engine
        self.accept = dict(zip("abc", map(float, accept)))
        for record in (*self.reads.values(), self.writes):
            record.clear()
        ctx.set(engine.cmd.valid, 1)
        ctx.set(engine.cmd.payload, {"index": index, **command})
        for _ in range(LIMIT):
            ready = ctx.get(engine.cmd.ready)
            assert not ctx.get(engine.done)
            await self.cycle(ctx)
            if ready:
                break
        else:
            raise AssertionError("command was not taken")
        ctx.set(engine.cmd.valid, 0)
        # Only the payload of the handshake counts.
        ctx.set(engine.cmd.payload, {name: self.rng.getrandbits(8) for name in ("op", "a", "count0", "imm_b")})

    async def finish(self, ctx) -> bool:
        """Wait for done (True) or a fault (False)."""
        engine = self.engine
        for _ in range(LIMIT):
            done, fault = ctx.get(engine.done), ctx.get(engine.fault.valid)
            assert not (done and fault)
            assert ctx.get(engine.busy)
            await self.cycle(ctx)
            if done or fault:
                return bool(done)
        raise AssertionError("command is neither done nor at fault")

    async def quiet(self, ctx, busy: bool, cycles: int = 30):
        """Nothing is read, written or done for some cycles, and no answer is left."""
        before = (len(self.writes), *(len(reads) for reads in self.reads.values()))
        for _ in range(cycles):
            assert ctx.get(self.engine.busy) == busy
            assert not ctx.get(self.engine.done)
            assert ctx.get(self.engine.quiet)
            await self.cycle(ctx)
        assert before == (len(self.writes), *(len(reads) for reads in self.reads.values()))
        assert not any(answer is not None for due in self.due.values() for answer in due)
