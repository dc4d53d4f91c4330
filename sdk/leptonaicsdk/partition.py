"""What a context has of the memories on the chip."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from lepton_npu.spec.config import NpuConfig

from .errors import InputError

__all__ = ["Partition", "choose_partition"]


@dataclass(frozen=True)
class Partition:
    """Rows of the vector memory, rows of the accumulators, and tiles, by their numbers in the core.

    Each size is a power of two, and each begins at a multiple of its size.
    """

    vmem_rows: range
    acc_rows: range
    tiles: range

    def config(self, core: NpuConfig) -> NpuConfig:
        """What a program in it sees."""
        return core.partition(vmem_rows=len(self.vmem_rows), acc_rows=len(self.acc_rows), tiles=len(self.tiles))


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _text(name: str, part: range) -> str:
    return f"{name} {part.start} to {part.stop - 1}"


def _chosen(name: str, number: int, wanted: int | range | None, whole: int, shares: int, taken: dict[int, range]):
    """A part of a memory of ``whole`` rows for context ``number``."""
    if isinstance(wanted, range):
        if wanted.step != 1 or not wanted or wanted.stop > whole or wanted.start % len(wanted):
            raise InputError(
                f"{name} must begin at a multiple of their number and end below {whole}, not be {wanted} "
                f"(context {number})"
            )
        for other, part in taken.items():
            if _overlap(wanted, part):
                raise InputError(
                    f"{_text(name, wanted)} of context {number} overlap {_text(name, part)} of context {other}"
                )
        return wanted
    size = whole // shares if wanted is None else wanted
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= whole:
        raise InputError(f"{name} must be from 1 to {whole}, or a range, not {wanted!r} (context {number})")
    for start in range(0, whole - size + 1, size):
        part = range(start, start + size)
        if not any(_overlap(part, other) for other in taken.values()):
            return part
    holders = ", ".join(f"context {other} has {_text(name, part)}" for other, part in taken.items())
    raise InputError(f"{name} of context {number} must be {size} in one piece, and {holders}")


def choose_partition(
    core: NpuConfig, number: int, wanted: Mapping[str, int | range | None], taken: Mapping[int, Partition]
) -> Partition:
    """A partition for context ``number`` beside those that others have.

    Parameters
    ----------
    core : NpuConfig
    number : int
    wanted : dict
        By the names of `Partition`: which rows or tiles; or how many, and then the first free place is taken; or None
        for an equal share.
    taken : dict of int to Partition
        By the number of their context.

    Raises
    ------
    InputError
        For parts that overlap, naming both contexts, and for sizes that a core cannot have.
    """
    parts = {
        field.name: _chosen(
            field.name, number, wanted.get(field.name), getattr(core, field.name), core.contexts,
            {other: getattr(partition, field.name) for other, partition in taken.items()},
        )
        for field in fields(Partition)
    }  # fmt: skip
    partition = Partition(**parts)
    if core.contexts == 1 and any(len(part) != getattr(core, name) for name, part in parts.items()):
        raise InputError(f"a core with one context has no partitions: it has all of the memories (context {number})")
    try:
        partition.config(core)
    except ValueError as error:
        raise InputError(f"{error} (context {number})") from None
    return partition
