"""Sequencer: faults that are resumed, and those that cannot be: nothing is lost, nothing is done twice."""

import random

import pytest
from lepton_npu.control.sequencer import REPLAYS
from lepton_npu.spec.commands import COMMANDS, SEMAPHORE_MAX, Engine, FaultCause, Opcode
from lepton_npu.spec.config import RECORD_BYTES
from lepton_npu.spec.translation import Access

from tests.gateware.control.sequencer_bench import BASE, ENGINES, SequencerDriver, body_address, record
from tests.gateware.control.test_sequencer import NOP, RandomProgram, repeat
from tests.gateware.simulation import Pins

CAUSES = {
    Engine.LOAD: (FaultCause.BUS_READ, FaultCause.PAGE_READ, FaultCause.ACCESS_READ),
    Engine.STORE: (FaultCause.BUS_WRITE, FaultCause.PAGE_WRITE, FaultCause.ACCESS_WRITE),
}
ACCESS = {Engine.LOAD: Access.READ, Engine.STORE: Access.WRITE, Engine.CONTROL: Access.FETCH}
Report = tuple[FaultCause, Engine, int, int]
"""Cause, engine, index, address."""


class ResumeDriver(SequencerDriver):
    """Engines and a memory with faults, and a host that resumes after each.

    An engine with a fault does nothing until it has been reset, ``dead`` cycles later; it has then forgotten all.
    ``chance`` is that of LOAD and STORE to fail instead of ending a command, and a quarter of it that of each beat of a
    record to have an error response. ``reports`` are the faults that were seen, each the first of those that were made.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.chance = 0.0
        self.patience = 0.2  # chance of a resume in a cycle that allows one
        self.dead: dict[Engine, int] = {}
        self.planned: dict[Engine, Report] = {}  # faults to be reported in the next cycle
        self.made: list[Report] = []  # reports of engines since the last resume, while there was no fault
        self.reports: list[Report] = []
        self.resumes = self.dropped = 0
        self.auto, self.insists, self.resumed = True, False, False
        ports = [self.port(engine) for engine in ENGINES]
        self.fault_pins = Pins(*(signal for port in ports for signal in (port.fault, port.rewind)), self.dut.resume)

    def takes(self, engine: Engine) -> bool:
        return engine not in self.dead and super().takes(engine)

    def ends(self, engine: Engine) -> bool:
        if engine in self.dead or not super().ends(engine):
            return False
        if engine in REPLAYS and self.rng.random() < self.chance:
            self.fail(engine, self.rng.choice(CAUSES[engine]))
            return False
        return True

    def read_fails(self, address: int) -> bool:
        return super().read_fails(address) or self.rng.random() < self.chance / 4

    def fail(self, engine: Engine, cause: FaultCause):
        """Let the oldest command of an engine fail: it reports that in the next cycle."""
        self.planned[engine] = (cause, engine, self.running[engine][0], self.rng.getrandbits(64))
        self.dead[engine] = self.rng.randint(3, 30)

    def report(self, ctx) -> Report:
        fault = self.dut.fault
        values = (ctx.get(fault.cause), ctx.get(self.dut.fault_engine), ctx.get(fault.index), ctx.get(fault.address))
        return (FaultCause(values[0]), Engine(values[1]), *values[2:])

    async def cycle(self, ctx):
        dut, resume, pins = self.dut, False, []
        halt = bool(ctx.get(dut.halt))
        faulty = bool(ctx.get(dut.fault.valid)) and not self.resumed  # for one cycle more
        assert not ctx.get(dut.resumable) or ctx.get(dut.fault.valid)
        for engine in ENGINES:
            planned = self.planned.pop(engine, None)
            names = ("cause", "engine", "index", "address")
            values = dict(zip(names, planned or (0, 0, self.rng.getrandbits(32), 0), strict=True))
            values.pop("engine")
            pins.append({"valid": planned is not None, **values})
            if planned and not halt:
                self.made.append(planned)
            self.dropped += planned is not None and halt
            rewinds = self.dead.get(engine) == 1
            if engine in self.dead:
                self.dead[engine] -= 1
            pins.append(rewinds)
            if rewinds:
                del self.dead[engine]
                self.again |= set(self.running[engine])
                self.running[engine].clear()
        if faulty:
            if len(self.reports) == self.resumes:
                self.reports.append(self.report(ctx))
                if self.reports[-1][1] != Engine.CONTROL:
                    assert self.reports[-1] == self.made[0], "not the first"
            assert self.report(ctx) == self.reports[-1]
            assert halt
            if ctx.get(dut.resumable):
                assert ctx.get(dut.stopped)
                assert not any(self.running.values())
                assert not self.dead
                assert not self.pending
                assert ctx.get(dut.fault_access) == ACCESS[self.reports[-1][1]]
                resume = self.auto and self.rng.random() < self.patience
        # Without a fault a resume means nothing.
        self.fault_pins.set(ctx, *pins, resume or self.insists or (not faulty and self.rng.random() < 0.1))
        before = (len(self.acted), sum(map(len, self.started.values())), len(self.again))
        await super().cycle(ctx)
        after = (len(self.acted), sum(map(len, self.started.values())), len(self.again))
        assert not faulty or after == before, "began with a fault"
        assert self.fault_events == len(self.reports) or not faulty
        self.resumed = resume
        if resume:
            self.resumes += 1
            self.made.clear()

    async def resume(self, ctx):
        """Wait until it can be resumed, and do."""
        await self.until(ctx, lambda: ctx.get(self.dut.resumable), 300)
        self.auto, self.patience, before = True, 1, self.resumes
        await self.until(ctx, lambda: self.resumes > before, 5)
        self.auto = False
        for _ in range(2):
            await self.cycle(ctx)

    async def refuses(self, ctx, cycles: int = 120):
        """It cannot be resumed; to try has no effect."""
        before = self.report(ctx)
        self.auto, self.insists = False, True
        for _ in range(cycles):
            await self.cycle(ctx)
            assert ctx.get(self.dut.fault.valid)
            assert not ctx.get(self.dut.resumable)
        assert self.report(ctx) == before


@pytest.mark.parametrize("case", range(4))
def test_random_program(seed, case):
    """Programs with faults of LOAD, STORE and the fetch end as they do without, if each is resumed."""
    rng = random.Random(f"{seed} {case}")
    program = RandomProgram(rng, 60, 0.0 if case < 2 else 0.15)
    driver = ResumeDriver(program.records, rng, program.bodies)

    async def process(ctx):
        while len(driver.acted) < len(driver.steps):
            assert driver.cycles < 20000
            if driver.cycles % 80 == 0:
                driver.move = {name: rng.choice((0.1, 0.4, 1)) for name in driver.move}
                driver.latency, driver.in_flight = rng.choice((1, 15)), rng.randint(1, 6)
                driver.chance, driver.patience = rng.choice((0.1, 0.4)), rng.choice((0.05, 1))
            await driver.cycle(ctx)
        driver.chance = 0
        await driver.finish(ctx)

    driver.run(process)
    assert driver.tags == [
        COMMANDS[Opcode.IRQ].unpack(s.record)["tag"] for s in driver.steps if s.record[0] == Opcode.IRQ
    ]
    assert {engine for _, engine, *_ in driver.reports} & set(REPLAYS)


@pytest.mark.parametrize("engine", REPLAYS)
def test_engine(engine):
    """One fault after another: all its commands start again, in order; those of other engines end before the resume."""
    rng = random.Random(engine)
    opcodes = [opcode for opcode in Opcode if COMMANDS[opcode].engine != Engine.CONTROL]
    driver = ResumeDriver([record(rng, opcode) for opcode in opcodes * 3], rng)
    driver.move["done"], driver.in_flight, driver.auto = 0, 2, False

    async def process(ctx):
        await driver.until(ctx, lambda: all(len(started) == 2 for started in driver.started.values()))
        for turn, cause in enumerate(CAUSES[engine], 1):
            before = list(driver.running[engine])
            driver.fail(engine, cause)
            driver.move["done"] = 1
            await driver.until(ctx, lambda: ctx.get(driver.dut.resumable), 300)
            assert driver.again == set(before)
            assert not any(driver.running.values())
            driver.move["done"] = 0
            await driver.resume(ctx)
            await driver.until(ctx, lambda n=len(before): len(driver.running[engine]) == n, 20)
            assert list(driver.running[engine]) == before
            assert len(driver.reports) == turn
        driver.move["done"] = 1
        await driver.finish(ctx)

    driver.run(process)
    assert len(driver.ended[engine]) == 3 * sum(COMMANDS[opcode].engine == engine for opcode in opcodes)


@pytest.mark.parametrize(("first", "delay"), [(Engine.LOAD, 1), (Engine.STORE, 0), (Engine.STORE, 3)])
def test_two_engines(first, delay):
    """LOAD and STORE fail before the resume: the first is reported, both start again."""
    rng = random.Random(delay)
    driver = ResumeDriver([record(rng, opcode) for opcode in (Opcode.LOAD, Opcode.STORE) * 4], rng)
    driver.move["done"], driver.in_flight, driver.auto = 0, 3, False
    second = next(engine for engine in REPLAYS if engine != first)

    async def process(ctx):
        await driver.until(ctx, lambda: all(len(driver.running[engine]) == 3 for engine in REPLAYS))
        driver.fail(first, CAUSES[first][0])
        for _ in range(delay):
            await driver.cycle(ctx)
        driver.fail(second, CAUSES[second][1])
        await driver.resume(ctx)
        assert driver.reports[0][1] == (first if delay else Engine.LOAD)
        await driver.until(ctx, lambda: all(len(driver.running[engine]) == 3 for engine in REPLAYS), 30)
        driver.move["done"] = 1
        await driver.finish(ctx)

    driver.run(process)
    assert len(driver.reports) == 1


@pytest.mark.parametrize("place", ["ring", "body", "repeat"])
def test_fetch(place):
    """A record that cannot be read at first: commands before it end, and it runs once; its REPEAT posts once."""
    rng, times = random.Random(0), 2
    looped = repeat(2, 3, post=1)
    bad = {"ring": BASE + 5 * RECORD_BYTES, "body": body_address(0) + RECORD_BYTES, "repeat": BASE + RECORD_BYTES}[
        place
    ]
    body = [record(rng, Opcode.LOAD), record(rng, Opcode.STORE)]
    rest = [record(rng, opcode) for opcode in (Opcode.QUANT, Opcode.LOAD, Opcode.VECTOR, Opcode.NOP)]
    driver = ResumeDriver([NOP, looped, record(rng, Opcode.MATMUL, wait=1), *rest], rng, [body])
    driver.bad_address, driver.auto = bad, False
    index = {"ring": 2 + 6 + 3, "body": 3, "repeat": 1}[place]

    async def process(ctx):
        for turn in range(times):
            await driver.until(ctx, lambda: ctx.get(driver.dut.fault.valid))
            await driver.until(ctx, lambda: ctx.get(driver.dut.resumable), 200)
            assert driver.reports == [(FaultCause.BUS_FETCH, Engine.CONTROL, index, bad)] * (turn + 1)
            if turn == times - 1:
                driver.bad_address = None
            await driver.resume(ctx)
        await driver.finish(ctx)

    driver.run(process)


def test_record_that_was_bad_before_the_resume():
    """An illegal record behind a LOAD that fails is reported after the resume, and then nothing can be resumed."""
    rng = random.Random(0)
    driver = ResumeDriver([record(rng, Opcode.LOAD), NOP, bytes(RECORD_BYTES), NOP], rng)
    driver.auto = False

    async def process(ctx):
        driver.move["done"] = 0
        await driver.until(ctx, lambda: len(driver.acted) == 2)
        driver.fail(Engine.LOAD, FaultCause.PAGE_READ)
        await driver.resume(ctx)
        await driver.until(ctx, lambda: ctx.get(driver.dut.fault.valid), 20)
        await driver.refuses(ctx)

    driver.run(process)
    assert [report[:3] for report in driver.reports] == [
        (FaultCause.PAGE_READ, Engine.LOAD, 0),
        (FaultCause.ILLEGAL_OPCODE, Engine.CONTROL, 2),
    ]


@pytest.mark.parametrize(
    ("engine", "cause"),
    [
        (Engine.LOAD, FaultCause.LOCAL_RANGE),
        (Engine.STORE, FaultCause.MISALIGNED),
        (Engine.STORE, FaultCause.ADDRESS_RANGE),
    ],
)
def test_program_error(engine, cause):
    """What the program has done wrong is not resumed."""
    rng = random.Random(0)
    driver = ResumeDriver([record(rng, opcode) for opcode in (Opcode.LOAD, Opcode.STORE)], rng)
    driver.move["done"] = 0

    async def process(ctx):
        await driver.until(ctx, lambda: len(driver.running[engine]) == 1)
        driver.fail(engine, cause)
        await driver.until(ctx, lambda: ctx.get(driver.dut.fault.valid))
        driver.move["done"] = 1
        await driver.refuses(ctx)
        assert ctx.get(driver.dut.stopped)

    driver.run(process)


@pytest.mark.parametrize(
    ("engine", "delay"),
    [(Engine.QUANT, None), (Engine.MATMUL, 0), (Engine.QUANT, 1), (Engine.VECTOR, 2), (Engine.MATMUL, 15)],
)
def test_engine_without_replay(engine, delay):
    """Its fault, alone, beside one of LOAD, or while halted for one: nothing can be resumed any more."""
    rng = random.Random(0)
    opcodes = [opcode for opcode in Opcode if COMMANDS[opcode].engine != Engine.CONTROL]
    driver = ResumeDriver([record(rng, opcode) for opcode in opcodes], rng)
    driver.move["done"] = 0

    async def process(ctx):
        await driver.until(ctx, lambda: all(driver.started.values()))
        if delay is not None:
            driver.fail(Engine.LOAD, FaultCause.PAGE_READ)
            for _ in range(delay):
                await driver.cycle(ctx)
        driver.fail(engine, FaultCause.LOCAL_RANGE)
        await driver.until(ctx, lambda: ctx.get(driver.dut.fault.valid), 20)
        driver.move["done"] = 1
        await driver.refuses(ctx)

    driver.run(process)
    assert driver.reports[0][1] == (engine if delay is None else Engine.LOAD)


def test_overflow_while_halted():
    """A command that ends while halted and posts one too many: its fault is not seen, but nothing can be resumed."""
    rng = random.Random(0)
    posts = [record(rng, Opcode.NOP, post=1)] * SEMAPHORE_MAX
    driver = ResumeDriver([record(rng, Opcode.LOAD), record(rng, Opcode.VECTOR, post=1), *posts], rng)
    driver.move["done"] = 0

    async def process(ctx):
        await driver.until(ctx, lambda: len(driver.acted) == len(driver.steps), 4000)
        for _ in range(10):
            await driver.cycle(ctx)
        driver.fail(Engine.LOAD, FaultCause.BUS_READ)
        await driver.until(ctx, lambda: ctx.get(driver.dut.fault.valid), 20)
        driver.move["done"] = 1
        await driver.refuses(ctx)

    driver.run(process)
    assert driver.reports[0][:2] == (FaultCause.BUS_READ, Engine.LOAD)


@pytest.mark.parametrize("delay", [0, 10, 20, 30, 40])
def test_watchdog_counts_anew(delay):
    """A fault while the watchdog counts, or looks for the command to blame: after a resume it counts from 0."""
    rng = random.Random(0)
    driver = ResumeDriver([record(rng, Opcode.LOAD), record(rng, Opcode.LOAD)], rng)
    driver.move["done"], driver.auto, limit = 0, False, 20

    async def process(ctx):
        await driver.until(ctx, lambda: len(driver.running[Engine.LOAD]) == 2)
        for _ in range(limit - 10 + delay):
            await driver.cycle(ctx)
        assert not ctx.get(driver.dut.fault.valid)
        driver.fail(Engine.LOAD, FaultCause.PAGE_READ)
        await driver.resume(ctx)
        for _ in range(limit - 5):
            await driver.cycle(ctx)
            assert not ctx.get(driver.dut.fault.valid)
        driver.move["done"] = 1
        await driver.finish(ctx)

    driver.run(process, watchdog=limit)
