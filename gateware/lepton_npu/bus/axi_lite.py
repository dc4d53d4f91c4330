"""AXI4-Lite, 32 data bits (AMBA AXI and ACE Protocol Specification, Arm IHI 0022H, part B)."""

from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["AxiLiteSignature", "Response"]


class Response(enum.Enum, shape=2):
    """BRESP and RRESP (clause A3.4.4). AXI4-Lite has no exclusive access, so 0b01 (EXOKAY) does not occur (B1.1.1)."""

    OKAY = 0b00
    SLVERR = 0b10
    DECERR = 0b11


class AxiLiteSignature(wiring.Signature):
    """The five channels, seen from the master; a slave's port is ``In(AxiLiteSignature())``.

    Names are those of the specification in lower case, so that a member ``s_axil`` gives ports ``s_axil_awaddr``, ....

    Parameters
    ----------
    addr_width : int
        Bits of ``awaddr`` and ``araddr``, 1 to 64.

    Raises
    ------
    ValueError
        If ``addr_width`` is out of range.
    """

    def __init__(self, addr_width: int = 12):
        if not 1 <= addr_width <= 64:
            raise ValueError(f"addr_width must be from 1 to 64, not {addr_width}")
        self.addr_width = addr_width
        super().__init__(
            {
                "awaddr": Out(addr_width),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_width),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
