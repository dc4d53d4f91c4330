"""Synthesis flow: resources by unit, refusal of latches, clock of a placed unit."""

import json
from types import SimpleNamespace

import pytest
from lepton_npu.verilog import run_yosys, to_rtlil

from bench import synth
from tests.sim.skid import SkidBuffer
from tests.sim.test_verilog import Chain

pytestmark = pytest.mark.synth


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "BUILD", tmp_path)


def test_usage_by_unit():
    text, _ = to_rtlil(Chain(), "chain")
    rows = synth.usage_by_unit(synth.map_design(text, "chain", "chain", flatten=False))
    assert [(row.unit, row.depth) for row in rows] == [("chain", 0), ("first", 1), ("second", 1)]
    top, first, second = rows
    # A skid buffer of 8 bits: two data registers, valid, and two state bits.
    assert first.ff == second.ff == 8 + 8 + 1 + 2
    assert top.ff >= first.ff + second.ff + 6
    assert top.lut > first.lut + second.lut
    assert first.dsp == first.bram == 0


def test_a_latch_is_refused(tmp_path):
    source, rtlil = tmp_path / "latch.v", tmp_path / "latch.il"
    source.write_text("module latch(input d, input en, output reg q);\n  always @* if (en) q = d;\nendmodule\n")
    run_yosys([f"read_verilog {source}", f"write_rtlil {rtlil}"])
    with pytest.raises(synth.LatchError, match=r"1 latches: latch/"):
        synth.map_design(rtlil.read_text(), "latch", "latch", flatten=True)


def test_unit_is_placed_and_its_clock_measured():
    row = synth.place_and_route(SkidBuffer(8), "skid", 80.0)
    assert row["fmax"] > 150, "a skid buffer is a few LUTs deep at most"
    assert row["FF"] == 8 + 8 + 1 + 2
    report = json.loads((synth.BUILD / "unit_skid.pnr.json").read_text())
    assert report["utilization"]["TRELLIS_FF"]["used"] >= row["FF"] + 10 + 2 * 10, "no register around it was lost"


def test_late_arcs_that_stay_late_do_not_cost_the_row(monkeypatch):
    """nextpnr's rounds for them have no end of their own."""
    run, calls = synth.subprocess.run, []

    def limited(command, **options):
        calls.append("--tmg-ripup" in command)
        if calls[-1]:
            raise synth.subprocess.TimeoutExpired(command, options["timeout"])
        return run(command, **options)

    monkeypatch.setattr(synth, "subprocess", SimpleNamespace(**vars(synth.subprocess) | {"run": limited}))
    row = synth.place_and_route(SkidBuffer(8), "skid", 80.0)
    assert row["fmax"] > 150
    assert calls == [True, False]


def test_a_unit_may_have_router1_which_has_no_such_rounds(monkeypatch):
    run, calls = synth.subprocess.run, []

    def watched(command, **options):
        calls.append(command)
        return run(command, **options)

    monkeypatch.setattr(synth, "subprocess", SimpleNamespace(**vars(synth.subprocess) | {"run": watched}))
    monkeypatch.setattr(synth, "ROUTER1_UNITS", ("skid",))
    assert synth.place_and_route(SkidBuffer(8), "skid", 80.0)["fmax"] > 150
    (command,) = calls
    assert command[command.index("--router") + 1] == "router1"
    assert "--tmg-ripup" not in command
