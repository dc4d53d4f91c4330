"""Programs on a backend's core: their records go into memory once, and a ring of a few commands runs them."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import numpy as np
from lepton_npu.spec.config import RECORD_BYTES

from .backend import RING_LOG2, Backend
from .driver import CoreFaultError
from .places import Places
from .program import Program
from .training.programs import Looped

__all__ = ["Launcher"]

_CODE_BYTES = 1 << 20
_LINE = 64


class Launcher:
    """Keeps programs in the part of the memory behind the ring, and runs them.

    Parameters
    ----------
    backend : Backend

    Attributes
    ----------
    end : int
        Offset of the first byte of memory that is neither ring nor code.
    places : Places
        What faults are told by: ring and programs; others add what is theirs.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._placed: dict[bytes, int] = {}
        self._addresses: WeakKeyDictionary[Program, int] = WeakKeyDictionary()  # packing records takes time
        self._next = -(-(RECORD_BYTES << RING_LOG2) // _LINE) * _LINE
        self.end = self._next + _CODE_BYTES
        self.places = Places()
        self.places.add(0, RECORD_BYTES << RING_LOG2, "command ring")
        self.places.add(self._next, _CODE_BYTES, "programs")

    def _place(self, program: Program) -> int:
        """Byte address of a program's records."""
        if (address := self._addresses.get(program)) is not None:
            return address
        records = program.records()
        if records not in self._placed:
            end = self._next + len(records)
            if end > self.end:
                raise RuntimeError(f"programs take more than the {_CODE_BYTES} bytes of code")
            self._backend.memory[self._next : end] = np.frombuffer(records, np.uint8)
            self._placed[records] = self._backend.base + self._next
            self._next = end
        self._addresses[program] = self._placed[records]
        return self._placed[records]

    def run_once(self, registers: dict[int, int], program: Program):
        """Run a program as soon as possible; each address register is set just before the first command that uses it.

        If it fits it runs out of the ring: a REPEAT would be fetched first, and the program only then. Errors as `run`.
        """
        if len(registers) + len(program) + 1 > 1 << RING_LOG2:
            self.run(registers, [program])
            return
        ring, unset = Program(self._backend.config), dict(registers)
        for number, (_, fields) in enumerate(program.commands()):
            register = fields.get("base", 0)
            if register in unset:
                ring.address(register=register, value=self._backend.base + unset.pop(register))
            ring.extend(program.part(range(number, number + 1)))
        ring.irq(1)
        self._launch(ring)

    def _launch(self, ring: Program):
        try:
            self._backend.run(ring.records())
        except CoreFaultError as error:
            where = self.places.of(error.fault, self._backend.base)
            raise CoreFaultError(error.fault, where) from error

    def run(
        self, registers: dict[int, int], once: Iterable[Program] = (),
        looped: Iterable[tuple[Looped, int, dict[int, int]]] = (), seed: int | None = None,
    ):  # fmt: skip
        """Run programs, and loops with their counts and address registers (offsets in memory), one after another.

        ``seed`` is a state for the generator of stochastic rounding, set before everything else.

        Raises
        ------
        CoreFaultError
            If the core stops with a fault.
        """
        ring = Program(self._backend.config)
        if seed is not None:
            ring.seed(seed)

        def set_registers(values: dict[int, int]):
            for register, offset in values.items():
                ring.address(register=register, value=self._backend.base + offset)

        def run(program: Program, count: int = 1):
            if len(program):
                ring.repeat(program, address=self._place(program), count=count)

        set_registers(registers)
        for program in once:
            run(program)
            ring.fence()
        for loop, count, values in looped:
            set_registers(values)
            run(loop.before)
            ring.fence()
            credits = list(loop.body.credits)
            for level in range(max(credits)):
                ring.nop(post=[s for s, credit in enumerate(credits) if credit > level])
            run(loop.body.program, count)
            ring.fence()
            for level in range(max(credits)):
                ring.nop(wait=[s for s, credit in enumerate(credits) if credit > level])
            run(loop.after)
        ring.irq(1)
        self._launch(ring)
