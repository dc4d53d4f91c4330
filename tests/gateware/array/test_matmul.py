"""The matrix engine at T = 4 against the instruction-set simulator's MATMUL, with gaps between commands."""

import random

import numpy as np
import pytest
from lepton_npu.array.accumulate import Accumulate
from lepton_npu.array.stream_rows import RowStreamer
from lepton_npu.spec.commands import COMMANDS, FaultCause, Opcode
from lepton_npu.spec.config import ACC_SPACE, PRESETS, NpuConfig
from lepton_verif.model.iss_matmul import prepare_matmul
from lepton_verif.model.iss_state import CoreState

from tests.gateware import simulation
from tests.gateware.array.matmul_bench import MatmulBench
from tests.gateware.partition import KINDS, Partition

CONFIG = NpuConfig(side=4, lanes=4, vmem_rows=64, acc_rows=64, tiles=64, max_burst=16)
ALONE = Partition.draw("alone", CONFIG, random.Random(0))
MATMUL = COMMANDS[Opcode.MATMUL]


def fill(state: CoreState, rng: np.random.Generator):
    state.tiles[:] = rng.integers(-128, 128, state.tiles.shape)
    state.exponents[:] = rng.integers(115, 140, state.exponents.shape)
    extreme = rng.integers(0, 8, state.exponents.shape)
    state.exponents[extreme == 0] = 254
    state.exponents[extreme == 1] = 1
    state.exponents[rng.integers(0, 40, state.exponents.shape) == 0] = 255
    state.tiles[state.exponents == 255] = 0


def random_command(rng: np.random.Generator) -> dict[str, int]:
    """A command whose every address is in range: shapes first, strides to fit."""
    while True:
        rows = int(rng.integers(1, 14))
        f = {
            "a_transpose": int(rng.integers(2)),
            "b_transpose": int(rng.integers(2)),
            "accumulate": int(rng.integers(2)),
            "a_precision": int(rng.integers(3)),
            "b_precision": int(rng.integers(3)),
            "a_tile": int(rng.integers(CONFIG.tiles)),
            "b_tile": int(rng.integers(CONFIG.tiles)),
            "acc": ACC_SPACE + int(rng.integers(CONFIG.acc_rows)),
            "rows": rows,
            "k_tiles": int(rng.integers(1, 4)),
            "n_tiles": int(rng.integers(1, 3)),
            "a_k_stride": int(rng.integers(6)),
            "a_limb_stride": int(rng.integers(6)),
            "b_k_stride": int(rng.integers(6)),
            "b_n_stride": int(rng.integers(6)),
            "b_limb_stride": int(rng.integers(6)),
            "acc_n_stride": int(rng.integers(-4, 16)),
            "count0": int(rng.integers(1, 6)),
            "count1": int(rng.integers(1, 4)),
            "a_stride0": int(rng.integers(-3, 6)),
            "a_stride1": int(rng.integers(-8, 16)),
            "a_stride2": int(rng.integers(-8, 16)),
            "acc_stride0": int(rng.integers(-1, 3)),
            "acc_stride1": int(rng.integers(-3, 6)),
            "acc_stride2": int(rng.integers(-3, 6)),
            "a_row": int(rng.integers(8)),
        }
        try:
            prepare_matmul(CONFIG, f)
        except Exception:
            continue
        return f


async def write_tiles(ctx, bench: MatmulBench, state: CoreState, part: Partition):
    """The tiles of ``state``, to a partition of the engine's tile memory."""
    write = bench.write
    pins = simulation.Pins(write.en, write.row, write.data, write.exponent)
    for tile in range(CONFIG.tiles):
        for row in range(CONFIG.side):
            data = int.from_bytes(state.tiles[tile, row].astype(np.int8).tobytes(), "little")
            pins.set(ctx, 1, (part.tile_base + tile) * CONFIG.side + row, data, int(state.exponents[tile]))
            await ctx.tick()
    ctx.set(bench.write.en, 0)


def _junk(row: int) -> int:
    """What accumulator row ``row`` holds outside the partition."""
    return (0x12345678 + row) << 32 | row


def simulate(
    commands: list[dict[str, int]], state: CoreState, gaps: list[int], part: Partition = ALONE
) -> tuple[np.ndarray, int, int]:
    """Run commands in a partition; returns its accumulators, cycles of ``active``, and rows.

    Tiles outside it must not be read, and accumulators outside it not change.
    """
    half, first = part.core.acc_rows // 2, part.acc_base // 2
    rows_of = [upper * half + first + row for upper in range(2) for row in range(CONFIG.acc_rows // 2)]
    others = sorted(set(range(part.core.acc_rows)) - set(rows_of))
    bench = simulation.kept(MatmulBench, part.core)
    active = rows = 0

    async def process(ctx):
        nonlocal active, rows
        ctx.set(bench.bounds, part.bounds)
        for row in others:
            ctx.set(bench.accumulators.data[row], _junk(row))
        await write_tiles(ctx, bench, state, part)
        done, waiting = 0, list(zip(commands, gaps))
        gap = waiting[0][1]
        for _ in range(20_000):
            offer = bool(waiting) and gap == 0
            ctx.set(bench.engine.cmd.valid, offer)
            if offer:
                ctx.set(bench.engine.cmd.payload, {"index": 0, **waiting[0][0]})
            taken = offer and ctx.get(bench.engine.cmd.ready)
            active += ctx.get(bench.active)
            rows += ctx.get(bench.row)
            done += ctx.get(bench.engine.done)
            assert not ctx.get(bench.engine.fault.valid)
            for port in (bench.matmul.stationary, bench.matmul.streamed):
                if ctx.get(port.en):
                    part.tile_row(ctx.get(port.row))
            await ctx.tick()
            if taken:
                waiting.pop(0)
                gap = waiting[0][1] if waiting else 0
            elif gap:
                gap -= 1
            if done == len(commands):
                break
        assert done == len(commands), "not all commands are done"
        for _ in range(30):
            await ctx.tick()
            assert not ctx.get(bench.engine.busy)
            assert ctx.get(bench.engine.quiet)
            assert not ctx.get(bench.engine.done)
        for row in others:
            assert ctx.get(bench.accumulators.data[row]) == _junk(row), f"row {row} is not one of the partition"
        for row in range(CONFIG.acc_rows):
            value = ctx.get(bench.accumulators.data[rows_of[row]])
            found[row] = np.frombuffer(int(value).to_bytes(CONFIG.row_bytes, "little"), "<u4")

    found = np.zeros((CONFIG.acc_rows, CONFIG.side), np.uint32)
    simulation.simulate(bench, process)
    return found, active, rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(6))
def test_random_commands(seed, case, kind):
    """Shapes, orientations, precisions, strides and repeated accumulator rows, back to back and with gaps."""
    rng = np.random.default_rng([seed, case])
    part = Partition.draw(kind, CONFIG, random.Random(f"{seed} {case}"))
    state = CoreState(CONFIG, np.zeros(0, np.uint8))
    fill(state, rng)
    commands = [random_command(rng) for _ in range(8)]
    gaps = [int(g) for g in rng.choice([0, 0, 0, 5, 60], len(commands))]
    found, _, _ = simulate(commands, state, gaps, part)
    with np.errstate(all="ignore"):
        for command in commands:
            prepare_matmul(CONFIG, command)(state)
    wrong = np.argwhere(found != state.acc)
    assert not wrong.size, (
        f"{len(wrong)} words differ, first {wrong[0]}: {found[tuple(wrong[0])]:08x}, "
        f"expected {state.acc[tuple(wrong[0])]:08x}"
    )


def test_minus_zero_replaces_an_accumulator():
    """A negative sum below 2^-126 is -0, and stays so where it replaces: nothing, not even +0, is added to it."""
    rng = np.random.default_rng(0)
    state = CoreState(CONFIG, np.zeros(0, np.uint8))
    state.tiles[0], state.tiles[1] = rng.integers(1, 128, (2, *state.tiles.shape[1:]))
    state.tiles[1, :, ::2] *= -1
    state.exponents[:2] = 1
    command = dict.fromkeys(random_command(rng), 0) | dict.fromkeys(("k_tiles", "n_tiles", "count0", "count1"), 1)
    command |= {"rows": CONFIG.side, "acc": ACC_SPACE, "b_tile": 1}
    found, _, _ = simulate([command], state, [0])
    prepare_matmul(CONFIG, command)(state)
    assert set(state.acc[: CONFIG.side].flat) == {0, 0x80000000}, "the case is not one of both zeros"
    assert (found == state.acc).all()


def test_no_gap_between_passes():
    """n_tiles * k_tiles passes of R rows take that many times max(R, T) cycles, plus the way in and out.

    At T = 4, passes of few rows wait for the accumulators: a row that the pass before has written is read again
    `Accumulate.turnaround` cycles later. Passes for other columns do not wait.
    """
    turnaround = Accumulate(CONFIG).turnaround
    state = CoreState(CONFIG, np.zeros(0, np.uint8))
    for rows in (4, 9, 16):
        command = MATMUL.unpack(
            MATMUL.pack(rows=rows, k_tiles=4, n_tiles=3, a_k_stride=4, b_k_stride=3, b_n_stride=1, acc=ACC_SPACE,
                        count0=16, a_stride0=1, acc_stride0=1, acc_n_stride=16)
        )  # fmt: skip
        command = {name: value for name, value in command.items() if name not in ("opcode", "wait", "post")}
        _, active, streamed = simulate([command, command], state, [0, 0])
        assert streamed == 2 * 12 * rows
        way = 2 * CONFIG.side + 3 + 2 + 8 + 4
        adding, other = 2 * 3 * 3, 2 * 3 - 1  # passes behind one for the same columns, and for others
        stream = adding * max(rows, turnaround) + other * max(rows, CONFIG.side) + rows
        assert stream <= active <= stream + way + 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fields", "address"),
    [
        ({"a_tile": 64}, 64 * 4),
        ({"b_tile": 64}, 64 * 4),
        ({"rows": 2, "count0": 2, "a_stride0": -1}, -1),
        ({"rows": 2, "count0": 2, "acc_stride0": -1}, ACC_SPACE - 1),
        ({"n_tiles": 2, "acc_n_stride": 64}, ACC_SPACE + 64),
        ({"k_tiles": 2, "b_k_stride": 65535}, 65535 * 4),
    ],
)
def test_out_of_range(seed, fields, address, kind):
    """The engine stops at the first bad address, says which, and never uses it; no good command behind it is done."""
    behind = {"acc": ACC_SPACE, "rows": 1, "k_tiles": 1, "n_tiles": 1, "count0": 1, "count1": 1, "index": 78}
    command = {**behind, "index": 77, **fields}
    part = Partition.draw(kind, CONFIG, random.Random(f"{seed} {fields}"))
    bench = simulation.kept(MatmulBench, part.core)

    async def process(ctx):
        ctx.set(bench.bounds, part.bounds)
        ctx.set(bench.engine.cmd.valid, 1)
        ctx.set(bench.engine.cmd.payload, command)
        await ctx.tick()
        ctx.set(bench.engine.cmd.payload, behind)
        for _ in range(100):
            await ctx.tick()
            assert not ctx.get(bench.engine.done)
        assert ctx.get(bench.engine.fault.valid)
        assert ctx.get(bench.engine.fault.cause) == FaultCause.LOCAL_RANGE
        assert ctx.get(bench.engine.fault.index) == 77
        assert ctx.get(bench.engine.fault.address) == address & (1 << 64) - 1

    simulation.simulate(bench, process)


def test_commands_before_a_fault_end(seed):
    """A command whose rows are in the array when the next one has a fault: it is done before the engine is quiet."""
    rng = np.random.default_rng(seed)
    state = CoreState(CONFIG, np.zeros(0, np.uint8))
    fill(state, rng)
    good = random_command(rng) | {"index": 1}
    bench = simulation.kept(MatmulBench, ALONE.core)
    found = np.zeros((CONFIG.acc_rows, CONFIG.side), np.uint32)

    async def process(ctx):
        await write_tiles(ctx, bench, state, ALONE)
        ctx.set(bench.bounds, ALONE.bounds)
        ctx.set(bench.engine.cmd.valid, 1)
        done = quiet = 0
        for command in (good, good | {"index": 2, "a_tile": CONFIG.tiles}):
            ctx.set(bench.engine.cmd.payload, command)
            while not ctx.get(bench.engine.cmd.ready):
                await ctx.tick()
            await ctx.tick()
        ctx.set(bench.engine.cmd.valid, 0)
        for _ in range(5000):
            done += ctx.get(bench.engine.done)
            quiet = quiet + 1 if ctx.get(bench.engine.fault.valid) and ctx.get(bench.engine.quiet) else 0
            if quiet == 2:
                break
            await ctx.tick()
        assert quiet == 2
        assert done == 1, "it is not done"
        assert ctx.get(bench.engine.fault.index) == 2
        for row in range(CONFIG.acc_rows):
            value = ctx.get(bench.accumulators.data[row])
            found[row] = np.frombuffer(int(value).to_bytes(CONFIG.row_bytes, "little"), "<u4")

    simulation.simulate(bench, process)
    with np.errstate(all="ignore"):
        prepare_matmul(CONFIG, good)(state)
    assert (found == state.acc).all()


def test_turnaround_is_checked():
    with pytest.raises(ValueError, match="turnaround must be at least 1, not 0"):
        RowStreamer(PRESETS["tiny"], 0)
