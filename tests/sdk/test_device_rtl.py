"""`Device` on the RTL: the same bits as on the model, with counters, and an interrupt that waits for the program."""

import signal

import numpy as np
import pytest
from leptonaicsdk import Adam, Dense, Device, Network, Sgd

pytestmark = pytest.mark.verilator

NETWORK = Network(6, (Dense(5, "relu"), Dense(3, "softmax")))
X = np.random.default_rng(2).integers(0, 256, (22, 6), np.uint8)
Y = X[:, :3].argmax(axis=1)


def run(backend, optimizer, bits):
    """State, history, evaluation and outputs of two short epochs, and the counters."""
    with Device(backend, "tiny") as device:
        device.set_precision(bits)
        device.load_model(NETWORK, input_scale=1 / 255, seed=1)
        device.compile(optimizer=optimizer, batch_size=4)
        history = device.fit(X, Y, epochs=2, validation_data=(X, Y))
        return device.state, history, device.evaluate(X, Y), device.predict(X), device.counters


@pytest.mark.parametrize(("optimizer", "bits"), [(Sgd(0.1, momentum=0.9), 8), (Adam(0.01), 16)])
def test_the_same_bits_as_the_model(optimizer, bits):
    rtl, model = run("rtl", optimizer, bits), run("model", optimizer, bits)
    assert rtl[0].same(model[0])
    assert rtl[1] == model[1]
    assert rtl[2].loss == model[2].loss
    assert np.array_equal(rtl[2].scores.confusion, model[2].scores.confusion)
    assert np.array_equal(rtl[3], model[3])
    counters = rtl[4]
    assert 0 < counters["MATMUL_BUSY"] < counters["CYCLES"]
    assert counters["COMMANDS"] > 0


def test_interrupt_while_the_core_works(monkeypatch):
    """The harness hears it between two slices of cycles; training goes on to the same bits as without it."""
    with Device("rtl", "tiny") as device:
        states = []
        for interrupted in (False, True):
            device.load_model(NETWORK, input_scale=1 / 255, seed=1)
            device.compile(optimizer=Sgd(0.1, momentum=0.9), batch_size=4)
            device.predict(X[:1])
            if interrupted:
                harness = device._runner._backend._harness
                step = harness.run

                def stop(cycles, step=step):
                    monkeypatch.undo()
                    signal.raise_signal(signal.SIGINT)
                    return step(cycles)

                monkeypatch.setattr(harness, "run", stop)
                with pytest.raises(KeyboardInterrupt):
                    device.fit(X[:12], Y[:12], shuffle=False)
                assert device.state.step == 3
                device.fit(X[12:], Y[12:], shuffle=False)
            else:
                device.fit(X, Y, shuffle=False)
            states.append(device.state)
        assert states[0].same(states[1])
