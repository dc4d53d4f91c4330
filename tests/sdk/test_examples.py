"""The examples run, on the model of the core and on a small set in place of MNIST."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from leptonaicsdk.datasets import digits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(tmp_path):
    """Runs an example with the carried sample as MNIST; returns what it prints."""
    data = digits()
    np.savez(tmp_path / "mnist.npz", **data._asdict())

    def start(name: str, *arguments: str) -> str:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "LEPTON_MNIST": str(tmp_path / "mnist.npz"),
            "LEPTON_BACKEND": "model",
        }
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_keras_program(run):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    pytest.importorskip("keras", reason='Keras is not installed: pip install ".[keras]"', exc_type=ImportError)
    printed = run("mnist_keras.py")
    assert "Epoch 5/5" in printed
    assert float(re.search(r"^Test accuracy: (0\.\d{4})$", printed, re.M)[1]) > 0.86


def test_network_program(run):
    printed = run("mnist_network.py", "--epochs", "2", "--sample")
    assert "epoch 2/2, batch 63/63: loss 0." in printed
    found = re.search(r"Test: 256 samples, loss 0\.\d+, accuracy (0\.\d+), recall (0\.\d+), F1 (0\.\d+)", printed)
    assert min(map(float, found.groups())) > 0.8
    assert len(re.findall(r"^  \d: \d+ images, recall \d\.\d{4}, F1 \d\.\d{4}$", printed, re.M)) == 10


def test_two_jobs(run):
    printed = run("two_jobs.py")
    trained, classified = (float(text) for text in re.findall(r"accuracy (\d\.\d{4})", printed))
    assert trained > 0.5
    assert classified > 0.7
