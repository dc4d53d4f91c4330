"""One core: contexts, engines, memories, address translation, and the bus port."""

from amaranth.hdl import Array, Cat, Module, ResetInserter, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from .array.matmul import MatmulEngine
from .array.quantiser import QuantEngine
from .array.tile_memory import TileMemory
from .bus.axi import AxiSignature
from .bus.load import LoadEngine
from .bus.master import AxiMaster
from .bus.store import StoreEngine
from .control.context import Context
from .control.contexts import HostSignature
from .control.decode import ENGINES
from .control.engine_share import EngineShare
from .control.fetch_share import FetchShare
from .memory.local_memory import LocalMemory
from .mmu.invalidation import InvalidationControl
from .mmu.mmu import Mmu
from .spec.config import NpuConfig
from .spec.translation import Invalidate
from .vector.engine import VectorEngine

__all__ = ["LeptonCore"]

_DMA_REQUESTERS = ("load", "store")  # of the MMU; the contexts' fetches follow


class LeptonCore(wiring.Component):
    """Contexts that share the engines and their memories (docs/architecture.md, section 1; docs/contexts.md).

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    m_axi : Out(AxiSignature)
    contexts : Out(HostSignature()), for each context
        To its registers.
    """

    def __init__(self, config: NpuConfig):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        self._config = config
        super().__init__({"m_axi": Out(AxiSignature(config)), "contexts": Out(HostSignature()).array(config.contexts)})

    def elaborate(self, platform):
        m = Module()
        config, numbers = self._config, range(self._config.contexts)
        contexts = [Context(config) for _ in numbers]
        for number, context in enumerate(contexts):
            m.submodules[f"context{number}"] = context
            connect(m, context.host, flipped(self.contexts[number]))

        m.submodules.master = master = AxiMaster(config)
        m.submodules.fetches = fetches = FetchShare(config)
        m.submodules.mmu = mmu = Mmu(config, requesters=len(_DMA_REQUESTERS) + config.contexts)
        m.submodules.invalidation = invalidation = InvalidationControl()
        m.submodules.local_memory = memory = LocalMemory(config)
        m.submodules.tile_memory = tiles = TileMemory(config)
        load, store, quant = LoadEngine(config), StoreEngine(config), QuantEngine(config)
        matmul, vector = MatmulEngine(config), VectorEngine(config)
        engines = {"load": load, "store": store, "quant": quant, "matmul": matmul, "vector": vector}

        # ---- Engines, each with the partition and the address space of the context whose commands it runs.
        owners = {}
        for (engine, opcodes), unit in zip(ENGINES.items(), engines.values(), strict=True):
            name = engine.name.lower()
            m.submodules[f"{name}_share"] = share = EngineShare(config, *opcodes)
            m.submodules[name] = ResetInserter({"sync": share.engine_reset})(unit)
            connect(m, share.engine, unit.engine)
            owners[name] = share.owner
            for number, context in enumerate(contexts):
                connect(m, getattr(context, name), share.contexts[number])
                m.d.comb += share.weights[number].eq(context.host.weight)
            bounds = Array(context.bounds.as_value() for context in contexts)[share.owner]
            m.d.comb += unit.bounds.eq(bounds)
        m.d.comb += quant.owner.eq(owners["quant"])
        for number, context in enumerate(contexts):
            m.d.comb += quant.forget[number].eq(ResetSignal() | context.host.core_reset)

        connect(m, flipped(self.m_axi), master.m_axi)
        connect(m, fetches.ar, master.fetch_ar)
        connect(m, fetches.r, master.fetch_r)
        for number, context in enumerate(contexts):
            connect(m, context.ar, fetches.i_ar[number])
            connect(m, context.r, fetches.o_r[number])
        connect(m, load.ar, master.load_ar)
        connect(m, load.r, master.load_r)
        connect(m, store.aw, master.aw)
        connect(m, store.w, master.w)
        connect(m, store.b, master.b)

        self._translation(m, contexts, {"load": load, "store": store}, owners, mmu, invalidation)
        connect(m, mmu.ar, master.walk_ar)
        connect(m, mmu.r, master.walk_r)
        m.d.comb += invalidation.quiet.eq(master.quiet)

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

        # ---- What is counted, by the context for which it happens.
        happens = {
            "matmul": {"matmul_busy": matmul.active, "matmul_rows": matmul.row},
            "vector": {"vector_busy": vector.engine.busy, "vector_rows": vector.row},
            "quant": {"quant_busy": quant.engine.busy, "quant_rows": quant.row_written},
            "load": {"load_busy": load.engine.busy, "load_beats": load.beat},
            "store": {"store_busy": store.engine.busy, "store_beats": store.beat},
        }
        for number, context in enumerate(contexts):
            events = context.events
            for name, signals in happens.items():
                for event, signal in signals.items():
                    m.d.comb += events[event].eq(signal & (owners[name] == number))
            asked = Signal(name=f"asked{number}")
            dma = Cat((mmu.asker == place) & (owners[name] == number) for place, name in enumerate(_DMA_REQUESTERS))
            m.d.comb += [
                asked.eq(dma.any() | (mmu.asker == len(_DMA_REQUESTERS) + number)),
                events.tlb_hits.eq(mmu.hit & asked),
                events.tlb_misses.eq(mmu.miss & asked),
            ]
        return m

    def _translation(self, m, contexts, dma, owners, mmu, invalidation):
        """Requesters and MMU; invalidations that contexts ask for, or that their resets need."""
        requesters = [dma[name] for name in _DMA_REQUESTERS] + contexts
        for number, requester in enumerate(requesters):
            connect(m, requester.mmu.request, mmu.i[number])
            connect(m, requester.mmu.answer, mmu.o[number])
            m.d.comb += [requester.mmu.hold.eq(invalidation.hold), requester.mmu.forget.eq(invalidation.forget)]
        spaces = Array(context.host.space.as_value() for context in contexts)
        for name in _DMA_REQUESTERS:
            m.d.comb += dma[name].mmu.space.eq(spaces[owners[name]])
        for context in contexts:
            m.d.comb += context.mmu.space.eq(context.host.space)

        hosts = [context.host for context in contexts]
        requests = Cat(host.invalidate_request for host in hosts)
        resets = Cat(host.core_reset for host in hosts)
        connect(m, invalidation.invalidate, mmu.invalidate)
        m.d.comb += [invalidation.request.eq(requests.any() | resets.any()), mmu.halt.eq(invalidation.hold)]
        for host in hosts:
            with m.If(host.invalidate_request):
                m.d.comb += invalidation.what.eq(host.invalidate)
        # Of several at once, and of a reset, it is everything.
        several = (requests & (requests - 1)[: len(requests)]).any()
        with m.If(several | resets.any()):
            m.d.comb += invalidation.what.kind.eq(Invalidate.ALL)
        for context in contexts:
            m.d.comb += context.invalidating.eq(invalidation.busy)
