"""What the register tests stand on: a host with pauses, the core's side at rest, and watchers of every rule."""

import random

import cocotb
from amaranth.hdl._ir import PortDirection
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from cocotbext.axi import AxiLiteBus, AxiLiteMaster
from lepton_npu.control.contexts import EVENTS
from lepton_npu.control.register_bank import RegisterBank
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.registers import COUNTERS, REGISTERS
from lepton_npu.verilog import port_names

OKAY, SLVERR = 0, 2
ALL = 0xFFFFFFFF
_PORTS = port_names(RegisterBank(PRESETS["ecp5"]))
OUTPUTS = [name for name, (_, direction) in _PORTS.items() if direction == PortDirection.Output]
CORE_INPUTS = [name for name in _PORTS if name not in OUTPUTS and not name.startswith("s_axil_")]
EVENT_BITS = {name.upper(): field.offset for name, field in EVENTS}


class Host:
    """cocotbext-axi's AXI4-Lite master, with any strobes, any address and random pauses on all channels."""

    def __init__(self, dut):
        master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self._write, self._read = master.write_if, master.read_if
        self._channels = [
            *(self._write.aw_channel, self._write.w_channel, self._write.b_channel),
            *(self._read.ar_channel, self._read.r_channel),
        ]

    def pause(self, probability: float | None = None):
        """Pauses on all channels: with that probability, or each channel with one of its own that changes."""

        def pauses():
            while True:
                chance = random.choice([0.0, 0.5, 0.9]) if probability is None else probability
                for _ in range(40):
                    yield random.random() < chance

        for channel in self._channels:
            if probability == 0:
                channel.clear_pause_generator()
                channel.pause = False
            else:
                channel.set_pause_generator(pauses())

    async def write(self, where: str | int, data: int, strobes: int = 15) -> int:
        """Write a register, by name or address; its response."""
        address = REGISTERS[where].address if isinstance(where, str) else where
        await self._write.aw_channel.send(self._write.aw_channel._transaction_obj(awaddr=address, awprot=2))
        await self._write.w_channel.send(self._write.w_channel._transaction_obj(wdata=data, wstrb=strobes))
        return int((await self._write.b_channel.recv()).bresp)

    async def read(self, where: str | int) -> tuple[int, int]:
        """Read a register, by name or address; its response and data."""
        address = REGISTERS[where].address if isinstance(where, str) else where
        await self._read.ar_channel.send(self._read.ar_channel._transaction_obj(araddr=address, arprot=2))
        answer = await self._read.r_channel.recv()
        return int(answer.rresp), int(answer.rdata)

    async def value(self, name: str) -> int:
        """Read a register that must be there."""
        response, data = await self.read(name)
        assert response == OKAY, f"{name}: response {response}"
        return data

    async def counter(self, name: str) -> int:
        """Read both halves of a counter, low first."""
        low = await self.value(f"{name}_LO")
        return await self.value(f"{name}_HI") << 32 | low


class Watcher:
    """Looks at every cycle, on falling edges: protocol rules, pulses, and what the counters must have counted."""

    def __init__(self, dut):
        self.dut = dut
        self.doorbells: list[int] = []
        self.resets = self.resumes = 0
        self.invalidations: list[int] = []
        self.address_first = self.data_first = self.overlapped = 0
        self.counts = dict.fromkeys(COUNTERS, 0)
        self._taken = {"aw": 0, "w": 0, "b": 0, "ar": 0, "r": 0}
        self._held: dict[str, tuple[int, ...]] = {}
        # To look handles up in every cycle takes as long as to read them.
        channels = {name: (f"s_axil_{name}valid", f"s_axil_{name}ready") for name in self._taken}
        self._handshakes = {name: tuple(getattr(dut, port) for port in pair) for name, pair in channels.items()}
        self._answers = (("b", (dut.s_axil_bresp,)), ("r", (dut.s_axil_rresp, dut.s_axil_rdata)))

    async def run(self):
        while True:
            await FallingEdge(self.dut.clk)
            self._channels()
            self._core()

    def _channels(self):
        taken = self._taken
        valid = {name: int(pair[0].value) for name, pair in self._handshakes.items()}
        moves = {name for name, pair in self._handshakes.items() if int(pair[1].value) and valid[name]}
        for channel, signals in self._answers:
            if valid[channel]:
                now = tuple(int(signal.value) for signal in signals)
                assert self._held.get(channel, now) == now, f"{channel.upper()} changed while it waited"
                self._held[channel] = now
                asked = min(taken["aw"], taken["w"]) if channel == "b" else taken["ar"]
                assert taken[channel] < asked, f"{channel.upper()} came before the request"
                if channel in moves:
                    del self._held[channel]
            else:
                assert channel not in self._held, f"{channel.upper()}VALID fell before READY came"
        for channel in moves:
            taken[channel] += 1
        writes, reads = max(taken["aw"], taken["w"]) - taken["b"], taken["ar"] - taken["r"]
        assert writes in (0, 1)
        assert reads in (0, 1)
        self.address_first += taken["aw"] > taken["w"]
        self.data_first += taken["w"] > taken["aw"]
        self.overlapped += writes & reads

    def _core(self):
        dut = self.dut
        if int(dut.doorbell.value):
            self.doorbells.append(int(dut.tail.value))
        self.resets += int(dut.reset_request.value)
        self.resumes += int(dut.resume_request.value)
        if int(dut.invalidate_request.value):
            self.invalidations.append(int(dut.invalidate.value))
        if events := int(dut.events.value):
            for name, bit in EVENT_BITS.items():
                self.counts[name] += events >> bit & 1
        self.counts["CYCLES"] += int(dut.enable.value)


async def start(dut, pause: float | None = None) -> tuple[Host, Watcher]:
    """Clock, hard reset, a core that is idle, and the watcher at work."""
    for name in CORE_INPUTS:
        getattr(dut, name).value = int(name == "idle")
    dut.rst.value = 1
    host = Host(dut)
    host.pause(pause)
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(4):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    watcher = Watcher(dut)
    cocotb.start_soon(watcher.run())
    return host, watcher


async def pulse(dut, *names: str):
    """These inputs high for one cycle."""
    await FallingEdge(dut.clk)
    for name in names:
        getattr(dut, name).value = 1
    await FallingEdge(dut.clk)
    for name in names:
        getattr(dut, name).value = 0
