"""How good predictions are: accuracy, macro averages, per-class report, confusion matrix, majority baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchard.errors import TrainingError
from orchard.layout import Baseline, ClassifierMetrics


def evaluate(
    true: Sequence[str],
    predicted: Sequence[str],
    *,
    counts: ArrayLike | None = None,
    train_rows: int = 0,
    seconds: float = 0.0,
) -> ClassifierMetrics:
    """Measure predictions of the test split.

    As scikit-learn does, macro averages are means over the labels that occur in `true` or `predicted`, and a
    precision, recall or F1 whose denominator is zero counts as 0.

    Args:
        true: (n,) labels.
        predicted: (n,) labels.
        counts: (n,) how many images each pair stands for; None: one each.
        train_rows: what the classifier was trained on, to be reported.
        seconds: that training and predicting took, to be reported.

    Raises:
        TrainingError: there is nothing to measure.
    """
    weights = np.ones(len(true), np.int64) if counts is None else np.asarray(counts, np.int64)
    if not weights.sum():
        raise TrainingError("There are no labelled test images to measure a classifier on: add a test split.")
    labels, codes = np.unique(np.array([*true, *predicted], dtype=object), return_inverse=True)
    n_labels = len(labels)
    cells = codes[: len(true)] * n_labels + codes[len(true) :]
    flat = np.zeros(n_labels * n_labels, np.int64)
    np.add.at(flat, cells, weights)
    confusion: NDArray[np.int64] = flat.reshape(n_labels, n_labels)

    hits = np.diagonal(confusion)
    support, answers = confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(hits, answers), _ratio(hits, support)
    # F1 = 2 P R / (P + R) = 2 TP / (2 TP + FP + FN)
    f1 = _ratio(2 * hits, support + answers)
    return {
        "accuracy": float(hits.sum() / weights.sum()),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "test_rows": int(weights.sum()),
        "train_rows": train_rows,
        "labels": labels.tolist(),
        "confusion_matrix": [row.tolist() for row in confusion],
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, label in enumerate(labels.tolist())
        },
        "seconds": seconds,
    }


def majority_baseline(train: Mapping[str, int], test: Mapping[str, int]) -> Baseline:
    """Return what always answering the most frequent training label would reach.

    Args:
        train: label -> training images; of equally frequent labels the first in order is taken.
        test: label -> test images.
    """
    label = min(train, key=lambda name: (-train[name], name))
    return {"label": label, "accuracy": test.get(label, 0) / sum(test.values())}


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
