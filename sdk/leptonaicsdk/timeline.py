"""When the commands of a loop run, by the cycle model: engines, queues and semaphores, without running anything."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lepton_npu.spec.commands import COMMANDS, Engine
from lepton_npu.spec.config import NpuConfig

from .cycles import ACCUMULATE, DECODE, ISSUE, POST, START, Timing, record_cycles, timing
from .memory import Memory
from .program import Program

__all__ = ["EngineCycles", "LoopCycles", "loop_cycles"]

_FIRST, _ITERATIONS = 4, 8  # from the first one the iterations are alike; those up to the last are averaged


@dataclass(frozen=True)
class EngineCycles:
    """Of an engine in an iteration: how many commands, and cycles in which it holds one."""

    commands: int
    busy: float


@dataclass(frozen=True)
class LoopCycles:
    """Of an iteration in the middle of a loop.

    Attributes
    ----------
    cycles : float
        From one iteration to the next.
    engines : dict of Engine to EngineCycles
        LOAD, STORE, QUANT, MATMUL, VECTOR.
    """

    cycles: float
    engines: dict[Engine, EngineCycles]


class _Held(NamedTuple):
    """From ``first`` to ``end`` a half of the accumulators is read in a ``share`` of the cycles, before all others."""

    first: float
    end: float
    share: float


def _stretched(first: float, stream: float, held: Sequence[_Held]) -> float:
    """The end of ``stream`` cycles of reading from ``first`` on."""
    now, left = first, stream
    for busy in held:
        if busy.end <= now:
            continue
        free = max(busy.first - now, 0)
        if left <= free:
            break
        left, now = left - free, max(now, busy.first)
        slow = 1 - busy.share
        if left <= (busy.end - now) * slow:
            return now + left / slow
        left, now = left - (busy.end - now) * slow, busy.end
    return now + left


class _Engine:
    """What is known of an engine at a point of the program."""

    def __init__(self):
        self.started: list[float] = []
        self.next_start = 0.0  # the least of the next command
        self.stream = self.stream_end = 0.0  # of the latest one
        self.end = 0.0
        self.busy = 0.0

    def run(self, earliest: float, cycles: Timing, held: Sequence["_Held"] = ()) -> float:
        """Start a command; the cycle in which it is done. It goes on only as what holds it back lets it."""
        start = max(earliest, self.next_start)
        self.stream = max(start + cycles.fill, self.stream_end)
        self.stream_end = _stretched(self.stream, cycles.stream, held)
        end = max(self.stream_end + cycles.drain, self.end)
        self.busy += end - max(start, self.end)
        self.next_start = max(start + START, self.stream_end - cycles.overlap)
        self.end = end
        self.started.append(start)
        return end


def loop_cycles(config: NpuConfig, memory: Memory, body: Program, credits: Sequence[int]) -> LoopCycles:
    """Estimate a loop whose body is ``body`` and which begins with ``credits`` posts of each semaphore.

    Each engine runs its commands in order, each as long as `cycles.timing` says; a command starts when the posts that
    it waits for are there. The sequencer goes on while the queues have room.
    """
    engines: dict[Engine, _Engine] = {engine: _Engine() for engine in Engine if engine != Engine.CONTROL}
    posts: dict[int, deque[float]] = defaultdict(deque)
    for semaphore, credit in enumerate(credits):
        posts[semaphore].extend([0.0] * credit)
    commands = [
        (COMMANDS[opcode].engine, timing(config, memory, opcode, fields), fields["wait"], fields["post"])
        if COMMANDS[opcode].engine != Engine.CONTROL
        else None
        for opcode, fields in body.commands()
    ]
    held: dict[int | None, list[_Held]] = defaultdict(list)
    interval, decoded = record_cycles(config, memory), 0.0
    ends, busy = [], []
    for _ in range(_ITERATIONS):
        for command in commands:
            if command is None:
                decoded += interval
                continue
            kind, cycles, waits, gives = command
            engine = engines[kind]
            # The queue takes a command when there are fewer before it that have not started.
            if len(engine.started) >= config.queue_depth:
                decoded = max(decoded, engine.started[-config.queue_depth] - DECODE)
            decoded += interval
            earliest = decoded + ISSUE
            for semaphore in range(waits.bit_length()):
                if waits >> semaphore & 1:
                    earliest = max(earliest, posts[semaphore].popleft() + POST)
            matmul = cycles.half is not None and kind == Engine.MATMUL
            end = engine.run(earliest, cycles, held[cycles.half] if cycles.half is not None and not matmul else ())
            if matmul:
                # Accumulators are read as their rows leave the array.
                late = cycles.drain - ACCUMULATE
                held[cycles.half].append(_Held(engine.stream + late, engine.stream_end + late, cycles.share))
            for semaphore in range(gives.bit_length()):
                if gives >> semaphore & 1:
                    posts[semaphore].append(end)
        ends.append(max(engine.end for engine in engines.values()))
        busy.append({kind: engine.busy for kind, engine in engines.items()})
    count = _ITERATIONS - _FIRST
    return LoopCycles(
        (ends[-1] - ends[-1 - count]) / count,
        {
            kind: EngineCycles(
                sum(command is not None and command[0] == kind for command in commands),
                (busy[-1][kind] - busy[-1 - count][kind]) / count,
            )
            for kind in engines
        },
    )
