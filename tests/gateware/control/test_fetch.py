"""Record fetch on a ring in a plain Python memory: wraps, stalls, enable, errors."""

import random
from collections import deque

import pytest
from amaranth.sim import Simulator
from lepton_npu.control.fetch import RecordFetch
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig

AHEAD = 2
SLVERR = 2


def config_of(bus_width: int) -> NpuConfig:
    return NpuConfig(
        side=8, lanes=4, vmem_rows=64, acc_rows=32, tiles=16, addr_width=32, bus_width=bus_width, max_burst=16
    )


class FetchDriver:
    """A host that writes records and moves the tail, a memory that answers, and a decoder that takes.

    ``bad`` are (index, beat) with an error response. ``taken`` are (index, bits, error, address) of the records.
    """

    def __init__(self, config: NpuConfig, rng: random.Random, base: int, ring_log2: int):
        self.config, self.rng, self.base, self.size = config, rng, base, 1 << ring_log2
        self.ring_log2 = ring_log2
        self.dut = RecordFetch(config)
        self.beats = RECORD_BYTES // config.bus_bytes
        self.move = {"ar": 1.0, "r": 1.0, "o": 1.0, "host": 1.0}
        self.latency = 1
        self.ring = [0] * self.size
        self.records: list[int] = []
        self.bad: set[tuple[int, int]] = set()
        self.asked: list[int] = []
        self.pending: deque[tuple[int, int]] = deque()  # index, cycle of the first beat
        self.beat = 0
        self.offering = False
        self.waiting: int | None = None
        self.taken: list[tuple[int, int, int, int]] = []
        self.received = 0
        self.enable = True
        self.cycles = 0

    def address(self, index: int) -> int:
        return self.base + RECORD_BYTES * (index % self.size)

    def post(self, limit: int):
        """Write a record and ring the doorbell, if there is room in the ring."""
        if len(self.records) < limit and len(self.records) - self.head() < self.size:
            record = self.rng.getrandbits(8 * RECORD_BYTES)
            self.ring[len(self.records) % self.size] = record
            self.records.append(record)

    def head(self) -> int:
        return sum(not error for _, _, error, _ in self.taken)

    def moves(self, name: str) -> bool:
        return self.rng.random() < self.move[name]

    async def cycle(self, ctx):
        dut, width = self.dut, self.config.bus_width
        ctx.set(dut.enable, self.enable)
        ctx.set(dut.tail, len(self.records))
        ctx.set(dut.ar.ready, self.moves("ar"))
        ctx.set(dut.o.ready, self.moves("o"))
        self.offering = self.offering or bool(self.pending and self.pending[0][1] <= self.cycles and self.moves("r"))
        ctx.set(dut.r.valid, self.offering)
        ctx.set(dut.r.payload, {"data": self.rng.getrandbits(width), "resp": 3, "last": 1})
        if self.offering:
            index = self.pending[0][0]
            data = self.ring[index % self.size] >> self.beat * width & (1 << width) - 1
            resp = SLVERR if (index, self.beat) in self.bad else 0
            ctx.set(dut.r.payload, {"data": data, "resp": resp, "last": self.beat == self.beats - 1})

        assert ctx.get(dut.head) == self.head()
        if not self.bad:
            assert ctx.get(dut.idle) == (len(self.records) == self.head() and self.waiting is None)
        if self.waiting is not None:
            assert ctx.get(dut.ar.valid), "ARVALID fell"
            assert ctx.get(dut.ar.payload.addr) == self.waiting, "ARADDR changed"
        if ctx.get(dut.ar.valid):
            index = len(self.asked)
            assert self.enable or self.waiting is not None, "asks while it is not enabled"
            assert index < len(self.records), "asks beyond the tail"
            assert index - self.head() < AHEAD
            assert ctx.get(dut.ar.payload.addr) == self.address(index)
            assert ctx.get(dut.ar.payload.len) == self.beats - 1
            self.waiting = self.address(index)
            if ctx.get(dut.ar.ready):
                self.asked.append(index)
                self.pending.append((index, self.cycles + self.rng.randint(1, self.latency)))
                self.waiting = None
        if self.offering and ctx.get(dut.r.ready):
            self.offering = False
            self.beat += 1
            if self.beat == self.beats:
                self.beat = 0
                self.pending.popleft()
                self.received += 1
        if ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
            o = dut.o.payload
            self.taken.append((ctx.get(o.index), ctx.get(o.bits), ctx.get(o.error), ctx.get(o.address)))
        self.cycles += 1
        await ctx.tick()

    def run(self, process):
        async def testbench(ctx):
            ctx.set(self.dut.ring_base, self.base | self.rng.randrange(RECORD_BYTES))  # bits 0 to 5 are ignored
            ctx.set(self.dut.ring_log2, self.ring_log2)
            await ctx.tick().repeat(2)
            await process(ctx)

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-8)
        simulator.add_testbench(testbench)
        simulator.run()


@pytest.mark.parametrize(("bus_width", "ring_log2"), [(64, 0), (64, 1), (128, 2), (256, 3), (64, 5)])
def test_random(seed, bus_width, ring_log2):
    """Every record once, in order, over many wraps of the ring; nothing is asked for while not enabled."""
    rng = random.Random(f"{seed} {bus_width} {ring_log2}")
    driver = FetchDriver(config_of(bus_width), rng, rng.randrange(1 << 20) * RECORD_BYTES, ring_log2)
    total = 60 if ring_log2 < 5 else 100

    async def process(ctx):
        while driver.head() < total:
            assert driver.cycles < 8000
            if driver.cycles % 60 == 0:
                driver.move = {name: rng.choice((0.2, 0.7, 1)) for name in driver.move}
                driver.latency = rng.choice((1, 4, 20))
            if driver.moves("host"):
                driver.post(total)
            if rng.random() < 0.05:
                driver.enable = not driver.enable
            await driver.cycle(ctx)
        driver.enable = True
        for _ in range(20):
            await driver.cycle(ctx)

    driver.run(process)
    assert [bits for _, bits, _, _ in driver.taken] == driver.records
    assert [index for index, _, _, _ in driver.taken] == list(range(total))
    assert not any(error for _, _, error, _ in driver.taken)
    assert not driver.pending


def test_reads_ahead():
    """While the decoder takes none, two records are asked for, and no third."""
    driver = FetchDriver(config_of(64), random.Random(0), 0x4000, 4)
    driver.move["o"] = 0

    async def process(ctx):
        for _ in range(8):
            driver.post(8)
        for _ in range(60):
            await driver.cycle(ctx)
        assert driver.asked == [0, 1]
        driver.move["o"] = 1
        for _ in range(120):
            await driver.cycle(ctx)

    driver.run(process)
    assert [bits for _, bits, _, _ in driver.taken] == driver.records


@pytest.mark.parametrize("beat", [0, 3, 7])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_error_response(seed, beat, index):
    """The record comes out as an error, with its index and address, after those before it; none after it."""
    rng = random.Random(f"{seed} {beat} {index}")
    driver = FetchDriver(config_of(64), rng, 0x8000, 2)
    driver.bad = {(index, beat)}
    driver.latency = rng.choice((1, 9))

    async def process(ctx):
        for _ in range(250):
            driver.post(9)
            await driver.cycle(ctx)
        assert not ctx.get(driver.dut.ar.valid)

    driver.run(process)
    *good, (last, _, error, address) = driver.taken
    assert [bits for _, bits, _, _ in good] == driver.records[:index]
    assert not any(failed for _, _, failed, _ in good)
    assert (last, error, address) == (index, 1, driver.address(index))
    assert len(driver.asked) <= index + AHEAD
    assert not driver.pending


@pytest.mark.parametrize(("room", "slow"), [(0, 1), (1, 1), (2, 20), (3, 1)])
def test_beyond_the_address_space(room, slow):
    """A record at 2^addr_width is not asked for, and is an error in its turn."""
    driver = FetchDriver(config_of(64), random.Random(room), (1 << 32) - RECORD_BYTES * room, 3)
    driver.latency = slow

    async def process(ctx):
        # The bits of an error are not defined, and idle is of no use after it: as with an error response.
        driver.bad = {(room, 0)}
        for _ in range(150):
            driver.post(6)
            await driver.cycle(ctx)

    driver.run(process)
    *good, (last, _, error, address) = driver.taken
    assert [bits for _, bits, _, _ in good] == driver.records[:room]
    assert (last, error, address) == (room, 1, 1 << 32)
    assert driver.asked == list(range(room))
