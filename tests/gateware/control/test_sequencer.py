"""Sequencer: random programs with semaphores and fences, order, timing, every fault of its own."""

import random
from itertools import pairwise

import pytest
from lepton_npu.spec.commands import COMMANDS, SEMAPHORE_MAX, SEMAPHORES, Engine, FaultCause, Opcode
from lepton_npu.spec.config import RECORD_BYTES

from tests.gateware.control.sequencer_bench import BASE, ENGINES, RING_LOG2, SequencerDriver, record

OPCODES = list(Opcode)


def random_program(rng: random.Random, count: int) -> list[bytes]:
    """A program that ends: a command waits only for what earlier ones post, and each semaphore has one engine."""
    owner = [rng.choice(list(Engine)) for _ in range(SEMAPHORES)]
    counts = [0] * SEMAPHORES
    program = []
    for _ in range(count):
        opcode = rng.choices(OPCODES, [1 if COMMANDS[o].engine == Engine.CONTROL else 3 for o in OPCODES])[0]
        engine = COMMANDS[opcode].engine
        ready = [n for n in range(SEMAPHORES) if counts[n] and owner[n] == engine]
        wait = sum(1 << n for n in ready if rng.random() < 0.7)
        post = sum(1 << n for n in range(SEMAPHORES) if counts[n] < 100 and rng.random() < 0.15)
        for number in range(SEMAPHORES):
            counts[number] += (post >> number & 1) - (wait >> number & 1)
        program.append(record(rng, opcode, wait, post))
    return program


@pytest.mark.parametrize("case", range(4))
def test_random_program(seed, case):
    """Whatever stalls: in order, semaphores taken when they are there, fences wait, all ends, tags in order."""
    rng = random.Random(f"{seed} {case}")
    program = random_program(rng, 70)
    driver = SequencerDriver(program, rng)

    async def process(ctx):
        while len(driver.acted) < len(program):
            assert driver.cycles < 9000
            if driver.cycles % 80 == 0:
                driver.move = {name: rng.choice((0.05, 0.3, 1)) for name in driver.move}
                driver.latency, driver.in_flight = rng.choice((1, 15)), rng.randint(1, 4)
            await driver.cycle(ctx)
        await driver.finish(ctx)

    driver.run(process)
    opcode, body = Opcode.IRQ, COMMANDS[Opcode.IRQ]
    assert driver.tags == [body.unpack(item)["tag"] for item in program if item[0] == opcode]


def test_rate_and_start():
    """Without stalls a command every 3 cycles; it starts 4 cycles after its record has been taken."""
    rng = random.Random(0)
    program = [record(rng, Opcode.VECTOR) for _ in range(12)]
    driver = SequencerDriver(program, rng)
    driver.run(driver.finish)
    starts = [cycle for cycle, _ in driver.started[Engine.VECTOR]]
    acted = [cycle for cycle, _ in driver.acted]
    assert {later - earlier for earlier, later in pairwise(acted)} == {3}, acted
    assert {start - taken for start, taken in zip(starts, driver.taken, strict=True)} == {4}


def test_start_after_post():
    """A command that waits starts 2 cycles after the done that posts its semaphore."""
    rng = random.Random(0)
    program = [record(rng, Opcode.LOAD, post=1 << 4), record(rng, Opcode.MATMUL, wait=1 << 4)]
    driver = SequencerDriver(program, rng)

    async def process(ctx):
        driver.move["done"] = 0
        for _ in range(40):
            await driver.cycle(ctx)
        assert driver.started[Engine.LOAD]
        assert not driver.started[Engine.MATMUL]
        driver.move["done"] = 1
        await driver.finish(ctx)

    driver.run(process)
    assert driver.started[Engine.MATMUL][0][0] - driver.ended[Engine.LOAD][0][0] == 2


@pytest.mark.parametrize("kind", ["opcode", "field", "fetch"])
def test_bad_record(kind):
    """It is blamed with its index; the commands before it end, it and those after it do nothing."""
    rng = random.Random(kind)
    program = [record(rng, Opcode.LOAD) for _ in range(8)]
    driver = SequencerDriver(program, rng)
    cause, address = FaultCause.BUS_FETCH, BASE + 5 * RECORD_BYTES
    if kind == "fetch":
        driver.bad_record = 5
    else:
        cause, address = FaultCause.ILLEGAL_OPCODE if kind == "opcode" else FaultCause.ILLEGAL_FIELD, 0
        program[5] = bytes([0 if kind == "opcode" else Opcode.NOP, *bytes(RECORD_BYTES - 2), 1])

    async def process(ctx):
        assert await driver.until_fault(ctx) == (cause, Engine.CONTROL, 5, address)
        assert len(driver.acted) == 5

    driver.run(process)
    assert [index for _, index in driver.ended[Engine.LOAD]] == [index for _, index in driver.started[Engine.LOAD]]


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_fault(engine):
    """The engine's report is kept, every engine is told to halt, nothing starts, what runs elsewhere may end."""
    rng = random.Random(engine)
    opcodes = [opcode for opcode in Opcode if COMMANDS[opcode].engine != Engine.CONTROL]
    driver = SequencerDriver([record(rng, opcode) for opcode in opcodes * 3], rng)
    driver.move["done"], driver.in_flight = 0, 1

    async def process(ctx):
        await driver.until(ctx, lambda: all(driver.started.values()))
        fault = driver.port(engine).fault
        ctx.set(fault, {"valid": 1, "cause": FaultCause.LOCAL_RANGE, "index": 77, "address": (1 << 64) - 5})
        await driver.cycle(ctx)
        # Only the first cycle's content counts.
        ctx.set(fault, {"valid": 1, "cause": FaultCause.BUS_READ, "index": 78, "address": 6})
        driver.move["done"] = 1
        found = await driver.until_fault(ctx)
        assert found == (FaultCause.LOCAL_RANGE, engine, 77, (1 << 64) - 5)

    driver.run(process)
    assert all(len(driver.ended[other]) == 1 for other in ENGINES)


def test_overflow():
    """The command whose post is one too many is blamed, with its engine."""
    rng = random.Random(0)
    program = [record(rng, Opcode.NOP, post=1)] * SEMAPHORE_MAX + [record(rng, Opcode.QUANT, post=1 | 2)] * 2
    driver = SequencerDriver(program, rng)

    async def process(ctx):
        found = await driver.until_fault(ctx)
        assert found == (FaultCause.SEMAPHORE_OVERFLOW, Engine.QUANT, SEMAPHORE_MAX, 0)

    driver.run(process)


@pytest.mark.parametrize("over", [0, 1, 5])
def test_ring_overrun(over):
    """A tail more than the ring's size ahead of the head is a fault, with the head; exactly its size is not."""
    rng = random.Random(0)
    driver = SequencerDriver([record(rng, Opcode.NOP)] * 6, rng)

    async def process(ctx):
        driver.move["ar"] = 0
        ctx.set(driver.dut.tail, (1 << RING_LOG2) + over)
        if over:
            assert await driver.until_fault(ctx) == (FaultCause.RING_OVERRUN, Engine.CONTROL, 0, 0)
        else:
            for _ in range(40):
                await driver.cycle(ctx)
            assert not ctx.get(driver.dut.fault.valid)

    driver.run(process)


@pytest.mark.parametrize("opcode", [Opcode.MATMUL, Opcode.NOP, Opcode.FENCE])
def test_watchdog(opcode):
    """A semaphore that nobody posts: the command that waits for it is blamed; a program that moves is not."""
    rng = random.Random(opcode)
    program = [record(rng, Opcode.LOAD) for _ in range(4)] + [record(rng, opcode, wait=1 << 15)]
    program += [record(rng, Opcode.STORE)]
    driver = SequencerDriver(program, rng)
    driver.move["done"] = 0.05
    limit = 150

    async def process(ctx):
        found = await driver.until_fault(ctx)
        assert found == (FaultCause.WATCHDOG, COMMANDS[opcode].engine, 4, 0)
        ends = [cycle for done in driver.ended.values() for cycle, _ in done]
        assert driver.cycles - 40 > max(ends) + limit

    driver.run(process, watchdog=limit)


def test_resetting_and_enable():
    """Nothing starts while it is resetting, and nothing is fetched while it is not enabled."""
    rng = random.Random(0)
    driver = SequencerDriver([record(rng, Opcode.LOAD, post=1) for _ in range(20)], rng)

    async def process(ctx):
        await driver.until(ctx, lambda: len(driver.started[Engine.LOAD]) == 4)
        ctx.set(driver.dut.resetting, 1)
        await driver.cycle(ctx)
        started, acted = len(driver.started[Engine.LOAD]), len(driver.acted)
        for _ in range(40):
            await driver.cycle(ctx)
        assert (started, acted) == (len(driver.started[Engine.LOAD]), len(driver.acted))
        ctx.set(driver.dut.resetting, 0)
        ctx.set(driver.dut.enable, 0)
        for _ in range(40):
            await driver.cycle(ctx)
        # What was fetched before still runs.
        assert len(driver.started[Engine.LOAD]) <= started + 4
        assert not driver.pending
        ctx.set(driver.dut.enable, 1)
        await driver.finish(ctx)

    driver.run(process)
