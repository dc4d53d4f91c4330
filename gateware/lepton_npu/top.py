"""The IP core: one core behind the registers of its contexts, with AMBA ports."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .bus.axi import AxiSignature
from .bus.axi_lite import AxiLiteSignature
from .control.contexts import HostSignature
from .control.register_bank import RegisterBank
from .control.register_pages import RegisterPages, register_address_bits
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
    s_axil : In(AxiLiteSignature(register_address_bits(config)))
        Registers (docs/registers.md), a page of 4 KiB for each context.
    m_axi : Out(AxiSignature(config))
        Memory: command ring, LOAD, STORE.
    irq : Out(1)
        Level, active high: any context has an interrupt.
    """

    def __init__(self, config: NpuConfig):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        self._config = config
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature(register_address_bits(config))),
                "m_axi": Out(AxiSignature(config)),
                "irq": Out(1),
            }
        )

    @property
    def config(self) -> NpuConfig:
        """The configuration the core was made for."""
        return self._config

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.core = core = LeptonCore(config)
        connect(m, flipped(self.m_axi), core.m_axi)
        banks = [RegisterBank(config, number) for number in range(config.contexts)]
        pending = Cat(bank.irq for bank in banks)
        m.d.comb += self.irq.eq(pending.any())
        for number, bank in enumerate(banks):
            m.submodules["registers" if config.contexts == 1 else f"registers{number}"] = bank
            m.d.comb += bank.pending.eq(pending)
            for name, member in HostSignature().members.items():
                inner, outer = getattr(core.contexts[number], name), getattr(bank, name)
                m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)
        if config.contexts == 1:
            connect(m, flipped(self.s_axil), banks[0].s_axil)
        else:
            m.submodules.pages = pages = RegisterPages(config)
            connect(m, flipped(self.s_axil), pages.s_axil)
            for number, bank in enumerate(banks):
                connect(m, pages.pages[number], bank.s_axil)
        return m
