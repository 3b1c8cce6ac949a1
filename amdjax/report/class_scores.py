"""Accuracy and confusions by class of a method, over its seeds, and their tables as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix


class ClassScores(NamedTuple):
    """The predictions of a method by class, for S seeds and C classes.

    Attributes:
      accuracy: float64 [S,C], fraction of a class's test images that a seed's network classifies
        correctly; NaN for a class without test images.
      confusion: float64 [C,C], fraction of the test images of a class (row) that are classified as
        a class (column), mean over the seeds; NaN for a class without test images.
    """

    accuracy: np.ndarray
    confusion: np.ndarray


def score_classes(
    predictions: Sequence[np.ndarray], labels: np.ndarray, classes: int
) -> ClassScores:
    """Returns the accuracy and the confusions by class.

    Args:
      predictions: the predicted classes int [N] of each seed, at least one.
      labels: int [N], at least one.
      classes: C.
    """
    images = np.bincount(labels, minlength=classes)
    counts = np.zeros([classes, classes])
    accuracy = []
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as wanted
        for predicted in predictions:
            of_seed = confusion_matrix(labels, predicted, labels=np.arange(classes))
            accuracy.append(of_seed.diagonal() / images)
            counts += of_seed
        confusion = counts / (len(predictions) * images[:, None])
    return ClassScores(np.stack(accuracy), confusion)


def accuracy_csv(
    scores: Mapping[str, ClassScores], labels: np.ndarray, class_names: Sequence[str]
) -> str:
    """Returns the accuracy of each method and class with test images as CSV.

    Args:
      scores: by method.
      labels: int [N].
      class_names: C names.

    Returns:
      Rows of method, label, class, number of test images, mean accuracy over the seeds and its
      standard deviation (n - 1), which is empty for a single seed.
    """
    images = np.bincount(labels, minlength=len(class_names))
    rows = []
    for method, class_scores in scores.items():
        for label in np.flatnonzero(images).tolist():
            values = class_scores.accuracy[:, label]
            std = _number(values.std(ddof=1)) if len(values) > 1 else ""
            row = (method, label, class_names[label], images[label], _number(values.mean()), std)
            rows.append(row)
    return _csv(("method", "label", "class", "images", "accuracy", "std"), rows)


def confusion_csv(scores: Mapping[str, ClassScores], class_names: Sequence[str]) -> str:
    """Returns the entries of each method's confusion matrix that are not zero as CSV.

    Args:
      scores: by method.
      class_names: C names.

    Returns:
      Rows of method, label, class, predicted label, predicted class and the fraction of the class's
      test images, the mean over the seeds.
    """
    rows = []
    for method, class_scores in scores.items():
        for label, predicted in np.argwhere(class_scores.confusion > 0).tolist():
            names = class_names[label], predicted, class_names[predicted]
            rows.append((method, label, *names, _number(class_scores.confusion[label, predicted])))
    heading = ("method", "label", "class", "predicted_label", "predicted_class", "fraction")
    return _csv(heading, rows)


def _number(value: float) -> str:
    return f"{value:.6g}"


def _csv(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heading, *rows])
    return text.getvalue()
