"""The address registers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.commands import ADDRESS_REGISTERS

__all__ = ["ADDRESS_BITS", "AddressRegisters"]

ADDRESS_BITS = 64


class AddressRegisters(wiring.Component):
    """Seven registers of 64 bits, 0 at reset, and the sum of one of them with an offset; combinational.

    Members
    -------
    number : In(3)
        A register; 0 for none, which reads 0.
    offset : In(64), sum : Out(64)
        ``offset`` plus the register, modulo 2^64.
    write : In(1), add : In(1)
        The register becomes the sum, or without ``add`` the offset, from the next cycle on; number and offset are those
        of the cycle before. Not for number 0.
    """

    def __init__(self):
        super().__init__(
            {
                "number": In(range(ADDRESS_REGISTERS + 1)),
                "offset": In(ADDRESS_BITS),
                "sum": Out(ADDRESS_BITS),
                "write": In(1),
                "add": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # A memory has no reset: a register is 0 until it is written.
        m.submodules.memory = memory = Memory(shape=ADDRESS_BITS, depth=ADDRESS_REGISTERS + 1, init=[])
        read, write = memory.read_port(domain="comb"), memory.write_port()
        written = Signal(ADDRESS_REGISTERS + 1)
        known, late_sum = Signal(), Signal(ADDRESS_BITS, reset_less=True)
        m.d.comb += [
            read.addr.eq(self.number),
            known.eq(written.bit_select(self.number, 1)),
            self.sum.eq(self.offset + (read.data & known.replicate(ADDRESS_BITS))),
            write.addr.eq(self.number),
            write.data.eq(Mux(self.add, late_sum, self.offset)),
            write.en.eq(self.write),
        ]
        m.d.sync += late_sum.eq(self.sum)
        with m.If(self.write):
            m.d.sync += written.bit_select(self.number, 1).eq(1)
        return m
