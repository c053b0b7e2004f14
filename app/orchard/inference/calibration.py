"""Turns scores into calibrated probabilities, and these into answers: sure, not sure, or unknown.

Temperature scaling divides all scores by one number, which leaves every answer as it is and makes the confidence
fit how often the answers are right (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard.vocabulary import Answer

if TYPE_CHECKING:
    from orchard.layout import ReliabilityBin

LEAST_THRESHOLD = 0.5
"""Lowest possible threshold: a label that is less likely than all others together is never a sure answer."""
LEAST_ROWS = 50
"""Lowest number of held-out images for a calibration; fewer say too little."""
BINS = 10
"""Number of bins of the reliability diagram, of equal width."""

_TEMPERATURES = np.geomspace(0.1, 1000, 801)  # steps of 1.2 %; log-densities of many features are far apart


@dataclass(frozen=True)
class Calibration:
    """How scores become answers."""

    temperature: float = 1.0
    """Scores are divided by it before the softmax."""
    threshold: float = LEAST_THRESHOLD
    """Lowest confidence, 0..1, of a sure answer; below it the answer is "not sure"."""
    familiarity: float = 0.0
    """Lowest familiarity, 0..1, of an image that may show one of the classes; below it the answer is "unknown"."""

    def answers(self, confidence: NDArray[np.floating], familiarity: NDArray[np.floating]) -> NDArray[np.str_]:
        """Return the answers, (n,) values of `Answer`, from the confidence in each image's likeliest class, 0..1."""
        # float64, as wherever else thresholds are met: one that is rounded to float32 would exclude its own image.
        is_sure = np.asarray(confidence, np.float64) >= self.threshold
        is_unknown = np.asarray(familiarity, np.float64) < self.familiarity
        return np.where(is_unknown, str(Answer.UNKNOWN), np.where(is_sure, str(Answer.SURE), str(Answer.NOT_SURE)))

    def probabilities(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (n, n_classes) float32, rows that sum to 1, of scores (n, n_classes)."""
        return softmax(scores / self.temperature)

    def as_json(self) -> dict[str, float]:
        """Return it by the names of its fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Any) -> Self:
        """Return the calibration that `as_json` gave; raises ValueError if it is none."""
        try:
            return cls(**{field.name: float(found[field.name]) for field in fields(cls)})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("no temperature and threshold") from error


@dataclass(frozen=True)
class Decision:
    """What ``calibration.json`` holds: which classifier answers, and how its scores become answers."""

    classifier: str
    label: Calibration
    kind_threshold: float | None = None
    """Lowest confidence of a sure kind; None if the model knows no kinds."""

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        found = {"classifier": self.classifier, **self.label.as_json(), "kind_threshold": self.kind_threshold}
        return json.dumps(found, indent=2).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote; raises ValueError if it is something else."""
        found = json.loads(data)
        if not isinstance(found, dict) or not isinstance(found.get("classifier"), str):
            raise ValueError("no classifier that answers")
        kind = found.get("kind_threshold")
        return cls(found["classifier"], Calibration.from_json(found), None if kind is None else float(kind))


def softmax(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the softmax of each row."""
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def fit(
    scores: NDArray[np.floating],
    classes: NDArray[np.integer],
    *,
    sure_at: float,
    familiarity: NDArray[np.floating] | None = None,
    known: float = 1.0,
) -> Calibration:
    """Return the temperature with the lowest mean log loss (smoothed), and the thresholds.

    A share `known` of the images of known classes exceeds the threshold of familiarity. The threshold of confidence is
    the lowest one above which the answers to familiar images are right as often as `sure_at`.

    Args:
        scores: (n, n_classes) scores of held-out images.
        classes: (n,) the true class of each image; -1 if the model does not know it.
        sure_at: the share of sure answers that should be right, 0..1.
        familiarity: (n,) familiarity of the images; None: it is not used.
        known: the share of images of known classes that should count as familiar, 0..1.
    """
    is_known = classes >= 0
    if is_known.sum() < LEAST_ROWS:
        return Calibration()
    rows, truth = scores[is_known].astype(np.float64), classes[is_known]

    def loss(step: int) -> float:
        return _log_loss(rows / _TEMPERATURES[step], truth)

    # It falls and then rises, so its least is found by halves, in some 18 looks at all rows rather than 401.
    steps = range(len(_TEMPERATURES) - 1)
    temperature = float(_TEMPERATURES[bisect_left(steps, True, key=lambda step: loss(step) <= loss(step + 1))])
    least = 0.0
    if familiarity is not None:  # rounded up, it would exclude that very image
        least = math.floor(float(np.quantile(familiarity[is_known], 1 - known)) * 10_000) / 10_000
    familiar = np.ones(len(classes), bool) if familiarity is None else familiarity >= least
    confidence, right = _answers(softmax(scores[familiar] / temperature), classes[familiar])
    return Calibration(round(temperature, 4), _threshold(confidence, right, sure_at), least)


def log_loss(scores: NDArray[np.floating], classes: NDArray[np.integer], temperature: float) -> float:
    """Return the mean log loss, smoothed as in `fit`, of rows (n, n_classes) of a known class; inf: there are none."""
    known = classes >= 0
    return _log_loss(scores[known].astype(np.float64) / temperature, classes[known]) if known.any() else math.inf


def threshold(probabilities: NDArray[np.float32], classes: NDArray[np.integer], sure_at: float) -> float:
    """Return the lowest confidence above which answers are right as often as `sure_at`; 1.0 if there is none.

    Args:
        probabilities: (n, n_classes) probabilities of held-out images.
        classes: (n,) the true class of each image; -1 if the model does not know it.
        sure_at: the share of sure answers that should be right, 0..1.
    """
    return _threshold(*_answers(probabilities, classes), sure_at)


def expected_calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Return the difference between confidence and accuracy, 0..1: the mean over `BINS`, weighted by their images."""
    return float(
        sum(abs(row["accuracy"] - row["confidence"]) * row["images"] for row in reliability(confidence, right))
    )


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> list[ReliabilityBin]:
    """Return the reliability diagram: mean confidence, accuracy and share of images of each bin that is not empty."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "confidence": float(confidence[bins == index].mean()),
            "accuracy": float(right[bins == index].mean()),
            "images": float((bins == index).mean()),
        }
        for index in range(BINS)
        if (bins == index).any()
    ]


def _log_loss(scores: NDArray[np.float64], classes: NDArray[np.integer]) -> float:
    """Return the mean log loss against targets of 1 - 1 / (n + 2), as Platt (1999) smooths them.

    Where every answer was right, plain targets of 1 would make every confidence 1.
    """
    rows, n_classes = scores.shape
    rest = 1 / (rows + 2)
    highest = scores.max(axis=1)
    normaliser = highest + np.log(np.exp(scores - highest[:, np.newaxis]).sum(axis=1))
    true = scores[np.arange(rows), classes]
    others = (scores.sum(axis=1) - true) / (n_classes - 1)
    return float((normaliser - (1 - rest) * true - rest * others).mean())


def _answers(
    probabilities: NDArray[np.float32], classes: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the confidence of each answer, and whether it is right."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == classes


def _threshold(confidence: NDArray[np.float32], right: NDArray[np.bool_], sure_at: float) -> float:
    """Return the least confidence from which on answers are right as often as `sure_at`; 1.0 if there is none.

    One standard error of the number of wrong ones (its root, as of any rare count) is added to them: a threshold that
    is chosen for being just good enough is too low as often as not.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum(~right[order])
    good = np.flatnonzero(wrong + np.sqrt(wrong) <= (1 - sure_at) * np.arange(1, len(order) + 1))
    least = float(confidence[order][good[-1]]) if len(good) else 1.0
    return max(math.floor(least * 10_000) / 10_000, LEAST_THRESHOLD)  # rounded up, it would exclude that very answer
