"""How long commands take: the cycle model of the engines, from the fields of a command and the configuration alone.

The one place of the latencies that a plan is computed with. Throughputs are those of docs/architecture.md, section 6,
latencies are sums of the gateware's own (a test holds both against the core's counters, `tests/sdk/test_plan.py`);
nothing is fitted to a network. What is left out: requests of several engines that meet at a bank of the vector memory,
and records that are fetched between the beats of a LOAD.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lepton_npu.spec.commands import Format, Opcode, Precision, VectorOp
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig

from .memory import Memory

__all__ = ["Timing", "record_cycles", "timing"]

DECODE = 3
"""Cycles from one command to the next in the sequencer; one of CONTROL takes 4, mostly while the next record comes."""
ISSUE = 7
"""From a record to its command at the engine: the sequencer's 5, and 2 of the queue."""
POST = 4
"""From a command's end to the start of one that waits for its post: a register of the queue, then 3."""
START = 3
"""From a command's start to that of the next one of its engine at least, in the queue."""
FETCH_AHEAD = 2
"""Records in flight at most."""

VECTOR_FILL = 9
"""From a command to its last row, besides the rows and the operation's unit: 4 of the local memory, 3 of queue and
operand registers, 1 of relu, 1 of the result's. The next command starts with that row."""
VECTOR_CONVERT = 3
"""Besides, if a is not F32, and if the result is not."""
VECTOR_UNIT = {VectorOp.MULADD: 10, VectorOp.RECIP: 11, VectorOp.EXP: 12, VectorOp.SQRT: 12, VectorOp.RSQRT: 12,
               VectorOp.SIGMOID: 21, VectorOp.TANH: 21}  # fmt: skip
"""Latency of an operation's unit."""
VECTOR_COMPARE = 2
"""The same for all other operations."""
QUANT_FILL = 16
"""From a command to its first tile row, besides a cycle for each limb plane and source row of the first tile, and for
each step but one of the largest exponent's tree: 1 of the walk, 6 + 4 + 5 of memory and conversion."""
MATMUL_START = 2
"""From a command to its first weight row; the first row of a pass follows the last weight row."""
TILE_READ, ARRAY_END = 3, 1
"""Latency of the tile memory; of the array besides T + T / 4."""
ACCUMULATE, TURNAROUND = 8, 9
"""From a sum to its accumulator; the least distance of two additions to one accumulator row."""
DMA_START = 6
"""From a LOAD or STORE to the address of its first burst on the bus."""
DMA_ROW, DMA_BURST = 2, 2
"""Cycles of the burst walker for a row, and for a burst."""
DMA_END = 1
"""From the last beat (LOAD), or its answer (STORE), to the end of the command."""
STORE_READ = 5
"""From the address of a burst of STORE to its first data beat."""
LOAD_TRIP, STORE_TRIP = 2, 8
"""From a burst that makes room to the next one's address, and from that to its first beat, besides the memory's."""


@dataclass(frozen=True)
class Timing:
    """Cycles of one command.

    Attributes
    ----------
    fill : int
        From its start to the beginning of its stream of rows or beats.
    stream : int
        Of that stream, at the engine's throughput.
    drain : int
        From its end to the end of the command.
    overlap : int
        Cycles before the end of its stream in which the next command may start; negative: after it.
    half : int or None
        The half of the accumulators that it reads, if any.
    share : float
        Of its cycles, how many it reads them in. A VECTOR command waits while MATMUL does.
    """

    fill: int
    stream: int
    drain: int
    overlap: int
    half: int | None = None
    share: float = 0


def record_cycles(config: NpuConfig, memory: Memory) -> int:
    """Cycles from one command to the next that the sequencer can do at best: decoding, and fetching ahead."""
    beats = RECORD_BYTES // config.bus_bytes * memory.bandwidth
    return max(DECODE, beats, -(-(memory.latency + beats + DECODE) // FETCH_AHEAD))


def timing(config: NpuConfig, memory: Memory, opcode: Opcode, fields: Mapping[str, int]) -> Timing:
    """The cycles of a command of one of the five engines."""
    return {
        Opcode.LOAD: _load,
        Opcode.STORE: _store,
        Opcode.QUANT: _quant,
        Opcode.MATMUL: _matmul,
        Opcode.VECTOR: _vector,
    }[opcode](config, memory, fields)


def _vector(config: NpuConfig, _: Memory, f: Mapping[str, int]) -> Timing:
    op = VectorOp(f["op"])
    steps = f["count0"] * f["count1"]
    stream = max(steps * config.side // config.lanes, _bank_cycles(config, op, f))
    conversions = sum(f[name] != Format.F32 for name in ("a_format", "dst_format"))
    drain = VECTOR_FILL + VECTOR_UNIT.get(op, VECTOR_COMPARE) + conversions * VECTOR_CONVERT
    halves = [_half(config, f[name]) for name in op.operands if f[name] & ACC_SPACE]
    return Timing(0, stream, drain, -drain, *halves[:1])


def _half(config: NpuConfig, row: int) -> int:
    """Of the accumulators, in which a local row is."""
    return (row - ACC_SPACE) // (config.acc_rows // 2)


def _bank_cycles(config: NpuConfig, op: VectorOp, f: Mapping[str, int]) -> int:
    """Reads of the bank, or half of the accumulators, that is read most; it gives a row a cycle."""
    reads: dict[int, int] = {}
    rows_of = []
    for name in op.operands:
        if name in "bc" and f[f"{name}_imm"]:
            continue
        pack = Format(f["a_format"]).pack if name == "a" else 1
        inner, outer = -(-f["count0"] // pack), f["count1"]
        stride0, stride1 = f[f"{name}_stride0"], f[f"{name}_stride1"]
        if stride0 == 0 and pack == 1:  # a row that follows itself is read once
            inner, outer = 1, 1 if stride1 == 0 else outer
        rows = (f[name], stride0, stride1, inner, outer)
        if pack == 1 and rows in rows_of:  # rows that are a's as well come with it
            continue
        rows_of.append(rows)
    for start, stride0, stride1, inner, outer in rows_of:
        if start & ACC_SPACE:
            place = config.vmem_banks + (start - ACC_SPACE) // (config.acc_rows // 2)
            reads[place] = reads.get(place, 0) + inner * outer
            continue
        # Of each bank: strides repeat over the banks, so the first few steps of a loop tell the share of all.
        banks = config.vmem_banks
        for i1 in range(min(outer, banks)):
            for i0 in range(min(inner, banks)):
                bank = (start + i0 * stride0 + i1 * stride1) % banks
                count = len(range(i0, inner, banks)) * len(range(i1, outer, banks))
                reads[bank] = reads.get(bank, 0) + count
    return max(reads.values(), default=0)


def _quant(config: NpuConfig, _: Memory, f: Mapping[str, int]) -> Timing:
    side = config.side
    limbs = Precision(f["precision"]).limbs
    tiles = -(-f["rows"] // side) * -(-f["cols"] // side)
    slots = 4 if side <= 8 else 2
    reads = min(f["rows"], side)
    tree = -(-config.side_bits // 2) - 1
    return Timing(QUANT_FILL + limbs + reads + tree, tiles * side * limbs, 0, reads + min(tiles, slots) * side * limbs)


def _matmul(config: NpuConfig, _: Memory, f: Mapping[str, int]) -> Timing:
    side, rows, columns = config.side, f["rows"], f["n_tiles"]
    limbs_a, limbs_b = Precision(f["a_precision"]).limbs, Precision(f["b_precision"]).limbs
    each = f["k_tiles"] * sum(a + b <= 2 for a in range(limbs_a) for b in range(limbs_b))
    whole = max(rows, side)  # of a pass: the next tile's weights come meanwhile
    stream = columns * (each - 1) * max(whole, TURNAROUND) + (columns - 1) * whole + rows
    drain = TILE_READ + side + side // 4 + ARRAY_END + ACCUMULATE - 1
    adding = 1 if f["accumulate"] else (each - 1) / each  # passes that read what they add to
    return Timing(MATMUL_START + side, stream, drain, whole, _half(config, f["acc"]), adding * rows / whole)


def _dma(config: NpuConfig, memory: Memory, f: Mapping[str, int], trip: int) -> tuple[int, int]:
    """Cycles from the first beat of a LOAD or STORE to its last one, and of the beats in flight at once.

    A burst waits until there is room for it among those in flight; bursts that 4 KiB boundaries cut are left out.
    """
    beats = -(-4 * f["words"] // config.bus_bytes)
    bursts = -(-beats // config.max_burst)
    total, last = f["rows"] * bursts, (min(beats, config.max_burst) - 1) * memory.bandwidth + 1
    each = max(beats * memory.bandwidth, DMA_ROW + DMA_BURST * bursts) / bursts
    around = max(trip + memory.latency + last, config.outstanding * each)
    full, more = divmod(total - 1, config.outstanding)
    return round(full * around + more * each + last), min(config.outstanding, total) * last


def _load(config: NpuConfig, memory: Memory, f: Mapping[str, int]) -> Timing:
    stream, flight = _dma(config, memory, f, LOAD_TRIP)
    return Timing(DMA_START + memory.latency, stream, DMA_END, flight)


def _store(config: NpuConfig, memory: Memory, f: Mapping[str, int]) -> Timing:
    stream, flight = _dma(config, memory, f, STORE_TRIP)
    return Timing(DMA_START + STORE_READ, stream, memory.latency + DMA_END, flight)
