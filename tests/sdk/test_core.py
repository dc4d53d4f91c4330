"""Contexts of one core: jobs side by side give the same bits as alone, and none of them disturbs another."""

import functools

import numpy as np
import pytest
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.page_table import READ_WRITE
from lepton_npu.spec.translation import Access, Pte
from lepton_sim.side_by_side import CONFIG
from leptonaicsdk import (
    Adam,
    ContextKilledError,
    Core,
    CoreFaultError,
    Dense,
    Device,
    InputError,
    Loss,
    Memory,
    Network,
    StateError,
)
from leptonaicsdk.address_space import VIRTUAL_BASE
from leptonaicsdk.program import Program
from leptonaicsdk.session import Session

NETWORK = Network(6, (Dense(5, "relu"), Dense(3, "softmax")))
X = np.random.default_rng(2).integers(0, 256, (22, 6), np.uint8)
Y = X[:, :3].argmax(axis=1)
PARTS = [
    {"vmem_rows": 512, "acc_rows": 512, "tiles": 256},
    {"vmem_rows": 256, "acc_rows": 256, "tiles": 128},
]
both = pytest.mark.parametrize("backend", ["model", pytest.param("rtl", marks=pytest.mark.verilator)])


def make_core(backend, **options) -> Core:
    return Core(CONFIG, backend=backend, memory_bytes=1 << 23, **options)


def train(context, epochs=2):
    """State, history and outputs of a device on a context."""
    with Device(context, patch_keras=False) as device:
        device.load_model(NETWORK, input_scale=1 / 255, seed=1)
        device.compile(optimizer=Adam(0.01), batch_size=4)
        history = device.fit(X, Y, epochs=epochs, validation_data=(X, Y))
        return device.state, history, device.predict(X)


def infer(context, times=3):
    with Device(context, patch_keras=False) as device:
        device.set_precision(16)
        device.load_model(NETWORK, input_scale=1 / 255, seed=7)
        return [device.predict(X[number:]) for number in range(times)]


def same(one, other) -> bool:
    """Whether two jobs ended alike, bit for bit."""
    if isinstance(one, list):
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    return one[0].same(other[0]) and one[1] == other[1] and np.array_equal(one[2], other[2])


@functools.cache
def alone():
    """What the jobs give on the model, each on a core that is its own."""
    results = []
    for job, part in zip((train, infer), PARTS):
        with Core(CONFIG, backend="model", memory_bytes=1 << 23) as core:
            results.append(job(core.context(0, **part)))
    return results


@both
@pytest.mark.parametrize("page_bytes", [4096, None])
def test_two_jobs_give_the_bits_that_each_gives_alone(backend, page_bytes):
    totals = []
    for _ in range(2 if backend == "rtl" else 1):
        with make_core(backend, page_bytes=page_bytes) as core:
            contexts = [core.context(number, **part) for number, part in zip((2, 1), PARTS)]
            done = core.run(functools.partial(train, contexts[0]), functools.partial(infer, contexts[1]))
            for found, expected in zip(done.results, alone(), strict=True):
                assert same(found, expected)
            totals.append(done.cycles)
            if backend == "rtl":
                assert done.total == max(done.cycles) > min(done.cycles) > 0
    assert len(set(totals)) == 1, "simulated time depends on the host"


@pytest.mark.verilator
def test_together_they_take_less_than_one_after_the_other():
    cycles = []
    with make_core("rtl", memory=Memory(latency=100)) as core:
        contexts = [core.context(number, **part) for number, part in enumerate(PARTS)]
        jobs = [lambda: train(contexts[0], 1), lambda: infer(contexts[1], 12)]
        for part in ([jobs[0]], [jobs[1]], jobs):
            cycles.append(core.run(*part).total)
    assert cycles[2] < sum(cycles[:2])


def store_program(context, word: int) -> bytes:
    """Writes rows of a constant to the second page of a context's memory, and behind it."""
    program = Program(context.config)
    program.store(address=context.base + (1 << 13), local=0, rows=1, words=4)
    program.irq(word)
    return program.records()


@both
def test_a_page_is_revoked_and_given_back(backend):
    """It faults where it is used; repaired and resumed, everything is as if nothing had been. The other one goes on."""
    with make_core(backend) as core:
        contexts = [core.context(number, **part) for number, part in enumerate(PARTS)]
        context, faults = contexts[0], []

        def revoke(offset, flags=None):
            page = context.base + offset // 4096 * 4096
            if flags is None:
                context.space.table.unmap(page)
            else:
                context.space.table.map_page(page, page - context.base + context.physical, flags)
            context.remap()

        def mend(fault):
            faults.append(fault)
            page = fault.address // 4096 * 4096
            context.space.table.map_page(page, page - context.base + context.physical)
            context.remap()
            return True

        def job():
            context.on_fault = mend
            session = Session(
                context, NETWORK, loss=Loss.SPARSE_CATEGORICAL_CROSSENTROPY, optimizer=Adam(0.01), batch=4,
                input_scale=1 / 255,
            )  # fmt: skip
            session.parameters = [
                (np.full((6, 5), 0.25, np.float32), np.zeros(5, np.float32)),
                (np.full((5, 3), -0.5, np.float32), np.zeros(3, np.float32)),
            ]
            data = session._staging.start
            session.train(X, Y)
            if revoking:
                revoke(data)
                revoke(1 << 13)  # records of programs
            session.train(X, Y)
            if revoking:
                revoke(data, READ_WRITE & ~Pte.D)
            session.train(X, Y)
            return session.raw_state(), session.evaluate(X, Y)

        revoking = False
        expected = job()
        assert not faults
        context.recover()
        revoking = True
        done = core.run(job, lambda: infer(contexts[1], 6))
        assert np.array_equal(done.results[0][0], expected[0])
        assert done.results[0][1] == expected[1]
        assert same(done.results[1][:3], alone()[1])
        assert {fault.cause for fault in faults} >= {FaultCause.PAGE_READ, FaultCause.PAGE_WRITE}
        assert all(fault.asid == 0 and fault.resumable for fault in faults)
        assert {fault.access for fault in faults} >= {Access.READ, Access.WRITE}


@both
def test_a_fault_says_that_it_can_be_resumed(backend):
    with make_core(backend) as core:
        context = core.context(3, **PARTS[1])
        page = context.base + (1 << 13)
        context.space.table.unmap(page)
        context.remap()
        with pytest.raises(
            CoreFaultError, match=r"PAGE_WRITE in STORE, command 0, address 0x.*; it can be resumed"
        ) as error:
            context.run(store_program(context, 5))
        fault = error.value.fault
        assert (fault.address, fault.access, fault.asid, fault.resumable) == (page, Access.WRITE, 3, True)
        with pytest.raises(CoreFaultError):
            context.resume()
        context.memory[1 << 13] = 1
        context.space.table.map_page(page, page - context.base + context.physical)
        context.remap()
        context.resume()
        assert not context.memory[1 << 13 : (1 << 13) + 16].any()
        with pytest.raises(StateError, match="context 3 cannot be resumed: it has no fault"):
            context.resume()
        program = Program(context.config)
        program.nop()
        with pytest.raises(CoreFaultError) as error:
            context.run(bytes(64))
        assert "resumed" not in str(error.value)
        with pytest.raises(StateError, match="context 3 cannot be resumed: ILLEGAL_OPCODE"):
            context.resume()
        context.recover()
        context.run(store_program(context, 6))


def fill(context) -> None:
    """Leave something in every row and tile of the partition."""
    config, program = context.config, Program(context.config)
    context.memory[1 << 12 :] = 0x3F
    program.load(address=context.base + (1 << 12), local=0, rows=1, words=config.vmem_rows * config.side)
    program.fence()
    program.quant(precision=0, rows=config.tiles * config.side, cols=config.side)
    program.fence()
    rows = config.acc_rows
    program.matmul(a_precision=0, b_precision=0, acc=0x8000, rows=rows, count0=rows, acc_stride0=1)
    program.irq()
    context.run(program.records())


def contents(context) -> np.ndarray:
    """Words of the vector memory, of the accumulators, and of those when all tiles are added up in them."""
    config, program = context.config, Program(context.config)
    start, side = 1 << 12, config.side
    context.memory[start:] = 0xA5
    words = (config.vmem_rows + config.acc_rows) * side
    rows = (config.acc_rows, config.tiles * side)
    program.store(address=context.base + start, local=0, rows=1, words=config.vmem_rows * side)
    program.store(
        address=context.base + start + config.vmem_rows * side * 4, local=0x8000, rows=1, words=rows[0] * side
    )
    program.fence()
    # A product with the identity shows the tiles, which takes what was in the rows before and one of the tiles.
    program.vector(6, a=0, imm_b=1.0, imm_c=1.0, dst=0, count0=side)
    program.fence()
    program.quant(precision=0, source=0, tile=0, rows=side, cols=side)
    program.fence()
    each = rows[0] // side
    for first in range(1, config.tiles, each):
        count = min(each, config.tiles - first) * side
        program.matmul(
            a_precision=0, b_precision=0, a_tile=first, b_tile=0, acc=0x8000, rows=count, count0=count, a_stride0=1,
            acc_stride0=1,
        )  # fmt: skip
        program.fence()
        where = context.base + start + 4 * words
        program.store(address=where, local=0x8000, rows=1, words=count * side)
        program.fence()
        words += count * side
    program.irq()
    context.run(program.records())
    return context.memory[start : start + 4 * words].view(np.uint32).copy()


@both
def test_kill_and_scrub_while_another_trains(backend):
    with make_core(backend) as core:
        contexts = [core.context(number, **part) for number, part in enumerate(PARTS)]
        assert contexts[0].config.tiles == 256

        def victim():
            while True:
                infer(contexts[1], 1)

        def killer():
            core.pause(3000)
            contexts[1].kill()
            fill(contexts[1])
            before = contents(contexts[1])
            contexts[1].scrub()
            return before, contents(contexts[1]), infer(contexts[1], 3)

        def job():
            with pytest.raises(ContextKilledError, match="context 1 was killed"):
                victim()

        if backend == "model":  # on which victim's programs take no time: it is killed where it waits for the first
            core.pause = lambda cycles: None
        done = core.run(lambda: train(contexts[0]), job, killer)
        assert same(done.results[0], alone()[0])
        before, after, inferred = done.results[2]
        assert (before != 0).mean() > 0.9
        assert not after.any()
        assert same(inferred, alone()[1])


@both
def test_a_context_is_taken_anew(backend):
    """Its memory is zero, and its translations are its own."""
    with make_core(backend) as core:
        first = core.context(1, **PARTS[1])
        other = core.context(0, **PARTS[0])
        assert same(infer(first), alone()[1])
        first.memory[-1] = 1
        first.close()
        assert sorted(core.contexts) == [0]
        again = core.context(1, **PARTS[1])
        assert not again.memory.any()
        assert same(infer(again), alone()[1])
        assert same(train(other), alone()[0])


@pytest.mark.verilator
def test_an_interrupt_that_nobody_waits_for_disturbs_nobody():
    with make_core("rtl") as core:
        left, other = core.context(0, **PARTS[0]), core.context(3, **PARTS[1])
        records = store_program(left, 1)
        left.memory[: len(records)] = np.frombuffer(records, np.uint8)
        left._ring_doorbell(2)
        assert same(infer(other), alone()[1])
        left.recover()
        left.run(records)


def test_memory_of_another_context_is_out_of_reach():
    with make_core("model") as core:
        one, other = core.context(0), core.context(1)
        assert one.base == other.base == VIRTUAL_BASE
        program = Program(one.config)
        program.store(address=one.base + (other.physical - one.physical), local=0, rows=1, words=4)
        program.irq()
        with pytest.raises(CoreFaultError, match="PAGE_WRITE"):
            one.run(program.records())
        assert not other.memory.any()


def test_a_device_stays_usable_after_a_fault_in_its_context():
    with make_core("model") as core:
        context = core.context(0, **PARTS[0])
        with Device(context, patch_keras=False) as device:
            assert (device.backend, device.preset) == ("model", "")
            device.load_model(NETWORK, input_scale=1 / 255, seed=7)
            expected = device.predict(X)
            context.space.table.unmap(context.base)
            context.remap()
            with pytest.raises(CoreFaultError, match=r"PAGE_FETCH in CONTROL.*\(command ring, byte"):
                device.predict(X)
            context.space.table.map_page(context.base, context.physical)
            context.remap()
            assert np.array_equal(device.predict(X), expected)
        assert np.array_equal(infer(context, 1)[0], alone()[1][0])


def test_messages():
    with pytest.raises(InputError, match=r"preset must be one of .*, not 'huge'"):
        Core("huge")
    with pytest.raises(InputError, match="backend must be one of rtl, model, not 'fpga'"):
        Core(CONFIG, backend="fpga")
    with pytest.raises(InputError, match="memory_bytes must be at least 16384, a page for each context, not 16383"):
        Core(CONFIG, backend="model", memory_bytes=16383)
    with make_core("model") as core:
        context = core.context(0, vmem_rows=1024)
        with pytest.raises(InputError, match="vmem_rows of context 1 must be 256 in one piece, and context 0 has"):
            core.context(1)
        with pytest.raises(StateError, match=r"context 0 is in use: close\(\) it first"):
            core.context(0)
        for bad in (4, -1, "0"):
            with pytest.raises(InputError, match="context must be from 0 to 3, not"):
                core.context(bad)
        context.close()
        context = core.context(0)
        with pytest.raises(InputError, match="memory_bytes must be a multiple of 4096, not 5000"):
            core.context(1, memory_bytes=5000)
        with pytest.raises(InputError, match="memory_bytes of context 1 must fit in what others have left, not be"):
            core.context(1, memory_bytes=1 << 25)
        with pytest.raises(InputError, match="weight must be at most 255, not 256"):
            core.context(1, weight=256)
        for options in ({"preset": "tiny"}, {"memory_bytes": 4096}, {"memory": Memory()}, {"page_bytes": 4096}):
            with pytest.raises(InputError, match="must be left out: the context's core has them"):
                Device(context, **options)
        assert sorted(core.contexts) == [0]
    with pytest.raises(StateError, match="the core is closed"):
        core.context(1)
