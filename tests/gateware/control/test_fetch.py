"""Record fetch on a ring in a plain Python memory: wraps, stalls, enable, errors."""

import random
from collections import deque
from itertools import pairwise
from typing import NamedTuple

import pytest
from lepton_npu.control.fetch import RecordFetch
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig

from tests.gateware.simulation import Pins, kept, simulate

AHEAD = 2
BODIES = 1 << 28  # rings are below
SLVERR = 2


def config_of(bus_width: int) -> NpuConfig:
    return NpuConfig(
        side=8, lanes=4, vmem_rows=64, acc_rows=32, tiles=16, addr_width=32, bus_width=bus_width, max_burst=16
    )


class Taken(NamedTuple):
    """A record that came out: its index, where it is, what it holds, and what is said if it could not be read."""

    index: int
    where: int
    bits: int
    error: int
    error_address: int


class FetchDriver:
    """A host that writes records and moves the tail, a memory that answers, and a decoder that takes and jumps.

    ``bad`` are (byte address, beat) with an error response. ``taken`` are the records that came out; ``jumps`` gives
    for one of them, by its number, the body (byte address, records, count) to jump to behind it.
    """

    def __init__(self, config: NpuConfig, rng: random.Random, base: int, ring_log2: int):
        self.config, self.rng, self.base, self.size = config, rng, base, 1 << ring_log2
        self.ring_log2 = ring_log2
        self.dut = kept(RecordFetch, config)
        self.beats = RECORD_BYTES // config.bus_bytes
        self.move = {"ar": 1.0, "r": 1.0, "o": 1.0, "host": 1.0, "jump": 1.0}
        self.latency = 1
        self.memory: dict[int, int] = {}
        self.records: list[int] = []
        self.bad: set[tuple[int, int]] = set()
        self.asked: list[int] = []
        # Address, cycle of the first beat, and the beats that will have an error response.
        self.pending: deque[tuple[int, int, set[int]]] = deque()
        self.beat = 0
        self.offering = False
        self.waiting: int | None = None
        self.taken: list[Taken] = []
        self.jumps: dict[int, tuple[int, int, int]] = {}
        self.jumping: tuple[int, int, int] | None = None
        self.head = 0  # records taken from the ring
        self.body: deque[int] = deque()  # what is still to be taken of a body,
        self.plan: deque[int] = deque()  # and to be asked for of it; then the ring goes on
        self.ring_asked, self.ahead = 0, 0
        self.enable = True
        self.cycles = 0
        dut = self.dut
        self.pins = Pins(dut.enable, dut.tail, dut.ar.ready, dut.o.ready, dut.hold)
        self.late_pins = Pins(dut.jump.valid, dut.jump.payload, dut.r.valid, dut.r.payload)

    def address(self, index: int) -> int:
        return self.base + RECORD_BYTES * (index % self.size)

    def at(self, address: int) -> int:
        """The record there; one that was never written is made up."""
        return self.memory.setdefault(address, self.rng.getrandbits(8 * RECORD_BYTES))

    def physical(self, address: int) -> int:
        """Where the bus is to ask for it."""
        return address

    def bad_beats(self, address: int) -> set[int]:
        """The beats with an error response, of a read that is asked for now."""
        return {beat for where, beat in self.bad if where == address}

    def post(self, limit: int):
        """Write a record and ring the doorbell, if there is room in the ring."""
        if len(self.records) < limit and len(self.records) - self.head < self.size:
            record = self.rng.getrandbits(8 * RECORD_BYTES)
            self.memory[self.address(len(self.records))] = record
            self.records.append(record)

    def moves(self, name: str) -> bool:
        return self.rng.random() < self.move[name]

    async def cycle(self, ctx):
        dut, width = self.dut, self.config.bus_width
        asks, holds = self.moves("ar"), self.jumping is not None
        self.pins.set(ctx, self.enable, len(self.records), asks, not holds and self.moves("o"), holds)
        jumps = self.jumping is not None and self.moves("jump") and bool(ctx.get(dut.jump.ready))
        address, records, count = self.jumping or (self.rng.getrandbits(64), 0, 0)
        jump = {"address": address, "records": records, "count": count}
        self.offering = self.offering or bool(self.pending and self.pending[0][1] <= self.cycles and self.moves("r"))
        beat = {"data": self.rng.getrandbits(width), "resp": 3, "last": 1}
        if self.offering:
            where, _, bad = self.pending[0]
            data = self.at(where) >> self.beat * width & (1 << width) - 1
            resp = SLVERR if self.beat in bad else 0
            beat = {"data": data, "resp": resp, "last": self.beat == self.beats - 1}
        self.late_pins.set(ctx, jumps, jump, self.offering, beat)

        assert ctx.get(dut.head) == self.head
        assert ctx.get(dut.index) == sum(not taken.error for taken in self.taken)
        if not self.bad and self.jumping is None:
            nothing = len(self.records) == self.head and not self.body and not self.pending
            assert ctx.get(dut.idle) == (nothing and self.waiting is None)
        self._observe_asking(ctx)
        if self.offering and ctx.get(dut.r.ready):
            self.offering = False
            self.beat += 1
            if self.beat == self.beats:
                self.beat = 0
                self.pending.popleft()
        if jumps:
            self.jumping = None
            self.body.extend([address + RECORD_BYTES * number for number in range(records)] * count)
            self.plan = self.body.copy()
            self.ring_asked, self.ahead = self.head, 0
        elif ctx.get(dut.o.valid) and ctx.get(dut.o.ready):
            self._take(ctx)
        self.cycles += 1
        await ctx.tick()

    def _observe_asking(self, ctx):
        dut = self.dut
        if self.waiting is not None:
            assert ctx.get(dut.ar.valid), "ARVALID fell"
            assert ctx.get(dut.ar.payload.addr) == self.physical(self.waiting), "ARADDR changed"
        if not ctx.get(dut.ar.valid):
            return
        if self.waiting is None:
            assert self.enable, "asks while it is not enabled"
            assert self.jumping is None, "asks while it is held"
            assert self.ahead < AHEAD
            self.ahead += 1
            if self.plan:
                self.waiting = self.plan.popleft()
            else:
                assert self.ring_asked < len(self.records), "asks beyond the tail"
                self.waiting = self.address(self.ring_asked)
                self.ring_asked += 1
            assert ctx.get(dut.ar.payload.addr) == self.physical(self.waiting)
            assert ctx.get(dut.ar.payload.len) == self.beats - 1
        if ctx.get(dut.ar.ready):
            self.asked.append(self.waiting)
            due = self.cycles + self.rng.randint(1, self.latency)
            self.pending.append((self.waiting, due, self.bad_beats(self.waiting)))
            self.waiting = None
            assert len(self.pending) <= 2 * AHEAD

    def _take(self, ctx):
        o, number = self.dut.o.payload, sum(not taken.error for taken in self.taken)
        in_body = bool(self.body)
        where = self.body.popleft() if in_body else self.address(self.head)
        error = ctx.get(o.error)
        taken = Taken(ctx.get(o.index), where, ctx.get(o.bits), error, ctx.get(self.dut.error_address))
        self.taken.append(taken)
        assert taken.index == number
        assert ctx.get(o.body) == in_body
        if error:
            if in_body:
                self.body.appendleft(where)
            return
        assert taken.bits == self.at(where)
        assert ctx.get(o.last) == (in_body and not self.body)
        self.ahead -= 1
        self.head += not in_body
        if not in_body:
            self.jumping = self.jumps.get(number)

    def run(self, process):
        async def testbench(ctx):
            ctx.set(self.dut.ring_base, self.base | self.rng.randrange(RECORD_BYTES))  # bits 0 to 5 are ignored
            ctx.set(self.dut.ring_log2, self.ring_log2)
            await ctx.tick().repeat(2)
            await process(ctx)

        simulate(self.dut, testbench)


def random_bodies(rng: random.Random, number: int) -> dict[int, tuple[int, int, int]]:
    """Bodies behind some of the first records; a ``number`` that is one of a body is not looked at."""
    found = {}
    for n in range(number):
        if rng.random() < 0.25:
            where = BODIES + RECORD_BYTES * rng.randrange(1 << 12)
            found[n] = (where, rng.choice((1, 1, 2, 3, 7)), rng.choice((1, 1, 2, 3, 5)))
    return found


def ring(driver: FetchDriver) -> list[int]:
    """What came from the ring."""
    return [taken.bits for taken in driver.taken if taken.where < BODIES]


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize(("bus_width", "ring_log2"), [(64, 0), (64, 1), (128, 2), (256, 3), (64, 5)])
def test_random(seed, bus_width, ring_log2, loops):
    """Every record once, in order, over many wraps of the ring; nothing is asked for while not enabled.

    Bodies come in between as often as they should, and the ring goes on where it was.
    """
    rng = random.Random(f"{seed} {bus_width} {ring_log2} {loops}")
    driver = FetchDriver(config_of(bus_width), rng, rng.randrange(1 << 20) * RECORD_BYTES, ring_log2)
    total = 60 if ring_log2 < 5 else 100
    if loops:
        driver.jumps, total = random_bodies(rng, 200), total // 2

    async def process(ctx):
        while driver.head < total or driver.body or driver.jumping:
            assert driver.cycles < 12000
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
    assert ring(driver) == driver.records
    assert not any(taken.error for taken in driver.taken)
    assert not driver.pending
    assert (len(driver.taken) > total) == loops


def test_reads_ahead():
    """While the decoder takes none, two records are asked for, and no third."""
    driver = FetchDriver(config_of(64), random.Random(0), 0x4000, 4)
    driver.move["o"] = 0

    async def process(ctx):
        for _ in range(8):
            driver.post(8)
        for _ in range(60):
            await driver.cycle(ctx)
        assert driver.asked == [driver.address(0), driver.address(1)]
        driver.move["o"] = 1
        for _ in range(120):
            await driver.cycle(ctx)

    driver.run(process)
    assert ring(driver) == driver.records


def test_no_bubble_but_at_the_jump():
    """At a beat a record the records of a body, and then the ring's, come as fast as the ring's alone."""
    driver = FetchDriver(config_of(256), random.Random(0), 0x4000, 4)
    driver.jumps = {2: (BODIES, 3, 4)}
    when: list[int] = []

    async def process(ctx):
        for _ in range(8):
            driver.post(8)
        while len(driver.taken) < 8 + 12:
            before = len(driver.taken)
            await driver.cycle(ctx)
            if len(driver.taken) > before:
                when.append(driver.cycles)

    driver.run(process)
    gaps = [later - earlier for earlier, later in pairwise(when)]
    steady = max(gaps[:2])
    assert set(gaps[:2] + gaps[3:]) <= {steady - 1, steady}, gaps
    assert steady <= 4
    assert gaps[2] > steady


@pytest.mark.parametrize("beat", [0, 3, 7])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_error_response(seed, beat, index):
    """The record comes out as an error, with its index and address, after those before it; none after it."""
    rng = random.Random(f"{seed} {beat} {index}")
    driver = FetchDriver(config_of(64), rng, 0x8000, 3)
    driver.bad = {(driver.address(index), beat)}
    driver.latency = rng.choice((1, 9))

    async def process(ctx):
        for _ in range(250):
            driver.post(9)
            await driver.cycle(ctx)
        assert not ctx.get(driver.dut.ar.valid)

    driver.run(process)
    *good, last = driver.taken
    assert [taken.bits for taken in good] == driver.records[:index]
    assert not any(taken.error for taken in good)
    assert (last.index, last.error, last.error_address) == (index, 1, driver.address(index))
    assert len(driver.asked) <= index + AHEAD
    assert not driver.pending


@pytest.mark.parametrize("number", [0, 2, 5])
@pytest.mark.parametrize("slow", [1, 12])
def test_error_in_a_body(number, slow):
    """In its turn; and one of a record of the ring that is dropped is no error."""
    driver = FetchDriver(config_of(64), random.Random(number), 0x8000, 3)
    driver.latency = slow
    driver.jumps = {1: (BODIES, 3, 2)}
    driver.bad = {(driver.address(n), 0) for n in (2, 3)}

    async def process(ctx):
        for _ in range(300):
            driver.post(6)
            if (
                len(driver.taken) == number
            ):  # In the last round only: the same record of the first one is taken, and this one not asked for.
                driver.bad.add((BODIES + RECORD_BYTES * (number % 3), 2))
            await driver.cycle(ctx)

    driver.run(process)
    *good, last = driver.taken
    assert not any(taken.error for taken in good)
    assert last.error
    assert last.error_address == last.where == BODIES + RECORD_BYTES * (number % 3)
    assert last.index == len(good) == 2 + number


@pytest.mark.parametrize(("room", "slow"), [(0, 1), (1, 1), (2, 20), (3, 1)])
@pytest.mark.parametrize("body", [False, True])
def test_beyond_the_address_space(room, slow, body):
    """A record at 2^addr_width, of the ring or of a body, is not asked for, and is an error in its turn."""
    start = (1 << 32) - RECORD_BYTES * room
    driver = FetchDriver(config_of(64), random.Random(room), 0x8000 if body else start, 3)
    driver.latency = slow
    if body:
        driver.jumps = {0: (start, 5, 2)}

    async def process(ctx):
        # Idle is of no use after it: as with an error response.
        driver.bad = {(1, 0)}
        for _ in range(150):
            driver.post(6)
            await driver.cycle(ctx)

    driver.run(process)
    *good, last = driver.taken
    assert not any(taken.error for taken in good)
    assert (last.index, last.error, last.error_address) == (room + body, 1, 1 << 32)
    assert driver.asked[-room or len(driver.asked) :] == [start + RECORD_BYTES * n for n in range(room)]
