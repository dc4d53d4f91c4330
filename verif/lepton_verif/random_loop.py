"""Random loops: a body with its own semaphores and fences, and the REPEAT commands that run it.

Commands of different rounds are ordered as well. Where those of one engine meet in any round what those of another
touch in an earlier one, the last of the latter posts a semaphore of its own (it is *carried*) that the first of the
former waits for in the next round. The first round finds a post that was made before the loop, so each round takes as
much as it gives; what the last round leaves is taken behind the loop.
"""

from typing import TYPE_CHECKING

import numpy as np
from lepton_npu.spec.commands import ADDRESS_REGISTERS, SEMAPHORES, Engine, Opcode
from lepton_npu.spec.config import RECORD_BYTES

from .accesses import Accesses
from .ordering import OrderedProgram

if TYPE_CHECKING:
    from .random_program import Generator

__all__ = ["add_loop", "random_register"]

_ROUNDS = (1, 2, 2, 3, 4)
_COMMANDS = (1, 2, 3, 4, 6)
_MASK = (1 << 64) - 1


def random_register(rng: np.random.Generator) -> tuple[int, int, bool]:
    """An address register, a value for it, and whether that is added."""
    value = int(rng.integers(1 << 63)) if rng.random() < 0.5 else int(rng.integers(-256, 256))
    return int(rng.integers(1, ADDRESS_REGISTERS + 1)), value, bool(rng.integers(2))


class _Body:
    """A body under construction: ``rounds`` in all, in which registers grow by ``steps``."""

    def __init__(self, generator: "Generator", rounds: int, semaphores: list[int]):
        self.generator, self.rounds, self.semaphores = generator, rounds, semaphores
        rng, main = generator.rng, generator.program
        self.program = OrderedProgram(main.config, main.base, generator.memory.size, rng, semaphores)
        self.program.registers = list(main.registers)
        beat = main.config.bus_bytes
        numbers = rng.permutation(np.arange(1, ADDRESS_REGISTERS + 1))[: generator.pick(1, 1, 2, 3)]
        self.steps = {int(n): beat * generator.pick(-9, -2, -1, 1, 2, 4, 16) for n in numbers}
        self.carried = 0

    def fill(self):
        """Draw commands, and the steps of the registers between them."""
        rng = self.generator.rng
        steps = [int(number) for number in rng.permutation(list(self.steps))]
        for _ in range(self.generator.pick(*_COMMANDS)):
            if steps and rng.random() < 0.3:
                self._step(steps.pop())
            if (command := self.generator.command(self.program)) is not None:
                self._add(*command)
        for number in steps:
            self._step(number)
        if rng.random() < 0.25 or not self._carry():
            self.program.fence()

    def _step(self, number: int):
        self.program.address(number, self.steps[number], add=True)

    def _add(self, opcode: Opcode, fields: dict[str, int]):
        """A command that is inside its region in every round, if it can be."""
        if opcode not in (Opcode.LOAD, Opcode.STORE):
            self.program.add(opcode, **fields)
            return
        base = int(self.generator.rng.choice([0, *self.steps, *self.steps]))
        step = self.steps.get(base, 0)
        low, high = self.generator.scratch if opcode == Opcode.STORE else self.generator.data
        ends = [fields["address"] + (self.rounds - 1) * step * k for k in (0, 1)]
        ends = [end + (fields["rows"] - 1) * fields["stride"] * k for end in ends for k in (0, 1)]
        if min(ends) >= low and max(ends) + 4 * fields["words"] <= high:
            self.program.add(opcode, base=base, step=step, rounds=self.rounds, **fields)

    def _carry(self) -> bool:
        """Order the commands of a round behind those of the ones before; False if there are too few semaphores."""
        commands = [command for command in self.program.commands if command.engine != Engine.CONTROL]
        edges: dict[tuple[Engine, Engine], tuple[int, int]] = {}
        for later, waiter in enumerate(commands):
            for earlier, poster in enumerate(commands):
                if poster.engine != waiter.engine and poster.found.meets(waiter.found):
                    channel = poster.engine, waiter.engine
                    last, first = edges.get(channel, (earlier, later))
                    edges[channel] = max(last, earlier), min(first, later)
        used = 0
        for command in self.program.commands:
            used |= command.post
        free = [number for number in self.semaphores if not used >> number & 1]
        if len(edges) > len(free):
            return False
        for number, (poster_index, waiter_index) in zip(free, edges.values()):
            commands[poster_index].post |= 1 << number
            commands[waiter_index].wait |= 1 << number
            self.carried |= 1 << number
        return True

    @property
    def writes(self) -> Accesses:
        """What the loop leaves behind."""
        found = Accesses()
        for command in self.program.commands:
            found = found.union(Accesses(writes=command.found.writes))
        return found


def add_loop(generator: "Generator"):
    """Add a loop between fences; its body is put into the generator's memory, from ``bodies_end`` down."""
    rng, main = generator.rng, generator.program
    rounds = generator.pick(*_ROUNDS)
    start, end, *semaphores = (1 << int(number) for number in rng.permutation(SEMAPHORES))
    body = _Body(generator, rounds, [mask.bit_length() - 1 for mask in semaphores])
    body.fill()
    records = body.program.records()
    generator.bodies_end -= len(records)
    offset = generator.bodies_end - main.base
    generator.memory[offset : offset + len(records)] = np.frombuffer(records, np.uint8)

    main.fence()
    main.control(Opcode.NOP, post=body.carried | start)
    # Sometimes two REPEATs, one behind the other.
    first = int(rng.integers(1, rounds)) if rounds > 1 and rng.random() < 0.4 else 0
    waits = start
    for count in (first, rounds - first):
        if count:
            base = int(rng.integers(ADDRESS_REGISTERS + 1))
            address = (generator.bodies_end - main.registers[base]) & _MASK
            fields = {"base": base, "address": address, "records": len(records) // RECORD_BYTES, "count": count}
            main.control(Opcode.REPEAT, wait=waits, post=end, writes=body.writes, **fields)
            waits = end
            for number, step in body.steps.items():
                main.registers[number] = (main.registers[number] + count * step) & _MASK
    main.fence()
    main.control(Opcode.NOP, wait=body.carried | end)
