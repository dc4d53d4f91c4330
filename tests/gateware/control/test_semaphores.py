"""Semaphores against counters: random posts and takes of all engines in every cycle."""

import random
from collections import Counter

from lepton_npu.control.semaphores import SemaphoreFile
from lepton_npu.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Engine

from tests.gateware.simulation import kept, simulate


class SemaphoreDriver:
    """Sets all inputs for a cycle, and checks all outputs against ``counts``."""

    def __init__(self, rng: random.Random):
        self.dut, self.rng = kept(SemaphoreFile), rng
        self.counts = [0] * SEMAPHORES
        self.blamed: Engine | None = None  # for an overflow in the cycle before
        self.seen = Counter()

    async def cycle(self, ctx, requests: dict[Engine, int], posts: dict[Engine, int], take: float = 1.0) -> set[Engine]:
        """``requests``, ``posts``: masks by engine; a grant is used with probability ``take``. Returns who took."""
        dut, rng = self.dut, self.rng
        granted, claimed = set(), 0
        present = sum(1 << n for n, count in enumerate(self.counts) if count)
        for engine in Engine:
            asks = engine in requests
            ctx.set(dut.requests[engine], asks)
            # A mask means nothing without its request.
            ctx.set(dut.masks[engine], requests[engine] if asks else rng.getrandbits(SEMAPHORES))
            post = dut.posts[engine]
            index = rng.getrandbits(32)
            ctx.set(post.valid, engine in posts)
            ctx.set(post.mask, posts.get(engine, rng.getrandbits(SEMAPHORES)))
            ctx.set(post.index, index)
            if asks and not requests[engine] & ~present:
                if not requests[engine] & claimed:
                    granted.add(engine)
                claimed |= requests[engine]
        takes = {engine for engine in granted if rng.random() < take}
        for engine in Engine:
            ctx.set(dut.takes[engine], engine in takes)
        assert {engine for engine in Engine if ctx.get(dut.grants[engine])} == granted

        for number in range(SEMAPHORES):
            self.counts[number] -= sum(requests[engine] >> number & 1 for engine in takes)
            assert self.counts[number] >= 0
            self.counts[number] += sum(mask >> number & 1 for mask in posts.values())
        assert ctx.get(dut.overflow) == (self.blamed is not None)
        if self.blamed is not None:
            assert ctx.get(dut.overflow_engine) == self.blamed
        over = sum(1 << n for n, count in enumerate(self.counts) if count > SEMAPHORE_MAX)
        blamed = [engine for engine in Engine if posts.get(engine, 0) & over]
        self.blamed = blamed[0] if blamed else None
        self.seen.update(granted=len(granted), refused=len(requests) - len(granted), taken=len(takes))
        await ctx.tick()
        return takes

    def run(self, process):
        simulate(self.dut, process)


def mask_of(rng: random.Random, most: int = 3) -> int:
    return sum({1 << rng.randrange(SEMAPHORES) for _ in range(rng.randint(0, most))})


def test_random(seed):
    """Requests stay until they are taken; counts in balance, then all of them taken until nothing is left."""
    rng = random.Random(seed)
    driver = SemaphoreDriver(rng)

    async def process(ctx):
        requests: dict[Engine, int] = {}
        for _ in range(1000):
            for engine in Engine:
                if engine not in requests and rng.random() < 0.5:
                    requests[engine] = mask_of(rng)
            posts = {engine: mask_of(rng) for engine in Engine if rng.random() < 0.35}
            for engine in await driver.cycle(ctx, requests, posts, take=0.8):
                del requests[engine]
        while any(driver.counts):
            present = sum(1 << n for n, count in enumerate(driver.counts) if count)
            assert await driver.cycle(ctx, {rng.choice(list(Engine)): present}, {})
        assert not await driver.cycle(ctx, {engine: 1 << engine for engine in Engine}, {})

    driver.run(process)
    assert min(driver.seen.values()) > 300, driver.seen


def test_two_engines_wait_on_one():
    """One post starts one of them, the first in the order of `Engine`; the next post the other."""
    driver = SemaphoreDriver(random.Random(0))
    both = {Engine.MATMUL: 0b101, Engine.STORE: 0b001}

    async def process(ctx):
        assert not await driver.cycle(ctx, both, {Engine.LOAD: 0b001})
        assert not await driver.cycle(ctx, {Engine.MATMUL: 0b101}, {Engine.VECTOR: 0b100})
        assert await driver.cycle(ctx, both, {}) == {Engine.STORE}
        assert not await driver.cycle(ctx, both, {Engine.LOAD: 0b001})
        assert await driver.cycle(ctx, {Engine.MATMUL: 0b101}, {}) == {Engine.MATMUL}
        assert not any(driver.counts)

    driver.run(process)


def test_one_that_cannot_go_takes_nothing():
    """An engine whose other semaphore is missing does not keep the later ones from the one that it has."""
    driver = SemaphoreDriver(random.Random(0))

    async def process(ctx):
        await driver.cycle(ctx, {}, {Engine.LOAD: 0b01})
        assert await driver.cycle(ctx, {Engine.LOAD: 0b11, Engine.VECTOR: 0b01}, {}) == {Engine.VECTOR}

    driver.run(process)


def test_three_in_a_row():
    """One that yields to an earlier one is yielded to all the same; it goes in the next cycle."""
    driver = SemaphoreDriver(random.Random(0))
    requests = {Engine.LOAD: 0b01, Engine.QUANT: 0b11, Engine.VECTOR: 0b10}

    async def process(ctx):
        await driver.cycle(ctx, {}, {Engine.LOAD: 0b11})
        assert await driver.cycle(ctx, requests, {}) == {Engine.LOAD}
        del requests[Engine.LOAD]
        assert await driver.cycle(ctx, requests, {}) == {Engine.VECTOR}
        assert not any(driver.counts)

    driver.run(process)


def test_overflow():
    """At 255 a post is an overflow unless one is taken in the same cycle; reported a cycle later, with the engine."""
    driver = SemaphoreDriver(random.Random(0))

    async def process(ctx):
        while driver.counts[9] < SEMAPHORE_MAX:
            left = SEMAPHORE_MAX - driver.counts[9]
            await driver.cycle(ctx, {}, dict.fromkeys(list(Engine)[:left], 1 << 9))
        assert await driver.cycle(ctx, {Engine.LOAD: 1 << 9}, {Engine.VECTOR: 1 << 9}) == {Engine.LOAD}
        assert driver.counts[9] == SEMAPHORE_MAX
        await driver.cycle(ctx, {Engine.LOAD: 1 << 9}, {Engine.VECTOR: 1 << 9, Engine.QUANT: 1 << 9 | 1 << 3})
        assert driver.counts[9] == SEMAPHORE_MAX + 1
        assert driver.blamed == Engine.QUANT
        driver.counts[9] = 0
        await driver.cycle(ctx, {}, {})
        assert driver.blamed is None

    driver.run(process)
