"""The AXI4 master port: the rules of the bus at its signals, whoever is behind it and whatever legal memory before it.

What is assumed of the units behind the port is what is proven of them (`formal.dma`, `formal.readers`): legal
bursts, as many in flight as each may have. The memory may answer in any order that IDs allow, interleave
beats, and stall everywhere.
"""

from amaranth.hdl import Cat, Const, Value
from lepton_npu.bus.axi import FETCH_ID, LOAD_ID, STORE_ID, WALK_ID
from lepton_npu.bus.master import AxiMaster

from .axi_rules import address_rules, read_data, write_answers, write_data_rules
from .dma import CONFIG
from .engine import Proof
from .harness import Harness
from .planted import Bug
from .readers import FETCH_BEATS, FETCH_MOST
from .streams import stable

__all__ = ["PROOFS"]

_MOST = {LOAD_ID: CONFIG.outstanding, FETCH_ID: FETCH_MOST, WALK_ID: 1}
"""Reads that each unit has in flight at most."""

_BEATS = {LOAD_ID: CONFIG.max_burst, FETCH_ID: FETCH_BEATS, WALK_ID: 1}
"""Beats of a burst of each unit at most."""


def _reads(h: Harness) -> None:
    dut = h.unit(AxiMaster(CONFIG))
    port = dut.m_axi
    units = {
        LOAD_ID: ("LOAD", dut.load_ar, dut.load_r),
        FETCH_ID: ("fetch", dut.fetch_ar, dut.fetch_r),
        WALK_ID: ("walker", dut.walk_ar, dut.walk_r),
    }
    asked, taken = port.arvalid & port.arready, port.rvalid & port.rready
    unfinished: Value = port.arvalid
    total: Value = Const(0)
    for number, (name, ar, r) in units.items():
        offer = (ar.valid, ar.ready, ar.payload.addr, ar.payload.len)
        address_rules(h, h.assume, CONFIG, name, *offer, most=_BEATS[number], rests=False)
        mine, offered = port.rvalid & (port.rid == number), port.arvalid & (port.arid == number)
        bursts = read_data(
            h, f"r_{name}", asked & (port.arid == number), port.arlen, _MOST[number], mine, port.rready, port.rlast
        )
        h.assume(f"{name}: reads in flight", ~ar.valid | (bursts.level + offered < _MOST[number]))
        h.prove(f"R: every beat of {name} is given to it, and no other", (mine & port.rready) == (r.valid & r.ready))
        h.prove(
            f"R: a beat of {name} is as it came",
            ~r.valid | (Cat(r.payload.data, r.payload.resp, r.payload.last) == Cat(port.rdata, port.rresp, port.rlast)),
        )
        h.prove(f"inside: reads in flight of {name}", bursts.level + offered <= _MOST[number])
        unfinished = unfinished | (bursts.level != 0)
        total = total + bursts.level
    h.assume("the walker is ready for its beat", dut.walk_r.ready)
    h.assume("RID is that of a unit that reads", ~port.rvalid | (port.rid != STORE_ID))
    h.assume(
        "R: offered until taken, unchanged",
        stable(h, port.rvalid, port.rready, port.rid, port.rdata, port.rresp, port.rlast),
    )
    constant = (port.arsize, port.arburst, port.arcache, port.arprot)
    offer = (port.arvalid, port.arready, port.araddr, port.arlen, port.arid, *constant)
    address_rules(h, h.prove, CONFIG, "AR", *offer, most=max(_BEATS.values()))
    h.prove("AR: bursts of type INCR, of whole beats", (port.arburst == 1) & (1 << port.arsize == CONFIG.bus_bytes))
    h.prove("AR: the ID is that of a unit that reads", ~port.arvalid | (port.arid != STORE_ID))
    h.prove("quiet is told only when nothing is read", ~dut.quiet | ~unfinished)
    h.prove("inside: reads in flight are counted", dut.reads == total)
    h.cover(
        "beats of LOAD within a burst of the fetch",
        taken & (port.rid == LOAD_ID) & (h.watched["r_fetch_level"] != 0) & (h.watched["r_walker_level"] != 0),
    )


def _writes(h: Harness) -> None:
    dut = h.unit(AxiMaster(CONFIG))
    port, aw, w = dut.m_axi, dut.aw, dut.w
    most = CONFIG.outstanding
    address_rules(h, h.assume, CONFIG, "STORE", aw.valid, aw.ready, aw.payload.addr, aw.payload.len)
    beat = (w.payload.data, w.payload.strb, w.payload.last)
    write_data_rules(
        h, h.assume, CONFIG, "STORE_W", (aw.valid, aw.ready, aw.payload.len), (w.valid, w.ready, *beat), most
    )
    constant = (port.awid, port.awsize, port.awburst, port.awcache, port.awprot)
    address_rules(h, h.prove, CONFIG, "AW", port.awvalid, port.awready, port.awaddr, port.awlen, *constant)
    bursts = write_data_rules(
        h,
        h.prove,
        CONFIG,
        "W",
        (port.awvalid, port.awready, port.awlen),
        (port.wvalid, port.wready, port.wdata, port.wstrb, port.wlast),
        most,
    )
    accepts = port.awvalid & port.awready
    addresses, data = write_answers(h, "B", accepts, bursts.ends, most, port.bvalid, port.bready)
    h.assume("B: offered until taken, unchanged", stable(h, port.bvalid, port.bready, port.bid, port.bresp))
    h.assume("STORE: writes in flight", ~aw.valid | (addresses < most))
    h.prove(
        "AW: bursts of type INCR, of whole beats, of STORE",
        (port.awburst == 1) & (1 << port.awsize == CONFIG.bus_bytes) & (port.awid == STORE_ID),
    )
    h.prove("B: each answer is given to STORE", (port.bvalid & port.bready) == (dut.b.valid & dut.b.ready))
    h.prove(
        "quiet is told only when nothing is written",
        ~dut.quiet | (addresses == 0) & (bursts.level == 0) & ~port.awvalid,
    )
    h.prove("inside: writes in flight are counted", dut.writes == addresses)
    h.prove("inside: data of every write that is not answered", bursts.level + data == addresses + port.awvalid)
    h.prove("inside: writes in flight", (addresses + port.awvalid <= most) & (data >= 0))
    h.cover("two writes are in flight, one is answered", port.bvalid & (addresses == 2))


_FILE = "bus.master"
PROOFS = [
    Proof(
        "AR: offered until taken, legal bursts within 4 KiB; R: each beat to whom it belongs; quiet only if none open",
        "AxiMaster",
        _reads,
        {
            "an address changes while AR stalls": Bug(_FILE, "may_go.eq(~port.arvalid | port.arready)", "may_go.eq(1)"),
            "beats are taken though LOAD is not ready": Bug(
                _FILE, "port.rready.eq(self.fetch_r.ready & self.load_r.ready)", "port.rready.eq(self.fetch_r.ready)"
            ),
            "quiet while beats are to come": Bug(_FILE, "port.rready & port.rlast)", "port.rready)"),
        },
        induction=1,
        quick=True,
    ),
    Proof(
        "AW, W: offered until taken, legal bursts, AWLEN + 1 beats, WLAST; B: to STORE; quiet only if none is open",
        "AxiMaster",
        _writes,
        {
            "a beat is lost while W stalls": Bug(_FILE, "self.w.ready.eq(port.wready)", "self.w.ready.eq(1)"),
            "no WLAST": Bug(_FILE, "port.wlast.eq(self.w.payload.last)", "port.wlast.eq(0)"),
            "quiet before the answer": Bug(_FILE, "(port.bvalid & port.bready)", "(port.wvalid & port.wready)"),
        },
        induction=1,
    ),
]
