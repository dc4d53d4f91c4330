"""Ports of the local memory, seen from the engine that uses them."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig

__all__ = [
    "ACC_READ_LATENCY",
    "LOCAL_ADDR_BITS",
    "LOCAL_READ_LATENCY",
    "AccPort",
    "LocalPriorityWritePort",
    "LocalReadPort",
    "LocalWritePort",
]

LOCAL_ADDR_BITS = 16
"""A local row address: bit 15 selects the accumulator memory."""

LOCAL_READ_LATENCY = 4
"""Cycles from the handshake of a read request to its data."""

ACC_READ_LATENCY = 3
"""Cycles from ``read_en`` to ``read_data`` of the matrix engine's accumulator port."""


class LocalReadPort(wiring.Signature):
    """Reads of local rows.

    Members
    -------
    req : Out(stream)
        Row address, in range (the requester has checked it). Accepted when the row's bank is free.
    resp_valid : In(1), resp_data : In(row_bits)
        The row, exactly `LOCAL_READ_LATENCY` cycles after the handshake, in order; it cannot be held back.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "req": Out(stream.Signature(LOCAL_ADDR_BITS)),
                "resp_valid": In(1),
                "resp_data": In(config.row_bits),
            }
        )


class LocalWritePort(wiring.Signature):
    """Writes of whole rows of the vector memory: ``addr`` (a row of it, in range) and ``data``.

    A write is visible to every read request accepted in a later cycle than its handshake.
    """

    def __init__(self, config: NpuConfig):
        layout = data.StructLayout({"addr": config.vmem_addr_bits, "data": config.row_bits})
        super().__init__({"req": Out(stream.Signature(layout))})


class LocalPriorityWritePort(wiring.Signature):
    """A write of a whole row of the vector memory every cycle, never held back, seen by requests of later cycles.

    ``pause``: a LOAD has waited long for this port's bank. The engine begins nothing in this cycle, so that a cycle
    without a write comes.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {"en": Out(1), "addr": Out(config.vmem_addr_bits), "data": Out(config.row_bits), "pause": In(1)}
        )


class AccPort(wiring.Signature):
    """The matrix engine's own port of the accumulators: a read and a write every cycle, never held back.

    ``read_data`` comes `ACC_READ_LATENCY` cycles after ``read_en``, and is zero in a cycle for which there was no read:
    a row that replaces its accumulators is added to that. A write is seen by reads of later cycles.
    Addresses count accumulator rows (bit 15 taken off).

    ``pause``: a STORE has waited long for this port's half. The engine begins no row in this cycle, so that a cycle
    without a read comes.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "read_en": Out(1),
                "read_addr": Out(config.acc_addr_bits),
                "read_data": In(config.row_bits),
                "write_en": Out(1),
                "write_addr": Out(config.acc_addr_bits),
                "write_data": Out(config.row_bits),
                "pause": In(1),
            }
        )
