"""SLVERR and DECERR at every beat of every burst that the core can make: it faults, stops cleanly, and recovers.

Of every case: cause, engine, index and address of the fault; memory is untouched; no rule of the bus is broken (the
harness watches); a reset ends within `RESET_CYCLES` of a quiet bus; the next job is right to the byte. Counts are
printed with `pytest -s`.
"""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig
from lepton_sim.harness import BusResponse, Order, Stalls
from leptonaicsdk.driver import ENABLE, IRQ_DONE

from tests.gateware.top.bus_bench import ERRORS, TAG, BusBench, pack, ring_log2, transfer

pytestmark = pytest.mark.verilator

LONGEST = 256
CONFIG = NpuConfig(
    side=4,
    lanes=1,
    vmem_rows=256,
    acc_rows=64,
    tiles=16,
    max_burst=LONGEST,
    outstanding=2,
    queue_depth=2,
    tlb_entries=2,
    contexts=1,
)
"""The smallest core that can make bursts of 256 beats."""

BEAT = CONFIG.bus_bytes
BASE, SIZE = 0x8000_0000, 1 << 15
RING, GOOD, BODY = BASE, BASE + 0x400, BASE + 0x800
DATA, TARGET = BASE + 0x2000, BASE + 0x4000  # four rows of 2048 bytes each
ROWS = 4
FENCE, IRQ, NOP = pack(Opcode.FENCE), pack(Opcode.IRQ, tag=TAG), pack(Opcode.NOP)
MEMORIES = (
    {"latency": 1},
    {"latency": 0, "stalls": Stalls(r=0.1, w=0.1, b=0.2)},
    {"latency": 7, "interleave": True, "order": Order.ADDRESS_FIRST},
    {"latency": 2, "order": Order.DATA_FIRST, "stalls": Stalls(ar=0.5, aw=0.5)},
)
"""How the memory answers, in turn."""


@pytest.fixture
def bench(seed):
    bench = BusBench(CONFIG, SIZE, BASE, np.random.default_rng(seed))
    yield bench
    bench.close()


def report(capsys, record_property, what: str, bench: BusBench):
    record_property("cases", bench.sweep.cases)
    with capsys.disabled():
        print(f"\n{what}: {bench.sweep}")


def good_job(bench: BusBench, beats: int) -> np.ndarray:
    """Put a LOAD of so many beats and its STORE to where `GOOD` is; the memory that it leaves."""
    bench.put(GOOD, transfer(Opcode.LOAD, DATA, 2 * beats), FENCE, transfer(Opcode.STORE, TARGET, 2 * beats), IRQ)
    expected = bench.image.copy()
    expected[bench.at(TARGET, BEAT * beats)] = bench.image[bench.at(DATA, BEAT * beats)]
    return expected


def recover(bench: BusBench, expected: np.ndarray, what: object):
    """Reset, and the good job."""
    bench.reset(what)
    bench.harness.inject_errors([])
    bench.begin(GOOD, 2, 4)
    bench.expect_tag(expected, what)
    bench.reset(what)
    bench.sweep.cases += 1


@pytest.mark.slow
@pytest.mark.parametrize("response", ERRORS, ids=lambda response: response.name)
def test_every_beat_of_every_load(bench, seed, response, capsys, record_property):
    """Beat k of a LOAD of n beats, which is one burst, for all 1 <= n <= 256 and k < n."""
    sweep_loads(bench, seed, response)
    assert bench.sweep.cases == LONGEST * (LONGEST + 1) // 2
    report(capsys, record_property, f"LOAD, {response.name} at every beat of bursts of 1 to {LONGEST}", bench)


def sweep_loads(bench: BusBench, seed: int, response: BusResponse, longest: int = LONGEST):
    """An error at every beat of bursts of 1 to ``longest``.

    Before each, and so after the reset of the one before, a good job: of the whole burst for the first beat and the
    last, of 16 beats at most for the others.
    """
    driver, harness = bench.driver, bench.harness
    driver.start(RING, 3)
    driver.write("CTRL", 0)
    for beats in range(1, longest + 1):
        images = {}
        for size in {beats, min(beats, 16)}:
            bench.put(RING, transfer(Opcode.LOAD, DATA, 2 * size), FENCE, transfer(Opcode.STORE, TARGET, 2 * size), IRQ)
            bench.put(RING + 4 * 64, transfer(Opcode.LOAD, DATA, 2 * beats - beats % 2), IRQ)
            after = bench.image.copy()
            after[bench.at(TARGET, BEAT * size)] = bench.image[bench.at(DATA, BEAT * size)]
            images[size] = bench.image.copy(), after
        harness.configure(**MEMORIES[beats % len(MEMORIES)], seed=seed + beats)
        before = harness.bursts(beats, write=False)
        for beat in range(beats):
            what = f"beat {beat} of {beats}, {response.name}"
            image, after = images[beats if beat in (0, beats - 1) else min(beats, 16)]
            harness.memory[:] = image
            harness.inject_errors([])
            driver.write("CTRL", ENABLE)
            driver.doorbell(4)
            bench.expect_tag(after, what)
            driver.write("IRQ_STATUS", IRQ_DONE)
            bench.read_error(DATA + BEAT * beat, response)
            driver.doorbell(6)
            bench.expect_fault(FaultCause.BUS_READ, Engine.LOAD, 4, DATA, what)
            bench.same(after, what)
            bench.reset(what)
            bench.sweep.cases += 1
        assert harness.bursts(beats, write=False) - before >= beats, "it was one burst"


@pytest.mark.parametrize("verb", ["load", "store"])
def test_every_burst_of_a_command(bench, seed, verb, capsys, record_property):
    """Burst j of a command of four rows, each a burst of n beats, has the error: it is named; no later one is begun."""
    sweep_bursts(bench, seed, store=verb == "store")
    report(capsys, record_property, f"{verb.upper()}, each burst of four, 1 to {LONGEST} beats", bench)


def sweep_bursts(bench: BusBench, seed: int, *, store: bool, longest: int = LONGEST):
    """An error in each burst of four, of 1 to ``longest`` beats."""
    verb = "store" if store else "load"
    opcode, target = (Opcode.STORE, TARGET) if store else (Opcode.LOAD, DATA)
    cause, engine = (FaultCause.BUS_WRITE, Engine.STORE) if store else (FaultCause.BUS_READ, Engine.LOAD)
    for beats in range(1, longest + 1):
        bench.put(RING, FENCE, transfer(opcode, target, 2 * beats, rows=ROWS), IRQ)
        expected = good_job(bench, beats)
        bench.harness.configure(**MEMORIES[beats % len(MEMORIES)], seed=seed + beats)
        for row in range(ROWS):
            for beat in {0, beats - 1} if store else {beats // 2}:
                for response in ERRORS:
                    what = f"{verb}, beat {beat} of {beats} in burst {row}, {response.name}"
                    bench.read_error(target + 2048 * row + BEAT * beat, response, write=store)
                    bench.begin(RING, 2, 3)
                    bench.expect_fault(cause, engine, 1, target + 2048 * row, what)
                    memory = bench.harness.memory.copy()
                    if store:  # bursts up to the last that may have been in flight are written
                        begun = min(ROWS, row + bench.config.outstanding)
                        for number in range(begun):
                            memory[bench.at(TARGET + 2048 * number, BEAT * beats)] = bench.image[
                                bench.at(TARGET + 2048 * number, BEAT * beats)
                            ]
                    assert np.array_equal(memory, bench.image), what
                    recover(bench, expected, what)


@pytest.mark.parametrize("response", ERRORS, ids=lambda response: response.name)
def test_every_store(bench, seed, response, capsys, record_property):
    """The answer to a STORE of n beats has the error, for all 1 <= n <= 256; all other beats are written."""
    sweep_stores(bench, seed, response)
    report(capsys, record_property, f"STORE, {response.name} for every burst of 1 to {LONGEST}", bench)


def sweep_stores(bench: BusBench, seed: int, response: BusResponse, longest: int = LONGEST):
    """An error in the answer to a burst of 1 to ``longest`` beats."""
    for beats in range(1, longest + 1):
        bench.put(RING, transfer(Opcode.LOAD, DATA, 2 * beats), FENCE, transfer(Opcode.STORE, TARGET, 2 * beats), IRQ)
        expected = good_job(bench, beats)
        bench.harness.configure(**MEMORIES[beats % len(MEMORIES)], seed=seed + beats)
        before = bench.harness.bursts(beats, write=True)
        # The core sees one answer for the burst: beats at the ends and in the middle stand for all.
        chosen = sorted({0, beats // 2, beats - 1})
        for beat in chosen:
            what = f"beat {beat} of {beats}, {response.name}"
            bench.read_error(TARGET + BEAT * beat, response, write=True)
            bench.begin(RING, 2, 4)
            bench.expect_fault(FaultCause.BUS_WRITE, Engine.STORE, 2, TARGET, what)
            written = expected.copy()
            written[bench.at(TARGET + BEAT * beat, BEAT)] = bench.image[bench.at(TARGET + BEAT * beat, BEAT)]
            bench.same(written, what)
            recover(bench, expected, what)
        assert bench.harness.bursts(beats, write=True) - before == 2 * len(chosen)


RING_RECORDS = 6


@pytest.mark.parametrize("where", ["ring", "body", "later round", "behind the loop"])
def test_every_beat_of_the_fetch(bench, seed, where, capsys, record_property):
    """Each beat of each record, in the ring and in a body, also in a later round of it only."""
    sweep_fetch(bench, seed, where)
    report(capsys, record_property, f"fetch, every beat, {where}", bench)


def sweep_fetch(bench: BusBench, seed: int, where: str):
    """An error in each beat of each record."""
    beats = 64 // BEAT
    rounds, body = 3, 4
    if where == "ring":
        bench.put(RING, *[NOP] * (RING_RECORDS - 1), IRQ)
        places = [(RING + 64 * number, number, 0) for number in range(RING_RECORDS)]
    else:
        bench.put(RING, NOP, pack(Opcode.REPEAT, address=BODY, records=body, count=rounds), *[NOP] * 3, IRQ)
        bench.put(BODY, *[NOP] * body)
        places = [(BODY + 64 * number, 2 + number, 0) for number in range(body)]
        if where == "later round":
            places = [(BODY + 64 * number, 2 + number + body * turn, turn) for turn in (1, 2) for number in range(body)]
        elif where == "behind the loop":
            # The fetch has read them before the REPEAT as well, and thrown them away with their errors.
            places = [(RING + 64 * number, 2 + body * rounds + number - 2, 0) for number in range(2, RING_RECORDS)]
    expected = good_job(bench, 5)
    for address, index, after in places:
        for beat in range(beats):
            for memory in MEMORIES:
                for response in ERRORS:
                    what = f"{where}, record {index}, beat {beat}, {response.name}, {memory}"
                    bench.harness.configure(**memory, seed=seed + beat)
                    bench.read_error(address + BEAT * beat, response, after=after)
                    bench.begin(RING, ring_log2(RING_RECORDS), RING_RECORDS)
                    bench.expect_fault(FaultCause.BUS_FETCH, Engine.CONTROL, index, address, what)
                    bench.same(bench.image, what)
                    recover(bench, expected, what)


def test_an_error_of_a_record_that_is_thrown_away(bench, seed, capsys, record_property):
    """Records behind a REPEAT are read before it is known: their errors are nobody's, and no fault, if they pass."""
    bench.put(RING, NOP, pack(Opcode.REPEAT, address=BODY, records=2, count=3), *[NOP] * 3, IRQ)
    bench.put(BODY, NOP, NOP)
    seen = 0
    for number in (2, 3):
        for beat in range(64 // BEAT):
            for memory in MEMORIES:
                for response in ERRORS:
                    what = f"record {number}, beat {beat}, {response.name}, {memory}"
                    bench.harness.configure(**memory, seed=seed + beat)
                    # The first reading of this beat fails, if there are two.
                    bench.read_error(RING + 64 * number + BEAT * beat, response, count=1)
                    bench.begin(RING, ring_log2(RING_RECORDS), RING_RECORDS)
                    assert bench.harness.run(100_000), f"{what}: no interrupt"
                    twice = bench.harness.error_beats == [2]
                    assert (bench.driver.fault is None) == twice, f"{what}: {bench.driver.fault}"
                    seen += twice
                    bench.reset(what)
                    bench.sweep.cases += 1
    assert seen > 0
    report(capsys, record_property, f"fetch, errors that are thrown away ({seen} were)", bench)
