"""QUANT engine against the twin: values, shapes, strides, stalls, order, throughput, random numbers, range faults."""

import random
from collections import deque
from dataclasses import replace

import cocotb
import lepton_sim
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer
from lepton_npu.array.quantise_convert import CONVERT_LATENCY
from lepton_npu.array.quantiser import OPCODES, QuantEngine
from lepton_npu.control.engine import command_layout
from lepton_npu.memory.ports import LOCAL_READ_LATENCY
from lepton_npu.spec.commands import SEED_AT_RESET, FaultCause, Opcode, Precision, Rounding
from lepton_npu.spec.config import ACC_SPACE, NpuConfig
from lepton_verif.model.arith.quantise import quantise
from lepton_verif.model.arith.stochastic import tile_numbers

from tests.gateware.partition import Partition

LAYOUT = command_layout(*OPCODES)


def config_of(side: int) -> NpuConfig:
    return NpuConfig(side=side, lanes=4, vmem_rows=512, acc_rows=256, tiles=256)


# ---- Values.


def random_words(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Words of one flavour, as bit patterns."""
    if kind == "normal":
        return (rng.standard_normal(shape) * 2.0 ** rng.integers(-30, 30)).astype(np.float32).view(np.uint32)
    if kind == "wide":  # magnitudes that span more than any mantissa
        return (rng.standard_normal(shape) * np.exp2(rng.integers(-34, 1, shape))).astype(np.float32).view(np.uint32)
    if kind == "tie":  # odd multiples of half a unit, in tiles whose largest element is in 1..2
        fraction = rng.choice([6, 14, 22])
        halves = 2 * rng.integers(0, 1 << rng.integers(1, fraction + 1), shape) + 1
        values = halves * 2.0 ** -(fraction + 1) * rng.choice([-1, 1], shape)
        return np.where(rng.random(shape) < 0.1, 1.0, values).astype(np.float32).view(np.uint32)
    if kind == "full":  # just below a power of two: rounds up into saturation
        low = rng.integers(0, 1 << rng.choice([1, 10, 18]), shape)
        return (0x3FFFFFFF - low | rng.integers(0, 2, shape) << 31).astype(np.uint32)
    if kind == "small":  # smallest normal numbers, subnormal ones and zeros
        return (rng.integers(0, 0x01800000, shape) | rng.integers(0, 2, shape) << 31).astype(np.uint32)
    if kind == "zero":
        return (rng.integers(0, 2, shape) << 31).astype(np.uint32)
    if kind == "special":
        words = random_words(rng, shape, "normal")
        odd = rng.choice([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF], shape)
        return np.where(rng.random(shape) < 0.02, odd, words).astype(np.uint32)
    return rng.integers(0, 1 << 32, shape, np.uint32)


KINDS = ("normal", "wide", "tie", "full", "small", "zero", "special", "bits")


class Memories:
    """Vector memory and accumulators, as a function of the local row address, and the state of the generator."""

    def __init__(self, config: NpuConfig, rng: np.random.Generator):
        def fill(rows):
            blocks = [random_words(rng, (8, config.side), str(rng.choice(KINDS))) for _ in range(rows // 8)]
            return np.concatenate(blocks)

        self.config = config
        self.vmem, self.acc = fill(config.vmem_rows), fill(config.acc_rows)
        self.generator = SEED_AT_RESET

    def holds(self, address: int) -> bool:
        return 0 <= address < len(self.vmem) or 0 <= address - ACC_SPACE < len(self.acc)

    def row(self, address: int) -> np.ndarray:
        assert self.holds(address), f"read of local row {address:#x}"
        return self.acc[address - ACC_SPACE] if address >= ACC_SPACE else self.vmem[address]

    def tile_writes(self, command: dict[str, int]) -> list[tuple[int, bytes, int]]:
        """The (tile row, bytes, exponent) that a command writes, in order. The generator goes on."""
        if "seed" in command:
            self.generator = command["seed"]
            return []
        side = self.config.side
        wide = -(-command["cols"] // side)
        matrix = np.stack(
            [
                np.concatenate([self.row(command["source"] + r * command["source_stride"] + j) for j in range(wide)])
                for r in range(command["rows"])
            ]
        )[:, : command["cols"]]
        numbers = None
        if command["rounding"] == Rounding.STOCHASTIC:
            size = -(-command["rows"] // side), wide
            numbers, self.generator = tile_numbers(self.generator, *size, side)
        mantissas, exponents = quantise(matrix, Precision(command["precision"]), side, numbers)
        limbs, high, wide = mantissas.shape[:3]
        return [
            (
                (command["tile"] + i + j * command["tile_stride"] + p * command["limb_stride"]) * side + r,
                mantissas[p, i, j, r].tobytes(),
                int(exponents[i, j]),
            )
            for j in range(wide)
            for i in range(high)
            for p in range(limbs)
            for r in range(side)
        ]


def random_command(rng: np.random.Generator, config: NpuConfig, index: int) -> dict[str, int]:
    """A command that is in range everywhere; its planes and tiles do not overlap, or do so at random."""
    side = config.side
    while True:
        command = {
            "index": index,
            "precision": int(rng.integers(3)),
            "rounding": int(rng.integers(2)),
            "rows": int(rng.integers(1, rng.choice([2, side + 2, 4 * side]))),
            "cols": int(rng.integers(1, rng.choice([2, side + 2, 3 * side]))),
            "source_stride": int(rng.choice([0, 1, 2, 3, 5, -1, -3])),
            "source": int(rng.integers(config.vmem_rows)) if rng.random() < 0.6 else ACC_SPACE + int(rng.integers(256)),
            "tile": int(rng.integers(config.tiles)),
        }
        high, wide = -(-command["rows"] // side), -(-command["cols"] // side)
        command["tile_stride"] = int(rng.choice([high, high + 1, 0]))
        command["limb_stride"] = int(rng.choice([wide * (high + 1), 0, 1]))
        end = command["source"] + (command["rows"] - 1) * command["source_stride"]
        sources = [command["source"], command["source"] + wide - 1, end, end + wide - 1]
        reach = high - 1 + (wide - 1) * command["tile_stride"] + command["precision"] * command["limb_stride"]
        space = command["source"] & ACC_SPACE
        rows = config.acc_rows if space else config.vmem_rows
        if all(0 <= s - space < rows for s in sources) and command["tile"] + reach < config.tiles:
            return command


def seeding(index: int, seed: int) -> dict[str, int]:
    return {"opcode": Opcode.SEED, "index": index, "seed": seed}


# ---- Bench.


def partition_of(kind: str, side: int, rng: random.Random) -> Partition:
    """The engine's core is always of one size, so that there is one to build; where the partition is, is drawn."""
    config = config_of(side)
    if kind == "alone":
        return Partition.draw(kind, config, rng)
    core = replace(config, contexts=4, vmem_rows=2048, acc_rows=512, tiles=1024)
    return Partition(config, core, 512 * rng.randrange(1, 4), 256, 256 * rng.randrange(1, 4))


class Bench:
    """Drives the ports on falling edges, a step a cycle; what it saw is in its attributes, with a command's addresses.

    The test's parameters ``kind`` and ``side`` say what the core is; its partition is drawn.
    """

    def __init__(self, dut, memories: Memories, rng: np.random.Generator, stall: float = 0.0):
        self.dut, self.memories, self.rng, self.stall = dut, memories, rng, stall
        params = lepton_sim.params()
        self.part = partition_of(params["kind"], params["side"], random.Random(int(rng.integers(1 << 32))))
        dut._log.info("%s", self.part)
        self.commands: deque[dict[str, int]] = deque()
        self.responses: deque[int | None] = deque([None] * LOCAL_READ_LATENCY)
        self.cycle = 0
        self.reads: list[tuple[int, int]] = []  # (cycle, address)
        self.writes: list[tuple[int, bytes, int]] = []
        self.write_cycles: list[int] = []
        self.done: list[int] = []  # writes before each completion
        self.offered = False

    async def start(self):
        dut = self.dut
        for name in ("engine_cmd_valid", "engine_cmd_payload", "engine_halt", "source_req_ready", "source_resp_valid"):
            getattr(dut, name).value = 0
        dut.source_resp_data.value = 0
        dut.bounds.value = self.part.bounds.as_value().value
        dut.owner.value = 0
        dut.forget.value = (1 << len(dut.forget)) - 1  # as the core does in its reset
        dut.rst.value = 1
        Clock(dut.clk, 10, unit="ns").start()
        for _ in range(3):
            await FallingEdge(dut.clk)
        dut.forget.value = 0
        dut.rst.value = 0
        for name in ("engine_busy", "engine_done", "engine_fault", "source_req_valid", "tiles_en", "tiles_data"):
            assert getattr(dut, name).value.is_resolvable, name

    def payload(self, command: dict[str, int]) -> int:
        bits = 0
        for name, field in LAYOUT:
            value = command.get(name, Opcode.QUANT if name == "opcode" else 0)
            bits |= (value & ((1 << field.width) - 1)) << field.offset
        return bits

    async def step(self):
        dut, rng = self.dut, self.rng
        await FallingEdge(dut.clk)
        self.cycle += 1
        # Commands: an offer stays until it is taken.
        if self.commands and (self.offered or rng.random() >= self.stall):
            self.offered = True
            dut.engine_cmd_payload.value = self.payload(self.commands[0])
            dut.engine_cmd_valid.value = 1
            await Timer(1, unit="ns")  # ready depends on the opcode
            if dut.engine_cmd_ready.value:
                self.commands.popleft()
                self.offered = False
        else:
            dut.engine_cmd_valid.value = 0
        # Reads.
        ready = int(rng.random() >= self.stall)
        dut.source_req_ready.value = ready
        address = None
        if ready and dut.source_req_valid.value:
            address = self.part.local(int(dut.source_req_payload.value))
            self.reads.append((self.cycle, address))
        self.responses.append(address)
        answer = self.responses.popleft()
        dut.source_resp_valid.value = int(answer is not None)
        junk = rng.integers(0, 1 << 32, self.memories.config.side, np.uint32) if self.stall else None
        words = self.memories.row(answer) if answer is not None else junk
        if words is not None:
            dut.source_resp_data.value = int.from_bytes(words.tobytes(), "little")
        # Results. The completion is looked at first: it must come after the writes.
        if dut.engine_done.value:
            self.done.append(len(self.writes))
        if dut.tiles_en.value:
            row = int(dut.tiles_data.value).to_bytes(self.memories.config.side, "little")
            self.writes.append((self.part.tile_row(int(dut.tiles_row.value)), row, int(dut.tiles_exponent.value)))
            self.write_cycles.append(self.cycle)

    @property
    def fault(self) -> tuple[int, int, int] | None:
        bits = int(self.dut.engine_fault.value)
        cause_bits = max(FaultCause).bit_length()
        if not bits & 1:
            return None
        bits >>= 1
        return bits & ((1 << cause_bits) - 1), bits >> cause_bits & 0xFFFFFFFF, bits >> (cause_bits + 32)

    async def run(self, commands: list[dict[str, int]], limit: int = 20000):
        """Runs commands to the last completion, and some cycles more."""
        self.commands.extend(commands)
        goal = len(self.done) + len(commands)
        start = self.cycle
        while len(self.done) < goal:
            await self.step()
            assert self.cycle - start < limit, f"{goal - len(self.done)} commands are not done"
            assert self.fault is None
        assert not self.dut.engine_busy.value
        for _ in range(8):
            await self.step()
        assert len(self.done) == goal


def compare(bench: Bench, commands: list[dict[str, int]]):
    position = 0
    for number, command in enumerate(commands):
        for want in bench.memories.tile_writes(command):
            assert position < len(bench.writes), f"command {command}: writes are missing"
            got = bench.writes[position]
            assert got == want, f"write {position}, command {command}: {got}, not {want}"
            position += 1
        assert bench.done[number] >= position, (
            f"command {number} was done after {bench.done[number]} of {position} writes"
        )
    assert position == len(bench.writes)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_commands(dut):
    config = config_of(lepton_sim.params()["side"])
    rng = np.random.default_rng(lepton_sim.seed())
    memories = Memories(config, rng)
    bench = Bench(dut, memories, rng)
    await bench.start()
    commands = []
    for burst in range(lepton_sim.params()["bursts"]):
        bench.stall = (0.0, 0.5, 0.1, 0.8)[burst % 4]
        more = [random_command(rng, config, len(commands) + k) for k in range(6)]
        if burst % 2:
            more.insert(int(rng.integers(7)), seeding(len(commands), int(rng.integers(1, 1 << 32))))
        await bench.run(more)
        commands += more
    compare(bench, commands)
    if len(commands) >= 48:  # enough to have met everything
        kinds = {(c["precision"], c["rounding"], c["source"] >> 15) for c in commands if "seed" not in c}
        assert len(kinds) == 12
        assert any(0x7F in data and 0x81 in data for _, data, _ in bench.writes)
        assert {0, 255} <= {exponent for _, _, exponent in bench.writes}


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def gapless(dut):
    """Without stalls a tile row is written in every cycle, over all tiles, precisions and commands."""
    config = config_of(lepton_sim.params()["side"])
    side = config.side
    rng = np.random.default_rng(lepton_sim.seed())
    bench = Bench(dut, Memories(config, rng), rng)
    await bench.start()
    base = {"source": 3, "source_stride": 3, "tile": 0, "tile_stride": 8, "limb_stride": 40, "rows": 4 * side}
    base |= {"rounding": Rounding.NEAREST}
    eight = {**base, "precision": 0, "cols": 3 * side}
    for commands in (
        [eight | {"index": k, "source": k} for k in range(3)],
        [eight | {"index": k, "precision": p, "rows": 2 * side - 1} for k, p in enumerate([0, 1, 2, 2, 1, 0])],
        [eight | {"index": k, "rows": side, "cols": side} for k in range(5)],
        [eight | {"index": k, "precision": p, "rounding": p & 1 ^ k & 1} for k, p in enumerate([1, 2, 0, 1, 2])],
    ):
        bench.writes, bench.write_cycles, bench.reads, bench.done = [], [], [], []
        start = bench.cycle
        await bench.run(commands)
        compare(bench, commands)
        count = len(bench.write_cycles)
        assert bench.write_cycles[-1] - bench.write_cycles[0] == count - 1, "a gap between writes"
        if all(command["precision"] == 0 for command in commands):
            cycles = bench.reads[-1][0] - bench.reads[0][0] + 1
            assert cycles == len(bench.reads) == count, f"{count} rows were read in {cycles} cycles"
        first = bench.reads[side - 1][0]
        latency = 6 + LOCAL_READ_LATENCY + CONVERT_LATENCY + {4: 0, 8: 1, 16: 1, 32: 2}[side]
        assert bench.write_cycles[0] - first == latency, f"latency {bench.write_cycles[0] - first}"
        dut._log.info("%d rows in %d cycles from the command", count, bench.write_cycles[-1] - start)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def seeds(dut):
    """SEED between commands that are still under way, several in a row, and a reset: the sequence is the model's."""
    config = config_of(lepton_sim.params()["side"])
    rng = np.random.default_rng(lepton_sim.seed())
    bench = Bench(dut, Memories(config, rng), rng)
    await bench.start()
    draw = random_command(rng, config, 0) | {"rounding": Rounding.STOCHASTIC, "rows": 1}
    commands = [draw, seeding(1, 1), draw, draw, seeding(2, 0x80000000), seeding(3, 1), draw, draw | {"precision": 2}]
    commands += [draw | {"rounding": Rounding.NEAREST}, draw]
    await bench.run(commands)
    compare(bench, commands)
    # A reset in the middle of a command.
    bench.commands.append(draw | {"rows": 40})
    for _ in range(30):
        await bench.step()
    bench.commands.clear()
    again = Bench(dut, bench.memories, rng)
    await again.start()
    again.memories.generator = SEED_AT_RESET
    await again.run([draw, draw])
    compare(again, [draw, draw])


async def expect_fault(dut, rng, config, good, bad, address, tiles_done):
    """Runs ``good``, then ``bad`` to its fault, with a command behind it that must not be touched."""
    bench = Bench(dut, Memories(config, rng), rng, stall=float(rng.choice([0, 0.4])))
    await bench.start()
    bench.commands.extend([*good, bad, good[0]])
    for _ in range(4000):
        await bench.step()
        if bench.fault is not None:
            break
    want = (FaultCause.LOCAL_RANGE, bad["index"], address & ((1 << 64) - 1))
    assert bench.fault == want, f"{bad}: {bench.fault}, not {want}"
    writes, done, reads = len(bench.writes), len(bench.done), len(bench.reads)
    for _ in range(60):
        await bench.step()
        assert bench.fault == want
        assert not dut.engine_cmd_ready.value
    assert (len(bench.writes), len(bench.done), len(bench.reads)) == (writes, done, reads), "it went on after the fault"
    assert len(bench.done) == len(good)
    complete = [write for command in good for write in bench.memories.tile_writes(command)]
    assert bench.writes[: len(complete)] == complete
    assert len(bench.writes) == len(complete) + tiles_done * config.side * (bad["precision"] + 1)
    assert all(bench.memories.holds(row) for _, row in bench.reads)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def faults(dut):
    """Every address out of range, at the first, a middle and the last access, exactly, also far beyond 16 bits."""
    config = config_of(lepton_sim.params()["side"])
    side, vmem, acc, tiles = config.side, config.vmem_rows, ACC_SPACE + config.acc_rows, config.tiles
    rng = np.random.default_rng(lepton_sim.seed())
    base = {"precision": 0, "rows": 2 * side, "cols": 2 * side, "source": 0, "source_stride": 2}
    base |= {"tile": 0, "tile_stride": 2, "limb_stride": 4, "rounding": Rounding.STOCHASTIC}
    cases = [
        # fields, address reported, whole tiles written before
        ({"source": vmem}, vmem, 0),
        ({"source": acc}, acc, 0),
        ({"source": 0x7FFF}, 0x7FFF, 0),
        ({"source": 0, "source_stride": -1}, -1, 0),
        ({"source": ACC_SPACE, "source_stride": -1}, ACC_SPACE - 1, 0),
        ({"source": vmem - 2 * side * 2 + 1 + 2}, vmem + 1, 1),
        ({"source": vmem - 2 * side * 2 + 1}, vmem, 3),
        ({"source": 0xFFFF, "rows": 1}, 0xFFFF, 0),
        ({"source": acc - 1, "rows": 1}, acc, 1),
        # Row 1 is a good row of the accumulators; row 2 would be one of the vector memory if it were wrapped.
        ({"source": 5, "source_stride": 0x7FFF, "rows": 60000}, 5 + 2 * 0x7FFF, 0),
        ({"source": 5, "source_stride": -0x8000}, 5 - 0x8000, 0),
        ({"tile": tiles}, tiles * side, 0),
        ({"tile": 0xFFFF}, 0xFFFF * side, 0),
        ({"tile": tiles - 3}, tiles * side, 3),
        ({"tile": tiles - 1}, tiles * side, 1),
        ({"tile": 1, "tile_stride": 0xFFFF}, 0x10000 * side, 2),
        ({"precision": 2, "limb_stride": 0x8000}, 0x8000 * side, 0),
        ({"precision": 2, "limb_stride": tiles // 2}, tiles * side, 0),
        ({"precision": 1, "tile": tiles - 7}, tiles * side, 3),
    ]
    for number, (fields, address, before) in enumerate(cases):
        good = [random_command(rng, config, 100 + k) for k in range(int(rng.integers(1, 3)))]
        bad = {**base, **fields, "index": 7000 + number}
        await expect_fault(dut, rng, config, good, bad, address, before)


@pytest.mark.parametrize(("side", "kind"), [(4, "alone"), (8, "alone"), (16, "alone"), (4, "shared"), (16, "shared")])
@pytest.mark.verilator
def test_quantiser(side, kind):
    bursts = {4: 24, 8: 16, 16: 8}[side]
    lepton_sim.run_cocotb(
        QuantEngine(partition_of(kind, side, random.Random(0)).core),
        "quantiser",
        __name__,
        sim="verilator",
        params={"side": side, "kind": kind, "bursts": bursts},
    )


@pytest.mark.icarus
def test_quantiser_icarus():
    lepton_sim.run_cocotb(
        QuantEngine(partition_of("alone", 4, random.Random(0)).core),
        "quantiser",
        __name__,
        sim="icarus",
        params={"side": 4, "kind": "alone", "bursts": 4},
        testcase=["random_commands", "gapless"],
    )


def test_config_is_checked():
    with pytest.raises(TypeError, match="config must be an NpuConfig, not 16"):
        QuantEngine(16)
