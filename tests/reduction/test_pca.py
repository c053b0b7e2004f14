"""Promises of scaler and PCA: scikit-learn's numbers, and sane ones where scikit-learn's are not."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from orchard.errors import TrainingError, UsageError
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction


def correlated(n: int, d: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Rows of falling spectrum, with a unit and an offset for each feature."""
    rng = np.random.default_rng(seed)
    mixing, _ = np.linalg.qr(rng.normal(size=(d, d)))
    values = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.7 @ mixing
    rows: np.ndarray = (values * rng.uniform(0.5, 3, d) + offset).astype(np.float32)
    return rows


def floored(data: np.ndarray) -> StandardScaler:
    """scikit-learn's scaler, but that nothing is divided by less than the median deviation."""
    scaler = StandardScaler().fit(data.astype(np.float64))
    scaler.scale_ = np.maximum(scaler.scale_, np.median(scaler.scale_))
    return scaler


@pytest.mark.parametrize("offset", [0.0, 1e4], ids=["small mean", "large mean"])
def test_equal_to_scikit_learn_including_the_sign(offset: float) -> None:
    data = correlated(2000, 40, offset)
    scaler = floored(data)
    pca = PCA(n_components=0.9, svd_solver="full").fit(scaler.transform(data.astype(np.float64)))
    expected = pca.transform(scaler.transform(data.astype(np.float64)))

    reduction = Reduction.fit(Moments.of(data), variance=0.9)

    assert reduction.n_components_ == pca.n_components_
    np.testing.assert_allclose(reduction.mean_, scaler.mean_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(reduction.scale_, scaler.scale_, rtol=1e-9)
    np.testing.assert_allclose(reduction.components_, pca.components_, atol=1e-6)
    np.testing.assert_allclose(reduction.explained_variance_, pca.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(
        reduction.explained_variance_ratio_[: pca.n_components_], pca.explained_variance_ratio_, rtol=1e-9
    )
    reduced = reduction.transform(data)
    assert reduced.dtype == np.float32
    np.testing.assert_allclose(reduced, expected, atol=2e-5)


def test_a_feature_that_hardly_varies_in_training_decides_nothing_elsewhere() -> None:
    data = correlated(500, 30)
    data[:, 7] = 0.2 + np.random.default_rng(1).normal(size=500) * 1e-5
    reduction = Reduction.fit(Moments.of(data), variance=0.95)
    other = data.copy()
    other[:, 7] = 3.0
    assert np.abs((other - reduction.mean_) / reduction.scale_).max() < 20
    assert reduction.scale_[7] == pytest.approx(np.median(data.std(axis=0, dtype=np.float64)))


def test_the_ratio_lists_every_component_falling_to_a_sum_of_one() -> None:
    ratio = Reduction.fit(Moments.of(correlated(500, 30)), components=3).explained_variance_ratio_
    assert ratio.shape == (30,)
    assert (np.diff(ratio) <= 0).all()
    assert ratio.sum() == pytest.approx(1)


def test_variance_keeps_the_fewest_components_that_hold_it() -> None:
    moments = Moments.of(correlated(500, 30))
    reduction = Reduction.fit(moments, variance=0.8)
    cumulative = np.cumsum(reduction.explained_variance_ratio_)
    k = reduction.n_components_
    assert cumulative[k - 1] >= 0.8 > cumulative[k - 2]
    assert reduction.explained_variance_share == pytest.approx(cumulative[k - 1])
    assert Reduction.fit(moments, variance=1.0).n_components_ == 30


def test_zero_variance_features_are_counted_and_left_out() -> None:
    data = correlated(400, 12)
    alone = Reduction.fit(Moments.of(data), components=5)
    padded = np.insert(data, [0, 6, 12], np.array([0.0, 0.1, 1e6], np.float32), axis=1)
    reduction = Reduction.fit(Moments.of(padded), components=5)
    constant = [0, 7, 14]
    assert reduction.zero_variance_features_ == 3
    assert (reduction.scale_[constant] == 1).all()
    assert (reduction.components_[:, constant] == 0).all()
    assert reduction.explained_variance_ratio_.sum() == pytest.approx(1)
    np.testing.assert_allclose(reduction.transform(padded), alone.transform(data), atol=1e-5)


def test_fewer_rows_than_components_gives_the_rank() -> None:
    data = correlated(6, 40)
    reduction = Reduction.fit(Moments.of(data), components=30)
    assert reduction.n_components_ == 5, "6 rows span 5 directions about their mean"
    assert reduction.explained_variance_ratio_.shape == (6,)
    scaled = floored(data).transform(data.astype(np.float64))
    np.testing.assert_allclose(reduction.transform(data), PCA(5, svd_solver="full").fit_transform(scaled), atol=1e-5)


def test_linearly_dependent_features_do_not_count_twice() -> None:
    data = correlated(300, 4)
    reduction = Reduction.fit(Moments.of(np.concatenate([data, 2 * data], axis=1)), components=8)
    assert reduction.n_components_ == 4


@pytest.mark.parametrize("n", [1, 9], ids=["one row", "equal rows"])
def test_rows_that_do_not_differ_become_zeros_not_nan(n: int) -> None:
    data = np.repeat(correlated(1, 20, offset=7), n, axis=0)
    reduction = Reduction.fit(Moments.of(data), variance=0.95)
    assert reduction.n_components_ == 1
    assert reduction.explained_variance_share == 0
    np.testing.assert_array_equal(reduction.transform(data), np.zeros((n, 1)))
    assert np.isfinite(reduction.transform(correlated(3, 20))).all()


def test_without_rows_there_is_nothing_to_fit() -> None:
    with pytest.raises(TrainingError, match="no training rows"):
        Reduction.fit(Moments.of(np.empty((0, 5), np.float32)))


@pytest.mark.parametrize("variance", [0.0, 1.5, -1.0, float("nan"), None])
def test_a_share_out_of_range_is_refused(variance: float | None) -> None:
    with pytest.raises(UsageError, match="above 0 and up to 1"):
        Reduction.fit(Moments.of(correlated(10, 3)), variance=variance)


def test_fewer_than_one_component_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Reduction.fit(Moments.of(correlated(10, 3)), components=0)


def test_a_large_mean_does_not_blur_the_transform() -> None:
    data = correlated(20_000, 16)
    far = (data.astype(np.float64) + 1e4).astype(np.float32)
    reduction = Reduction.fit(Moments.of(far), components=16)
    exact = (far.astype(np.float64) - reduction.mean_) / reduction.scale_ @ reduction.components_.T
    np.testing.assert_allclose(reduction.transform(far), exact, atol=2e-5)


def test_saved_and_reloaded_it_transforms_alike() -> None:
    data = correlated(100, 10)
    data[:, 3] = 2
    reduction = Reduction.fit(Moments.of(data), variance=0.9)
    restored = Reduction.from_bytes(reduction.to_bytes())
    np.testing.assert_array_equal(restored.transform(data), reduction.transform(data))
    assert (restored.n_samples_, restored.zero_variance_features_) == (100, 1)
