"""STORE behind the AXI master, against plain Python: stalls, strobes, errors, halts, limits, throughput."""

import random

import pytest
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE

from tests.gateware.bus.axi_memory import DECERR, SLVERR, Stalls
from tests.gateware.bus.dma_bench import MASK64, DmaDriver, Fields, beats_of_row, config_of, plan, random_fields
from tests.gateware.partition import KINDS

CONFIGS = {
    "4x64": config_of(4),
    "4x128": config_of(4, bus_width=128, max_burst=4, outstanding=1),
    "8x64": config_of(8, max_burst=16, outstanding=4),
}
GOOD = {"address": 0, "local": 0, "rows": 1, "words": 4, "local_stride": 1, "stride": 64}


def write_beats(driver: DmaDriver, f: Fields, rows: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Address, data and WSTRB of the beats of some rows. Bytes without strobe are zero here."""
    width, found = driver.config.bus_bytes, []
    for address, local in rows:
        content = driver.local[local : local + -(-f["words"] // driver.config.side)].tobytes()[: 4 * f["words"]]
        for start in range(0, len(content), width):
            part = content[start : start + width]
            found.append((address + start, int.from_bytes(part, "little"), (1 << len(part)) - 1))
    return found


def all_beats(driver: DmaDriver, commands: list[Fields]):
    """Beats of all commands up to one that fails; those of each; the fault: (cause, number of the command, address)."""
    beats, ends = [], []
    for number, f in enumerate(commands):
        result = plan(driver.config, Opcode.STORE, f)
        beats += write_beats(driver, f, result.rows)
        if result.fault:
            return beats, ends, (result.fault[0], number, result.fault[1] & MASK64)
        ends.append(len(beats))
    return beats, ends, None


def masked(beats: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Beats with the bytes that are not written as zero."""
    result = []
    for address, data, strobes in beats:
        bits = sum(0xFF << 8 * byte for byte in range(strobes.bit_length()) if strobes >> byte & 1)
        result.append((address, data & bits, strobes))
    return result


def apply(driver: DmaDriver, image, beats):
    """Write beats to a copy of the memory."""
    for address, data, strobes in beats:
        start = driver.memory.place(address)
        for byte in range(driver.config.bus_bytes):
            if strobes >> byte & 1:
                image[start + byte] = data >> 8 * byte & 0xFF


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_random_commands(seed, name, kind):
    """Each beat once, in order, with its strobes; memory as expected; done after the answer to the last burst."""
    config, rng = CONFIGS[name], random.Random(f"{seed} {name} {kind}")
    driver = DmaDriver(config, Opcode.STORE, rng, kind)
    image = driver.memory.data.copy()

    async def process(ctx):
        for _ in range(5):
            driver.memory.stalls = Stalls.draw(rng)
            commands = [random_fields(rng, config, Opcode.STORE, driver.memory.size) for _ in range(rng.randint(1, 6))]
            beats, ends, _ = all_beats(driver, commands)
            await driver.run(ctx, commands)
            assert masked(driver.memory.write_beats) == beats
            apply(driver, image, beats)
            assert (driver.memory.data == image).all()
            assert all(count >= end for count, end in zip(driver.done, ends, strict=True)), (driver.done, ends)
            assert len(driver.beats) == len(beats)
            driver.forget()

    driver.simulate(process)
    assert driver.memory.most["writes"] <= config.outstanding


def faulty(rng: random.Random, driver: DmaDriver, kind: int) -> Fields:
    """A command with one thing wrong, by ``kind`` (0 to 6): it may go on for some rows first."""
    config, size = driver.config, driver.memory.size
    while True:
        f = random_fields(rng, config, Opcode.STORE, size)
        driver.memory.bad.clear()
        if kind == 0:
            f[rng.choice(("address", "stride"))] += rng.randrange(1, config.bus_bytes)
        elif kind == 1:
            ends = (config.vmem_rows - 1, config.vmem_rows, 0x7FFF, ACC_SPACE + config.acc_rows - 1, 0xFFFF)
            f["local"] = rng.choice(ends)
        elif kind == 2:
            f["local_stride"] = rng.choice((-0x8000, 0x7FFF, -40, 60))
        elif kind == 3:
            f["address"] = rng.choice(((1 << 32) - 64, 1 << 32, MASK64 - 63, 1 << 63)) // 16 * 16
        elif kind == 4:
            f["address"], f["stride"] = 64 * rng.randrange(8), -64
        else:
            rows = plan(config, Opcode.STORE, f).rows
            low = rng.choice([b for address, _ in rows for b in beats_of_row(config, f, address)])
            driver.memory.bad.append((low, low + config.bus_bytes, rng.choice((SLVERR, DECERR))))
            return f
        if plan(config, Opcode.STORE, f).fault:
            return f


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CONFIGS)
def test_errors(seed, name, kind):
    """Cause, index and address of the first error; bursts that were begun are completed; the bus is quiet."""
    config, rng = CONFIGS[name], random.Random(f"{seed} {name} {kind}")
    driver = DmaDriver(config, Opcode.STORE, rng, kind)
    causes = set()

    async def process(ctx):
        for turn in range(14):
            driver.memory.stalls = Stalls.draw(rng)
            good = [random_fields(rng, config, Opcode.STORE, driver.memory.size) for _ in range(3)]
            commands = good[: rng.randrange(3)] + [faulty(rng, driver, turn % 7)] + good[2:]
            beats, ends, fault = all_beats(driver, commands)
            driver.commands.extend(enumerate(commands, 1000 * turn))
            await driver.until(ctx, lambda: ctx.get(driver.bench.engine.fault.valid))
            in_flight = [*driver.memory.writes, *driver.memory.answers]
            assert not in_flight, "reported before the bursts in flight have been acknowledged"
            await driver.settle(ctx)
            written = masked(driver.memory.write_beats)
            assert written == beats[: len(written)]
            first = 0
            for burst in driver.memory.write_log:
                if burst.error:
                    number = sum(end <= first for end in ends)
                    fault = (FaultCause.BUS_WRITE, number, burst.addr)
                    break
                first += burst.beats
            else:
                assert written == beats
            causes.add(fault[0])
            assert driver.fault(ctx) == (fault[0], 1000 * turn + fault[1], fault[2]), commands
            assert len(driver.done) == fault[1]
            await driver.restart(ctx)

    driver.simulate(process)
    wanted = {FaultCause.BUS_WRITE, FaultCause.MISALIGNED, FaultCause.ADDRESS_RANGE, FaultCause.LOCAL_RANGE}
    assert causes == wanted, causes


@pytest.mark.parametrize("name", ["4x64", "4x128"])
def test_halt(seed, name):
    """At a random cycle: no new burst, those that were begun are completed; a reset, and all works."""
    config, rng = CONFIGS[name], random.Random(f"{seed} {name}")
    driver = DmaDriver(config, Opcode.STORE, rng)
    cut = 0

    async def process(ctx):
        nonlocal cut
        for _ in range(10):
            driver.memory.stalls = Stalls.draw(rng)
            commands = [random_fields(rng, config, Opcode.STORE, driver.memory.size) for _ in range(3)]
            beats, ends, _ = all_beats(driver, commands)
            driver.commands.extend(enumerate(commands))
            some = rng.randrange(len(beats))
            while len(driver.memory.write_beats) < some:
                await driver.cycle(ctx)
            for _ in range(rng.randrange(20)):
                await driver.cycle(ctx)
            ctx.set(driver.bench.engine.halt, 1)
            begun = len(driver.memory.write_log)
            await driver.settle(ctx)
            # One burst may still be in the address register.
            assert len(driver.memory.write_log) <= begun + 1
            written = masked(driver.memory.write_beats)
            assert written == beats[: len(written)]
            assert len(written) == sum(burst.beats for burst in driver.memory.write_log)
            assert len(driver.done) == sum(end <= len(written) for end in ends)
            cut += 0 < len(written) < len(beats)
            await driver.restart(ctx)
            await driver.run(ctx, commands[:1])
            assert masked(driver.memory.write_beats) == beats[: ends[0]]
            driver.forget()

    driver.simulate(process)
    assert cut > 2, "hardly any command was cut in the middle"


@pytest.mark.parametrize("outstanding", [1, 4])
def test_outstanding(outstanding):
    """With slow answers exactly ``outstanding`` bursts are in flight, over the ends of commands."""
    config = config_of(4, outstanding=outstanding)
    driver = DmaDriver(config, Opcode.STORE, random.Random(outstanding))
    driver.memory.stalls = Stalls(latency=(60, 60))

    async def process(ctx):
        await driver.run(ctx, [GOOD | {"rows": 3, "words": 8}] * 4)

    driver.simulate(process)
    assert driver.memory.most["writes"] == outstanding


@pytest.mark.parametrize("outstanding", [1, 2])
def test_row_longer_than_a_burst(outstanding):
    """A row of many bursts and of more local rows than are read ahead, one burst at a time."""
    config = config_of(4, outstanding=outstanding, max_burst=2)
    driver = DmaDriver(config, Opcode.STORE, random.Random(0))

    async def process(ctx):
        commands = [GOOD | {"words": 80, "rows": 2, "stride": 320, "local_stride": 20}]
        await driver.run(ctx, commands)
        assert masked(driver.memory.write_beats) == all_beats(driver, commands)[0]

    driver.simulate(process)


@pytest.mark.parametrize("name", ["4x64", "8x64"])
def test_throughput(name):
    """A long row without stalls takes a cycle a beat, with answers as late as the bursts in flight cover."""
    config = CONFIGS[name]
    driver = DmaDriver(config, Opcode.STORE, random.Random(0))
    driver.memory.stalls = Stalls(latency=(6, 6))
    beats = 128

    async def process(ctx):
        await driver.run(ctx, [GOOD | {"words": beats * config.bus_bytes // 4}])

    driver.simulate(process)
    assert len(driver.beats) == beats
    assert driver.beats[-1] - driver.beats[0] + 1 == beats


@pytest.mark.parametrize("words", [1, 3, 4, 5, 7])
def test_strobes(words):
    """The last beat of each row writes the words that the row has, and not a byte more."""
    config = config_of(8, bus_width=256, max_burst=4)
    driver = DmaDriver(config, Opcode.STORE, random.Random(words))

    async def process(ctx):
        await driver.run(ctx, [GOOD | {"words": words, "rows": 2}, GOOD | {"words": words + 8, "rows": 2}])

    driver.simulate(process)
    part, whole = (1 << 4 * words) - 1, (1 << 32) - 1
    assert [strobes for _, _, strobes in driver.memory.write_beats] == [part, part, whole, part, whole, part]
