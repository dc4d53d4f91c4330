"""What the tests of the SDK share: a device on the stand-in."""

import pytest
from leptonaicsdk import Device, runner

from tests.sdk.standin import StandInBackend, StandInSession


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
