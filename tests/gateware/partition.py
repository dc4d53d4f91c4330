"""A partition of a larger core, for tests of engines: the engine is the core's, what is expected is the partition's."""

import random
from dataclasses import dataclass, replace

from amaranth.lib import data
from lepton_npu.memory.bounds import bounds_layout, whole
from lepton_npu.spec.config import ACC_SPACE, NpuConfig

__all__ = ["KINDS", "Partition"]

KINDS = ("alone", "shared")
"""For a test's parameter: a core with one context, or a partition of one with several."""


@dataclass(frozen=True)
class Partition:
    """``config``, as a core has it that is no larger, or as a part of the core ``core``.

    The methods take what an engine says to a memory and give the address that a command has for it; one that is
    outside the partition is an error.
    """

    config: NpuConfig
    core: NpuConfig
    vmem_base: int = 0
    acc_base: int = 0
    tile_base: int = 0

    @classmethod
    def draw(cls, kind: str, config: NpuConfig, rng: random.Random) -> "Partition":
        """One of `KINDS`; ``shared``: two to four times as much of each memory, and not the first part of it."""
        if kind == "alone":
            return cls(config, replace(config, contexts=1))
        sizes = {"vmem_rows": config.vmem_rows, "acc_rows": config.acc_rows, "tiles": config.tiles}
        times = {name: rng.choice((2, 4)) for name in sizes}
        core = replace(config, contexts=rng.choice((2, 4)), **{n: size * times[n] for n, size in sizes.items()})
        vmem, acc, tile = (rng.randrange(1, times[name]) * size for name, size in sizes.items())
        part = cls(core.partition(**sizes), core, vmem, acc, tile)
        print(part)
        return part

    @property
    def bounds(self) -> data.Const:
        """What the engine is told."""
        if self.core.contexts == 1:
            return whole(self.core)
        return bounds_layout(self.core).const(
            {
                "vmem_base": self.vmem_base,
                "vmem_mask": self.config.vmem_rows - 1,
                "acc_base": self.acc_base,
                "acc_mask": self.config.acc_rows - 1,
                "tile_base": self.tile_base,
                "tile_mask": self.config.tiles - 1,
            }
        )

    def vmem(self, row: int) -> int:
        """Row of the vector memory."""
        return self._inside("vector memory row", row, self.vmem_base, self.config.vmem_rows)

    def acc(self, row: int) -> int:
        """Row of the accumulators, counted from 0. A partition is the same rows of both halves of the memory."""
        upper, row = divmod(row, self.core.acc_rows // 2)
        half = self.config.acc_rows // 2
        return upper * half + self._inside("accumulator row of a half", row, self.acc_base // 2, half)

    def local(self, row: int) -> int:
        """Local row address."""
        return ACC_SPACE + self.acc(row - ACC_SPACE) if row >= ACC_SPACE else self.vmem(row)

    def tile(self, tile: int) -> int:
        """Tile."""
        return self._inside("tile", tile, self.tile_base, self.config.tiles)

    def tile_row(self, row: int) -> int:
        """Row of a tile, ``tile * T + row``."""
        tile, inner = divmod(row, self.config.side)
        return self.tile(tile) * self.config.side + inner

    @staticmethod
    def _inside(what: str, place: int, base: int, size: int) -> int:
        assert base <= place < base + size, f"{what} 0x{place:x} is not one of 0x{base:x} to 0x{base + size - 1:x}"
        return place - base
