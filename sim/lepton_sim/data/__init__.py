"""The sample of MNIST that the project carries, and the weights trained on it (README.md beside this file)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from lepton_verif.model.equations import Dense
from numpy.typing import NDArray

__all__ = ["DIGITS", "WEIGHTS", "Digits", "digits", "trained_mlp"]

DIGITS = Path(__file__).with_name("digits.npz")
WEIGHTS = Path(__file__).with_name("mlp_784_64_10.npz")


class Digits(NamedTuple):
    """Images (count, 784), uint8, and labels (count,), uint8."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def digits() -> Digits:
    """The first 2000 training and the first 256 test images of MNIST."""
    with np.load(DIGITS) as file:
        return Digits(*(file[name] for name in Digits._fields))


def trained_mlp() -> list[Dense]:
    """784-64(relu)-10: the trained layers, binary32. Softmax belongs behind the last one."""
    with np.load(WEIGHTS) as file:
        return [Dense(file["w0"], file["b0"], "relu"), Dense(file["w1"], file["b1"], "linear")]
