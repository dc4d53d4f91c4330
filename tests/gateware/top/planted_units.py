"""Units with a bug, which take the place of the core's in `planted`."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib.wiring import connect, flipped
from lepton_npu.array.tile_memory import TileMemory
from lepton_npu.bus.master import AxiMaster
from lepton_npu.control.contexts import context_bits
from lepton_npu.control.engine_share import EngineShare
from lepton_npu.control.fetch_share import FetchShare

__all__ = ["LateOwner", "LostBeat", "NewestFirst", "Planted", "SwappedTile"]


class Planted:
    """What replaces a unit, and is like it while ``bug`` is 0."""

    bug: Value
    """Whether it is active; `core_with_bugs` sets it."""


class SwappedTile(Planted, TileMemory):
    """A transposed stationary tile is its neighbour."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = TileMemory(self.config)
        connect(m, flipped(self.streamed), inner.streamed)
        connect(m, flipped(self.write), inner.write)
        port = self.stationary
        m.d.comb += [
            inner.stationary.en.eq(port.en),
            inner.stationary.row.eq(port.row ^ ((port.transpose & self.bug) << self.config.side_bits)),
            inner.stationary.transpose.eq(port.transpose),
            port.data.eq(inner.stationary.data),
            port.exponent.eq(inner.stationary.exponent),
        ]
        return m


class LostBeat(Planted, AxiMaster):
    """One write beat in 64 never reaches the bus."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = AxiMaster(self._config)
        for name in self.signature.members:
            if name not in ("w", "quiet"):
                connect(m, flipped(getattr(self, name)), getattr(inner, name))
        count, lost = Signal(6), Signal()
        m.d.comb += [
            lost.eq((count == 63) & self.bug),
            inner.w.payload.eq(self.w.payload),
            inner.w.valid.eq(self.w.valid & ~lost),
            self.w.ready.eq(inner.w.ready | lost),
            self.quiet.eq(inner.quiet),
        ]
        m.d.sync += count.eq(count + (self.w.valid & self.w.ready))
        return m


class LateOwner(Planted, EngineShare):
    """Partition and address space follow the owner of an engine some cycles late."""

    def __init__(self, config, *opcodes):
        super().__init__(config, *opcodes)
        self._inner, self._bits = EngineShare(config, *opcodes), context_bits(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self._inner
        connect(m, inner.engine, flipped(self.engine))
        for number in range(self._count):
            connect(m, inner.contexts[number], flipped(self.contexts[number]))
        owner = inner.owner
        for cycle in range(8):
            late = Signal(self._bits, name=f"late{cycle}")
            m.d.sync += late.eq(owner)
            owner = late
        m.d.comb += [
            inner.weights.eq(self.weights),
            self.owner.eq(Mux(self.bug, owner, inner.owner)),
            self.engine_reset.eq(inner.engine_reset),
        ]
        return m


class NewestFirst(Planted, FetchShare):
    """Records that are read go to the context that has asked last."""

    def __init__(self, config):
        super().__init__(config)
        self._inner = FetchShare(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self._inner
        connect(m, inner.ar, flipped(self.ar))
        connect(m, inner.r, flipped(self.r))
        newest = Signal(self._bits)
        for number in range(self._count):
            connect(m, inner.i_ar[number], flipped(self.i_ar[number]))
            with m.If(self.i_ar[number].valid & self.i_ar[number].ready):
                m.d.sync += newest.eq(number)
            m.d.comb += [
                self.o_r[number].valid.eq(Mux(self.bug, self.r.valid & (newest == number), inner.o_r[number].valid)),
                self.o_r[number].payload.eq(self.r.payload),
            ]
        return m
