"""Units that are kept: a test finds one as it was built, whatever the tests before have done to it."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from lepton_npu.control.engine import FaultReport

from tests.gateware.simulation import KEEP, Pins, Resettable, kept, simulate


class Sum(wiring.Component):
    """Adds ``i`` to ``total`` in every cycle, and writes the old total to a row of a memory."""

    built = 0

    def __init__(self, start: int = 7):
        self.start = start
        self.memory = Memory(shape=8, depth=4, init=[1, 2, 3, 4])
        super().__init__({"i": In(8), "total": Out(8)})

    def elaborate(self, platform):
        type(self).built += 1
        m = Module()
        m.submodules.memory = self.memory
        write = self.memory.write_port()
        total = Signal(8, init=self.start)
        m.d.sync += total.eq(total + self.i)
        m.d.comb += [self.total.eq(total), write.en.eq(self.i != 0), write.addr.eq(2), write.data.eq(total)]
        return m


def use(dut: Sum, start: int = 7):
    """What is true of a new unit only."""

    async def bench(ctx):
        assert (ctx.get(dut.i), ctx.get(dut.total)) == (0, start)
        assert [ctx.get(row) for row in dut.memory.data] == [1, 2, 3, 4]
        ctx.set(dut.i, 5)
        ctx.set(dut.memory.data[0], 99)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.total) == start + 10
        assert [ctx.get(row) for row in dut.memory.data] == [99, 2, start + 5, 4]

    simulate(dut, bench)


def test_built_once_and_clean_each_time():
    before = Sum.built
    for _ in range(3):
        use(kept(Sum, 20), 20)
        use(kept(Sum, 30), 30)
    assert Sum.built == before + 2
    assert kept(Sum, 20) is kept(Sum, 20) is not kept(Sum, start=20)


def test_one_that_is_not_kept():
    use(Sum())
    use(Sum())


@pytest.mark.parametrize("rest", [0, 1, 3])
def test_interrupted(rest):
    """Neither a failure nor what was left in the background is seen by the next simulation."""
    dut, ran = kept(Sum), []

    async def failing(ctx):
        ctx.set(dut.i, 1)
        await ctx.tick().repeat(2)
        raise ValueError("as a test that fails")

    async def left(ctx):
        while True:
            await ctx.tick()
            ran.append(1)

    async def short(ctx):
        ctx.set(dut.i, 1)
        await ctx.tick().repeat(3)

    simulate(dut, short, background=[left] * rest)
    assert len(ran) in range(2 * rest, 3 * rest + 1)
    with pytest.raises(ValueError, match="as a test that fails"):
        simulate(dut, failing, background=[left] * rest)
    ran.clear()
    use(kept(Sum))
    assert not ran


def test_no_more_than_so_many_are_kept():
    first = kept(Sum, 100)
    assert kept(Sum, 100) is first
    for start in range(KEEP):
        kept(Sum, start)
    assert kept(Sum, 100) is not first


def test_resettable():
    dut = kept(Resettable, Sum, 9)

    async def bench(ctx):
        ctx.set(dut.unit.i, 3)
        await ctx.tick()
        assert ctx.get(dut.unit.total) == 12
        ctx.set(dut.reset, 1)
        await ctx.tick()
        assert ctx.get(dut.unit.total) == 9

    simulate(dut, bench)


class Ports(wiring.Component):
    """Signals of each kind that `Pins` sets."""

    a: In(3)
    fault: In(FaultReport)
    rows: In(data.ArrayLayout(8, 2))
    b: In(1)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += Signal().eq(self.a ^ self.fault.index ^ self.rows[0] ^ self.b)
        return m


def test_pins():
    dut = kept(Ports)
    pins = Pins(dut.a, dut.fault, dut.rows, dut.b)

    async def bench(ctx):
        pins.set(ctx, -1, {"index": 1 << 31, "valid": True, "address": -1}, 0x1234, 1)
        assert (ctx.get(dut.a), ctx.get(dut.b)) == (7, 1)
        assert [ctx.get(dut.rows[n]) for n in range(2)] == [0x34, 0x12]
        fault = ctx.get(dut.fault)
        assert (fault.valid, fault.cause, fault.index, fault.address) == (1, 0, 1 << 31, (1 << 64) - 1)
        pins.set(ctx, 8, 0, 0, 2)  # too wide: they do not reach their neighbours
        assert (ctx.get(dut.a), ctx.get(dut.fault.valid), ctx.get(dut.b)) == (0, 0, 0)
        with pytest.raises(KeyError, match="no_field"):
            pins.set(ctx, 0, {"no_field": 1}, 0, 0)
        with pytest.raises(ValueError):
            pins.set(ctx, 0, 0, 0)

    simulate(dut, bench)
