"""Several contexts on one core: programs side by side, weights, kills, and what one may not do to another."""

import numpy as np
import pytest
from lepton_npu.memory.local_memory import PATIENCE
from lepton_npu.spec.commands import COMMANDS, FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE
from lepton_npu.spec.registers import REGISTERS
from lepton_sim.core import core_library
from lepton_sim.harness import Harness, HarnessError
from lepton_sim.side_by_side import CONFIG, equal_share, random_shares, run_side_by_side
from lepton_verif.random_program import random_job
from leptonaicsdk.driver import IRQ_DONE, IRQ_FAULT, STATUS_IDLE, STATUS_INVALIDATING, Driver

pytestmark = [pytest.mark.verilator, pytest.mark.slow]


def pack(*commands: tuple[Opcode, dict]) -> np.ndarray:
    """Records, as bytes."""
    return np.frombuffer(b"".join(COMMANDS[opcode].pack(**fields) for opcode, fields in commands), np.uint8)


@pytest.mark.parametrize("batch", range(3))
def test_random_programs_side_by_side(batch, seed):
    """Each context's memory ends as its own simulator says, whatever runs beside it."""
    first = seed * 1_000_000 + 500_000 + batch * 10_000
    _, _, failures = run_side_by_side(range(first, first + 20))
    assert not failures, "\n".join(failures)


def test_random_shares_do_not_overlap():
    for number in range(50):
        shares = [share for share in random_shares(CONFIG, np.random.default_rng(number)) if share]
        for name in ("vmem_rows", "acc_rows", "tiles"):
            taken = [row for share in shares for row in getattr(share, name)]
            assert len(taken) == len(set(taken))
            assert max(taken) < getattr(CONFIG, name)


class Bench:
    """A core whose contexts have equal shares, and 64 KiB of memory each, with the ring at its beginning."""

    SIZE = 1 << 16

    def __init__(self):
        contexts = CONFIG.contexts
        self.harness = Harness(core_library(CONFIG), contexts * self.SIZE)
        self.harness.configure(latency=10)
        self.drivers = [Driver(self.harness, number) for number in range(contexts)]
        for number, driver in enumerate(self.drivers):
            equal_share(CONFIG, number).give(driver)
            driver.start(self.base(number), 6)

    def base(self, context: int) -> int:
        return context * self.SIZE

    def give(self, context: int, *commands: tuple[Opcode, dict]):
        """Put commands into the ring of a context, from its beginning, and announce them."""
        self.put(self.base(context), *commands)
        self.drivers[context].doorbell(len(commands))

    def put(self, address: int, *commands: tuple[Opcode, dict]):
        """Write records to an address."""
        records = pack(*commands)
        self.harness.memory[address : address + records.size] = records

    def until(self, context: int, bits: int = IRQ_DONE | IRQ_FAULT, cycles: int = 200_000) -> int:
        """Clock until an interrupt of a context, whose bits are returned."""
        end = self.harness.cycle + cycles
        while not (pending := self.drivers[context].read("IRQ_STATUS") & bits):
            assert self.harness.cycle < end, f"context {context}: no interrupt"
            self.harness.run(50)
            if self.drivers[context].read("IRQ_CONTEXTS") & ~(1 << context):
                self.harness.run(1)
        return pending

    def words(self, context: int, offset: int, count: int) -> np.ndarray:
        start = self.base(context) + offset
        return self.harness.memory[start : start + 4 * count].view("<u4")


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.harness.close()


def load(address: int, local: int, rows: int = 1, **fields) -> tuple[Opcode, dict]:
    return Opcode.LOAD, {"address": address, "local": local, "rows": rows, "words": CONFIG.side, "local_stride": 1,
                         "stride": CONFIG.row_bytes, **fields}  # fmt: skip


def store(address: int, local: int, rows: int = 1, **fields) -> tuple[Opcode, dict]:
    return Opcode.STORE, load(address, local, rows, **fields)[1]


IRQ = (Opcode.IRQ, {"tag": 1})
DATA, RESULT = 0x4000, 0x8000


def test_capabilities(bench):
    for number, driver in enumerate(bench.drivers):
        assert driver.read("CAPABILITIES2") == CONFIG.contexts | number << 8
        assert driver.read("ID") == REGISTERS["ID"].reset


def test_registers_of_one_context_are_not_those_of_another(bench):
    for number, driver in enumerate(bench.drivers):
        driver.write("WATCHDOG", 1000 + number)
    assert [driver.read("WATCHDOG") for driver in bench.drivers] == [1000, 1001, 1002, 1003]
    with pytest.raises(HarnessError, match="response 2"):
        bench.harness.read(2 << 12 | 0xFFC)


def test_a_context_stuck_in_a_wait_holds_nobody_up(bench):
    """Its command waits for a semaphore that nobody posts; the others run, and its own watchdog alone finds it."""
    bench.drivers[1].write("WATCHDOG", 30_000)
    bench.give(1, load(bench.base(1) + DATA, 0, wait=1), IRQ)
    for context in (0, 2, 3):
        bench.words(context, DATA, 4)[:] = [context + 10] * 4
        bench.give(
            context, load(bench.base(context) + DATA, 0, post=1), store(bench.base(context) + RESULT, 0, wait=1), IRQ
        )
    for context in (0, 2, 3):
        assert bench.until(context) == IRQ_DONE
        assert bench.words(context, RESULT, 4).tolist() == [context + 10] * 4
    assert bench.drivers[1].fault is None
    assert bench.until(1) == IRQ_FAULT
    assert bench.drivers[1].fault.cause == FaultCause.WATCHDOG
    assert all(bench.drivers[context].fault is None for context in (0, 2, 3))


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_rows_behind_the_partition(bench, opcode):
    """The row behind a context's share, which is another's, is none of its rows: a fault, and nothing is touched."""
    rows = CONFIG.vmem_rows // 4
    for context in range(4):
        bench.words(context, DATA, 4)[:] = 0x100 + context
        bench.give(context, load(bench.base(context) + DATA, 0), load(bench.base(context) + DATA, rows - 1), IRQ)
    for context in range(4):
        assert bench.until(context) == IRQ_DONE
        bench.drivers[context].acknowledge()
    for context in (0, 2):
        bench.drivers[context].soft_reset()
        bench.drivers[context].start(bench.base(context), 6)
        bench.words(context, DATA, 4)[:] = 0xBAD
        fields = load(bench.base(context) + DATA, rows - 2, rows=3)[1]
        bench.give(context, (opcode, fields), IRQ)
        assert bench.until(context) == IRQ_FAULT
        fault = bench.drivers[context].fault
        assert (fault.cause, fault.address, fault.index) == (FaultCause.LOCAL_RANGE, rows, 0)
    for context in (1, 3):
        bench.drivers[context].soft_reset()
        bench.drivers[context].start(bench.base(context), 6)
        bench.give(
            context, store(bench.base(context) + RESULT, 0), store(bench.base(context) + RESULT + 64, rows - 1), IRQ
        )
        assert bench.until(context) == IRQ_DONE
        assert bench.words(context, RESULT, 4).tolist() == [0x100 + context] * 4
        assert bench.words(context, RESULT + 64, 4).tolist() == [0x100 + context] * 4


@pytest.mark.parametrize("weights", [(1, 1), (1, 4), (8, 2)])
def test_weights_share_a_busy_engine(bench, weights):
    """Two contexts that always have a VECTOR command get the engine in the ratio of their weights."""
    body = bench.SIZE // 2
    for context, weight in zip((0, 3), weights):
        bench.drivers[context].set_weight(weight)
        fields = {"op": 0, "count0": 8, "count1": 1, "a": 0, "b": 8, "dst": 16}
        at = bench.base(context) + body
        bench.put(at, *[(Opcode.VECTOR, fields | dict.fromkeys(("a_stride0", "b_stride0", "dst_stride0"), 1))] * 16)
        zeros = load(bench.base(context) + DATA, 0, rows=32, post=1)
        bench.give(context, zeros, (Opcode.REPEAT, {"address": at, "records": 16, "count": 100_000, "wait": 1}), IRQ)
    bench.harness.run(2000)
    for context in (0, 3):
        bench.drivers[context].clear_counters()
    bench.harness.run(20_000)
    counts = [bench.drivers[context].counters()["VECTOR_ROWS"] for context in (0, 3)]
    assert counts[1] / counts[0] == pytest.approx(weights[1] / weights[0], rel=0.1), counts


def test_kill_while_another_runs(bench, seed):
    """A context that is reset at any time leaves the results of the others alone, and begins anew."""
    rng = np.random.default_rng(seed)
    job = random_job(equal_share(CONFIG, 0).config(CONFIG), rng)
    assert job.memory.size <= bench.SIZE
    bench.harness.close()
    # Context 0 runs the job, at its addresses; the memory behind it is that of context 1.
    with Harness(core_library(CONFIG), job.memory.size + bench.SIZE, base=job.base) as harness:
        harness.configure(latency=10)
        victim, other = Driver(harness, 1), Driver(harness, 0)
        ring = job.base + job.memory.size
        records = pack(
            load(ring + DATA, 0, rows=100, post=1),
            store(ring + RESULT, 0, rows=100, wait=1, post=2),
            load(ring + DATA, 0, rows=100, wait=2),
            IRQ,
        )
        for _ in range(30):
            harness.memory[: job.memory.size] = job.memory
            harness.memory[job.memory.size : job.memory.size + records.size] = records
            harness.reset()
            for number, driver in enumerate((other, victim)):
                equal_share(CONFIG, number).give(driver)
            other.start(job.ring, job.ring_log2)
            other.doorbell(job.records)
            victim.start(ring, 6)
            victim.doorbell(4)
            harness.run(int(rng.integers(1, 1200)))
            victim.soft_reset()
            assert victim.read("STATUS") & ~STATUS_INVALIDATING == STATUS_IDLE
            assert victim.read("HEAD") == 0
            victim.start(ring, 6)
            victim.doorbell(4)
            for driver in (victim, other):
                for _ in range(2000):
                    if driver.read("IRQ_STATUS"):
                        break
                    harness.run(50)
                assert driver.read("IRQ_STATUS") == IRQ_DONE
                assert driver.fault is None
            job.check(harness.memory[: job.memory.size])


ENDLESS = {
    "vector": (Opcode.VECTOR, {"op": 0, "a": 1, "b": 1, "c": 1, "dst": 0, "count0": 0xFFFF, "count1": 0xFFFF}),
    "matmul": (
        Opcode.MATMUL,
        {"accumulate": 1, "acc": ACC_SPACE, "rows": 0xFFFF, "k_tiles": 0xFFFF, "n_tiles": 0xFFFF, "count0": 64,
         "count1": 0xFFFF, "acc_stride0": 1},
    ),
}  # fmt: skip
"""Commands that write bank 0, and read half 0 of the accumulators, in every cycle and for ever."""


@pytest.mark.parametrize("engine", ENDLESS)
def test_an_endless_command_does_not_stop_the_bus(bench, engine):
    """LOADs to the bank, and STOREs of the half, of another context end in time; so does its reset, and the other's."""
    rows = 32
    bench.give(0, ENDLESS[engine])
    bench.harness.run(1000)
    driver, base = bench.drivers[1], bench.base(1)
    bench.words(1, DATA, 4 * rows)[:] = np.arange(4 * rows)
    if engine == "vector":
        work = [load(base + DATA, 0, rows=rows, local_stride=4)]
    else:
        work = [store(base + RESULT, ACC_SPACE, rows=rows)]
    for _ in range(2):
        driver.start(base, 6)
        bench.give(1, *work, IRQ)
        before = bench.drivers[0].counters()[f"{engine.upper()}_ROWS"]
        start = bench.harness.cycle
        assert bench.until(1, cycles=rows * (PATIENCE + 64) + 1000) == IRQ_DONE
        ran = bench.drivers[0].counters()[f"{engine.upper()}_ROWS"] - before
        assert ran > 0.9 * (bench.harness.cycle - start), "the other context has lost little"
        driver.soft_reset()
        bench.give(1, *work, IRQ)
        bench.harness.run(300)
        start = bench.harness.cycle
        driver.soft_reset()  # with a burst begun
        assert bench.harness.cycle - start < rows * (PATIENCE + 64)
    start = bench.harness.cycle
    bench.drivers[0].soft_reset()
    assert bench.harness.cycle - start < 200
