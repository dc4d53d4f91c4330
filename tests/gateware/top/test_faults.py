"""Bad input ends in an error state: cause and index readable, interrupt up, memory untouched, a reset recovers."""

import numpy as np
import pytest
from lepton_npu.spec.commands import COMMANDS, Engine, FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE, PRESETS
from lepton_sim.core import core_library
from lepton_sim.harness import BusResponse, ErrorRange, Harness, Stalls
from leptonaicsdk.driver import Driver

pytestmark = pytest.mark.verilator

CONFIG = PRESETS["tiny"]
BASE = 0x8000_0000
SIZE = 1 << 16
RING_LOG2 = 4
DATA = BASE + 0x4000
TARGET = BASE + 0x8000
BODY = BASE + 0x2000


def pack(opcode: Opcode, **fields: int) -> bytes:
    return COMMANDS[opcode].pack(**fields)


def load(**fields) -> bytes:
    return pack(Opcode.LOAD, **{"address": DATA, "rows": 2, "words": 16, "stride": 64, "local_stride": 4, **fields})


def store(**fields) -> bytes:
    return pack(Opcode.STORE, **{"address": TARGET, "rows": 2, "words": 16, "stride": 64, "local_stride": 4, **fields})


def repeat(records: int, count: int, **fields) -> bytes:
    return pack(Opcode.REPEAT, **{"address": BODY, "records": records, "count": count, **fields})


IRQ = pack(Opcode.IRQ, tag=0x600D)
NOP = pack(Opcode.NOP)
STEP = pack(Opcode.ADDRESS, number=1, add=1, value=64)


class Machine:
    """A core with a ring of 16 records at the start of memory and random bytes elsewhere."""

    def __init__(self):
        self.harness = Harness(core_library(CONFIG), SIZE, base=BASE)
        self.driver = Driver(self.harness)
        self.harness.memory[:] = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
        self.tail = 0

    def put_body(self, *records: bytes):
        """Write records to where a REPEAT finds them."""
        data = np.frombuffer(b"".join(records), np.uint8)
        self.harness.memory[BODY - BASE : BODY - BASE + data.size] = data

    def begin(self, *records: bytes, tail: int | None = None, watchdog: int = 2000):
        """Put records into the ring and ring the doorbell."""
        for number, record in enumerate(records):
            slot = (self.tail + number) % (1 << RING_LOG2) * 64
            self.harness.memory[slot : slot + 64] = np.frombuffer(record, np.uint8)
        self.before = self.harness.memory.copy()
        self.driver.write("WATCHDOG", watchdog)
        self.driver.start(BASE, RING_LOG2)
        self.tail = self.tail + len(records) if tail is None else tail
        self.driver.doorbell(self.tail)

    def finish(self) -> bool:
        return self.harness.run(100_000)

    def recover(self):
        """Reset the core and show that it works: a load and a store arrive."""
        self.harness.inject_errors([])
        self.driver.acknowledge()
        self.driver.soft_reset()
        assert self.driver.fault is None
        assert self.driver.read("HEAD") == 0
        self.tail = 0
        self.begin(load(), pack(Opcode.FENCE), store(), IRQ)
        assert self.finish()
        assert self.driver.fault is None
        assert self.driver.read("TAG") == 0x600D
        offset, source = TARGET - BASE, DATA - BASE
        expected = self.before.copy()
        expected[offset : offset + 128] = self.before[source : source + 128]
        assert np.array_equal(self.harness.memory, expected)


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    machine.harness.close()


def spoil(record: bytes, byte: int, value: int) -> bytes:
    return record[:byte] + bytes([value]) + record[byte + 1 :]


LAST = CONFIG.vmem_rows - 1
BAD = {
    "opcode zero": (bytes(64), FaultCause.ILLEGAL_OPCODE, Engine.CONTROL),
    "opcode unknown": (spoil(IRQ, 0, 0x77), FaultCause.ILLEGAL_OPCODE, Engine.CONTROL),
    "reserved bit": (spoil(IRQ, 63, 0x80), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "no rows": (spoil(spoil(load(), 18, 0), 19, 0), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "precision 3": (spoil(pack(Opcode.QUANT), 1, 3), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "vector operation": (spoil(pack(Opcode.VECTOR), 1, 200), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "lane beyond side": (pack(Opcode.VECTOR, lane_xor=CONFIG.side), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "address register 0": (spoil(STEP, 1, 0x08), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "no body": (spoil(repeat(1, 1), 16, 0), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "no count": (spoil(repeat(1, 1), 20, 0), FaultCause.ILLEGAL_FIELD, Engine.CONTROL),
    "body misaligned": (repeat(1, 1, address=BODY + 32), FaultCause.MISALIGNED, Engine.CONTROL),
    "load address misaligned": (load(address=DATA + 4), FaultCause.MISALIGNED, Engine.LOAD),
    "load stride misaligned": (load(stride=12), FaultCause.MISALIGNED, Engine.LOAD),
    "store address misaligned": (store(address=TARGET + 1), FaultCause.MISALIGNED, Engine.STORE),
    "load beyond the bus": (load(address=1 << CONFIG.addr_width), FaultCause.ADDRESS_RANGE, Engine.LOAD),
    "load across the end": (load(address=(1 << CONFIG.addr_width) - 32), FaultCause.ADDRESS_RANGE, Engine.LOAD),
    "store across the end": (store(address=(1 << 64) - 8), FaultCause.ADDRESS_RANGE, Engine.STORE),
    "load beyond vector memory": (load(local=LAST), FaultCause.LOCAL_RANGE, Engine.LOAD),
    "load to accumulators": (load(local=ACC_SPACE), FaultCause.LOCAL_RANGE, Engine.LOAD),
    "load below zero": (load(local_stride=-1), FaultCause.LOCAL_RANGE, Engine.LOAD),
    "store beyond accumulators": (store(local=ACC_SPACE + CONFIG.acc_rows), FaultCause.LOCAL_RANGE, Engine.STORE),
    "store beyond vector memory": (store(local=CONFIG.vmem_rows), FaultCause.LOCAL_RANGE, Engine.STORE),
    "quant source": (pack(Opcode.QUANT, source=LAST + 1), FaultCause.LOCAL_RANGE, Engine.QUANT),
    "quant tile": (pack(Opcode.QUANT, tile=CONFIG.tiles), FaultCause.LOCAL_RANGE, Engine.QUANT),
    "quant limb plane": (
        pack(Opcode.QUANT, precision=1, limb_stride=CONFIG.tiles), FaultCause.LOCAL_RANGE, Engine.QUANT,
    ),
    "matmul tile A": (pack(Opcode.MATMUL, acc=ACC_SPACE, a_tile=CONFIG.tiles), FaultCause.LOCAL_RANGE, Engine.MATMUL),
    "matmul tile B": (pack(Opcode.MATMUL, acc=ACC_SPACE, b_tile=CONFIG.tiles), FaultCause.LOCAL_RANGE, Engine.MATMUL),
    "matmul A below zero": (
        pack(Opcode.MATMUL, acc=ACC_SPACE, rows=2, count0=9, a_stride0=-1), FaultCause.LOCAL_RANGE, Engine.MATMUL,
    ),
    "matmul not to accumulators": (pack(Opcode.MATMUL, acc=0), FaultCause.LOCAL_RANGE, Engine.MATMUL),
    "matmul beyond accumulators": (
        pack(Opcode.MATMUL, acc=ACC_SPACE + CONFIG.acc_rows), FaultCause.LOCAL_RANGE, Engine.MATMUL,
    ),
    "vector operand": (pack(Opcode.VECTOR, a=LAST, a_stride0=1, count0=4), FaultCause.LOCAL_RANGE, Engine.VECTOR),
    "vector result": (pack(Opcode.VECTOR, dst=LAST, dst_stride0=1, count0=4), FaultCause.LOCAL_RANGE, Engine.VECTOR),
    "vector result in accumulators": (pack(Opcode.VECTOR, dst=ACC_SPACE), FaultCause.LOCAL_RANGE, Engine.VECTOR),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_command(machine, name):
    """The command is named, no byte of memory changes, and the core works again after a reset."""
    record, cause, engine = BAD[name]
    nop = pack(Opcode.NOP)
    machine.begin(nop, nop, record, store(), IRQ) if engine is Engine.CONTROL else machine.begin(nop, nop, record)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert fault is not None
    assert (fault.cause, fault.engine, fault.index) == (cause, engine, 2)
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


@pytest.mark.parametrize("response", [BusResponse.SLVERR, BusResponse.DECERR])
@pytest.mark.parametrize("beat", [0, 1, 7, 15])
@pytest.mark.parametrize("verb", ["read", "write"])
def test_bus_error(machine, verb, beat, response):
    """An error response in any beat stops the engine; nothing beyond the command's target is written."""
    write = verb == "write"
    bad = (TARGET if write else DATA) + 8 * beat
    machine.harness.inject_errors([ErrorRange(bad, bad + 7, response, write)])
    machine.harness.configure(latency=10, stalls=Stalls(r=0.3, w=0.3, b=0.3), seed=beat)
    machine.begin(load(), pack(Opcode.FENCE), store(), IRQ)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert fault is not None
    assert fault.cause == (FaultCause.BUS_WRITE if write else FaultCause.BUS_READ)
    assert fault.index == (2 if write else 0)
    assert bad & ~0xFFF <= fault.address <= bad
    inside = slice(TARGET - BASE, TARGET - BASE + 128)
    machine.harness.memory[inside] = machine.before[inside]
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


@pytest.mark.parametrize("response", [BusResponse.SLVERR, BusResponse.DECERR])
def test_fetch_error(machine, response):
    """A record that cannot be read is a fault of its own index; records before it have run."""
    machine.harness.inject_errors([ErrorRange(BASE + 128, BASE + 191, response, False)])
    machine.begin(load(), pack(Opcode.NOP), pack(Opcode.NOP), IRQ)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert fault is not None
    assert (fault.cause, fault.engine, fault.index) == (FaultCause.BUS_FETCH, Engine.CONTROL, 2)
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("bad", ["opcode zero", "reserved bit", "address register 0", "no count", "nested", "fetch"])
def test_bad_record_in_a_body(machine, bad, place):
    """It is named by its index in the order of execution; memory is untouched, and a reset recovers."""
    record, cause, _ = {
        "nested": (repeat(1, 1), FaultCause.NESTED_REPEAT, 0),
        "fetch": (NOP, FaultCause.BUS_FETCH, 0),
    }.get(bad, BAD.get(bad))
    machine.put_body(*[NOP] * place, record, NOP)
    where = BODY + 64 * place
    if bad == "fetch":
        machine.harness.inject_errors([ErrorRange(where + 16, where + 16, BusResponse.SLVERR, False)])
    machine.begin(NOP, NOP, repeat(place + 2, 7), store(), IRQ)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert (fault.cause, fault.engine, fault.index) == (cause, Engine.CONTROL, 3 + place)
    assert fault.address == (where if bad == "fetch" else 0)
    assert machine.driver.read("HEAD") == 3
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        (BODY + 32, FaultCause.MISALIGNED),
        (1 << CONFIG.addr_width, FaultCause.BUS_FETCH),
        ((1 << 64) - 64, FaultCause.BUS_FETCH),
        (BASE + SIZE, FaultCause.BUS_FETCH),
    ],
)
def test_bad_body(machine, address, cause):
    """The address that a register and the record give together is judged, and reported."""
    machine.begin(pack(Opcode.ADDRESS, number=5, value=address - 192), repeat(4, 4, address=192, base=5), store(), IRQ)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert (fault.cause, fault.engine, fault.address) == (cause, Engine.CONTROL, address)
    assert fault.index == (1 if cause == FaultCause.MISALIGNED else 2)
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


@pytest.mark.parametrize(("verb", "start"), [("load", DATA), ("store", TARGET)])
@pytest.mark.parametrize(
    ("total", "cause"),
    [
        (DATA + 4, FaultCause.MISALIGNED),
        (1 << CONFIG.addr_width, FaultCause.ADDRESS_RANGE),
        ((1 << 64) - 8, FaultCause.ADDRESS_RANGE),
    ],
)
def test_bad_sum(machine, verb, start, total, cause):
    """LOAD and STORE are judged by the address with its register; a sum below 0 is one far above."""
    setting = pack(Opcode.ADDRESS, number=7, value=(total - start) % (1 << 64))
    machine.begin(NOP, setting, load(base=7) if verb == "load" else store(base=7))
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert (fault.cause, fault.engine, fault.index) == (cause, Engine[verb.upper()], 2)
    assert fault.address == total
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


def test_watchdog_in_a_body(machine):
    """The command of the third round that waits for ever is found."""
    machine.put_body(NOP, load(wait=1 << 5), NOP)
    machine.begin(*[pack(Opcode.NOP, post=1 << 5)] * 2, repeat(3, 9), IRQ, watchdog=500)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert (fault.cause, fault.engine, fault.index) == (FaultCause.WATCHDOG, Engine.LOAD, 3 + 2 * 3 + 1)
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


def test_reset_in_a_loop(machine):
    """It ends a loop without an end and clears the address registers, whatever cycle it comes in."""
    machine.put_body(STEP, load(), NOP, store(wait=1))
    for cycles in range(60, 400, 9):
        machine.harness.configure(latency=1 + cycles % 30, stalls=Stalls(r=0.2, w=0.4, b=0.4, aw=0.4), seed=cycles)
        machine.tail = 0
        machine.begin(STEP, pack(Opcode.NOP, post=1), repeat(4 if cycles % 2 else 3, (1 << 32) - 1), IRQ)
        machine.harness.run(cycles)
        assert not machine.driver.idle
        machine.driver.soft_reset()
        assert machine.harness.outstanding == 0
        machine.recover()
        machine.begin(store(base=1, address=TARGET + 128), IRQ)
        assert machine.finish()
        start = TARGET - BASE
        assert np.array_equal(*(machine.harness.memory[at : at + 128] for at in (start, start + 128)))
        machine.driver.acknowledge()
        machine.driver.soft_reset()


def test_loop_leaves_an_idle_core(machine):
    """A loop at the end of the ring: the core is idle when it is over, HEAD has counted the REPEAT once."""
    machine.put_body(load(), STEP, NOP)
    machine.begin(repeat(3, 50))
    for _ in range(200):
        machine.harness.run(20)
        if machine.driver.idle:
            break
    assert machine.driver.idle
    assert machine.driver.read("HEAD") == 1
    assert machine.driver.counters()["COMMANDS"] == 1 + 150
    machine.begin(load(local=CONFIG.vmem_rows), tail=2)
    assert machine.finish()
    assert machine.driver.fault.index == 151


def test_memory_outside_answers_decerr(machine):
    """A ring outside the memory: the fetch itself faults."""
    machine.begin(IRQ)
    machine.finish()
    machine.driver.acknowledge()
    machine.driver.soft_reset()
    machine.driver.start(BASE + SIZE, RING_LOG2)
    machine.driver.doorbell(1)
    assert machine.finish()
    assert machine.driver.fault.cause == FaultCause.BUS_FETCH
    machine.recover()


def test_watchdog(machine):
    """An engine that waits for ever is found, with the index of the command that waits."""
    machine.begin(pack(Opcode.NOP), load(wait=1 << 5), IRQ, watchdog=500)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert fault is not None
    assert (fault.cause, fault.index) == (FaultCause.WATCHDOG, 1)
    assert np.array_equal(machine.harness.memory, machine.before)
    machine.recover()


def test_ring_overrun(machine):
    """A doorbell more than a ring ahead is refused before anything is fetched."""
    machine.begin(load(), IRQ, tail=17)
    assert machine.finish(), "no interrupt"
    assert machine.driver.fault.cause == FaultCause.RING_OVERRUN
    assert machine.harness.beats == (0, 0)
    machine.recover()


def test_ring_overrun_behind_a_loop(machine):
    """HEAD counts the ring only, and the index everything."""
    machine.put_body(NOP, STEP)
    machine.begin(NOP, repeat(2, 20))
    machine.harness.run(2000)
    assert machine.driver.idle
    machine.driver.doorbell(2 + 17)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert (fault.cause, fault.engine, fault.index) == (FaultCause.RING_OVERRUN, Engine.CONTROL, 42)
    assert machine.driver.read("HEAD") == 2
    machine.recover()


def test_full_ring_is_no_overrun(machine):
    """Exactly a ring of records is allowed."""
    machine.begin(*[pack(Opcode.NOP)] * 15, IRQ)
    assert machine.finish()
    assert machine.driver.fault is None
    assert machine.driver.read("HEAD") == 16


def test_semaphore_overflow(machine):
    """The 256th post without a wait is a fault of the posting command."""
    posts = [pack(Opcode.NOP, post=1)] * 16
    index = 0
    machine.begin(*posts)
    for _ in range(15):
        machine.harness.run(1500)
        assert machine.driver.fault is None
        machine.begin(*posts)
    assert machine.finish(), "no interrupt"
    fault = machine.driver.fault
    assert fault is not None
    assert (fault.cause, fault.index) == (FaultCause.SEMAPHORE_OVERFLOW, 255 + index)
    machine.recover()


def test_reset_at_any_time(machine):
    """A soft reset in the middle of a job, at many different cycles: the bus is left clean, and the core works."""
    for cycles in range(1, 400, 7):
        machine.harness.configure(latency=30, stalls=Stalls(r=0.2, w=0.4, b=0.4, aw=0.4), seed=cycles)
        machine.tail = 0
        machine.begin(load(rows=8, local_stride=4), pack(Opcode.FENCE), store(rows=8), IRQ)
        machine.harness.run(cycles)
        machine.driver.soft_reset()
        assert machine.harness.outstanding == 0
        machine.recover()
