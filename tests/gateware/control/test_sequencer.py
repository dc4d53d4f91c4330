"""Sequencer: random programs with semaphores and fences, order, timing, every fault of its own."""

import random
from itertools import pairwise

import pytest
from lepton_npu.spec.commands import COMMANDS, SEMAPHORE_MAX, SEMAPHORES, Engine, FaultCause, Opcode
from lepton_npu.spec.config import RECORD_BYTES

from tests.gateware.control.sequencer_bench import (
    BASE,
    ENGINES,
    RING_LOG2,
    SequencerDriver,
    body_address,
    record,
)

OPCODES = [opcode for opcode in Opcode if opcode != Opcode.REPEAT]


class RandomProgram:
    """A program that ends: a command waits only for what earlier ones post, and each semaphore has one engine.

    Commands of a body wait for what earlier ones of the same round post.
    """

    def __init__(self, rng: random.Random, count: int, loops: float = 0.0):
        self.rng = rng
        self.owner = [rng.choice(list(Engine)) for _ in range(SEMAPHORES)]
        self.bodies: list[list[bytes]] = []
        self.records: list[bytes] = []
        counts = [0] * SEMAPHORES
        while len(self.records) < count:
            self.records += self.loop(counts) if rng.random() < loops else [self.command(counts, 100)]

    def masks(self, counts: list[int], limit: int, engine: Engine) -> tuple[int, int]:
        rng = self.rng
        ready = [n for n in range(SEMAPHORES) if counts[n] and self.owner[n] == engine]
        wait = sum(1 << n for n in ready if rng.random() < 0.7)
        post = sum(1 << n for n in range(SEMAPHORES) if counts[n] < limit and rng.random() < 0.15)
        for number in range(SEMAPHORES):
            counts[number] += (post >> number & 1) - (wait >> number & 1)
        return wait, post

    def command(self, counts: list[int], limit: int) -> bytes:
        opcode = self.rng.choices(OPCODES, [1 if COMMANDS[o].engine == Engine.CONTROL else 3 for o in OPCODES])[0]
        return record(self.rng, opcode, *self.masks(counts, limit, COMMANDS[opcode].engine))

    def loop(self, counts: list[int]) -> list[bytes]:
        """A REPEAT with a new body; often with its address, or a part of it, in a register."""
        rng, rounds = self.rng, self.rng.choice((1, 1, 2, 3, 6))
        wait, _ = self.masks(counts, 0, Engine.CONTROL)
        before = [0] * SEMAPHORES
        body = [self.command(before, 4) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
        post = rng.getrandbits(16) & rng.getrandbits(16) & rng.getrandbits(16)
        for number in range(SEMAPHORES):
            counts[number] += rounds * before[number] + (post >> number & 1)
            if counts[number] >= 150:
                post &= ~(1 << number)
        address, base, register = body_address(len(self.bodies)), 0, []
        self.bodies.append(body)
        if rng.random() < 0.6:
            base, value = rng.randint(1, 7), rng.getrandbits(64)
            register = [COMMANDS[Opcode.ADDRESS].pack(number=base, value=value)]
            address = (address - value) % (1 << 64)
        fields = {"base": base, "address": address, "records": len(body), "count": rounds}
        return [*register, COMMANDS[Opcode.REPEAT].pack(**fields, wait=wait, post=post)]


@pytest.mark.parametrize("case", range(8))
def test_random_program(seed, case):
    """Whatever stalls: in order, semaphores taken when they are there, fences wait, all ends, tags in order.

    Half of the programs have loops; every LOAD and STORE starts with its address.
    """
    rng = random.Random(f"{seed} {case}")
    program = RandomProgram(rng, 70, 0.0 if case < 4 else 0.15)
    driver = SequencerDriver(program.records, rng, program.bodies)

    async def process(ctx):
        while len(driver.acted) < len(driver.steps):
            assert driver.cycles < 12000
            if driver.cycles % 80 == 0:
                driver.move = {name: rng.choice((0.05, 0.3, 1)) for name in driver.move}
                driver.latency, driver.in_flight = rng.choice((1, 15)), rng.randint(1, 4)
            await driver.cycle(ctx)
        await driver.finish(ctx)

    driver.run(process)
    opcode, body = Opcode.IRQ, COMMANDS[Opcode.IRQ]
    assert driver.tags == [body.unpack(item)["tag"] for item, *_ in driver.steps if item[0] == opcode]


def test_rate_and_start():
    """Without stalls a command every 3 cycles; it starts 5 cycles after its record has been taken."""
    rng = random.Random(0)
    program = [record(rng, Opcode.VECTOR) for _ in range(12)]
    driver = SequencerDriver(program, rng)
    driver.run(driver.finish)
    starts = [cycle for cycle, _ in driver.started[Engine.VECTOR]]
    acted = [cycle for cycle, _ in driver.acted]
    assert {later - earlier for earlier, later in pairwise(acted)} == {3}, acted
    assert {start - taken for start, taken in zip(starts, driver.taken, strict=True)} == {5}


def test_start_after_post():
    """A command that waits starts 3 cycles after the done that posts its semaphore."""
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
    assert driver.started[Engine.MATMUL][0][0] - driver.ended[Engine.LOAD][0][0] == 3


@pytest.mark.parametrize("delay", range(12))
def test_two_wait_on_one(delay):
    """One post starts one of two commands that wait for it, whenever the second one comes; the next post the other."""
    rng = random.Random(0)
    waiting = [record(rng, opcode, wait=1 << 4) for opcode in (Opcode.VECTOR, Opcode.MATMUL)]
    program = [record(rng, Opcode.LOAD, post=1 << 4), *waiting, record(rng, Opcode.LOAD, post=1 << 4)]
    driver = SequencerDriver(program, rng)

    def starts() -> int:
        return len(driver.started[Engine.MATMUL]) + len(driver.started[Engine.VECTOR])

    async def process(ctx):
        driver.move["done"], driver.in_flight = 0, 1
        await driver.until(ctx, lambda: driver.started[Engine.LOAD])
        for _ in range(delay):
            await driver.cycle(ctx)
        driver.move["done"] = 1
        await driver.until(ctx, lambda: driver.ended[Engine.LOAD])
        driver.move["done"] = 0
        for _ in range(30):
            await driver.cycle(ctx)
        assert starts() == 1
        driver.move["done"] = 1
        await driver.finish(ctx)

    driver.run(process)


def repeat(records: int, count: int, body: int = 0, **fields: int) -> bytes:
    return COMMANDS[Opcode.REPEAT].pack(address=body_address(body), records=records, count=count, **fields)


NOP = COMMANDS[Opcode.NOP].pack()


def test_rate_of_a_loop():
    """A command every 3 cycles through all rounds of a body and on in the ring; NOP and REPEAT, which jumps, take 4."""
    rng = random.Random(0)
    body = [record(rng, Opcode.VECTOR), record(rng, Opcode.LOAD), record(rng, Opcode.STORE)]
    program = [NOP, NOP, repeat(3, 4), *[record(rng, Opcode.QUANT) for _ in range(6)]]
    driver = SequencerDriver(program, rng, [body])
    driver.run(driver.finish)
    gaps = [later - earlier for (earlier, _), (later, _) in pairwise(driver.acted)]
    assert gaps[:2] == [4, 4]
    assert gaps[3:] == [3] * (len(gaps) - 3), gaps
    assert 3 < gaps[2] <= 12


def test_repeat_posts_behind_its_last_command():
    """It waits before the body; what waits for its post starts 5 cycles behind the last command.

    Those of any post, one for the REPEAT, and one in which the last command takes its semaphores.
    """
    rng = random.Random(0)
    program = [record(rng, Opcode.LOAD, post=1), repeat(2, 3, wait=1, post=1 << 7)]
    body = [record(rng, Opcode.QUANT), record(rng, Opcode.VECTOR)]
    driver = SequencerDriver([record(rng, Opcode.MATMUL, wait=1 << 7), *program, NOP], rng, [body])

    async def process(ctx):
        driver.move["done"] = 0
        for _ in range(60):
            await driver.cycle(ctx)
        assert len(driver.acted) == 2  # MATMUL waits in its queue, REPEAT in the decoder
        driver.move["done"] = 1
        await driver.finish(ctx)

    driver.run(process)
    (last,) = [cycle for cycle, index in driver.acted if index == 2 + 6]
    assert driver.started[Engine.MATMUL][0][0] - last == 5


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        *((kind, place) for kind in ("opcode", "field", "fetch", "misaligned") for place in ("ring", "body")),
        ("nested", "body"),
        ("far", "ring"),
    ],
)
def test_bad_record(kind, place):
    """It is blamed with its index; the commands before it end, it and those after it do nothing."""
    rng = random.Random(kind)
    bad = {
        "opcode": (bytes(RECORD_BYTES), FaultCause.ILLEGAL_OPCODE),
        "field": (bytes([Opcode.REPEAT, *bytes(RECORD_BYTES - 1)]), FaultCause.ILLEGAL_FIELD),
        "fetch": (NOP, FaultCause.BUS_FETCH),
        "nested": (repeat(1, 1), FaultCause.NESTED_REPEAT),
        "misaligned": (
            COMMANDS[Opcode.REPEAT].pack(address=0x1080, base=3, records=1, count=1),
            FaultCause.NESTED_REPEAT if place == "body" else FaultCause.MISALIGNED,
        ),
        "far": (COMMANDS[Opcode.REPEAT].pack(address=1 << 40, records=1, count=1), FaultCause.BUS_FETCH),
    }
    item, cause = bad[kind]
    records = [COMMANDS[Opcode.ADDRESS].pack(number=3, value=32)] + [record(rng, Opcode.LOAD) for _ in range(4)]
    bodies, index, address = [], 5, BASE + 5 * RECORD_BYTES
    if place == "body":
        # The second record of the third body; the ones before are good.
        bodies = [[NOP], [NOP, item]]
        index, address = 5 + 4 + 2, body_address(1) + RECORD_BYTES
        records += [repeat(1, 3), repeat(2, 1, body=1)]
    else:
        records.append(item)
    driver = SequencerDriver([*records, NOP, NOP], rng, bodies)
    if kind == "fetch":
        driver.bad_address = address
    address = {"fetch": address, "misaligned": 0x10A0 if place == "ring" else 0, "far": 1 << 40}.get(kind, 0)
    index += kind == "far"

    async def process(ctx):
        assert await driver.until_fault(ctx) == (cause, Engine.CONTROL, index, address)
        assert len(driver.acted) == index

    driver.run(process)
    assert [index for _, index in driver.ended[Engine.LOAD]] == [index for _, index in driver.started[Engine.LOAD]]


def test_watchdog_in_a_body():
    """A command of the second round is blamed, with the index that it has in the order of execution."""
    rng = random.Random(0)
    program = [record(rng, Opcode.NOP, post=1), NOP, repeat(3, 5), NOP]
    body = [record(rng, Opcode.LOAD), record(rng, Opcode.MATMUL, wait=1), NOP]
    driver = SequencerDriver(program, rng, [body])

    async def process(ctx):
        assert await driver.until_fault(ctx) == (FaultCause.WATCHDOG, Engine.MATMUL, 3 + 3 + 1, 0)
        assert not ctx.get(driver.dut.idle)

    driver.run(process, watchdog=150)


def test_overflow_by_a_repeat():
    """Its index is reported, though commands of its body came later."""
    rng = random.Random(0)
    body = [record(rng, Opcode.NOP, post=1 << 3)]
    driver = SequencerDriver([NOP, repeat(1, SEMAPHORE_MAX, post=1 << 3), NOP, NOP], rng, [body])

    async def process(ctx):
        found = await driver.until_fault(ctx)
        assert found == (FaultCause.SEMAPHORE_OVERFLOW, Engine.CONTROL, 1, 0)

    driver.run(process)


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_fault(engine):
    """The engine's report is kept, nothing starts, no engine is told to halt, what runs elsewhere ends."""
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
