"""Command queue with replay, before an engine that now and then forgets what it has: each command is done once."""

import random
from collections import deque

import pytest
from lepton_npu.control.queue import CommandQueue
from lepton_npu.spec.commands import SEMAPHORES, Opcode
from lepton_npu.spec.config import NpuConfig

from tests.gateware.simulation import kept, simulate

OUTSTANDING = 2
RUNNING = 15  # one less than the places for this number of bursts in flight


class ReplayDriver:
    """Commands are their index; the engine has the first ``given`` of ``running``, and what it may do next is known.

    ``starts`` and ``ends`` are the indices, in order; ``halted`` counts the cycles that are still halted. ``faulty``
    while halted: the engine ends nothing more, and will have forgotten all.
    """

    def __init__(self, rng: random.Random):
        config = NpuConfig(side=4, lanes=4, vmem_rows=64, acc_rows=32, tiles=16, outstanding=OUTSTANDING)
        self.dut, self.rng = kept(CommandQueue, config, Opcode.LOAD, replay=True), rng
        self.move = {"i": 0.5, "grant": 0.5, "cmd": 0.5, "done": 0.5, "rewind": 0.0, "fault": 0.8}
        self.waiting: deque[dict] = deque()
        self.running: deque[dict] = deque()
        self.offered: dict | None = None
        self.given = self.count = self.halted = self.rewinds = 0
        self.owns = self.rewound = self.faulty = self.rewind_now = False
        self.ended: dict | None = None
        self.starts: list[int] = []
        self.ends: list[int] = []

    def moves(self, name: str) -> bool:
        return self.rng.random() < self.move[name]

    def command(self) -> dict:
        rng, layout = self.rng, self.dut.cmd.payload.shape()
        fields = {name: rng.getrandbits(field.width) for name, field in layout if name != "index"}
        fields |= {name: fields[name] - (1 << 31) for name in ("stride",)}
        fields |= {name: fields[name] - (1 << 15) for name in ("local_stride",)}
        masks = {name: rng.getrandbits(SEMAPHORES) for name in ("wait", "post")}
        self.count += 1
        return {"command": fields | {"index": self.count - 1}, **masks}

    async def cycle(self, ctx):
        dut = self.dut
        if self.offered is None and self.moves("i"):
            self.offered = self.command()
        if not self.halted and self.moves("rewind"):
            self.halted, self.faulty = self.rng.randint(3, 60), self.moves("fault")
        halt, grant, ready = self.halted > 0, self.moves("grant"), self.moves("cmd")
        rewind = self.rewind_now or (self.halted > 1 and self.faulty and self.rng.random() < 0.1)
        # An engine that has a fault may have ended what came before it.
        done = not rewind and self.given > 0 and self.moves("done") and not (halt and self.faulty)
        ctx.set(dut.i.valid, self.offered is not None)
        if self.offered:
            ctx.set(dut.i.payload, self.offered)
        for name, value in (("grant", grant), ("done", done), ("halt", halt), ("rewind", rewind)):
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.cmd.ready, ready)

        assert ctx.get(dut.post.valid) == (self.ended is not None)
        if self.ended:
            assert ctx.get(dut.post.mask) == self.ended["post"]
            assert ctx.get(dut.post.index) == self.ended["command"]["index"]
        assert ctx.get(dut.idle) == (not self.waiting and not self.running and self.ended is None)
        assert ctx.get(dut.runs) == bool(self.running)
        assert self.rewound or ctx.get(dut.stopped) == (self.given == 0)
        asks = ctx.get(dut.requests)
        if asks:
            assert not self.owns
            assert not halt
            assert ctx.get(dut.request) == self.waiting[0]["wait"]
        started = ctx.get(dut.cmd.valid) and ready
        if ctx.get(dut.cmd.valid):
            again = self.given < len(self.running)
            assert not halt
            assert again or self.owns
            command = self.running[self.given] if again else self.waiting[0]
            for name, value in command["command"].items():
                assert ctx.get(dut.cmd.payload[name]) == value, name
            if started:
                self.starts.append(command["command"]["index"])
                self.given += 1
                if not again:
                    self.running.append(self.waiting.popleft())
                    self.owns = False
        assert len(self.running) <= RUNNING
        self.owns |= bool(asks and grant)
        self.ended = self.running.popleft() if done else None
        if self.ended:
            self.given -= 1
            self.ends.append(self.ended["command"]["index"])
        self.rewound = rewind
        if rewind:
            self.rewinds += self.given > 0
            self.given = 0
        if self.offered and ctx.get(dut.i.ready):
            self.waiting.append(self.offered)
            self.offered = None
        self.halted -= halt
        await ctx.tick()

    async def finish(self, ctx):
        """All that came is done once, in order."""
        self.move = {"i": 0, "grant": 1, "cmd": 1, "done": 1, "rewind": 0, "fault": 0}
        for _ in range(200):
            await self.cycle(ctx)
        assert ctx.get(self.dut.idle)
        assert self.ends == list(range(self.count))

    def run(self, process):
        simulate(self.dut, process)


def test_random(seed):
    """Rewinds at any time, several before a replay has ended; ends during one; a new command only behind it."""
    rng = random.Random(seed)
    driver = ReplayDriver(rng)

    async def process(ctx):
        for _ in range(40):
            driver.move = {name: rng.choice((0.1, 0.5, 0.9, 1)) for name in driver.move} | {"fault": 0.8}
            driver.move["rewind"] = rng.choice((0, 0.05, 0.2))
            for _ in range(60):
                await driver.cycle(ctx)
        await driver.finish(ctx)

    driver.run(process)
    assert driver.count > 150
    assert driver.rewinds > 5
    assert len(driver.starts) > driver.count + 10


@pytest.mark.parametrize("grant", [False, True])
@pytest.mark.parametrize("running", [1, 2, RUNNING])
def test_rewind(running, grant):
    """Those that ran start again in 2 cycles each; the one that waited goes on, with its semaphores if it had them."""
    driver = ReplayDriver(random.Random(0))

    async def process(ctx):
        driver.move = {"i": 1, "grant": 1, "cmd": 1, "done": 0, "rewind": 0, "fault": 0}
        while len(driver.starts) < running:
            await driver.cycle(ctx)
        driver.move |= {"cmd": 0, "grant": grant}
        for _ in range(6):
            await driver.cycle(ctx)
        assert driver.owns == (grant and running < RUNNING)
        driver.starts.clear()
        driver.halted, driver.rewind_now = 8, True
        await driver.cycle(ctx)
        driver.rewind_now = False
        while driver.halted:
            await driver.cycle(ctx)
        driver.move["cmd"] = 1
        while len(driver.starts) < running:
            before = len(driver.starts)
            for _ in range(2):
                await driver.cycle(ctx)
            assert len(driver.starts) <= before + 1
        assert driver.starts == list(range(running))
        await driver.finish(ctx)

    driver.run(process)
