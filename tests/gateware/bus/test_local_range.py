"""LOAD and STORE at the ends of the local memories, and of a partition: the first row that is missing, exactly."""

import random

import pytest
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE

from tests.gateware.bus.axi_memory import Stalls
from tests.gateware.bus.dma_bench import MASK64, DmaDriver, config_of, plan
from tests.gateware.partition import KINDS

CONFIG = config_of(4)
ENDS = {"vmem": CONFIG.vmem_rows, "acc": ACC_SPACE + CONFIG.acc_rows}
# Place of the first row behind the last one, local rows of a matrix row, matrix rows, local rows between them.
CASES = [
    (0, 1, 1, 1),
    (1, 1, 1, 1),
    (1, 3, 1, 1),
    (-1, 2, 1, 1),
    (-3, 3, 2, 1),
    (-5, 2, 3, 2),
    (-2, 1, 2, 5),
    (-2, 2, 2, 1),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", ENDS)
@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_ends(seed, opcode, memory, kind):
    """Rows before the one at fault are transferred, and the fault has the first local row that is missing."""
    driver = DmaDriver(CONFIG, opcode, random.Random(f"{seed} {opcode} {memory}"), kind)
    driver.memory.stalls = Stalls()

    async def process(ctx):
        for number, (start, length, rows, stride) in enumerate(CASES):
            f = {"address": 0, "stride": 64, "words": 4 * length, "rows": rows, "local_stride": stride}
            f["local"] = ENDS[memory] + start
            result = plan(CONFIG, opcode, f)
            assert result.fault
            driver.commands.append((number, f))
            await driver.until(ctx, lambda: ctx.get(driver.bench.engine.fault.valid))
            await driver.settle(ctx)
            assert driver.fault(ctx) == (FaultCause.LOCAL_RANGE, number, result.fault[1] & MASK64), f
            moved = len(result.rows) * length
            written = driver.written if opcode == Opcode.LOAD else driver.memory.write_beats[::2]
            assert len(written) == moved, f
            await driver.restart(ctx)

    driver.simulate(process)
