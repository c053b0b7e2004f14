"""Which classifier answers, and what it is judged by."""

import numpy as np
import pytest

from orchard.classification.candidates import choose
from orchard.classification.held_out import HeldOut, judge
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
    wrong = Linear(linear.weights * [[1], [0]], linear.bias + np.array([1, 0], np.float32))  # says a, and lies of b
    monkeypatch.setattr("orchard.classification.held_out._MAX_SCORES", 2 * 100)
    trial, _ = judge(wrong, "ab", images, sure_at=0.99)
    assert trial and trial["accuracy"] == 0.5


def test_between_those_that_chance_sets_apart_the_truer_confidences_decide() -> None:
    found = trials((0.987, 0.11), (0.982, 0.06))
    name, why = choose(found, None, 928)  # five images
    assert name == REGRESSION and "none is better than by chance (linear discriminant 98.7%" in why
    assert choose(found, None, 10_000)[0] == DISCRIMINANT
    assert choose(trials((0.80, 0.9), (0.69, 0.8)), None, 296)[0] == DISCRIMINANT
