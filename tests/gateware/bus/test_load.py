"""LOAD behind the AXI master, against plain Python: stalls, interleaving, errors, halts, limits, throughput."""

import random

import pytest
from lepton_npu.bus.axi import LOAD_ID
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig

from tests.gateware.bus.axi_memory import DECERR, SLVERR, Stalls
from tests.gateware.bus.dma_bench import MASK64, DmaDriver, Fields, beats_of_row, config_of, plan, random_fields
from tests.gateware.partition import KINDS

CONFIGS = {
    "4x64": config_of(4),
    "4x128": config_of(4, bus_width=128, max_burst=4, outstanding=1),
    "8x64": config_of(8, max_burst=16, outstanding=4),
}
GOOD = {"address": 0, "local": 0, "rows": 1, "words": 4, "local_stride": 1, "stride": 64}


def local_rows(driver: DmaDriver, f: Fields, address: int, local: int) -> list[tuple[int, int, list[int]]]:
    """Local row, its data, and the addresses of its beats, of one matrix row."""
    memory, side, width = driver.memory, driver.config.side, driver.config.bus_bytes
    found = []
    for number, first in enumerate(range(0, f["words"], side)):
        size = 4 * min(side, f["words"] - first)
        start = memory.place(address + 4 * first)
        data = int.from_bytes(memory.data[start : start + size].tobytes(), "little")
        beats = range(address + 4 * first, address + 4 * first + size, width)
        found.append((local + number, data, list(beats)))
    return found


def expected(driver: DmaDriver, commands: list[Fields]):
    """Writes in order, those before the first error; how many commands are done by then; beats; and the fault.

    The fault is (cause, number of the command, address), where BUS_READ has the address of the beat.
    """
    writes, beats = [], []
    for number, f in enumerate(commands):
        result = plan(driver.config, Opcode.LOAD, f)
        for address, local in result.rows:
            for row, data, places in local_rows(driver, f, address, local):
                beats += places
                wrong = [place for place in places if driver.memory.response(place)]
                if wrong:
                    return writes, number, beats, (FaultCause.BUS_READ, number, wrong[0])
                writes.append((row, data))
        if result.fault:
            return writes, number, beats, (result.fault[0], number, result.fault[1] & MASK64)
    return writes, len(commands), beats, None


def read_beats(driver: DmaDriver) -> list[int]:
    """Addresses of LOAD's beats in the order in which they were asked for."""
    width = driver.config.bus_bytes
    return [b.addr + n * width for b in driver.memory.read_log if b.id == LOAD_ID for n in range(b.beats)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_random_commands(seed, name, kind):
    """Each beat asked for once, in order; each row written once, in order; done after the last write of a command."""
    config, rng = CONFIGS[name], random.Random(f"{seed} {name} {kind}")
    driver = DmaDriver(config, Opcode.LOAD, rng, kind)

    async def process(ctx):
        for _ in range(5):
            driver.memory.stalls = Stalls.draw(rng)
            commands = [random_fields(rng, config, Opcode.LOAD, driver.memory.size) for _ in range(rng.randint(1, 6))]
            await driver.run(ctx, commands)
            writes, _, beats, fault = expected(driver, commands)
            assert fault is None
            assert driver.written == writes
            assert read_beats(driver) == beats
            for number, count in enumerate(driver.done, 1):
                assert count >= len(expected(driver, commands[:number])[0])
            driver.forget()

    driver.simulate(process)
    assert driver.fetched > 5, "hardly any record was read beside LOAD"
    assert driver.memory.most["reads"] <= config.outstanding


def faulty(rng: random.Random, driver: DmaDriver, kind: int) -> Fields:
    """A command with one thing wrong, by ``kind`` (0 to 6): it may go on for some rows first."""
    config, size = driver.config, driver.memory.size
    while True:
        f = random_fields(rng, config, Opcode.LOAD, size)
        driver.memory.bad.clear()
        if kind == 0:
            f[rng.choice(("address", "stride"))] += rng.randrange(1, config.bus_bytes)
        elif kind == 1:
            f["local"] = rng.choice((config.vmem_rows - 1, config.vmem_rows, 0x7FFF, 0x8000, 0xFFFF))
        elif kind == 2:
            f["local_stride"] = rng.choice((-0x8000, 0x7FFF, -40, 60))
        elif kind == 3:
            f["address"] = rng.choice(((1 << 32) - 64, 1 << 32, MASK64 - 63, 1 << 63)) // 16 * 16
        elif kind == 4:
            f["address"], f["stride"] = 64 * rng.randrange(8), -64
        else:
            beats = [b for address, _ in plan(config, Opcode.LOAD, f).rows for b in beats_of_row(config, f, address)]
            low = rng.choice(beats)
            driver.memory.bad.append((low, low + config.bus_bytes, rng.choice((SLVERR, DECERR))))
        if plan(config, Opcode.LOAD, f).fault or expected(driver, [f])[3]:
            return f


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_errors(seed, name, kind):
    """Cause, index and address of the first error; what is before it is written, nothing after it; the bus is quiet."""
    config, rng = CONFIGS[name], random.Random(f"{seed} {name} {kind}")
    driver = DmaDriver(config, Opcode.LOAD, rng, kind)
    causes = set()

    async def process(ctx):
        for turn in range(14):
            driver.memory.stalls = Stalls.draw(rng)
            good = [random_fields(rng, config, Opcode.LOAD, driver.memory.size) for _ in range(3)]
            commands = good[: rng.randrange(3)] + [faulty(rng, driver, turn % 7)] + good[2:]
            writes, done, beats, (cause, number, address) = expected(driver, commands)
            causes.add(cause)
            driver.commands.extend(enumerate(commands, 1000 * turn))
            await driver.until(ctx, lambda: ctx.get(driver.bench.engine.fault.valid))
            assert not driver.memory.reads.get(LOAD_ID), "reported before the bursts in flight have been received"
            await driver.settle(ctx)
            found = driver.fault(ctx)
            if cause == FaultCause.BUS_READ:
                # Reported with the address of its burst.
                burst = first_bad_burst(driver)
                assert burst.addr <= address < burst.addr + burst.beats * config.bus_bytes
                address = burst.addr
            assert found == (cause, 1000 * turn + number, address), commands[number]
            assert driver.written == writes
            assert len(driver.done) == done
            asked = read_beats(driver)
            assert asked[: len(beats)] == beats
            if cause != FaultCause.BUS_READ:
                assert len(asked) == len(beats)
            await driver.restart(ctx)

    driver.simulate(process)
    wanted = {FaultCause.BUS_READ, FaultCause.MISALIGNED, FaultCause.ADDRESS_RANGE, FaultCause.LOCAL_RANGE}
    assert causes == wanted, causes


def first_bad_burst(driver: DmaDriver):
    """The first burst with a beat that has an error response."""
    width = driver.config.bus_bytes
    for burst in driver.memory.read_log:
        if burst.id == LOAD_ID and any(driver.memory.response(burst.addr + n * width) for n in range(burst.beats)):
            return burst
    raise AssertionError("no burst has an error")


@pytest.mark.parametrize("name", ["4x64", "4x128"])
def test_halt(seed, name):
    """At a random cycle: no new burst, those in flight are received and their rows written; a reset, and all works."""
    config, rng = CONFIGS[name], random.Random(f"{seed} {name}")
    driver = DmaDriver(config, Opcode.LOAD, rng)
    cut = 0

    async def process(ctx):
        nonlocal cut
        for _ in range(10):
            driver.memory.stalls = Stalls.draw(rng)
            commands = [random_fields(rng, config, Opcode.LOAD, driver.memory.size) for _ in range(3)]
            writes, _, beats, _ = expected(driver, commands)
            driver.commands.extend(enumerate(commands))
            some = rng.randrange(len(beats))
            while len(read_beats(driver)) < some:
                await driver.cycle(ctx)
            for _ in range(rng.randrange(20)):
                await driver.cycle(ctx)
            ctx.set(driver.bench.engine.halt, 1)
            asked = len([b for b in driver.memory.read_log if b.id == LOAD_ID])
            await driver.settle(ctx)
            # One burst that was offered, and one in the master's register, may still come.
            assert len([b for b in driver.memory.read_log if b.id == LOAD_ID]) <= asked + 2
            assert driver.written == writes[: len(driver.written)]
            received = read_beats(driver)
            assert received == beats[: len(received)]
            ended = [n for n in range(1, 4) if len(expected(driver, commands[:n])[2]) <= len(received)]
            assert len(driver.done) == len(ended)
            cut += 0 < len(received) < len(beats)
            await driver.restart(ctx)
            await driver.run(ctx, commands[:1])
            assert driver.written == expected(driver, commands[:1])[0]
            driver.forget()

    driver.simulate(process)
    assert cut > 2, "hardly any command was cut in the middle"


@pytest.mark.parametrize("outstanding", [1, 4])
def test_outstanding(outstanding):
    """With a slow memory exactly ``outstanding`` bursts are in flight, over the ends of commands."""
    config: NpuConfig = config_of(4, outstanding=outstanding)
    driver = DmaDriver(config, Opcode.LOAD, random.Random(outstanding))
    driver.memory.stalls = Stalls(latency=(60, 60))

    async def process(ctx):
        await driver.run(ctx, [GOOD | {"rows": 3, "words": 8}] * 4)

    driver.simulate(process)
    assert driver.memory.most["reads"] == outstanding


@pytest.mark.parametrize("name", CONFIGS)
def test_throughput(name):
    """A long row without stalls takes a cycle a beat, with a latency within what the bursts in flight cover."""
    config = CONFIGS[name]
    driver = DmaDriver(config, Opcode.LOAD, random.Random(0))
    latency = 1 if config.outstanding == 1 else 6
    driver.memory.stalls = Stalls(latency=(latency, latency))
    beats = 128

    async def process(ctx):
        await driver.run(ctx, [GOOD | {"words": beats * config.bus_bytes // 4}])

    driver.simulate(process)
    assert len(driver.beats) == beats
    spent = driver.beats[-1] - driver.beats[0] + 1
    if config.outstanding > 1:
        assert spent == beats
    else:
        # A burst is asked for when the one before has come: its latency, the queue's and the master's register.
        assert spent <= beats + (beats // config.max_burst - 1) * 4
