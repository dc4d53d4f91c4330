"""One hostile context: its memory and address space, and the kinds of wrong that it does."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from lepton_npu.spec.commands import COMMANDS, SEMAPHORE_MAX, FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig
from lepton_npu.spec.page_table import READ_ONLY, READ_WRITE, PageTable
from lepton_npu.spec.registers import REGISTERS
from lepton_npu.spec.translation import PAGE_BYTES, PPN_LSB, PTE_BYTES, RESERVED_LSB, Invalidate, Pte
from leptonaicsdk.driver import ENABLE, IRQ_DONE, IRQ_FAULT, RESET, RESUME, Driver

from .harness import BusResponse, ErrorRange, Harness

__all__ = ["KINDS", "REGION_BYTES", "HostileContext"]

_RING_LOG2 = 6
_VIRTUAL = 0x12_3400_0000
_WRITABLE, _READABLE, _HIDDEN, _TABLES = 12, 2, 2, 8  # frames
_SOURCE, _TARGET = 2, 7  # first of the pages that a copy reads and writes, five of each; 0 is the ring, 1 has bodies
REGION_BYTES = (_WRITABLE + _READABLE + _HIDDEN + _TABLES) * PAGE_BYTES
"""Memory of a hostile context."""

_MEND = 300_000  # cycles within which a copy faults or ends: many times what slow memory and others make of it


class HostileContext:
    """A context with some writable pages, some it may only read, and frames beside them that it may not touch.

    Parameters
    ----------
    harness : Harness
    config : NpuConfig
    number : int
        Of the context, whose partition is set.
    first : int
        Byte address of its `REGION_BYTES` of memory.
    errors : dict of int to list of ErrorRange
        By context: the errors that memory answers with, which are one list for the harness.
    rng : numpy.random.Generator
    """

    def __init__(
        self, harness: Harness, config: NpuConfig, number: int, first: int, errors: dict[int, list[ErrorRange]],
        rng: np.random.Generator,
    ):  # fmt: skip
        self._harness, self._config, self._number, self._errors, self._rng = harness, config, number, errors, rng
        self.driver = Driver(harness, number)
        frames = [first // PAGE_BYTES + int(n) for n in rng.permutation(REGION_BYTES // PAGE_BYTES)]
        self._frames = frames[:-_TABLES]
        self._table_frames = frames[-_TABLES:]
        self._table = PageTable(iter(self._table_frames))
        for page, frame in enumerate(self._frames[: _WRITABLE + _READABLE]):
            flags = READ_WRITE if page < _WRITABLE else READ_ONLY
            self._table.map_page(self._page(page), frame * PAGE_BYTES, flags)
        self._memory(first, REGION_BYTES)[:] = rng.integers(0, 256, REGION_BYTES, np.uint8)
        for frame in self._table_frames:
            self._memory(frame * PAGE_BYTES)[:] = 0
        self._write_table()
        self._guarded = [*self._frames[_WRITABLE:], *self._table_frames]
        self._kept = [self._memory(frame * PAGE_BYTES).copy() for frame in self._guarded]
        self._going: Iterator[None] | None = None
        self._events: dict[str, Callable[[], Iterator[None] | None]] = dict(zip(KINDS, (
            self._garbage, self._wild_fields, self._behind_partition, self._bad_entry, self._revoked, self._mended,
            self._error_beats, self._walk_errors, self._reset, self._invalidations, self._overrun, self._stuck,
            self._overflow, self._wild_ring,
        ), strict=True))  # fmt: skip
        self.restart()

    @property
    def busy(self) -> bool:
        """Whether the last event has to see an end, which `step` looks for."""
        return self._going is not None

    def event(self, kind: str) -> FaultCause:
        """Begin anew and do something wrong; returns how the event before it has ended.

        Some kinds go on, while others do their worst: until `busy` is no more.
        """
        fault = FaultCause(self.driver.read("FAULT_CAUSE"))
        self.restart()
        self._going = self._events[kind]()
        return fault

    def step(self):
        """If it is `busy`, see how far the event has come."""
        if self._going is not None and next(self._going, self) is self:
            self._going = None

    def restart(self):
        """Reset the context and mend its table; what it may not write must be as it was.

        Raises
        ------
        AssertionError
            If memory that it may not write has changed.
        TimeoutError
            If the reset does not end.
        """
        driver = self.driver
        driver.soft_reset(attempts=20_000)
        self._inject([])
        self._write_table()
        for frame, kept in zip(self._guarded, self._kept):
            if not np.array_equal(self._memory(frame * PAGE_BYTES), kept):
                raise AssertionError(f"context {self._number} has changed frame 0x{frame:x}, which it may not write")
        # It may give another ASID each time, but not that of a victim's.
        driver.translate(self._table.root, asid=64 * self._number + int(self._rng.integers(32)))
        driver.start(_VIRTUAL, _RING_LOG2)
        driver.write("IRQ_ENABLE", 0)
        driver.write("WATCHDOG", 4000)

    # ---- What events are made of.

    def _memory(self, address: int, size: int = PAGE_BYTES) -> np.ndarray:
        start = address - self._harness.base
        return self._harness.memory[start : start + size]

    def _page(self, number: int) -> int:
        return _VIRTUAL + number * PAGE_BYTES

    def _write_table(self):
        self._table.write(self._harness.memory.data, self._harness.base)

    def _entry(self, page: int, bits: int):
        """Write the entry of a page; the table that `restart` writes stays as it is."""
        place = self._table.place(self._page(page), 0)
        self._memory(place, PTE_BYTES)[:] = np.frombuffer(bits.to_bytes(PTE_BYTES, "little"), np.uint8)

    def _inject(self, ranges: list[ErrorRange]):
        self._errors[self._number] = ranges
        self._harness.inject_errors([each for some in self._errors.values() for each in some])

    def _put(self, page: int, records: Iterable[bytes]):
        data = np.frombuffer(b"".join(records), np.uint8)
        self._memory(self._frames[page] * PAGE_BYTES, data.size)[:] = data

    def _run(self, *records: bytes, cycles: int = 400):
        """Put records into the ring, announce them, and let some time pass."""
        self._put(0, records)
        self.driver.doorbell(len(records))
        self._pass(cycles)

    def _pass(self, cycles: int):
        self._harness.run(int(self._rng.integers(1, cycles + 1)))

    def _copy(self, pages: int = 5) -> tuple[bytes, ...]:
        """LOAD and STORE of some pages, by rows that may cross a page's border."""
        side = self._config.side
        rows = pages * PAGE_BYTES // self._config.row_bytes // 8
        shift = int(self._rng.integers(0, 4)) * self._config.bus_bytes
        fields = {"rows": rows, "words": 8 * side, "stride": 8 * self._config.row_bytes, "local_stride": 1}
        fields["rows"] -= 1
        return (
            COMMANDS[Opcode.LOAD].pack(address=self._page(_SOURCE) + shift, post=1, local=0, **fields),
            COMMANDS[Opcode.STORE].pack(address=self._page(_TARGET) + shift, wait=1, local=0, **fields),
            COMMANDS[Opcode.IRQ].pack(tag=7),
        )

    def _random_fields(self, opcode: Opcode) -> bytes:
        """A record whose fields are all allowed."""
        command, rng = COMMANDS[opcode], self._rng
        values = {}
        for field in command.body:
            high = field.high if rng.random() < 0.5 else min(field.high, field.low + 16)
            values[field.name] = field.low + int(rng.integers(0, high - field.low + 1, dtype=np.uint64))
        if "address" in values and rng.random() < 0.8:
            values["address"] = self._page(int(rng.integers(16))) + 8 * int(rng.integers(0, PAGE_BYTES // 8))
        return command.pack(**values, post=1 << int(rng.integers(16)))

    def _any_opcode(self) -> Opcode:
        return list(Opcode)[int(self._rng.integers(len(Opcode)))]

    # ---- Kinds of events.

    def _garbage(self):
        """Records of random bytes, some with an opcode that there is."""
        records = []
        for _ in range(int(self._rng.integers(1, 9))):
            record = bytearray(self._rng.bytes(RECORD_BYTES))
            if self._rng.random() < 0.7:
                record[0] = self._any_opcode()
            records.append(bytes(record))
        self._run(*records)

    def _wild_fields(self):
        """Commands with any fields that are allowed: any address, any row, any count."""
        self._put(1, [self._random_fields(self._any_opcode()) for _ in range(8)])
        self._run(*(self._random_fields(self._any_opcode()) for _ in range(int(self._rng.integers(1, 9)))))

    def _behind_partition(self):
        """Commands that begin in the partition and leave it, or begin behind it."""
        share = {
            "vmem": self._config.vmem_rows // self._config.contexts,
            "acc": self._config.acc_rows // self._config.contexts,
            "tiles": self._config.tiles // self._config.contexts,
        }
        near = int(self._rng.integers(-3, 4))
        acc = ACC_SPACE + share["acc"] + near
        vmem = share["vmem"] + near
        tile = share["tiles"] + near
        dma = {"rows": 4, "words": self._config.side, "stride": self._config.row_bytes, "local_stride": 1}
        address = self._page(_SOURCE)
        choices = (
            COMMANDS[Opcode.LOAD].pack(address=address, local=vmem, **dma),
            COMMANDS[Opcode.STORE].pack(address=address, local=vmem, **dma),
            COMMANDS[Opcode.STORE].pack(address=address, local=acc, **dma),
            COMMANDS[Opcode.QUANT].pack(source=vmem - 4, source_stride=1, rows=16, cols=self._config.side, tile=0),
            COMMANDS[Opcode.QUANT].pack(source=0, source_stride=1, rows=4, cols=self._config.side, tile=tile),
            COMMANDS[Opcode.MATMUL].pack(a_tile=tile, b_tile=0, acc=ACC_SPACE, rows=4, count0=4, a_stride0=1),
            COMMANDS[Opcode.MATMUL].pack(a_tile=0, b_tile=tile, acc=ACC_SPACE, rows=4, count0=4, a_stride0=1),
            COMMANDS[Opcode.MATMUL].pack(a_tile=0, b_tile=0, acc=acc, rows=4, count0=4, a_stride0=1, acc_stride0=1),
            COMMANDS[Opcode.VECTOR].pack(op=0, count0=8, count1=1, a=vmem - 4, a_stride0=1, dst=0, dst_stride0=1),
            COMMANDS[Opcode.VECTOR].pack(op=0, count0=8, count1=1, a=acc - 4, a_stride0=1, dst=0, dst_stride0=1),
            COMMANDS[Opcode.VECTOR].pack(op=0, count0=8, count1=1, a=0, a_stride0=1, dst=vmem - 4, dst_stride0=1),
        )
        self._run(choices[int(self._rng.integers(len(choices)))])

    def _bad_entry(self):
        """An entry that forbids what is done, or that no table may have."""
        page = int(self._rng.integers(_TARGET + 5))
        good = self._frames[page] << PPN_LSB | READ_WRITE
        bits = (
            0,
            *(good & ~flag for flag in (Pte.V, Pte.R, Pte.W, Pte.U, Pte.A, Pte.D)),
            good & ~(Pte.R | Pte.W),
            good | 1 << int(self._rng.integers(RESERVED_LSB, 64)),
            good | 1 << int(self._rng.integers(self._config.addr_width - 2, RESERVED_LSB)),
            int(self._rng.integers(1 << 63)),
        )
        self._entry(page, int(bits[int(self._rng.integers(len(bits)))]))
        self._run(*self._copy(), cycles=1500)

    def _revoked(self):
        """A page is taken away while it is used."""
        self._run(*self._copy(), cycles=600)
        self._entry(int(self._rng.integers(_TARGET + 5)), 0)
        self._invalidate()
        self._pass(600)

    def _mended(self) -> Iterator[None]:
        """A page that was missing comes, and the copy goes on: its result must be as if nothing had been."""
        page = (_SOURCE, _SOURCE + 1, _TARGET, _TARGET + 1)[int(self._rng.integers(4))]
        self._entry(page, 0)
        records = self._copy(2)
        source, target = ([self._frames[first + n] for n in range(2)] for first in (_SOURCE, _TARGET))
        for frame in target:
            self._memory(frame * PAGE_BYTES)[:] = 0
        self._run(*records, cycles=1)
        self.driver.write("WATCHDOG", 0)
        resumable = 1 << REGISTERS["FAULT_ACCESS"].field("RESUMABLE").lsb
        end = self._harness.cycle + _MEND
        while not self.driver.read("IRQ_STATUS"):
            if self._harness.cycle > end:
                raise AssertionError(f"context {self._number}: no fault for a page that is not mapped")
            yield
        while not self.driver.read("FAULT_ACCESS") & resumable:
            if self._harness.cycle > end:
                raise AssertionError(f"context {self._number}: not resumable: {self.driver.fault}")
            yield
        self._write_table()
        self.driver.write("IRQ_STATUS", IRQ_DONE | IRQ_FAULT)
        self.driver.write("CTRL", ENABLE | RESUME)
        while not (pending := self.driver.read("IRQ_STATUS")):
            if self._harness.cycle > 2 * _MEND + end:
                raise AssertionError(f"context {self._number}: did not go on")
            yield
        if pending != IRQ_DONE:
            raise AssertionError(f"context {self._number}: fault {self.driver.fault} after it was mended")
        read, written = (self._matrix(frames, COMMANDS[Opcode.LOAD].unpack(records[0])) for frames in (source, target))
        # A row shares its local rows with those behind it: what comes later stays.
        last, parts = read.shape[0] - 1, read.shape[1]
        for row in range(last + 1):
            for part in range(parts):
                came = read[min(row + part, last), max(row + part - last, 0)]
                if not np.array_equal(written[row, part], came):
                    raise AssertionError(f"context {self._number}: row {row} of a copy that was resumed differs")

    def _matrix(self, frames: list[int], fields: dict[str, int]) -> np.ndarray:
        """Bytes of the rows of a copy, by matrix row and local row."""
        first, rows = fields["address"] % PAGE_BYTES, fields["rows"]
        memory = np.concatenate([self._memory(frame * PAGE_BYTES) for frame in frames])
        return memory[first : first + rows * fields["stride"]].reshape(rows, -1, self._config.row_bytes)

    def _errors_on(self, frames: list[int], on_write: bool, count: int):
        frame = frames[int(self._rng.integers(len(frames)))]
        response = (BusResponse.SLVERR, BusResponse.DECERR)[int(self._rng.integers(2))]
        after = int(self._rng.integers(0, 60))
        self._inject([ErrorRange(frame * PAGE_BYTES, (frame + 1) * PAGE_BYTES - 1, response, on_write, after, count)])

    def _error_beats(self):
        """Memory answers some beats with an error: data that are read, responses to writes, or records."""
        pages = (0, _SOURCE, _SOURCE + 1, _TARGET, _TARGET + 1)
        self._errors_on(
            [self._frames[page] for page in pages], bool(self._rng.integers(2)), int(self._rng.integers(0, 3))
        )
        self._run(*self._copy(), cycles=1500)

    def _walk_errors(self):
        """Memory answers reads of the page table with an error."""
        self._errors_on(self._table_frames[:3], False, int(self._rng.integers(0, 3)))
        self._run(*self._copy(), cycles=1000)

    def _reset(self):
        """The context is reset in the middle of a burst."""
        self._run(*self._copy(), cycles=600)
        self.driver.write("CTRL", RESET)
        self._pass(100)

    def _invalidate(self):
        start, kind, asid = (REGISTERS["INVALIDATE"].field(name).lsb for name in ("START", "KIND", "ASID"))
        address = self._page(int(self._rng.integers(16)))
        self.driver.write("INVALIDATE_LO", address & 0xFFFFFFFF)
        self.driver.write("INVALIDATE_HI", address >> 32)
        chosen = int(self._rng.integers(len(Invalidate)))
        self.driver.write("INVALIDATE", 1 << start | chosen << kind | int(self._rng.integers(256)) << asid)

    def _invalidations(self):
        """Translations are invalidated while walks run."""
        self._run(*self._copy(), cycles=20)
        for _ in range(int(self._rng.integers(1, 6))):
            self._invalidate()
            self._pass(60)

    def _overrun(self):
        """The doorbell announces more records than the ring has."""
        self._put(0, self._copy())
        self.driver.doorbell(int(self._rng.integers((1 << _RING_LOG2) + 1, 1 << 32)))
        self._pass(300)

    def _stuck(self):
        """Every engine waits for a semaphore that nobody posts, until the watchdog finds it."""
        self.driver.write("WATCHDOG", 300)
        self._run(*(self._waiting(opcode) for opcode in Opcode), cycles=1200)

    def _waiting(self, opcode: Opcode) -> bytes:
        return COMMANDS[opcode].pack(wait=1 << int(self._rng.integers(16)))

    def _overflow(self):
        """A semaphore is posted more often than it can count."""
        self._put(1, [COMMANDS[Opcode.NOP].pack(post=1 << int(self._rng.integers(16)))] * 4)
        rounds = SEMAPHORE_MAX // 4 + 1
        self._run(COMMANDS[Opcode.REPEAT].pack(address=self._page(1), records=4, count=rounds), cycles=4000)

    def _wild_ring(self):
        """A ring anywhere, of any size; and RESUME when nothing is to be resumed."""
        driver, rng = self.driver, self._rng
        self._put(0, self._copy())
        driver.write("RING_BASE_LO", int(rng.integers(1 << 32)))
        if rng.integers(2):
            driver.write("RING_BASE_HI", int(rng.integers(1 << 32)))
        driver.write("RING_LOG2", int(rng.integers(32)))
        driver.doorbell(int(rng.integers(1, 8)))
        self._pass(200)
        driver.write("CTRL", ENABLE | RESUME)
        self._pass(200)


KINDS = (
    "garbage records",
    "wild fields",
    "rows behind the partition",
    "bad table entry",
    "page revoked during a run",
    "page mended, context resumed",
    "error beats",
    "error in a page walk",
    "reset in a burst",
    "invalidations during walks",
    "ring overrun",
    "stuck in waits",
    "semaphore overflow",
    "ring anywhere, resume of nothing",
)
"""Kinds of events, in the order of `HostileContext`'s methods."""
