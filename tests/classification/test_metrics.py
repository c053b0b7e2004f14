"""Promises of the metrics: scikit-learn's figures, also where a class is missing on one side."""

import numpy as np
import pytest
from sklearn import metrics as sk

from orchard.classification.intervals import wilson
from orchard.classification.metrics import MAX_PAIRS, evaluate, majority_baseline
from orchard.errors import TrainingError
from orchard.summary import as_json


def answers(n: int = 500) -> tuple[list[str], list[str]]:
    """True labels and 70 % right answers; ``only true`` is never predicted, ``only predicted`` never true."""
    rng = np.random.default_rng(0)
    true = rng.choice(["apple", "Pear, ripe", "plum", "only true"], n, p=[0.5, 0.3, 0.15, 0.05])
    guesses = rng.choice(["apple", "Pear, ripe", "plum", "only predicted"], n)
    predicted = np.where((rng.random(n) < 0.7) & (true != "only true"), true, guesses)
    return true.tolist(), predicted.tolist()


def test_equal_to_scikit_learn() -> None:
    true, predicted = answers()
    measured = evaluate(true, predicted, train_rows=9, seconds=1.5)
    precision, recall, f1, support = sk.precision_recall_fscore_support(true, predicted, zero_division=0)
    macro = sk.precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    assert measured["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert (measured["macro_precision"], measured["macro_recall"], measured["macro_f1"]) == pytest.approx(macro[:3])
    weighted = sk.precision_recall_fscore_support(true, predicted, average="weighted", zero_division=0)
    averages = [measured[f"weighted_{name}"] for name in ("precision", "recall", "f1")]  # type: ignore[literal-required]
    assert averages == pytest.approx(weighted[:3])
    labels = sorted({*true, *predicted})
    assert list(measured["per_class"]) == labels
    dense = [[measured["confusion"].get(label, {}).get(answer, 0) for answer in labels] for label in labels]
    assert dense == sk.confusion_matrix(true, predicted).tolist()
    assert measured["confusion_left_out"] == 0
    for i, label in enumerate(labels):
        expected = {"precision": precision[i], "recall": recall[i], "f1": f1[i], "support": support[i]}
        assert measured["per_class"][label] == pytest.approx(expected)
    assert (measured["test_rows"], measured["train_rows"], measured["seconds"]) == (500, 9, 1.5)


def test_counted_pairs_give_the_same_figures() -> None:
    true, predicted = answers()
    pairs = sorted(set(zip(true, predicted, strict=True)))
    counts = [sum(pair == other for other in zip(true, predicted, strict=True)) for pair in pairs]
    counted = evaluate([t for t, _ in pairs], [p for _, p in pairs], counts=counts)
    assert counted == evaluate(true, predicted)


def test_1_500_classes_have_metrics_of_some_hundred_kilobytes_and_say_what_they_leave_out() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([f"Apple {i}" for i in range(1_500)])
    true = np.repeat(labels, 20)
    predicted = np.where(rng.random(len(true)) < 0.5, true, rng.choice(labels, len(true)))
    measured = evaluate(true.tolist(), predicted.tolist())
    assert len(as_json({"metrics": measured})) < 700_000
    counts = [count for answers in measured["confusion"].values() for count in answers.values()]
    assert len(counts) == MAX_PAIRS
    assert sum(counts) + measured["confusion_left_out"] == 30_000
    assert measured["accuracy"] == pytest.approx((true == predicted).mean())
    assert measured["confusion"]["Apple 7"]["Apple 7"] == measured["per_class"]["Apple 7"]["recall"] * 20


def test_nothing_to_measure_is_an_error_not_a_figure() -> None:
    with pytest.raises(TrainingError, match="no labelled test images"):
        evaluate([], [])


def test_the_baseline_answers_the_most_frequent_training_label() -> None:
    assert majority_baseline({"a": 2, "b": 5, "c": 1}, {"a": 6, "b": 3, "x": 1}) == {
        "label": "b",
        "accuracy": 0.3,
        "accuracy_interval": wilson(0.3, 10),
    }
    assert majority_baseline({"b": 5, "a": 5}, {"b": 1})["label"] == "a"
