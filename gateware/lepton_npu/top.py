"""The IP core: one core behind its registers, with AMBA ports."""

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .bus.axi import AxiSignature
from .bus.axi_lite import AxiLiteSignature
from .control.register_bank import RegisterBank
from .control.soft_reset import SoftReset
from .core import LeptonCore
from .spec.config import NpuConfig

__all__ = ["LeptonNpu"]


class LeptonNpu(wiring.Component):
    """The top of the design. Clock ``clk``, synchronous active-high reset ``rst``.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    s_axil : In(AxiLiteSignature())
        Registers (docs/registers.md).
    m_axi : Out(AxiSignature(config))
        Memory: command ring, LOAD, STORE.
    irq : Out(1)
        Level, active high.
    """

    def __init__(self, config: NpuConfig):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        self._config = config
        super().__init__({"s_axil": In(AxiLiteSignature()), "m_axi": Out(AxiSignature(config)), "irq": Out(1)})

    @property
    def config(self) -> NpuConfig:
        """The configuration the core was made for."""
        return self._config

    def elaborate(self, platform):
        m = Module()
        core = LeptonCore(self._config)
        m.submodules.registers = registers = RegisterBank(self._config)
        m.submodules.soft_reset = soft_reset = SoftReset()
        m.submodules.core = ResetInserter({"sync": soft_reset.reset})(core)
        connect(m, flipped(self.s_axil), registers.s_axil)
        connect(m, flipped(self.m_axi), core.m_axi)
        m.d.comb += [
            self.irq.eq(registers.irq),
            soft_reset.request.eq(registers.reset_request),
            soft_reset.quiet.eq(core.quiet),
            registers.core_reset.eq(soft_reset.reset),
            registers.resetting.eq(soft_reset.resetting),
            core.resetting.eq(soft_reset.resetting),
            core.enable.eq(registers.enable),
            core.ring_base.eq(registers.ring_base),
            core.ring_log2.eq(registers.ring_log2),
            core.tail.eq(registers.tail),
            core.watchdog.eq(registers.watchdog),
            core.space.eq(registers.space),
            core.invalidate_request.eq(registers.invalidate_request),
            core.invalidate.eq(registers.invalidate),
            registers.invalidating.eq(core.invalidating),
            registers.head.eq(core.head),
            registers.idle.eq(core.idle),
            registers.done_event.eq(core.done_event),
            registers.tag.eq(core.tag),
            registers.fault_event.eq(core.fault_event),
            registers.fault_valid.eq(core.fault.valid),
            registers.fault_cause.eq(core.fault.cause),
            registers.fault_engine.eq(core.fault_engine),
            registers.fault_index.eq(core.fault.index),
            registers.fault_address.eq(core.fault.address),
            registers.events.eq(core.events),
        ]
        return m
