"""The AXI4 master port: who reads next, whose data these are, and whether all is quiet."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.control.fetch import READS
from lepton_npu.spec.config import NpuConfig

from .axi import (
    FETCH_ID,
    LOAD_ID,
    STORE_ID,
    WALK_ID,
    AxiSignature,
    burst_constants,
    burst_layout,
    read_beat_layout,
    write_beat_layout,
)

__all__ = ["AxiMaster"]


class AxiMaster(wiring.Component):
    """Joins page walker, command fetch and LOAD engine (reads) and the STORE engine (writes) to one AXI4 port.

    The walker goes first, then the fetch; they have one read, and four records for each context, in flight at most, so
    LOAD is not starved. Read addresses pass through a register (1 cycle); read data are told apart by RID, so the three
    streams may come interleaved. Everything else passes unchanged.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    m_axi : Out(AxiSignature)
    walk_ar, fetch_ar, load_ar, aw : In(stream of burst_layout)
    walk_r, fetch_r, load_r : Out(stream of read_beat_layout)
        A beat is held back while the fetch or LOAD is not ready; ready must not depend on valid. The walker must be
        ready whenever a read of it is in flight.
    w : In(stream of write_beat_layout), b : Out(stream of BRESP)
    quiet : Out(1)
        Nothing is offered to the bus, and no transaction is unfinished.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        bursts, read = stream.Signature(burst_layout(config)), stream.Signature(read_beat_layout(config))
        super().__init__(
            {
                "m_axi": Out(AxiSignature(config)),
                "walk_ar": In(bursts),
                "fetch_ar": In(bursts),
                "load_ar": In(bursts),
                "walk_r": Out(read),
                "fetch_r": Out(read),
                "load_r": Out(read),
                "aw": In(bursts),
                "w": In(stream.Signature(write_beat_layout(config))),
                "b": Out(stream.Signature(2)),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        port = self.m_axi
        m.d.comb += burst_constants(self._config, port, "ar") + burst_constants(self._config, port, "aw")

        may_go = Signal()
        m.d.comb += [
            may_go.eq(~port.arvalid | port.arready),
            self.walk_ar.ready.eq(may_go),
            self.fetch_ar.ready.eq(may_go & ~self.walk_ar.valid),
            self.load_ar.ready.eq(may_go & ~self.walk_ar.valid & ~self.fetch_ar.valid),
        ]
        clients = ((self.load_ar, LOAD_ID), (self.fetch_ar, FETCH_ID), (self.walk_ar, WALK_ID))  # the last goes first
        with m.If(may_go):
            m.d.sync += port.arvalid.eq(self.walk_ar.valid | self.fetch_ar.valid | self.load_ar.valid)
            for client, number in clients:
                with m.If(client.valid):
                    m.d.sync += [
                        port.arid.eq(number),
                        port.araddr.eq(client.payload.addr),
                        port.arlen.eq(client.payload.len),
                    ]

        for client in (self.walk_r, self.fetch_r, self.load_r):
            m.d.comb += [
                client.payload.data.eq(port.rdata),
                client.payload.resp.eq(port.rresp),
                client.payload.last.eq(port.rlast),
            ]
        m.d.comb += [
            # RREADY does not depend on RID, which is not defined while RVALID is low.
            port.rready.eq(self.fetch_r.ready & self.load_r.ready),
            self.walk_r.valid.eq(port.rvalid & (port.rid == WALK_ID) & port.rready),
            self.fetch_r.valid.eq(port.rvalid & (port.rid == FETCH_ID) & self.load_r.ready),
            self.load_r.valid.eq(port.rvalid & (port.rid == LOAD_ID) & self.fetch_r.ready),
            port.awid.eq(STORE_ID),
            port.awaddr.eq(self.aw.payload.addr),
            port.awlen.eq(self.aw.payload.len),
            port.awvalid.eq(self.aw.valid),
            self.aw.ready.eq(port.awready),
            port.wdata.eq(self.w.payload.data),
            port.wstrb.eq(self.w.payload.strb),
            port.wlast.eq(self.w.payload.last),
            port.wvalid.eq(self.w.valid),
            self.w.ready.eq(port.wready),
            self.b.payload.eq(port.bresp),
            self.b.valid.eq(port.bvalid),
            port.bready.eq(self.b.ready),
        ]

        # LOAD's, those of the fetches, and the walker's.
        most = self._config.outstanding + READS * self._config.contexts + 1
        reads, writes = Signal(range(most + 1)), Signal(range(most + 1))
        m.d.sync += [
            reads.eq(reads + (port.arvalid & port.arready) - (port.rvalid & port.rready & port.rlast)),
            writes.eq(writes + (port.awvalid & port.awready) - (port.bvalid & port.bready)),
        ]
        self.reads, self.writes = reads, writes  # for proofs to look at
        m.d.comb += self.quiet.eq(~(port.arvalid | port.awvalid | port.wvalid) & (reads == 0) & (writes == 0))
        return m
