"""The flow from a component to a verdict: generate, build, simulate, on both simulators."""

import random
import re
from pathlib import Path

import cocotb
import lepton_sim
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from lepton_sim.shared import build_shared

from tests.sim.skid import SkidBuffer


async def _start(dut):
    Clock(dut.clk, 10, unit="ns").start()
    dut.i_valid.value = 0
    dut.i_payload.value = 0
    dut.o_ready.value = 0
    dut.rst.value = 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def no_x_after_reset(dut):
    """Every port has a value after reset, also where a state machine's inputs never moved."""
    await _start(dut)
    for name in ("i_ready", "o_valid", "o_payload"):
        assert getattr(dut, name).value.is_resolvable, f"{name} is {getattr(dut, name).value}"


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def keeps_order(dut):
    """Random stalls on both sides: what goes in comes out, in order, and nothing else."""
    await _start(dut)
    width = lepton_sim.params()["width"]
    sent = [random.randrange(1 << width) for _ in range(300)]
    received = []

    async def send():
        for value in sent:
            while random.random() < 0.3:
                await RisingEdge(dut.clk)
            dut.i_payload.value, dut.i_valid.value = value, 1
            await RisingEdge(dut.clk)
            while not dut.i_ready.value:
                await RisingEdge(dut.clk)
            dut.i_valid.value = 0

    sender = cocotb.start_soon(send())
    while len(received) < len(sent):
        dut.o_ready.value = random.random() < 0.6
        await RisingEdge(dut.clk)
        if dut.o_valid.value and dut.o_ready.value:
            received.append(int(dut.o_payload.value))
    await sender
    assert received == sent


def _run(sim: str, folder: Path, *, drop: bool = False, **options) -> lepton_sim.CocotbResult:
    width = 12
    return lepton_sim.run_cocotb(
        SkidBuffer(width, drop=drop),
        "skid_buffer",
        __name__,
        sim=sim,
        params={"width": width},
        results_dir=folder,
        **options,
    )


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_passes(sim, tmp_path):
    result = _run(sim, tmp_path / "run")
    assert result.tests == {"no_x_after_reset": "passed", "keeps_order": "passed"}
    assert (result.folder / "results.xml").exists()


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_a_bug_is_reported(sim, tmp_path):
    with pytest.raises(AssertionError, match=re.compile("1 of 2 cocotb tests failed.*SEED=.*keeps_order", re.DOTALL)):
        _run(sim, tmp_path / "run", drop=True)


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_waves(sim, tmp_path):
    result = _run(sim, tmp_path / "run", waves=True, testcase="no_x_after_reset")
    assert set(result.tests) == {"no_x_after_reset"}
    waves = list(result.folder.glob("waves.*"))
    assert len(waves) == 1
    assert waves[0].stat().st_size > 100


def test_a_testbench_that_cannot_start_is_an_error(tmp_path):
    with pytest.raises(AssertionError, match="ended without results"):
        lepton_sim.run_cocotb(SkidBuffer(4), "skid_buffer", "no_such_testbench", results_dir=tmp_path / "run")


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_bad_verilog_is_an_error(sim, tmp_path):
    with pytest.raises(lepton_sim.BuildError, match=r"(?s)failed:.*design\.sv"):
        lepton_sim.build("module top(clk);\n  input clk\nendmodule\n", "top", simulator=sim)


@pytest.mark.parametrize(
    ("end", "source", "said"),
    [("endmodul", "", r"top\.sv"), ("endmodule", '#include "Vtop.h"\nint x = "text";\n', r"shim\.cpp:2")],
)
def test_a_shared_library_that_cannot_be_built_is_an_error(end, source, said):
    """By Verilator, or by the compiler: the message has what it said."""
    with pytest.raises(lepton_sim.BuildError, match=rf"(?s)building broken-.*{said}"):
        build_shared("broken", f"module top(input clk);\n{end}\n", source)
