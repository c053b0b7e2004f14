"""Advice follows from the figures: each case changes one of them in a run that is good."""

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from orchard.headline import headline
from orchard.layout import Metrics, RejectedKind, Run
from orchard.report.advice import MAX_STEPS, Advice, Level, advise, answered_at

Make = Callable[..., Advice]


@pytest.fixture
def good(metrics_of: Callable[..., Metrics], classifier: Callable[..., Any]) -> Metrics:
    """A run in which nothing is wrong: no step but the one for a better backbone."""
    labels = ["Apple", "Pear"]
    metrics = metrics_of(labels, per_label=100)
    for name in ("group_split", "grouping", "neighbours", "without_near_twins", "cards"):
        del metrics[name]  # type: ignore[misc]
    metrics["images"] |= {"listed": 1000, "rejected": 0}
    metrics["leak"]["test_rows_with_twin_in_train"] = 0
    measured = classifier(labels, [[97, 3], [3, 97]])
    metrics["classifiers"] = {"logistic_regression": measured}
    metrics["calibration"] |= {"accuracy_sure": 1.0, "share_sure": 0.9, "accuracy": 0.97}
    metrics["unknown"]["sure"] = 0
    line = headline(metrics)
    assert line is not None
    metrics["headline"] = line
    return metrics


@pytest.fixture
def advised(a_run: Callable[[], Run], good: Metrics) -> Make:
    def make(change: Callable[[Metrics], object] = lambda _: None) -> Advice:
        change(good)
        return advise(good, a_run())

    return make


def _step(advice: Advice, title: str) -> Any:
    found = [step for step in advice.steps if title in step.title]
    assert found, [step.title for step in advice.steps]
    return found[0]


def _flags(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


def test_a_good_run_is_called_good_with_its_figures(advised: Make) -> None:
    advice = advised()
    assert (advice.data.level, advice.model.level) == (Level.GOOD, Level.GOOD)
    assert advice.data.sentence.endswith("400 training images or more and 100 test images or more. No file is in both.")
    assert advice.model.sentence.startswith("Accuracy is 97.0% (93.6 to 98.6%); 90.0% of the test images are answered")
    assert [step.title for step in advice.steps] == ["Compare with a better backbone"]
    command = _flags(advice.steps[0].command)
    assert command[:3] == ["orchard", "compare", "/data/some fruits"]
    assert command[command.index("--output") + 1] == "/data/out-backbones"


def test_classes_of_few_test_images_make_the_data_amber(advised: Make) -> None:
    advice = advised(lambda metrics: metrics.update(labels={"a": {"train": 9, "test": 19}, "b": {"train": 9}}))
    assert advice.data.level is Level.AMBER
    assert "2 of 2 classes are measured on fewer than 20 test images (1 on none)" in advice.data.sentence


def test_rejected_images_come_with_what_to_do(advised: Make) -> None:
    def change(metrics: Metrics) -> None:
        remedy: RejectedKind = {
            "reason": "unreadable",
            "kind": "a Git LFS pointer",
            "images": 80,
            "remedy": "run git lfs pull.",
        }
        metrics["images"] |= {"listed": 1100, "rejected": 100, "rejected_kinds": [remedy]}

    advice = advised(change)
    assert advice.data.level is Level.BAD
    assert "9.1%" in advice.data.sentence
    step = _step(advice, "rejected")
    assert "run git lfs pull." in step.why
    assert "--retry-rejected" in _flags(step.command)


def test_copies_in_test_make_the_data_bad(advised: Make) -> None:
    advice = advised(lambda metrics: metrics["leak"].update(test_rows=200, test_rows_with_twin_in_train=20))
    assert advice.data.level is Level.BAD
    assert "10.0% of the test images are byte for byte in training" in advice.data.sentence
    assert _step(advice, "copies").gain == pytest.approx(0.1)


def test_near_twins_ask_for_groups(advised: Make, metrics_of: Callable[..., Metrics]) -> None:
    def change(metrics: Metrics) -> None:
        metrics["neighbours"] = metrics_of(["Apple", "Pear"], per_label=100)["neighbours"]

    advice = advised(change)
    assert advice.data.level is Level.AMBER
    command = _flags(_step(advice, "whole groups").command)
    assert command[command.index("--group-by") + 1] == "frames"


def test_the_same_image_under_two_labels_is_to_be_relabelled(advised: Make) -> None:
    pair = {"paths": ["a.jpg", "b.jpg"], "labels": ["Apple", "Pear"]}
    advice = advised(lambda metrics: metrics.update(conflicts={"images": 2, "pairs": [pair]}))
    assert advice.data.level is Level.AMBER
    assert "“Apple” and “Pear”" in _step(advice, "one label").why


def test_labels_in_doubt_are_to_be_looked_at_and_given_back(advised: Make) -> None:
    suspect = {"path": "a/1.jpg", "label": "Apple", "suggested": "Pear", "fault": "label", "score": 0.9, "also": []}
    review = {"judged": 800, "images": 12, "faults": {"label": 8, "dark": 4}, "first": [suspect]}
    step = _step(advised(lambda metrics: metrics.update(review=review)), "Look at the labels in doubt")
    assert step.why.startswith("8 images of 800 look more like another label.")
    assert step.why.endswith("Such as a/1.jpg: “Apple”, or “Pear”?")
    assert step.gain == 0.01
    command = _flags(step.command)
    assert command[command.index("--corrections") + 1] == "corrected.csv"


def test_sure_answers_that_are_wrong_too_often_ask_for_groups_or_a_validation_split(advised: Make) -> None:
    advice = advised(lambda metrics: metrics["calibration"].update(accuracy_sure=0.9, share_sure=0.8, test_rows=200))
    assert advice.model.level is Level.BAD
    assert "90.0% (84.4 to 93.8%)" in advice.model.sentence
    step = advice.steps[0]
    assert "too like the rest" in step.why
    assert "--group-by" in _flags(step.command)
    assert "validation split" in step.why


def test_a_shortfall_within_chance_is_no_broken_promise(advised: Make) -> None:
    advice = advised(lambda metrics: metrics["calibration"].update(accuracy_sure=0.98, share_sure=0.25, test_rows=200))
    assert advice.model.level is Level.GOOD  # 49 of 50, where 99 % were wanted


def test_where_few_are_answered_the_next_reliability_that_answers_a_fifth_is_advised(advised: Make) -> None:
    points = [(0.02, 4, 4), (0.15, 30, 29), (0.4, 80, 73), (1.0, 200, 130)]

    def change(metrics: Metrics) -> None:
        metrics["calibration"] |= {"share_sure": 0.02, "accuracy_sure": 1.0, "test_rows": 200}
        metrics["calibration"]["coverage"] = [
            {"confidence": 1 - share, "answered": share, "images": images, "right": right}
            for share, images, right in points
        ]

    advice = advised(change)
    assert advice.model.level is Level.AMBER
    assert "Only 2.0% of the test images would be answered" in advice.model.sentence
    step = _step(advice, "Answer more")
    command = _flags(step.command)
    assert command[command.index("--sure-at") + 1] == "0.9"
    assert step.gain == pytest.approx(0.38)
    assert "about 40.0%" in step.why


def test_no_answer_at_all_is_said_so(advised: Make) -> None:
    advice = advised(lambda metrics: metrics["calibration"].update(share_sure=0.0, accuracy_sure=None))
    assert "No test image would be answered" in advice.model.sentence


def test_hard_classes_with_few_photos_are_named(advised: Make, classifier: Callable[..., Any]) -> None:
    def change(metrics: Metrics) -> None:
        measured = classifier(["Apple", "Pear", "Plum"], [[98, 2, 0], [2, 98, 0], [30, 0, 70]])
        metrics["classifiers"] = {"logistic_regression": measured}
        metrics["labels"] = {label: {"train": 400, "test": 100} for label in ("Apple", "Pear")}
        metrics["labels"]["Plum"] = {"train": 30, "test": 100}
        metrics["headline"] = headline(metrics)  # type: ignore[typeddict-item]

    step = _step(advised(change), "more photos")
    assert "“Plum” (70.0% right, 30 training images)" in step.why
    assert step.gain == pytest.approx((0.3 - 34 / 300) / 3)


def test_false_sure_answers_are_counted(advised: Make) -> None:
    advice = advised(lambda metrics: metrics["unknown"].update(sure=2, images=100))
    assert advice.model.level is Level.AMBER
    assert "2.0% get a sure answer" in advice.model.sentence
    command = _flags(_step(advice, "less often").command)
    assert command[command.index("--sure-at") + 1] == "0.995"
    assert advised(lambda metrics: metrics["unknown"].update(sure=40)).model.level is Level.BAD


def test_what_was_not_measured_is_asked_for(advised: Make) -> None:
    step = _step(advised(lambda metrics: metrics.pop("unknown")), "does not know")
    assert "--unknown FOLDER" in step.command


def test_labels_without_a_card_are_named(advised: Make) -> None:
    cards = {"cards": 1, "languages": ["en"], "labels_without": [f"label {i}" for i in range(7)]}
    assert "“label 4” and 2 more" in _step(advised(lambda metrics: metrics.update(cards=cards)), "cards").why


def test_without_a_classifier_the_model_is_bad(advised: Make) -> None:
    def change(metrics: Metrics) -> None:
        for name in ("classifiers", "headline", "calibration", "selection", "baseline", "unknown"):
            del metrics[name]  # type: ignore[misc]

    advice = advised(change)
    assert advice.model == type(advice.model)(Level.BAD, "No classifier was measured.")
    assert advice.steps == []


def test_an_accuracy_that_chance_reaches_is_bad(advised: Make) -> None:
    advice = advised(lambda metrics: metrics["baseline"].update(accuracy=0.95))
    assert advice.model.level is Level.BAD
    assert "hardly more than always giving the most frequent answer (95.0%)" in advice.model.sentence


def test_steps_are_few_and_what_brings_most_is_first(
    metrics_of: Callable[..., Metrics], a_run: Callable[[], Run]
) -> None:
    metrics = metrics_of([f"label {i}" for i in range(12)])
    metrics["conflicts"] = {"images": 5, "pairs": []}
    metrics["calibration"] |= {"accuracy_sure": 0.5, "share_sure": 0.19}
    steps = advise(metrics, a_run()).steps
    assert len(steps) == MAX_STEPS
    assert [step.gain for step in steps] == sorted((step.gain for step in steps), reverse=True)


def test_the_curve_is_read_where_most_are_answered(metrics_of: Callable[..., Metrics]) -> None:
    calibration = metrics_of(["a", "b"])["calibration"]
    point = answered_at(calibration, 0.99)
    assert point is not None and point["answered"] == 0.62
    assert answered_at(calibration, 1.0) == calibration["coverage"][0]
