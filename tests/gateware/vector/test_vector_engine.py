"""The vector engine at T = 4 with 4, 2 and 1 lanes against the instruction-set simulator's VECTOR."""

import random

import numpy as np
import pytest
from lepton_npu.spec.commands import FaultCause, Format, VectorOp
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from lepton_verif.accesses import vector_rows
from lepton_verif.model.iss_state import CoreState, EngineFaultError
from lepton_verif.model.iss_vector import prepare_vector
from lepton_verif.random_program import random_words

from tests.gateware.partition import KINDS
from tests.gateware.simulation import kept, simulate
from tests.gateware.vector.vector_bench import VectorDriver, VectorWithMemory

ONE = 0x3F800000
STRIDES = [(1, 4), (1, 0), (0, 1), (0, 0), (3, 1), (2, -3), (-1, 5)]
ZERO = {
    **dict.fromkeys(("op", "a_format", "dst_format", "relu", "b_imm", "c_imm", "negate_b", "negate_c"), 0),
    **{f"{name}{suffix}": 0 for name in ("dst", "a", "b", "c") for suffix in ("", "_stride0", "_stride1")},
    **dict.fromkeys(("imm_b", "imm_c", "lane_bcast", "lane_xor"), 0),
    **dict.fromkeys(("count0", "count1"), 1),
}


FIELDS = ("", "_stride0", "_stride1")


def is_same(f: dict[str, int], name: str) -> bool:
    """Whether operand b or c is the same rows as a, and comes with it."""
    return Format(f["a_format"]).pack == 1 and all(f[f"a{field}"] == f[f"{name}{field}"] for field in FIELDS)


def config_of(lanes: int) -> NpuConfig:
    return NpuConfig(side=4, lanes=lanes, vmem_rows=128, acc_rows=32, tiles=16, max_burst=16)


def filled(config: NpuConfig, rng: np.random.Generator) -> CoreState:
    state = CoreState(config, np.zeros(0, np.uint8))
    for memory in (state.vmem, state.acc):
        memory[:] = random_words(rng, memory.size).reshape(memory.shape)
    return state


def copy_of(state: CoreState) -> CoreState:
    other = CoreState(state.config, state.memory)
    other.local[:] = state.local
    return other


def run_vector(config: NpuConfig, f: dict[str, int], state: CoreState):
    with np.errstate(all="ignore"):
        prepare_vector(config, f)(state)


def meets(f: dict[str, int]) -> bool:
    """Whether a row is read in one step and written in another: that is not defined."""
    rows = vector_rows(f)
    target = rows.pop("dst").reshape(-1)
    packed = Format(f["a_format"]).pack > 1 or Format(f["dst_format"]).pack > 1
    for source in rows.values():
        same = source.reshape(-1, 1) == target
        if not packed:
            np.fill_diagonal(same, False)
        if same.any():
            return True
    return False


def random_command(rng: np.random.Generator, config: NpuConfig, op: int, a_format: int, dst_format: int):
    """A command whose rows exist; every other one has strides of which the engine reads a row once only."""
    while True:
        f = ZERO | {"op": op, "a_format": a_format, "dst_format": dst_format}
        f |= {"count0": int(rng.integers(1, 11)), "count1": int(rng.integers(1, 4))}
        f |= {name: int(rng.random() < 0.35) for name in ("relu", "b_imm", "c_imm", "negate_b", "negate_c")}
        f |= {"imm_b": int(random_words(rng, 1)[0]), "imm_c": int(random_words(rng, 1)[0])}
        if rng.random() < 0.6:
            f |= {"lane_bcast": int(rng.integers(4)), "lane_xor": int(rng.integers(4))}
        for name in ("a", "b", "c", "dst"):
            strides = STRIDES[int(rng.integers(len(STRIDES)))] if rng.random() < 0.7 else rng.integers(-4, 8, 2)
            f |= {f"{name}_stride{loop}": int(stride) for loop, stride in enumerate(strides)}
            f[name] = int(rng.integers(1 << 16))  # kept if the operand is not read
        for name, offsets in vector_rows(f | dict.fromkeys(("a", "b", "c", "dst"), 0)).items():
            base, rows = 0, config.vmem_rows
            if name != "dst" and rng.random() < 0.3:
                base, rows = ACC_SPACE, config.acc_rows
            low, high = -int(offsets.min()), rows - int(offsets.max())
            if low >= high:
                break
            f[name] = base + int(rng.integers(low, high))
        else:
            if rng.random() < 0.3 and f["a"] < ACC_SPACE:
                f |= {key: f["a" + key[3:]] for key in ("dst", "dst_stride0", "dst_stride1")}
            if not meets(f) and vector_rows(f)["dst"].max() < config.vmem_rows and vector_rows(f)["dst"].min() >= 0:
                return f


def check_memory(found: CoreState, expected: CoreState, f: dict[str, int]):
    wrong = np.argwhere(found.local != expected.local)
    assert not wrong.size, (
        f"{len(wrong)} words differ, first {wrong[0]}: {found.local[tuple(wrong[0])]:08x}, "
        f"expected {expected.local[tuple(wrong[0])]:08x}, {f}"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lanes", [4, 2, 1])
def test_random_commands(seed, lanes, kind):
    """Every operation, every pair of formats, in turn; stalls of each port; rows written in order, each once."""
    config, rng = config_of(lanes), np.random.default_rng([seed, lanes])
    driver = VectorDriver(config, filled(config, rng), random.Random(f"{seed} {lanes}"), kind)
    expected = copy_of(driver.state)
    formats = [(a, d) for a in Format for d in Format]
    ops = [VectorOp(number % len(VectorOp)) for number in range(len(formats) * (2 if lanes == 4 else 1))]
    commands = [random_command(rng, config, op, *formats[n % len(formats)]) for n, op in enumerate(ops)]
    for f in commands:
        for name in "bc":
            if Format(f["a_format"]).pack == 1 and rng.random() < 0.6:
                f.update({f"{name}{field}": f[f"a{field}"] for field in FIELDS})

    async def process(ctx):
        for index, f in enumerate(commands):
            accept = rng.choice([1, 1, 0.5, 0.15], 3)
            await driver.start(ctx, f, index, accept)
            assert await driver.finish(ctx)
            run_vector(config, f, expected)
            check_memory(driver.state, expected, f)
            rows = vector_rows(f)
            target = rows.pop("dst")[:, :: Format(f["dst_format"]).pack]
            assert driver.writes == target.reshape(-1).tolist()
            for name in "abc":
                if name != "a" and name in rows and is_same(f, name):
                    del rows[name]
                    driver.seen["shared"] += 1
                assert set(driver.reads[name]) == set(rows[name].reshape(-1).tolist() if name in rows else ())
            if rng.random() < 0.2:
                await driver.quiet(ctx, busy=False, cycles=int(rng.integers(1, 12)))
        await driver.quiet(ctx, busy=False)

    simulate(driver.dut, process)
    assert driver.seen["stall"] > 100
    assert lanes != 4 or driver.seen["shared"]


def first_bad(config: NpuConfig, f: dict[str, int]) -> tuple[int, int]:
    """The first step that names no row, and that row; operands before the result."""
    bad = []
    for order, name in enumerate(("a", "b", "c", "dst")):
        for step, row in enumerate(vector_rows(f).get(name, np.zeros(0)).reshape(-1).tolist()):
            acc = ACC_SPACE <= row < ACC_SPACE + config.acc_rows and name != "dst"
            if not (0 <= row < config.vmem_rows or acc):
                bad.append((step, order, row))
    step, _, row = min(bad)
    return step, row


def run_steps(config: NpuConfig, f: dict[str, int], steps: int, state: CoreState):
    """The rows of results that the first steps fill."""
    outer, inner = divmod(steps, f["count0"])
    inner -= inner % Format(f["dst_format"]).pack
    if outer:
        run_vector(config, f | {"count1": outer}, state)
    if inner:
        moved = {name: f[name] + outer * f[f"{name}_stride1"] for name in vector_rows(f)}
        run_vector(config, f | moved | {"count0": inner, "count1": 1}, state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lanes", [4, 1])
def test_out_of_range(seed, lanes, kind):
    """LOCAL_RANGE at the first missing row, exactly; the steps before it are written, nothing else; then silence."""
    config, rng = config_of(lanes), np.random.default_rng([seed, lanes])
    driver = VectorDriver(config, filled(config, rng), random.Random(f"{seed} {lanes}"), kind)
    expected = copy_of(driver.state)
    partial = 0

    def faulty() -> dict[str, int]:
        while True:
            f = random_command(rng, config, *(int(rng.integers(len(kind))) for kind in (VectorOp, Format, Format)))
            f["count0"] *= 2
            names = [name for name in ("a", "b", "c", "dst") if name in vector_rows(f)]
            for name in rng.choice(names, int(rng.integers(1, 3))):
                if rng.random() < 0.5:
                    f[name] = int(rng.choice([config.vmem_rows - 2, config.vmem_rows, 0x7FFF, ACC_SPACE, 0xFFFF, 1]))
                else:
                    f[f"{name}_stride{rng.integers(2)}"] = int(rng.choice([-0x8000, 0x7FFF, 40, -20, config.vmem_rows]))
            try:
                prepare_vector(config, f)
            except EngineFaultError:
                if not meets(f):
                    return f

    async def process(ctx):
        nonlocal partial
        for index in range(20):
            f = faulty()
            step, address = first_bad(config, f)
            with pytest.raises(EngineFaultError) as fault:
                prepare_vector(config, f)
            assert fault.value.address == address & (1 << 64) - 1
            await driver.start(ctx, f, 0x8000_0000 + index, rng.choice([1, 0.4], 3))
            assert not await driver.finish(ctx), f
            for _ in range(60):
                if ctx.get(driver.engine.quiet):
                    break
                await driver.cycle(ctx)
            await driver.cycle(ctx)
            assert ctx.get(driver.engine.quiet), "still not quiet"
            written = len(driver.writes)
            for _ in range(40):  # operands may still be read ahead
                await driver.cycle(ctx)
                assert ctx.get(driver.engine.quiet)
            assert len(driver.writes) == written
            assert ctx.get(driver.engine.fault.cause) == FaultCause.LOCAL_RANGE
            assert ctx.get(driver.engine.fault.address) == address & (1 << 64) - 1, f
            assert ctx.get(driver.engine.fault.index) == 0x8000_0000 + index
            await driver.quiet(ctx, busy=True, cycles=10)
            assert not ctx.get(driver.engine.cmd.ready)
            run_steps(config, f, step, expected)
            check_memory(driver.state, expected, f)
            partial += bool(driver.writes)
            ctx.set(driver.reset, 1)
            await driver.cycle(ctx)
            ctx.set(driver.reset, 0)
            assert not ctx.get(driver.engine.fault.valid)

    simulate(driver.dut, process)
    assert partial > 3, "hardly any fault came after a row was written"


@pytest.mark.parametrize("lanes", [4, 2, 1])
@pytest.mark.parametrize(("a", "b", "c"), [(4, 41, 2), (4, 4, 2), (5, 41, 5), (7, 7, 7)])
def test_throughput(a, b, c, lanes):
    """On the real memory: a row every ``side / lanes`` cycles, without a gap.

    Operands are in different banks, or they are the same rows, which are read once.
    """
    config = config_of(lanes)
    bench = kept(VectorWithMemory, config)
    rows = 40
    f = ZERO | {"a": a, "b": b, "c": c, "dst": 84, "count0": rows}
    f |= {f"{name}_stride0": 1 for name in ("a", "b", "c", "dst")}
    written, data = [], []

    async def process(ctx):
        for row in range(config.vmem_rows):
            words = np.full(4, row, np.float32).tobytes()
            ctx.set(bench.memory.load.req.valid, 1)
            ctx.set(bench.memory.load.req.payload, {"addr": row, "data": int.from_bytes(words, "little")})
            await ctx.tick()
        ctx.set(bench.memory.load.req.valid, 0)
        ctx.set(bench.vector.engine.cmd.valid, 1)
        ctx.set(bench.vector.engine.cmd.payload, {"index": 0, **f})
        await ctx.tick()
        ctx.set(bench.vector.engine.cmd.valid, 0)
        for cycle in range(400):
            if ctx.get(bench.vector.row):
                written.append(cycle)
                row = ctx.get(bench.vector.write.data).to_bytes(16, "little")
                data.append(float(np.frombuffer(row, "<f4")[0]))
            if ctx.get(bench.vector.engine.done):
                break
            await ctx.tick()

    simulate(bench, process)
    assert data == [(a + n) * (b + n) + c + n for n in range(rows)]
    assert np.diff(written).tolist() == [4 // lanes] * (rows - 1)


@pytest.mark.parametrize("name", ["b", "c"])
@pytest.mark.parametrize("field", FIELDS)
def test_operands_that_are_nearly_the_same_rows(name, field, seed):
    """b or c that has a's first row but another stride, or its strides but another first row, is read by itself."""
    config, rng = config_of(4), np.random.default_rng([seed, 17])
    driver = VectorDriver(config, filled(config, rng), random.Random(f"{seed} nearly"))
    expected = copy_of(driver.state)
    loops = {"": 4, "_stride0": 1, "_stride1": 9}
    f = ZERO | {"dst": 90, "dst_stride0": 1, "dst_stride1": 5, "count0": 5, "count1": 3}
    f |= {f"{operand}{key}": value for operand in "abc" for key, value in loops.items()}
    f[f"{name}{field}"] += 1
    assert is_same(f, "bc".replace(name, ""))
    assert not is_same(f, name)

    async def process(ctx):
        await driver.start(ctx, f, 0)
        assert await driver.finish(ctx)
        run_vector(config, f, expected)
        check_memory(driver.state, expected, f)
        assert set(driver.reads[name]) == set(vector_rows(f)[name].reshape(-1).tolist())

    simulate(driver.dut, process)


@pytest.mark.parametrize("op", [VectorOp.MULADD, VectorOp.MAX])
@pytest.mark.parametrize("dst_format", [Format.F32, Format.BF16])
def test_next_command_reads_what_was_just_written(op, dst_format):
    """Commands one behind another as fast as they are taken, on the real memory: each reads the last one's last row."""
    config = config_of(4)
    bench = kept(VectorWithMemory, config)
    commands, first = 12, 20
    f = ZERO | {"op": op, "imm_b": ONE, "b_imm": 1, "imm_c": ONE, "c_imm": 1, "count0": 1, "dst_format": dst_format}
    start = np.float32([3, -1, 0.5, 7])
    words = np.frombuffer(np.float32(start).tobytes() + bytes(4 * (config.side - len(start))), "<u4")
    taken, done = [], 0

    async def process(ctx):
        nonlocal done
        row = int.from_bytes(words.tobytes(), "little")
        ctx.set(bench.memory.load.req.valid, 1)
        ctx.set(bench.memory.load.req.payload, {"addr": first, "data": row})
        await ctx.tick()
        ctx.set(bench.memory.load.req.valid, 0)
        written = []
        for cycle in range(60 * commands):
            number = len(taken)
            ctx.set(bench.vector.engine.cmd.valid, number < commands)
            fields = f | {"index": number, "a": first + number, "dst": first + number + 1}
            # A packed row is read as what it was packed from.
            fields["a_format"] = dst_format if number else Format.F32
            ctx.set(bench.vector.engine.cmd.payload, fields)
            if number < commands and ctx.get(bench.vector.engine.cmd.ready):
                taken.append(cycle)
            if ctx.get(bench.vector.row):
                written.append(ctx.get(bench.vector.write.data).to_bytes(config.row_bits // 8, "little"))
            done += ctx.get(bench.vector.engine.done)
            await ctx.tick()
        for number, row in enumerate(written, 1):
            expected = start + number if op == VectorOp.MULADD else np.maximum(start, 1)
            if dst_format == Format.F32:
                values = np.frombuffer(row, "<f4")
            else:
                values = (np.frombuffer(row, "<u2").astype("<u4") << 16).view("<f4")
            assert values[:4].tolist() == expected.tolist()
        assert len(written) == done == commands

    simulate(bench, process)
    assert len(set(np.diff(taken[1:]).tolist())) == 1, taken


def test_turnaround_between_commands():
    """Cycles without a group between two commands: 11 to 28, by the operation; a conversion takes 3 more."""
    config = config_of(4)
    driver = VectorDriver(config, CoreState(config, np.zeros(0, np.uint8)), random.Random(0))
    periods = {}

    async def process(ctx):
        plain, packed = Format.F32, Format.BF16
        cases = [(op, plain, plain) for op in VectorOp]
        cases += [(VectorOp.MULADD, packed, plain), (VectorOp.MULADD, plain, packed), (VectorOp.MULADD, packed, packed)]
        for op, a_format, dst_format in cases:
            f = ZERO | {"op": op, "dst": 9, "b_imm": 1, "c_imm": 1, "imm_b": ONE}
            f |= {"a_format": a_format, "dst_format": dst_format}
            await driver.start(ctx, f, 0)
            assert await driver.finish(ctx)
            ctx.set(driver.engine.cmd.valid, 1)
            ctx.set(driver.engine.cmd.payload, {"index": 0, **f})
            taken = []
            for cycle in range(70):
                if ctx.get(driver.engine.cmd.ready):
                    taken.append(cycle)
                await driver.cycle(ctx)
            ctx.set(driver.engine.cmd.valid, 0)
            while ctx.get(driver.engine.busy):
                await driver.cycle(ctx)
            periods[op, a_format, dst_format] = set(np.diff(taken).tolist())

    simulate(driver.dut, process)
    gaps = {op: max(periods[op, Format.F32, Format.F32]) - 1 for op in VectorOp}
    assert all(len(period) == 1 for period in periods.values()), periods
    assert min(gaps.values()) == gaps[VectorOp.LT] == 11, gaps
    assert gaps[VectorOp.MULADD] == 19
    assert gaps[VectorOp.EXP] == gaps[VectorOp.SQRT] == gaps[VectorOp.RSQRT] == gaps[VectorOp.RECIP] + 1 == 21, gaps
    assert max(gaps.values()) == gaps[VectorOp.SIGMOID] == gaps[VectorOp.TANH] == 30, gaps
    conversions = {key[1:]: max(period) - 1 for key, period in periods.items() if key[0] == VectorOp.MULADD}
    assert list(conversions.values()) == [19, 22, 22, 25], conversions
