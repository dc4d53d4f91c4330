"""Random programs: they cover the command set, can be replayed, and have one result in every order that they allow."""

from collections import defaultdict

import numpy as np
import pytest
from lepton_npu.spec.commands import ADDRESS_REGISTERS, COMMANDS, Engine, Format, Opcode, Precision, VectorOp, decode
from lepton_npu.spec.config import PRESETS, RECORD_BYTES
from lepton_verif.accesses import accesses
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from lepton_verif.ordering import OrderedProgram
from lepton_verif.random_program import BASE, memory_size, random_job

TINY = PRESETS["tiny"]
SEEDS = 36
SCHEDULES = 3


@pytest.fixture(scope="module")
def jobs(seed) -> list[Job]:
    return [random_job(TINY, np.random.default_rng([seed, number])) for number in range(SEEDS)]


Fields = dict[str, int]


def body_of(job: Job, address: int, count: int) -> list[tuple[Opcode, Fields]]:
    start = address - job.base
    decoded = (decode(job.memory[start + 64 * i : start + 64 * i + 64].tobytes()) for i in range(count))
    return [(command.opcode, fields) for command, fields in decoded]


def executed(job: Job) -> list[tuple[Opcode, Fields]]:
    """The commands in the order of execution; the addresses of LOAD and STORE are those with their registers."""
    registers = [0] * (ADDRESS_REGISTERS + 1)
    found = []

    def execute(opcode: Opcode, f: Fields):
        if opcode == Opcode.ADDRESS:
            registers[f["number"]] = (f["value"] + f["add"] * registers[f["number"]]) % (1 << 64)
        place = {"address": (f["address"] + registers[f["base"]]) % (1 << 64)} if "base" in f else {}
        found.append((opcode, f | place))
        for _ in range(f["count"] if opcode == Opcode.REPEAT else 0):
            for item in body_of(job, place["address"], f["records"]):
                execute(*item)

    for item in body_of(job, job.ring, job.records):
        execute(*item)
    return found


def outcome(job: Job, memory: np.ndarray, schedule: int | None) -> tuple[Iss, np.ndarray]:
    memory = memory.copy()
    iss = Iss(TINY, memory, base=job.base, schedule_seed=schedule)
    iss.run(job.ring, job.ring_log2, job.records)
    return iss, memory


def test_every_command_and_field_is_covered(jobs):
    values = defaultdict(set)
    for job in jobs:
        for opcode, fields in executed(job):
            for name, value in fields.items():
                values[opcode, name].add(value)
    assert {opcode for opcode, _ in values} == set(COMMANDS)
    for (opcode, name), found in values.items():
        field = next(field for field in COMMANDS[opcode].fields if field.name == name)
        if name == "opcode" or (name == "post" and opcode in (Opcode.FENCE, Opcode.IRQ)):
            continue
        whole = field.enum is not None or field.width == 1
        enough = field.high + 1 if whole else 2 if name in ("wait", "post") else 3
        assert len(found) >= enough, f"{opcode.name}.{name} has only the values {found}"
        if field.signed:
            assert min(found) < 0 < max(found), f"{opcode.name}.{name} has one sign only"


@pytest.mark.parametrize(
    ("opcode", "names", "combinations"),
    [
        (Opcode.MATMUL, ("a_precision", "b_precision"), len(Precision) ** 2),
        (Opcode.MATMUL, ("a_transpose", "b_transpose", "accumulate"), 8),
        (Opcode.VECTOR, ("a_format", "dst_format"), len(Format) ** 2),
        (Opcode.VECTOR, ("op", "relu"), 2 * len(VectorOp)),
    ],
)
def test_combinations_are_covered(jobs, opcode, names, combinations):
    found = {tuple(f[name] for name in names) for job in jobs for code, f in executed(job) if code == opcode}
    assert len(found) >= 0.7 * combinations  # of few programs; others come with other seeds


def test_replay_gives_the_same_bytes(seed):
    first, second = (random_job(TINY, np.random.default_rng([seed, 3])) for _ in range(2))
    other = random_job(TINY, np.random.default_rng([seed, 4]))
    assert first.memory.tobytes() == second.memory.tobytes()
    assert first.expected.tobytes() == second.expected.tobytes()
    assert first.memory.tobytes() != other.memory.tobytes()


def test_every_schedule_gives_the_same_memory(jobs):
    for number, job in enumerate(jobs):
        for schedule in range(SCHEDULES):
            iss, memory = outcome(job, job.memory, schedule)
            assert iss.fault is None
            assert iss.tag == job.tag
            assert iss.semaphores == [0] * 16
            job.check(memory, replay=f"job {number}, schedule {schedule}")


@pytest.mark.parametrize("preset", ["ecp5", "default"])
def test_other_presets(preset, seed):
    for number in range(2):
        job = random_job(PRESETS[preset], np.random.default_rng([seed, number]))
        assert (job.expected != job.memory).any()


# ---- The checks above can fail.


def without_waits(job: Job, channel: int) -> np.ndarray:
    """The job's memory with all waits and posts of one semaphore removed from its commands."""
    memory = job.memory.copy()
    words = memory[: job.records * RECORD_BYTES].view("<u4").reshape(job.records, -1)
    words[:, 1] &= np.uint32(~(0x10001 << channel) & 0xFFFFFFFF)
    return memory


def test_dropped_semaphores_show(jobs):
    """Some semaphores are not needed; but a good part of the programs must need one that some schedule misses."""
    shown = 0
    for job in jobs[:16]:
        used = int(np.bitwise_or.reduce(job.memory[: job.records * 64].view("<u4").reshape(job.records, -1)[:, 1]))
        damaged = [without_waits(job, channel) for channel in range(16) if used >> channel & 1]
        shown += any(
            not np.array_equal(outcome(job, memory, schedule)[1][len(memory) // 4 :], job.expected[len(memory) // 4 :])
            for memory in damaged
            for schedule in range(SCHEDULES)
        )
    assert shown >= 8


def two_commands(seed: int) -> OrderedProgram:
    """A LOAD, and a STORE of what it loaded."""
    program = OrderedProgram(TINY, BASE, 1 << 16, np.random.default_rng(seed))
    program.add(Opcode.LOAD, address=BASE + 4096, local=7, words=4)
    program.add(Opcode.STORE, address=BASE + 8192, local=7, words=4)
    program.fence(Opcode.IRQ)
    return program


@pytest.mark.parametrize("dropped", [False, True])
def test_a_dropped_wait_shows(dropped):
    """Of a program with a semaphore between two commands (others have a fence or a NOP)."""
    program = next(p for p in map(two_commands, range(100)) if len(p.commands) == 3 and not p.commands[2].wait)
    store = program.commands[1]
    assert store.wait == program.commands[0].post != 0
    if dropped:
        store.wait = 0
    results = set()
    for schedule in range(40):
        memory = np.zeros(1 << 16, np.uint8)
        memory[4096] = 9
        ring = program.records()
        memory[: len(ring)] = np.frombuffer(ring, np.uint8)
        assert Iss(TINY, memory, base=BASE, schedule_seed=schedule).run(BASE, 4, len(program.commands)) is None
        results.add(int(memory[8192]))
    assert results == ({0, 9} if dropped else {9})


# ---- What a command touches.


class Touched:
    """One command on a core full of random state."""

    def __init__(self, opcode: Opcode, fields: dict[str, int], seed: int):
        rng = np.random.default_rng(seed)
        self.memory = rng.integers(0, 1 << 32, memory_size(TINY) // 4, np.uint32)
        record = COMMANDS[opcode].pack(**fields | {"wait": 0, "post": 0})
        self.memory[: RECORD_BYTES // 4] = np.frombuffer(record, "<u4")
        self.iss = Iss(TINY, self.memory, base=BASE)
        state = self.iss.state
        # Ordinary numbers, so that a change of an operand changes the result.
        for rows in (state.vmem, state.acc):
            rows[:] = rng.standard_normal(rows.shape).astype(np.float32).view(np.uint32)
        state.tiles[:] = rng.integers(-128, 128, state.tiles.shape)
        state.exponents[:] = rng.integers(120, 134, state.exponents.shape)

    def units(self) -> dict[str, np.ndarray]:
        """Every unit of every space, as a row of numbers."""
        state = self.iss.state
        tiles = np.concatenate([state.tiles.reshape(TINY.tiles, -1), state.exponents[:, None]], axis=1, dtype=np.int32)
        return {"memory": self.memory[:, None].copy(), "local": state.local.copy(), "tiles": tiles}

    def take(self, units: dict[str, np.ndarray], places: dict[str, np.ndarray]):
        """Overwrite the units at ``places`` with those of ``units``."""
        state = self.iss.state
        for space, where in places.items():
            if space == "memory":
                self.memory[where] = units[space][where, 0]
            elif space == "local":
                state.local[where] = units[space][where]
            else:
                state.tiles[where] = units[space][where, :-1].reshape(-1, TINY.side, TINY.side)
                state.exponents[where] = units[space][where, -1]

    def run(self):
        assert self.iss.run(BASE, 1, 1) is None


def test_accesses_are_what_the_simulator_touches(jobs):
    """Nothing else is written; and with the units read the same and all others different, the same is written."""
    seen = set()
    for number, job in enumerate(jobs[:8]):
        for opcode, fields in executed(job):
            if COMMANDS[opcode].engine == Engine.CONTROL:
                continue
            seen.add(opcode)
            found = accesses(TINY, opcode, fields, BASE)
            fields = fields | {"base": 0} if "base" in fields else fields
            reads = {space: np.unique(where) for space, where in found.reads.items()}
            one, other = Touched(opcode, fields, number), Touched(opcode, fields, number + 1000)
            before = one.units()
            other.take(before, reads)
            one.run()
            other.run()
            after, again = one.units(), other.units()
            for space, units in after.items():
                written = np.unique(found.writes.get(space, np.array([], np.int64)))
                changed = np.flatnonzero((units != before[space]).any(axis=1))
                assert np.isin(changed, written).all(), f"{opcode.name} changes other {space}: {fields}"
                np.testing.assert_array_equal(units[written], again[space][written], err_msg=f"{opcode.name} {fields}")
    assert {COMMANDS[opcode].engine for opcode in seen} == set(Engine) - {Engine.CONTROL}
