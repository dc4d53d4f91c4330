"""The VECTOR command's arithmetic on arrays of local rows (docs/architecture.md, section 2).

Rows are uint32 words, lane 0 first, along the last axis (length T). Steps are the axis before it.
"""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import Format, VectorOp
from numpy.typing import NDArray

from . import convert, fp32, functions
from .muladd import Ternary, prepare_muladd

__all__ = ["pack", "packed_rows", "prepare_operation", "prepare_shuffle", "unpack"]

Operand = NDArray[np.float32]

_MEMORY_TYPE: dict[Format, np.dtype] = {
    Format.BF16: np.dtype("<u2"),
    Format.U8: np.dtype("u1"),
    Format.I8: np.dtype("i1"),
}
_EXPONENT = np.array(0x7F800000, np.uint32)
_ZERO = np.array(0, np.int32)


def packed_rows(fmt: Format, count: int) -> int:
    """Local rows that hold ``count`` steps of elements."""
    return -(-count // Format(fmt).pack)


def unpack(rows: NDArray[np.uint32], fmt: Format, count: int) -> Operand:
    """Rows (..., packed_rows, T) of elements in memory order to ``count`` steps (..., count, T) of binary32."""
    if fmt == Format.F32:
        return rows.view(np.float32)
    if fmt == Format.I32:
        return rows.view(np.int32).astype(np.float32)
    side = rows.shape[-1]
    elements = rows.astype("<u4", copy=False).view(_MEMORY_TYPE[fmt])
    steps = elements.reshape(*rows.shape[:-2], rows.shape[-2] * fmt.pack, side)[..., :count, :]
    return convert.from_element(steps, fmt) if fmt == Format.BF16 else steps.astype(np.float32)


def pack(values: Operand, fmt: Format) -> NDArray[np.uint32]:
    """Steps (..., count, T) of binary32 to rows of elements; the last row of each inner loop is filled with zeros."""
    elements = convert.to_element(values, fmt)
    if fmt.pack == 1:
        return elements
    *outer, count, side = values.shape
    rows = packed_rows(fmt, count)
    padded = np.zeros((*outer, rows * fmt.pack, side), _MEMORY_TYPE[fmt])
    padded[..., :count, :] = elements
    return padded.reshape(*outer, rows, fmt.pack * side).view("<u4")


def prepare_shuffle(side: int, lane_bcast: int, lane_xor: int) -> Callable[[NDArray], NDArray] | None:
    """A function of rows whose lane l is lane ``(l & ~lane_bcast) ^ lane_xor`` of its argument; None for no change.

    Where all lanes are the same one, it gives only that: it broadcasts.
    """
    if not lane_bcast and not lane_xor:
        return None
    lanes = (np.arange(side) & ~lane_bcast) ^ lane_xor
    first = int(lanes[0])
    if (lanes == first).all():
        return lambda rows: rows[..., first : first + 1]
    return lambda rows: rows.take(lanes, axis=-1)


def prepare_operation(
    op: VectorOp,
    b: Operand | None = None,
    c: Operand | None = None,
    *,
    square: bool = False,
    relu: bool = False,
    negate_b: bool = False,
    negate_c: bool = False,
) -> Ternary:
    """``op`` as a function of operands a, b and c in binary32, which broadcast; it ignores those it does not use.

    It is for use within ``numpy.errstate(all="ignore")``, and gives a new array.

    Parameters
    ----------
    b, c : array without dimensions, or None
        Immediates, which take the place of what the function is given.
    square : bool
        b is always the same array as a.
    relu, negate_b, negate_c : bool
        The fields of the command.
    """
    if op == VectorOp.MULADD:
        function = prepare_muladd(b, c, square=square, negate_b=negate_b, negate_c=negate_c)
    elif op.operands == "a":
        unary = _FUNCTIONS[op]
        function = lambda a, b, c: unary(a)  # noqa: E731
    else:
        function = _with_operands(_OPERATIONS[op], b, c, negate_b, negate_c)
    return _with_relu(function) if relu else function


def _with_operands(function: Ternary, b: Operand | None, c: Operand | None, negate_b: bool, negate_c: bool) -> Ternary:
    """Immediates and signs of b and c."""
    constants = [None if x is None else np.array([-x if n else x]) for x, n in ((b, negate_b), (c, negate_c))]

    def apply(a: Operand, b: Operand, c: Operand) -> Operand:
        if constants[0] is not None:
            b = constants[0]
        elif negate_b:
            b = -b
        if constants[1] is not None:
            c = constants[1]
        elif negate_c:
            c = -c
        return function(a, b, c)

    return apply


def _with_relu(function: Ternary) -> Ternary:
    def apply(a: Operand, b: Operand, c: Operand) -> Operand:
        result = function(a, b, c)
        # As integers, all numbers with a sign are negative, and the one NaN is not.
        words = result.view(np.int32)
        np.maximum(words, _ZERO, out=words)
        return result

    return apply


def _select(a: Operand, b: Operand, c: Operand) -> Operand:
    # Zeros and subnormals have no bit of their exponent set.
    return fp32.unify_nans(fp32.flush(np.where(a.view(np.uint32) & _EXPONENT, b, c)))


_OPERATIONS: dict[VectorOp, Ternary] = {
    VectorOp.MIN: lambda a, b, c: fp32.minimum(a, b),
    VectorOp.MAX: lambda a, b, c: fp32.maximum(a, b),
    VectorOp.LT: lambda a, b, c: fp32.lt(a, b).astype(np.float32),
    VectorOp.LE: lambda a, b, c: fp32.le(a, b).astype(np.float32),
    VectorOp.EQ: lambda a, b, c: fp32.eq(a, b).astype(np.float32),
    VectorOp.SELECT: _select,
}

_FUNCTIONS: dict[VectorOp, Callable[[Operand], Operand]] = {
    VectorOp.EXP: functions.exp,
    VectorOp.RECIP: functions.recip,
    VectorOp.SQRT: functions.sqrt,
    VectorOp.RSQRT: functions.rsqrt,
    VectorOp.SIGMOID: functions.sigmoid,
    VectorOp.TANH: functions.tanh,
}
