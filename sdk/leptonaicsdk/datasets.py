"""Finds MNIST on this machine, and the sample of it that the project carries. Nothing is downloaded."""

import gzip
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import LeptonError

__all__ = ["Dataset", "DatasetError", "digits", "mnist", "read"]

VARIABLE = "LEPTON_MNIST"
FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}
SIDE, CLASSES = 28, 10


class DatasetError(LeptonError, OSError):
    """A data set that is not there, or whose files are not what they should be."""


class Dataset(NamedTuple):
    """Images (n, 28, 28) and labels (n,) 0 .. 9, uint8, for training and for testing."""

    x_train: NDArray[np.uint8]
    y_train: NDArray[np.uint8]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.uint8]


def _idx(path: Path) -> NDArray[np.uint8]:
    """Array of bytes in a gzipped IDX file: magic 00 00 08 and the number of dimensions, their sizes, the data."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    dimensions = content[3] if len(content) > 3 else 0
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * dimensions:
        raise DatasetError(f"{path} must be an IDX file of bytes, 000008 and its sizes, not begin {content[:4].hex()}")
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if data.size != int(np.prod(shape)):
        raise DatasetError(f"{path} must hold {'x'.join(map(str, shape))} bytes as its header says, not {data.size}")
    return data.reshape(shape)


def _checked(parts: Mapping[str, NDArray], source: Path) -> Dataset:
    missing = [name for name in FILES if name not in parts]
    if missing:
        raise DatasetError(f"{source} must hold the arrays {', '.join(FILES)}; it has no {', '.join(missing)}")
    data = Dataset(*(parts[name] for name in FILES))
    for name, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        if x.dtype != np.uint8 or x.shape != (len(x), SIDE, SIDE) or not len(x):
            raise DatasetError(f"{source}: x_{name} must be (n, {SIDE}, {SIDE}) uint8, not {x.shape} {x.dtype}")
        if y.dtype != np.uint8 or y.shape != (len(x),):
            raise DatasetError(f"{source}: y_{name} must be ({len(x)},) uint8, not {y.shape} {y.dtype}")
        if y.max() >= CLASSES:
            raise DatasetError(f"{source}: y_{name} must be from 0 to {CLASSES - 1}, not {y.max()}")
    return data


def _npz(path: Path) -> Dataset:
    try:
        with np.load(path) as file:
            parts = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    return _checked(parts, path)


def read(place: Path) -> Dataset | None:
    """The data set at ``place``, an .npz or a folder with one or with the IDX files; None if nothing of it is there."""
    if place.is_file():
        return _npz(place)
    if any((place / name).is_file() for name in FILES.values()):
        missing = [name for name in FILES.values() if not (place / name).is_file()]
        if missing:
            raise DatasetError(f"{place} must hold the four IDX files of MNIST; it has no {', '.join(missing)}")
        return _checked({part: _idx(place / name) for part, name in FILES.items()}, place)
    return _npz(place / "mnist.npz") if (place / "mnist.npz").is_file() else None


def mnist() -> Dataset:
    """The whole of MNIST: 60,000 training and 10,000 test images.

    Looked for at the environment variable LEPTON_MNIST (a folder with the four gzipped IDX files, or an .npz as Keras
    keeps it), then ``~/.keras/datasets/mnist.npz``, then ``../shared/data/mnist`` beside the project.

    Raises
    ------
    DatasetError
        If it is in none of these places, if LEPTON_MNIST names a place without it, or if a file is damaged.
    """
    if named := os.environ.get(VARIABLE):
        data = read(Path(named).expanduser())
        if data is None:
            raise DatasetError(
                f"{VARIABLE} must name an .npz, or a folder with {', '.join(FILES.values())}; {named} is neither"
            )
        return data
    keras = Path("~/.keras/datasets/mnist.npz").expanduser()
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist"
    for place in (keras, shared):
        if (data := read(place)) is not None:
            return data
    raise DatasetError(
        f"MNIST was not found. Set {VARIABLE} to a folder with {', '.join(FILES.values())}, or to an .npz; or put it "
        f"at {keras} (keras.datasets.mnist.load_data() does) or in {shared}. leptonaicsdk.datasets.digits() is a small "
        "sample that is always there."
    )


def digits() -> Dataset:
    """The sample that the project carries: 2000 training and 256 test images of MNIST.

    Raises
    ------
    DatasetError
        If the package ``lepton_sim``, which carries it, is not installed.
    """
    spec = importlib.util.find_spec("lepton_sim")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError("the sample of digits is part of the package lepton_sim, which is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / "data" / "digits.npz"
    with np.load(path) as file:
        parts = {f"y_{part}": file[f"{part}_labels"] for part in ("train", "test")}
        parts |= {f"x_{part}": file[f"{part}_images"].reshape(-1, SIDE, SIDE) for part in ("train", "test")}
    return _checked(parts, path)
