"""Fetching the rows of one operand ahead of their use."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from lepton_npu.memory.bounds import bounds_layout, to_local
from lepton_npu.memory.ports import LocalReadPort
from lepton_npu.memory.range_check import in_local
from lepton_npu.spec.config import NpuConfig

from .loop import ROW_ADDRESS_BITS, RowLoop, row_loop_layout

__all__ = ["OperandFetch"]

_DEPTH = 8  # more than the latency of the memory and of the credits, so that a row a cycle gets through


class OperandFetch(wiring.Component):
    """Reads the rows of a `RowLoop` into a queue; a row that follows itself is read once.

    Throughput a row a cycle as long as the memory accepts the requests. A row whose address names nothing is not read,
    and nothing after it.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    start : In(1), loop : In(row_loop_layout())
        Begin; the queue is empty then. The layout is read in the cycle of ``start`` only.
    bounds : In(bounds_layout(config))
    port : Out(LocalReadPort)
    valid : Out(1), row : Out(row_bits)
        The next row; ``pop`` : In(1) takes it.
    bad : Out(1), address : Out(signed(18))
        The next row has no valid address, and that address; stays until reset.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "loop": In(row_loop_layout()),
                "bounds": In(bounds_layout(config)),
                "port": Out(LocalReadPort(config)),
                "valid": Out(1),
                "row": Out(config.row_bits),
                "pop": In(1),
                "bad": Out(1),
                "address": Out(signed(ROW_ADDRESS_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = loop = RowLoop()
        m.submodules.queue = queue = SyncFIFO(width=self._config.row_bits, depth=_DEPTH)
        m.d.comb += [loop.start.eq(self.start), loop.loop.eq(self.loop), self.address.eq(loop.address)]

        held = Signal(range(_DEPTH + 1))  # rows asked for and not taken
        good, asked = Signal(), Signal()
        some = Signal()  # what the queue calls r_rdy, in a register: it begins the engine's longest path
        m.d.comb += [
            good.eq(in_local(self._config, self.bounds, loop.address)),
            self.port.req.payload.eq(to_local(self._config, self.bounds, loop.address)),
            self.port.req.valid.eq(loop.valid & good & (held != _DEPTH)),
            asked.eq(self.port.req.valid & self.port.req.ready),
            loop.step.eq(asked),
            self.bad.eq(loop.valid & ~good & (held == 0)),
            queue.w_data.eq(self.port.resp_data),
            queue.w_en.eq(self.port.resp_valid),
            self.valid.eq(some),
            self.row.eq(queue.r_data),
            queue.r_en.eq(self.pop),
        ]
        m.d.sync += [
            held.eq(held + asked - self.pop),
            some.eq(queue.w_en | (queue.level > 1) | ((queue.level == 1) & ~self.pop)),
        ]
        return m
