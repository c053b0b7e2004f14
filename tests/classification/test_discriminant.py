"""The discriminant out of class sums is the one that scikit-learn fits on the rows themselves."""

import numpy as np
import pytest
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from orchard.classification.discriminant import Discriminant, fit
from orchard.inference.calibration import softmax
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import Sums

Data = tuple[np.ndarray, list[str]]


def classes(sizes: list[int], d: int, apart: float = 2.0, seed: int = 0) -> Data:
    """Rows of classes about their centres, of features that go together and differ in scale."""
    random = np.random.default_rng(seed)
    mix = random.normal(size=(d, d)) * np.arange(1, d + 1) ** -0.5
    centres = random.normal(size=(len(sizes), d)) * apart
    index = np.repeat(np.arange(len(sizes)), sizes)
    values = (centres[index] + random.normal(size=(len(index), d)) @ mix) * random.uniform(0.01, 5, d) + 10
    return values.astype(np.float32), [f"class {i:03}" for i in index]


def fitted(data: Data) -> tuple[Discriminant, np.ndarray]:
    """The discriminant, and the rows as its scaler gives them, in float64."""
    rows, labels = data
    sums = Sums.of(rows, {"label": labels})
    reduction = Reduction.fit(sums.moments, variance=0.95)
    scaled = (rows.astype(np.float64) - reduction.mean_) / reduction.scale_
    return fit(sums.labelled, sums.columns["label"], reduction), scaled


@pytest.mark.filterwarnings("ignore:Only one sample available")
@pytest.mark.parametrize("solver", ["lsqr", "eigen"])
@pytest.mark.parametrize(
    "sizes", [[60, 40, 90], [5, 7, 6, 4], [1, 1, 1, 30], [3] * 40], ids=["many", "few rows", "single rows", "40 labels"]
)
def test_equal_to_scikit_learn_at_the_same_shrinkage(sizes: list[int], solver: str) -> None:
    data = classes(sizes, 24)
    found, scaled = fitted(data)
    assert 0 < found.shrinkage < 1
    theirs = LinearDiscriminantAnalysis(solver=solver, shrinkage=found.shrinkage).fit(scaled, data[1])
    ours = found.linear(data[0])
    assert theirs.classes_.tolist() == sorted(set(data[1]))
    np.testing.assert_allclose(softmax(ours), theirs.predict_proba(scaled), atol=2e-4)
    assert (ours.argmax(axis=1) == theirs.decision_function(scaled).argmax(axis=1)).all()


def test_the_shrinkage_is_about_scikit_learns_oas_of_the_rows_within_their_classes() -> None:
    """scikit-learn leaves out the terms 2/d of the paper, and counts no degrees of freedom of the class means."""
    for sizes in ([100] * 3, [20] * 4, [8] * 5):
        data = classes(sizes, 60)
        found, scaled = fitted(data)
        index = np.repeat(np.arange(len(sizes)), sizes)
        within = np.concatenate(
            [part - part.mean(axis=0) for part in np.split(scaled, np.flatnonzero(np.diff(index)) + 1)]
        )
        _, expected = oas(within, assume_centered=True)
        assert found.shrinkage == pytest.approx(expected, rel=0.15)


def test_fewer_rows_are_shrunk_more() -> None:
    shrinkages = [fitted(classes([size] * 3, 40))[0].shrinkage for size in (4, 20, 200)]
    assert shrinkages[0] > 2 * shrinkages[1] > 4 * shrinkages[2]


def test_views_of_an_image_are_no_images() -> None:
    """Rows that are there three times tell no more than once."""
    rows, labels = classes([20] * 3, 40)
    once, _ = fitted((rows, labels))
    sums = Sums.of(np.repeat(rows, 3, axis=0), {"label": np.repeat(labels, 3).tolist()})
    reduction = Reduction.fit(sums.moments, variance=0.95)
    given = sums.labelled, sums.columns["label"], reduction
    assert fit(*given, images=60).shrinkage == pytest.approx(once.shrinkage, rel=1e-6)
    assert fit(*given).shrinkage < once.shrinkage / 2


def test_one_image_a_class_is_told_by_the_nearest() -> None:
    rows, labels = data = classes([1] * 12, 30)
    found, _ = fitted(data)
    assert found.shrinkage == 1.0, "nothing is known of the spread within a class"
    assert np.isfinite(found.linear.weights).all() and np.isfinite(found.linear.bias).all()
    noise = np.random.default_rng(1).normal(size=rows.shape) * rows.std(axis=0) * 0.2
    told = found.linear((rows + noise).astype(np.float32)).argmax(axis=1)
    assert [sorted(labels)[i] for i in told] == labels
    near = found.familiarity(rows)
    assert np.isfinite(near).all() and near.min() > 0.9


def test_features_that_never_vary_in_training_count_for_nothing() -> None:
    rows, labels = classes([30, 30, 30], 20)
    rows[:, [3, 11]] = [7.5, 0.0]
    found, _ = fitted((rows, labels))
    other = rows.copy()
    other[:, [3, 11]] += 4
    scale = np.abs(found.linear(rows)).max()
    assert np.abs(found.linear(other) - found.linear(rows)).max() < 1e-4 * scale
    assert np.isfinite(found.familiarity(other)).all()


def test_images_that_do_not_differ_are_no_division_by_zero() -> None:
    rows = np.ones((10, 8), np.float32)
    found, _ = fitted((rows, ["a", "b"] * 5))
    assert np.isfinite(found.linear(rows)).all()
    assert np.isfinite(found.familiarity(rows)).all()


def test_what_is_commoner_in_training_is_likelier_in_doubt() -> None:
    rows, labels = classes([300, 30], 12, apart=0.3)
    found, _ = fitted((rows, labels))
    between = (rows[:300].mean(axis=0) + rows[300:].mean(axis=0))[np.newaxis] / 2
    common, rare = found.linear(between)[0]
    assert common - rare == pytest.approx(np.log(10), abs=1e-3)
