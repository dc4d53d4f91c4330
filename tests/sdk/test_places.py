"""A fault says which tensor it met: names of ranges, and exceptions of devices whose memory fails or whose pages go."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause
from lepton_npu.spec.translation import PAGE_BYTES
from leptonaicsdk import Adam, BusError, CoreFaultError, Dense, Device, Memory, Network
from leptonaicsdk.driver import Fault
from leptonaicsdk.places import Places

NETWORK = Network(24, (Dense(7, "relu"), Dense(3, "softmax")))
X = np.random.default_rng(2).integers(0, 256, (96, 24), np.uint8)
Y = X[:, :3].argmax(axis=1)


def test_names():
    places = Places()
    places.add(0, 64, "a")
    places.add(64, 16, "b")
    places.add(32, 8, "inner")
    assert places.at(0) == "a, byte 0 of 64"
    assert places.at(63) == "a, byte 63 of 64"
    assert places.at(64) == "b, byte 0 of 16"
    assert places.at(39) == "inner, byte 7 of 8"
    assert places.at(40) == "a, byte 40 of 64"
    assert places.at(80) is None
    assert places.at(-1) is None
    places.add(100, 4, "b")
    assert places.at(70) is None
    assert places.at(103) == "b, byte 3 of 4"
    places.add(0, 0, "a")
    assert places.at(0) is None


@pytest.mark.parametrize("cause", FaultCause)
def test_only_byte_addresses_have_names(cause):
    places = Places()
    places.add(0, 1 << 16, "everything")
    named = cause.name.startswith(("BUS_", "PAGE_", "ACCESS_")) or cause.name in ("ADDRESS_RANGE", "MISALIGNED")
    assert (places.of(Fault(cause, Engine.LOAD, 1, 0x1004), 0x1000) == "everything, byte 4 of 65536") == named


def _fit(device, batch=4):
    device.load_model(NETWORK, input_scale=1 / 255, seed=1)
    device.compile(optimizer=Adam(0.01), batch_size=batch)
    device.fit(X, Y, shuffle=False)


def _ranges(device) -> dict[str, tuple[int, int]]:
    return {name: (start, size) for start, size, name in device._runner._session._launcher.places.ranges}


WHAT = {
    "samples": (FaultCause.BUS_READ, "read"),
    "targets": (FaultCause.BUS_READ, "read"),
    "learning rates": (FaultCause.BUS_READ, "read"),
    "losses": (FaultCause.BUS_WRITE, "write"),
    "weights of layer 0 (24 x 7)": (FaultCause.BUS_READ, "read"),
    "programs": (FaultCause.BUS_FETCH, "read"),
    "command ring": (FaultCause.BUS_FETCH, "read"),
}


@pytest.mark.verilator
@pytest.mark.parametrize("page_bytes", [None, PAGE_BYTES])
def test_exception_of_a_bus_error_names_the_tensor(page_bytes):
    with Device("rtl", "tiny", memory_bytes=1 << 22, page_bytes=page_bytes, patch_keras=False) as device:
        _fit(device)
        ranges = _ranges(device)
        for name, (cause, access) in WHAT.items():
            start, size = ranges[name]
            device.memory = Memory(errors=(BusError(access=access, first=start, last=start + size - 1),))
            with pytest.raises(CoreFaultError) as caught:
                _fit(device)
            assert caught.value.fault.cause == cause, name
            assert caught.value.where.startswith(f"{name}, byte "), name
            assert f"({name}, byte " in str(caught.value)
            assert device.fault == caught.value.fault
            device.memory = Memory()
            _fit(device)


@pytest.mark.parametrize("backend", ["model", pytest.param("rtl", marks=pytest.mark.verilator)])
def test_exception_of_a_page_that_went(backend):
    """Its samples' page is taken away: the same exception on both backends, and after it the device goes on."""
    messages = []
    with Device(backend, "tiny", memory_bytes=1 << 22, page_bytes=PAGE_BYTES, patch_keras=False) as device:
        _fit(device)
        start, size = _ranges(device)["samples"]
        space = device._runner._backend.space
        page = (start + size - 1) // PAGE_BYTES * PAGE_BYTES
        space.table.unmap(space.base + page)
        device._runner._backend.remap()
        with pytest.raises(CoreFaultError) as caught:
            device.evaluate(X, Y)
        messages.append(str(caught.value))
        fault = caught.value.fault
        assert (fault.cause, fault.engine) == (FaultCause.PAGE_READ, Engine.LOAD)
        assert fault.address >= space.base + page
        assert caught.value.where.startswith("samples, byte ")
        _fit(device)
    assert all("PAGE_READ in LOAD" in message for message in messages)
