"""Taking a row back from a fit is the same as fitting without it."""

import pickle

import numpy as np
import pytest

from orchard.classification.discriminant import spread
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import Sums
from orchard.review.leave_one_out import LeaveOneOut

LABELS = np.array([*"aabbbbccccccdddddddd"] * 3)


@pytest.fixture
def rows() -> np.ndarray:
    codes = np.unique(LABELS, return_inverse=True)[1]
    return (np.random.default_rng(0).normal(size=(len(LABELS), 7)) + 0.7 * codes[:, np.newaxis]).astype(np.float32)


def test_what_is_said_of_a_row_is_what_the_others_alone_say(rows: np.ndarray) -> None:
    sums = Sums.of(rows, {"label": LABELS.tolist()})
    reduction = Reduction.fit(sums.moments, components=2)
    names, codes = np.unique(LABELS, return_inverse=True)
    model = pickle.loads(pickle.dumps(LeaveOneOut.fit(sums.labelled, sums.columns["label"], reduction)))  # noqa: S301
    said = model(rows, codes, np.ones(len(rows), bool))
    whole = spread(sums.labelled, sums.columns["label"], reduction)
    covariance = (whole.vectors * whole.values) @ whole.vectors.T
    scaled = (rows - sums.moments.mean) / reduction.scale_

    def scatter(chosen: np.ndarray) -> np.ndarray:
        inside = [scaled[chosen & (name == LABELS)] for name in names]
        found: np.ndarray = sum((part - part.mean(axis=0)).T @ (part - part.mean(axis=0)) for part in inside)
        return found

    everything = np.ones(len(rows), bool)
    for row in range(len(rows)):
        others = np.arange(len(rows)) != row
        lost = (1 - whole.shrinkage) * (scatter(everything) - scatter(others)) / len(rows)
        inverse = np.linalg.inv(covariance - lost)
        means = np.stack([scaled[others & (name == LABELS)].mean(axis=0) for name in names])
        counts = np.array([(others & (name == LABELS)).sum() for name in names])
        away = scaled[row] - means
        scores = np.log(counts) - np.einsum("cd,de,ce->c", away, inverse, away) / 2
        own = codes[row]
        rivals = np.delete(scores, own)
        assert said.margin[row] == pytest.approx(scores[own] - rivals.max(), abs=1e-4)
        x, mean = scaled[row], means[own]
        cosine = x @ inverse @ mean / np.sqrt((x @ inverse @ x) * (mean @ inverse @ mean))
        assert said.familiarity[row] == pytest.approx(cosine, abs=1e-4)


def test_a_row_that_was_not_fitted_is_judged_as_it_is(rows: np.ndarray) -> None:
    sums = Sums.of(rows, {"label": LABELS.tolist()})
    codes = np.unique(LABELS, return_inverse=True)[1]
    model = LeaveOneOut.fit(sums.labelled, sums.columns["label"], Reduction.fit(sums.moments, components=2))
    fitted, new = model(rows, codes, np.ones(len(rows), bool)), model(rows, codes, np.zeros(len(rows), bool))
    assert (new.margin > fitted.margin).all()  # who has learned an answer is surer of it
