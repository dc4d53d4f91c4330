"""The registers' AXI4-Lite port: one answer for every access, in time, the right one, and it rests until taken."""

from amaranth.hdl import Mux, Signal
from lepton_npu.bus.axi_lite import Response
from lepton_npu.control.register_bank import RegisterBank
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.registers import REGISTERS

from .engine import Proof
from .harness import Harness
from .planted import Bug
from .streams import stable

__all__ = ["PROOFS"]

_READ = 3  # cycles from the address of a read to its answer
_WRITE = 2  # cycles from the later of address and data of a write to its answer


def _registers(h: Harness) -> None:
    m = h.m
    dut = h.unit(RegisterBank(PRESETS["tiny"]))
    bus = dut.s_axil

    # ---- Writes: address and data each come once, in any order, and then the answer.
    answered = bus.bvalid & bus.bready
    address, data, waited = Signal(), Signal(), Signal(range(_WRITE + 1))
    write_address = Signal(len(bus.awaddr), reset_less=True)
    m.d.sync += [
        address.eq((address | (bus.awvalid & bus.awready)) & ~answered),
        data.eq((data | (bus.wvalid & bus.wready)) & ~answered),
        waited.eq(Mux(address & data & ~bus.bvalid, waited + 1, 0)),
    ]
    with m.If(bus.awvalid & bus.awready):
        m.d.sync += write_address.eq(bus.awaddr)
    writable = [register.address for register in REGISTERS.values() if register.access != "ro"]
    h.prove("B: offered until taken, unchanged", stable(h, bus.bvalid, bus.bready, bus.bresp))
    h.prove("B: only when address and data have come, once for both", ~bus.bvalid | (address & data))
    h.prove("B: in the second cycle after them", ~(address & data) | bus.bvalid | (waited < _WRITE - 1))
    h.prove("AW: ready exactly while no address waits", bus.awready == ~address)
    h.prove("W: ready exactly while no data wait", bus.wready == ~data)
    okay = Mux(_one_of(write_address, writable), Response.OKAY.value, Response.SLVERR.value)
    h.prove("B: OKAY for registers that can be written, SLVERR for all else", ~bus.bvalid | (bus.bresp == okay))
    h.prove("inside: the address of the write", ~address | (dut.write_address == write_address))

    # ---- Reads.
    age, read_address = Signal(range(_READ + 1)), Signal(len(bus.araddr), reset_less=True)
    with m.If(bus.arvalid & bus.arready):
        m.d.sync += [age.eq(1), read_address.eq(bus.araddr)]
    with m.Elif(bus.rvalid & bus.rready):
        m.d.sync += age.eq(0)
    with m.Elif((age != 0) & (age != _READ)):
        m.d.sync += age.eq(age + 1)
    h.prove("R: offered until taken, unchanged", stable(h, bus.rvalid, bus.rready, bus.rdata, bus.rresp))
    h.prove("R: once for each address, in the third cycle after it", bus.rvalid == (age == _READ))
    h.prove("AR: ready exactly while no read runs", bus.arready == (age == 0))
    known = Mux(
        _one_of(read_address, [r.address for r in REGISTERS.values()]), Response.OKAY.value, Response.SLVERR.value
    )
    h.prove("R: OKAY for registers, SLVERR for all else", ~bus.rvalid | (bus.rresp == known))
    h.watch(address=address, data=data, age=age)
    h.cover("a write is refused", answered & (bus.bresp == Response.SLVERR.value))
    h.cover("a read of something that is not 0", bus.rvalid & bus.rready & (bus.rdata != 0) & (bus.rresp == 0))


def _one_of(address: Signal, addresses: list[int]):
    found = 0
    for one in addresses:
        found = found | (address == one)
    return found


_FILE = "control.register_bank"
PROOFS = [
    Proof(
        "AXI4-Lite: one answer for each access, in time, with the right response, offered until taken",
        "RegisterBank",
        _registers,
        {
            "an answer is not held": Bug(_FILE, "with m.If(bus.bvalid & bus.bready):", "with m.If(bus.bvalid):"),
            "answered before the data have come": Bug(
                _FILE, "write.eq(~address_free & ~data_free & ~bus.bvalid)", "write.eq(~address_free & ~bus.bvalid)"
            ),
            "no second read": Bug(_FILE, "[bus.rvalid.eq(0), free.eq(1)]", "[bus.rvalid.eq(0)]"),
            "OKAY for an unknown register": Bug(
                _FILE, "Mux(chosen.any(), Response.OKAY, Response.SLVERR)", "Response.OKAY"
            ),
        },
        induction=4,
        quick=True,
    ),
]
