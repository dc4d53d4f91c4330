"""The VECTOR command's arithmetic on arrays of local rows (docs/architecture.md, section 2).

Rows are uint32 words, lane 0 first, along the last axis (length T). Steps are the axis before it.
"""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import Format, VectorOp
from numpy.typing import NDArray

from . import convert, fp32, functions

__all__ = ["compute", "pack", "packed_rows", "shuffle", "unpack"]

_MEMORY_TYPE: dict[Format, np.dtype] = {
    Format.BF16: np.dtype("<u2"),
    Format.U8: np.dtype("u1"),
    Format.I8: np.dtype("i1"),
}


def packed_rows(fmt: Format, count: int) -> int:
    """Local rows that hold ``count`` steps of elements."""
    return -(-count // Format(fmt).pack)


def unpack(rows: NDArray[np.uint32], fmt: Format, count: int) -> NDArray[np.float32]:
    """Rows (..., packed_rows, T) of elements in memory order to ``count`` steps (..., count, T) of binary32."""
    fmt = Format(fmt)
    if fmt.pack == 1:
        return fp32.from_bits(rows) if fmt == Format.F32 else convert.from_element(rows, fmt)
    side = rows.shape[-1]
    elements = np.ascontiguousarray(rows, "<u4").view(_MEMORY_TYPE[fmt])
    steps = elements.reshape(*rows.shape[:-2], rows.shape[-2] * fmt.pack, side)
    return convert.from_element(steps[..., :count, :], fmt)


def pack(values: NDArray[np.float32], fmt: Format) -> NDArray[np.uint32]:
    """Steps (..., count, T) of binary32 to rows of elements; the last row of each inner loop is filled with zeros."""
    fmt = Format(fmt)
    elements = convert.to_element(values, fmt)
    if fmt.pack == 1:
        return elements
    *outer, count, side = values.shape
    rows = packed_rows(fmt, count)
    padded = np.zeros((*outer, rows * fmt.pack, side), _MEMORY_TYPE[fmt])
    padded[..., :count, :] = elements
    return padded.reshape(*outer, rows, fmt.pack * side).view("<u4")


def shuffle(values: NDArray, lane_bcast: int, lane_xor: int) -> NDArray:
    """Lane l of the result is lane ``(l & ~lane_bcast) ^ lane_xor``."""
    if not lane_bcast and not lane_xor:
        return values
    lanes = np.arange(values.shape[-1])
    return values[..., (lanes & ~lane_bcast) ^ lane_xor]


def _select(a: NDArray, b: NDArray, c: NDArray) -> NDArray:
    a, b, c = np.broadcast_arrays(fp32.flush(a), fp32.flush(b), fp32.flush(c))
    return fp32.canonicalize(np.where(a != 0, b, c))


_OPERATIONS: dict[VectorOp, Callable[..., NDArray]] = {
    VectorOp.MULADD: fp32.muladd,
    VectorOp.MIN: fp32.minimum,
    VectorOp.MAX: fp32.maximum,
    VectorOp.LT: lambda a, b: fp32.lt(a, b).astype(np.float32),
    VectorOp.LE: lambda a, b: fp32.le(a, b).astype(np.float32),
    VectorOp.EQ: lambda a, b: fp32.eq(a, b).astype(np.float32),
    VectorOp.SELECT: _select,
    VectorOp.EXP: functions.exp,
    VectorOp.RECIP: functions.recip,
    VectorOp.SQRT: functions.sqrt,
    VectorOp.RSQRT: functions.rsqrt,
    VectorOp.SIGMOID: functions.sigmoid,
    VectorOp.TANH: functions.tanh,
}


def compute(
    op: VectorOp,
    a: NDArray[np.float32],
    b: NDArray[np.float32] | None = None,
    c: NDArray[np.float32] | None = None,
    *,
    relu: bool = False,
    negate_b: bool = False,
    negate_c: bool = False,
) -> NDArray[np.float32]:
    """One operation over binary32 operands that broadcast; operands it does not use may be None."""
    op = VectorOp(op)
    if b is not None and negate_b:
        b = np.negative(b)
    if c is not None and negate_c:
        c = np.negative(c)
    given = {"a": a, "b": b, "c": c}
    result = _OPERATIONS[op](*(given[name] for name in op.operands))
    if relu:
        # A NaN is not negative; -0 becomes +0.
        result = np.where(np.signbit(result) & ~np.isnan(result), np.float32(0), result)
    return result
