"""What a command reads and writes, as sets of memory words, local rows and tiles."""

from dataclasses import dataclass, field

import numpy as np
from lepton_npu.spec.commands import Format, Opcode, Precision, VectorOp
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

__all__ = ["SPACES", "Accesses", "accesses", "limb_pairs", "loop", "vector_rows"]

SPACES = ("memory", "local", "tiles")
"""Address spaces: host memory in 32-bit words, local rows (16-bit addresses), tiles."""

Rows = NDArray[np.int64]


@dataclass
class Accesses:
    """Units read and written, by space. Addresses may be repeated; they are not checked."""

    reads: dict[str, Rows] = field(default_factory=dict)
    writes: dict[str, Rows] = field(default_factory=dict)

    def union(self, other: "Accesses") -> "Accesses":
        """The accesses of both."""
        return Accesses(_joined(self.reads, other.reads), _joined(self.writes, other.writes))

    def meets(self, other: "Accesses") -> bool:
        """Whether one writes what the other reads or writes."""
        pairs = ((self.writes, other.reads), (self.writes, other.writes), (self.reads, other.writes))
        return any(np.isin(one[space], two[space]).any() for one, two in pairs for space in one.keys() & two.keys())


def _joined(one: dict[str, Rows], two: dict[str, Rows]) -> dict[str, Rows]:
    """The units of both, by space."""
    both = {
        space: [found[space].ravel() for found in (one, two) if space in found] for space in one.keys() | two.keys()
    }
    return {space: np.unique(np.concatenate(units)) for space, units in both.items()}


def loop(base: int, *steps: tuple[int, int]) -> Rows:
    """``base + sum of i * stride`` of nested loops ``(count, stride)``, the first outermost."""
    addresses = np.array(base, np.int64)
    for count, stride in steps:
        addresses = addresses[..., None] + np.arange(count, dtype=np.int64) * stride
    return addresses


def limb_pairs(a_precision: int, b_precision: int) -> list[tuple[int, int]]:
    """The limb passes (la, lb) of a MATMUL."""
    a, b = Precision(a_precision).limbs, Precision(b_precision).limbs
    return [(la, lb) for lb in range(b) for la in range(a) if la + lb <= 2]


def vector_rows(f: dict[str, int]) -> dict[str, Rows]:
    """Rows of the operands that a VECTOR command reads, and of ``dst``: each of shape (count1, count0), by step."""
    op, rows = VectorOp(f["op"]), {}
    for name in (*op.operands, "dst"):
        if name in "bc" and f[f"{name}_imm"]:
            continue
        pack = Format(f[f"{name}_format"]).pack if name in ("a", "dst") else 1
        inner = np.arange(f["count0"], dtype=np.int64) // pack * f[f"{name}_stride0"]
        rows[name] = f[name] + np.arange(f["count1"], dtype=np.int64)[:, None] * f[f"{name}_stride1"] + inner
    return rows


def _dma(config: NpuConfig, f: dict[str, int], base: int) -> tuple[Rows, Rows]:
    words = (loop(f["address"] - base, (f["rows"], f["stride"])) // 4)[:, None] + np.arange(f["words"])
    local = loop(f["local"], (f["rows"], f["local_stride"]), (-(-f["words"] // config.side), 1))
    return words, local


def _matmul(config: NpuConfig, f: dict[str, int]) -> tuple[Rows, Rows]:
    """Tiles that are read, and accumulator rows."""
    side, pairs = config.side, limb_pairs(f["a_precision"], f["b_precision"])
    m = np.arange(f["rows"], dtype=np.int64)
    i0, i1, i2 = m % f["count0"], m // f["count0"] % f["count1"], m // (f["count0"] * f["count1"])
    streamed = f["a_row"] + i0 * f["a_stride0"] + i1 * f["a_stride1"] + i2 * f["a_stride2"]
    tiles = []
    for la, lb in pairs:
        first = loop(f["a_tile"] + la * f["a_limb_stride"], (f["k_tiles"], f["a_k_stride"]))
        tiles.append(((first[:, None] * side + streamed) // side).ravel())
        second = f["b_tile"] + lb * f["b_limb_stride"]
        tiles.append(loop(second, (f["n_tiles"], f["b_n_stride"]), (f["k_tiles"], f["b_k_stride"])).ravel())
    rows = f["acc"] + i0 * f["acc_stride0"] + i1 * f["acc_stride1"] + i2 * f["acc_stride2"]
    return np.concatenate(tiles), rows + loop(0, (f["n_tiles"], f["acc_n_stride"]))[:, None]


def accesses(config: NpuConfig, opcode: Opcode, f: dict[str, int], base: int) -> Accesses:
    """Accesses of a command with fields ``f``; ``base`` is the byte address of word 0 of the memory."""
    found = Accesses()
    if opcode == Opcode.LOAD:
        found.reads["memory"], found.writes["local"] = _dma(config, f, base)
    elif opcode == Opcode.STORE:
        found.writes["memory"], found.reads["local"] = _dma(config, f, base)
    elif opcode == Opcode.QUANT:
        high, wide = -(-f["rows"] // config.side), -(-f["cols"] // config.side)
        found.reads["local"] = loop(f["source"], (f["rows"], f["source_stride"]), (wide, 1))
        planes = (Precision(f["precision"]).limbs, f["limb_stride"])
        found.writes["tiles"] = loop(f["tile"], planes, (wide, f["tile_stride"]), (high, 1))
    elif opcode == Opcode.MATMUL:
        found.reads["tiles"], found.writes["local"] = _matmul(config, f)
        if f["accumulate"]:
            found.reads["local"] = found.writes["local"]
    elif opcode == Opcode.VECTOR:
        rows = vector_rows(f)
        found.writes["local"] = rows.pop("dst")
        if rows:
            found.reads["local"] = np.concatenate([value.ravel() for value in rows.values()])
    return found
