"""Worst error of the core's functions over all of their inputs: ``python -m bench.function_error``.

The functions and their errors are computed by ``function_error.c``, another reading of docs/numerics.md on the model's
own tables; tests hold that it equals the NumPy twins, which the gateware equals bit for bit. Every one of the 2^32
words is looked at, which takes minutes. The figures stand in docs/numerics.md.

References are binary64 of the C library, good to a few units of its last place: 2^-27 ulp of binary32. An error is
measured in ulp of the binade of the reference. Where the reference is outside the normal numbers of binary32 the result
must be 0 or infinity of its sign, and only there; a NaN just for a NaN and outside the domain; exceptions are counted.
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from lepton_npu.spec import function_tables as tables
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

__all__ = ["FUNCTIONS", "CompilerError", "Summary", "measure", "results"]

FUNCTIONS = ("exp", "recip", "sqrt", "rsqrt", "sigmoid", "tanh")
"""In the order of ``function_error.c``."""
_CHUNK = 1 << 24
_SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = ("-O3", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


class CompilerError(RuntimeError):
    """No C compiler, or it did not build ``function_error.c``."""


class _Table(ctypes.Structure):
    _fields_ = [(name, ctypes.POINTER(ctypes.c_int64)) for name in ("c0", "c1", "c2")]


class _Tables(ctypes.Structure):
    _fields_ = [
        *((name, _Table) for name in ("exp2", "reciprocal", "sqrt", "rsqrt", "tanh")),
        ("log2e", ctypes.c_int64),
    ]


class _Summary(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("inputs", "normal", "nearest", "edges", "steps", "at")),
        ("worst", ctypes.c_double),
    ]


@dataclass(frozen=True)
class Summary:
    """What some inputs of a function gave.

    ``inputs`` counts words that are not NaNs, ``normal`` those of them whose exact result is a normal number and
    ``nearest`` those of these that give the nearest one. ``edges`` counts words that give 0, infinity or NaN and should
    not, or the other way round; ``steps`` neighbouring words whose results are in the wrong order. ``worst`` is the
    error in ulp, of the word ``at``.
    """

    inputs: int = 0
    normal: int = 0
    nearest: int = 0
    edges: int = 0
    steps: int = 0
    at: int = 0
    worst: float = 0.0

    def __add__(self, other: "Summary") -> "Summary":
        top = self if self.worst >= other.worst else other
        sums = (mine + its for mine, its in zip(astuple(self)[:5], astuple(other)[:5], strict=True))
        return Summary(*sums, top.at, top.worst)


@cache
def _library() -> ctypes.CDLL:
    names = [name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name]
    compiler = next((path for path in map(shutil.which, names) if path), None)
    if compiler is None:
        raise CompilerError(f"no C compiler: none of {', '.join(names)} is there")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "function_error.so")
        command = [compiler, *_FLAGS, "-o", str(target), str(_SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompilerError(f"{compiler} did not build {_SOURCE.name}:\n{done.stderr[-2000:]}")
        return ctypes.CDLL(str(target))


@cache
def _tables() -> _Tables:
    def table(values: tables.Table) -> _Table:
        return _Table(*((ctypes.c_int64 * len(c))(*c) for c in (values.c0, values.c1, values.c2)))

    return _Tables(
        table(tables.exp2_table()),
        table(tables.reciprocal_table()),
        table(tables.sqrt_table()),
        table(tables.rsqrt_table()),
        table(tables.tanh_table()),
        tables.LOG2E,
    )


def results(name: str, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The function of an array of words."""
    words = np.ascontiguousarray(words, np.uint32)
    found = np.empty_like(words)
    _library().results(
        FUNCTIONS.index(name),
        ctypes.byref(_tables()),
        ctypes.c_void_p(words.ctypes.data),
        ctypes.c_void_p(found.ctypes.data),
        ctypes.c_uint64(words.size),
    )
    return found


def measure(name: str, start: int, stop: int) -> Summary:
    """Words ``start`` to ``stop - 1``, of one sign, of a function; ``stop`` itself only for the order of results."""
    found = _Summary()
    _library().measure(
        FUNCTIONS.index(name),
        ctypes.byref(_tables()),
        ctypes.c_uint64(start),
        ctypes.c_uint64(stop),
        ctypes.byref(found),
    )
    return Summary(*(getattr(found, field) for field, _ in _Summary._fields_))


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="function", help=f"of {', '.join(FUNCTIONS)} (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: %(default)s)")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in FUNCTIONS]:
        parser.error(f"function must be one of {', '.join(FUNCTIONS)}, not {', '.join(unknown)}")
    console = Console()
    console.width = max(console.width, 120)
    table = Table(
        "function", "inputs", "worst error (ulp)", "at x", "correctly rounded", "wrong 0, inf, NaN", "not monotone"
    )
    with ThreadPoolExecutor(options.threads) as pool:
        for name in options.names or FUNCTIONS:
            starts = range(0, 1 << 32, _CHUNK)
            total = Summary()
            parts = pool.map(lambda start, name=name: measure(name, start, start + _CHUNK), starts)
            for part in track(parts, description=name, total=len(starts), console=console):
                total += part
            x = np.array(total.at, np.uint32).view(np.float32)[()]
            table.add_row(
                name,
                f"{total.inputs}",
                f"{total.worst:.4f}",
                f"{x:.9g} (0x{total.at:08X})",
                f"{total.nearest / total.normal:.2%}",
                f"{total.edges}",
                f"{total.steps}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
