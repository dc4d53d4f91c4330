"""The instruction-set simulator against docs/architecture.md: ring, order, semaphores, faults, DMA, QUANT."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause, Opcode, Precision
from lepton_npu.spec.config import ACC_SPACE, PRESETS, RECORD_BYTES
from lepton_verif.model.iss import Iss

from tests.verif.iss_machine import BASE, DATA, RING, RING_LOG2, SIZE, Machine, record

TINY = PRESETS["tiny"]
NOP = record(Opcode.NOP)


def load(address: int = DATA, local: int = 0, rows: int = 1, words: int = 4, stride: int = 16, **fields) -> bytes:
    return record(Opcode.LOAD, address=address, local=local, rows=rows, words=words, stride=stride, **fields)


def store(address: int = DATA, local: int = 0, rows: int = 1, words: int = 4, stride: int = 16, **fields) -> bytes:
    return record(Opcode.STORE, address=address, local=local, rows=rows, words=words, stride=stride, **fields)


def stopped(fault) -> tuple:
    return fault.cause, fault.engine, fault.index, fault.address


# ---- Ring.


def test_ring_wraps_and_counts_run_on():
    machine = Machine()
    for number in range(150):
        assert machine.run(record(Opcode.IRQ, tag=number)) is None
        assert machine.iss.tag == number
    assert machine.iss.head == machine.iss.tail == 150


def test_counts_wrap_at_32_bits():
    machine = Machine()
    machine.iss.head = machine.iss.tail = machine.written = (1 << 32) - 2
    assert machine.run(NOP, NOP, NOP, record(Opcode.IRQ, tag=5)) is None
    assert machine.iss.head == 2
    assert machine.iss.tag == 5


def test_full_ring_is_allowed_and_one_more_is_an_overrun():
    machine = Machine()
    machine.put(*[NOP] * (1 << RING_LOG2))
    machine.iss.doorbell(1 << RING_LOG2)
    assert machine.iss.run() is None
    machine.iss.doorbell((2 << RING_LOG2) + 1)
    assert machine.iss.run().cause == FaultCause.RING_OVERRUN
    assert machine.iss.irq


@pytest.mark.parametrize("ring", [RING + 32, RING + 1])
def test_misaligned_ring_is_refused(ring):
    with pytest.raises(ValueError, match="multiple of 64"):
        Machine().iss.start(ring, 4)


def test_fetch_outside_memory():
    iss = Iss(TINY, np.zeros(SIZE, np.uint8), base=BASE)
    fault = iss.run(BASE + SIZE, 4, 1)
    assert stopped(fault) == (FaultCause.BUS_FETCH, Engine.CONTROL, 0, BASE + SIZE)


@pytest.mark.parametrize("kind", [bytearray, lambda n: np.zeros(n, np.uint8)])
def test_memory_is_shared(kind):
    memory = kind(4096)
    memory[:RECORD_BYTES] = (
        record(Opcode.IRQ, tag=9) if kind is bytearray else np.frombuffer(record(Opcode.IRQ, tag=9), "u1")
    )
    iss = Iss(TINY, memory, base=BASE)
    assert iss.run(BASE, 4, 1) is None
    assert iss.tag == 9


# ---- Order.


def test_fence_holds_back_other_engines():
    """Without the fence the store may run first; with it every schedule stores what was loaded."""
    results = {False: set(), True: set()}
    for fenced in results:
        for seed in range(40):
            machine = Machine(schedule_seed=seed)
            machine.words[:4] = 7
            machine.run(load(), *[record(Opcode.FENCE)] * fenced, store(address=DATA + 64))
            results[fenced].add(int(machine.words[16]))
    assert results == {False: {0, 7}, True: {7}}


def test_semaphores_order_two_engines():
    for seed in range(30):
        machine = Machine(schedule_seed=seed)
        machine.words[:4] = 7
        assert machine.run(load(post=0b1001), store(address=DATA + 64, wait=0b1001)) is None
        assert machine.words[16] == 7
        assert machine.iss.semaphores == [0] * 16


def test_one_engine_runs_in_order():
    for seed in range(20):
        machine = Machine(schedule_seed=seed)
        machine.words[:8] = np.arange(8)
        machine.run(load(), load(address=DATA + 16), record(Opcode.FENCE), store(address=DATA + 64))
        assert machine.words[16:20].tolist() == [4, 5, 6, 7]


def test_waiting_takes_one_of_each():
    machine = Machine()
    post = record(Opcode.NOP, post=0b111)
    machine.run(post, post, record(Opcode.NOP, wait=0b101))
    assert machine.iss.semaphores[:3] == [1, 2, 1]


def test_control_waits_in_the_decoder():
    """A NOP that waits holds back the commands behind it, also of other engines."""
    machine = Machine()
    machine.words[:4] = 7
    fault = machine.run(record(Opcode.NOP, wait=2), load())
    assert stopped(fault) == (FaultCause.WATCHDOG, Engine.CONTROL, 0, 0)
    assert not machine.iss.state.vmem.any()


def test_irq_comes_after_everything():
    for seed in range(20):
        machine = Machine(schedule_seed=seed)
        machine.run(load(wait=1), record(Opcode.IRQ, tag=3))
        assert machine.iss.fault.cause == FaultCause.WATCHDOG
        assert machine.iss.tag == 0


def test_watchdog_names_the_oldest_command():
    fault = Machine().run(NOP, store(wait=1), load(wait=2), record(Opcode.FENCE))
    assert stopped(fault) == (FaultCause.WATCHDOG, Engine.STORE, 1, 0)


@pytest.mark.parametrize("depth", [1, 4])
def test_queue_depth_limits_what_can_pass(depth):
    """A LOAD behind `depth` + 1 STOREs that wait for it never starts: the last STORE blocks the decoder."""
    config = type(TINY)(**TINY.as_dict() | {"queue_depth": depth})
    stores = [store(wait=1)] + [store()] * (depth - 1)
    assert Machine(config).run(*stores, load(post=1)) is None
    fault = Machine(config).run(*stores, store(), load(post=1))
    assert (fault.cause, fault.index) == (FaultCause.WATCHDOG, 0)


# ---- Faults.


def test_semaphore_overflow_is_beyond_255():
    machine = Machine()
    for _ in range(255):
        assert machine.run(record(Opcode.NOP, post=0x8000)) is None
    fault = machine.run(NOP, record(Opcode.NOP, post=0x8000))
    assert stopped(fault) == (FaultCause.SEMAPHORE_OVERFLOW, Engine.CONTROL, 256, 0)


def test_first_fault_stops_the_core():
    machine = Machine()
    bad = bytes(64)
    fault = machine.run(NOP, bad, record(Opcode.IRQ, tag=1))
    assert stopped(fault) == (FaultCause.ILLEGAL_OPCODE, Engine.CONTROL, 1, 0)
    assert machine.iss.tag == 0
    assert machine.iss.irq
    assert machine.run(NOP) is fault


def test_reset_clears_all_but_memories_and_registers():
    machine = Machine()
    machine.words[:4] = 7
    machine.run(load(), record(Opcode.IRQ, tag=5, post=1), load(wait=4))
    iss = machine.iss
    assert iss.fault.cause == FaultCause.WATCHDOG
    iss.soft_reset()
    assert (iss.head, iss.tail, iss.fault, iss.irq) == (0, 0, None, False)
    assert iss.semaphores == [0] * 16
    assert iss.state.vmem[0].tolist() == [7] * 4
    machine.written = 0
    # Nothing of the old queues runs, and the ring is where it was.
    assert machine.run(store(address=DATA + 64), record(Opcode.IRQ, tag=6)) is None
    assert (machine.words[16], iss.tag, iss.head) == (7, 6, 2)


def test_lane_masks_must_be_below_the_side():
    for field in ("lane_bcast", "lane_xor"):
        assert Machine().run(record(Opcode.VECTOR, **{field: 3})) is None
        assert Machine().run(record(Opcode.VECTOR, **{field: 4})).cause == FaultCause.ILLEGAL_FIELD


TOP = 1 << TINY.addr_width


@pytest.mark.parametrize(
    ("fields", "cause", "address", "rows_done"),
    [
        ({"address": DATA + 4}, FaultCause.MISALIGNED, DATA + 4, 0),
        ({"stride": 12}, FaultCause.MISALIGNED, DATA, 0),
        ({"address": TOP - 8, "stride": 0}, FaultCause.ADDRESS_RANGE, TOP - 8, 0),
        ({"address": (1 << 64) - 16}, FaultCause.ADDRESS_RANGE, (1 << 64) - 16, 0),
        ({"address": BASE + SIZE - 32}, None, BASE + SIZE, 2),
        ({"address": BASE, "stride": -16}, None, BASE - 16, 1),
        ({"address": TOP - 16}, None, TOP - 16, 0),
        ({"local": TINY.vmem_rows - 2}, FaultCause.LOCAL_RANGE, TINY.vmem_rows, 2),
        ({"local": 1, "local_stride": -1}, FaultCause.LOCAL_RANGE, (1 << 64) - 1, 2),
        ({"local": TINY.vmem_rows - 1, "words": 5}, FaultCause.LOCAL_RANGE, TINY.vmem_rows, 0),
        ({"local": 0x7FFF, "local_stride": 1}, FaultCause.LOCAL_RANGE, 0x7FFF, 0),
    ],
)
@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_dma_faults(opcode, fields, cause, address, rows_done):
    """A cause of None is that of the bus. Rows before the bad one are transferred."""
    machine = Machine()
    machine.memory[DATA - BASE :] = 1
    machine.iss.state.vmem[:] = 0x05050505
    command = {"address": DATA, "rows": 4, "words": 4, "stride": 16, "local_stride": 1} | fields
    fault = machine.run(record(opcode, **command))
    bus = FaultCause.BUS_READ if opcode == Opcode.LOAD else FaultCause.BUS_WRITE
    engine = Engine.LOAD if opcode == Opcode.LOAD else Engine.STORE
    assert stopped(fault) == (cause or bus, engine, 0, address)
    if opcode == Opcode.LOAD:
        assert (machine.iss.state.vmem != 0x05050505).any(axis=1).sum() == rows_done
    else:
        assert (machine.memory.view("<u4") == 0x05050505).sum() == 4 * rows_done


def test_load_to_accumulators_is_out_of_range_and_store_from_them_is_not():
    assert Machine().run(load(local=ACC_SPACE)).cause == FaultCause.LOCAL_RANGE
    machine = Machine()
    machine.iss.state.acc[3] = 9
    assert machine.run(store(local=ACC_SPACE + 3)) is None
    assert machine.words[:4].tolist() == [9] * 4
    assert Machine().run(store(local=ACC_SPACE + TINY.acc_rows)).cause == FaultCause.LOCAL_RANGE


# ---- LOAD and STORE.


def random_dma(rng: np.random.Generator) -> dict[str, int]:
    rows, words = int(rng.integers(1, 6)), int(rng.integers(1, 14))
    return {
        "rows": rows,
        "words": words,
        "local_stride": int(rng.integers(-4, 6)),
        "local": 40,
        "stride": 8 * int(rng.integers(-9, 10)),
        "address": DATA + 0x800 + 8 * int(rng.integers(64)),
    }


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_load_word_by_word(preset, seed):
    rng, config = np.random.default_rng(seed), PRESETS[preset]
    for _ in range(60):
        machine, f = Machine(config), random_dma(rng)
        machine.words[:] = rng.integers(1, 1 << 32, machine.words.size, np.uint32)
        machine.iss.state.vmem[:] = rng.integers(1, 1 << 32, machine.iss.state.vmem.shape, np.uint32)
        expected = machine.iss.state.vmem.copy()
        for r in range(f["rows"]):
            for c in range(-(-f["words"] // config.side) * config.side):
                word = machine.words[(f["address"] - DATA + r * f["stride"]) // 4 + c] if c < f["words"] else 0
                expected[f["local"] + r * f["local_stride"] + c // config.side, c % config.side] = word
        assert machine.run(record(Opcode.LOAD, **f)) is None
        np.testing.assert_array_equal(machine.iss.state.vmem, expected)


@pytest.mark.parametrize("preset", ["tiny", "ecp5"])
def test_store_word_by_word(preset, seed):
    rng, config = np.random.default_rng(seed), PRESETS[preset]
    for _ in range(60):
        machine, f = Machine(config), random_dma(rng)
        machine.words[:] = rng.integers(1, 1 << 32, machine.words.size, np.uint32)
        machine.iss.state.local[:80] = rng.integers(1, 1 << 32, (80, config.side), np.uint32)
        expected = machine.words.copy()
        for r in range(f["rows"]):
            for c in range(f["words"]):
                word = machine.iss.state.local[f["local"] + r * f["local_stride"] + c // config.side, c % config.side]
                expected[(f["address"] - DATA + r * f["stride"]) // 4 + c] = word
        assert machine.run(record(Opcode.STORE, **f)) is None
        np.testing.assert_array_equal(machine.words, expected)


# ---- QUANT.


def test_quant_layout(seed):
    """Every element at the tile, row and column that the architecture names, of the value of its limbs."""
    rng, side = np.random.default_rng(seed), TINY.side
    for _ in range(40):
        machine = Machine()
        f = {"precision": int(rng.integers(3)), "rows": int(rng.integers(1, 14)), "cols": int(rng.integers(1, 14))}
        high, wide = -(-f["rows"] // side), -(-f["cols"] // side)
        f |= {"source": 100, "source_stride": wide + int(rng.integers(3)), "tile": int(rng.integers(9))}
        f |= {"tile_stride": high + int(rng.integers(3)), "limb_stride": 30}
        # Integers with one magnitude of 64 in each tile have the scale 1: they are exact in every precision.
        local = machine.iss.state.local
        local[:400] = rng.integers(-60, 61, (400, side)).astype(np.float32).view(np.uint32)
        matrix = np.zeros((high * side, wide * side))
        for r in range(f["rows"]):
            for c in range(f["cols"]):
                row = f["source"] + r * f["source_stride"] + c // side
                if r % side == c % side == 0:
                    local[row, 0] = np.float32(64).view(np.uint32)
                matrix[r, c] = local[row, c % side].view(np.float32)
        assert machine.run(record(Opcode.QUANT, **f)) is None
        state, limbs = machine.iss.state, Precision(f["precision"]).limbs
        for i in range(high):
            for j in range(wide):
                found = np.zeros((side, side))
                for p in range(limbs):
                    tile = f["tile"] + i + j * f["tile_stride"] + p * f["limb_stride"]
                    assert state.exponents[tile] == 127 + 6
                    found += state.tiles[tile] * 256.0**-p
                block = matrix[i * side : (i + 1) * side, j * side : (j + 1) * side]
                np.testing.assert_array_equal(found, block)


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"tile": TINY.tiles - 1, "rows": 8}, TINY.tiles * TINY.side),
        ({"tile": 0, "precision": 1, "limb_stride": TINY.tiles}, TINY.tiles * TINY.side),
        ({"source": TINY.vmem_rows - 2, "rows": 4}, TINY.vmem_rows),
        ({"source": 2, "source_stride": -1, "rows": 4}, (1 << 64) - 1),
        ({"source": ACC_SPACE + TINY.acc_rows}, ACC_SPACE + TINY.acc_rows),
    ],
)
def test_quant_range(fields, address):
    fault = Machine().run(record(Opcode.QUANT, **{"rows": 1, "cols": 4, "source_stride": 1} | fields))
    assert stopped(fault) == (FaultCause.LOCAL_RANGE, Engine.QUANT, 0, address)
