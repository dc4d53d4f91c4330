"""The printed plan: what is in it, and its estimate against the core's own counters on the RTL."""

import pytest
from lepton_npu.spec.config import PRESETS
from leptonaicsdk import Adam, Dense, Device, Loss, Memory, Network, StateError
from leptonaicsdk.backend import ModelBackend, RtlBackend
from leptonaicsdk.cycles import record_cycles
from leptonaicsdk.session import Session
from leptonaicsdk.timeline import loop_cycles
from leptonaicsdk.training.layout import Home

NETWORK = Network(6, (Dense(5, "relu"), Dense(3, "softmax")))
CLASSES = Loss.SPARSE_CATEGORICAL_CROSSENTROPY
TOLERANCE = 0.15
"""Of a step, and of every engine, as a share of the measured: what the model leaves out are requests of engines that
meet at a bank of the vector memory, and records between the beats of a LOAD."""


def _session(backend, sizes, batch, optimizer, **options):
    layers = (*(Dense(units, "relu") for units in sizes[1:-1]), Dense(sizes[-1], "softmax"))
    return Session(backend, Network(sizes[0], layers), loss=CLASSES, optimizer=optimizer, batch=batch, **options)


def _measured(session, looped, registers):
    """Cycles of an iteration, and of them those that each engine is busy: what 6 take more than 2, by the counters."""
    totals = []
    for count in (2, 6):
        before = session.counters
        session._launcher.run({}, looped=[(looped, count, dict.fromkeys(registers, session._staging.start))])
        after = session.counters
        totals.append({name: after[name] - before[name] for name in after})
    return {name: (totals[1][name] - totals[0][name]) / 4 for name in totals[0]}


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "sizes", "batch", "memory", "home"),
    [
        ("tiny", (40, 12, 6), 8, Memory(), Home.CHIP),
        ("tiny", (40, 12, 6), 8, Memory(latency=90, bandwidth=3), Home.CHIP),
        ("tiny", (40, 12, 6), 8, Memory(), Home.MEMORY),
        ("train", (784, 64, 10), 32, Memory(), Home.CHIP),
    ],
)
def test_the_estimate_is_the_cores_own(preset, sizes, batch, memory, home):
    """Training steps, and the forward pass of a batch; by engine, and of the whole step."""
    session = _session(RtlBackend(PRESETS[preset], 1 << 22, timing=memory), sizes, batch, Adam(), home=home)
    for training in (True, False):
        plan = session.plan(training=training)
        looped = session._main_loop(training=training, bytes_in=True)
        measured = _measured(session, looped, range(1, 6))
        for name, engine in plan.engines.items():
            busy = measured[f"{name}_BUSY"]
            assert engine.busy == pytest.approx(busy, rel=TOLERANCE), f"{name}, training {training}"
        assert plan.cycles == pytest.approx(measured["CYCLES"], rel=TOLERANCE)
        assert plan.critical == max(plan.engines, key=lambda name: measured[f"{name}_BUSY"])
        records = len(looped.body.program) * record_cycles(session.config, memory)  # slow memories: these count as well
        assert plan.least <= plan.cycles <= plan.most + records
    session.backend.close()


def test_what_is_printed():
    session = _session(ModelBackend(PRESETS["train"], 1 << 22), (784, 64, 10), 128, Adam())
    plan = session.plan()
    text = str(plan).splitlines()
    assert text[0] == "training step of 784-64-10, batch 128, precision 8, samples uint8"
    assert "core: 16 x 16 array, 16 lanes; memory: 64 bits, latency 30, a beat in 1" in text
    assert "weights: layer 0 CHIP, layer 1 CHIP" in text
    assert f"  0x0000 {3140:>7,}  parameters of layer 0 (784 x 64)" in text
    used = sum(region.size for _, region in plan.buffers if region.space == "tile memory")
    assert f"tile memory: {used:,} of 1,024 tiles" in text
    assert plan.critical == "MATMUL"
    matmul = plan.engines["MATMUL"]
    assert matmul.busy >= 51_136  # the array's own bound of the headline's step
    assert any(line.startswith("MATMUL") and line.endswith("critical") for line in text)
    assert f"a step: {plan.cycles:,.0f} cycles ({plan.least:,.0f} if all" in text[-1]
    commands = [engine.commands for engine in plan.engines.values()]
    body = session._main_loop(training=True, bytes_in=True).body.program
    assert sum(commands) + 4 == len(body)  # and four of the decoder
    assert str(session.plan(training=False, bytes_in=False)).startswith("inference of 784-64-10, batch 128, precision")


def test_what_changes_the_estimate():
    """Bandwidth counts where loads are critical; overlap is what the semaphores allow."""
    session = _session(ModelBackend(PRESETS["default"], 1 << 22), (784, 64, 10), 32, Adam())
    fast = session.plan()
    session.backend.timing = Memory(bandwidth=4)
    slow = session.plan()
    assert slow.critical == "LOAD"
    assert slow.engines["VECTOR"] == fast.engines["VECTOR"]
    assert slow.engines["LOAD"].busy > 3 * fast.engines["LOAD"].busy
    assert slow.cycles > 2 * fast.cycles
    body = session._main_loop(training=True, bytes_in=True).body
    records = body.program.part(range(len(body.program)))
    for command in records._commands:  # without semaphores nothing waits: the critical engine's cycles are left
        command.fields.update(wait=0, post=0)
    free = loop_cycles(session.config, Memory(), records, (0,) * 16)
    assert free.cycles == pytest.approx(max(engine.busy for engine in free.engines.values()), rel=0.02)
    assert free.cycles < fast.cycles


def test_plan_of_a_device():
    device = Device("model", "tiny", memory=Memory(latency=50), patch_keras=False)
    with pytest.raises(StateError, match=r"Device.plan needs an initialised device"):
        device.plan()
    with device:
        with pytest.raises(StateError, match=r"Device.plan needs a model"):
            device.plan()
        device.load_model(NETWORK)
        with pytest.raises(StateError, match="not compiled"):
            device.plan()
        assert str(device.plan(training=False)).startswith("inference of 6-5-3, batch 64, precision 8")
        device.compile(batch_size=8)
        device.set_precision(16)
        plan = device.plan(bytes_in=False)
        assert str(plan).startswith("training step of 6-5-3, batch 8, precision 16, samples binary32")
        assert plan.memory == Memory(latency=50)
