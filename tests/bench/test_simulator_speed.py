"""The benchmark of the instruction-set simulator: its clock changes nothing, and sees every command."""

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS

from bench.simulator_speed import TimedBackend, new_session, synthetic_digits


def test_synthetic_digits(seed):
    images, labels = synthetic_digits(np.random.default_rng(seed), 500)
    assert (images.shape, images.dtype) == ((500, 784), np.uint8)
    assert set(labels.tolist()) == set(range(10))
    share = (images > 0).mean(axis=0)
    assert (share == 0).sum() >= 4  # dead pixels
    assert ((share > 0) & (share < 0.05)).sum() > 20  # and rare ones
    assert 0.1 < share.mean() < 0.5


@pytest.mark.parametrize("precision", [8, 16])
def test_the_clock_changes_nothing(precision, seed):
    images, labels = synthetic_digits(np.random.default_rng(seed), 64)
    states = []
    for timed in (False, True):
        backend = TimedBackend(PRESETS["train"], 1 << 24)
        session = new_session(backend, seed=seed, precision=precision)
        backend.timed = timed
        session.train(images, labels)
        backend.timed = False
        states.append(session.raw_state())
        assert bool(backend.commands) == timed
    np.testing.assert_array_equal(*states)
    assert set(backend.commands) == set(backend.seconds)
    assert sum("SQRT" in kind for kind in backend.commands) >= 2
    assert any(kind.startswith("MATMUL 32 rows") for kind in backend.commands)
