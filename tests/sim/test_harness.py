"""The compiled harness's memory: latency and bandwidth, as docs/verification.md states them."""

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS, RECORD_BYTES
from lepton_sim.core import core_library, run_job
from lepton_sim.harness import Harness, Stalls
from lepton_verif.job import Job
from leptonaicsdk.program import Program

CONFIG = PRESETS["tiny"]
WORDS, ROWS = 32, 16
BEATS = ROWS * WORDS * 4 // CONFIG.bus_bytes


@pytest.fixture(scope="module")
def job() -> Job:
    """Rows of `WORDS` words, 256 beats in all, go in and out again, one after the other."""
    size, data = 4 * WORDS, 8 * RECORD_BYTES
    program = Program(CONFIG)
    fields = {"rows": ROWS, "words": WORDS, "stride": size, "local_stride": WORDS // CONFIG.side, "local": 0}
    program.load(address=data, **fields)
    program.fence()
    program.store(address=data + ROWS * size, **fields)
    program.irq(3)
    memory = np.zeros(data + 2 * ROWS * size, np.uint8)
    records = np.frombuffer(program.records(), np.uint8)
    memory[: records.size] = records
    memory[data : data + ROWS * size] = np.random.default_rng(1).integers(0, 256, ROWS * size, np.uint8)
    expected = memory.copy()
    expected[data + ROWS * size :] = memory[data : data + ROWS * size]
    return Job(memory, 0, 0, 3, len(program), expected, tag=3)


@pytest.fixture
def run(job):
    """Runs the job with options of `run_job`; its counters."""
    with Harness(core_library(CONFIG), job.memory.size) as harness:

        def counters(**options) -> dict[str, int]:
            done = run_job(harness, job, **options)
            assert done.fault is None
            assert done.beats == (job.records * RECORD_BYTES // CONFIG.bus_bytes + BEATS, BEATS)
            job.check(done.memory)
            return {**done.counters, "cycles": done.cycles}

        yield counters


@pytest.mark.verilator
def test_a_beat_takes_as_many_cycles_as_asked(run, job):
    """256 beats take N * 255 cycles or more; N - 1 for each beat on the channel is all that comes to full rate's."""
    full = run(latency=3)
    for n in (2, 3, 10):
        slow = run(latency=3, bandwidth=n)
        for engine in ("LOAD", "STORE"):
            assert slow[f"{engine}_BEATS"] == BEATS
            assert slow[f"{engine}_BUSY"] >= n * (BEATS - 1)
            # Records are fetched meanwhile, over the same channel as LOAD's beats.
            beats = BEATS + (job.records * RECORD_BYTES // CONFIG.bus_bytes if engine == "LOAD" else 0)
            assert slow[f"{engine}_BUSY"] <= full[f"{engine}_BUSY"] + (n - 1) * beats
    assert full["LOAD_BUSY"] < 1.3 * BEATS


@pytest.mark.verilator
def test_latency_is_added_to_the_first_answer(run):
    """One record after the other is fetched ahead, and bursts are in flight together, so L counts a few times only."""
    first, second = run(latency=10), run(latency=11)
    assert second["cycles"] - first["cycles"] in range(3, 8)


@pytest.mark.verilator
def test_the_same_seed_gives_the_same_cycles(run):
    stalls = Stalls(ar=0.3, r=0.3, aw=0.3, w=0.3, b=0.3)
    first, again, other = (run(stalls=stalls, bandwidth=2, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.verilator
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 0}, r"bandwidth must be from 1 to 2\^32 - 1 cycles, not 0"),
        ({"latency": -1}, r"latency must be from 0 to 2\^32 - 1 cycles, not -1"),
    ],
)
def test_bad_settings_are_refused(job, options, message):
    with Harness(core_library(CONFIG), job.memory.size) as harness, pytest.raises(ValueError, match=message):
        harness.configure(**options)
    with pytest.raises(ValueError, match="w must be from 0 to below 1, not 1"):
        Stalls(w=1)
