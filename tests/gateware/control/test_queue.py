"""Command queue with random arrivals, grants, starts, ends and halts, against two Python queues."""

import random
from collections import deque

from lepton_npu.control.queue import CommandQueue
from lepton_npu.spec.commands import SEMAPHORES, Opcode
from lepton_npu.spec.config import NpuConfig

from tests.gateware.simulation import kept, simulate

RUNNING = 32


class QueueDriver:
    """Commands are their index; masks are random. ``arrived`` wait, ``running`` have started."""

    def __init__(self, rng: random.Random, depth: int):
        config = NpuConfig(side=4, lanes=4, vmem_rows=64, acc_rows=32, tiles=16, max_burst=16, queue_depth=depth)
        self.dut, self.rng = kept(CommandQueue, config, Opcode.LOAD), rng
        self.move = {"i": 0.5, "grant": 0.5, "cmd": 0.5, "done": 0.5, "halt": 0.0}
        self.arrived: deque[dict] = deque()
        self.running: deque[dict] = deque()
        self.offered: dict | None = None
        self.posted: dict | None = None
        self.granted = self.owns = False  # in the cycle before; the oldest has its semaphores
        self.count = self.started = self.ended = 0

    def moves(self, name: str) -> bool:
        return self.rng.random() < self.move[name]

    async def cycle(self, ctx):
        dut, rng = self.dut, self.rng
        if self.offered is None and self.moves("i"):
            command = {
                "index": 0xFFFF_FFF0 + self.count & 0xFFFF_FFFF,
                "address": rng.getrandbits(64),
                "rows": self.count,
            }
            masks = {name: rng.getrandbits(SEMAPHORES) for name in ("wait", "post")}
            self.offered = {"command": command, **masks}
            self.count += 1
        ctx.set(dut.i.valid, self.offered is not None)
        if self.offered:
            ctx.set(dut.i.payload, self.offered)
        grant, ready, done = self.moves("grant"), self.moves("cmd"), bool(self.running) and self.moves("done")
        halt = self.moves("halt")
        for signal, value in ((dut.grant, grant), (dut.cmd.ready, ready), (dut.done, done), (dut.halt, halt)):
            ctx.set(signal, value)

        assert ctx.get(dut.post.valid) == (self.posted is not None)
        if self.posted:
            assert ctx.get(dut.post.mask) == self.posted["post"]
            assert ctx.get(dut.post.index) == self.posted["command"]["index"]
        assert ctx.get(dut.idle) == (not self.arrived and not self.running and self.posted is None)
        assert ctx.get(dut.runs) == bool(self.running)
        if self.running:
            assert ctx.get(dut.running_index) == self.running[0]["command"]["index"]
        requests = ctx.get(dut.requests)
        self.owns |= self.granted
        assert ctx.get(dut.taken) == self.granted
        assert ctx.get(dut.cmd.valid) == (self.owns and not halt and len(self.running) < RUNNING)
        started = ctx.get(dut.cmd.valid) and ready
        if ctx.get(dut.waits):
            oldest = self.arrived[0]
            assert ctx.get(dut.waiting_index) == oldest["command"]["index"]
            assert ctx.get(dut.request) == oldest["wait"]
            assert requests == (not halt and not self.owns)
        else:
            assert not requests
            assert not self.owns
        if started:
            for name, value in self.arrived[0]["command"].items():
                assert ctx.get(dut.cmd.payload[name]) == value

        self.posted = self.running.popleft() if done else None
        self.ended += done
        self.granted = requests and grant
        if started:
            self.running.append(self.arrived.popleft())
            self.started += 1
            self.owns = False
        if self.offered and ctx.get(dut.i.ready):
            self.arrived.append(self.offered)
            self.offered = None
        await ctx.tick()

    def run(self, process):
        simulate(self.dut, process)


def test_random(seed):
    """In order, each once; posts a cycle after done; nothing is left at the end."""
    rng = random.Random(seed)
    driver = QueueDriver(rng, depth=rng.choice((1, 3, 4)))

    async def process(ctx):
        for _ in range(30):
            driver.move = {name: rng.choice((0.1, 0.5, 0.9, 1)) for name in driver.move}
            driver.move["halt"] = rng.choice((0, 0, 0.3))
            for _ in range(60):
                await driver.cycle(ctx)
        driver.move = {"i": 0, "grant": 1, "cmd": 1, "done": 1, "halt": 0}
        for _ in range(60):
            await driver.cycle(ctx)
        assert ctx.get(driver.dut.idle)

    driver.run(process)
    assert driver.started == driver.ended == driver.count > 200


def test_depth():
    """``queue_depth`` commands are held, the one that starts next among them; a start in 3 cycles; 32 run at most."""
    driver = QueueDriver(random.Random(0), depth=3)

    async def process(ctx):
        driver.move = {"i": 1, "grant": 0, "cmd": 1, "done": 0, "halt": 0}
        for _ in range(20):
            await driver.cycle(ctx)
        assert len(driver.arrived) == 3
        driver.move["grant"] = 1
        await driver.cycle(ctx)
        for number in range(RUNNING):
            await driver.cycle(ctx)
            assert len(driver.running) == number + 1
            for _ in range(2):
                await driver.cycle(ctx)
        for _ in range(10):
            await driver.cycle(ctx)
        assert len(driver.running) == RUNNING
        assert len(driver.arrived) == 3

    driver.run(process)


def test_halt_holds():
    """A halt starts nothing, forgets nothing, and lets what runs end."""
    driver = QueueDriver(random.Random(0), depth=4)

    async def process(ctx):
        driver.move = {"i": 1, "grant": 1, "cmd": 1, "done": 0, "halt": 0}
        for _ in range(12):
            await driver.cycle(ctx)
        driver.move["halt"], started = 1, driver.started
        assert started > 2
        driver.move["done"] = 1
        for _ in range(20):
            await driver.cycle(ctx)
        assert (driver.started, driver.ended) == (started, started)
        driver.move["halt"] = 0
        for _ in range(30):
            await driver.cycle(ctx)
        assert driver.started >= started + 9

    driver.run(process)
