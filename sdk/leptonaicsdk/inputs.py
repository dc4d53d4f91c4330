"""Checks of what a caller hands in: numbers, samples, labels, targets. What passes is what the device takes."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, InputTypeError

__all__ = ["array", "labels", "number", "samples", "targets", "whole"]

LARGEST = float(np.finfo(np.float32).max)


def whole(name: str, value: Any, low: int = 1) -> int:
    """An integer of ``low`` or more.

    Raises
    ------
    InputTypeError
        If it is none.
    InputError
        If it is below ``low``.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"{name} must be an integer, not {value!r}")
    if value < low:
        raise InputError(f"{name} must be {low} or more, not {value}")
    return int(value)


def number(name: str, value: Any) -> float:
    """A number of 0 or more, finite in binary32.

    Raises
    ------
    InputTypeError
        If it is none.
    InputError
        If it is negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputTypeError(f"{name} must be a number, not {value!r}")
    if not 0 <= float(value) <= LARGEST:
        raise InputError(f"{name} must be finite and 0 or more, not {value}")
    return float(value)


def array(name: str, values: Any) -> NDArray:
    """``values`` as an array of numbers with a sample or more; numbers other than uint8 stay as they are.

    Raises
    ------
    InputTypeError
        For what NumPy does not take as an array of real numbers: generators, dictionaries, strings, ragged lists.
    InputError
        Without samples.
    """
    try:
        result = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{name} must be an array of numbers, not {type(values).__name__}: {error}") from None
    if result.dtype.kind not in "biuf":
        raise InputTypeError(f"{name} must be an array of numbers, not {type(values).__name__} ({result.dtype})")
    if not result.ndim or not len(result):
        raise InputError(f"{name} must hold a sample or more, not have the shape {result.shape}")
    return result


def _finite(name: str, values: NDArray) -> NDArray[np.float32]:
    """``values`` as binary32, all of them finite."""
    with np.errstate(over="ignore"):
        result = values.astype(np.float32, copy=False)
    rows = result.reshape(len(result), -1)
    # The sum of a row is finite only if all of it is (or it overflows, which the second look finds out): no large mask.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(rows.sum(axis=1)))
    for sample in suspects:
        bad = np.flatnonzero(~np.isfinite(rows[sample]))
        if bad.size:
            value = values.reshape(len(values), -1)[sample, bad[0]]
            raise InputError(f"{name} must be finite in binary32, not {value} (sample {sample}, element {bad[0]})")
    return result


def samples(name: str, values: Any, shape: tuple[int, ...], *, flatten: bool = False) -> NDArray:
    """Samples of ``shape`` as (n, inputs): uint8 stays uint8, all else becomes binary32.

    With ``flatten`` any shape of as many values will do, images for one.

    Raises
    ------
    InputTypeError
        For what is not an array of numbers.
    InputError
        For no samples, another shape, NaN and infinities; the message names the sample.
    """
    result = array(name, values)
    size = math.prod(shape)
    if result.shape[1:] != shape and not (flatten and result.ndim > 1 and math.prod(result.shape[1:]) == size):
        more = f", or as many values of another shape a sample, {size}" if flatten and size > 1 else ""
        raise InputError(f"{name} must have the shape (n, {', '.join(map(str, shape))}){more}; not {result.shape}")
    result = np.ascontiguousarray(result.reshape(len(result), size))
    return result if result.dtype == np.uint8 else _finite(name, result)


def labels(name: str, values: Any, count: int, classes: int) -> NDArray[np.int32]:
    """A label 0 .. classes - 1 for each of ``count`` samples, from (n,) or (n, 1), as (n,); floats must be whole.

    Raises
    ------
    InputTypeError
        For what is not an array of numbers.
    InputError
        For another length or shape, and for labels out of range or with a fraction; the message names the sample.
    """
    result = array(name, values)
    if result.shape not in ((count,), (count, 1)):
        raise InputError(f"{name} must be {count} labels, one a sample, not have the shape {result.shape}")
    result = result.reshape(count)
    bad = np.flatnonzero(~((result >= 0) & (result < classes) & (result == np.floor(result))))
    if bad.size:
        raise InputError(f"{name} must be integers from 0 to {classes - 1}, not {result[bad[0]]} (sample {bad[0]})")
    return result.astype(np.int32)


def targets(name: str, values: Any, count: int, outputs: int) -> NDArray[np.float32]:
    """Wanted outputs, (n, outputs), as binary32; (n,) will do for one output.

    Raises
    ------
    InputTypeError
        For what is not an array of numbers.
    InputError
        For another shape, NaN and infinities; the message names the sample.
    """
    result = array(name, values)
    if outputs == 1 and result.ndim == 1:
        result = result[:, np.newaxis]
    if result.shape != (count, outputs):
        raise InputError(f"{name} must have the shape {(count, outputs)}, not {result.shape}")
    return np.ascontiguousarray(_finite(name, result))
