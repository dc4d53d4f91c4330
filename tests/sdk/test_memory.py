"""Latency, bandwidth and errors of the device's memory: on the RTL, through `Device`."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause
from leptonaicsdk import Adam, BusError, CoreFaultError, Dense, Device, InputError, InputTypeError, Memory, Network

NETWORK = Network(24, (Dense(7, "relu"), Dense(3, "softmax")))
X = np.random.default_rng(2).integers(0, 256, (96, 24), np.uint8)
Y = X[:, :3].argmax(axis=1)
ENGINES = {
    FaultCause.BUS_READ: Engine.LOAD,
    FaultCause.BUS_FETCH: Engine.CONTROL,
    FaultCause.BUS_WRITE: Engine.STORE,
}


def _load(device):
    device.load_model(NETWORK, input_scale=1 / 255, seed=1)
    device.compile(optimizer=Adam(0.01), batch_size=4)


@pytest.fixture(scope="module")
def whole():
    """The state after an epoch in which nothing goes wrong; the simulator's."""
    with Device("model", "tiny", patch_keras=False) as device:
        _load(device)
        device.fit(X, Y, shuffle=False)
        return device.state


@pytest.mark.verilator
def test_latency_and_bandwidth_change_cycles_as_computed(whole):
    """A batch of a forward pass takes what its plan says (see test_plan); and not a bit of a training changes."""
    cycles = []
    with Device("rtl", "tiny", memory=Memory(latency=5), patch_keras=False) as device:
        _load(device)
        for memory in (Memory(latency=5), Memory(latency=300), Memory(bandwidth=9), Memory(latency=5, bandwidth=4)):
            device.memory = memory
            assert device.memory == memory
            device.predict(X[:1])
            counted = [device.counters["CYCLES"]]
            for count in (32, 96):
                device.predict(X[:count])
                counted.append(device.counters["CYCLES"])
            few, many = np.diff(counted)
            batch = (many - few) / 16
            assert batch == pytest.approx(device.plan(training=False).cycles, rel=0.15)
            cycles.append(batch)
        device.fit(X, Y, shuffle=False)
        assert device.state.same(whole)
    assert cycles[0] < cycles[3] < cycles[2]
    assert cycles[0] < cycles[1]


@pytest.mark.verilator
@pytest.mark.parametrize("response", ["slverr", "decerr"])
@pytest.mark.parametrize(
    ("access", "causes"),
    [("read", {FaultCause.BUS_READ, FaultCause.BUS_FETCH}), ("write", {FaultCause.BUS_WRITE})],
)
def test_error_in_the_middle_of_fit(whole, access, causes, response):
    """A fault of the core; the state is that of the epoch's beginning; the same call again does what was asked."""
    with Device("rtl", "tiny", patch_keras=False) as device:
        _load(device)
        device.predict(X[:1])
        start, done = device.state, []
        after = 15000 if access == "read" else 60
        device.memory = Memory(errors=(BusError(response=response, access=access, after=after),))
        with pytest.raises(CoreFaultError) as caught:
            device.fit(X, Y, shuffle=False, on_progress=done.append)
        assert 0 < len(done) < 3  # some slices were done, not all
        fault = caught.value.fault
        assert fault.cause in causes
        assert device.fault == fault
        assert str(fault) in str(caught.value)
        assert fault.engine == ENGINES[fault.cause]
        assert device.state.same(start)
        assert device.initialized
        assert device.memory == Memory()  # the error is over
        device.fit(X, Y, shuffle=False)
        assert device.state.same(whole)


@pytest.mark.verilator
def test_error_that_stays(whole):
    """Every call meets it, until the memory is mended."""
    with Device("rtl", "tiny", memory=Memory(errors=(BusError(access="write", count=None),))) as device:
        _load(device)
        for _ in range(2):
            with pytest.raises(CoreFaultError, match="BUS_WRITE in STORE"):
                device.fit(X, Y, shuffle=False)
            assert device.state.step == 0
        device.memory = Memory()
        device.fit(X, Y, shuffle=False)
        assert device.state.same(whole)


def test_beats_that_are_over():
    errors = (BusError(after=10, count=2), BusError(after=10, count=None), BusError(access="write", after=3))
    memory = Memory(latency=7, errors=errors)
    assert memory.after([0, 0, 0]) == memory
    assert memory.after([11, 11, 3]).errors == (
        BusError(after=0, count=1), BusError(after=0, count=None), BusError(access="write", after=0),
    )  # fmt: skip
    assert memory.after([12, 500, 4]) == Memory(latency=7, errors=(BusError(count=None),))


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Memory(latency=-1), InputError, "latency must be 0 or more, not -1"),
        (lambda: Memory(latency=1.5), InputTypeError, "latency must be an integer, not 1.5"),
        (lambda: Memory(latency=1 << 32), InputError, "latency must be at most 4294967295 cycles, not 4294967296"),
        (lambda: Memory(bandwidth=0), InputError, "bandwidth must be 1 or more, not 0"),
        (lambda: Memory(errors=("slverr",)), InputTypeError, "errors must be BusErrors, not str"),
        (lambda: BusError(response="okay"), InputError, "response must be one of slverr, decerr, not 'okay'"),
        (lambda: BusError(access="fetch"), InputError, "access must be one of read, write, not 'fetch'"),
        (lambda: BusError(first=-1), InputError, "first must be 0 or more, not -1"),
        (lambda: BusError(first=1 << 64), InputError, "first must be at most 0xffffffffffffffff, not 0x1"),
        (lambda: BusError(first=8, last=7), InputError, "last must be 8 or more, not 7"),
        (lambda: BusError(after=-1), InputError, "after must be 0 or more, not -1"),
        (lambda: BusError(count=0), InputError, "count must be 1 or more, not 0"),
        (lambda: Device("rtl", "tiny", memory=30), InputTypeError, "memory must be a Memory, not int"),
        (lambda: Device("model", "tiny", memory=Memory(errors=(BusError(),))), InputError,
         "memory must be without errors for the backend model, which has no bus"),
    ],
)  # fmt: skip
def test_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_a_refused_memory_leaves_the_one_that_is_there():
    with Device("model", "tiny", memory=Memory(latency=5), patch_keras=False) as device:
        with pytest.raises(InputError, match="which has no bus"):
            device.memory = Memory(errors=(BusError(),))
        assert device.memory == Memory(latency=5)
