"""AXI4-Lite accesses to the registers of several contexts: a page of 4 KiB for each."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from lepton_npu.bus.axi_lite import AxiLiteSignature
from lepton_npu.spec.config import NpuConfig

__all__ = ["PAGE_ADDRESS_BITS", "RegisterPages", "register_address_bits"]

PAGE_ADDRESS_BITS = 12


def register_address_bits(config: NpuConfig) -> int:
    """Bits of an address of the registers of all contexts."""
    return PAGE_ADDRESS_BITS + ceil_log2(config.contexts)


class RegisterPages(wiring.Component):
    """Passes each access to the page that its address names: one write and one read at a time, independently.

    An access takes one cycle more than without it. Write data wait for their address.

    Parameters
    ----------
    config : NpuConfig
        With 2 or more contexts.

    Members
    -------
    s_axil : In(AxiLiteSignature(register_address_bits(config)))
    pages : Out(AxiLiteSignature()), for each context
    """

    def __init__(self, config: NpuConfig):
        if config.contexts < 2:
            raise ValueError(f"contexts must be 2 or more, not {config.contexts}")
        self._count = config.contexts
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature(register_address_bits(config))),
                "pages": Out(AxiLiteSignature(PAGE_ADDRESS_BITS)).array(self._count),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bus, pages = self.s_axil, [self.pages[n] for n in range(self._count)]
        bits = ceil_log2(self._count)

        def of_page(number, name):
            return Array(getattr(page, name) for page in pages)[number]

        for kind, response in (("aw", "b"), ("ar", "r")):
            # An address is held from its acceptance to the acceptance of its response; shown until the page has it.
            held, shown = Signal(name=f"{kind}_held"), Signal(name=f"{kind}_shown")
            page = Signal(bits, name=f"{kind}_page")
            address = Signal(PAGE_ADDRESS_BITS, name=f"{kind}_address")
            m.d.comb += getattr(bus, f"{kind}ready").eq(~held)
            with m.If(getattr(bus, f"{kind}valid") & ~held):
                m.d.sync += [
                    held.eq(1),
                    shown.eq(1),
                    page.eq(getattr(bus, f"{kind}addr")[PAGE_ADDRESS_BITS:]),
                    address.eq(getattr(bus, f"{kind}addr")),
                ]
            with m.If(shown & of_page(page, f"{kind}ready")):
                m.d.sync += shown.eq(0)
            valid, ready = getattr(bus, f"{response}valid"), getattr(bus, f"{response}ready")
            m.d.comb += valid.eq(held & of_page(page, f"{response}valid"))
            with m.If(valid & ready):
                m.d.sync += held.eq(0)
            m.d.comb += getattr(bus, f"{response}resp").eq(of_page(page, f"{response}resp"))
            for number, port in enumerate(pages):
                mine = held & (page == number)
                m.d.comb += [
                    getattr(port, f"{kind}valid").eq(shown & (page == number)),
                    getattr(port, f"{kind}addr").eq(address),
                    getattr(port, f"{response}ready").eq(ready & mine),
                ]
            if kind == "aw":
                # One word for each address: it must not reach the page before the next address is known.
                taken = Signal(name="w_taken")
                m.d.comb += bus.wready.eq(held & ~taken & of_page(page, "wready"))
                with m.If(valid & ready):
                    m.d.sync += taken.eq(0)
                with m.Elif(bus.wvalid & bus.wready):
                    m.d.sync += taken.eq(1)
                for number, port in enumerate(pages):
                    m.d.comb += [
                        port.wvalid.eq(bus.wvalid & held & ~taken & (page == number)),
                        port.wdata.eq(bus.wdata),
                        port.wstrb.eq(bus.wstrb),
                    ]
            else:
                m.d.comb += bus.rdata.eq(of_page(page, "rdata"))
        return m
