"""Programs without races: a builder that puts semaphores and fences where commands touch the same memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from lepton_npu.spec.commands import ADDRESS_REGISTERS, COMMANDS, SEMAPHORES, Engine, Opcode
from lepton_npu.spec.config import ACC_SPACE, NpuConfig

from .accesses import SPACES, Accesses, accesses

__all__ = ["OrderedProgram"]

_MODULUS = 1 << 64
_ENGINES = (Engine.LOAD, Engine.STORE, Engine.QUANT, Engine.MATMUL, Engine.VECTOR)


@dataclass
class _Command:
    opcode: Opcode
    fields: dict[str, int]
    # For each engine the number of its last command that is surely done when this one starts.
    before: np.ndarray
    wait: int = 0
    post: int = 0
    found: Accesses = field(default_factory=Accesses)

    @property
    def engine(self) -> Engine:
        return COMMANDS[self.opcode].engine


class OrderedProgram:
    """A list of commands that gives the same result in every order that its semaphores and fences allow.

    A semaphore in use connects one engine X to one engine Y. Engines finish and start commands in order, so the k-th
    wait of Y is over only when the k-th post of X is made: posts and waits of a channel pair up in order, however many
    are under way. A fence makes all semaphores free again.

    Parameters
    ----------
    config : NpuConfig
    base : int
        Byte address of the memory.
    size : int
        Its bytes.
    rng : numpy.random.Generator
        Chooses between semaphores, fences and NOPs that wait, and makes some waits that nothing needs; address
        registers as the bases of loads and stores.
    semaphores : iterable of int
        Those that may be used.

    Attributes
    ----------
    registers : list of int
        The address registers behind the last command, by number; number 0 is 0.
    """

    def __init__(
        self,
        config: NpuConfig,
        base: int,
        size: int,
        rng: np.random.Generator,
        semaphores: Iterable[int] = range(SEMAPHORES),
    ):
        self.config, self.base, self._rng = config, base, rng
        self._semaphores = list(semaphores)
        self.commands: list[_Command] = []
        self.registers = [0] * (ADDRESS_REGISTERS + 1)
        sizes = {"memory": size // 4, "local": ACC_SPACE + config.acc_rows, "tiles": config.tiles}
        self._written = {space: np.full(sizes[space], -1, np.int32) for space in SPACES}
        self._read = {space: np.full((len(Engine), sizes[space]), -1, np.int32) for space in SPACES}
        self._floor = np.full(len(Engine), -1)
        self._latest: dict[Engine, int] = {}
        self._channels: dict[tuple[Engine, Engine], tuple[int, int]] = {}
        self._free = self._shuffled()

    def _shuffled(self) -> list[int]:
        return [int(number) for number in self._rng.permutation(self._semaphores)]

    def written(self, space: str) -> np.ndarray:
        """Mask of the units that commands have written."""
        return self._written[space] >= 0

    def records(self) -> bytes:
        """The program as it stands in a ring."""
        return b"".join(COMMANDS[c.opcode].pack(**c.fields, wait=c.wait, post=c.post) for c in self.commands)

    def _before(self, engine: Engine) -> np.ndarray:
        """What is surely done when the next command of ``engine`` starts, if that waits for nothing."""
        before = self._floor.copy()
        if engine in self._latest:
            np.maximum(before, self.commands[self._latest[engine]].before, out=before)
        return before

    def _append(self, opcode: Opcode, fields: dict[str, int], before: np.ndarray, wait: int = 0) -> _Command:
        command = _Command(opcode, fields, before, wait)
        self.commands.append(command)
        self._latest[command.engine] = len(self.commands) - 1
        return command

    def fence(self, opcode: Opcode = Opcode.FENCE, **fields: int):
        """A FENCE (or IRQ); sometimes one that also waits for a semaphore."""
        number = len(self.commands)
        _, wait = self._needless_wait()
        self._append(opcode, fields, np.full(len(Engine), number - 1), wait)
        self._floor[:] = number
        self._channels.clear()
        self._free = self._shuffled()

    def _needless_wait(self) -> tuple[np.ndarray, int]:
        """What is done before a command of CONTROL, and what it waits for: sometimes the last one of an engine."""
        posters = [engine for engine in self._latest if engine != Engine.CONTROL]
        if posters and self._rng.random() < 0.3:
            source = posters[int(self._rng.integers(len(posters)))]
            before, edges = self._plan(Engine.CONTROL, {source: self._latest[source]})
            if self._fits(edges, Engine.CONTROL):
                return before, self._connect(edges, Engine.CONTROL)
        return self._before(Engine.CONTROL), 0

    def address(self, number: int, value: int, add: bool = False):
        """Set an address register, or add to it; sometimes with a wait. Values are taken modulo 2^64."""
        before, wait = self._needless_wait()
        self._append(Opcode.ADDRESS, {"number": number, "value": value % _MODULUS, "add": int(add)}, before, wait)
        np.maximum(self._floor, before, out=self._floor)
        self.registers[number] = (value + (self.registers[number] if add else 0)) % _MODULUS

    def control(self, opcode: Opcode, *, wait: int = 0, post: int = 0, writes: Accesses | None = None, **fields: int):
        """A command of CONTROL with semaphores that are of no channel; ``writes`` is what its body leaves behind.

        Nothing may be under way that meets the body, and a fence must follow.
        """
        command = self._append(opcode, fields, self._before(Engine.CONTROL), wait)
        command.post = post
        for space, units in (writes or Accesses()).writes.items():
            self._written[space][units] = len(self.commands) - 1

    def _plan(self, sink: Engine, needs: dict[Engine, int]) -> tuple[np.ndarray, list[int]]:
        """The commands that the next one of ``sink`` must wait for, and what is done before it then."""
        before, edges = self._before(sink), []
        for source, poster in sorted(needs.items(), key=lambda item: -item[1]):
            if poster > before[source]:
                edges.append(poster)
                np.maximum(before, self.commands[poster].before, out=before)
                before[source] = poster
        return before, edges

    def _fits(self, edges: list[int], sink: Engine) -> bool:
        """Whether there are semaphores enough for ``edges`` to ``sink``."""
        return sum((self.commands[k].engine, sink) not in self._channels for k in edges) <= len(self._free)

    def _connect(self, edges: list[int], sink: Engine) -> int:
        """Let the commands ``edges`` post to the next command of ``sink``; the mask to wait for."""
        wait = 0
        for poster in edges:
            channel = (self.commands[poster].engine, sink)
            number, last = self._channels[channel] if channel in self._channels else (self._free.pop(), -1)
            assert poster > last, "an earlier wait covers this one"
            self._channels[channel] = (number, poster)
            self.commands[poster].post |= 1 << number
            wait |= 1 << number
        return wait

    def _needs(self, engine: Engine, found) -> dict[Engine, int]:
        """Last command of every other engine that touches the same units."""
        needs: dict[Engine, int] = {}
        for units, table in [(found.reads, self._written), (found.writes, self._written)]:
            for space, addresses in units.items():
                for writer in np.unique(table[space][addresses]).tolist():
                    if writer >= 0:
                        source = self.commands[writer].engine
                        needs[source] = max(needs.get(source, -1), writer)
        for space, addresses in found.writes.items():
            for source in _ENGINES:
                if (reader := int(self._read[space][source][addresses].max())) >= 0:
                    needs[source] = max(needs.get(source, -1), reader)
        needs.pop(engine, None)
        return needs

    def add(self, opcode: Opcode, *, base: int | None = None, step: int = 0, rounds: int = 1, **fields: int):
        """Add a command of an engine, behind all that it depends on. Fields not given are as in `Command.pack`.

        The address of a LOAD or STORE is the one with its register ``base``, by default a random one. In the body of a
        loop of so many ``rounds`` the register grows by ``step`` in each.
        """
        engine = COMMANDS[opcode].engine
        fields = {field.name: max(field.low, 0) for field in COMMANDS[opcode].body} | fields
        found = accesses(self.config, opcode, fields, self.base)
        if "address" in fields:
            for number in range(1, rounds):
                later = fields | {"address": fields["address"] + number * step}
                found = found.union(accesses(self.config, opcode, later, self.base))
            if base is None:
                base = int(self._rng.integers(len(self.registers))) if self._rng.random() < 0.5 else 0
            fields |= {"base": base, "address": (fields["address"] - self.registers[base]) % _MODULUS}
        needs = self._needs(engine, found)
        style = self._rng.random()
        last = list(self._latest)[int(self._rng.integers(len(self._latest)))] if self._latest else engine
        if style > (0.9 if found.reads or found.writes else 0.5) and last != engine:
            needs[last] = self._latest[last]  # a wait that nothing needs
        before, edges = self._plan(engine, needs)
        if edges and style < 0.12:
            if style < 0.06:
                self.fence()
            else:
                self.nop(needs)
            before, edges = self._plan(engine, needs)
        if not self._fits(edges, engine):
            self.fence()
            before, edges = self._plan(engine, needs)
        wait = self._connect(edges, engine)
        self._append(opcode, fields, before, wait).found = found
        number = len(self.commands) - 1
        for space, addresses in found.reads.items():
            self._read[space][engine][addresses] = number
        for space, addresses in found.writes.items():
            self._written[space][addresses] = number

    def nop(self, needs: dict[Engine, int]):
        """A NOP that holds back later commands until those of ``needs`` are done; a FENCE if semaphores are short."""
        needs = {source: number for source, number in needs.items() if source != Engine.CONTROL}
        before, edges = self._plan(Engine.CONTROL, needs)
        if not self._fits(edges, Engine.CONTROL):
            self.fence()
            return
        self._append(Opcode.NOP, {}, before, self._connect(edges, Engine.CONTROL))
        np.maximum(self._floor, before, out=self._floor)
