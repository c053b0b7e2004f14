"""Which classifier answers, and what it is judged by."""

import numpy as np
import pytest

from orchard.classification.candidates import choose
from orchard.classification.held_out import HeldOut, judge
from orchard.classification.training import Classifier
from orchard.classification.training import chosen as trained
from orchard.classification.tuned_head import Head, mix
from orchard.errors import UsageError
from orchard.inference.calibration import LEAST_ROWS, Calibration
from orchard.inference.linear import Linear
from orchard.layout import Trial

DISCRIMINANT, REGRESSION = "linear_discriminant", "logistic_regression"


def trials(discriminant: tuple[float, float], regression: tuple[float, float]) -> dict[str, Trial | None]:
    figures = {DISCRIMINANT: discriminant, REGRESSION: regression}
    return {name: Trial(accuracy=accuracy, log_loss=loss) for name, (accuracy, loss) in figures.items()}


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (trials((0.97, 0.2), (0.98, 0.3)), REGRESSION),
        (trials((0.98, 0.2), (0.97, 0.1)), DISCRIMINANT),
        (trials((0.98, 0.2), (0.98, 0.1)), REGRESSION),
        (trials((0.98, 0.1), (0.98, 0.2)), DISCRIMINANT),
    ],
    ids=["more accurate", "the other", "as accurate: more certain of what is right", "the other"],
)
def test_the_best_on_held_out_images_answers_and_says_by_how_much(found: dict[str, Trial | None], chosen: str) -> None:
    name, why = choose(found, None, 10_000)
    assert name == chosen
    assert why.startswith(chosen.capitalize().replace("_", " "))
    for name, trial in found.items():
        assert trial and f"{name.replace('_', ' ')} {trial['accuracy']:.1%}" in why


def test_who_is_asked_for_answers_if_it_is_there() -> None:
    found = trials((0.9, 0.5), (0.99, 0.1))
    assert choose(found, DISCRIMINANT, 10_000) == (DISCRIMINANT, "Linear discriminant answers, as --answer-with says.")
    del found[DISCRIMINANT]
    name, why = choose(found, DISCRIMINANT, 10_000)
    assert (name, why) == (REGRESSION, "Logistic regression answers: it is the only linear classifier.")


def test_without_trials_the_first_answers_and_says_why() -> None:
    name, why = choose({DISCRIMINANT: None, REGRESSION: None}, None, 0)
    assert (name, why) == (DISCRIMINANT, "Linear discriminant answers: too few images are held out to compare.")


def held_out(rows: int, labels: str = "ab") -> tuple[Linear, HeldOut]:
    """A classifier that is right of `rows` images of labels that lie one label after the other."""
    linear = Linear(np.eye(len(labels), dtype=np.float32) * 9, np.zeros(len(labels), np.float32))
    index = np.arange(rows) * len(labels) // rows
    features = np.eye(len(labels), dtype=np.float32)[index]
    return linear, HeldOut(features, {"label": [labels[i] for i in index]})


def test_a_classifier_is_judged_by_the_images_whose_label_it_cannot_know_too() -> None:
    linear, images = held_out(4 * LEAST_ROWS)
    trial, calibration = judge(linear, "ab", images, sure_at=0.99)
    assert trial and trial["accuracy"] == 1 and trial["log_loss"] < 0.1
    assert calibration.threshold < 1
    strange = HeldOut(images.features, {"label": [*images.columns["label"][:-LEAST_ROWS], *["new"] * LEAST_ROWS]})
    trial, _ = judge(linear, "ab", strange, sure_at=0.99)
    assert trial and trial["accuracy"] == 0.75


def test_a_few_images_or_images_of_other_labels_alone_judge_nothing() -> None:
    linear, images = held_out(LEAST_ROWS - 1)
    assert judge(linear, "ab", images, sure_at=0.99) == (None, Calibration())
    linear, images = held_out(4 * LEAST_ROWS)
    assert judge(linear, "xy", images, sure_at=0.99) == (None, Calibration())


def test_where_many_labels_leave_room_for_few_images_they_are_of_all_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, images = held_out(1_000)
    wrong = Linear(
        linear.weights * np.array([[1], [0]], np.float32), linear.bias + np.array([1, 0], np.float32)
    )  # says a, and lies of b
    monkeypatch.setattr("orchard.classification.held_out._MAX_SCORES", 2 * 100)
    trial, _ = judge(wrong, "ab", images, sure_at=0.99)
    assert trial and trial["accuracy"] == 0.5


def test_between_those_that_chance_sets_apart_the_truer_confidences_decide() -> None:
    found = trials((0.987, 0.11), (0.982, 0.06))
    name, why = choose(found, None, 928)  # five images
    assert name == REGRESSION and "none is better than by chance (linear discriminant 98.7%" in why
    assert choose(found, None, 10_000)[0] == DISCRIMINANT
    assert choose(trials((0.80, 0.9), (0.69, 0.8)), None, 296)[0] == DISCRIMINANT


def test_a_head_answers_with_the_discriminant_where_both_are_right_more_often_than_either() -> None:
    """Two classifiers that see a half of the features each: of labels that differ in both halves both are needed."""
    random = np.random.default_rng(0)
    classes = random.integers(0, 4, 2_000)
    features = np.zeros((2_000, 4), np.float32)
    features[:, :2] = np.eye(2)[classes // 2]  # the first tells pairs, the second who of a pair
    features[:, 2:] = np.eye(2)[classes % 2]
    features += random.normal(0, 0.7, features.shape).astype(np.float32)
    pairs = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]], np.float32)
    within = np.array([[0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)
    first, second = Linear(90 * pairs, np.zeros(4, np.float32)), Linear(within, np.zeros(4, np.float32))

    found = mix(first, second, features, classes)
    right = [(linear(features).argmax(1) == classes).mean() for linear in (first, second, found(first, second))]
    assert found.share == 0.5, "both know as much, however large their scores are"
    assert found.temperatures[0] > 30 * found.temperatures[1]
    assert right[2] > max(right[:2]) + 0.1
    assert mix(first, Linear(0 * within, second.bias), features, classes).share < 1, "what knows nothing is not asked"


def test_a_head_is_asked_by_label_and_only_if_it_knows_all() -> None:
    linear = Linear(np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3, dtype=np.float32))
    head = Head.from_bytes(Head(linear, ["ä", "b", "c"]).to_bytes())
    assert head.labels == ["ä", "b", "c"]
    found = head.of(["c", "ä"])
    assert found and found.bias.tolist() == [2, 0] and found.weights.tolist() == [[4, 5], [0, 1]]
    assert head.of(["ä", "new"]) is None


def test_a_tuned_head_needs_no_name_and_is_passed_over_where_there_is_none() -> None:
    names = ["linear_discriminant", "random_forest"]
    assert trained(names, None, is_tuned=True) == [
        Classifier.LINEAR_DISCRIMINANT,
        Classifier.TUNED_HEAD,
        Classifier.RANDOM_FOREST,
    ]
    assert trained(names, "tuned_head") == [Classifier.LINEAR_DISCRIMINANT, Classifier.RANDOM_FOREST]
    assert trained(["random_forest"], None, is_tuned=True) == [Classifier.RANDOM_FOREST]
    with pytest.raises(UsageError, match="no classifier 'tuned_head'"):
        trained([*names, "tuned_head"], None, is_tuned=True)
    with pytest.raises(UsageError, match="--answer-with logistic_regression"):
        trained(names, "logistic_regression", is_tuned=True)
