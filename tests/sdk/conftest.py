"""What the tests of the SDK share: a device on the stand-in, and JAX that compiles little."""

import os

import pytest
from lepton_sim.cache import build_folder
from leptonaicsdk import Device, runner

from tests.sdk.standin import StandInBackend, StandInSession

# Keras's own training on JAX runs for milliseconds after seconds of compilation, of much the same in every test.
JAX_OPTIONS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(build_folder() / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
for name, value in JAX_OPTIONS.items():
    os.environ.setdefault(name, value)


@pytest.fixture
def standin(monkeypatch):
    """Devices get the stand-in as their backend and session; nothing of it stays open."""
    monkeypatch.setattr(runner, "open_backend", StandInBackend)
    monkeypatch.setattr(runner, "Session", StandInSession)
    for name, value in {"made": 0, "pushed": 0, "steps": 0, "fault_at": {}, "interrupts_at": {}}.items():
        monkeypatch.setattr(StandInSession, name, value)
    monkeypatch.setattr(StandInBackend, "alive", 0)
    monkeypatch.setattr("leptonaicsdk.loaded.LEAST", 1)  # a slice is a batch, with the few samples of these tests
    yield StandInSession
    assert StandInBackend.alive == 0


@pytest.fixture
def device(standin):
    """An initialised device on the stand-in."""
    with Device("model", "tiny") as device:
        yield device
