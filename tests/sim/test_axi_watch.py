"""cocotb's watch of the AXI port sees violations and X, and a testbench that nobody asks fails by it."""

import cocotb
import lepton_sim
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge
from cocotb.types import Logic, LogicArray
from lepton_verif.tb.axi_monitor import CHANNELS, AxiMonitor, AxiRuleError, watch

PORT = [f"m_axi_{channel}{name}" for channel, names in CHANNELS.items() for name in (*names, "valid", "ready")]
WIDE = {f"m_axi_{name}": 64 for name in ("araddr", "awaddr", "wdata", "rdata")} | {
    f"m_axi_{name}": 8 for name in ("arlen", "awlen", "wstrb")
}
NARROW = {f"m_axi_{channel}{name}": 3 for channel in ("ar", "aw") for name in ("size",)} | {
    f"m_axi_{channel}{name}": 2 for channel in ("ar", "aw") for name in ("burst", "id")
}
VERILOG = (
    "module axi_port(input logic clk, input logic rst, "
    + ", ".join(f"input logic [{(WIDE | NARROW).get(name, 1) - 1}:0] {name}" for name in PORT)
    + ");\nendmodule\n"
)
"""A port without anything behind it: the testbench plays both sides."""


async def start(dut):
    """Clock, reset, and a port at rest; the watch, which has begun."""
    for name in PORT:
        getattr(dut, name).value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    task = cocotb.start_soon(watch(dut, AxiMonitor(8)))
    await ClockCycles(dut.clk, 3)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    return task


def offer(dut, channel: str, **values):
    for name, value in values.items():
        getattr(dut, f"m_axi_{channel}{name}").value = value


BURST = {"addr": 64, "len": 0, "size": 3, "burst": 1, "valid": 1}


@cocotb.test()
async def legal(dut):
    """A read and its answer."""
    task = await start(dut)
    offer(dut, "ar", **BURST, ready=1)
    await FallingEdge(dut.clk)
    offer(dut, "ar", valid=0)
    offer(dut, "r", valid=1, ready=1, last=1)
    await FallingEdge(dut.clk)
    offer(dut, "r", valid=0, data=LogicArray("X" * 64))
    await ClockCycles(dut.clk, 3)
    assert not task.done()


@cocotb.test()
async def a_rule_is_broken(dut):
    task = await start(dut)
    offer(dut, "ar", **BURST)
    await FallingEdge(dut.clk)
    offer(dut, "ar", valid=0)
    with pytest.raises(AxiRuleError, match="AR: VALID fell before READY"):
        await task


@cocotb.test()
async def x_on_a_payload(dut):
    task = await start(dut)
    offer(dut, "aw", **BURST | {"addr": LogicArray("X" * 64)})
    with pytest.raises(AxiRuleError, match=r"awaddr is X+ while VALID is high"):
        await task


@cocotb.test()
async def x_on_valid(dut):
    task = await start(dut)
    offer(dut, "w", valid=Logic("X"))
    with pytest.raises(AxiRuleError, match="wvalid is X"):
        await task


@cocotb.test()
async def unattended(dut):
    """Nobody waits for the watch; the test must fail all the same."""
    await start(dut)
    offer(dut, "b", valid=1, ready=1)
    await ClockCycles(dut.clk, 5)


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_watch(sim, tmp_path):
    names = ["legal", "a_rule_is_broken"]
    if sim == "icarus":  # has X
        names += ["x_on_a_payload", "x_on_valid"]
    lepton_sim.run_cocotb(VERILOG, "axi_port", __name__, sim=sim, testcase=names, results_dir=tmp_path / "run")


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_a_violation_fails_the_testbench(sim, tmp_path):
    with pytest.raises(AssertionError, match="an answer to no burst"):
        lepton_sim.run_cocotb(
            VERILOG, "axi_port", __name__, sim=sim, testcase="unattended", results_dir=tmp_path / "run"
        )
