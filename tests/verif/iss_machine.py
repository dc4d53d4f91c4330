"""An instruction-set simulator with a ring, and what tests of it need."""

import numpy as np
from lepton_npu.spec.commands import COMMANDS, Opcode
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_verif.model.iss import Iss, IssFault

BASE = 0x4000_0000
RING = BASE
RING_LOG2 = 6
DATA = BASE + (64 << RING_LOG2)
SIZE = 1 << 16


def record(opcode: Opcode, **fields: int) -> bytes:
    return COMMANDS[opcode].pack(**fields)


class Machine:
    """Memory of `SIZE` bytes at `BASE`, with the ring at its start and free space from `DATA` on."""

    def __init__(self, config: NpuConfig = PRESETS["tiny"], **options):
        self.config = config
        self.memory = np.zeros(SIZE, np.uint8)
        self.iss = Iss(config, self.memory, base=BASE, **options)
        self.iss.start(RING, RING_LOG2)
        self.written = 0

    @property
    def words(self) -> np.ndarray:
        """The memory from `DATA` on, as words."""
        return self.memory[DATA - BASE :].view("<u4")

    def put(self, *records: bytes):
        """Write records behind the ones that are in the ring."""
        for data in records:
            slot = 64 * (self.written % (1 << RING_LOG2))
            self.memory[slot : slot + 64] = np.frombuffer(data, np.uint8)
            self.written += 1

    def run(self, *records: bytes) -> IssFault | None:
        """Run records; the fault if there is one."""
        self.put(*records)
        self.iss.doorbell(self.written)
        return self.iss.run()
