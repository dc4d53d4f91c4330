"""Bugs to plant in the core: each replaces one unit by a version of it that is wrong in one way."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import In, connect, flipped
from lepton_npu.array.accumulate import Accumulate
from lepton_npu.array.quantise_random import RowStates
from lepton_npu.array.systolic import SystolicArray
from lepton_npu.array.tile_memory import TileMemory
from lepton_npu.bus.master import AxiMaster
from lepton_npu.control.addresses import AddressRegisters
from lepton_npu.control.fetch import RecordFetch
from lepton_npu.control.semaphores import SemaphoreFile
from lepton_npu.spec.commands import Engine
from lepton_npu.spec.config import PRESETS

__all__ = ["BUGS"]

_CUT = 10


class DroppedCarry(SystolicArray):
    """Column sums lose the carry into bit 10."""

    @staticmethod
    def _sum(above, product):
        low = above[:_CUT] + product[:_CUT]
        high = above[_CUT:].as_signed() + product[_CUT:].as_signed()
        return Cat(low[:_CUT], high).as_signed()


class SwappedTile(TileMemory):
    """A transposed stationary tile is its neighbour."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = TileMemory(self.config)
        connect(m, flipped(self.streamed), inner.streamed)
        connect(m, flipped(self.write), inner.write)
        port = self.stationary
        m.d.comb += [
            inner.stationary.en.eq(port.en),
            inner.stationary.row.eq(port.row ^ (port.transpose << self.config.side_bits)),
            inner.stationary.transpose.eq(port.transpose),
            port.data.eq(inner.stationary.data),
            port.exponent.eq(inner.stationary.exponent),
        ]
        return m


class LostBeat(AxiMaster):
    """One write beat in 64 never reaches the bus."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = AxiMaster(self._config)
        for name in self.signature.members:
            if name not in ("w", "quiet"):
                connect(m, flipped(getattr(self, name)), getattr(inner, name))
        count, lost = Signal(6), Signal()
        m.d.comb += [
            lost.eq(count == 63),
            inner.w.payload.eq(self.w.payload),
            inner.w.valid.eq(self.w.valid & ~lost),
            self.w.ready.eq(inner.w.ready | lost),
            self.quiet.eq(inner.quiet),
        ]
        m.d.sync += count.eq(count + (self.w.valid & self.w.ready))
        return m


class NoHazard(Accumulate):
    """Rows do not wait for the sum that they add to."""

    turnaround = 1


class Impatient(SemaphoreFile):
    """The MATMUL engine does not wait for semaphores, but takes them."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = SemaphoreFile()
        for name in ("requests", "masks", "posts", "takes"):
            m.d.comb += getattr(inner, name).eq(getattr(self, name))
        for name in ("overflow", "overflow_engine"):
            m.d.comb += getattr(self, name).eq(getattr(inner, name))
        m.d.comb += self.grants.eq(inner.grants | (self.requests & (1 << Engine.MATMUL)))
        return m


class ShortLoop(RecordFetch):
    """A body that should run more than once runs once less."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = RecordFetch(self._config)
        for name, member in self.signature.members.items():
            outer, inside = getattr(self, name), getattr(inner, name)
            if name == "jump":
                continue
            if not member.is_port:
                connect(m, flipped(outer), inside)
            elif member.flow == In:
                m.d.comb += inside.eq(outer)
            else:
                m.d.comb += outer.eq(inside)
        count = self.jump.payload.count
        m.d.comb += [
            inner.jump.valid.eq(self.jump.valid),
            self.jump.ready.eq(inner.jump.ready),
            inner.jump.payload.eq(self.jump.payload),
            inner.jump.payload.count.eq(count - (count > 1)),
        ]
        return m


class OnlySet(AddressRegisters):
    """An address register is set where it should be added to."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = AddressRegisters()
        for name in ("number", "offset", "write"):
            m.d.comb += getattr(inner, name).eq(getattr(self, name))
        m.d.comb += self.sum.eq(inner.sum)
        return m


class RestlessPlanes(RowStates):
    """Every plane of a tile is rounded with numbers of its own."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = RowStates(PRESETS["tiny"])
        for name in ("owner", "forget", "seed", "load", "step", "first"):
            m.d.comb += getattr(inner, name).eq(getattr(self, name))
        m.d.comb += self.state.eq(inner.state)
        return m


BUGS = {
    "dropped carry": ("lepton_npu.array.matmul.SystolicArray", DroppedCarry),
    "swapped tile": ("lepton_npu.core.TileMemory", SwappedTile),
    "lost W beat": ("lepton_npu.core.AxiMaster", LostBeat),
    "exponent off by one": ("lepton_npu.array.matmul._BIAS", 2 * 127 + 2 * 6 + 1),
    "no accumulator hazard": ("lepton_npu.array.matmul.Accumulate", NoHazard),
    "one round too few": ("lepton_npu.control.sequencer.RecordFetch", ShortLoop),
    "register not added to": ("lepton_npu.control.sequencer.AddressRegisters", OnlySet),
    "planes rounded apart": ("lepton_npu.array.quantiser.RowStates", RestlessPlanes),
    "semaphore not waited for": ("lepton_npu.control.sequencer.SemaphoreFile", Impatient),
}
"""What is replaced by what."""
