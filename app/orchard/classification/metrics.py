"""How good predictions are: accuracy, macro averages, per-class report, sparse confusion matrix, majority baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from orchard.classification.intervals import wilson
from orchard.errors import TrainingError
from orchard.layout import Baseline, ClassifierMetrics

MAX_PAIRS = 10_000
"""Pairs of true and predicted label in ``confusion``, at most: all of up to 100 classes, else the most frequent."""


def evaluate(
    true: Sequence[str],
    predicted: Sequence[str],
    *,
    counts: Sequence[int] | None = None,
    train_rows: int = 0,
    seconds: float = 0.0,
) -> ClassifierMetrics:
    """Measure predictions of the test split.

    As scikit-learn does, macro averages are means over the labels that occur in `true` or `predicted`, weighted ones
    by the test images of each, and a precision, recall or F1 whose denominator is zero counts as 0.

    Args:
        true: (n,) true labels.
        predicted: (n,) predicted labels.
        counts: (n,) number of images for each pair; None: one each.
        train_rows: number of rows that the classifier was trained on, to be reported.
        seconds: duration of training and prediction, to be reported.

    Raises:
        TrainingError: there is nothing to measure.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    support: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for label, answer, images in zip(true, predicted, counts or repeat(1, len(true)), strict=True):
        pairs[label, answer] += images
        support[label] += images
        answers[answer] += images
    test_rows = support.total()
    if not test_rows:
        raise TrainingError("There are no labelled test images to measure a classifier on: add a test split.")
    labels = sorted(support.keys() | answers.keys())
    hits = np.array([pairs[label, label] for label in labels])
    true_of, said = (np.array([counter[label] for label in labels]) for counter in (support, answers))
    precision, recall = _ratio(hits, said), _ratio(hits, true_of)
    # F1 = 2 P R / (P + R) = 2 TP / (2 TP + FP + FN)
    f1 = _ratio(2 * hits, true_of + said)
    weight = true_of / test_rows
    confusion: dict[str, dict[str, int]] = {}
    most = nsmallest(MAX_PAIRS, pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    for (label, answer), images in sorted(most):
        confusion.setdefault(label, {})[answer] = images
    return {
        "accuracy": float(hits.sum() / test_rows),
        "accuracy_interval": wilson(float(hits.sum() / test_rows), test_rows),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "weighted_precision": float(precision @ weight),
        "weighted_recall": float(recall @ weight),
        "weighted_f1": float(f1 @ weight),
        "test_rows": test_rows,
        "train_rows": train_rows,
        "confusion": confusion,
        "confusion_left_out": test_rows - sum(images for _, images in most),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": support[label],
            }
            for i, label in enumerate(labels)
        },
        "seconds": seconds,
    }


def majority_baseline(train: Mapping[str, int], test: Mapping[str, int]) -> Baseline:
    """Return the accuracy of always answering the most frequent training label.

    Args:
        train: label -> number of training images; among equally frequent labels the first in order is taken.
        test: label -> number of test images.
    """
    label = min(train, key=lambda name: (-train[name], name))
    rows = sum(test.values())
    accuracy = test.get(label, 0) / rows
    return {"label": label, "accuracy": accuracy, "accuracy_interval": wilson(accuracy, rows)}


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
