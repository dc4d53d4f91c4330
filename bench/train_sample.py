"""Trains the weights that the project carries with the equations, on the sample that it carries, from a fixed seed.

``python -m bench.train_sample`` writes ``mlp_784_64_10.npz``. With ``--mnist FOLDER``, the folder of MNIST's four IDX
files, it first cuts the sample, ``digits.npz``, out of them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from lepton_sim.data import DIGITS, WEIGHTS, digits
from lepton_verif.model import equations as eq
from leptonaicsdk.datasets import DatasetError, read

TRAIN, TEST = 2000, 256
SIZES = (784, 64, 10)
EPOCHS, BATCH, RATE, SEED = 20, 32, 1e-3, 1


def cut_sample(folder: Path):
    """Write the sample from MNIST in ``folder``.

    Raises
    ------
    DatasetError
        If it is not there.
    """
    data = read(folder)
    if data is None:
        raise DatasetError(f"{folder} must hold MNIST")
    images, tests = (x.reshape(-1, SIZES[0]) for x in (data.x_train, data.x_test))
    np.savez_compressed(
        DIGITS,
        train_images=images[:TRAIN],
        train_labels=data.y_train[:TRAIN],
        test_images=tests[:TEST],
        test_labels=data.y_test[:TEST],
    )


def train() -> list[eq.Dense]:
    """Layers after `EPOCHS` epochs of Adam on the training sample."""
    sample, rng = digits(), np.random.default_rng(SEED)
    x, labels = sample.train_images / 255, sample.train_labels
    layers = []
    for inputs, outputs, activation in ((*SIZES[:2], "relu"), (*SIZES[1:], "linear")):
        # He et al., "Delving Deep into Rectifiers", ICCV 2015: variance 2 / inputs.
        weights = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        layers.append(eq.Dense(weights, np.zeros(outputs), activation))
    adam = eq.Adam(layers, RATE)
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        for start in range(0, len(x), BATCH):
            chosen = order[start : start + BATCH]
            trace = eq.forward(layers, x[chosen])
            delta = eq.cross_entropy_delta(trace.output, labels[chosen])
            # The paper's Adam: its epsilon of 1e-8 is inside the bias correction, Keras's is outside.
            step += 1
            adam.epsilon = 1e-8 * np.sqrt(1 - adam.beta_2**step)
            layers = adam.step(layers, eq.backward(layers, trace, delta))
    return layers


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.train_sample", description=__doc__)
    parser.add_argument("--mnist", type=Path, help="folder of MNIST's IDX files: cut the sample anew")
    options = parser.parse_args(arguments)
    if options.mnist:
        cut_sample(options.mnist)
    layers = train()
    parts = {f"w{l}": layer.weights.astype(np.float32) for l, layer in enumerate(layers)}
    parts |= {f"b{l}": layer.bias.astype(np.float32) for l, layer in enumerate(layers)}
    np.savez_compressed(WEIGHTS, **parts)
    sample = digits()
    for name, images, labels in (
        ("training", sample.train_images, sample.train_labels),
        ("test", sample.test_images, sample.test_labels),
    ):
        accuracy = eq.accuracy(eq.forward(layers, images / 255).output, labels)
        print(f"{name} sample: {len(labels)} images, accuracy {accuracy:.4f}")
    for path in (DIGITS, WEIGHTS):
        print(f"{path.name}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
