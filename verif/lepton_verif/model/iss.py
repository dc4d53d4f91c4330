"""Instruction-set simulator: the core's commands on the core's memories, bit for bit, without its timing.

A command is one atomic step here. Engines take their commands in order and run in an order of this simulator's
choosing: always the same one, or with ``schedule_seed`` a random one, so that a program whose result depends on an
order that its semaphores do not enforce shows different results for different seeds.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from lepton_npu.spec.commands import (
    ADDRESS_REGISTERS,
    RESUMABLE,
    SEED_AT_RESET,
    SEMAPHORE_MAX,
    SEMAPHORES,
    Engine,
    FaultCause,
    Opcode,
    decode,
)
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_npu.spec.translation import Access
from numpy.typing import NDArray

from .iss_dma import prepare_load, prepare_store
from .iss_matmul import prepare_matmul
from .iss_quant import prepare_quant, prepare_seed
from .iss_space import AddressSpace
from .iss_state import CoreState, EngineFaultError, byte_view
from .iss_vector import prepare_vector

__all__ = ["Iss", "IssFault"]

_ENGINES = (Engine.LOAD, Engine.STORE, Engine.QUANT, Engine.MATMUL, Engine.VECTOR)
_TRANSFERS = {Opcode.LOAD: prepare_load, Opcode.STORE: prepare_store}
_PREPARE = {
    Opcode.QUANT: prepare_quant,
    Opcode.SEED: prepare_seed,
    Opcode.MATMUL: prepare_matmul,
    Opcode.VECTOR: prepare_vector,
}
_CACHE_LIMIT = 1 << 14
_COUNT_MASK = (1 << 32) - 1
_ADDRESS_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class IssFault:
    """The first fault: what, which engine, the command's index, and the address (0 where there is none).

    The index is the number of commands executed before it since reset, those of bodies included.
    """

    cause: FaultCause
    engine: Engine
    index: int
    address: int = 0

    def __str__(self) -> str:
        return f"{self.cause.name} in {self.engine.name}, command {self.index}, address 0x{self.address:x}"


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A record after the decoder's checks.

    ``execute`` has all local addresses computed; ``transfer`` is that of LOAD and STORE, and takes the byte address,
    which ``address`` and register ``base`` give. A ``control`` command is done in the decoder; a ``fence`` waits there
    for all engines.
    """

    opcode: Opcode
    engine: Engine
    control: bool
    fence: bool
    fields: dict[str, int]
    waits: tuple[int, ...]
    posts: tuple[int, ...]
    base: int
    address: int
    execute: Callable[[CoreState], None] | None
    transfer: Callable[[CoreState, int], None] | None


@dataclass(slots=True)
class _Issued:
    index: int
    decoded: _Decoded
    address: int


@dataclass(slots=True)
class _Loop:
    """A REPEAT that runs: its index and posts, where it is, and the records that it has read."""

    index: int
    posts: tuple[int, ...]
    address: int
    left: int
    body: list[_Decoded | None]
    position: int = 0


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(number for number in range(SEMAPHORES) if mask >> number & 1)


class Iss:
    """One core and its host memory.

    Parameters
    ----------
    config : NpuConfig
    memory : bytearray or numpy.ndarray of uint8
        Host memory; read and written in place. Accesses outside it are bus errors.
    base : int
        Byte address of ``memory[0]``.
    schedule_seed : int or None
        Seed of a random order of the engines; None for a fixed order.

    Attributes
    ----------
    state : CoreState
        Vector memory, accumulators, tiles, exponents.
    head, tail : int
        Records of the ring fetched, and announced, modulo 2^32.
    index : int
        Index of the next command: records fetched, from the ring and from bodies, modulo 2^32.
    registers : list of int
        Address registers by number; number 0 is always 0.
    tag, irq : int, bool
        TAG register; interrupt line.
    fault : IssFault or None
    semaphores : list of int
    """

    def __init__(
        self,
        config: NpuConfig,
        memory: bytearray | NDArray[np.uint8],
        *,
        base: int = 0,
        schedule_seed: int | None = None,
    ):
        self.config = config
        self.state = CoreState(config, byte_view(memory), base)
        self._random = None if schedule_seed is None else random.Random(schedule_seed)
        if self._random is not None:
            # Some engines much slower than others: that shows more orders than equal chances do.
            self._weights = {engine: 32.0 ** self._random.random() for engine in Engine}
        self._cache: dict[bytes, _Decoded] = {}
        self.ring, self.ring_log2 = 0, 0
        self.tag = 0
        self.soft_reset()

    @property
    def commands(self) -> dict[Opcode, int]:
        """Commands finished since reset, by opcode."""
        return {opcode: self._finished[opcode] for opcode in Opcode}

    @property
    def memory(self) -> NDArray[np.uint8]:
        """Host memory."""
        return self.state.memory

    def soft_reset(self):
        """Clear all but memories, ring and TAG: counts, semaphores, address registers, commands, a loop, the fault.

        The generator of stochastic rounding begins anew.
        """
        self.state.generator = SEED_AT_RESET
        self.head = self.tail = self.index = 0
        self.registers = [0] * (ADDRESS_REGISTERS + 1)
        self.irq = False
        self.fault: IssFault | None = None
        self.semaphores = [0] * SEMAPHORES
        self._finished = [0] * 256
        self._queues: list[deque[_Issued]] = [deque() for _ in Engine]  # CONTROL's stays empty
        self._pending: _Issued | None = None
        self._loop: _Loop | None = None
        self._ending: _Loop | None = None  # its last record has been fetched

    def start(self, ring: int, ring_log2: int):
        """Set the ring: byte address, and log2 of its records."""
        if ring % RECORD_BYTES:
            raise ValueError(f"ring must be a multiple of {RECORD_BYTES}, not 0x{ring:x}")
        self.ring, self.ring_log2 = ring, ring_log2

    def translate(self, root: int | None):
        """Take addresses from now on for virtual ones of the table with root page ``root``; None: for physical ones."""
        self.state.space = None if root is None else AddressSpace(self.state, root)

    def invalidate(self):
        """Forget every translation."""
        if self.state.space is not None:
            self.state.space.forget()

    def doorbell(self, tail: int):
        """Announce records up to count ``tail``; RING_OVERRUN if that is more than a ring ahead of ``head``."""
        self.tail = tail & _COUNT_MASK
        if (self.tail - self.head) & _COUNT_MASK > 1 << self.ring_log2 and self.fault is None:
            self._stop(FaultCause.RING_OVERRUN, Engine.CONTROL, self.index, 0)

    def run(self, ring: int | None = None, ring_log2: int = 16, records: int = 0) -> IssFault | None:
        """Run until nothing is left to do, or to the first fault, which is returned.

        With ``ring``, first `start` and announce ``records`` records more. Commands that wait for ever end in WATCHDOG.
        """
        if ring is not None:
            self.start(ring, ring_log2)
            self.doorbell(self.tail + records)
        with np.errstate(all="ignore"):
            if self._random is None:
                self._run_in_turn()
            else:
                self._run_at_random(self._random)
        if self.fault is None:
            waiting = [queue[0] for queue in self._queues if queue]
            if self._pending is not None:
                waiting.append(self._pending)
            if waiting:
                oldest = min(waiting, key=lambda issued: (issued.index - self.index) & _COUNT_MASK)
                self._stop(FaultCause.WATCHDOG, oldest.decoded.engine, oldest.index, 0)
        return self.fault

    def resume(self) -> IssFault | None:
        """Go on at the command at fault, which runs as if it had not been begun, as `run` does.

        Without effect, and with the same fault, if its cause is none of RESUMABLE.
        """
        if self.fault is not None and self.fault.cause in RESUMABLE:
            self.fault, self.irq = None, False
        return self.run()

    def _run_in_turn(self):
        """All that the decoder can do, then a command of each engine that can start one, until nothing moves."""
        moved = True
        while moved and self.fault is None:
            moved = False
            while self.fault is None and (self._can_issue() if self._pending is not None else self._can_fetch()):
                self._fetch() if self._pending is None else self._issue()
                moved = True
            for queue in self._queues:
                if queue and self.fault is None and self._available(queue[0].decoded):
                    self._complete(queue.popleft())
                    moved = True

    def _run_at_random(self, rng: random.Random):
        """One step of the decoder or of an engine at a time, until nothing moves."""
        while self.fault is None:
            ready = [
                engine for engine in _ENGINES
                if (queue := self._queues[engine]) and self._available(queue[0].decoded)
            ]  # fmt: skip
            if self._can_fetch() or self._can_issue():
                ready.append(Engine.CONTROL)
            if not ready:
                break
            engine = rng.choices(ready, [self._weights[engine] for engine in ready])[0]
            if engine != Engine.CONTROL:
                self._complete(self._queues[engine].popleft())
            elif self._pending is None:
                self._fetch()
            else:
                self._issue()

    def _stop(self, cause: FaultCause, engine: Engine, index: int, address: int):
        self.fault = IssFault(cause, engine, index, address)
        self.irq = True

    def _can_fetch(self) -> bool:
        return self._pending is None and (self._loop is not None or self.head != self.tail)

    def _fetch(self):
        """Read and decode the next record, of the body that runs or of the ring."""
        loop = self._loop
        if loop is None:
            decoded = self._read(self.ring + RECORD_BYTES * (self.head & (1 << self.ring_log2) - 1))
        else:
            decoded = loop.body[loop.position]
            if decoded is None:  # A body does not change while it runs.
                decoded = self._read((loop.address + RECORD_BYTES * loop.position) & _ADDRESS_MASK)
                loop.body[loop.position] = decoded
        if decoded is None:
            return
        address = (decoded.address + self.registers[decoded.base]) & _ADDRESS_MASK
        if decoded.control and decoded.opcode == Opcode.REPEAT:
            if loop is not None:
                self._stop(FaultCause.NESTED_REPEAT, Engine.CONTROL, self.index, 0)
                return
            if address % RECORD_BYTES:
                self._stop(FaultCause.MISALIGNED, Engine.CONTROL, self.index, address)
                return
        self._pending = _Issued(self.index, decoded, address)
        self.index = (self.index + 1) & _COUNT_MASK
        if loop is None:
            self.head = (self.head + 1) & _COUNT_MASK
            return
        loop.position += 1
        if loop.position == len(loop.body):
            loop.position, loop.left = 0, loop.left - 1
            if not loop.left:
                self._loop, self._ending = None, loop

    def _read(self, address: int) -> _Decoded | None:
        """The record at a byte address; None after a fault."""
        place = address
        if self.state.space is not None:
            try:
                place = self.state.space.physical(address, Access.FETCH)
            except EngineFaultError as fault:
                self._stop(fault.cause, Engine.CONTROL, self.index, address)
                return None
        if not self.state.holds(place, RECORD_BYTES):
            self._stop(FaultCause.BUS_FETCH, Engine.CONTROL, self.index, address)
            return None
        start = place - self.state.base
        record = self.state.memory[start : start + RECORD_BYTES].tobytes()
        decoded = self._cache.get(record)
        if decoded is None:
            try:
                decoded = self._decode(record)
            except ValueError as error:
                self._stop(error.args[0], Engine.CONTROL, self.index, 0)
                return None
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            self._cache[record] = decoded
        return decoded

    def _decode(self, record: bytes) -> _Decoded:
        command, fields = decode(record)
        if command.opcode == Opcode.VECTOR and max(fields["lane_bcast"], fields["lane_xor"]) >= self.config.side:
            raise ValueError(FaultCause.ILLEGAL_FIELD, f"lane masks must be below {self.config.side}")
        execute: Callable[[CoreState], None] | None = None
        transfer = _TRANSFERS[command.opcode](self.config, fields) if command.opcode in _TRANSFERS else None
        if prepare := _PREPARE.get(command.opcode):
            try:
                execute = prepare(self.config, fields)
            except EngineFaultError as fault:
                execute = _raiser(fault)
        waits, posts = _bits(fields["wait"]), _bits(fields["post"])
        base, address = fields.get("base", 0), fields.get("address", 0)
        control, fence = command.engine == Engine.CONTROL, command.opcode in (Opcode.FENCE, Opcode.IRQ)
        return _Decoded(
            command.opcode, command.engine, control, fence, fields, waits, posts, base, address, execute, transfer
        )

    def _available(self, decoded: _Decoded) -> bool:
        semaphores = self.semaphores
        for number in decoded.waits:  # noqa: SIM110 (all() of a generator costs more than the loop)
            if not semaphores[number]:
                return False
        return True

    def _can_issue(self) -> bool:
        """Whether the pending record can go to its engine's queue, or, for CONTROL, be done."""
        if self._pending is None:
            return False
        decoded = self._pending.decoded
        if not decoded.control:
            return len(self._queues[decoded.engine]) < self.config.queue_depth
        return self._available(decoded) and not (decoded.fence and any(self._queues))

    def _issue(self):
        issued, self._pending = self._pending, None
        if issued.decoded.control:
            self._complete(issued)
        else:
            self._queues[issued.decoded.engine].append(issued)
        if (loop := self._ending) is not None and self.fault is None:
            self._ending = None
            self._post(loop.posts, Engine.CONTROL, loop.index)

    def _complete(self, issued: _Issued):
        """Take semaphores, act, post."""
        decoded = issued.decoded
        for number in decoded.waits:
            self.semaphores[number] -= 1
        try:
            if decoded.execute is not None:
                decoded.execute(self.state)
            elif decoded.transfer is not None:
                decoded.transfer(self.state, issued.address)
        except EngineFaultError as fault:
            self._stop(fault.cause, decoded.engine, issued.index, fault.address)
            # If it is resumed the command has its semaphores. A fetch has changed nothing, and is made again.
            again = _Issued(issued.index, replace(decoded, waits=()), issued.address)
            self._queues[decoded.engine].appendleft(again)
            return
        self._finished[decoded.opcode] += 1
        if decoded.control:
            if decoded.opcode == Opcode.REPEAT:
                body: list[_Decoded | None] = [None] * decoded.fields["records"]
                self._loop = _Loop(issued.index, decoded.posts, issued.address, decoded.fields["count"], body)
                return  # posts when the last record has been handed out
            self._act(decoded.opcode, decoded.fields)
        self._post(decoded.posts, decoded.engine, issued.index)

    def _act(self, opcode: Opcode, fields: dict[str, int]):
        """What a command of CONTROL does, but REPEAT."""
        if opcode == Opcode.IRQ:
            self.tag = fields["tag"]
            self.irq = True
        elif opcode == Opcode.ADDRESS:
            before = self.registers[fields["number"]] if fields["add"] else 0
            self.registers[fields["number"]] = (before + fields["value"]) & _ADDRESS_MASK

    def _post(self, numbers: tuple[int, ...], engine: Engine, index: int):
        for number in numbers:
            self.semaphores[number] += 1
            if self.semaphores[number] > SEMAPHORE_MAX:
                self._stop(FaultCause.SEMAPHORE_OVERFLOW, engine, index, 0)
                return


def _raiser(fault: EngineFaultError) -> Callable[[CoreState], None]:
    def execute(_: CoreState):
        raise EngineFaultError(fault.cause, fault.address)

    return execute
