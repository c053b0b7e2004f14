"""The classifiers that can be trained, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from orchard.errors import UsageError


class Classifier(StrEnum):
    """What can be trained."""

    LINEAR_DISCRIMINANT = "linear_discriminant"
    TUNED_HEAD = "tuned_head"
    LOGISTIC_REGRESSION = "logistic_regression"
    RANDOM_FOREST = "random_forest"

    @property
    def is_linear(self) -> bool:
        """Whether it is one linear layer, which may answer; the forest is a baseline."""
        return self is not Classifier.RANDOM_FOREST


def chosen(names: Sequence[str], answer_with: str | None, *, is_tuned: bool = False) -> list[Classifier]:
    """Return the classifiers of these names, among which is the one that is to answer.

    The head that a network was tuned with comes after the discriminant, which it is a part of the answer with; it
    needs no name, and asked for to answer where there is none, it is passed over.

    Args:
        names: as a person gives them.
        answer_with: the one that is to answer, if that is not to be measured.
        is_tuned: whether there is such a head.

    Raises:
        UsageError: there is no such classifier, or the one that is to answer is not a linear one of them.
    """
    by_name = [str(classifier) for classifier in Classifier if classifier is not Classifier.TUNED_HEAD]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UsageError(f"There is no classifier {unknown[0]!r}: choose among {', '.join(by_name)}.")
    found = [Classifier(name) for name in names]
    if is_tuned and Classifier.LINEAR_DISCRIMINANT in found:
        found.insert(found.index(Classifier.LINEAR_DISCRIMINANT) + 1, Classifier.TUNED_HEAD)
    linear = [classifier for classifier in found if classifier.is_linear]
    if answer_with not in (None, Classifier.TUNED_HEAD, *linear):
        raise UsageError(
            f"--answer-with {answer_with}: choose among the linear classifiers to train ({', '.join(linear)})."
        )
    return found


def classifier_title(name: str) -> str:
    """``logistic_regression`` as "Logistic regression"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]
