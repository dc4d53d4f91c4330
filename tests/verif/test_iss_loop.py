"""The instruction-set simulator against docs/architecture.md: address registers and REPEAT."""

import numpy as np
import pytest
from lepton_npu.spec.commands import ADDRESS_REGISTERS, Engine, FaultCause, Opcode
from lepton_npu.spec.config import PRESETS, RECORD_BYTES
from lepton_verif.model.iss import Iss

from tests.verif.iss_machine import BASE, DATA, SIZE, Machine, record
from tests.verif.test_iss import NOP, load, stopped, store

TINY = PRESETS["tiny"]
BODY = DATA + 0x1000
TOP64 = 1 << 64


def address(number: int, value: int, add: int = 0, **fields) -> bytes:
    return record(Opcode.ADDRESS, number=number, value=value % TOP64, add=add, **fields)


def repeat(records: int, count: int, address: int = BODY, **fields) -> bytes:
    return record(Opcode.REPEAT, address=address, records=records, count=count, **fields)


def with_body(*records: bytes, at: int = BODY, **options) -> Machine:
    machine = Machine(**options)
    for number, data in enumerate(records):
        start = at - BASE + RECORD_BYTES * number
        machine.memory[start : start + RECORD_BYTES] = np.frombuffer(data, np.uint8)
    return machine


# ---- Address registers.


def test_registers_are_set_and_added_to_modulo_2_64():
    machine = Machine()
    for number in range(1, ADDRESS_REGISTERS + 1):
        assert machine.run(address(number, 100 * number), address(number, -number, add=1)) is None
    assert machine.iss.registers == [0] + [99 * number for number in range(1, 8)]
    machine.run(address(3, TOP64 - 1), address(3, 5, add=1))
    assert machine.iss.registers[3] == 4
    machine.iss.soft_reset()
    assert machine.iss.registers == [0] * 8


@pytest.mark.parametrize("negative", [False, True])
def test_loads_and_stores_add_their_base(negative):
    """Also from an offset that is a negative number, and with what later commands make of the register unseen."""
    for seed in range(10):
        machine = Machine(schedule_seed=seed)
        machine.words[:8] = np.arange(8)
        first, offset = (DATA + 64, 16 - 64) if negative else (16, DATA)
        program = [address(1, first), address(2, 80), load(offset % TOP64, base=1), address(1, 1), record(Opcode.FENCE)]
        assert machine.run(*program, store(DATA, base=2), address(2, 3, add=1)) is None
        assert machine.words[20:24].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
@pytest.mark.parametrize(
    ("value", "offset", "cause", "where"),
    [
        (4, DATA, FaultCause.MISALIGNED, DATA + 4),
        (DATA + 4, 4, None, 0),
        (1, 1 << TINY.addr_width, FaultCause.MISALIGNED, (1 << TINY.addr_width) + 1),
        (8, (1 << TINY.addr_width) - 16, FaultCause.ADDRESS_RANGE, (1 << TINY.addr_width) - 8),
        (-16, 8, FaultCause.ADDRESS_RANGE, TOP64 - 8),
    ],
)
def test_the_sum_is_checked(opcode, value, offset, cause, where):
    fields = {"rows": 1, "words": 4, "address": offset, "base": 7}
    fault = Machine().run(NOP, address(7, value), record(opcode, **fields))
    if cause is None:
        assert fault is None
    else:
        assert stopped(fault) == (cause, Engine(opcode - Opcode.LOAD + Engine.LOAD), 2, where)


def test_address_waits_and_posts_but_not_for_engines():
    machine = Machine()
    assert machine.run(load(wait=1), address(1, 5, post=1)) is None
    fault = machine.run(address(1, 6, wait=2), NOP)
    assert stopped(fault) == (FaultCause.WATCHDOG, Engine.CONTROL, 2, 0)
    assert machine.iss.registers[1] == 5


# ---- REPEAT.


@pytest.mark.parametrize("seed", [None, *range(10)])
def test_a_loop_moves_rows(seed):
    """A body of a load, a store and two steps copies row after row; then the ring goes on."""
    body = [load(0, post=1, base=1), store(0, wait=1, post=2, base=2)]
    body += [address(1, 16, add=1), address(2, 24, add=1), record(Opcode.NOP, wait=2)]
    machine = with_body(*body, schedule_seed=seed)
    machine.words[:20] = np.arange(20)
    program = [address(1, DATA), address(2, DATA + 0x200), repeat(5, 5), record(Opcode.IRQ, tag=7)]
    assert machine.run(*program) is None
    found = np.lib.stride_tricks.sliding_window_view(machine.words[128:158], 4)[::6]
    assert found.ravel().tolist() == list(range(20))
    iss = machine.iss
    assert (iss.tag, iss.head, iss.index) == (7, 4, 4 + 25)
    assert iss.registers[1:3] == [DATA + 80, DATA + 0x200 + 120]
    assert iss.commands[Opcode.LOAD] == 5
    assert iss.commands[Opcode.REPEAT] == 1


def test_the_body_may_come_from_a_register_and_be_the_ring_itself():
    machine = with_body(address(4, 1, add=1))
    program = [address(4, BODY), repeat(1, 3, address=0, base=4), repeat(1, 2, address=0, base=5), NOP]
    assert machine.run(*program[:2]) is None
    assert machine.iss.registers[4] == BODY + 3
    # The ring's own first record, again.
    assert machine.run(address(5, machine.iss.ring), program[2]) is None
    assert machine.iss.registers[4] == BODY


def test_waits_before_the_body_and_posts_behind_its_last_record():
    """The post may not be there for the body itself, and is without what the engines have still to do."""
    machine = with_body(record(Opcode.NOP, wait=4), load(wait=8))
    fault = machine.run(record(Opcode.NOP, post=4), repeat(2, 1, wait=2))
    assert stopped(fault) == (FaultCause.WATCHDOG, Engine.CONTROL, 1, 0)
    assert machine.iss.semaphores[:4] == [0, 0, 1, 0]

    machine = with_body(record(Opcode.NOP, wait=4), load(wait=8))
    fault = machine.run(NOP, repeat(2, 1, post=4))
    assert stopped(fault) == (FaultCause.WATCHDOG, Engine.CONTROL, 2, 0)

    machine = with_body(NOP, load(wait=8))
    assert machine.run(NOP, repeat(2, 1, post=4), record(Opcode.NOP, wait=4, post=8)) is None


def test_posts_once_whatever_the_count():
    machine = with_body(NOP)
    assert machine.run(repeat(1, 300, post=1)) is None
    assert machine.iss.semaphores[0] == 1


def test_overflow_by_a_repeat_has_its_index():
    machine = with_body(record(Opcode.NOP, post=1))
    fault = machine.run(NOP, repeat(1, 255, post=1), NOP)
    assert stopped(fault) == (FaultCause.SEMAPHORE_OVERFLOW, Engine.CONTROL, 1, 0)
    assert machine.iss.index == 257
    fault = with_body(record(Opcode.NOP, post=1)).run(NOP, repeat(1, 256, post=1), NOP)
    assert stopped(fault) == (FaultCause.SEMAPHORE_OVERFLOW, Engine.CONTROL, 2 + 255, 0)


def test_indices_run_on_through_the_body():
    machine = with_body(NOP, record(Opcode.NOP, wait=1), NOP)
    fault = machine.run(NOP, *[record(Opcode.NOP, post=1)] * 4, repeat(3, 9))
    assert stopped(fault) == (FaultCause.WATCHDOG, Engine.CONTROL, 6 + 4 * 3 + 1, 0)
    assert machine.iss.head == 6


def test_overrun_reports_the_index():
    machine = with_body(NOP)
    machine.run(repeat(1, 99))
    machine.iss.doorbell(1 << 20)
    assert stopped(machine.iss.fault) == (FaultCause.RING_OVERRUN, Engine.CONTROL, 100, 0)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (bytes(64), FaultCause.ILLEGAL_OPCODE),
        (record(Opcode.NOP)[:-1] + b"\1", FaultCause.ILLEGAL_FIELD),
        (repeat(1, 1), FaultCause.NESTED_REPEAT),
        (repeat(1, 1, address=BODY + 1), FaultCause.NESTED_REPEAT),
        (bytes([Opcode.REPEAT, *bytes(63)]), FaultCause.ILLEGAL_FIELD),
    ],
)
def test_a_bad_record_in_a_body(bad, cause):
    """It is a fault when its turn comes; what is before it has run."""
    machine = with_body(address(1, 1, add=1), bad)
    assert stopped(machine.run(repeat(2, 5))) == (cause, Engine.CONTROL, 2, 0)
    assert machine.iss.registers[1] == 1


@pytest.mark.parametrize("where", [BODY + 32, BODY + 1])
def test_a_body_is_a_multiple_of_a_record(where):
    fault = Machine().run(NOP, repeat(1, 1, address=where, wait=1))
    assert stopped(fault) == (FaultCause.MISALIGNED, Engine.CONTROL, 1, where)
    assert Machine().run(address(1, 32), repeat(1, 1, address=BODY, base=1)).cause == FaultCause.MISALIGNED
    machine = with_body(NOP)
    assert machine.run(address(1, -32), repeat(1, 1, address=BODY + 32, base=1)) is None


def test_a_body_beyond_the_memory():
    end = BASE + SIZE
    machine = with_body(NOP, NOP, at=end - 128)
    fault = machine.run(NOP, repeat(3, 2, address=end - 128))
    assert stopped(fault) == (FaultCause.BUS_FETCH, Engine.CONTROL, 4, end)
    fault = Machine().run(repeat(1, 1, address=TOP64 - 64))
    assert stopped(fault) == (FaultCause.BUS_FETCH, Engine.CONTROL, 1, TOP64 - 64)


def test_a_reset_ends_the_loop():
    machine = with_body(record(Opcode.NOP, wait=1))
    assert machine.run(record(Opcode.NOP, post=1), repeat(1, 3, post=2)).index == 3
    iss: Iss = machine.iss
    iss.soft_reset()
    assert (iss.index, iss.head) == (0, 0)
    machine.written = 0
    assert machine.run(NOP, record(Opcode.IRQ, tag=2)) is None
    assert (iss.index, iss.tag, iss.semaphores[1]) == (2, 2, 0)
