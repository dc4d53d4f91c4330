"""Local memory: random requests on every port against plain lists, and what the ports promise one by one."""

import random
from collections import Counter, deque

import pytest
from amaranth.hdl import ResetInserter, Signal
from lepton_npu.memory.local_memory import READERS, LocalMemory
from lepton_npu.memory.ports import ACC_READ_LATENCY, LOCAL_READ_LATENCY
from lepton_npu.spec.config import ACC_SPACE, NpuConfig

from tests.gateware.simulation import kept, simulate

UNDEFINED = object()
"""Expected of a read of a row in the cycle in which it is written."""


def config_of(banks: int) -> NpuConfig:
    return NpuConfig(side=4, lanes=4, vmem_rows=64, vmem_banks=banks, acc_rows=32, tiles=16, max_burst=16, contexts=1)


class Model:
    """Cycle model: who is granted, what each port answers, and when."""

    def __init__(self, config: NpuConfig):
        self.config = config
        self.vmem = [0] * config.vmem_rows
        self.acc = [0] * config.acc_rows
        self.due = {name: deque([None] * LOCAL_READ_LATENCY) for name in READERS}
        self.acc_due = deque([None] * ACC_READ_LATENCY)

    def place(self, address: int) -> tuple[str, int]:
        """The bank or half of a local row address."""
        if address & ACC_SPACE:
            return "half", (address ^ ACC_SPACE) // (self.config.acc_rows // 2)
        return "bank", address % self.config.vmem_banks

    def grants(self, wanted: dict[str, int | None], acc_read: int | None) -> dict[str, bool]:
        """Which of the reads wanted are accepted: a port that asks keeps the later ones from its bank or half."""
        taken = set() if acc_read is None else {self.place(ACC_SPACE | acc_read)}
        result = {}
        for name in READERS:
            address = wanted[name]
            place = None if address is None else self.place(address)
            result[name] = place is not None and place not in taken
            taken.add(place)
        return result

    def step(self, reads, acc_read, vmem_writes: dict[int, int], acc_write: tuple[int, int] | None):
        """One cycle: accepted reads see the writes of earlier cycles."""
        for name in READERS:
            address = reads.get(name)
            if address is None:
                answer = None
            elif address & ACC_SPACE:
                row = address ^ ACC_SPACE
                answer = UNDEFINED if acc_write and acc_write[0] == row else self.acc[row]
            else:
                answer = UNDEFINED if address in vmem_writes else self.vmem[address]
            self.due[name].append(answer)
        clash = acc_write is not None and acc_write[0] == acc_read
        self.acc_due.append(None if acc_read is None else UNDEFINED if clash else self.acc[acc_read])
        for row, value in vmem_writes.items():
            self.vmem[row] = value
        if acc_write:
            self.acc[acc_write[0]] = acc_write[1]


class Driver:
    """Sets every port in a cycle, checks ready and answers against `Model`, and goes to the next."""

    def __init__(self, dut: LocalMemory, config: NpuConfig):
        self.dut, self.model = dut, Model(config)
        self.seen = Counter()

    async def cycle(self, ctx, reads=None, acc_read=None, load=None, vector=None, acc_write=None):
        """``reads``: address by port; ``load``, ``vector``, ``acc_write``: (row, value).

        Returns the ports of ``reads`` accepted, and whether ``load`` was.
        """
        dut, model = self.dut, self.model
        reads = {name: (reads or {}).get(name) for name in READERS}
        for name, address in reads.items():
            port = getattr(dut, name)
            ctx.set(port.req.valid, address is not None)
            if address is not None:
                ctx.set(port.req.payload, address)
        ctx.set(dut.acc.read_en, acc_read is not None)
        ctx.set(dut.acc.read_addr, acc_read or 0)
        ctx.set(dut.load.req.valid, load is not None)
        if load:
            ctx.set(dut.load.req.payload, {"addr": load[0], "data": load[1]})
        for port, prefix, write in ((dut.vector_write, "", vector), (dut.acc, "write_", acc_write)):
            ctx.set(getattr(port, f"{prefix}en"), write is not None)
            if write:
                ctx.set(getattr(port, f"{prefix}addr"), write[0])
                ctx.set(getattr(port, f"{prefix}data"), write[1])

        granted = model.grants(reads, acc_read)
        for name, address in reads.items():
            if address is not None:
                assert ctx.get(getattr(dut, name).req.ready) == granted[name], f"ready of {name}, {reads}"
                self.seen[name, granted[name]] += 1
        writes = {}
        load_taken = False
        if load:
            load_taken = vector is None or model.place(vector[0]) != model.place(load[0])
            assert ctx.get(dut.load.req.ready) == load_taken, f"ready of load, {load}, {vector}"
            self.seen["load", load_taken] += 1
            if load_taken:
                writes[load[0]] = load[1]
        if vector:
            writes[vector[0]] = vector[1]

        for name in READERS:
            port, answer = getattr(dut, name), model.due[name].popleft()
            assert ctx.get(port.resp_valid) == (answer is not None), f"resp_valid of {name}"
            if answer is not None and answer is not UNDEFINED:
                assert ctx.get(port.resp_data) == answer, f"data of {name}"
                self.seen[name, "data"] += 1
        answer = model.acc_due.popleft()
        if answer is None:
            assert ctx.get(dut.acc.read_data) == 0, "data of acc without a read"
        elif answer is not UNDEFINED:
            assert ctx.get(dut.acc.read_data) == answer, "data of acc"
            self.seen["acc", "data"] += 1

        model.step({n: a for n, a in reads.items() if granted[n]}, acc_read, writes, acc_write)
        await ctx.tick()
        return [name for name in READERS if granted[name]], load_taken

    async def drain(self, ctx):
        """Nothing more is asked for; nothing more may come once all is answered."""
        for _ in range(LOCAL_READ_LATENCY + 3):
            await self.cycle(ctx)
        assert not any(answer is not None for due in self.model.due.values() for answer in due)


@pytest.mark.parametrize("banks", [2, 4, 8])
def test_random_requests(seed, banks):
    """Every port at every density, on few rows (clashes) and on all; a request stays until it is accepted."""
    config = config_of(banks)
    rng = random.Random(f"{seed} {banks}")
    dut = kept(LocalMemory, config)
    driver = Driver(dut, config)

    def value():
        return rng.getrandbits(config.row_bits)

    async def process(ctx):
        wanted, load = {}, None
        for _ in range(8):
            density = {port: rng.choice((0.1, 0.5, 0.9, 1)) for port in (*READERS, "acc", "load", "vector", "acc_w")}
            vmem = rng.choice((range(config.vmem_rows), rng.sample(range(config.vmem_rows), 6)))
            acc = rng.choice((range(config.acc_rows), rng.sample(range(config.acc_rows), 4)))
            for _ in range(80):
                for name in READERS:
                    if name not in wanted and rng.random() < density[name]:
                        in_acc = rng.random() < 0.3
                        wanted[name] = ACC_SPACE | rng.choice(acc) if in_acc else rng.choice(vmem)
                if load is None and rng.random() < density["load"]:
                    load = (rng.choice(vmem), value())
                accepted, load_taken = await driver.cycle(
                    ctx,
                    wanted,
                    rng.choice(acc) if rng.random() < density["acc"] else None,
                    load,
                    (rng.choice(vmem), value()) if rng.random() < density["vector"] else None,
                    (rng.choice(acc), value()) if rng.random() < density["acc_w"] else None,
                )
                for name in accepted:
                    del wanted[name]
                if load_taken:
                    load = None
        await driver.drain(ctx)
        for row in range(config.vmem_rows):
            await driver.cycle(ctx, {"store": row})
        for row in range(config.acc_rows):
            await driver.cycle(ctx, {"store": ACC_SPACE | row}, acc_read=row)
            await driver.cycle(ctx, {"store": ACC_SPACE | row})
        await driver.drain(ctx)

    simulate(dut, process)
    for name in READERS:
        assert driver.seen[name, True] > 50, f"{name} was hardly ever granted"
        assert driver.seen[name, "data"] > 50, f"data of {name} were hardly ever compared"
    assert driver.seen["acc", "data"] > 50
    for name in (*READERS, "load"):
        assert driver.seen[name, False] > 20, f"{name} was hardly ever held back"


@pytest.mark.parametrize("place", [1, ACC_SPACE | 5])
def test_priority_order(place):
    """All readers ask for one bank, or one half: accepted one a cycle, in the order of `READERS`."""
    config = config_of(4)
    dut = kept(LocalMemory, config)
    driver = Driver(dut, config)
    step = 0 if place & ACC_SPACE else config.vmem_banks

    async def process(ctx):
        wanted = {name: place + step * number for number, name in enumerate(READERS)}
        for name in READERS:
            accepted, _ = await driver.cycle(ctx, wanted)
            assert accepted == [name]
            del wanted[name]
        await driver.drain(ctx)

    simulate(dut, process)


def test_matrix_engine_is_never_held_back():
    """It reads and writes its half every cycle; readers of that half wait, those of the other half do not."""
    config = config_of(4)
    dut = kept(LocalMemory, config)
    driver = Driver(dut, config)
    half = config.acc_rows // 2

    async def process(ctx):
        for row in range(config.acc_rows):
            await driver.cycle(ctx, acc_write=(row, row * 0x1_0001 + 1))
        for row in range(half):
            wanted = {"store": ACC_SPACE | row, "quant": ACC_SPACE | half + row, "vector_a": row}
            accepted, _ = await driver.cycle(ctx, wanted, acc_read=row, acc_write=((row + 3) % half, row))
            assert accepted == ["vector_a", "quant"]
        await driver.drain(ctx)

    simulate(dut, process)
    assert driver.seen["acc", "data"] == half


def test_different_banks_in_one_cycle():
    """Four readers on four banks, one on a half, the matrix engine on the other, both writers: all, every cycle."""
    config = config_of(4)
    dut = kept(LocalMemory, config)
    driver = Driver(dut, config)
    half = config.acc_rows // 2

    async def process(ctx):
        for turn in range(24):
            wanted = {name: (turn + number) % config.vmem_rows for number, name in enumerate(READERS[:4])}
            wanted[READERS[4]] = ACC_SPACE | half + turn % half
            accepted, loaded = await driver.cycle(
                ctx, wanted, turn % half, (turn + 8, turn + 1), (turn + 33, turn + 2), (turn % half, turn + 3)
            )
            assert accepted == list(READERS)
            assert loaded
        await driver.drain(ctx)

    simulate(dut, process)


def test_load_waits_for_the_vector_unit():
    """LOAD's write is held back as long as the vector unit writes to its bank, and only then; both arrive."""
    config = config_of(4)
    dut = kept(LocalMemory, config)
    driver = Driver(dut, config)

    async def process(ctx):
        for vector, taken in ((2, False), (10, False), (3, True)):
            _, loaded = await driver.cycle(ctx, load=(6, 77), vector=(vector, 100 + vector))
            assert loaded == taken
        for row, value in ((6, 77), (2, 102), (10, 110), (3, 103)):
            assert driver.model.vmem[row] == value
            await driver.cycle(ctx, {"store": row})
        await driver.drain(ctx)

    simulate(dut, process)


@pytest.mark.parametrize("writer", ["load", "vector", "acc_write"])
def test_write_is_seen_a_cycle_later(writer):
    """By every port, with a request in the next cycle, and its data exactly `LOCAL_READ_LATENCY` cycles after it."""
    config = config_of(4)
    dut = kept(LocalMemory, config)
    driver = Driver(dut, config)

    async def process(ctx):
        for number, name in enumerate(READERS):
            address = ACC_SPACE | 9 if writer == "acc_write" else 9
            await driver.cycle(ctx, **{writer: (9, 1000 + number)})
            await driver.cycle(ctx, {name: address})
            for waited in range(1, LOCAL_READ_LATENCY + 1):
                valid = ctx.get(getattr(dut, name).resp_valid)
                assert valid == (waited == LOCAL_READ_LATENCY)
                if valid:
                    assert ctx.get(getattr(dut, name).resp_data) == 1000 + number
                await driver.cycle(ctx)

    simulate(dut, process)


def test_reset_keeps_contents():
    """Zero at power-on, kept through a reset; answers in flight are dropped."""
    config = config_of(4)
    dut = kept(LocalMemory, config)
    reset = Signal()

    async def process(ctx):
        driver = Driver(dut, config)
        for row in range(config.vmem_rows):
            await driver.cycle(ctx, {"quant": row}, vector=(row, row + 1))
        for row in range(config.acc_rows):
            await driver.cycle(ctx, {"quant": ACC_SPACE | row}, acc_write=(row, row + 500))
        ctx.set(reset, 1)
        await driver.cycle(ctx)
        ctx.set(reset, 0)
        driver.model.due = {name: deque([None] * LOCAL_READ_LATENCY) for name in READERS}
        await driver.drain(ctx)
        for row in range(config.vmem_rows):
            await driver.cycle(ctx, {"quant": row})
        for row in range(config.acc_rows):
            await driver.cycle(ctx, {"quant": ACC_SPACE | row})
        await driver.drain(ctx)
        assert driver.seen["quant", "data"] == config.vmem_rows + config.acc_rows

    simulate(ResetInserter(reset)(dut), process)
