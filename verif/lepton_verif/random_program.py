"""Constrained-random command programs: every engine, every field, overlapping in time, without races.

A program works in windows: some rows of the vector memory and of the accumulators, some tiles. Its first commands fill
them (what memories hold at reset is not defined), its last ones bring everything to memory: the vector memory and the
accumulators by STORE, the tiles by a product with the identity. In between are random commands; `OrderedProgram` orders
those that meet.
"""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import Format, Opcode, VectorOp
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig

from .accesses import accesses, limb_pairs, vector_rows
from .job import Job
from .model.iss import Iss
from .ordering import OrderedProgram
from .random_loop import add_loop, random_register

__all__ = ["BASE", "memory_size", "random_job", "random_program", "random_words"]

BASE = 0x8000_0000
RING_LOG2 = 7
MAX_COMMANDS = 70

Fields = dict[str, int]


def memory_size(config: NpuConfig) -> int:
    """Bytes of memory of a program: ring, source data, scratch and results."""
    return max(1 << 16, config.row_bytes << 12)


_FLAVOURS = ("normal", "wide", "integer", "zero", "special", "small", "bits")
_SHARES = np.cumsum([0.5, 0.15, 0.1, 0.05, 0.08, 0.04, 0.08])  # summed, as `Generator.choice` would for every block
_SHARES /= _SHARES[-1]


def random_words(rng: np.random.Generator, count: int) -> np.ndarray:
    """Words, mostly ordinary numbers, in blocks of one flavour; some specials, some plain bits."""
    blocks: list[np.ndarray] = []
    words = 0
    while words < count:
        size = int(rng.integers(8, 64))
        words += size
        kind = _FLAVOURS[int(_SHARES.searchsorted(rng.random(), "right"))]
        if kind == "bits":
            block = rng.integers(0, 1 << 32, size, np.uint32)
        elif kind == "small":
            block = (rng.integers(0, 0x01800000, size) | rng.integers(0, 2, size) << 31).astype(np.uint32)
        elif kind == "integer":
            block = rng.integers(-64, 64, size).astype(np.float32).view(np.uint32)
        elif kind == "zero":
            block = (rng.integers(0, 2, size) << 31).astype(np.uint32)
        else:
            scale = rng.integers(-24, 24, size) if kind == "wide" else rng.integers(-3, 4)
            block = (rng.standard_normal(size) * np.exp2(scale)).astype(np.float32).view(np.uint32)
            if kind == "special":
                odd = rng.choice([0x7F800000, 0xFF800000, 0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00000001], size)
                block = np.where(rng.random(size) < 0.1, odd, block).astype(np.uint32)
        blocks.append(block)
    return np.concatenate(blocks)[:count]


class _Window:
    """Units ``start .. start + size - 1`` of an address space."""

    def __init__(self, start: int, size: int):
        self.start, self.size, self.stop = start, size, start + size

    def base(self, rng: np.random.Generator, offsets: np.ndarray) -> int | None:
        """A random base such that base + offsets are inside, if there is one."""
        low, high = self.start - int(offsets.min()), self.stop - 1 - int(offsets.max())
        return int(rng.integers(low, high + 1)) if low <= high else None


class Generator:
    """Draws commands whose addresses are in the windows; `None` where a draw does not fit."""

    def __init__(self, config: NpuConfig, rng: np.random.Generator):
        self.config, self.rng = config, rng
        side = self.side = config.side
        size = memory_size(config)
        self.memory = random_words(rng, size // 4).view(np.uint8)
        self.program = OrderedProgram(config, BASE, size, rng)
        rows, tiles, sums = 8 * side + 64, 20, 48
        start = int(rng.integers(config.vmem_rows - rows - side + 1))
        self.vmem, self.identity_row = _Window(start, rows), start + rows
        start = int(rng.integers(config.tiles - tiles))
        self.tiles, self.identity_tile = _Window(start, tiles), start + tiles
        revealed = tiles * side
        start = ACC_SPACE + int(rng.integers(config.acc_rows - sums - revealed + 1))
        self.acc, self.revealed = _Window(start, sums), start + sums
        # Memory: the ring, what is loaded (a quarter), scratch for loads and stores (to a half), results.
        self.data = (BASE + (RECORD_BYTES << RING_LOG2), BASE + size // 2)
        self.scratch = (BASE + size // 4, BASE + size // 2)
        self.results = BASE + size // 2
        # The bodies of loops are at the end of memory, behind the results.
        self.bodies_end = BASE + size

    def pick(self, *values: int) -> int:
        return int(values[self.rng.integers(len(values))])

    def below(self, high: int) -> int:
        """1 .. high, small values more often."""
        return 1 + min(int(self.rng.integers(high)), int(self.rng.integers(high)))

    # ---- Draws.

    def dma(self, opcode: Opcode) -> Fields | None:
        rng, beat, side = self.rng, self.config.bus_bytes, self.side
        f = {"rows": self.below(8), "words": self.below(4 * side)}
        length = -(-f["words"] // side)
        f["local_stride"] = self.pick(length, length, length, length + 1, 1, -length, 0)
        window = self.acc if opcode == Opcode.STORE and rng.random() < 0.4 else self.vmem
        reach = np.array([0, (f["rows"] - 1) * f["local_stride"]])
        local = window.base(rng, np.concatenate([reach, reach + length - 1]))
        row = -(-f["words"] * 4 // beat) * beat
        if opcode == Opcode.STORE and rng.random() < 0.9:
            f["stride"] = self.pick(row, row + beat, 3 * row, -row)
        else:
            f["stride"] = self.pick(row, row, row + beat, 0, beat, -beat)
        low, high = self.scratch if opcode == Opcode.STORE or rng.random() < 0.4 else self.data
        reach = np.array([0, (f["rows"] - 1) * f["stride"]])
        low, high = low - int(reach.min()), high - int(reach.max()) - row
        if local is None or low >= high:
            return None
        return f | {"local": local, "address": int(rng.integers(low, high)) // beat * beat}

    def quant(self) -> Fields | None:
        rng, side = self.rng, self.side
        f = {"precision": int(rng.integers(3)), "rounding": int(rng.integers(2))}
        f |= {"rows": self.below(3 * side), "cols": self.below(3 * side)}
        high, wide = -(-f["rows"] // side), -(-f["cols"] // side)
        f["source_stride"] = self.pick(wide, wide, wide + 1, 1, 2, -1, -wide)
        f["tile_stride"] = self.pick(high, high, high + 1)
        f["limb_stride"] = self.pick(wide * f["tile_stride"], wide * f["tile_stride"] + 1, high, wide)
        window = self.acc if rng.random() < 0.3 else self.vmem
        zero = accesses(self.config, Opcode.QUANT, f | {"source": 0, "tile": 0}, BASE)
        source = window.base(rng, zero.reads["local"])
        targets = zero.writes["tiles"]
        tile = self.tiles.base(rng, targets)
        # The order in which a command writes one tile twice is not defined.
        if source is None or tile is None or np.unique(targets).size != targets.size:
            return None
        return f | {"source": source, "tile": tile}

    def seed(self) -> Fields:
        """A state of the generator; some have but one bit."""
        return {"seed": int(self.rng.integers(1, 1 << 32)) if self.rng.random() < 0.8 else 1 << self.pick(*range(32))}

    def matmul(self) -> Fields | None:
        rng, side = self.rng, self.side
        f = {name: int(rng.integers(2)) for name in ("a_transpose", "b_transpose", "accumulate")}
        f |= {"a_precision": int(rng.integers(3)), "b_precision": int(rng.integers(3))}
        f |= {"rows": self.below(3 * side), "k_tiles": self.below(3), "n_tiles": self.below(3)}
        steps = f["k_tiles"] * f["n_tiles"] * len(limb_pairs(f["a_precision"], f["b_precision"]))
        if steps * max(f["rows"], side) > 50 * side:
            return None
        for name in ("a_k_stride", "b_k_stride", "b_n_stride", "a_limb_stride", "b_limb_stride"):
            f[name] = self.pick(0, 1, 1, 2, 3, 5)
        f["count0"] = self.pick(f["rows"], self.below(side), 1)
        f["count1"] = self.below(4)
        f["a_stride0"] = self.pick(1, 1, 1, 2, -1, side, -side, 0)
        f["acc_stride0"] = self.pick(1, 1, 1, 2, -1, 0)
        for step in ("1", "2"):
            f[f"a_stride{step}"] = int(rng.integers(-side, 2 * side))
            f[f"acc_stride{step}"] = self.pick(f["count0"], int(rng.integers(-6, 12)))
        f["acc_n_stride"] = self.pick(f["rows"], f["rows"], 0, 1, -3)
        f["a_row"] = self.pick(0, int(rng.integers(2 * side)))
        zero = {"a_tile": 0, "b_tile": 0, "acc": 0}
        rows = accesses(self.config, Opcode.MATMUL, f | zero, BASE)
        # Tiles of A and B: the other one far away, to tell them apart.
        far = 1 << 20
        a = accesses(self.config, Opcode.MATMUL, f | zero | {"b_tile": far}, BASE).reads["tiles"]
        b = rows_of_b(a, far)
        a = a[a < far // 2]
        a_tile, b_tile = self.tiles.base(rng, a), self.tiles.base(rng, b)
        acc = self.acc.base(rng, rows.writes["local"])
        if a_tile is None or b_tile is None or acc is None or a_tile < 0:
            return None
        return f | {"a_tile": a_tile, "b_tile": b_tile, "acc": acc}

    def vector(self) -> Fields | None:
        rng, side = self.rng, self.side
        op = VectorOp.MULADD if rng.random() < 0.3 else VectorOp(int(rng.integers(len(VectorOp))))
        f: Fields = {"op": int(op), "count0": self.below(12), "count1": self.below(4)}
        for name in ("a", "dst"):
            f[f"{name}_format"] = int(Format.F32) if rng.random() < 0.5 else int(rng.integers(len(Format)))
        for name in ("relu", "b_imm", "c_imm", "negate_b", "negate_c"):
            f[name] = int(rng.random() < 0.3)
        f["imm_b"], f["imm_c"] = (int(word) for word in random_words(rng, 2))
        if rng.random() < 0.5:
            f["lane_bcast"], f["lane_xor"] = int(rng.integers(side)), int(rng.integers(side))
        for name in ("a", "b", "c", "dst"):
            first, second = [(1, f["count0"]), (1, 0), (0, 1), (0, 0), (f["count1"], 1), (2, -3), (-1, 5)][
                int(rng.integers(7))
            ]
            f |= {f"{name}_stride0": first, f"{name}_stride1": second}
            # Operands that are not read may name anything.
            f[name] = int(rng.integers(1 << 16))
        used = vector_rows(f | {"a": 0, "b": 0, "c": 0, "dst": 0})
        for name, offsets in used.items():
            window = self.acc if name != "dst" and rng.random() < 0.25 else self.vmem
            base = window.base(rng, offsets)
            if base is None:
                return None
            f[name] = base
        if rng.random() < 0.3 and f["a_format"] == f["dst_format"]:
            # In place, where the operand is one that may be.
            f |= {key: f["a" + key[3:]] for key in ("dst", "dst_stride0", "dst_stride1")}
        rows = vector_rows(f)
        target = rows.pop("dst")
        inside = (target >= self.vmem.start) & (target < self.vmem.stop)
        if not inside.all() or any(self._meets(f, target, source) for source in rows.values()):
            return None
        return f

    @staticmethod
    def _meets(f: Fields, target: np.ndarray, source: np.ndarray) -> bool:
        """Whether a row is read in a step, and written in another: that is not defined."""
        if Format(f["a_format"]).pack > 1 or Format(f["dst_format"]).pack > 1:
            return np.intersect1d(target, source).size > 0
        same = target.reshape(-1, 1) == source.reshape(1, -1)
        np.fill_diagonal(same, False)
        return bool(same.any())

    # ---- Programs.

    def ready(self, opcode: Opcode, f: Fields, body: OrderedProgram | None) -> bool:
        """Whether everything that is read has been written, by the program or a body that it will run, or is memory."""
        found = accesses(self.config, opcode, f, BASE)
        programs = [self.program] if body is None else [self.program, body]
        return all(
            np.any([program.written(space)[units] for program in programs], axis=0).all()
            for space, units in found.reads.items()
            if space != "memory"
        )

    def filling(self) -> list[tuple[Opcode, Fields]]:
        """Commands that write all of the windows, the later ones from what the earlier ones wrote."""
        rng, side, beat = self.rng, self.side, self.config.bus_bytes
        commands: list[tuple[Opcode, Fields]] = []
        row, chunk = self.vmem.start, self.pick(17, 40, self.vmem.size)
        while row < self.vmem.stop:
            rows = min(chunk, self.vmem.stop - row)
            start, stop = self.data[0], self.data[1] - rows * self.config.row_bytes
            address = int(rng.integers(start, stop)) // beat * beat
            f = {"address": address, "rows": rows, "words": side, "local": row, "local_stride": 1}
            commands.append((Opcode.LOAD, f | {"stride": self.config.row_bytes}))
            row += rows
        tile = self.tiles.start
        while tile < self.tiles.stop:
            count = min(self.pick(4, 7, 8), self.tiles.stop - tile)
            source = int(rng.integers(self.vmem.start, self.vmem.stop - count * side + 1))
            f = {
                "rows": count * side,
                "cols": side,
                "source": source,
                "source_stride": 1,
                "tile": tile,
                "tile_stride": 1,
            }
            commands.append((Opcode.QUANT, f))
            tile += count
        f = {"rows": self.acc.size, "acc": self.acc.start, "acc_stride0": 1, "a_stride0": 1, "count0": self.acc.size}
        f |= {"a_tile": self.tiles.start + int(rng.integers(self.tiles.size - -(-self.acc.size // side) + 1))}
        commands.append((Opcode.MATMUL, f | {"b_tile": int(rng.integers(self.tiles.start, self.tiles.stop))}))
        return commands

    def command(self, body: OrderedProgram | None = None) -> tuple[Opcode, Fields] | None:
        """A random command that can run now, at the end of a ``body`` if there is one; None after some vain draws."""
        draws: list[tuple[Opcode, Callable[[], Fields | None], float]] = [
            (Opcode.LOAD, lambda: self.dma(Opcode.LOAD), 0.15),
            (Opcode.STORE, lambda: self.dma(Opcode.STORE), 0.15),
            (Opcode.QUANT, self.quant, 0.15),
            (Opcode.MATMUL, self.matmul, 0.2),
            (Opcode.VECTOR, self.vector, 0.3),
            (Opcode.SEED, self.seed, 0.05),
        ]
        opcode, draw, _ = draws[int(self.rng.choice(len(draws), p=[weight for _, _, weight in draws]))]
        for _ in range(50):
            f = draw()
            if f is not None and self.ready(opcode, f, body):
                return opcode, f
        return None

    def finish(self):
        """Bring tiles, accumulators and vector memory to memory."""
        side, row_bytes = self.side, self.config.row_bytes
        offset = self.data[0] - BASE
        identity = np.eye(side, dtype=np.float32).view(np.uint8).ravel()
        self.memory[offset : offset + identity.size] = identity
        add = self.program.add
        dma = {"words": side, "local_stride": 1, "stride": row_bytes}
        add(Opcode.LOAD, address=self.data[0], local=self.identity_row, rows=side, **dma)
        f = {"source": self.identity_row, "source_stride": 1, "rows": side, "cols": side, "tile": self.identity_tile}
        add(Opcode.QUANT, **f)
        rows = self.tiles.size * side
        f = {"rows": rows, "count0": rows, "a_stride0": 1, "acc_stride0": 1, "acc": self.revealed}
        add(Opcode.MATMUL, a_tile=self.tiles.start, b_tile=self.identity_tile, **f)
        where = self.results
        for start, count in ((self.vmem.start, self.vmem.size), (self.acc.start, self.acc.size + rows)):
            add(Opcode.STORE, address=where, local=start, rows=count, **dma)
            where += count * row_bytes


def rows_of_b(tiles: np.ndarray, far: int) -> np.ndarray:
    """Tiles that were named from a base of ``far``, without that."""
    return tiles[tiles >= far // 2] - far


def random_program(config: NpuConfig, rng: np.random.Generator) -> tuple[OrderedProgram, np.ndarray, int]:
    """A program, its memory without the ring but with the bodies of loops, and the tag it ends with."""
    generator = Generator(config, rng)
    program = generator.program
    filling = generator.filling()
    length = int(rng.integers(12, MAX_COMMANDS - 24))
    loops = [int(rng.integers(length)) for _ in range(generator.pick(0, 1, 1, 2))]
    while filling or loops or len(program.commands) < length:
        if loops and len(program.commands) >= min(loops):
            loops.remove(min(loops))
            add_loop(generator)
            continue
        if rng.random() < 0.12:
            program.address(*random_register(rng))
        command = generator.command() if not filling or rng.random() < 0.4 else None
        if command is None and filling:
            command = filling.pop(0)
        if command is not None:
            opcode, fields = command
            program.add(opcode, **fields)
    generator.finish()
    tag = int(rng.integers(1 << 32))
    program.fence(Opcode.IRQ, tag=tag)
    return program, generator.memory, tag


def random_job(config: NpuConfig, rng: np.random.Generator) -> Job:
    """A random program with the memory that the instruction-set simulator leaves behind."""
    program, memory, tag = random_program(config, rng)
    ring = program.records()
    memory[: len(ring)] = np.frombuffer(ring, np.uint8)
    expected = memory.copy()
    fault = Iss(config, expected, base=BASE).run(BASE, RING_LOG2, len(program.commands))
    if fault is not None:
        raise AssertionError(f"the simulator finds a fault in a program that should have none: {fault}")
    return Job(memory, BASE, BASE, RING_LOG2, len(program.commands), expected, tag=tag, name="random program")
