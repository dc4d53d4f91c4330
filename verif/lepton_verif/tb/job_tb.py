"""cocotb testbench: runs `Job`s on the whole core through its AXI ports, and compares the whole memory.

Memory and host are cocotbext-axi's, so this testbench shares no code with the compiled harness.
`lepton_sim.jobs.run_jobs` starts it, with the parameters ``jobs`` (paths of saved jobs), ``stall`` (chance of a stall
on every channel), ``outputs`` (names of the output ports), ``cycles`` (limit for a job) and ``limits``
(`lepton_sim.axi_limits`): with them `AxiMonitor` watches the port, for the rules of AXI and for X.
"""

import itertools
import random
from pathlib import Path

import cocotb
import lepton_sim
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster
from cocotbext.axi.axi_slave import AxiSlaveRead, AxiSlaveWrite
from leptonaicsdk.driver import satp
from leptonaicsdk.registers import REGISTERS

from lepton_verif.job import Job

from .axi_monitor import AxiLimits, AxiMonitor, watch

CLOCK_NS = 10
IRQ_ALL = 3


class _Read(AxiSlaveRead):
    """The read half of the memory; addresses outside answer SLVERR."""

    window: "Memory"

    async def _read(self, address, length):
        return self.window.slice(address, length).tobytes()


class _Write(AxiSlaveWrite):
    """The write half."""

    window: "Memory"

    async def _write(self, address, data):
        self.window.slice(address, len(data))[:] = np.frombuffer(data, np.uint8)


class Memory:
    """AXI4 memory of a job, with stalls on all five channels."""

    def __init__(self, dut, stall: float):
        bus = AxiBus.from_prefix(dut, "m_axi")
        self.job_base, self.data = 0, np.zeros(0, np.uint8)
        self._read = _Read(bus.read, dut.clk, dut.rst)
        self._write = _Write(bus.write, dut.clk, dut.rst)
        self._read.window = self._write.window = self
        if stall:
            for channel in (self._read.ar_channel, self._read.r_channel, self._write.aw_channel,
                            self._write.w_channel, self._write.b_channel):  # fmt: skip
                channel.set_pause_generator(random.random() < stall for _ in itertools.count())

    def hold(self, job: Job):
        """Take the job's initial memory."""
        self.job_base, self.data = job.base, job.memory.copy()

    def slice(self, address: int, length: int) -> np.ndarray:
        """The bytes of an access; raises outside the memory, which the slave answers with an error."""
        offset = address - self.job_base
        if offset < 0 or offset + length > self.data.size:
            raise ValueError(f"access to 0x{address:x}, {length} bytes, is outside the memory")
        return self.data[offset : offset + length]


async def _write(host: AxiLiteMaster, name: str, value: int):
    await host.write(REGISTERS[name].address, value.to_bytes(4, "little"))


async def _read(host: AxiLiteMaster, name: str) -> int:
    return int.from_bytes((await host.read(REGISTERS[name].address, 4)).data, "little")


async def start(dut, stall: float) -> tuple[AxiLiteMaster, Memory]:
    """Clock, reset, host and memory."""
    dut.rst.value = 1
    host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    memory = Memory(dut, stall)
    Clock(dut.clk, CLOCK_NS, unit="ns").start()
    if limits := lepton_sim.params().get("limits"):
        reads, writes = (
            {limit["id"]: AxiLimits(limit["longest"], limit["most"]) for limit in limits if limit["write"] == write}
            for write in (False, True)
        )
        cocotb.start_soon(watch(dut, AxiMonitor(len(dut.m_axi_rdata) // 8, reads, writes)))
    await ClockCycles(dut.clk, 5)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    return host, memory


@cocotb.test()
async def no_x_after_reset(dut):
    """Every output port is 0 or 1 after reset, and stays so while the core waits."""
    await start(dut, 0.0)
    outputs = [getattr(dut, name) for name in lepton_sim.params()["outputs"]]
    assert outputs
    for _ in range(20):
        for handle in outputs:
            assert handle.value.is_resolvable, f"{handle._name} is {handle.value}"
        await RisingEdge(dut.clk)


@cocotb.test()
async def runs_jobs(dut):
    """Every job ends with the tag and the memory of the instruction-set simulator."""
    params = lepton_sim.params()
    host, memory = await start(dut, params.get("stall", 0.0))
    for path in params["jobs"]:
        job = Job.load(Path(path))
        memory.hold(job)
        await _write(host, "IRQ_STATUS", IRQ_ALL)
        await _write(host, "IRQ_ENABLE", IRQ_ALL)
        for name, value in satp(job.root).items():
            await _write(host, name, value)
        await _write(host, "RING_BASE_LO", job.ring & 0xFFFFFFFF)
        await _write(host, "RING_BASE_HI", job.ring >> 32)
        await _write(host, "RING_LOG2", job.ring_log2)
        await _write(host, "CTRL", 1)
        await _write(host, "TAIL", job.records)
        if not dut.irq.value:
            await with_timeout(RisingEdge(dut.irq), params.get("cycles", 1_000_000) * CLOCK_NS, "ns")
        cause = await _read(host, "FAULT_CAUSE")
        assert cause == 0, f"{job.name}: fault {cause} at command {await _read(host, 'FAULT_INDEX')}"
        assert await _read(host, "TAG") == job.tag
        job.check(memory.data, f"SEED={lepton_sim.seed()}")
        # The next job starts from scratch: head, tail and semaphores are cleared by a soft reset.
        await _write(host, "CTRL", 2)
        while await _read(host, "STATUS") & 8:
            await ClockCycles(dut.clk, 10)
