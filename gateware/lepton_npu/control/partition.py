"""The partition registers of a context, as the bounds that engines keep to."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.spec.config import NpuConfig

__all__ = ["MEMORIES", "Partition", "partition_layout"]

MEMORIES = ("vmem", "acc", "tile")
"""On-chip memories that are divided among contexts; each has a register NAME_PARTITION."""


def partition_layout() -> data.StructLayout:
    """For each of `MEMORIES` the fields of its register: first row (tile), and logarithm of their number."""
    fields = data.StructLayout({"base": 16, "log2": 5})
    return data.StructLayout(dict.fromkeys(MEMORIES, fields))


class Partition(wiring.Component):
    """Masks and bases of a context's partition; a cycle behind its registers.

    A size greater than the memory is the memory; bits of the base below the size, and beyond the memory, are ignored.
    So every value names rows of the memory, as many as it says.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    partition : In(partition_layout())
    bounds : Out(bounds_layout(config))
    """

    def __init__(self, config: NpuConfig):
        super().__init__({"partition": In(partition_layout()), "bounds": Out(bounds_layout(config))})

    def elaborate(self, platform):
        m = Module()
        for name in MEMORIES:
            fields, base = self.partition[name], self.bounds[f"{name}_base"]
            width = len(base)
            mask = Signal(width, name=f"{name}_mask")
            for bit in range(width):
                m.d.comb += mask[bit].eq(fields.log2 > bit)
            m.d.sync += [base.eq(fields.base & ~mask), self.bounds[f"{name}_mask"].eq(mask)]
        return m
