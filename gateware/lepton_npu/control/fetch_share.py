"""The command fetches of several contexts on one AXI ID."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.round_robin import round_robin
from lepton_npu.spec.config import NpuConfig

from .contexts import context_bits
from .fetch import READS

__all__ = ["FetchShare"]


class FetchShare(wiring.Component):
    """Joins the reads of several fetches by round robin, and hands each beat to the one that asked for it.

    Reads with one ID are answered in order (IHI 0022H, A5.3.1), so a FIFO of who asked tells whose data come.
    Combinational; a burst that is offered stays until it is taken.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    i_ar : In(stream of burst_layout), o_r : Out(stream of read_beat_layout), for each context
        Beats must be taken in the cycle they come.
    ar : Out(stream of burst_layout), r : In(stream of read_beat_layout)
        To `AxiMaster`.
    """

    def __init__(self, config: NpuConfig):
        self._count, self._bits = config.contexts, context_bits(config)
        bursts, beats = stream.Signature(burst_layout(config)), stream.Signature(read_beat_layout(config))
        super().__init__(
            {
                "i_ar": In(bursts).array(self._count),
                "o_r": Out(beats).array(self._count),
                "ar": Out(bursts),
                "r": In(beats),
            }
        )

    def elaborate(self, platform):
        m = Module()
        count, bits = self._count, self._bits
        m.submodules.order = order = SyncFIFO(width=bits, depth=READS * count)
        self.order = order  # for proofs to look at
        wants, chosen = Signal(count), Signal(count)
        first, last, kept, number = (Signal(bits, name=name) for name in ("first", "last", "kept", "number"))
        offered = Signal()  # a burst was offered and not taken
        self.offered, self.kept = offered, kept  # for proofs, too
        m.d.comb += wants.eq(sum(self.i_ar[n].valid << n for n in range(count)))
        round_robin(m, wants, last, chosen, first)
        m.d.comb += [
            number.eq(Mux(offered, kept, first)),
            self.ar.valid.eq(wants.any() & order.w_rdy),
            self.ar.payload.eq(Array(self.i_ar[n].payload for n in range(count))[number]),
            order.w_data.eq(number),
            order.w_en.eq(self.ar.valid & self.ar.ready),
            self.r.ready.eq(1),
            order.r_en.eq(self.r.valid & self.r.payload.last),
        ]
        m.d.sync += [offered.eq(self.ar.valid & ~self.ar.ready), kept.eq(number)]
        with m.If(order.w_en):
            m.d.sync += last.eq(number)
        for n in range(count):
            m.d.comb += [
                self.i_ar[n].ready.eq(self.ar.ready & order.w_rdy & (number == n)),
                self.o_r[n].valid.eq(self.r.valid & (order.r_data == n)),
                self.o_r[n].payload.eq(self.r.payload),
            ]
        return m
