"""Promises of the regression: the driver finds the minimum that Spark ML looks for, and takes what fits."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from orchard import interruption
from orchard.classification import discriminant, multinomial, regression
from orchard.classification.rows import Rows, inside_rows
from orchard.datasets import list_column
from orchard.files import DataFile
from orchard.layout import FittedBy
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import ClassSums, Role, Sums

LABELS = ["apple", "lemon", "plum"]
rng = np.random.default_rng(0)
CLASSES = rng.integers(0, 3, 400)
VALUES = (rng.normal(size=(3, 6))[CLASSES] * 2 + rng.normal(size=(400, 6))).astype(np.float32)
MEMORY = 2**29
ROLES = np.repeat(np.array([Role.FIT, Role.HELD_OUT, Role.NONE], np.int8), [250, 50, 100])


def rows(classes: NDArray[np.integer], *, last: int = 0, numbers: str = "pca_features") -> Rows:
    """Return rows in batches, from batch `last` on."""

    def read(_: DataFile) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]:
        for start in np.roll(range(0, 400, 64), -last).tolist():
            part = slice(start, start + 64)
            columns = {
                "path": pa.array([f"{i}.jpg" for i in range(400)][part]),
                "label": pa.array([LABELS[i] for i in classes[part]]),
                numbers: list_column(VALUES[part]),
            }
            yield pa.record_batch(columns), ROLES[part]

    return Rows([DataFile("reduced/one", 400)], read)


def no_spark() -> SparkSession:
    raise AssertionError


@pytest.mark.parametrize("labels", [2, 3])
def test_the_regression_is_at_the_minimum_that_spark_ml_looks_for(labels: int) -> None:
    """The gradient of mean log loss + penalty / 2 x squares of the half-whitened coefficients, on all training rows."""
    classes = CLASSES % labels
    training = ROLES != Role.NONE
    variances = np.linspace(9, 1, 6)
    sums = ClassSums.of(VALUES[training], [LABELS[i] for i in classes[training]])
    fitted = ClassSums.of(VALUES[ROLES == Role.FIT], [LABELS[i] for i in classes[ROLES == Role.FIT]])
    trial, found, _ = regression.fit(no_spark, rows(classes), fitted, sums, variances, twice=True, memory=MEMORY)
    assert trial and found
    _, moved, _ = regression.fit(no_spark, rows(classes, last=3), fitted, sums, variances, twice=True, memory=MEMORY)
    assert moved and np.array_equal(moved.coefficients, found.coefficients), "the order of tasks' files changes it"
    whitening = regression.half_whitening(variances)
    for model, chosen in ((found, training), (trial, ROLES == Role.FIT)):
        x, n = VALUES[chosen].astype(float), chosen.sum()
        scores = x @ model.coefficients.T + model.intercept
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        error = shares - np.eye(labels)[classes[chosen]]
        gradient = error.T @ (x * whitening) / n + regression.PENALTY * model.coefficients / whitening
        assert model.coefficients.shape == (labels, 6)
        assert abs(gradient).max() < 1e-4 and abs(error.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("labels", [2, 3])
def test_inside_the_span_of_the_means_it_is_at_a_minimum_on_the_rows_of_its_roles(labels: int) -> None:
    classes = CLASSES % labels
    seen = np.concatenate([VALUES, VALUES + rng.normal(size=VALUES.shape).astype(np.float32)])  # with a view of each
    sums = Sums.of(seen, {"label": [LABELS[i] for i in classes] * 2})
    reduction = Reduction.fit(sums.moments, components=3)
    space = discriminant.fit(sums.labelled, sums.columns["label"], reduction, len(VALUES)).familiarity
    found = [
        regression.fit_inside(space, *inside_rows(rows(classes, last=last, numbers="features"), space, Role.FIT))
        for last in (0, 3)
    ]
    np.testing.assert_array_equal(found[0].weights, found[1].weights, "the order of tasks' files changes it")
    chosen = ROLES == Role.FIT
    inside, n = space.inside(VALUES[chosen]).astype(float), chosen.sum()
    assert inside.shape == (n, labels - 1)
    scores = found[0](VALUES[chosen]).astype(float)
    coefficients = np.linalg.lstsq(np.c_[inside, np.ones(n)], scores, rcond=None)[0][:-1].T
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    error = shares - np.eye(labels)[classes[chosen]]
    gradient = error.T @ inside / n + regression.INSIDE_PENALTY * coefficients
    assert abs(gradient).max() < 1e-3 and abs(error.mean(axis=0)).max() < 1e-3


def test_a_row_that_weighs_three_counts_as_three_rows() -> None:
    at = np.flatnonzero(ROLES != Role.NONE)
    weights = np.where(CLASSES[at] == 1, 3, 1).astype(np.float32)

    def fit(chosen: NDArray[np.integer], weights: NDArray[np.float32] | None) -> regression.Regression:
        columns = {
            "path": pa.array([f"{i:04}" for i in range(len(chosen))]),
            "label": pa.array([LABELS[i] for i in CLASSES[chosen]]),
            "pca_features": list_column(VALUES[chosen]),
        }
        batch = pa.record_batch(columns | ({} if weights is None else {"weight": pa.array(weights)}))
        read = Rows(
            [DataFile("reduced/one", len(chosen))], lambda _: iter([(batch, np.full(len(chosen), Role.FIT, np.int8))])
        )
        sums = ClassSums.of(VALUES[chosen], [LABELS[i] for i in CLASSES[chosen]])
        variances = np.linspace(9, 1, 6)
        _, found, _ = regression.fit(no_spark, read, sums, sums, variances, twice=False, memory=MEMORY)
        assert found
        return found

    weighed, repeated = fit(at, weights), fit(np.repeat(at, weights.astype(int)), None)
    np.testing.assert_allclose(weighed.coefficients, repeated.coefficients, atol=2e-3)
    assert np.abs(weighed.coefficients - fit(at, None).coefficients).max() > 0.02


def test_rows_that_fit_in_half_precision_alone_give_nearly_the_same() -> None:
    fitted, sums = (ClassSums.of(VALUES[:n], [LABELS[i] for i in CLASSES[:n]]) for n in (250, 300))
    single, half = (multinomial.memory(300, 6, 3, size) for size in (4, 2))
    found = [
        regression.fit(no_spark, rows(CLASSES), fitted, sums, np.linspace(9, 1, 6), twice=False, memory=memory)[1]
        for memory in (single, single - 1, half)
    ]
    assert found[0] and found[1] and found[2]
    np.testing.assert_array_equal(found[1].coefficients, found[2].coefficients)
    np.testing.assert_allclose(found[1].coefficients, found[0].coefficients, atol=5e-3)
    assert not np.array_equal(found[1].coefficients, found[0].coefficients), "single precision did not fit"


def big_rows(n: int, k: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    own = rng.integers(0, classes, n).astype(np.int32)
    centres = rng.normal(size=(classes, k))
    return (centres[own] + rng.normal(size=(n, k))).astype(np.float32), own, np.ones(n, np.float32)


def test_the_number_of_cores_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, own, weights = big_rows(5_000, 8, 5)
    found = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(multinomial, "available_cores", lambda cores=cores: cores)
        found.append(multinomial.fit(values, own, weights, 5, penalty=1e-3, tolerance=1e-4, iterations=50))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_fit_under_way_ends_when_the_command_is_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(3))

    def check() -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(interruption, "check", check)
    with pytest.raises(KeyboardInterrupt):
        multinomial.fit(*big_rows(2_000, 8, 5), 5, penalty=1e-4, tolerance=0, iterations=200)


@pytest.mark.parametrize(("n", "k", "classes"), [(20_000, 32, 40), (1_500, 60, 800)])
def test_it_takes_no_more_memory_than_it_says(n: int, k: int, classes: int) -> None:
    values, own, weights = big_rows(n, k, classes)
    multinomial.fit(values[:100], own[:100], weights[:100], classes, penalty=1, tolerance=1, iterations=1)  # imports
    tracemalloc.start()
    try:
        multinomial.fit(values, own, weights, classes, penalty=1e-4, tolerance=0, iterations=15)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.nbytes + peak <= multinomial.memory(n, k, classes, 4)


def test_the_driver_takes_what_fits() -> None:
    assert regression.fitted_by(9_280, 563, 58, MEMORY) is FittedBy.SCIPY
    assert regression.fitted_by(1_000_000, 256, 100, MEMORY) is FittedBy.SCIPY
    assert regression.fitted_by(2_000_000, 256, 100, MEMORY) is FittedBy.SPARK_ML
    assert regression.fitted_by(400_000, 80, 81, MEMORY, inside=True) is FittedBy.SCIPY
    assert regression.fitted_by(1_000_000, 80, 81, MEMORY, inside=True) is FittedBy.SPARK_ML
