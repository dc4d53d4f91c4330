"""Where MNIST is looked for, in which order, and what is said when it is not there or damaged."""

import gzip

import numpy as np
import pytest
from leptonaicsdk import datasets
from leptonaicsdk.datasets import FILES, DatasetError, digits, mnist


def arrays(first: int) -> dict[str, np.ndarray]:
    """A small set whose first pixel tells one place from another."""
    x = np.full((3, 28, 28), first, np.uint8)
    return {
        "x_train": x,
        "y_train": np.array([1, 9, 0], np.uint8),
        "x_test": x[:2],
        "y_test": np.array([5, 4], np.uint8),
    }


def zipped(content: bytes) -> bytes:
    """Without the time of day, that two workers of pytest collect the same."""
    return gzip.compress(content, mtime=0)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return zipped(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def write_idx(folder, first: int):
    folder.mkdir(parents=True, exist_ok=True)
    for part, array in arrays(first).items():
        (folder / FILES[part]).write_bytes(idx(array))


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Home and project of a machine without MNIST."""
    monkeypatch.delenv("LEPTON_MNIST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "project" / "sdk" / "leptonaicsdk" / "datasets.py"))
    return tmp_path


def test_order_of_the_places(places, monkeypatch):
    with pytest.raises(
        DatasetError, match=r"MNIST was not found. Set LEPTON_MNIST to a folder with train-images-idx3"
    ) as e:
        mnist()
    assert "digits() is a small sample" in str(e.value)
    write_idx(places / "shared" / "data" / "mnist", 1)
    assert mnist().x_train[0, 0, 0] == 1
    keras = places / "home" / ".keras" / "datasets" / "mnist.npz"
    keras.parent.mkdir(parents=True)
    np.savez(keras, **arrays(2))
    assert mnist().x_train[0, 0, 0] == 2
    write_idx(places / "named", 3)
    monkeypatch.setenv("LEPTON_MNIST", str(places / "named"))
    assert mnist().x_train[0, 0, 0] == 3
    monkeypatch.setenv("LEPTON_MNIST", "~/.keras/datasets/mnist.npz")
    assert mnist().x_train[0, 0, 0] == 2
    monkeypatch.setenv("LEPTON_MNIST", str(keras.parent))
    data = mnist()
    assert data.x_train[0, 0, 0] == 2
    assert (data.y_train.tolist(), data.y_test.tolist(), data.x_test.shape) == ([1, 9, 0], [5, 4], (2, 28, 28))


def test_a_wrong_place_in_the_variable_is_not_passed_over(places, monkeypatch):
    write_idx(places / "shared" / "data" / "mnist", 1)
    monkeypatch.setenv("LEPTON_MNIST", str(places / "nowhere"))
    with pytest.raises(DatasetError, match=r"LEPTON_MNIST must name an .npz, or a folder with .*nowhere is neither"):
        mnist()


def named(places, monkeypatch, part: str, content: bytes):
    write_idx(places / "named", 1)
    (places / "named" / FILES[part]).write_bytes(content)
    monkeypatch.setenv("LEPTON_MNIST", str(places / "named"))


@pytest.mark.parametrize(
    ("part", "content", "message"),
    [
        ("x_train", b"not gzip", "train-images-idx3-ubyte.gz cannot be read: Not a gzipped file"),
        (
            "x_train",
            zipped(b"\0\0\x0d\x01abcd"),
            "must be an IDX file of bytes, 000008 and its sizes, not begin 00000d01",
        ),
        ("x_train", zipped(b""), "must be an IDX file of bytes"),
        ("y_test", zipped(b"\0\0\x08\x01\0\0\0\x05abcd"), "must hold 5 bytes as its header says, not 4"),
        ("y_test", zipped(b"\0\0\x08\x01\0\0"), "000008 and its sizes, not begin 00000801"),
        ("y_train", idx(np.array([1, 10, 2], np.uint8)), "y_train must be from 0 to 9, not 10"),
        ("y_train", idx(np.array([1, 2], np.uint8)), r"y_train must be \(3,\) uint8, not \(2,\)"),
        ("x_test", idx(np.zeros((2, 27, 28), np.uint8)), r"x_test must be \(n, 28, 28\) uint8, not \(2, 27, 28\)"),
    ],
    ids=["no gzip", "floats", "empty", "data cut", "header cut", "label of 10", "a label short", "27 rows"],
)
def test_damaged_files(places, monkeypatch, part, content, message):
    named(places, monkeypatch, part, content)
    with pytest.raises(DatasetError, match=message):
        mnist()


def test_a_file_is_missing(places, monkeypatch):
    named(places, monkeypatch, "y_test", b"")
    (places / "named" / FILES["y_test"]).unlink()
    with pytest.raises(
        DatasetError, match=r"must hold the four IDX files of MNIST; it has no t10k-labels-idx1-ubyte\.gz"
    ):
        mnist()


def test_npz_without_an_array_and_no_npz(places, monkeypatch):
    path = places / "m.npz"
    monkeypatch.setenv("LEPTON_MNIST", str(path))
    np.savez(path, x_train=np.zeros(1))
    with pytest.raises(DatasetError, match="it has no y_train, x_test, y_test"):
        mnist()
    path.write_bytes(b"PK nonsense")
    with pytest.raises(DatasetError, match=r"m.npz cannot be read"):
        mnist()


def test_sample_is_always_there():
    data = digits()
    assert (data.x_train.shape, data.x_test.shape) == ((2000, 28, 28), (256, 28, 28))
    assert data.y_train[:5].tolist() == [5, 0, 4, 1, 9]  # as everybody knows them
