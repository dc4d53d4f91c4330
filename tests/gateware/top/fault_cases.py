"""A program for every cell of the fault coverage: a bad command, alone or among others, and the fault it must give."""

from dataclasses import dataclass, field

import numpy as np
from lepton_npu.spec.commands import SEMAPHORE_MAX, SEMAPHORES, Engine, FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE, PRESETS
from lepton_npu.spec.page_table import READ_ONLY, READ_WRITE, PageTable, entry
from lepton_npu.spec.translation import PAGE_BYTES, PTE_BYTES, RESERVED_LSB, Access, Pte
from lepton_sim.harness import BusResponse, ErrorRange, Order, Stalls
from lepton_verif.coverage.faults import Cell, access_of
from lepton_verif.model.translation import BusError, translate

from tests.gateware.top.bus_bench import TAG, BusBench, pack, ring_log2, transfer

__all__ = ["CONFIG", "Case", "FaultBench", "case_of"]

CONFIG = PRESETS["tiny"]
BASE, PAGES = 0x40_0000, 32
SEMAPHORE = SEMAPHORES - 1  # of the bad command
WATCHDOG = 3000
BEYOND = 1 << CONFIG.addr_width
FENCE, IRQ, NOP = pack(Opcode.FENCE), pack(Opcode.IRQ, tag=TAG), pack(Opcode.NOP)
SPOT = 5 << 30 | 3 << 21 | 7 << 12
"""Virtual address of the access that fails: its entries are used by nothing else but the root's table."""


@dataclass
class Case:
    """Records of the ring and of the body at `BODY`, and what they do.

    Attributes
    ----------
    before : int
        Commands that are executed, besides those before ``records``, before the one that fails.
    address : int
        FAULT_ADDRESS.
    root : int or None
        Page number of another root than that of the table.
    tail : int
        Records to announce beyond those that there are.
    """

    records: list[bytes]
    body: list[bytes] = field(default_factory=list)
    before: int = 0
    address: int = 0
    root: int | None = None
    error: ErrorRange | None = None
    tail: int = 0


class FaultBench(BusBench):
    """A core with a page table: ring, body, data and target are at the same places virtually and physically."""

    def __init__(self, rng: np.random.Generator):
        super().__init__(CONFIG, PAGES * PAGE_BYTES, BASE, rng)
        self.ring, self.body, self.data, self.target, self.page = (BASE + n * PAGE_BYTES for n in range(5))
        self.sound = self.image.copy()
        self.restore()

    def restore(self):
        """A sound image, and a table that maps the first pages to themselves, and `SPOT` to ``page``."""
        self.image[:] = self.sound
        frames = range(BASE // PAGE_BYTES + 8, BASE // PAGE_BYTES + PAGES)
        for frame in frames:
            self.image[self.at(frame * PAGE_BYTES, PAGE_BYTES)] = 0
        self.table = PageTable(iter(frames))
        for address in (self.ring, self.body, self.data, self.target):
            self.table.map_page(address, address)
        self.table.map_page(SPOT, self.page)

    def word(self, address: int, error: ErrorRange | None) -> int:
        """A word of the image, for the model of translation."""
        if error is not None and error.first <= address <= error.last:
            raise BusError
        return int.from_bytes(self.image[self.at(address, PTE_BYTES)].tobytes(), "little")


def good(bench: FaultBench, engine: Engine, **fields: int) -> bytes:
    """A command of the engine that does not fail."""
    return {
        Engine.CONTROL: lambda: pack(Opcode.NOP, **fields),
        Engine.LOAD: lambda: transfer(Opcode.LOAD, bench.data, 8, **fields),
        Engine.STORE: lambda: transfer(Opcode.STORE, bench.target, 8, **fields),
        Engine.QUANT: lambda: pack(Opcode.QUANT, **fields),
        Engine.MATMUL: lambda: pack(Opcode.MATMUL, acc=ACC_SPACE, **fields),
        Engine.VECTOR: lambda: pack(Opcode.VECTOR, **fields),
    }[engine]()


def spoil(record: bytes, byte: int, value: int) -> bytes:
    return record[:byte] + bytes([value]) + record[byte + 1 :]


def access_record(bench: FaultBench, access: Access, address: int) -> Case:
    """A command that makes an access at an address, which is that of the fault."""
    if access == Access.FETCH:
        return Case([pack(Opcode.REPEAT, address=address, records=1, count=1)], before=1, address=address)
    opcode = Opcode.LOAD if access == Access.READ else Opcode.STORE
    return Case([transfer(opcode, address, 8)], address=address)


def case_of(bench: FaultBench, cell: Cell) -> Case:
    """The program of a cell; of a translation it has made the table that it needs, in the bench's image."""
    cause, engine = cell.cause, cell.engine
    access = access_of(cause)
    if access is not None and cause.name.startswith("BUS"):
        address = {Access.READ: bench.data, Access.WRITE: bench.target, Access.FETCH: bench.body}[access]
        if cell.way == "beyond the bus":
            return access_record(bench, access, BEYOND)
        case = access_record(bench, access, address)
        case.body = [NOP]
        case.error = ErrorRange(address, address + 7, BusResponse[cell.way], access == Access.WRITE)
        return case
    if access is not None:
        return translation_case(bench, access, cell.way)
    if cause == FaultCause.ILLEGAL_OPCODE:
        return Case([bytes(64)])
    if cause == FaultCause.ILLEGAL_FIELD:
        return Case([spoil(IRQ, 63, 0x80)])
    if cause == FaultCause.NESTED_REPEAT:
        nested = pack(Opcode.REPEAT, address=bench.body, records=1, count=1)
        return Case([nested], body=[nested], before=1)
    if cause == FaultCause.RING_OVERRUN:
        return Case([], tail=1)
    if cause == FaultCause.MISALIGNED:
        if engine == Engine.CONTROL:
            return Case([pack(Opcode.REPEAT, address=bench.body + 32, records=1, count=1)], address=bench.body + 32)
        return Case([transfer(Opcode[engine.name], bench.data + 4, 8)], address=bench.data + 4)
    if cause == FaultCause.ADDRESS_RANGE:
        return Case([transfer(Opcode[engine.name], BEYOND - 16, 8)], address=BEYOND - 16)
    if cause == FaultCause.LOCAL_RANGE:
        beyond = CONFIG.vmem_rows
        if engine in (Engine.LOAD, Engine.STORE):
            return Case([good(bench, engine, local=beyond)], address=beyond)
        record, where = {
            Engine.QUANT: (pack(Opcode.QUANT, source=beyond), beyond),
            Engine.MATMUL: (pack(Opcode.MATMUL, acc=0), 0),
            Engine.VECTOR: (pack(Opcode.VECTOR, dst=ACC_SPACE), ACC_SPACE),
        }[engine]
        return Case([record], address=where)
    if cause == FaultCause.WATCHDOG:
        return Case([good(bench, engine, wait=1 << SEMAPHORE)])
    if cause == FaultCause.SEMAPHORE_OVERFLOW:
        body = [good(bench, engine, post=1 << SEMAPHORE)]
        repeat = pack(Opcode.REPEAT, address=bench.body, records=1, count=SEMAPHORE_MAX + 1)
        return Case([repeat], body=body, before=1 + SEMAPHORE_MAX)
    raise NotImplementedError(f"no program for {cell}")


def translation_case(bench: FaultBench, access: Access, way: str) -> Case:
    """An access of `SPOT` whose walk fails in one way; the model agrees that it does."""
    if way == "not canonical":
        return access_record(bench, access, 1 << 38)
    rule, _, level = way.rpartition(" at level ")
    place, aligned, far = bench.table.place(SPOT, int(level)), 0, BEYOND // PAGE_BYTES
    case = access_record(bench, access, SPOT)
    leaf = READ_WRITE
    bits = {
        "not valid": entry(aligned, leaf & ~Pte.V),
        "W without R": entry(aligned, leaf & ~Pte.R),
        "reserved bit": entry(aligned, leaf) | 1 << RESERVED_LSB,
        "not permitted": entry(aligned, READ_ONLY if access == Access.WRITE else leaf & ~Pte.U),
        "pointer": entry(bench.table.root, Pte.V),
        "pointer marked A": entry(bench.table.root, Pte.V | Pte.A),
        "misaligned": entry(1, leaf),
        "page beyond the bus": entry(far, leaf),
    }
    if rule in bits:
        bench.table.entries[place] = bits[rule]
    elif rule == "table beyond the bus":
        if int(level) == 2:
            return Case([NOP], address=bench.ring, root=far)
        bench.table.entries[bench.table.place(SPOT, int(level) + 1)] = entry(far, Pte.V)
    else:
        case.error = ErrorRange(place, place + PTE_BYTES - 1, BusResponse[rule], False)
    return case


def check_by_model(bench: FaultBench, cell: Cell, case: Case):
    """The model of translation finds the same fault in the tables of the image."""
    access = access_of(cell.cause)
    root = bench.table.root if case.root is None else case.root
    found = translate(
        lambda address: bench.word(address, case.error), root, case.address, access, addr_width=CONFIG.addr_width
    )
    assert FaultCause[found.fault.name] == cell.cause, f"{cell}: the model says {found.fault.name}"


def neighbours(bench: FaultBench, rng: np.random.Generator, count: int) -> list[bytes]:
    """Commands of all engines that do not fail, nor use the bad one's semaphore; STOREs go to the target's page."""
    records = []
    for _ in range(count):
        engine = Engine(int(rng.integers(len(Engine))))
        if engine in (Engine.LOAD, Engine.STORE):
            words, rows = int(rng.integers(1, 64)), int(rng.integers(1, 5))
            place = bench.data if engine == Engine.LOAD else bench.target
            offset = 8 * int(rng.integers(8, 256))  # behind the words that the bad command is for
            fields = {"rows": rows, "stride": 256, "local_stride": int(rng.integers(0, 9))}
            records.append(transfer(Opcode[engine.name], place + offset, words, **fields))
        elif engine == Engine.VECTOR:
            records.append(pack(Opcode.VECTOR, count0=int(rng.integers(1, 20)), dst_stride0=1, a_stride0=1))
        elif engine == Engine.QUANT:
            records.append(pack(Opcode.QUANT, rows=int(rng.integers(1, 9)), cols=int(rng.integers(1, 9))))
        elif engine == Engine.CONTROL and rng.random() < 0.3:
            records.append(FENCE)
        else:
            records.append(good(bench, engine))
    return records


def random_memory(rng: np.random.Generator) -> dict:
    """How the memory answers."""
    return {
        "latency": int(rng.integers(0, 25)),
        "bandwidth": int(rng.choice([1, 1, 2, 3])),
        "stalls": Stalls.random(rng),
        "interleave": bool(rng.integers(2)),
        "order": Order(int(rng.integers(len(Order)))),
        "seed": int(rng.integers(1 << 30)),
    }


def run_case(bench: FaultBench, cell: Cell, rng: np.random.Generator | None = None):
    """The program of a cell, among others if there is a ``rng``; its fault, what it may write, and a recovery."""
    bench.restore()
    case = case_of(bench, cell)
    bench.table.write(bench.image.data, bench.base)
    translated = cell.cause.name.startswith(("PAGE", "ACCESS"))
    if translated:
        check_by_model(bench, cell, case)
    before = neighbours(bench, rng, int(rng.integers(0, 9))) if rng is not None else [NOP, NOP]
    behind = neighbours(bench, rng, int(rng.integers(0, 9))) if rng is not None else []
    if case.root is not None:
        before = []  # nothing can be fetched
    records = [*before, *case.records, *behind, *([IRQ] if not case.tail else [])]
    size = ring_log2(max(len(records), 2))
    bench.put(bench.ring, *records)
    bench.put(bench.body, *case.body)
    bench.harness.configure(**(random_memory(rng) if rng is not None else {"latency": 5}))
    driver, harness = bench.driver, bench.harness
    harness.inject_errors([case.error] if case.error is not None else [])
    driver.write("WATCHDOG", WATCHDOG)
    driver.translate((bench.table.root if case.root is None else case.root) if translated else None, asid=3)
    bench.begin(bench.ring, size, len(records))
    index = len(before) + case.before
    if case.tail:
        assert not harness.run(20_000), f"{cell}: interrupt of a good program"
        assert driver.idle, cell
        driver.doorbell(len(records) + (1 << size) + case.tail)
        index = len(records)
    bench.expect_fault(cell.cause, cell.engine, index, case.address, cell)
    expected = bench.image.copy()
    target = bench.at(bench.target, PAGE_BYTES)
    expected[target] = harness.memory[target]
    bench.same(expected, cell)
    bench.reset(cell)
    # The next job.
    bench.restore()
    bench.table.write(bench.image.data, bench.base)
    bench.put(bench.ring, transfer(Opcode.LOAD, bench.data, 16), FENCE, transfer(Opcode.STORE, SPOT, 16), IRQ)
    expected = bench.image.copy()
    expected[bench.at(bench.page, 64)] = bench.image[bench.at(bench.data, 64)]
    harness.inject_errors([])
    driver.translate(bench.table.root, asid=3)
    bench.begin(bench.ring, 2, 4)
    bench.expect_tag(expected, cell)
    bench.reset(cell)
    bench.sweep.cases += 1
