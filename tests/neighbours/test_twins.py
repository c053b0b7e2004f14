"""The threshold follows what other labels reach, and wrong labels do not move it; the headline leaves twins out."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from orchard.headline import common, headline
from orchard.layout import NEIGHBOURS, PREDICTIONS, Dataset, Measure, Metrics
from orchard.neighbours.twins import are_many, count, is_near, measure_apart, threshold_of
from orchard.output import Output


def _background(n: int = 10_000) -> np.ndarray:
    return np.tanh(np.random.default_rng(0).normal(0.8, 0.2, n))


def test_one_in_a_thousand_reaches_the_threshold_by_chance() -> None:
    threshold = threshold_of(count(_background()))
    assert threshold is not None
    assert (_background() >= threshold).mean() == pytest.approx(0.001, abs=0.0005)
    assert threshold == pytest.approx(np.tanh(0.8 + 3.09 * 0.2), abs=0.01)


def test_images_under_a_wrong_label_hardly_move_it() -> None:
    clean = threshold_of(count(_background()))
    flipped = threshold_of(count(np.r_[_background(), np.full(1000, 0.999)]))
    assert clean is not None and flipped is not None
    assert clean < flipped < 0.93


def test_without_other_labels_there_is_none() -> None:
    assert threshold_of(count(np.array([]))) is None
    assert threshold_of(count(np.full(5, 0.3))) is None


def test_what_is_counted_as_near_is_what_is_told_apart() -> None:
    similarities = np.r_[_background(), 0.93, -0.2, 1.0].astype(np.float32)
    for threshold in (0.5, 0.8765, 0.93):
        near = is_near(similarities, threshold)
        assert near.sum() == count(similarities)[round(threshold * 2000) :].sum()
        assert (near == (similarities.astype(float) >= threshold)).all()


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """Eight test images, of which the classifier errs on the last three; the first four have a near twin."""
    output = Output(str(tmp_path / "out"))
    paths = [f"{n}.jpg" for n in range(9)]
    rows: dict[str, list[Any]] = {
        "path": paths,
        "label": ["a"] * 9,
        "split": ["test"] * 8 + ["train"],
        "classifier": ["logistic_regression"] * 9,
        "predicted": ["a"] * 5 + ["b"] * 3 + ["b"],
        "confidence": [0.5] * 9,
    }
    predictions = pa.Table.from_pylist(
        [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)], PREDICTIONS
    )
    near = {"path": paths, "neighbours": [["8.jpg"]] * 8 + [[]], "similarities": [[0.99]] * 4 + [[0.5]] * 4 + [[]]}
    with output.writing():
        output.commit(
            {
                Dataset.PREDICTIONS: [output.stage(Dataset.PREDICTIONS, predictions)],
                Dataset.NEIGHBOURS: [output.stage(Dataset.NEIGHBOURS, pa.table(near, schema=NEIGHBOURS))],
            }
        )
    return output


def test_classifiers_are_measured_without_near_twins_and_on_them(output: Output) -> None:
    found = measure_apart(output, 0.9)["logistic_regression"]
    assert (found["test_rows"], found["accuracy"]) == (4, 0.25)
    assert (found["test_rows_near"], found["accuracy_near"]) == (4, 1.0)
    assert found["accuracy_interval"] == pytest.approx((0.0456, 0.6994), abs=1e-4)
    nothing = measure_apart(output, 0.4)["logistic_regression"]
    assert (nothing["test_rows"], nothing["accuracy"], nothing["accuracy_interval"]) == (0, None, None)


def _metrics(near: int = 0, apart: int = 60, grouped: float | None = None) -> Metrics:
    one = {"accuracy": 0.9, "macro_f1": 0.9, "test_rows": 100}
    found: dict[str, Any] = {
        "classifiers": {"logistic_regression": one, "random_forest": {**one, "accuracy": 0.95}},
        "neighbours": {"threshold": 0.9, "near_twins": near, "test_rows": 1000},
        "without_near_twins": {
            "logistic_regression": {"accuracy": 0.8, "test_rows": apart},
            "random_forest": {"accuracy": 0.7, "test_rows": apart},
        },
    }
    if grouped is not None:
        found["group_split"] = {"classifiers": {"random_forest": {**one, "accuracy": grouped}}}
    return cast(Metrics, found)  # as much of them as is read


@pytest.mark.parametrize(
    ("metrics", "measure", "classifier", "accuracy"),
    [
        (_metrics(), Measure.ALL, "random_forest", 0.95),
        (_metrics(near=1), Measure.ALL, "random_forest", 0.95),
        (_metrics(near=40), Measure.APART, "logistic_regression", 0.8),
        (_metrics(near=95, apart=5), Measure.ALL, "random_forest", 0.95),
        (_metrics(near=40, grouped=0.6), Measure.GROUPS, "random_forest", 0.6),
    ],
    ids=["none", "by chance", "many", "nearly all", "groups"],
)
def test_the_headline_is_the_strictest_measure_that_there_is(
    metrics: Metrics, measure: Measure, classifier: str, accuracy: float
) -> None:
    found = headline(metrics)
    assert found is not None
    assert (found["measure"], found["classifier"], found["accuracy"]) == (measure, classifier, accuracy)


def test_the_headline_is_of_the_classifier_that_answers() -> None:
    metrics = _metrics()
    metrics["selection"] = {"chosen": "logistic_regression"}  # type: ignore[typeddict-item]
    found = headline(metrics)
    assert found is not None and (found["classifier"], found["accuracy"]) == ("logistic_regression", 0.9)


def test_chance_is_no_leak() -> None:
    assert [are_many(_metrics(near)["neighbours"]) for near in (0, 1, 2, 5, 40)] == [False, False, False, True, True]


def test_runs_are_compared_by_one_measure() -> None:
    assert common([_metrics(), _metrics(near=40)]) is Measure.APART
    assert common([_metrics(), _metrics(near=95, apart=5)]) is Measure.ALL
    assert common([_metrics(near=95, apart=5), _metrics(near=40)]) is Measure.ALL
    assert common([_metrics(grouped=0.5), _metrics(near=40, grouped=0.6)]) is Measure.GROUPS
