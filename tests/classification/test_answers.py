"""What is measured of the answers to the test images."""

import json

import numpy as np
import pytest

from orchard.classification.answers import measure_answers
from orchard.classification.predictions import Measured
from orchard.inference.calibration import Calibration
from orchard.layout import FAMILIARITY_BINS, CalibrationMetrics
from orchard.vocabulary import Split


def measured(rows: list[tuple[float, float, bool]]) -> Measured:
    """Of confidence, familiarity, and whether it is right."""
    confidence, familiarity, right = (np.array(column) for column in zip(*rows, strict=True))
    confidence = confidence.astype(np.float32)
    return Measured(confidence**2, confidence, familiarity.astype(np.float32), right)


def figures(rows: Measured) -> CalibrationMetrics:
    found = measure_answers(rows, Calibration(2.0, 0.8, 0.3), split=Split.TRAIN, rows=77, sure_at=0.95)
    assert found is not None
    json.dumps(found, allow_nan=False)
    return found


def test_sure_unknown_and_the_rest_are_shares_of_all_test_images() -> None:
    found = figures(
        measured(
            [
                *[(0.9, 0.9, True)] * 5,
                (0.8, 0.3, False),  # sure, and wrong
                *[(0.6, 0.5, True)] * 2,  # not sure
                *[(0.99, 0.1, False)] * 2,  # unknown
            ]
        )
    )
    assert (found["share_sure"], found["share_unknown"]) == (0.6, 0.2)
    assert found["accuracy_sure"] == pytest.approx(5 / 6)
    assert found["accuracy"] == 0.7
    assert (found["split"], found["rows"], found["test_rows"], found["sure_at"]) == ("train", 77, 10, 0.95)
    assert (found["temperature"], found["threshold"], found["familiarity_threshold"]) == (2.0, 0.8, 0.3)
    assert len(found["familiarity"]) == FAMILIARITY_BINS and sum(found["familiarity"]) == 10
    assert found["familiarity"][5] == 2 and found["familiarity"][45] == 5
    assert found["error_before"] != found["error_after"]


def test_the_curve_answers_the_most_certain_familiar_images_first() -> None:
    found = figures(
        measured([(0.9, 0.9, True), (0.7, 0.9, False), (0.95, 0.9, True), (0.99, 0.1, False), (0.8, 0.9, True)])
    )
    curve: list[object] = [(p["confidence"], p["answered"], p["images"], p["right"]) for p in found["coverage"]]
    assert curve == [
        (pytest.approx(0.95), 0.2, 1, 1),
        (pytest.approx(0.9), 0.4, 2, 2),
        (pytest.approx(0.8), 0.6, 3, 3),
        (pytest.approx(0.7), 0.8, 4, 3),
    ]


def test_a_long_curve_is_drawn_of_some_fifty_points_with_both_ends() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.2, 1, 5_000).astype(np.float32)
    right = random.uniform(size=5_000) < confidence
    curve = figures(Measured(confidence, confidence, np.ones(5_000, np.float32), right))["coverage"]
    assert 40 <= len(curve) <= 50
    assert [point["images"] for point in curve] == sorted({point["images"] for point in curve})
    assert (curve[0]["images"], curve[-1]["images"], curve[-1]["right"]) == (1, 5_000, right.sum())
    assert curve[5]["right"] / curve[5]["images"] > curve[-1]["right"] / 5_000 + 0.2


def test_where_all_is_unknown_nothing_is_sure_and_the_curve_is_empty() -> None:
    found = figures(measured([(0.9, 0.1, True), (0.9, 0.2, True)]))
    assert (found["share_sure"], found["share_unknown"], found["accuracy_sure"]) == (0, 1, None)
    assert found["coverage"] == []
    assert figures(measured([(1.0, 1.0, True)]))["familiarity"][-1] == 1


def test_without_test_images_there_is_no_figure() -> None:
    nothing = Measured.of(np.empty((0, 4), np.float32))
    assert measure_answers(nothing, Calibration(), split=Split.TRAIN, rows=0, sure_at=0.99) is None
