"""A context: its sequencer, its reset, and its partition."""

from amaranth.hdl import Cat, Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.memory.bounds import bounds_layout, whole
from lepton_npu.mmu.ports import TranslationSignature
from lepton_npu.spec.config import NpuConfig

from .contexts import EVENTS, HostSignature
from .decode import ENGINES
from .engine import EngineSignature
from .partition import Partition
from .sequencer import Sequencer
from .soft_reset import SoftReset

__all__ = ["Context"]

_GIVEN = ("enable", "ring_base", "ring_log2", "tail", "watchdog")
_TOLD = ("head", "idle", "done_event", "tag", "fault_event", "fault_engine", "fault_access", "resumable")
"""Members that `Sequencer` and `HostSignature` both have: of the host, and for it."""

_FAULT = ("valid", "cause", "index", "address")
"""Members of the sequencer's `FaultReport`, each of which the host has as fault_<name>."""


class Context(wiring.Component):
    """A command stream of its own (docs/contexts.md). Everything in it but the registers starts anew at its reset.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    host : Out(HostSignature())
    load, store, quant, matmul, vector : In(EngineSignature)
        To the context's ports of `EngineShare`.
    ar, r : streams, mmu : Out(TranslationSignature(config))
        The fetch's. ``mmu.space`` is not read: it is ``host.space``.
    bounds : Out(bounds_layout(config))
        Of its partition; all of the memories in a core with one context.
    events : In(EVENTS), invalidating : In(1)
        Of the engines and of the MMU, for the host; ``events.commands`` is not read.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "host": Out(HostSignature()),
                **{engine.name.lower(): In(EngineSignature(*opcodes)) for engine, opcodes in ENGINES.items()},
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "mmu": Out(TranslationSignature(config)),
                "bounds": Out(bounds_layout(config)),
                "events": In(EVENTS),
                "invalidating": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        host = self.host
        sequencer = Sequencer(self._config)
        m.submodules.soft_reset = soft_reset = SoftReset()
        m.submodules.sequencer = ResetInserter({"sync": soft_reset.reset})(sequencer)
        if self._config.contexts > 1:
            m.submodules.partition = partition = Partition(self._config)
            m.d.comb += [partition.partition.eq(host.partition), self.bounds.eq(partition.bounds)]
        else:
            m.d.comb += self.bounds.eq(whole(self._config))
        engines = [name.lower() for name in (engine.name for engine in ENGINES)]
        for name in engines:
            connect(m, getattr(sequencer, name), flipped(getattr(self, name)))
        connect(m, sequencer.ar, flipped(self.ar))
        connect(m, sequencer.r, flipped(self.r))
        connect(m, sequencer.mmu, flipped(self.mmu))
        quiet = Signal()
        m.d.comb += [
            quiet.eq(sequencer.quiet & Cat(getattr(self, name).quiet for name in engines).all()),
            soft_reset.request.eq(host.reset_request),
            soft_reset.quiet.eq(quiet),
            sequencer.resetting.eq(soft_reset.resetting),
            host.core_reset.eq(soft_reset.reset),
            host.resetting.eq(soft_reset.resetting),
            host.events.eq(self.events),
            host.events.commands.eq(sequencer.dispatched),
            host.invalidating.eq(self.invalidating),
            sequencer.resume.eq(host.resume_request),
            *(getattr(sequencer, name).eq(getattr(host, name)) for name in _GIVEN),
            *(getattr(host, name).eq(getattr(sequencer, name)) for name in _TOLD),
            *(getattr(host, f"fault_{part}").eq(sequencer.fault[part]) for part in _FAULT),
        ]
        return m
