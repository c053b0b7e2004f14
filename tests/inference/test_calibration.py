"""Confidence means how often an answer is right, and "not sure" keeps the answers that are given right."""

import numpy as np
import pytest

from orchard.inference.calibration import (
    LEAST_ROWS,
    LEAST_THRESHOLD,
    SURE,
    Calibration,
    expected_calibration_error,
    fit,
    reliability,
    softmax,
)


def overconfident(rows: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of four classes that are `factor` times too large for how often they are right, and the true classes."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 4, (rows, 4))
    shares = softmax(honest)
    classes = np.array([random.choice(4, p=row / row.sum()) for row in shares.astype(np.float64)])
    return honest * factor, classes


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_temperature_undoes_scores_that_are_too_large_or_too_small(factor: float) -> None:
    assert fit(*overconfident(20_000, factor)).temperature == pytest.approx(factor, rel=0.05)


def test_calibration_brings_confidence_to_accuracy_on_other_rows() -> None:
    calibration = fit(*overconfident(5_000, 3.0))
    scores, classes = overconfident(5_000, 3.0, seed=1)
    before, after = softmax(scores), calibration.probabilities(scores)
    right = after.argmax(axis=1) == classes
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert expected_calibration_error(after.max(axis=1), right) < 0.02
    assert expected_calibration_error(before.max(axis=1), right) > 0.05


def test_answers_at_the_threshold_are_as_right_as_promised_on_other_rows() -> None:
    calibration = fit(*overconfident(20_000, 2.0))
    scores, classes = overconfident(20_000, 2.0, seed=1)
    probabilities = calibration.probabilities(scores)
    sure = probabilities.max(axis=1) >= calibration.threshold
    right = probabilities.argmax(axis=1) == classes
    assert right[sure].mean() > SURE - 0.01
    assert right.mean() < 0.95 and 0.1 < sure.mean() < 0.9


def test_nothing_is_sure_where_no_answer_is_right_often_enough() -> None:
    random = np.random.default_rng(0)
    assert fit(random.normal(0, 1, (2_000, 4)), random.integers(0, 4, 2_000)).threshold == 1.0


def test_a_model_that_was_always_right_is_neither_certain_nor_silent() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 4, 500)
    scores = random.normal(0, 1, (500, 4))
    scores[np.arange(500), classes] += 12
    calibration = fit(scores, classes)
    confidence = calibration.probabilities(scores).max(axis=1)
    assert (confidence >= calibration.threshold).all()
    assert 0.9 < confidence.mean() < 0.9999


def test_labels_that_the_model_does_not_know_raise_the_threshold() -> None:
    scores, classes = overconfident(5_000, 1.0)
    unknown = np.where(np.arange(5_000) % 3 == 0, -1, classes)
    assert fit(scores, unknown).threshold > fit(scores, classes).threshold


def test_few_rows_calibrate_nothing() -> None:
    scores, classes = overconfident(LEAST_ROWS - 1, 3.0)
    assert fit(scores, classes) == Calibration(1.0, LEAST_THRESHOLD)


def test_the_reliability_diagram_counts_every_row_once() -> None:
    confidence = np.array([0.05, 0.95, 0.97, 1.0], np.float32)
    right = np.array([False, True, False, True])
    bins = reliability(confidence, right)
    assert [row["images"] for row in bins] == [0.25, 0.75]
    assert bins[1]["accuracy"] == pytest.approx(2 / 3)
    assert expected_calibration_error(confidence, right) == pytest.approx(0.25 * 0.05 + 0.75 * (2.92 / 3 - 2 / 3))


def test_a_calibration_survives_its_file() -> None:
    calibration = Calibration(1.25, 0.8)
    assert Calibration.from_bytes(calibration.to_bytes()) == calibration
    with pytest.raises(ValueError, match="no temperature"):
        Calibration.from_bytes(b'{"temprature": 1}')
