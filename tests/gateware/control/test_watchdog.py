"""Watchdog: when it looks, and whom it blames."""

import random

import pytest
from amaranth.sim import Simulator
from lepton_npu.control.watchdog import Watchdog
from lepton_npu.spec.commands import Engine

WAITING, RUNNING = 6, 5
LOOK = 3 * (WAITING + RUNNING)
"""Cycles in which all candidates have been looked at."""


def run(process) -> None:
    dog = Watchdog(waiting=WAITING, running=RUNNING)
    simulator = Simulator(dog)
    simulator.add_clock(1e-8)

    async def testbench(ctx):
        await process(ctx, dog)

    simulator.add_testbench(testbench)
    simulator.run()


def offer(ctx, dog: Watchdog, candidates: dict[int, tuple[int, Engine]]):
    """Set the candidates: number -> (index, engine)."""
    for number, entry in enumerate(dog.candidates):
        ctx.set(entry.valid, number in candidates)
        index, engine = candidates.get(number, (0, Engine.LOAD))
        ctx.set(entry.index, index & 0xFFFF_FFFF)
        ctx.set(entry.engine, engine)


async def wait_for_fault(ctx, dog: Watchdog, limit: int) -> tuple[int, int]:
    """Nothing moves from now on: (index, engine) that are blamed, after ``limit`` cycles and the look."""
    ctx.set(dog.work, 1)
    ctx.set(dog.progress, 0)
    for _ in range(limit):
        assert not ctx.get(dog.fault), "before the limit"
        await ctx.tick()
    for _ in range(LOOK + 2):
        if ctx.get(dog.fault):
            break
        await ctx.tick()
    blamed = ctx.get(dog.index), ctx.get(dog.engine)
    for _ in range(5):
        assert ctx.get(dog.fault), "it stays until reset"
        assert (ctx.get(dog.index), ctx.get(dog.engine)) == blamed
        await ctx.tick()
    return blamed


@pytest.mark.parametrize("head", [700, 5, 0xFFFF_FFFF])
def test_choice(seed, head):
    """The oldest that waits, else the oldest that runs, else the next record; whatever the count has wrapped to."""
    rng = random.Random(f"{seed} {head}")
    cases: list[dict[int, int]] = [{}]
    for _ in range(12):
        numbers = rng.sample(range(WAITING + RUNNING), rng.randint(1, WAITING + RUNNING))
        if rng.random() < 0.4:
            numbers = [number for number in numbers if number >= WAITING] or [WAITING]
        cases.append({number: rng.randint(1, 600) for number in numbers})

    for case in cases:
        engines = {number: rng.choice(list(Engine)) for number in case}
        candidates = {number: (head - age, engines[number]) for number, age in case.items()}
        waiting = {number: age for number, age in case.items() if number < WAITING}
        pool = waiting or case
        oldest = max(pool.values(), default=0)
        allowed = {((head - age) & 0xFFFF_FFFF, engines[n]) for n, age in pool.items() if age == oldest}

        async def process(ctx, dog, candidates=candidates, allowed=allowed or {(head, Engine.CONTROL)}):
            ctx.set(dog.limit, 7)
            ctx.set(dog.next_index, head)
            offer(ctx, dog, candidates)
            assert await wait_for_fault(ctx, dog, 7) in allowed

        run(process)


@pytest.mark.parametrize("age", [511, 512, 513, 1024, 1 << 16, (1 << 31) + 1])
def test_old_command(age):
    """A command may wait while any number of later ones run: its age has all bits of an index."""

    async def process(ctx, dog):
        ctx.set(dog.limit, 3)
        ctx.set(dog.next_index, 90)
        offer(ctx, dog, {1: (90 - age, Engine.LOAD), 4: (85, Engine.MATMUL)})
        assert await wait_for_fault(ctx, dog, 3) == ((90 - age) & 0xFFFF_FFFF, Engine.LOAD)

    run(process)


def test_counting(seed):
    """The limit counts cycles without progress in one go, only while there is work; 0 means never."""
    rng = random.Random(seed)

    async def process(ctx, dog):
        limit = 20
        ctx.set(dog.limit, limit)
        still = 0
        for _ in range(400):
            work, progress = rng.random() < 0.98, rng.random() < 0.05
            if still == limit - 1:  # one short of it
                work, progress = rng.choice(((0, 0), (1, 1), (0, 1)))
            still = still + 1 if work and not progress else 0
            ctx.set(dog.work, work)
            ctx.set(dog.progress, progress)
            assert not ctx.get(dog.fault)
            await ctx.tick()
        ctx.set(dog.limit, 0)
        ctx.set(dog.work, 1)
        ctx.set(dog.progress, 0)
        for _ in range(100):
            assert not ctx.get(dog.fault)
            await ctx.tick()
        ctx.set(dog.limit, limit)
        ctx.set(dog.next_index, 1234)
        assert await wait_for_fault(ctx, dog, limit) == (1234, Engine.CONTROL)

    run(process)
