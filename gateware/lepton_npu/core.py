"""One core: engines, memories, sequencer, and its bus port."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .array.matmul import MatmulEngine
from .array.quantiser import QuantEngine
from .array.tile_memory import TileMemory
from .bus.axi import AxiSignature
from .bus.load import LoadEngine
from .bus.master import AxiMaster
from .bus.store import StoreEngine
from .control.register_bank import EVENTS
from .control.sequencer import Sequencer
from .memory.bounds import whole
from .memory.local_memory import LocalMemory
from .mmu.invalidation import InvalidationControl
from .mmu.mmu import Mmu
from .mmu.ports import invalidate_layout, space_layout
from .spec.config import NpuConfig
from .vector.engine import VectorEngine

__all__ = ["CONTROL_PORTS", "LeptonCore"]

CONTROL_PORTS = (
    "enable",
    "ring_base",
    "ring_log2",
    "tail",
    "watchdog",
    "head",
    "idle",
    "done_event",
    "tag",
    "fault_event",
    "fault",
    "fault_engine",
    "fault_access",
    "stopped",
    "resume",
    "resumable",
    "resetting",
)
"""The members of `Sequencer` that a core shows to its registers."""


class LeptonCore(wiring.Component):
    """The engines around their memories (docs/architecture.md, section 1).

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    m_axi : Out(AxiSignature)
    quiet : Out(1)
        Of `AxiMaster`.
    events : Out(EVENTS)
        For the counters.
    space : In(space_layout())
        Of all commands and of the ring. Changes only while the core is idle.
    invalidate_request : In(1), invalidate : In(invalidate_layout()), invalidating : Out(1)
        See `InvalidationControl`.
    enable, ... : see `CONTROL_PORTS`
    """

    def __init__(self, config: NpuConfig):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        self._config = config
        self._sequencer = Sequencer(config)
        control = {name: self._sequencer.signature.members[name] for name in CONTROL_PORTS}
        super().__init__(
            {
                "m_axi": Out(AxiSignature(config)),
                "quiet": Out(1),
                "events": Out(EVENTS),
                "space": In(space_layout()),
                "invalidate_request": In(1),
                "invalidate": In(invalidate_layout()),
                "invalidating": Out(1),
                **control,
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.sequencer = sequencer = self._sequencer
        m.submodules.master = master = AxiMaster(config)
        m.submodules.mmu = mmu = Mmu(config)
        m.submodules.invalidation = invalidation = InvalidationControl()
        m.submodules.local_memory = memory = LocalMemory(config)
        m.submodules.tile_memory = tiles = TileMemory(config)
        m.submodules.load = load = LoadEngine(config)
        m.submodules.store = store = StoreEngine(config)
        m.submodules.quant = quant = QuantEngine(config)
        m.submodules.matmul = matmul = MatmulEngine(config)
        m.submodules.vector = vector = VectorEngine(config)

        for name in CONTROL_PORTS:
            inner, outer = getattr(sequencer, name), getattr(self, name)
            flow = sequencer.signature.members[name].flow
            m.d.comb += inner.eq(outer) if flow == wiring.In else outer.eq(inner)

        connect(m, flipped(self.m_axi), master.m_axi)
        connect(m, sequencer.ar, master.fetch_ar)
        connect(m, sequencer.r, master.fetch_r)
        connect(m, load.ar, master.load_ar)
        connect(m, load.r, master.load_r)
        connect(m, store.aw, master.aw)
        connect(m, store.w, master.w)
        connect(m, store.b, master.b)
        connect(m, mmu.ar, master.walk_ar)
        connect(m, mmu.r, master.walk_r)
        m.d.comb += self.quiet.eq(master.quiet)

        # ---- Translation.
        for number, requester in enumerate((load.mmu, store.mmu, sequencer.mmu)):
            connect(m, requester.request, mmu.i[number])
            connect(m, requester.answer, mmu.o[number])
            m.d.comb += [
                requester.space.eq(self.space),
                requester.hold.eq(invalidation.hold),
                requester.forget.eq(invalidation.forget),
            ]
        connect(m, invalidation.invalidate, mmu.invalidate)
        m.d.comb += [
            invalidation.request.eq(self.invalidate_request),
            invalidation.what.eq(self.invalidate),
            invalidation.quiet.eq(master.quiet),
            self.invalidating.eq(invalidation.busy),
            mmu.halt.eq(self.resetting | invalidation.hold),
        ]

        engines = {"load": load, "store": store, "quant": quant, "matmul": matmul, "vector": vector}
        for name, unit in engines.items():
            connect(m, getattr(sequencer, name), unit.engine)
            m.d.comb += unit.bounds.eq(whole(config))

        connect(m, load.write, memory.load)
        connect(m, store.read, memory.store)
        connect(m, quant.source, memory.quant)
        connect(m, quant.tiles, tiles.write)
        connect(m, matmul.stationary, tiles.stationary)
        connect(m, matmul.streamed, tiles.streamed)
        connect(m, matmul.acc, memory.acc)
        connect(m, vector.a, memory.vector_a)
        connect(m, vector.b, memory.vector_b)
        connect(m, vector.c, memory.vector_c)
        connect(m, vector.write, memory.vector_write)

        m.d.comb += [
            self.events.matmul_busy.eq(matmul.active),
            self.events.matmul_rows.eq(matmul.row),
            self.events.vector_busy.eq(vector.engine.busy),
            self.events.vector_rows.eq(vector.row),
            self.events.quant_busy.eq(quant.engine.busy),
            self.events.quant_rows.eq(quant.row_written),
            self.events.load_busy.eq(load.engine.busy),
            self.events.load_beats.eq(load.beat),
            self.events.store_busy.eq(store.engine.busy),
            self.events.store_beats.eq(store.beat),
            self.events.tlb_hits.eq(mmu.hit),
            self.events.tlb_misses.eq(mmu.miss),
            self.events.commands.eq(sequencer.dispatched),
        ]
        return m
