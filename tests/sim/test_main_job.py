"""The main job without the RTL: its figures, its exit status, and what it says about a mismatch."""

import dataclasses
import re

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_sim import main_job
from lepton_sim.data import digits
from lepton_sim.main_job import RtlRun, _cocotb_time, main, make_job
from lepton_sim.short_training import TrainingRun, compare_memories

TRAINED = TrainingRun(960, 32, 30, (1.9, 0.8), (0.1, 0.8), 0, 4096, "", 40_000.0, 6.0)


def _run(monkeypatch, capsys, arguments, failure="", mismatching=0):
    """Run the job with a stand-in for the RTL; the exit status and the words that were printed."""
    seen = []

    def rtl(options, config, job, stages):
        seen.append((options, config, job))
        return RtlRun(mismatching, failure, cycles=1000, array_rows=250, seconds=0.5)

    monkeypatch.setattr(main_job, "run_rtl", rtl)
    monkeypatch.setattr(main_job, "run_training", lambda options, config: TRAINED)
    status = main(arguments)
    return status, re.sub(r"[│\s]+", " ", capsys.readouterr().out), seen[0]


def test_table_has_the_figures(monkeypatch, capsys):
    status, text, (options, config, job) = _run(monkeypatch, capsys, [])
    assert status == 0
    assert (options.sim, options.images, options.precision) == ("verilator", 64, 8)
    assert config == PRESETS["default"]
    for expected in ("accuracy 0.95", "of 64", f"0 of {job.memory.size // 4}", "array utilisation 25.0%", "2,000"):
        assert expected in text


def test_mismatch_fails_and_names_address_and_values(monkeypatch, capsys):
    inference = make_job(PRESETS["tiny"], digits().test_images[:2], 8)
    job, address = inference.job, 0x100400
    memory = job.expected.copy()
    memory[address] ^= 1
    found = [str(mismatch) for mismatch in job.mismatches(memory)]
    word = int(job.expected[address:][:4].view("<u4")[0])
    assert found == [f"0x{address:08x}: expected 0x{word:08x}, found 0x{word ^ 1:08x}"]
    status, text, _ = _run(monkeypatch, capsys, ["--sim", "icarus"], f"first difference {found[0]}", 1)
    assert status == 1
    assert f"first difference {found[0]}" in text
    assert f"mismatching words 1 of {job.memory.size // 4}" in text


def test_training_is_reported(monkeypatch, capsys):
    status, text, _ = _run(monkeypatch, capsys, [])
    assert status == 0
    for expected in ("30 steps of 32 images", "1.9000, 0.8000", "0.1000 before, 0.8000 after", "0 of 4096", "40,000"):
        assert expected in text


def test_mismatch_of_training_fails(monkeypatch, capsys):
    expected = [("memory", np.arange(8, dtype=np.uint32)), ("state", np.zeros((2, 2), np.uint32))]
    found = [(name, words.copy()) for name, words in expected]
    assert compare_memories(found, expected) == (0, 12, "")
    found[0][1][5] ^= 0x80
    found[1][1][1, 1] = 7
    wrong, words, failure = compare_memories(found, expected)
    assert (wrong, words) == (2, 12)
    assert failure == "memory 0x00000014: expected 0x00000005, found 0x00000085"
    monkeypatch.setattr("tests.sim.test_main_job.TRAINED", dataclasses.replace(TRAINED, mismatching=2, failure=failure))
    status, text, _ = _run(monkeypatch, capsys, [])
    assert status == 1
    assert failure in text


def test_cocotb_times_are_read(tmp_path):
    results = tmp_path / "results.xml"
    assert _cocotb_time(results) == (0, 0.0)
    results.write_text(
        '<testsuites><testsuite><testcase name="runs_jobs" time="86.5"><properties>'
        '<property name="sim_time_duration" value="298830.0"/></properties></testcase></testsuite></testsuites>'
    )
    assert _cocotb_time(results) == (29883, 86.5)


def test_core_that_stops_fails(monkeypatch, capsys):
    def rtl(*_):
        raise RuntimeError("the core stopped: LOCAL_RANGE")

    monkeypatch.setattr(main_job, "run_rtl", rtl)
    assert main(["--preset", "large", "--images", "1"]) == 1
    assert "the core stopped: LOCAL_RANGE" in capsys.readouterr().out


def test_seed_chooses_the_images(monkeypatch, capsys):
    memories = {}
    for seed in (3, 3, 4):
        _, _, (options, _, job) = _run(monkeypatch, capsys, ["--seed", str(seed), "--images", "3"])
        assert options.seed == seed
        memories.setdefault(seed, []).append(job.memory)
    assert np.array_equal(*memories[3])
    assert not np.array_equal(memories[3][0], memories[4][0])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images", "0"], "--images must be from 1 to 256, not 0"),
        (["--images", "257"], "--images must be from 1 to 256, not 257"),
        (["--preset", "huge"], f"PRESET must be one of {', '.join(PRESETS)}, not huge"),
    ],
)
def test_bad_choices(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
