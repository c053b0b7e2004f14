"""Calibration of a classifier on labelled rows that it was not trained on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchard import tasks
from orchard.inference.calibration import (
    LEAST_ROWS,
    Calibration,
    expected_calibration_error,
    fit,
    reliability,
    softmax,
)
from orchard.layout import CalibrationMetrics, Split

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

# More would make the figures no steadier.
MAX_ROWS = 20_000
# The driver holds the scores some ten times over while it fits, as float64: 0.2 GB.
MAX_SCORES = 2_500_000


def calibrate(
    model: Any, rows: DataFrame, labels: Sequence[str], counts: Mapping[Split, int]
) -> tuple[Calibration, CalibrationMetrics | None]:
    """Fit temperature and threshold on the validation split, or on the test split where there is none.

    The figures are cross-fitted: each half of the rows is measured with what the other half gave. None, and a
    calibration that changes nothing, if there are too few rows.

    Args:
        model: a fitted model of Spark ML with the column ``rawPrediction``.
        rows: as of `orchard.classification.training.vectors`.
        labels: of the model's classes.
        counts: labelled rows of each split.
    """
    split = Split.VALIDATION if counts.get(Split.VALIDATION, 0) >= 2 * LEAST_ROWS else Split.TEST
    if counts.get(split, 0) < 2 * LEAST_ROWS:
        return Calibration(), None
    scores, classes, half = _scores(model, rows, labels, split, counts[split])
    before, after, right = softmax(scores).max(axis=1), np.empty(len(classes), np.float32), np.empty(len(classes), bool)
    sure = np.empty(len(classes), bool)
    for side in (half, ~half):
        other = fit(scores[~side], classes[~side])
        probabilities = other.probabilities(scores[side])
        after[side], right[side] = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes[side]
        sure[side] = after[side] >= other.threshold
    calibration = fit(scores, classes)
    return calibration, CalibrationMetrics(
        split=split,
        rows=len(classes),
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        error_before=expected_calibration_error(before, right),
        error_after=expected_calibration_error(after, right),
        reliability_before=reliability(before, right),
        reliability_after=reliability(after, right),
        accuracy=float(right.mean()),
        accuracy_sure=float(right[sure].mean()) if sure.any() else None,
        share_sure=float(sure.mean()),
    )


def _scores(
    model: Any, rows: DataFrame, labels: Sequence[str], split: Split, count: int
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.bool_]]:
    """Return scores (n, n_classes), true classes (n,), -1 for others, and which half each row is in."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql.functions import col, lit, pmod, xxhash64

    chosen = rows.where(col("split") == str(split))
    most = max(2 * LEAST_ROWS, min(MAX_ROWS, MAX_SCORES // len(labels)))
    if count > most:
        chosen = chosen.where(pmod(xxhash64("path"), lit(count)) < most)
    scored = model.transform(chosen).select(
        "path", "label", vector_to_array("rawPrediction", "float32").alias("scores")
    )
    parts = tasks.collect(tasks.map_batches(scored, _pack, "labels array<string>, half binary, scores binary"))
    index = {label: number for number, label in enumerate(labels)}
    classes = [index.get(label, -1) for part in parts for label in part["labels"]]
    return (
        np.frombuffer(b"".join(part["scores"] for part in parts), np.float32).reshape(len(classes), len(labels)),
        np.array(classes, np.intp),
        np.frombuffer(b"".join(part["half"] for part in parts), bool),
    )


def _pack(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows of scores as bytes, which the driver takes without making an object of each number."""
    for batch in batches:
        if batch.num_rows:
            half = bytes(zlib.crc32(path.encode("utf-8", "surrogatepass")) & 1 for path in batch["path"].to_pylist())
            scores = batch["scores"].flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
            yield pa.record_batch(
                [
                    pa.array([batch["label"].to_pylist()], pa.list_(pa.string())),
                    pa.array([half], pa.binary()),
                    pa.array([scores.tobytes()], pa.binary()),
                ],
                names=["labels", "half", "scores"],
            )
