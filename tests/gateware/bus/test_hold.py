"""LOAD and STORE while an invalidation waits for a quiet bus: nothing new is offered, and nothing is lost."""

import random

import pytest
from lepton_npu.bus.axi import LOAD_ID, STORE_ID
from lepton_npu.spec.commands import Opcode

from tests.gateware.bus.axi_memory import Stalls
from tests.gateware.bus.dma_bench import DmaDriver, config_of, random_fields


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_hold(opcode, seed):
    """Held at random cycles until the bus has been quiet for a while; then the same commands go on to their end."""
    config, rng = config_of(4), random.Random(f"{seed} {opcode}")
    driver = DmaDriver(config, opcode, rng)
    cut = 0

    async def process(ctx):
        nonlocal cut
        for _ in range(10):
            driver.memory.stalls = Stalls.draw(rng)
            commands = [random_fields(rng, config, opcode, driver.memory.size) for _ in range(3)]
            driver.commands.extend(enumerate(commands))
            log = driver.memory.read_log if opcode == Opcode.LOAD else driver.memory.write_log
            for _ in range(rng.randrange(10, 60)):
                await driver.cycle(ctx)
            ctx.set(driver.bench.dma.mmu.hold, 1)
            begun = len(log)
            await driver.settle(ctx)
            # One burst may be in the address register, and of LOAD one more be offered. Records are not held here.
            number, most = (LOAD_ID, 2) if opcode == Opcode.LOAD else (STORE_ID, 1)
            assert sum(burst.id == number for burst in log[begun:]) <= most
            before = len(driver.done)
            ctx.set(driver.bench.dma.mmu.hold, 0)
            await driver.until(ctx, lambda: len(driver.done) == len(commands))  # noqa: B023
            await driver.settle(ctx)
            cut += before < len(commands)
            driver.forget()

    driver.simulate(process)
    assert cut > 2, "hardly any command was held in the middle"
