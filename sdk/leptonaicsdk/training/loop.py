"""A loop body whose iterations overlap: the semaphores that order it, and the credits that it starts with."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from lepton_npu.spec.commands import SEMAPHORES
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig

from leptonaicsdk.program import Program
from leptonaicsdk.schedule import Schedule

__all__ = ["LoopBody", "loop_body"]

_UNROLLED = 8


@dataclass(frozen=True)
class LoopBody:
    """One iteration of a loop.

    Attributes
    ----------
    program : Program
        Its commands, for REPEAT.
    credits : tuple of int
        Posts to each semaphore that have no wait yet when an iteration starts: give them before the loop, take them
        after it.
    """

    program: Program
    credits: tuple[int, ...]


def loop_body(config: NpuConfig, emit: Callable[[Schedule], None]) -> LoopBody:
    """Order the commands that ``emit`` adds as if they were repeated for ever.

    Iterations are put one behind another, each command ordered behind those it depends on, in its own iteration and in
    the ones before. From some iteration on the waits and posts are always the same; these are the body's. An engine
    starts its commands in order and the k-th wait on a semaphore is answered by the k-th post, so what the loop needs
    besides is the number of posts that are ahead of their waits where an iteration starts. At the first iteration these
    posts stand for commands that are done because everything before the loop is (a FENCE).

    Raises
    ------
    ValueError
        If no steady state is found, which a body whose commands stay the same does not do.
    """
    schedule = Schedule(config)
    program = schedule.program
    starts = [0]
    for _ in range(_UNROLLED):
        emit(schedule)
        starts.append(len(program))
    size = starts[1]
    if any(start != i * size for i, start in enumerate(starts)):
        raise ValueError("emit must add the same commands every time")
    records = program.records()
    parts = [records[a * RECORD_BYTES : b * RECORD_BYTES] for a, b in itertools.pairwise(starts)]
    steady = _UNROLLED // 2
    # Posts of an iteration are complete once the next ones have been added.
    if not parts[steady - 1] == parts[steady] == parts[steady + 1]:
        raise ValueError(f"the loop has no steady state within {_UNROLLED} iterations")
    ahead = [0] * SEMAPHORES
    for number in range(starts[steady]):
        waits, posts = program.semaphores(number)
        for semaphore in range(SEMAPHORES):
            ahead[semaphore] += (posts >> semaphore & 1) - (waits >> semaphore & 1)
    return LoopBody(program.part(range(starts[steady], starts[steady + 1])), tuple(ahead))
