"""Promises of the one-pass moments."""

import pickle
from functools import reduce

import numpy as np
import pytest

from orchard.reduction.moments import Moments


def rows(n: int, d: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, d)) + offset).astype(np.float32)


def test_moments_give_the_mean_and_the_covariance() -> None:
    data = rows(3000, 7)  # more than one block
    moments = Moments.of(data)
    assert moments.count == 3000
    np.testing.assert_allclose(moments.mean, data.mean(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-14)
    covariance = np.cov(data.T.astype(np.float64), ddof=0)
    np.testing.assert_allclose(moments.scatter / 3000, covariance, atol=1e-13)


def test_moments_stay_exact_for_a_large_mean_and_many_rows() -> None:
    data = rows(20_000, 5, offset=1e4)
    centred = data.astype(np.float64) - data.mean(axis=0, dtype=np.float64)
    moments = reduce(Moments.merge, [Moments.of(part) for part in np.array_split(data, 13)])
    np.testing.assert_allclose(moments.scatter, centred.T @ centred, rtol=1e-12, atol=1e-8)
    naive = data.T @ data - len(data) * np.outer(data.mean(axis=0), data.mean(axis=0))
    assert np.abs(naive - centred.T @ centred).max() > 1, "unshifted float32 sums are useless here"


def test_merging_is_exact_when_the_shifts_differ() -> None:
    first, second = rows(50, 6, offset=-300), rows(70, 6, offset=4000, seed=1)
    merged = Moments.of(first).merge(Moments.of(second))
    both = np.concatenate([first, second]).astype(np.float64)
    assert merged.count == 120
    np.testing.assert_allclose(merged.mean, both.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(merged.scatter / 120, np.cov(both.T, ddof=0), rtol=1e-12)


def test_the_order_of_merging_does_not_matter() -> None:
    parts = [Moments.of(rows(20 + i, 4, offset=100.0 * i, seed=i)) for i in range(5)]
    forth, back = reduce(Moments.merge, parts), reduce(Moments.merge, parts[::-1])
    np.testing.assert_allclose(forth.mean, back.mean, rtol=1e-13)
    np.testing.assert_allclose(forth.scatter, back.scatter, rtol=1e-11)


def test_parts_without_rows_change_nothing() -> None:
    data = Moments.of(rows(10, 3, offset=5))
    empty = Moments.of(np.empty((0, 3), np.float32))
    for merged in (data.merge(empty), empty.merge(data)):
        assert merged.count == 10
        np.testing.assert_array_equal(merged.scatter, data.scatter)


def test_a_constant_feature_has_exactly_no_variance() -> None:
    data = rows(5000, 2)
    data[:, 1] = 1234.567
    merged = Moments.of(data[:2000]).merge(Moments.of(data[2000:]))
    assert merged.scatter[1, 1] == 0


def test_moments_travel_as_half_a_matrix() -> None:
    moments = Moments.of(rows(100, 200, offset=3))
    data = pickle.dumps(moments, protocol=5)
    assert len(data) < 200 * 200 * 8 * 0.52
    restored = pickle.loads(data)  # noqa: S301 - what Spark does with it
    np.testing.assert_array_equal(restored.gram, moments.gram)
    np.testing.assert_array_equal(restored.mean, moments.mean)


def test_rows_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and of 4 features"):
        Moments.of(rows(2, 3)).merge(Moments.of(rows(2, 4)))
