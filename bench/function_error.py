"""Worst error of the core's exp and reciprocal over all of their inputs: ``python -m bench.function_error``.

The figures are those of the NumPy twins, which the gateware equals bit for bit; they stand in docs/numerics.md.

Not every one of the 2^32 words has to be computed:

- **recip**: the sign is copied, and for a fraction other than 0 the 24 result bits depend on the fraction alone; the
  exponent field only moves the result. 1 / (m * 2^k) = 2^-k / m moves in the same way, so the error in ulp is the same
  in every binade whose results are normal. One binade is measured whole; that the others have its bits is checked on
  every 61st fraction.
- **exp**: beyond the exponents of `_EXP_FIELDS` the result is 1 (|x| < 2^-29, where 1 is the nearest number) or does
  not depend on the fraction (|x| >= 128). All words between are measured, of both signs.

References are float64: its reciprocal is correctly rounded, its exp good to about 1 ulp of float64, 2^-29 ulp of
binary32. An error is measured in ulp of the binade of the reference. Where the reference is outside the normal numbers
of binary32 the result must be 0 or infinity, and only there; exceptions are counted.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from lepton_verif.model.arith import functions
from rich.console import Console
from rich.progress import track
from rich.table import Table

__all__ = ["Summary", "exp_inputs", "measure", "recip_inputs", "recip_scales"]

_CHUNK = 1 << 20
_ONE = 127 << 23
_EXP_FIELDS = range(127 - 29, 127 + 7)
"""Exponent fields of 2^-29 <= |x| < 128."""
_LEAST, _BEYOND = 2.0**-126, 2.0**128 - 2.0**103

_FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "exp": (functions.exp, np.exp),
    "recip": (functions.recip, np.reciprocal),
}


@dataclass(frozen=True)
class Summary:
    """What some inputs of a function gave.

    ``worst`` is the error in ulp, of the word ``at``. ``normal`` counts inputs whose exact result is a normal number,
    ``nearest`` those of them that give the nearest one. ``edges`` counts words that give 0 or infinity and should not,
    or the other way round; ``steps`` neighbouring words whose results are in the wrong order.
    """

    inputs: int = 0
    normal: int = 0
    worst: float = 0.0
    at: int = 0
    nearest: int = 0
    edges: int = 0
    steps: int = 0

    def __add__(self, other: "Summary") -> "Summary":
        top = self if self.worst >= other.worst else other
        return Summary(
            self.inputs + other.inputs,
            self.normal + other.normal,
            top.worst,
            top.at,
            self.nearest + other.nearest,
            self.edges + other.edges,
            self.steps + other.steps,
        )


def measure(name: str, start: int, stop: int) -> Summary:
    """The words ``start .. stop - 1``, of one sign and finite, of function ``name``."""
    twin, exact = _FUNCTIONS[name]
    # One more word, to compare neighbours across the ends of chunks.
    x = np.arange(start, stop + 1, dtype=np.uint32).view(np.float32)
    found = twin(x)
    # Rising words are rising numbers, or falling ones if they are negative.
    rising = (name == "exp") == (start < 1 << 31)
    ordered = found[1:] >= found[:-1] if rising else found[1:] <= found[:-1]
    x, found = x[:-1], found[:-1]
    with np.errstate(over="ignore"):
        reference = exact(x.astype(np.float64))
        rounded = reference.astype(np.float32)
    magnitude = np.abs(reference)
    normal = (magnitude >= _LEAST) & (magnitude < _BEYOND)
    usual = np.isfinite(found) & (found != 0)
    both = normal & usual
    _, power = np.frexp(reference)
    ulps = np.where(
        both, np.abs(found.astype(np.float64) - np.where(both, reference, 0)) * np.ldexp(1.0, 24 - power), 0
    )
    top = int(ulps.argmax())
    return Summary(
        inputs=stop - start,
        normal=int(normal.sum()),
        worst=float(ulps[top]),
        at=start + top,
        nearest=int((both & (found == rounded)).sum()),
        edges=int((normal != usual).sum()),
        steps=int((~ordered).sum()),
    )


def recip_inputs() -> Iterator[tuple[str, int, int]]:
    """Chunks of [1, 2)."""
    for start in range(_ONE, _ONE + (1 << 23), _CHUNK):
        yield "recip", start, start + _CHUNK


def exp_inputs() -> Iterator[tuple[str, int, int]]:
    """Chunks of all x with 2^-29 <= |x| < 128."""
    for sign in (0, 1 << 31):
        for start in range(_EXP_FIELDS.start << 23, _EXP_FIELDS.stop << 23, _CHUNK):
            yield "exp", sign + start, sign + start + _CHUNK


def recip_scales(step: int = 61) -> bool:
    """Whether every binade, of both signs, gives the results of [1, 2), moved; zeros where that is tiny.

    Every ``step``-th fraction is tried.
    """
    fraction = np.arange(1, 1 << 23, step, dtype=np.uint32)
    base = functions.recip((fraction | np.uint32(_ONE)).view(np.float32)).astype(np.float64)
    for field in range(1, 255):
        moved = base * math.ldexp(1.0, 127 - field)
        moved = np.where(moved < _LEAST, 0.0, moved).astype(np.float32)
        for sign in (0, 1 << 31):
            found = functions.recip((fraction | np.uint32(field << 23 | sign)).view(np.float32))
            if not np.array_equal(found.view(np.uint32), moved.view(np.uint32) | np.uint32(sign)):
                return False
    return True


def _measure(chunk: tuple[str, int, int]) -> Summary:
    return measure(*chunk)


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="worker processes (default: %(default)s)")
    processes = parser.parse_args().processes
    console = Console()
    if not recip_scales():
        raise SystemExit("recip: a binade differs from [1, 2), so measuring that one is not enough")
    table = Table(
        "function", "inputs", "worst error (ulp)", "at x", "correctly rounded", "wrong 0 or inf", "not monotone"
    )
    with ProcessPoolExecutor(processes) as pool:
        for name, inputs in (("exp", exp_inputs), ("recip", recip_inputs)):
            chunks = list(inputs())
            total = Summary()
            for part in track(pool.map(_measure, chunks), description=name, total=len(chunks), console=console):
                total += part
            x = np.array(total.at, np.uint32).view(np.float32)[()]
            share = f"{total.nearest / total.normal:.3%}"
            row = (
                f"{total.inputs}",
                f"{total.worst:.4f}",
                f"{x:.9g} (0x{total.at:08X})",
                share,
                f"{total.edges}",
                f"{total.steps}",
            )
            table.add_row(name, *row)
    console.print(table)


if __name__ == "__main__":
    main()
