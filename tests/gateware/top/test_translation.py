"""The core behind page tables: faults to the byte, as the simulator has them, and invalidation under way."""

import numpy as np
import pytest
from lepton_npu.spec.commands import COMMANDS, Engine, FaultCause, Opcode
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.page_table import PageTable, entry
from lepton_npu.spec.translation import PAGE_BYTES, PPN_LSB, Access, Invalidate, Pte
from lepton_sim.core import core_library
from lepton_sim.harness import BusResponse, ErrorRange, Harness, Stalls
from lepton_verif.model.iss import Iss
from leptonaicsdk.driver import Driver

pytestmark = pytest.mark.verilator

CONFIG = PRESETS["tiny"]
BASE = 0x40_0000  # of the memory
SIZE = 1 << 17
RING_LOG2 = 6
CODE, DATA = 0x12_3456_7000, (1 << 38) - 8 * 4096  # virtual; DATA is the last below the gap
PAGES = 8  # of each
ASID = 7
IRQ = COMMANDS[Opcode.IRQ].pack(tag=0x7AB1E)
FENCE = COMMANDS[Opcode.FENCE].pack()


def transfer(opcode: Opcode, address: int, **fields: int) -> bytes:
    shape = {"rows": 1, "words": 16, "stride": 64, "local": 0, "local_stride": 4} | fields
    return COMMANDS[opcode].pack(address=address % (1 << 64), **shape)


class Machine:
    """A core whose ring is at CODE, and data at DATA; frames are in a random order."""

    def __init__(self, rng: np.random.Generator):
        self.harness = Harness(core_library(CONFIG), SIZE, base=BASE)
        self.memory = self.harness.memory
        self.driver = Driver(self.harness)
        self.memory[:] = rng.integers(0, 256, SIZE, np.uint8)
        self.frames = [int(frame) for frame in BASE // PAGE_BYTES + rng.permutation(SIZE // PAGE_BYTES)]
        free = iter(self.frames)

        def empty():
            for frame in free:
                at = frame * PAGE_BYTES - BASE
                self.memory[at : at + PAGE_BYTES] = 0
                yield frame

        self.table = PageTable(empty())
        self.place = {}
        for first in (CODE, DATA):
            for page in range(first, first + PAGES * PAGE_BYTES, PAGE_BYTES):
                self.place[page] = next(free) * PAGE_BYTES
                self.table.map_page(page, self.place[page])
        self.spare = next(free) * PAGE_BYTES
        self.sound = dict(self.table.entries)
        self.write_table()
        self.stalls: Stalls | None = None

    def write_table(self):
        self.table.write(self.memory.data, BASE)

    def change(self, page: int, bits: int):
        """Write the leaf of a page."""
        self.table.entries[self.table.place(page, 0)] = bits
        self.write_table()

    def at(self, address: int, size: int) -> np.ndarray:
        """Bytes of one page."""
        start = self.place[address // PAGE_BYTES * PAGE_BYTES] + address % PAGE_BYTES - BASE
        return self.memory[start : start + size]

    def put(self, address: int, *records: bytes):
        for number, record in enumerate(records):
            self.at(address + 64 * number, 64)[:] = np.frombuffer(record, np.uint8)

    def start(self, *records: bytes, ring: int = CODE):
        """Write records into the ring, and ring the doorbell."""
        self.put(ring, *records)
        self.before = self.memory.copy()
        self.iss = Iss(CONFIG, self.before.copy(), base=BASE)
        self.iss.translate(self.table.root)
        self.ring, self.records = ring, len(records)
        self.harness.configure(latency=15, stalls=self.stalls, seed=3)
        self.driver.write("WATCHDOG", 5000)
        self.driver.translate(self.table.root, ASID)
        self.driver.start(ring, RING_LOG2)
        self.driver.doorbell(len(records))

    def finish(self):
        """Run to the interrupt; fault and memory are the simulator's."""
        assert self.harness.run(400_000), "no interrupt"
        found, expected = self.driver.fault, self.iss.run(self.ring, RING_LOG2, self.records)
        if expected is None:
            assert found is None, str(found)
            assert self.driver.read("TAG") == 0x7AB1E
            assert np.array_equal(self.memory, self.iss.memory)
        else:
            assert str(found) == str(expected)
        return found

    def recover(self):
        """Reset; a LOAD and a STORE then arrive, with a sound table."""
        self.harness.inject_errors([])
        self.table.entries.update(self.sound)
        self.write_table()
        self.driver.acknowledge()
        self.driver.soft_reset()
        assert self.driver.fault is None
        self.start(transfer(Opcode.LOAD, DATA), FENCE, transfer(Opcode.STORE, DATA + PAGE_BYTES), IRQ)
        assert self.finish() is None


@pytest.fixture
def machine(seed):
    machine = Machine(np.random.default_rng(seed))
    yield machine
    assert machine.harness.outstanding == 0
    machine.harness.close()


NO_WRITE = Pte.V | Pte.R | Pte.U | Pte.A
BEYOND = 1 << CONFIG.addr_width - 12


@pytest.mark.parametrize("kind", ["page", "beyond the bus", "table not readable"])
@pytest.mark.parametrize("verb", ["load", "store"])
@pytest.mark.parametrize(
    ("offset", "fields", "first"),
    [
        (2 * PAGE_BYTES, {}, 0),  # the first byte
        (2 * PAGE_BYTES - 64, {"words": 64}, 64),  # a border in the middle of a row
        (2 * PAGE_BYTES - 8, {"rows": 2, "stride": 8, "words": 2}, 8),  # of a strided command: row 1
        (2 * PAGE_BYTES - 3 * 512, {"rows": 8, "stride": 512}, 3 * 512),
        (4 * PAGE_BYTES, {"rows": 9, "stride": -512}, -1 * 512 * 3),  # downwards: row 3 begins in page 3
        (PAGE_BYTES, {"rows": 2, "stride": PAGE_BYTES, "words": 8}, PAGE_BYTES),
    ],
)
def test_fault_of_a_transfer(machine, seed, kind, verb, offset, fields, first):
    """Cause, engine, index and the very byte; what is not the command's target stays as it was."""
    bad = DATA + (3 if fields.get("stride", 0) < 0 else 2) * PAGE_BYTES
    address = DATA + offset
    expected = bad if fields.get("stride", 0) >= 0 else None
    flags = Pte.V | Pte.R | Pte.W | Pte.U | Pte.A | Pte.D
    if kind == "page":
        machine.change(bad, entry(machine.place[bad] >> 12, NO_WRITE if verb == "store" else flags & ~Pte.A))
    elif kind == "beyond the bus":
        machine.change(bad, entry(BEYOND, flags))
    else:
        machine.table.entries[machine.table.place(bad, 1)] = entry(SIZE + BASE >> 12, Pte.V)
        machine.write_table()
        expected = None  # the table of all pages of DATA
    machine.stalls = Stalls.random(np.random.default_rng(seed))
    opcode = Opcode.LOAD if verb == "load" else Opcode.STORE
    machine.start(FENCE, transfer(opcode, address, **fields), FENCE, IRQ)
    fault = machine.finish()
    name = ("PAGE_" if kind == "page" else "ACCESS_") + ("READ" if verb == "load" else "WRITE")
    assert (fault.cause, fault.engine, fault.index) == (FaultCause[name], Engine[verb.upper()], 1)
    if expected is not None:
        assert fault.address == expected
    pages = [p for p in machine.place if DATA <= p < DATA + PAGES * PAGE_BYTES and p != bad]
    for page in pages if verb == "store" else []:
        machine.at(page, PAGE_BYTES)[:] = machine.before[machine.place[page] - BASE :][:PAGE_BYTES]
    assert np.array_equal(machine.memory, machine.before)
    machine.recover()


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        (1 << 38, FaultCause.PAGE_READ),  # not canonical
        ((1 << 64) - (1 << 38) - 64, FaultCause.PAGE_READ),
        ((1 << 64) - 4096, FaultCause.PAGE_READ),  # canonical, not mapped
        (0, FaultCause.PAGE_READ),
        ((1 << 64) - 32, FaultCause.ADDRESS_RANGE),  # beyond all addresses
    ],
)
def test_addresses(machine, address, cause):
    machine.start(transfer(Opcode.LOAD, address))
    fault = machine.finish()
    assert (fault.cause, fault.engine, fault.index, fault.address) == (cause, Engine.LOAD, 0, address)
    machine.recover()


@pytest.mark.parametrize("kind", ["page", "beyond the bus"])
@pytest.mark.parametrize("where", ["ring", "body"])
def test_fault_of_a_fetch(machine, kind, where):
    """Records before it have run; its index and its address are those of the record."""
    bad = CODE + PAGE_BYTES
    flags = Pte.V | Pte.R | Pte.U | Pte.A
    machine.change(bad, entry(machine.place[bad] >> 12, flags & ~Pte.U) if kind == "page" else entry(BEYOND, flags))
    last = transfer(Opcode.STORE, DATA + 512)
    if where == "ring":
        machine.start(*[FENCE] * 3, last, FENCE, FENCE, ring=bad - 4 * 64)
        index = 4
    else:
        machine.put(bad - 128, FENCE, last)
        machine.start(FENCE, COMMANDS[Opcode.REPEAT].pack(address=bad - 128, records=5, count=3), IRQ)
        index = 4
    fault = machine.finish()
    cause = FaultCause.PAGE_FETCH if kind == "page" else FaultCause.ACCESS_FETCH
    assert (fault.cause, fault.engine, fault.index, fault.address) == (cause, Engine.CONTROL, index, bad)
    machine.recover()


def test_ring_and_body_over_pages(machine):
    """A ring and a body that go over page borders, a body read again and again, and jumps between them."""
    body = CODE + 3 * PAGE_BYTES - 5 * 64
    step = COMMANDS[Opcode.ADDRESS].pack(number=1, add=1, value=256)
    machine.put(body, *[FENCE] * 4)
    store = transfer(Opcode.STORE, DATA + 4 * PAGE_BYTES, base=1)
    machine.put(body + 4 * 64, transfer(Opcode.LOAD, DATA, base=1), FENCE, store, step)
    repeat = COMMANDS[Opcode.REPEAT].pack(address=body, records=8, count=20)
    machine.start(*[FENCE] * 5, repeat, *[FENCE] * 5, repeat, IRQ, ring=CODE + PAGE_BYTES - 7 * 64)
    assert machine.finish() is None
    assert machine.driver.counters()["TLB_MISSES"] < machine.driver.counters()["COMMANDS"]


def test_random_faults(seed):
    """Programs of one command after the other, over a table with random holes: the simulator's fault, to the byte."""
    found = set()
    for number in range(40):
        rng = np.random.default_rng([seed, number])
        machine = Machine(rng)
        for page in list(machine.place):
            if page >= DATA and rng.random() < 0.2:
                bits = entry(machine.place[page] >> 12, 0xD7)
                # Not the bits that name another frame of the memory: that could be one of a table.
                flip = rng.integers(PPN_LSB + 5, 64) if rng.random() < 0.3 else rng.integers(0, 8)
                machine.change(page, int(bits) ^ 1 << int(flip))
        records = []
        for _ in range(14):
            words, rows = int(rng.integers(1, 500)), int(rng.integers(1, 12))
            stride = int(rng.choice([-1, 1])) * int(rng.integers(0, 300)) * 8
            start = DATA + int(rng.integers(0, PAGES * PAGE_BYTES // 8)) * 8
            fields = {"rows": rows, "words": words, "stride": stride, "local_stride": int(rng.integers(0, 3))}
            low = min(start, start + stride * (rows - 1))
            high = max(start, start + stride * (rows - 1)) + 4 * words
            if low >= DATA and high <= DATA + PAGES * PAGE_BYTES:
                opcode = Opcode.LOAD if rng.random() < 0.5 else Opcode.STORE
                records += [transfer(opcode, start, **fields), FENCE]
        machine.stalls = Stalls.random(rng)
        machine.start(*records, IRQ)
        fault = machine.finish()
        found.add(fault.cause if fault else None)
        machine.harness.close()
    assert {None, FaultCause.PAGE_READ, FaultCause.PAGE_WRITE} <= found


def test_error_on_the_bus_names_the_virtual_address(machine):
    for opcode, cause in ((Opcode.LOAD, FaultCause.BUS_READ), (Opcode.STORE, FaultCause.BUS_WRITE)):
        page = machine.place[DATA + PAGE_BYTES]
        machine.harness.inject_errors([ErrorRange(page, page + 7, BusResponse.DECERR, opcode == Opcode.STORE)])
        machine.start(transfer(opcode, DATA + PAGE_BYTES - 64, words=64), IRQ)
        assert machine.harness.run(100_000)
        fault = machine.driver.fault
        assert (fault.cause, fault.index, fault.address) == (cause, 0, DATA + PAGE_BYTES)
        machine.recover()
        machine.driver.acknowledge()
        machine.driver.soft_reset()


@pytest.mark.parametrize("access", Access)
@pytest.mark.parametrize("response", [BusResponse.SLVERR, BusResponse.DECERR])
@pytest.mark.parametrize("level", [2, 1, 0])
def test_error_of_a_walk(machine, access, response, level):
    """An error response to the walker is an access fault of the access, never a page fault."""
    address = {Access.READ: DATA, Access.WRITE: DATA + PAGE_BYTES, Access.FETCH: CODE + PAGE_BYTES}[access]
    place = machine.table.place(address, level)
    if level == 0 or access != Access.FETCH:
        machine.harness.inject_errors([ErrorRange(place, place + 7, response, False)])
        record = {
            Access.READ: transfer(Opcode.LOAD, address),
            Access.WRITE: transfer(Opcode.STORE, address),
            Access.FETCH: COMMANDS[Opcode.REPEAT].pack(address=address, records=1, count=1),
        }[access]
        machine.start(record, IRQ)
        assert machine.harness.run(100_000)
        fault = machine.driver.fault
        assert fault.cause == FaultCause[f"ACCESS_{access.name}"]
        assert fault.address == address
        machine.recover()
    else:  # the table of the whole ring
        machine.harness.inject_errors([ErrorRange(place, place + 7, response, False)])
        machine.start(FENCE, IRQ)
        assert machine.harness.run(100_000)
        fault = machine.driver.fault
        assert (fault.cause, fault.index, fault.address) == (FaultCause.ACCESS_FETCH, 0, CODE)
        machine.recover()


OTHER = ASID ^ 0x55


@pytest.mark.parametrize(
    ("kind", "asid", "address", "takes"),
    [
        (Invalidate.ALL, 0, 0, True),
        (Invalidate.ASID, ASID, 0, True),
        (Invalidate.ADDRESS, 0, DATA + 0x123, True),
        (Invalidate.ASID_ADDRESS, ASID, DATA + 0xFFF, True),
        (Invalidate.ASID, OTHER, 0, False),
        (Invalidate.ADDRESS, 0, DATA + PAGE_BYTES, False),
        (Invalidate.ASID_ADDRESS, OTHER, DATA, False),
    ],
)
@pytest.mark.parametrize("when", [700, 1234, 1511])
def test_invalidation_under_way(machine, kind, asid, address, takes, when):
    """A page is moved while a body loads from it. When the invalidation is over, its old frame is not read any more.

    Errors at the old frame show whether it is; those that were not to be invalidated show that it would be.
    """
    old = machine.place[DATA]
    body = CODE + 2 * PAGE_BYTES
    machine.put(body, transfer(Opcode.LOAD, DATA, rows=8, words=8, stride=32))
    machine.stalls = Stalls(ar=0.3, r=0.3)
    machine.start(
        COMMANDS[Opcode.REPEAT].pack(address=body, records=1, count=100), FENCE,
        transfer(Opcode.STORE, DATA + PAGE_BYTES), IRQ,
    )  # fmt: skip
    assert not machine.harness.run(when)
    new = machine.memory[machine.spare - BASE :][:PAGE_BYTES].copy()
    machine.change(DATA, entry(machine.spare >> 12, 0xD7))
    machine.driver.invalidate(kind, asid=asid, address=address)
    machine.harness.inject_errors([ErrorRange(old, old + PAGE_BYTES - 1, BusResponse.SLVERR, False)])
    assert machine.harness.run(400_000)
    fault = machine.driver.fault
    if takes:
        assert fault is None, str(fault)
        assert np.array_equal(machine.at(DATA + PAGE_BYTES, 16), new[:16])
        assert machine.driver.read("TAG") == 0x7AB1E
    else:
        assert fault.cause == FaultCause.BUS_READ
        assert DATA <= fault.address < DATA + 8 * 32
    machine.place[DATA] = old
    machine.recover()


@pytest.mark.parametrize("what", ["body", "ring", "store"])
@pytest.mark.parametrize("when", [900, 1357])
def test_invalidation_of_what_is_held(machine, what, when):
    """The pages of a body that runs, of the ring, and of a target: their old frames are not used any more."""
    body = CODE + 2 * PAGE_BYTES
    machine.put(body, transfer(Opcode.STORE, DATA, rows=8, words=8, stride=32), FENCE, FENCE)
    machine.start(*[COMMANDS[Opcode.REPEAT].pack(address=body, records=3, count=30)] * 3, FENCE, FENCE, IRQ)
    assert not machine.harness.run(when)
    page = {"body": body, "ring": CODE, "store": DATA}[what]
    old = machine.place[page]
    machine.memory[machine.spare - BASE :][:PAGE_BYTES] = machine.at(page, PAGE_BYTES)
    machine.change(page, entry(machine.spare >> 12, 0xD7))
    machine.driver.invalidate(Invalidate.ADDRESS, address=page)
    machine.harness.inject_errors([ErrorRange(old, old + PAGE_BYTES - 1, BusResponse.SLVERR, what == "store")])
    assert machine.harness.run(400_000)
    assert machine.driver.fault is None, str(machine.driver.fault)
    assert machine.driver.read("TAG") == 0x7AB1E
    machine.recover()


def test_invalidations_at_any_time(machine, seed):
    """Pages move between two frames with the same content, again and again, under a program of loads and stores."""
    rng = np.random.default_rng(seed)
    body = CODE + 2 * PAGE_BYTES - 3 * 64
    machine.put(body, transfer(Opcode.LOAD, DATA + 4000, rows=6, words=40, stride=160), FENCE, FENCE)
    machine.put(body + 192, transfer(Opcode.STORE, DATA + 3 * PAGE_BYTES - 400, rows=6, words=40, stride=160), FENCE)
    machine.stalls = Stalls.random(rng)
    machine.start(COMMANDS[Opcode.REPEAT].pack(address=body, records=5, count=120), IRQ)
    frames = [machine.place[DATA], machine.spare]
    machine.memory[machine.spare - BASE :][:PAGE_BYTES] = machine.at(DATA, PAGE_BYTES)
    moves = 0
    while not machine.harness.run(int(rng.integers(1, 300))):
        moves += 1
        here, there = frames[moves % 2], frames[1 - moves % 2]
        machine.harness.inject_errors([])  # a walk may find the new frame before the old one is forgotten
        machine.change(DATA, entry(here >> 12, 0xD7))
        machine.driver.invalidate(Invalidate.ADDRESS, address=DATA)
        errors = [ErrorRange(there, there + PAGE_BYTES - 1, BusResponse.SLVERR, False)]
        machine.harness.inject_errors(errors)
    assert moves > 20
    assert machine.driver.fault is None, str(machine.driver.fault)
    assert machine.iss.run(machine.ring, RING_LOG2, machine.records) is None
    for page in range(DATA + PAGE_BYTES, DATA + PAGES * PAGE_BYTES, PAGE_BYTES):
        place = machine.place[page] - BASE
        assert np.array_equal(machine.memory[place:][:PAGE_BYTES], machine.iss.memory[place:][:PAGE_BYTES])


def test_reset_in_a_walk(machine):
    """A soft reset at any time of a program's first walks: answered, the bus is quiet, and the next program runs."""
    for cycles in range(0, 200, 3):
        machine.start(transfer(Opcode.LOAD, DATA), transfer(Opcode.STORE, DATA + PAGE_BYTES), IRQ)
        machine.harness.run(cycles)
        machine.driver.soft_reset()
        assert machine.harness.outstanding == 0
        machine.driver.acknowledge()
    machine.recover()
