"""Accuracy, precision, recall and F1 of a classification, all from its confusion matrix."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError, InputTypeError

__all__ = ["Evaluation", "Scores", "confusion_matrix"]


def _classes(name: str, values: ArrayLike, classes: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"{name} must be integers, not {array.dtype}")
    if array.ndim != 1:
        raise InputError(f"{name} must have one dimension, not the shape {array.shape}")
    outside = np.flatnonzero((array < 0) | (array >= classes))
    if outside.size:
        raise InputError(f"{name} must be from 0 to {classes - 1}, not {array[outside[0]]} (sample {outside[0]})")
    return array.astype(np.int64)


def confusion_matrix(labels: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """How often label i was predicted as class j, as element [i, j] of (classes, classes).

    Parameters
    ----------
    labels, predicted : array of integers, (n,)
    classes : int

    Raises
    ------
    InputError
        For values outside 0 .. classes - 1 and different lengths.
    InputTypeError
        For values that are not integers.
    """
    true, chosen = _classes("labels", labels, classes), _classes("predicted", predicted, classes)
    if len(true) != len(chosen):
        raise InputError(f"predicted must be as many as labels, {len(true)}, not {len(chosen)}")
    return np.bincount(true * classes + chosen, minlength=classes * classes).reshape(classes, classes)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole, and 0 where whole is 0."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole != 0)


@dataclass(frozen=True)
class Scores:
    """The usual figures of a classification.

    A class that is never predicted has precision 0, one without samples recall 0. Macro averages are over the classes
    that occur, as a label or as a prediction (so does scikit-learn).

    Attributes
    ----------
    confusion : numpy.ndarray
        (classes, classes) counts, labels down, predictions across: see `confusion_matrix`.
    """

    confusion: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Samples."""
        return int(self.confusion.sum())

    @property
    def support(self) -> NDArray[np.int64]:
        """Samples of each class."""
        return self.confusion.sum(axis=1)

    @cached_property
    def precision_per_class(self) -> NDArray[np.float64]:
        """Of those predicted as a class, the share that is of it."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @cached_property
    def recall_per_class(self) -> NDArray[np.float64]:
        """Of those of a class, the share that is predicted as it."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @cached_property
    def f1_per_class(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN)."""
        both = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        return _ratio(2 * self.confusion.diagonal(), both)

    def _macro(self, values: NDArray[np.float64]) -> float:
        occurring = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(values[occurring].mean()) if occurring.any() else 0.0

    @property
    def accuracy(self) -> float:
        """Share of the samples whose class was predicted; 0 without samples."""
        return float(self.confusion.trace() / self.count) if self.count else 0.0

    @property
    def precision(self) -> float:
        """Macro average of `precision_per_class`."""
        return self._macro(self.precision_per_class)

    @property
    def recall(self) -> float:
        """Macro average of `recall_per_class`."""
        return self._macro(self.recall_per_class)

    @property
    def f1(self) -> float:
        """Macro average of `f1_per_class`."""
        return self._macro(self.f1_per_class)


@dataclass(frozen=True)
class Evaluation:
    """What ``Device.evaluate`` found.

    Attributes
    ----------
    count : int
        Samples.
    loss : float
        Mean over the samples.
    scores : Scores or None
        Of a classification; None for a loss that is not over classes.
    """

    count: int
    loss: float
    scores: Scores | None

    @property
    def accuracy(self) -> float | None:
        """`Scores.accuracy`, or None without classes."""
        return None if self.scores is None else self.scores.accuracy

    @property
    def precision(self) -> float | None:
        """`Scores.precision`, or None without classes."""
        return None if self.scores is None else self.scores.precision

    @property
    def recall(self) -> float | None:
        """`Scores.recall`, or None without classes."""
        return None if self.scores is None else self.scores.recall

    @property
    def f1(self) -> float | None:
        """`Scores.f1`, or None without classes."""
        return None if self.scores is None else self.scores.f1

    def __str__(self) -> str:
        text = f"{self.count} samples, loss {self.loss:.4f}"
        if self.scores is not None:
            text += f", accuracy {self.accuracy:.4f}, recall {self.recall:.4f}, F1 {self.f1:.4f}"
        return text
