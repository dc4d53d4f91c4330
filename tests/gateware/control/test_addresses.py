"""Address registers against a list of numbers."""

import random

from lepton_npu.control.addresses import AddressRegisters
from lepton_npu.spec.commands import ADDRESS_REGISTERS

from tests.gateware.simulation import simulate

MODULUS = 1 << 64


def number(rng: random.Random) -> int:
    return rng.choice((0, 1, MODULUS - 1, rng.getrandbits(64), rng.getrandbits(64)))


def test_random(seed):
    """Sums of every register with any offset, before and after it is set and added to; number 0 stays 0."""
    rng, dut = random.Random(seed), AddressRegisters()
    registers = [0] * (ADDRESS_REGISTERS + 1)

    async def process(ctx):
        for _ in range(3000):
            n, offset, add = rng.randrange(ADDRESS_REGISTERS + 1), number(rng), rng.randrange(2)
            write = n > 0 and rng.random() < 0.3
            ctx.set(dut.number, n)
            ctx.set(dut.offset, offset)
            ctx.set(dut.add, add)
            ctx.set(dut.write, 0)
            assert ctx.get(dut.sum) == (registers[n] + offset) % MODULUS
            await ctx.tick()
            ctx.set(dut.write, write)
            assert ctx.get(dut.sum) == (registers[n] + offset) % MODULUS
            if write:
                registers[n] = (add * registers[n] + offset) % MODULUS
            await ctx.tick()

    simulate(dut, process)
    assert sum(map(bool, registers)) > 3
