"""LOAD or STORE engine behind `AxiMaster`, driven with random stalls; what is expected, in this file's own words."""

import random
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect
from lepton_npu.bus.load import LoadEngine
from lepton_npu.bus.master import AxiMaster
from lepton_npu.bus.store import StoreEngine
from lepton_npu.memory.ports import LOCAL_READ_LATENCY
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig

from tests.gateware.bus.axi_memory import AxiMemory, Stalls
from tests.gateware.partition import Partition
from tests.gateware.simulation import Pins, Resettable, kept, simulate

MASK64 = (1 << 64) - 1
Fields = dict[str, int]


def config_of(side: int = 4, **values: int) -> NpuConfig:
    sizes = {"vmem_rows": 256, "acc_rows": 64, "tiles": 16, "addr_width": 32, "max_burst": 8, "outstanding": 3}
    return NpuConfig(side=side, lanes=4, **sizes | values)


@dataclass
class Plan:
    """Rows (byte address, first local row) that a command transfers, and the fault that ends it."""

    rows: list[tuple[int, int]] = field(default_factory=list)
    fault: tuple[FaultCause, int] | None = None


def plan(config: NpuConfig, opcode: Opcode, f: Fields) -> Plan:
    """The checks of docs/architecture.md, section 2, in their order."""
    result = Plan()
    if f["address"] % config.bus_bytes or f["stride"] % config.bus_bytes:
        result.fault = (FaultCause.MISALIGNED, f["address"])
        return result
    for number in range(f["rows"]):
        address = f["address"] + number * f["stride"]
        local = f["local"] + number * f["local_stride"]
        if address < 0 or address + 4 * f["words"] > 1 << config.addr_width:
            result.fault = (FaultCause.ADDRESS_RANGE, address)
            return result
        for row in range(local, local + -(-f["words"] // config.side)):
            acc = opcode == Opcode.STORE and ACC_SPACE <= row < ACC_SPACE + config.acc_rows
            if not (0 <= row < config.vmem_rows or acc):
                result.fault = (FaultCause.LOCAL_RANGE, row)
                return result
        result.rows.append((address, local))
    return result


def random_fields(rng: random.Random, config: NpuConfig, opcode: Opcode, size: int) -> Fields:
    """A command without a fault, in ``size`` bytes around address 0, often near a 4 KiB boundary."""
    beat = config.bus_bytes
    while True:
        words = rng.choice((rng.randint(1, 4 * config.side), rng.randint(1, 24 * config.side), 1, config.side))
        length, row = -(-words // config.side), -(-words * 4 // beat) * beat
        f = {
            "rows": rng.choice((1, rng.randint(1, 4), rng.randint(1, 10))),
            "words": words,
            "local_stride": rng.choice((length, length, length + 1, 1, 0, -length)),
            "stride": rng.choice((row, row, row + beat, 3 * row, beat, 0, -row)),
            "local": rng.randrange(config.vmem_rows),
        }
        if opcode == Opcode.STORE and rng.random() < 0.4:
            f["local"] = ACC_SPACE + rng.randrange(config.acc_rows)
        start = rng.choice((rng.randrange(size), rng.randrange(1, size >> 12) * 4096 - rng.randint(0, 8) * beat))
        f["address"] = (start - size // 2) // beat * beat % (1 << config.addr_width)
        result = plan(config, opcode, f)
        inside = all(
            (address + offset + size // 2) % (1 << config.addr_width) < size
            for address, _ in result.rows
            for offset in (0, 4 * words - 1)
        )
        if result.fault is None and inside and len(result.rows) * words < 40 * config.side:
            return f


class DmaBench(wiring.Component):
    """The engine of ``opcode`` and the master; the reader of records is the test."""

    def __init__(self, config: NpuConfig, opcode: Opcode):
        self.dma = LoadEngine(config) if opcode == Opcode.LOAD else StoreEngine(config)
        self.engine, self.beat = self.dma.engine, self.dma.beat
        self.master = AxiMaster(config)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.dma, m.submodules.master = self.dma, self.master
        if isinstance(self.dma, LoadEngine):
            connect(m, self.dma.ar, self.master.load_ar)
            connect(m, self.dma.r, self.master.load_r)
        else:
            connect(m, self.dma.aw, self.master.aw)
            connect(m, self.dma.w, self.master.w)
            connect(m, self.dma.b, self.master.b)
            # No LOAD engine: nothing waits for it.
            m.d.comb += self.master.load_r.ready.eq(1)
        return m


class DmaDriver:
    """Commands, local memory, record reader and bus of a `DmaBench`, cycle by cycle.

    ``kind`` is one of `tests.gateware.partition.KINDS`: the engine's core is of ``config``, or has it as a partition.
    ``local`` are all local rows by address, as commands count them. ``written`` are LOAD's writes (row, data), ``done``
    the cycles of done.
    """

    def __init__(self, config: NpuConfig, opcode: Opcode, rng: random.Random, kind: str = "alone"):
        self.config, self.opcode, self.rng = config, opcode, rng
        self.part = Partition.draw(kind, config, rng)
        self.dut = kept(Resettable, DmaBench, self.part.core, opcode)
        self.bench, self.reset = self.dut.unit, self.dut.reset
        self.memory = AxiMemory(config, rng)
        words = np.frombuffer(rng.randbytes((ACC_SPACE + config.acc_rows) * config.row_bytes), np.uint32)
        self.local = words.reshape(-1, config.side).copy()
        self.commands: deque[tuple[int, Fields]] = deque()
        self.gap = 0
        self.written: list[tuple[int, int]] = []
        self.done: list[int] = []
        self.accepted = 0
        self.beats: list[int] = []
        self.due = deque([None] * LOCAL_READ_LATENCY)
        self.fetches: deque[int] = deque()
        self.fetch_offered: int | None = None
        self.fetched = 0
        self.fetch_bits: list[int] = []
        # Payloads stay when they are not valid any more.
        self.payload: Fields = {}
        self.fetch_payload: Fields = {}
        dma, master = self.bench.dma, self.bench.master
        read = [dma.read.resp_valid, dma.read.resp_data] if opcode == Opcode.STORE else []
        local = dma.write.req.ready if opcode == Opcode.LOAD else dma.read.req.ready
        fetch = [master.fetch_ar.valid, master.fetch_ar.payload, master.fetch_r.ready]
        self.pins = Pins(dma.engine.cmd.valid, dma.engine.cmd.payload, local, *read, *fetch)

    @property
    def stalls(self) -> Stalls:
        return self.memory.stalls

    def forget(self):
        """What was noted about commands before; contents stay."""
        for record in (self.written, self.done, self.beats, self.memory.read_log, self.memory.write_log):
            record.clear()
        self.memory.write_beats.clear()
        self.commands.clear()
        self.accepted = self.memory.acknowledged = 0

    async def cycle(self, ctx):
        bench, memory, rng = self.bench, self.memory, self.rng
        engine, master = bench.engine, bench.master
        memory.drive(ctx, master.m_axi)
        offered = bool(self.commands) and self.gap == 0
        if offered:
            self.payload = {"index": self.commands[0][0], **self.commands[0][1]}
        local_ready = rng.random() < self.stalls.local
        pins: list = [offered, self.payload, local_ready]
        if self.opcode == Opcode.STORE:
            answer = self.due.popleft()
            pins += [answer is not None, rng.getrandbits(self.config.row_bits) if answer is None else answer]
        self.pins.set(ctx, *pins, *self._fetch_pins())

        if offered and ctx.get(engine.cmd.ready):
            self.commands.popleft()
            self.accepted += 1
            self.gap = rng.randint(0, self.stalls.gap)
        elif self.gap:
            self.gap -= 1
        if self.opcode == Opcode.LOAD:
            if local_ready and ctx.get(bench.dma.write.req.valid):
                write = bench.dma.write.req.payload
                self.written.append((self.part.vmem(ctx.get(write.addr)), ctx.get(write.data)))
        else:
            answer = None
            if local_ready and ctx.get(bench.dma.read.req.valid):
                address = self.part.local(ctx.get(bench.dma.read.req.payload))
                answer = int.from_bytes(self.local[address].tobytes(), "little")
            self.due.append(answer)
        if ctx.get(engine.done):
            self.done.append(len(self.written) if self.opcode == Opcode.LOAD else memory.acknowledged)
        if ctx.get(bench.beat):
            self.beats.append(memory.cycle)
        assert ctx.get(engine.busy) or len(self.done) >= self.accepted - offered, "not busy with a command left"
        axi = master.m_axi
        offers = ctx.get(axi.arvalid) or ctx.get(axi.awvalid) or ctx.get(axi.wvalid)
        assert ctx.get(master.quiet) == (not offers and not memory.unfinished)
        self._observe_fetch(ctx)
        memory.observe(ctx, axi)
        await ctx.tick()

    # ---- The reader of records: single bursts of RECORD_BYTES, at most two in flight.

    def _fetch_pins(self) -> tuple[bool, dict[str, int], bool]:
        """Valid and payload of ``fetch_ar``, ready of ``fetch_r``."""
        config = self.config
        if self.fetch_offered is None and len(self.fetches) < 2 and self.rng.random() < self.stalls.fetch:
            record = self.rng.randrange(self.memory.size // RECORD_BYTES) * RECORD_BYTES
            self.fetch_offered = (record - self.memory.size // 2) % (1 << config.addr_width)
        if self.fetch_offered is not None:
            self.fetch_payload = {"addr": self.fetch_offered, "len": RECORD_BYTES // config.bus_bytes - 1}
        takes = self.stalls.fetch == 0 or self.rng.random() < 0.8
        return self.fetch_offered is not None, self.fetch_payload, takes

    def _observe_fetch(self, ctx):
        master = self.bench.master
        if self.fetch_offered is not None and ctx.get(master.fetch_ar.ready):
            self.fetches.append(self.fetch_offered)
            self.fetch_offered = None
        if ctx.get(master.fetch_r.valid) and ctx.get(master.fetch_r.ready):
            beat = master.fetch_r.payload
            self.fetch_bits.append(ctx.get(beat.data))
            if ctx.get(beat.last):
                address, width = self.fetches.popleft(), self.config.bus_bytes
                addresses = [address + n * width for n in range(RECORD_BYTES // width)]
                if self.opcode == Opcode.LOAD and not any(map(self.memory.response, addresses)):
                    assert self.fetch_bits == [self.memory.beat(place) for place in addresses]
                    self.fetched += 1
                self.fetch_bits = []

    # ---- Runs.

    async def until(self, ctx, condition, limit: int = 8000):
        for _ in range(limit):
            if condition():
                return
            await self.cycle(ctx)
        raise AssertionError(f"still waiting after {limit} cycles: {len(self.done)} done, {self.accepted} accepted")

    async def run(self, ctx, commands: list[Fields], first_index: int = 0):
        """Run good commands to the end; the bus and all records of what is due are empty then."""
        self.commands.extend(enumerate(commands, first_index))
        await self.until(ctx, lambda: len(self.done) == len(commands))
        await self.settle(ctx)
        assert not ctx.get(self.bench.engine.busy)

    async def settle(self, ctx, cycles: int = 12):
        """Let the bus finish, without stalls at the end; nothing new comes then, and nothing is left."""
        stalls, memory = self.stalls, self.memory
        memory.stalls = replace(stalls, fetch=0)
        for _ in range(2):
            await self.until(ctx, lambda: ctx.get(self.bench.master.quiet) and self.fetch_offered is None)
            memory.stalls = Stalls()
            for _ in range(cycles):
                await self.cycle(ctx)
        done, written, bursts = len(self.done), len(self.written), len(memory.read_log + memory.write_log)
        for _ in range(cycles):
            await self.cycle(ctx)
            assert ctx.get(self.bench.master.quiet)
        assert (done, written) == (len(self.done), len(self.written))
        assert bursts == len(memory.read_log + memory.write_log)
        assert not self.fetches
        assert not any(answer is not None for answer in self.due)
        memory.stalls = stalls

    async def restart(self, ctx):
        """Reset the engine and the master; the bus must be quiet."""
        assert not self.memory.unfinished
        ctx.set(self.reset, 1)
        await ctx.tick()
        ctx.set(self.reset, 0)
        ctx.set(self.bench.engine.halt, 0)
        self.forget()

    def fault(self, ctx) -> tuple[FaultCause, int, int]:
        """Cause, index and address that are reported."""
        fault = self.bench.engine.fault
        assert ctx.get(fault.valid)
        return FaultCause(ctx.get(fault.cause)), ctx.get(fault.index), ctx.get(fault.address)

    def simulate(self, process):
        async def bounded(ctx):
            ctx.set(self.bench.dma.bounds, self.part.bounds)
            await process(ctx)

        simulate(self.dut, bounded)


def beats_of_row(config: NpuConfig, f: Fields, address: int) -> list[int]:
    """Addresses of the beats of a matrix row."""
    return list(range(address, address + 4 * f["words"], config.bus_bytes))
