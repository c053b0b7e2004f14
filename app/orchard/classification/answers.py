"""How often answers are right: measured on the test images, on which nothing was fitted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchard.classification.intervals import wilson
from orchard.classification.predictions import Measured
from orchard.inference.calibration import Calibration, expected_calibration_error, reliability
from orchard.layout import FAMILIARITY_BINS, CalibrationMetrics, CoveragePoint
from orchard.vocabulary import Answer, Split

_POINTS = 50  # of the curve


def measure_answers(
    measured: Measured, calibration: Calibration, *, split: Split, rows: int, sure_at: float
) -> CalibrationMetrics | None:
    """Return how often sure answers, and all answers, were right; None if there is no test image.

    Args:
        measured: answers to the test images.
        calibration: the calibration of these answers.
        split: the split on which the calibration was fitted.
        rows: number of images on which it was fitted.
        sure_at: the share of sure answers that should be right, 0..1.
    """
    before, after, right = measured.before, measured.after, measured.right
    if not len(after):
        return None
    answers = calibration.answers(after, measured.familiarity)
    unknown, sure = answers == Answer.UNKNOWN, answers == Answer.SURE
    bins = np.minimum((measured.familiarity * FAMILIARITY_BINS).astype(int), FAMILIARITY_BINS - 1)
    return CalibrationMetrics(
        split=split,
        rows=rows,
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        familiarity_threshold=calibration.familiarity,
        sure_at=sure_at,
        test_rows=len(after),
        error_before=expected_calibration_error(before, right),
        error_after=expected_calibration_error(after, right),
        reliability_before=reliability(before, right),
        reliability_after=reliability(after, right),
        accuracy=float(right.mean()),
        accuracy_interval=wilson(float(right.mean()), len(right)),
        accuracy_sure=float(right[sure].mean()) if sure.any() else None,
        accuracy_sure_interval=wilson(float(right[sure].mean()), int(sure.sum())) if sure.any() else None,
        share_sure=float(sure.mean()),
        share_unknown=float(unknown.mean()),
        familiarity=np.bincount(bins, minlength=FAMILIARITY_BINS).tolist(),
        coverage=_coverage(after, right, ~unknown),
    )


def _coverage(
    confidence: NDArray[np.float32], right: NDArray[np.bool_], familiar: NDArray[np.bool_]
) -> list[CoveragePoint]:
    """Return the risk-coverage curve of the familiar images (El-Yaniv & Wiener 2010, JMLR 11), `_POINTS` at most."""
    order = np.argsort(-confidence[familiar], kind="stable")
    least, hits = confidence[familiar][order], np.cumsum(right[familiar][order])
    ends = np.unique(np.linspace(1, len(order), min(_POINTS, len(order)), dtype=int))
    return [
        CoveragePoint(
            confidence=float(least[end - 1]),
            answered=float(end / len(confidence)),
            images=int(end),
            right=int(hits[end - 1]),
        )
        for end in ends
    ]
