"""On-chip partitions: no engine asks a memory for a row, or a tile, outside of the partition that it is given.

Bounds are any constants with a base that is a multiple of the size: they rest while an engine holds a command
(`engine_share`), and `Partition` makes no others. Commands, memories and bus do anything at all.
"""

import itertools
from typing import Any
from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.lib.memory import Memory
from lepton_npu.array.accumulate import Accumulate
from lepton_npu.array.matmul import MatmulEngine
from lepton_npu.array.ports import TILE_READ_LATENCY
from lepton_npu.array.quantise_convert import CONVERT_LATENCY, QuantConverter
from lepton_npu.array.quantiser import QuantEngine
from lepton_npu.array.stream_rows import RowStreamer, row_layout
from lepton_npu.array.systolic import SystolicArray
from lepton_npu.bus.load import LoadEngine
from lepton_npu.bus.store import StoreEngine
from lepton_npu.control.partition import MEMORIES, Partition
from lepton_npu.fp.add import Fp32Add
from lepton_npu.fp.convert import ScaledIntToFp32
from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.memory.ports import LOCAL_ADDR_BITS
from lepton_npu.vector.engine import VectorEngine
from lepton_npu.vector.lane import VectorLane

from .engine import Proof
from .engine_share import shared_config
from .harness import Harness
from .planted import Bug

__all__ = ["PROOFS"]

_CONFIG = shared_config(2)


class _Bounds:
    """Bounds of a unit, chosen once, and whether what it asks for is within them."""

    def __init__(self, h: Harness, dut: Any):
        self._is = h.constant("bounds", bounds_layout(_CONFIG))
        h.drive(dut.bounds, self._is)
        for name in MEMORIES:
            base, mask = self._of(name)
            h.assume(f"{name}: the base is a multiple of the size", (base & mask) == 0)
            h.assume(f"{name}: the size is a power of two", (mask & (mask + 1)) == 0)

    def _of(self, name: str) -> tuple[Value, Value]:
        return self._is[f"{name}_base"], self._is[f"{name}_mask"]

    def has(self, name: str, row: Value) -> Value:
        """Whether a row (tile) of memory ``name`` is one of base to base + mask.

        Rows of the accumulators count so from half to half, as a partition has the same ones of both: rows of
        partitions that do not overlap are never the same.
        """
        base, mask = self._of(name)
        if name == "acc":
            row = Cat(row[-1], row[:-1])
        return (row & ~mask)[: len(base)] == base

    def has_local(self, address: Value) -> Value:
        """Whether a local row address is of a row of either memory, and within the bounds of that."""
        found = []
        for name in ("vmem", "acc"):
            bits = len(self._of(name)[0])
            found.append(self.has(name, address[:bits]) & ~address[bits : LOCAL_ADDR_BITS - 1].any())
        return Mux(address[LOCAL_ADDR_BITS - 1], found[1], found[0])

    def has_tile_row(self, row: Value) -> Value:
        return self.has("tile", row[_CONFIG.side_bits :])


def _load(h: Harness) -> None:
    dut = h.unit(LoadEngine(_CONFIG))
    bounds, request = _Bounds(h, dut), dut.write.req
    h.prove("rows that LOAD writes are of the partition", ~request.valid | bounds.has("vmem", request.payload.addr))
    h.cover("the second row is written", request.valid & (request.payload.addr[0] == 1) & bounds.has("vmem", 1))


def _store(h: Harness) -> None:
    dut = h.unit(StoreEngine(_CONFIG))
    bounds, request = _Bounds(h, dut), dut.read.req
    h.prove("rows that STORE reads are of the partition", ~request.valid | bounds.has_local(request.payload))
    for name, is_acc in (("vector memory", 0), ("accumulators", 1)):
        h.cover(f"a row of the {name}", request.valid & (request.payload[LOCAL_ADDR_BITS - 1] == is_acc))


class _ConvertTiming(QuantConverter):
    """`QuantConverter` without its arithmetic: ``o_valid`` is ``valid``, CONVERT_LATENCY cycles before."""

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        valid = Signal(CONVERT_LATENCY)
        m.d.sync += valid.eq(Cat(self.valid, valid))
        m.d.comb += self.o_valid.eq(valid[-1])
        return m


def _quant(h: Harness) -> None:
    with patch.dict(QuantEngine.elaborate.__globals__, {"QuantConverter": _ConvertTiming}):
        dut = h.unit(QuantEngine(_CONFIG))
    bounds, request = _Bounds(h, dut), dut.source.req
    h.prove("rows that QUANT reads are of the partition", ~request.valid | bounds.has_local(request.payload))
    h.prove("tiles that it writes are", ~dut.tiles.en | bounds.has_tile_row(dut.tiles.row))
    h.cover("a tile is written", dut.tiles.en)


class _ArrayTiming(SystolicArray):
    """`SystolicArray` without its arithmetic: ``o_valid`` is ``x_valid``, ``latency`` cycles before.

    ``rows`` : Out, bit i: a row came i + 1 cycles ago.
    """

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self.rows = Signal(self.latency)
        m.d.sync += self.rows.eq(Cat(self.x_valid, self.rows))
        m.d.comb += [self.o_early.eq(self.rows[-2]), self.o_valid.eq(self.rows[-1])]
        return m


def _nothing(self: Any, platform: Any) -> Module:
    return Module()


_NO_ARITHMETIC = {
    unit.__name__: type(unit.__name__, (unit,), {"elaborate": _nothing}) for unit in (ScaledIntToFp32, Fp32Add)
}


def _kept(made: list[Any], unit: Any) -> Any:
    """A function that makes ``unit``, and puts it into ``made``, where a proof finds it."""

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append(unit(*args, **kwargs))
        return made[-1]

    return make


def _matmul_names(h: Harness) -> None:
    """`MatmulEngine` up to the array: the rows that it reads, and those that it will accumulate."""
    with (
        patch.dict(MatmulEngine.elaborate.__globals__, {"SystolicArray": _ArrayTiming}),
        patch.dict(Accumulate.elaborate.__globals__, _NO_ARITHMETIC),
    ):
        dut = h.unit(MatmulEngine(_CONFIG))
    bounds, streamer = _Bounds(h, dut), dut.streamer
    for name in ("stationary", "streamed"):
        tiles = getattr(dut, name)
        h.prove(f"{name} tiles are of the partition", ~tiles.en | bounds.has_tile_row(tiles.row))
        h.cover(f"a row of a {name} tile", tiles.en)
    h.prove("rows that will be accumulated are", ~streamer.issue | bounds.has("acc", streamer.row.acc))
    for name, named, valid in (
        ("next", streamer.head, streamer.head_valid),
        ("one behind", streamer.spare, streamer.spare_valid),
    ):
        within = bounds.has_tile_row(named.row.tile_row) & bounds.has("acc", named.row.acc)
        h.prove(f"inside: the {name}", ~valid | within)


def _matmul_accumulates(h: Harness) -> None:
    """`MatmulEngine` from there on: any rows, at any time, among them those that it names (`_matmul_names`)."""

    class AnyRows(RowStreamer):
        def elaborate(self, platform: Any) -> Module:
            m = Module()
            m.d.comb += [self.issue.eq(issue), self.row.eq(row)]
            return m

    issue, row = h.free("issue"), h.free("row", row_layout(_CONFIG))
    arrays: list[Any] = []
    rings: list[Any] = []
    changed = {
        "RowStreamer": AnyRows,
        "SystolicArray": _kept(arrays, _ArrayTiming),
        "Memory": _kept(rings, Memory),
    }
    with (
        patch.dict(MatmulEngine.elaborate.__globals__, changed),
        patch.dict(Accumulate.elaborate.__globals__, _NO_ARITHMETIC),
    ):
        dut = h.unit(MatmulEngine(_CONFIG))
    port = dut.acc
    (array,), (ring,) = arrays, rings
    way = TILE_READ_LATENCY + array.latency + Accumulate.write_delay
    # Rows as they were named in the cycles before, the last one first.
    named = [Signal(data.StructLayout({"valid": 1, "row": row_layout(_CONFIG)}), name=f"named{i}") for i in range(way)]
    h.m.d.sync += [named[0].eq(Cat(issue, row)), *(to.eq(of) for to, of in itertools.pairwise(reversed(named)))]
    reads, writes = named[way - Accumulate.write_delay + Accumulate.read_delay - 1], named[-1]
    h.prove(
        "a row is read so many cycles after it is named, if it adds", port.read_en == reads.valid & ~reads.row.replace
    )
    h.prove("and it is that row", ~port.read_en | (port.read_addr == reads.row.acc))
    h.prove("a row is written so many cycles after it is named", port.write_en == writes.valid)
    h.prove("it is that row", ~port.write_en | (port.write_addr == writes.row.acc))
    (write,), (read,) = ring.write_ports, ring.read_ports
    inside = sum(array.rows[1:-1])  # came more than a cycle ago, and do not leave yet
    h.prove("inside: the ring has what is in the array", (write.addr - read.addr)[: len(read.addr)] == inside)
    h.cover("a row is read", port.read_en)
    h.cover("a row is written", port.write_en)


def _vector(h: Harness) -> None:
    class AnyLane(VectorLane):
        """Results at any time."""

        def elaborate(self, platform: Any) -> Module:
            m = Module()
            m.d.comb += self.o_valid.eq(any_result)
            return m

    any_result = h.free("result")
    with patch.dict(VectorEngine.elaborate.__globals__, {"VectorLane": AnyLane}):
        dut = h.unit(VectorEngine(_CONFIG))
    bounds = _Bounds(h, dut)
    for name in "abc":
        request = getattr(dut, name).req
        h.prove(f"rows of {name} are of the partition", ~request.valid | bounds.has_local(request.payload))
        h.cover(f"a row of {name}", request.valid)
    h.prove("rows that VECTOR writes are", ~dut.write.en | bounds.has("vmem", dut.write.addr))
    h.cover("a row is written", dut.write.en)


def _partition(h: Harness) -> None:
    dut = h.unit(Partition(_CONFIG))
    for name in MEMORIES:
        fields, base, mask = dut.partition[name], dut.bounds[f"{name}_base"], dut.bounds[f"{name}_mask"]
        h.prove(f"{name}: the base is a multiple of the size", (base & mask) == 0)
        h.prove(f"{name}: which is a power of two", (mask & (mask + 1)) == 0)
        log2, most = Signal(5, name=f"{name}_log2"), len(mask)
        h.m.d.sync += log2.eq(Mux(fields.log2 > most, most, fields.log2))
        h.prove(f"{name}: that of the register, or all", mask == ((1 << log2) - 1)[:most])
        h.cover(f"{name}: the second half", base == 1 << (most - 1))


_BOUNDS = "memory.bounds"
_ANYWHERE = Bug(_BOUNDS, "else base | (address & mask)", "else base | address")


def _bugs(place: str, old: str, new: str) -> dict[str, Bug]:
    return {"bounds are not looked at": Bug(place, old, new), "addresses are not cut to the size": _ANYWHERE}


PROOFS = [
    Proof(
        "Any value of the registers is a partition within the memories, aligned to its size",
        "Partition",
        _partition,
        {"a base of any alignment": Bug("control.partition", "fields.base & ~mask", "fields.base")},
        induction=1,
        quick=True,
    ),
    Proof(
        "Rows of the vector memory that are written are of the partition",
        "LoadEngine",
        _load,
        _bugs("bus.load", "to_vmem(config, self.bounds, local_now)", "local_now"),
        induction=1,
    ),
    Proof(
        "Local rows that are read are of the partition",
        "StoreEngine",
        _store,
        _bugs("bus.store", "to_local(config, self.bounds, wanted.local + offset)", "wanted.local + offset"),
        induction=1,
    ),
    Proof(
        "Local rows that are read, tiles that are written are of the partition",
        "QuantEngine",
        _quant,
        {
            "any local row": Bug("array.quantiser", "to_local(config, self.bounds, a_address)", "a_address"),
            "any tile": Bug("array.quantiser", "to_tile(config, self.bounds, c_tile)", "c_tile"),
        },
        induction=CONVERT_LATENCY + 2,
        search=40,
        quick=True,
    ),
    Proof(
        "Tiles that are read, accumulators that are named are of the partition",
        "MatmulEngine",
        _matmul_names,
        {
            "weights of any tile": Bug(
                "array.load_weights", "to_tile(config, self.bounds, tile)", "tile[: config.tile_bits]"
            ),
            "rows of any tile": Bug(
                "array.stream_rows", "to_tile_row(config, self.bounds, a)", "a[: config.tile_row_bits]"
            ),
            "any accumulators": Bug("array.stream_rows", "to_acc(config, self.bounds, c)", "c[: config.acc_addr_bits]"),
        },
        induction=1,
    ),
    Proof(
        "Accumulators are read and written as named, each row so many cycles later: none is lost, none is another one",
        "MatmulEngine",
        _matmul_accumulates,
        {
            "a row of the array is forgotten": Bug(
                "array.matmul", "tail.eq(tail + array.o_early)", "tail.eq(tail + array.o_valid)"
            ),
            "a ring that is too small": Bug("array.matmul", "1 << array.latency.bit_length()", "2"),
            "what is written is named by a row behind": Bug(
                "array.accumulate", "self.port.write_addr.eq(rows[-1].acc)", "self.port.write_addr.eq(rows[-2].acc)"
            ),
        },
        induction=18,  # a cycle more than the way of a row
        search=45,
    ),
    Proof(
        "Local rows that are read, rows that are written are of the partition",
        "VectorEngine",
        _vector,
        {
            "any row is written": Bug(
                "vector.engine", "to_vmem(config, self.bounds, popped.address)", "popped.address"
            ),
            "any row is read": Bug(
                "vector.operand", "to_local(self._config, self.bounds, loop.address)", "loop.address"
            ),
        },
        induction=1,
    ),
]
