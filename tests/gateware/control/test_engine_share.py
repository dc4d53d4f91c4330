"""Engine share with random contexts, engine, faults and resets, against what each context has asked for."""

import random
from collections import deque

import pytest
from lepton_npu.control.engine_share import RESET_CYCLES, EngineShare
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig

from tests.gateware.simulation import Pins, kept, simulate


class Engine:
    """An engine that takes up to three commands, ends them in order, and may fail or be busy on its bus."""

    def __init__(self, rng: random.Random, fails: float):
        self.rng, self.fails = rng, fails
        self.held: deque[int] = deque()
        self.failed = self.done = False
        self.bus = 0  # cycles until it is quiet

    def forget(self):
        self.held.clear()
        self.failed = self.done = False
        self.bus = 0

    def outputs(self) -> dict[str, int]:
        return {
            "ready": len(self.held) < 3 and not self.failed and self.rng.random() < 0.7,
            "done": self.done,
            "busy": bool(self.held),
            "fault": self.failed,
            "quiet": self.bus == 0,
        }

    def cycle(self, accepted: int | None, halt: bool):
        """The end of a cycle."""
        if self.done:
            self.held.popleft()
        self.done = False
        self.bus = max(self.bus - 1, 0)
        if accepted is not None:
            self.held.append(accepted)
        if self.held and not self.failed:
            roll = self.rng.random()
            if roll < self.fails and self.bus == 0:
                self.failed = True
            elif roll < 0.2:
                self.done = True
        if self.held and not halt and not self.failed:
            self.bus = max(self.bus, self.rng.choice((0, 0, 0, 5)))


class Job:
    """What a sequencer does with its port: commands ``first``, ``first + 1``, ... in order, again after a rewind."""

    def __init__(self, number: int, rng: random.Random, wish: float):
        self.number, self.rng, self.wish = number, rng, wish
        self.next = self.ended = 0
        self.offers = self.stopped = self.halt = False
        self.asked_for = self.reported = self.rewound = self.resets = 0

    def command(self, count: int) -> int:
        return self.number << 24 | count & 0xFFFFFF

    def offer(self):
        if not self.offers and not self.stopped and not self.halt:
            self.offers = self.rng.random() < self.wish


async def _run(ctx, dut, jobs, engine, rng, cycles, weights, resets):
    in_reset = 0
    row, last = 0, 0  # commands in a row of context ``last`` while others waited
    others_before = False
    for job, weight in zip(jobs, weights):
        ctx.set(dut.weights[job.number], weight)
    ports = [dut.contexts[job.number] for job in jobs]
    inputs = [signal for port in ports for signal in (port.cmd.valid, port.cmd.payload.index, port.halt)]
    unit = dut.engine
    pins = Pins(*inputs, unit.cmd.ready, unit.done, unit.busy, unit.quiet, unit.fault)
    for _ in range(cycles):
        values: list = []
        outputs = engine.outputs()
        for job in jobs:
            job.offer()
            values += [job.offers, job.command(job.next), job.halt]
        values += [outputs[name] for name in ("ready", "done", "busy", "quiet")]
        pins.set(ctx, *values, {"valid": outputs["fault"], "cause": FaultCause.LOCAL_RANGE, "index": 7})

        owner = ctx.get(dut.owner)
        reset = ctx.get(dut.engine_reset)
        halt = ctx.get(dut.engine.halt)
        # Whatever is in the engine is the owner's.
        assert all(command >> 24 == owner for command in engine.held)
        accepted = None
        for job in jobs:
            port = dut.contexts[job.number]
            ready = ctx.get(port.cmd.ready)
            assert not ready or job.number == owner
            assert ctx.get(port.done) == (outputs["done"] and job.number == owner)
            if ctx.get(port.quiet):
                assert job.number != owner or not engine.held
            if job.offers and ready:
                assert outputs["ready"]
                assert ctx.get(dut.engine.cmd.valid)
                accepted = job.command(job.next)
                assert ctx.get(dut.engine.cmd.payload.index) == accepted
            report = ctx.get(port.fault.valid)
            if report:
                assert job.number == owner
                assert engine.failed
                job.reported += 1
                job.stopped = True
            if ctx.get(port.rewind):
                assert job.number == owner
                assert not engine.held
                job.next, job.stopped = job.ended, False
                job.rewound += 1
        assert bool(ctx.get(dut.engine.cmd.valid) and outputs["ready"]) == (accepted is not None)
        if not others_before or last != owner:
            row, last = 0, owner
        if accepted is not None:
            job = jobs[owner]
            job.next, job.offers = job.next + 1, False
            row += others_before
            if others_before:
                assert row <= max(weights[owner], 1) + 1, f"{row} commands in a row of context {owner}"
        others_before = any(job.offers for job in jobs if job.number != owner)
        if outputs["done"]:
            jobs[owner].ended += 1
        if reset:
            assert outputs["quiet"] or in_reset, "the engine was reset while it was not quiet"
            in_reset += 1
            engine.forget()
        else:
            assert in_reset in (0, RESET_CYCLES)
            in_reset = 0
            engine.cycle(accepted, bool(halt))
        for job in jobs:
            if job.halt and ctx.get(dut.contexts[job.number].quiet):
                job.asked_for += 1
                if job.asked_for == 4:
                    # The context's own reset: it forgets everything.
                    assert not any(command >> 24 == job.number for command in engine.held)
                    job.halt = job.stopped = job.offers = False
                    job.next = job.ended = 0
                    job.resets += 1
            elif job.halt:
                job.asked_for = 0
            elif rng.random() < resets:
                job.halt, job.asked_for, job.offers = True, 0, False
        await ctx.tick()


@pytest.mark.parametrize("contexts", [1, 2, 4])
@pytest.mark.parametrize(("fails", "resets"), [(0.0, 0.0), (0.01, 0.0), (0.01, 0.004)])
def test_random(seed, contexts, fails, resets):
    rng = random.Random(seed ^ contexts << 8 ^ int(fails * 100) << 4 ^ int(resets * 1000))
    dut = kept(EngineShare, NpuConfig(contexts=contexts), Opcode.MATMUL)
    jobs = [Job(number, rng, rng.choice((0.05, 0.5, 1.0))) for number in range(contexts)]
    engine = Engine(rng, fails)
    weights = [rng.choice((0, 1, 2, 5)) for _ in jobs]
    cycles = 2000

    async def bench(ctx):
        await _run(ctx, dut, jobs, engine, rng, cycles, weights, resets)

    simulate(dut, bench)
    assert all(job.ended or job.resets for job in jobs), [job.ended for job in jobs]
    if fails:
        assert any(job.reported for job in jobs)
        assert all(job.rewound >= job.reported - (job.resets + 1) for job in jobs)


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), 1.0), ((1, 3), 3.0), ((2, 8), 4.0), ((0, 1), 1.0)])
def test_weights(weights, expected):
    """Two contexts that always want get commands in the ratio of their weights."""
    dut = kept(EngineShare, NpuConfig(contexts=2), Opcode.MATMUL)
    jobs = [Job(number, random.Random(1), 1.0) for number in range(2)]
    engine = Engine(random.Random(2), 0.0)

    async def bench(ctx):
        await _run(ctx, dut, jobs, engine, random.Random(3), 3000, weights, 0.0)

    simulate(dut, bench)
    ratio = jobs[1].ended / jobs[0].ended
    assert ratio == pytest.approx(expected, rel=0.05), [job.ended for job in jobs]


def test_alone_costs_nothing():
    """A context that nobody waits for has its commands accepted in the cycle in which it offers them."""
    dut = kept(EngineShare, NpuConfig(contexts=4), Opcode.MATMUL)

    async def bench(ctx):
        ctx.set(dut.engine.quiet, 1)
        ctx.set(dut.engine.cmd.ready, 1)
        # Not the owner yet: two cycles until it is.
        ctx.set(dut.contexts[2].cmd.valid, 1)
        cycles = 0
        while not ctx.get(dut.contexts[2].cmd.ready):
            await ctx.tick()
            cycles += 1
        assert cycles == 2
        for number in range(50):
            ctx.set(dut.contexts[2].cmd.valid, 1)
            assert ctx.get(dut.contexts[2].cmd.ready)
            assert ctx.get(dut.engine.cmd.valid)
            await ctx.tick()
            ctx.set(dut.contexts[2].cmd.valid, 0)
            ctx.set(dut.engine.done, 1)
            await ctx.tick()
            ctx.set(dut.engine.done, 0)
            await ctx.tick().repeat(1 + number % 3)

    simulate(dut, bench)


def test_stuck_context_holds_nobody_up():
    """A context with an engine, which runs and offers nothing, loses it to one that waits, whatever the weights."""
    dut = kept(EngineShare, NpuConfig(contexts=2), Opcode.MATMUL)

    async def bench(ctx):
        ctx.set(dut.weights[0], 255)
        ctx.set(dut.engine.quiet, 1)
        ctx.set(dut.engine.cmd.ready, 1)
        ctx.set(dut.contexts[0].cmd.valid, 1)
        await ctx.tick()
        ctx.set(dut.contexts[0].cmd.valid, 0)
        ctx.set(dut.contexts[1].cmd.valid, 1)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.owner) == 0  # its command runs
        assert ctx.get(dut.contexts[1].progress)  # and waiting for it is not hanging
        ctx.set(dut.engine.done, 1)
        await ctx.tick()
        ctx.set(dut.engine.done, 0)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.owner) == 1
        assert ctx.get(dut.contexts[1].cmd.ready)

    simulate(dut, bench)
