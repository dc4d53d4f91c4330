"""Figures of a classification against cases worked out by hand."""

import numpy as np
import pytest
from leptonaicsdk.errors import InputError, InputTypeError
from leptonaicsdk.metrics import Evaluation, Scores, confusion_matrix

# Class 0: three samples, two found, one taken for 2. Class 1: two, one found, one taken for 0. Class 2: one, found.
LABELS = [0, 0, 0, 1, 1, 2]
PREDICTED = [0, 2, 0, 1, 0, 2]
CONFUSION = [[2, 0, 1], [1, 1, 0], [0, 0, 1]]


def test_by_hand():
    scores = Scores(confusion_matrix(LABELS, PREDICTED, 3))
    assert scores.confusion.tolist() == CONFUSION
    assert scores.count == 6
    assert scores.support.tolist() == [3, 2, 1]
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.precision_per_class == pytest.approx([2 / 3, 1, 1 / 2])
    assert scores.recall_per_class == pytest.approx([2 / 3, 1 / 2, 1])
    assert scores.f1_per_class == pytest.approx([4 / 6, 2 / 3, 2 / 3])
    assert scores.precision == pytest.approx((2 / 3 + 1 + 1 / 2) / 3)
    assert scores.recall == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert scores.f1 == pytest.approx(2 / 3)


def test_class_that_is_never_predicted_counts_as_zero_and_one_that_never_occurs_does_not_count():
    scores = Scores(confusion_matrix([0, 0, 1, 1], [0, 0, 0, 0], 3))
    assert scores.precision_per_class.tolist() == [0.5, 0, 0]
    assert scores.recall_per_class.tolist() == [1, 0, 0]
    assert scores.f1_per_class == pytest.approx([2 / 3, 0, 0])
    assert (scores.precision, scores.recall) == (0.25, 0.5)
    assert scores.f1 == pytest.approx(1 / 3)


def test_two_classes_against_their_definitions():
    """90 true positives, 10 false negatives, 30 false positives, 870 true negatives."""
    scores = Scores(np.array([[870, 30], [10, 90]]))
    assert scores.accuracy == pytest.approx(0.96)
    assert scores.precision_per_class[1] == pytest.approx(90 / 120)
    assert scores.recall_per_class[1] == pytest.approx(0.9)
    assert scores.f1_per_class[1] == pytest.approx(2 * 0.75 * 0.9 / (0.75 + 0.9))


def test_no_samples():
    scores = Scores(confusion_matrix(np.array([], int), np.array([], int), 4))
    assert (scores.count, scores.accuracy, scores.precision, scores.recall, scores.f1) == (0, 0, 0, 0, 0)


def test_evaluation():
    evaluation = Evaluation(6, 0.5, Scores(np.array(CONFUSION)))
    assert str(evaluation) == "6 samples, loss 0.5000, accuracy 0.6667, recall 0.7222, F1 0.6667"
    assert evaluation.precision == evaluation.scores.precision
    regression = Evaluation(6, 0.5, None)
    assert str(regression) == "6 samples, loss 0.5000"
    assert (regression.accuracy, regression.precision, regression.recall, regression.f1) == (None,) * 4


def test_refusals():
    with pytest.raises(InputError, match=r"labels must be from 0 to 2, not 3 \(sample 1\)"):
        confusion_matrix([0, 3], [0, 0], 3)
    with pytest.raises(InputError, match=r"predicted must be from 0 to 2, not -1 \(sample 0\)"):
        confusion_matrix([0, 2], [-1, 0], 3)
    with pytest.raises(InputError, match="predicted must be as many as labels, 2, not 1"):
        confusion_matrix([0, 2], [0], 3)
    with pytest.raises(InputError, match=r"labels must have one dimension, not the shape \(1, 2\)"):
        confusion_matrix([[0, 2]], [0], 3)
    with pytest.raises(InputTypeError, match="labels must be integers, not float64"):
        confusion_matrix([0.0, 2.0], [0, 1], 3)
