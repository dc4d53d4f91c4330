"""AXI4 ports, under AMBA's signal names (AMBA AXI and ACE, IHI 0022H, part A)."""

from amaranth.hdl import Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig

__all__ = [
    "FETCH_ID",
    "ID_BITS",
    "LOAD_ID",
    "STORE_ID",
    "WALK_ID",
    "AxiSignature",
    "burst_constants",
    "burst_layout",
    "read_beat_layout",
    "write_beat_layout",
]

ID_BITS = 2
FETCH_ID, LOAD_ID, STORE_ID, WALK_ID = range(4)
"""Transaction IDs: one for each of the units behind the port, whose transactions are in order."""

_INCR = 1  # A3.4.1
_NORMAL_NON_CACHEABLE = 0b0010  # A4.4, not bufferable: a write is acknowledged from its final destination
_UNPRIVILEGED_NON_SECURE = 0b010  # A4.7


class AxiSignature(wiring.Signature):
    """An AXI4 port seen from the master: INCR bursts of full-width beats.

    AxLOCK, AxQOS and AxREGION are left out: all of them are optional with the value 0 (A10.3).
    """

    def __init__(self, config: NpuConfig):
        address = {"id": ID_BITS, "addr": config.addr_width, "len": 8, "size": 3, "burst": 2, "cache": 4, "prot": 3}
        super().__init__(
            {
                **{f"aw{name}": Out(width) for name, width in address.items()},
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(config.bus_width),
                "wstrb": Out(config.bus_bytes),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(ID_BITS),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                **{f"ar{name}": Out(width) for name, width in address.items()},
                "arvalid": Out(1),
                "arready": In(1),
                "rid": In(ID_BITS),
                "rdata": In(config.bus_width),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


def burst_layout(config: NpuConfig) -> data.StructLayout:
    """A burst that is asked for: byte address, and AxLEN (beats - 1)."""
    return data.StructLayout({"addr": config.addr_width, "len": 8})


def read_beat_layout(config: NpuConfig) -> data.StructLayout:
    """A beat of the R channel."""
    return data.StructLayout({"data": config.bus_width, "resp": 2, "last": 1})


def write_beat_layout(config: NpuConfig) -> data.StructLayout:
    """A beat of the W channel."""
    return data.StructLayout({"data": config.bus_width, "strb": config.bus_bytes, "last": 1})


def burst_constants(config: NpuConfig, port: wiring.PureInterface, channel: str) -> list[Value]:
    """Assignments of what is the same for all bursts on channel "ar" or "aw" of ``port``."""
    values = {
        "size": (config.bus_bytes - 1).bit_length(),
        "burst": _INCR,
        "cache": _NORMAL_NON_CACHEABLE,
        "prot": _UNPRIVILEGED_NON_SECURE,
    }
    return [getattr(port, channel + name).eq(value) for name, value in values.items()]
