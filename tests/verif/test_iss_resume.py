"""The instruction-set simulator goes on after a fault: random programs whose pages are taken away and given back."""

from collections import Counter

import numpy as np
import pytest
from lepton_npu.spec.commands import RESUMABLE, Engine, FaultCause
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.translation import PAGE_BYTES, PPN_LSB, PTE_BYTES, Access, Pte
from lepton_verif.job import Job
from lepton_verif.model.iss import Iss
from lepton_verif.model.translation import translate
from lepton_verif.random_program import random_job
from lepton_verif.translated_job import translated

from tests.verif.iss_machine import DATA, Machine
from tests.verif.test_iss import load, store

TINY = PRESETS["tiny"]
FAR = (1 << TINY.addr_width - 12) - 1
BEYOND = 1 << TINY.addr_width - 12
CLEAR = (Pte.V, Pte.R | Pte.W, Pte.U, Pte.A, Pte.W, Pte.D)
"""What is taken from an entry; with the last two, writes only are refused."""


class Pages:
    """Leaves of a job's page table in a memory, which are spoilt at random and mended one by one."""

    def __init__(self, job: Job, memory: np.ndarray, rng: np.random.Generator):
        self._job, self._words, self._rng = job, memory.view("<u8"), rng
        self._spoilt: dict[int, tuple[int, int]] = {}
        for page in np.unique(rng.integers(0, memory.size // PAGE_BYTES + 2, 12)):
            address = job.ring + int(page) * PAGE_BYTES
            if (place := self._leaf(address)) is not None:
                self._spoil(address, place)

    def _leaf(self, address: int) -> int | None:
        """Index of the entry that maps an address."""
        places = []

        def word(at: int) -> int:
            places.append((at - self._job.base) // PTE_BYTES)
            return int(self._words[places[-1]])

        found = translate(word, self._job.root, address, Access.READ, addr_width=TINY.addr_width)
        return None if found.physical is None else places[-1]

    def _spoil(self, address: int, place: int):
        bits = int(self._words[place])
        kind = int(self._rng.integers(len(CLEAR) + 2))
        flags = bits & (1 << PPN_LSB) - 1
        spoilt = bits & ~CLEAR[kind] if kind < len(CLEAR) else flags | (FAR, BEYOND)[kind - len(CLEAR)] << PPN_LSB
        self._words[place] = spoilt
        self._spoilt[address // PAGE_BYTES] = (place, bits)

    def mend(self, address: int):
        place, bits = self._spoilt.pop(address // PAGE_BYTES)
        self._words[place] = bits

    def mend_all(self):
        for place, bits in self._spoilt.values():
            self._words[place] = bits


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_program_ends_as_if_no_page_had_been_missing(seed, scheduled):
    causes: Counter[FaultCause] = Counter()
    for number in range(15):
        rng = np.random.default_rng([seed, number])
        job = translated(random_job(TINY, rng), rng)
        memory = job.memory.copy()
        pages = Pages(job, memory, rng)
        iss = Iss(TINY, memory, base=job.base, schedule_seed=number if scheduled else None)
        iss.translate(job.root)
        fault = iss.run(job.ring, job.ring_log2, job.records)
        while fault is not None:
            assert fault.cause in RESUMABLE
            assert iss.irq
            fault = iss.resume()  # nothing was mended; but another engine's fault may be first this time
            assert fault is not None
            causes[fault.cause] += 1
            pages.mend(fault.address)
            iss.invalidate()
            fault = iss.resume()
        pages.mend_all()
        assert (iss.tag, iss.semaphores, iss.irq) == (job.tag, [0] * 16, True)
        job.check(memory, replay=f"seed {seed}, job {number}")
    assert {FaultCause.PAGE_READ, FaultCause.PAGE_WRITE, FaultCause.PAGE_FETCH} <= set(causes), causes
    assert causes.keys() & {FaultCause.BUS_READ, FaultCause.BUS_WRITE, FaultCause.BUS_FETCH}, causes


def test_a_command_that_is_resumed_takes_its_semaphores_once():
    machine = Machine()
    fault = machine.run(load(0, wait=1), store(DATA, post=1))
    assert (fault.cause, fault.engine) == (FaultCause.BUS_READ, Engine.LOAD)
    assert machine.iss.semaphores[0] == 0
    assert machine.iss.resume() == fault
    assert machine.iss.semaphores[0] == 0


def test_other_faults_stay():
    machine = Machine()
    fault = machine.run(load(1))
    assert fault.cause == FaultCause.MISALIGNED
    assert fault.cause not in RESUMABLE
    assert machine.iss.resume() == fault
    assert machine.iss.irq
