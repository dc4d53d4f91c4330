"""Fetch share: random reads of several contexts, answered in order after random times, reach those that asked."""

import random
from collections import deque

import pytest
from lepton_npu.control.fetch import READS
from lepton_npu.control.fetch_share import FetchShare
from lepton_npu.spec.config import NpuConfig

from tests.gateware.simulation import simulate

BEATS = 8


@pytest.mark.parametrize("contexts", [1, 2, 4])
def test_random(seed, contexts):
    rng = random.Random(seed << 3 ^ contexts)
    dut = FetchShare(NpuConfig(contexts=contexts))
    expected = [deque() for _ in range(contexts)]  # data of the beats that a context waits for
    bus: deque[tuple[int, bool]] = deque()  # beats on their way: data, last
    offered: dict[int, int] = {}
    received = [0] * contexts
    taken = [0] * contexts

    async def bench(ctx):
        before = None
        for _ in range(3000):
            for number in range(contexts):
                if number not in offered and len(expected[number]) <= (READS - 1) * BEATS and rng.random() < 0.3:
                    offered[number] = rng.getrandbits(30) << 6
                ctx.set(dut.i_ar[number].valid, number in offered)
                ctx.set(dut.i_ar[number].payload.addr, offered.get(number, 0))
                ctx.set(dut.i_ar[number].payload.len, BEATS - 1)
            ready = rng.random() < 0.5
            ctx.set(dut.ar.ready, ready)
            beat = bus[0] if bus and rng.random() < 0.8 else None
            ctx.set(dut.r.valid, beat is not None)
            if beat:
                ctx.set(dut.r.payload.data, beat[0])
                ctx.set(dut.r.payload.last, beat[1])

            valid, address = ctx.get(dut.ar.valid), ctx.get(dut.ar.payload.addr)
            assert not offered or valid, "a read waits for nothing"
            if before is not None:
                assert (valid, address) == (1, before), "a burst that was offered has changed"
            before = address if valid and not ready else None
            owners = [number for number in range(contexts) if ctx.get(dut.i_ar[number].ready) and number in offered]
            assert len(owners) == (valid and ready)
            for number in owners:
                assert offered[number] == address
                del offered[number]
                taken[number] += 1
                for place in range(BEATS):
                    data = rng.getrandbits(64)
                    expected[number].append(data)
                    bus.append((data, place == BEATS - 1))
            for number in range(contexts):
                if ctx.get(dut.o_r[number].valid):
                    assert beat is not None
                    assert ctx.get(dut.o_r[number].payload.data) == expected[number].popleft()
                    received[number] += 1
            if beat:
                bus.popleft()
            await ctx.tick()
        assert sum(map(len, expected)) == len(bus), "a beat was lost"

    simulate(dut, bench)
    # Round robin: nobody is served much less than the others.
    assert min(taken) > 0.8 * max(taken), taken
