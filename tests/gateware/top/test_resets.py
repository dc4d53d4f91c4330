"""CTRL.RESET in every cycle of a short job with translation: a clean stop, in bounded time, and then the job again."""

from pathlib import Path

import numpy as np
import pytest
from lepton_npu.bus.axi import ID_BITS
from lepton_npu.spec.commands import Opcode, VectorOp
from lepton_npu.spec.config import ACC_SPACE, PRESETS, RECORD_BYTES, NpuConfig
from lepton_sim.harness import Order, Stalls
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from lepton_verif.translated_job import translated

from tests.gateware.top.bus_bench import RESET_CYCLES, TAG, BusBench, pack, transfer

pytestmark = pytest.mark.verilator

CONFIG = PRESETS["tiny"]
BASE, PAGE = 0x8000_0000, 4096
RING, BODY = BASE, BASE + 0x600
DATA, TARGET = BASE + PAGE - 256, BASE + 3 * PAGE - 128  # both over the border of a page
RESULT_WORDS, ROUNDS, ROUND_BYTES = 64, 3, 64
TARGET_BYTES = 4 * RESULT_WORDS + ROUNDS * ROUND_BYTES
ONE = 0x3F800000  # 1.0


def job(rng: np.random.Generator) -> Job:
    """A product of an 8x8 matrix with itself through every engine, and a loop of LOADs and STOREs beside it.

    Each word of the target is written once, so that at any time it is the old one or the last.
    """
    memory = rng.standard_normal(PAGE).astype(np.float32).view(np.uint8)
    records = [
        pack(Opcode.NOP, post=1 << 6),
        transfer(Opcode.LOAD, DATA, 8, rows=8, stride=32, local_stride=2, post=1 << 0),
        pack(Opcode.QUANT, rows=8, cols=8, source_stride=2, tile_stride=2, wait=1 << 0, post=1 << 1),
        pack(Opcode.MATMUL, acc=ACC_SPACE, b_tile=0, rows=8, k_tiles=2, n_tiles=2, a_k_stride=2, b_k_stride=1,
             b_n_stride=2, count0=8, a_stride0=1, acc_stride0=2, acc_n_stride=1, wait=1 << 1, post=1 << 2),
        pack(Opcode.VECTOR, op=VectorOp.MULADD, a=ACC_SPACE, a_stride0=1, b_imm=1, imm_b=ONE, c=0, c_stride0=1, relu=1,
             dst=100, dst_stride0=1, count0=16, wait=1 << 2, post=1 << 3),
        transfer(Opcode.STORE, TARGET, RESULT_WORDS // 2, rows=2, stride=2 * RESULT_WORDS, local=100, local_stride=8,
                 wait=1 << 3, post=1 << 7),
        pack(Opcode.REPEAT, address=BODY, records=4, count=ROUNDS),
        pack(Opcode.NOP, wait=1 << 7),
        pack(Opcode.IRQ, tag=TAG),
    ]  # fmt: skip
    body = [
        transfer(Opcode.LOAD, DATA, ROUND_BYTES // 4, local=200, base=1, wait=1 << 6, post=1 << 4),
        transfer(
            Opcode.STORE, TARGET + 4 * RESULT_WORDS, ROUND_BYTES // 4, local=200, base=2, wait=1 << 4, post=1 << 6
        ),
        pack(Opcode.ADDRESS, number=1, add=1, value=96),
        pack(Opcode.ADDRESS, number=2, add=1, value=ROUND_BYTES),
    ]
    for place, text in ((RING, records), (BODY, body)):
        memory[place - BASE :][: RECORD_BYTES * len(text)] = np.frombuffer(b"".join(text), np.uint8)
    iss = Iss(CONFIG, memory.copy(), base=BASE)
    assert iss.run(RING, 4, len(records)) is None
    return translated(Job(memory, BASE, RING, 4, len(records), iss.memory, tag=TAG, name="short job"), rng)


def reset_bound(config: NpuConfig, latency: int, bandwidth: int) -> int:
    """Most cycles from CTRL.RESET to the fall of RESETTING, on a memory without random stalls.

    What may be in flight is answered first: of reads `outstanding` bursts of LOAD, four records, one read of the
    walker; of writes `outstanding` bursts, whose beats may leave in every second cycle only, while local rows are read
    for them. Each way there is a latency; then the bus is quiet.
    """
    reads = config.outstanding * config.max_burst + 4 * RECORD_BYTES // config.bus_bytes + 1
    writes = config.outstanding * config.max_burst
    beats = max(reads * bandwidth, writes * max(bandwidth, 2))
    return beats + 2 * (latency + 1) + (1 << ID_BITS) + RESET_CYCLES


MEMORIES = {
    "quick": {"latency": 2},
    "slow": {"latency": 25, "bandwidth": 3},
    "stalls": {"latency": 6, "interleave": True, "stalls": Stalls(ar=0.5, r=0.3, aw=0.5, w=0.4, b=0.5)},
    "address first": {"latency": 3, "order": Order.ADDRESS_FIRST, "stalls": Stalls(ar=0.2, aw=0.8, w=0.3)},
    "data first": {"latency": 3, "order": Order.DATA_FIRST, "stalls": Stalls(r=0.6, aw=0.3, w=0.6, b=0.8)},
}


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_reset_in_every_cycle(memory, seed, capsys, record_property):
    """From the doorbell to the interrupt, one run for each cycle; then the job again, bit for bit.

    In the run that is cut, nothing outside the job's target changes, and each word of that is the old one or the one
    of the simulator. The first job behind each reset begins with a cold TLB, whose walks are cut as well.
    """
    rng = np.random.default_rng(seed)
    work = job(rng)
    bench = BusBench(CONFIG, work.memory.size, work.base, rng)
    harness, driver = bench.harness, bench.driver
    options = MEMORIES[memory]
    bound = None if "stalls" in options else reset_bound(CONFIG, options["latency"], options.get("bandwidth", 1))
    targets = work.memory.view("<u4") != work.expected.view("<u4")
    assert 0.9 * TARGET_BYTES / 4 < targets.sum() <= TARGET_BYTES / 4, "the job writes all of its target"
    driver.translate(work.root, asid=9)

    def begin():
        harness.memory[:] = work.memory
        harness.configure(**options, seed=seed)
        driver.start(work.ring, work.ring_log2)
        driver.doorbell(work.records)

    def whole(what: object) -> int:
        begin()
        start = harness.accepted
        assert harness.run(100_000), f"{what}: no interrupt"
        length = harness.cycle - start
        assert driver.fault is None, f"{what}: {driver.fault}"
        assert driver.read("TAG") == TAG, what
        work.check(harness.memory, f"SEED={seed}, {what}")
        return length

    length = whole("undisturbed")
    bench.reset("at the end", bound)
    cut = partly = 0
    for cycle in range(length + 1):
        what = f"reset {cycle} cycles behind the doorbell of {length}, memory {memory}"
        begin()
        harness.run(cycle)
        partly += harness.outstanding > 0
        bench.reset(what, bound)
        found, old, new = (image.view("<u4") for image in (harness.memory, work.memory, work.expected))
        assert np.array_equal(found[~targets], old[~targets]), f"{what}: a word outside the target has changed"
        assert ((found == old) | (found == new))[targets].all(), f"{what}: a word of the target is neither old nor new"
        cut += 0 < (found[targets] == new[targets]).sum() < targets.sum()
        whole(what)
        bench.reset(what, bound)
        bench.sweep.cases += 1
    bench.close()
    record_property("cycles", bench.sweep.cases)
    record_property("recovery", bench.sweep.reset)
    with capsys.disabled():
        computed = "" if bound is None else f" (bound {bound})"
        print(
            f"\nreset in each of {bench.sweep.cases} cycles, {memory}: {bench.sweep.reset} cycles at most{computed}, "
            f"{bench.sweep.recovery} behind a quiet bus; {partly} with the bus at work, {cut} with a part stored"
        )
    assert partly > length // 8
    assert cut > length // 50


MOST = 0xFFFF
ENDLESS = {
    "load": transfer(Opcode.LOAD, DATA, 16, rows=MOST, stride=0),
    "store": transfer(Opcode.STORE, TARGET, 16, rows=MOST, stride=0, local=100),
    "quant": pack(Opcode.QUANT, rows=MOST, cols=MOST, source=200, tile=100),
    "matmul": pack(Opcode.MATMUL, acc=ACC_SPACE, rows=MOST, k_tiles=MOST, n_tiles=MOST, count0=MOST, count1=1),
    "vector": pack(Opcode.VECTOR, op=VectorOp.MULADD, a=300, b=301, dst=302, count0=MOST, count1=MOST),
}
"""Commands that take millions of cycles (MATMUL 10^14), each on rows and tiles of its own."""


@pytest.mark.parametrize("engine", [*ENDLESS, "all"])
def test_a_reset_does_not_take_as_long_as_a_command(engine, seed):
    """In 40 cycles of a command that goes on for ever, and of all engines at once; within the bound of a short job."""
    resets_in_a_command(engine, seed)


def resets_in_a_command(engine: str, seed: int, library: Path | None = None, config: NpuConfig = CONFIG):
    """A reset in 40 cycles of a command (or of all), and a good job after each."""
    rng = np.random.default_rng(seed)
    bench = BusBench(config, 4 * PAGE, BASE, rng, library)
    harness, driver = bench.harness, bench.driver
    records = list(ENDLESS.values()) if engine == "all" else [ENDLESS[engine]]
    bench.put(RING, *records)
    good = pack(Opcode.NOP), pack(Opcode.IRQ, tag=TAG)
    bench.put(BODY, *good)
    bound = reset_bound(config, 3, 1)
    for cycle in range(300, 340):
        what = f"reset in cycle {cycle}"
        harness.configure(latency=3, seed=seed)
        driver.clear_counters()
        bench.begin(RING, 3, len(records))
        assert not harness.run(cycle), f"{what}: an interrupt"
        counters = driver.counters()
        busy = [name for name in ENDLESS if counters[f"{name.upper()}_BUSY"] > cycle // 2]
        assert busy == (list(ENDLESS) if engine == "all" else [engine]), f"{what}: busy were {busy}"
        bench.reset(what, bound)
        harness.memory[:] = bench.image
        driver.start(BODY, 1)
        driver.doorbell(len(good))
        bench.expect_tag(bench.image, what)
        bench.reset(what, bound)
    bench.close()
