"""Confidence means how often an answer is right, and the thresholds keep the answers that are sure right."""

import numpy as np
import pytest

from orchard.inference.calibration import (
    LEAST_ROWS,
    LEAST_THRESHOLD,
    Calibration,
    Decision,
    expected_calibration_error,
    fit,
    log_loss,
    reliability,
    softmax,
    threshold,
)
from orchard.vocabulary import Answer

SURE = 0.99


def overconfident(rows: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of four classes that are `factor` times too large for how often they are right, and the true classes."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 4, (rows, 4))
    shares = softmax(honest).cumsum(axis=1)
    classes = (shares > random.uniform(0, shares[:, -1])[:, np.newaxis]).argmax(axis=1)
    return honest * factor, classes


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0, 300.0])
def test_the_temperature_undoes_scores_that_are_too_large_or_too_small(factor: float) -> None:
    assert fit(*overconfident(20_000, factor), sure_at=SURE).temperature == pytest.approx(factor, rel=0.05)


def test_calibration_brings_confidence_to_accuracy_on_other_rows() -> None:
    calibration = fit(*overconfident(5_000, 3.0), sure_at=SURE)
    scores, classes = overconfident(5_000, 3.0, seed=1)
    before, after = softmax(scores), calibration.probabilities(scores)
    right = after.argmax(axis=1) == classes
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert expected_calibration_error(after.max(axis=1), right) < 0.02
    assert expected_calibration_error(before.max(axis=1), right) > 0.05


@pytest.mark.parametrize("sure_at", [0.9, 0.95, SURE])
def test_sure_answers_are_as_right_as_promised_on_other_rows(sure_at: float) -> None:
    calibration = fit(*overconfident(20_000, 2.0), sure_at=sure_at)
    scores, classes = overconfident(20_000, 2.0, seed=1)
    probabilities = calibration.probabilities(scores)
    sure = probabilities.max(axis=1) >= calibration.threshold
    right = probabilities.argmax(axis=1) == classes
    assert right[sure].mean() == pytest.approx(sure_at, abs=0.01)
    assert right.mean() < 0.88 and 0.1 < sure.mean() < 0.98


def test_nothing_is_sure_where_no_answer_is_right_often_enough() -> None:
    random = np.random.default_rng(0)
    assert fit(random.normal(0, 1, (2_000, 4)), random.integers(0, 4, 2_000), sure_at=SURE).threshold == 1.0


def test_a_model_that_was_always_right_is_neither_certain_nor_silent() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 4, 500)
    scores = random.normal(0, 1, (500, 4))
    scores[np.arange(500), classes] += 12
    calibration = fit(scores, classes, sure_at=SURE)
    confidence = calibration.probabilities(scores).max(axis=1)
    assert (confidence >= calibration.threshold).all()
    assert 0.9 < confidence.mean() < 0.9999


def test_labels_that_the_model_does_not_know_raise_the_threshold() -> None:
    scores, classes = overconfident(5_000, 1.0)
    unknown = np.where(np.arange(5_000) % 3 == 0, -1, classes)
    assert fit(scores, unknown, sure_at=SURE).threshold > fit(scores, classes, sure_at=SURE).threshold


def test_a_sure_answer_has_a_standard_error_to_spare() -> None:
    confidence = np.linspace(0.999, 0.6, 1_000, dtype=np.float32)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    classes = np.r_[np.zeros(990, int), np.ones(10, int)]  # the ten least confident are wrong
    sure = (confidence >= threshold(probabilities, classes, 0.99)).sum()
    assert sure == pytest.approx(997, abs=1)  # 7 + 2.6 of 997, not 10 of 1,000


def test_few_rows_calibrate_nothing() -> None:
    scores, classes = overconfident(LEAST_ROWS - 1, 3.0)
    assert fit(scores, classes, sure_at=SURE) == Calibration(1.0, LEAST_THRESHOLD, 0.0)


def test_the_reliability_diagram_counts_every_row_once() -> None:
    confidence = np.array([0.05, 0.95, 0.97, 1.0], np.float32)
    right = np.array([False, True, False, True])
    bins = reliability(confidence, right)
    assert [row["images"] for row in bins] == [0.25, 0.75]
    assert bins[1]["accuracy"] == pytest.approx(2 / 3)
    assert expected_calibration_error(confidence, right) == pytest.approx(0.25 * 0.05 + 0.75 * (2.92 / 3 - 2 / 3))


def test_the_familiarity_threshold_is_passed_by_the_share_of_known_images_that_is_asked_for() -> None:
    scores, classes = overconfident(1_000, 1.0)
    familiarity = np.linspace(0, 1, 1_000, dtype=np.float32)
    unlabelled = np.where(np.arange(1_000) < 100, -1, classes)  # the least familiar are of no class: they do not count
    for truth, least in ((classes, 0.02), (unlabelled, 0.118)):
        found = fit(scores, truth, sure_at=SURE, familiarity=familiarity, known=0.98)
        assert found.familiarity == pytest.approx(least, abs=2e-3)
        assert (familiarity[truth >= 0] >= found.familiarity).mean() >= 0.98


def test_what_is_unknown_does_not_raise_the_threshold_of_what_is_sure() -> None:
    scores, classes = overconfident(4_000, 1.0)
    strange = np.arange(4_000) % 4 == 0
    classes = np.where(strange, -1, classes)  # sure answers to these would all be wrong
    near = np.where(strange, 0.1, 0.8).astype(np.float32)
    everything = fit(scores, classes, sure_at=SURE)
    familiar = fit(scores, classes, sure_at=SURE, familiarity=near, known=0.98)
    assert familiar.familiarity == pytest.approx(0.8, abs=1e-3)
    assert familiar.threshold < everything.threshold
    assert familiar.temperature == everything.temperature


@pytest.mark.parametrize(
    ("confidence", "familiarity", "answer"),
    [
        (0.9, 0.5, Answer.SURE),
        (0.8, 0.3, Answer.SURE),
        (0.7999, 0.5, Answer.NOT_SURE),
        (1.0, 0.2999, Answer.UNKNOWN),
        (0.1, 0.0, Answer.UNKNOWN),
    ],
)
def test_there_are_three_answers_and_what_is_strange_is_never_sure(
    confidence: float, familiarity: float, answer: Answer
) -> None:
    assert Calibration(1.0, 0.8, 0.3).answers(np.array([confidence]), np.array([familiarity])).tolist() == [answer]


def test_the_log_loss_counts_known_classes_and_punishes_certainty_that_is_wrong() -> None:
    scores, classes = np.log([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]] * 200), np.array([0, 0, -1] * 200)
    assert log_loss(scores, classes, 1.0) == pytest.approx(-(np.log(0.7) + np.log(0.2)) / 2, abs=0.01)
    assert log_loss(scores * 9, classes, 1.0) > log_loss(scores, classes, 1.0)
    assert log_loss(scores * 9, classes, 9.0) == pytest.approx(log_loss(scores, classes, 1.0))
    assert log_loss(scores, np.full(600, -1), 1.0) == float("inf")


def test_a_decision_survives_its_file() -> None:
    for kind_threshold in (None, 0.7):
        decision = Decision("linear_discriminant", Calibration(1.25, 0.8, 0.4), kind_threshold)
        assert Decision.from_bytes(decision.to_bytes()) == decision
    assert Calibration.from_json(Calibration(1.25, 0.8, 0.4).as_json()) == Calibration(1.25, 0.8, 0.4)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"temperature": 1.2, "threshold": 0.8}', "no classifier"),
        (b"[]", "no classifier"),
        (b'{"classifier": "linear_discriminant"}', "no temperature"),
        (b'{"classifier": "a", "temperature": null, "threshold": 1, "familiarity": 0}', "no temperature"),
        (b"not JSON", "Expecting value"),
    ],
)
def test_a_file_of_something_else_is_an_error(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Decision.from_bytes(content)
