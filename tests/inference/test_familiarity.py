"""Familiarity tells what was learned from what was not, and its short form is the whole one's."""

from dataclasses import replace

import numpy as np
import pytest

from orchard.classification.discriminant import RANK, fit
from orchard.inference.familiarity import Familiarity
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import Sums

FEATURES = 300


def photos(seed: int, n: int = 30, c: int = 12) -> tuple[np.ndarray, list[str]]:
    """Features of photos of some classes: another seed, other photos; features go together, fewer and fewer of them."""
    shared, random = np.random.default_rng(0), np.random.default_rng(seed)
    mix = shared.normal(size=(FEATURES, FEATURES)) * np.arange(1, FEATURES + 1) ** -0.7
    centres = shared.normal(size=(c, FEATURES)) @ mix * 1.5
    index = np.repeat(np.arange(c), n)
    return (centres[index] + random.normal(size=(n * c, FEATURES)) @ mix).astype(np.float32), [str(i) for i in index]


def strangers(n: int = 200) -> np.ndarray:
    """Features of as much spread as the photos', of no class."""
    rows, _ = photos(1)
    return np.random.default_rng(9).normal(rows.mean(axis=0), rows.std(axis=0), (n, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def sums() -> Sums:
    rows, labels = photos(1)
    return Sums.of(rows, {"label": labels})


@pytest.fixture(scope="module")
def reduction(sums: Sums) -> Reduction:
    return Reduction.fit(sums.moments, variance=0.95)


@pytest.fixture(scope="module")
def familiarity(sums: Sums, reduction: Reduction) -> Familiarity:
    return fit(sums.labelled, sums.columns["label"], reduction).familiarity


def test_what_was_learned_is_more_familiar_than_what_was_not(familiarity: Familiarity) -> None:
    known, unknown = familiarity(photos(2)[0]), familiarity(strangers())
    assert known.dtype == unknown.dtype == np.float32
    assert min(known.min(), unknown.min()) >= 0 and max(known.max(), unknown.max()) <= 1
    above = (known[:, np.newaxis] > unknown).mean()
    assert above > 0.99, f"AUROC {above}"


def test_the_classes_own_means_are_as_familiar_as_can_be(familiarity: Familiarity, sums: Sums) -> None:
    classes = sums.columns["label"]
    means = (classes.sums / classes.counts[:, np.newaxis]).astype(np.float32)
    np.testing.assert_allclose(familiarity(means), 1, atol=1e-3)


def test_the_short_form_is_as_the_whole_one(
    familiarity: Familiarity, sums: Sums, reduction: Reduction, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert familiarity.spread.shape == (FEATURES, RANK) and RANK < FEATURES - 1
    monkeypatch.setattr("orchard.classification.discriminant.RANK", FEATURES - 1)
    whole = fit(sums.labelled, sums.columns["label"], reduction).familiarity
    assert whole.spread.shape == (FEATURES, FEATURES - 1)
    for rows in (photos(2)[0], strangers()):
        np.testing.assert_allclose(familiarity(rows), whole(rows), atol=0.01)


def test_the_whole_form_is_the_two_cosines_in_the_whitened_space(
    sums: Sums, reduction: Reduction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computed another way: whiten by a Cholesky factor, and take the cosines there."""
    monkeypatch.setattr("orchard.classification.discriminant.RANK", FEATURES - 1)
    fitted = fit(sums.labelled, sums.columns["label"], reduction)
    rows, labels = photos(1)
    index = np.unique(labels, return_inverse=True)[1]
    scaled = (rows.astype(np.float64) - reduction.mean_) / reduction.scale_
    means = np.stack([scaled[index == i].mean(axis=0) for i in range(index.max() + 1)])
    within = (scaled - means[index]).T @ (scaled - means[index]) / len(rows)
    isotropic = np.eye(FEATURES) * np.trace(within) / FEATURES
    whiten = np.linalg.cholesky(np.linalg.inv((1 - fitted.shrinkage) * within + fitted.shrinkage * isotropic))
    white = means @ whiten
    other = np.concatenate([photos(2)[0], strangers()])
    found = (other.astype(np.float64) - reduction.mean_) / reduction.scale_ @ whiten
    span = np.linalg.svd(white, full_matrices=False)[2][: len(means) - 1]

    def cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        found: np.ndarray = one @ two.T / np.linalg.norm(one, axis=1)[:, np.newaxis] / np.linalg.norm(two, axis=1)
        return found

    among, whole = cosine(found @ span.T, white @ span.T), cosine(found, white)
    expected = np.sqrt(np.clip(among.max(axis=1), 0, None) * np.clip(whole.max(axis=1), 0, None))
    np.testing.assert_allclose(fitted.familiarity(other), expected, atol=2e-3)


def test_it_survives_its_file(familiarity: Familiarity) -> None:
    again = Familiarity.from_bytes(familiarity.to_bytes())
    np.testing.assert_array_equal(again(photos(2)[0]), familiarity(photos(2)[0]))
    with pytest.raises(ValueError, match="pickled"):
        Familiarity.from_bytes(b"no arrays")


def test_what_lies_at_the_middle_of_all_is_a_number(familiarity: Familiarity) -> None:
    assert np.isfinite(familiarity(familiarity.origin[np.newaxis])).all()
    far = replace(familiarity, origin=familiarity.origin - np.float32(1e6))
    assert np.isfinite(far(photos(2)[0])).all()
