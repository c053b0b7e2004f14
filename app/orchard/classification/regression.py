"""Logistic regression on the components: by scikit-learn in the driver if its rows fit, else by Spark ML.

Where images have views, scikit-learn fits it in the span of the discriminant's whitened means instead: see
`fit_inside`.

Both have the same minimum: the mean log loss, plus `PENALTY` / 2 times the squares of all coefficients of the
half-whitened components; intercepts are free. Measured on 9,280 training and 2,878 test images of 58 fruits, 574
components of EfficientNet-Lite0: accuracy 0.980 on half-whitened components for penalties of 1e-5 to 1e-3, in 38 to 74
iterations; plain ones are no better (0.977 to 0.981) and not done after 100; nearer to white 0.976 to 0.980.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import npz, tasks
from orchard.classification.rows import Rows, sort_by_path, weights_of
from orchard.datasets import matrix
from orchard.inference.familiarity import Familiarity
from orchard.inference.linear import Linear
from orchard.layout import FittedBy
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import ClassSums, Role

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sklearn.linear_model import LogisticRegression


PENALTY = 1e-4
INSIDE_PENALTY = 3e-3
"""Of the coefficients in the span of whitened means."""

# Largest entry of the gradient. On 58 fruits accuracy is 0.9805 at 1e-3 (10 iterations), 0.9864 at 1e-4 (30), 0.9868
# here (51) and at 1e-5 no better (83).
_TOLERANCE = 3e-5
_ITERATIONS = 200
# Arrays of a score for each row and class that scikit-learn holds at a time, and vectors as large as the coefficients.
_SCORES, _VECTORS = 3, 30

# As large as the coefficients: L-BFGS keeps twenty, and tasks, broadcast and line search have theirs. In a heap of 450
# MB 1,500 classes of 560 components fit, which is 45 of them, and 2,000 did not.
_SPARK_VECTORS = 45
_SPARK_ITSELF = 150 * 2**20


@dataclass(frozen=True)
class Regression:
    """A fitted logistic regression: the scores of components are ``components @ coefficients.T + intercept``.

    Attributes:
        labels: names of the n_classes classes.
        coefficients: (n_classes, k) float64.
        intercept: (n_classes,) float64.
    """

    labels: tuple[str, ...]
    coefficients: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def on(self, reduction: Reduction) -> Linear:
        """Return it as one layer on the features that `reduction` makes the components of."""
        return Linear.on_components(reduction, self.coefficients, self.intercept)

    def to_bytes(self) -> bytes:
        """Return an ``.npz`` file of the arrays, without pickles."""
        labels = np.array(self.labels, dtype=np.str_)
        return npz.dump({"coefficients": self.coefficients, "intercept": self.intercept, "labels": labels})


Fits = tuple[Regression | None, Regression | None, str | None]
"""See `fit`."""


def prepare() -> None:
    """Import scikit-learn in the background, which takes a second. A process cannot end before the import is done."""

    def load() -> None:
        import sklearn.linear_model
        import sklearn.tree  # noqa: F401

    Thread(target=load, name="orchard-scikit-learn").start()


def fitted_by(rows: int, components: int, n_classes: int, memory: int) -> FittedBy:
    """Return what fits so many rows: scikit-learn if rows and scores take at most `memory` bytes, else Spark ML."""
    needed = 4 * rows * (components + _SCORES * n_classes) + 8 * _VECTORS * n_classes * (components + 1)
    return FittedBy.SCIKIT_LEARN if needed <= memory else FittedBy.SPARK_ML


def fit(
    spark: Callable[[], SparkSession],
    rows: Rows,
    fitted: ClassSums,
    everything: ClassSums,
    variances: NDArray[np.float64],
    *,
    twice: bool,
    by: FittedBy,
) -> Fits:
    """Fit on the rows of `Role.FIT` and `Role.HELD_OUT`.

    Args:
        spark: returns the session, for Spark ML.
        rows: the rows.
        fitted: the classes of the rows of `Role.FIT`.
        everything: the classes of the rows of `Role.FIT` and `Role.HELD_OUT`.
        variances: (k,) variance of each component, falling.
        twice: whether to fit on the rows of `Role.FIT` alone, too.
        by: the result of `fitted_by`.

    Returns:
        The fit without the held-out rows, or None unless `twice`; the fit on all rows, or None if memory is too small;
        and a sentence in that case.
    """
    if by is FittedBy.SCIKIT_LEARN:
        return *_fit_in_driver(rows, fitted, everything, variances, twice=twice), None
    session, trial = spark(), None
    with tasks.at_work(session.sparkContext):
        if twice:
            trial, lack = fit_on_spark(rows.frame(session, Role.FIT), fitted.names, variances)
            if trial is None:
                return None, None, lack
        final, lack = fit_on_spark(rows.frame(session, Role.FIT, Role.HELD_OUT), everything.names, variances)
    return trial, final, lack


def fit_rows(rows: NDArray[np.float32], labels: Sequence[str | None], variances: NDArray[np.float64]) -> Regression:
    """Fit by scikit-learn on components (n, k) of labels (n,) that the driver holds anyway; `variances` as of `fit`."""
    names, classes = np.unique(np.array(labels, np.str_), return_inverse=True)
    weights = half_whitening(variances)
    ones = np.ones(len(rows), np.float32)
    model = _fitted(rows * weights.astype(np.float32), classes.astype(np.int32), ones, len(names))
    return _regression(model, tuple(names.tolist()), weights)


def fit_inside(
    space: Familiarity, rows: NDArray[np.float32], labels: Sequence[str | None], weights: NDArray[np.float32]
) -> Linear:
    """Fit by scikit-learn in the span of the discriminant's whitened means, where views shaped the discriminant.

    The discriminant gives directions in which labels differ more than images and views of one label do. Between the
    means it takes every label for equally spread; the regression does not. Photos from shops (81 labels,
    EfficientNet-Lite2, square roots, three test views, mean over five draws of four fifths of 2,640 photos, 296 others
    to measure): with eight views the discriminant is right for 0.815 (by kind 0.906, log loss 0.81), a regression on
    components for 0.782 (0.892, 0.79), this one for 0.824 (0.917, 0.68). Fitted on the views, too, it is no better.

    Args:
        space: of the discriminant.
        rows: (n, q) coordinates of images in it, see `Familiarity.inside`.
        labels: (n,) of the images.
        weights: (n,) of the images.

    Returns:
        Scores of features, for the labels in their order.
    """
    names, classes = np.unique(np.array(labels, np.str_), return_inverse=True)
    model = _fitted(rows, classes.astype(np.int32), weights, len(names), penalty=INSIDE_PENALTY)
    found = _regression(model, tuple(names.tolist()), np.ones(rows.shape[1]))
    directions = space.discriminants.T.astype(np.float64) * space.inverse_scale
    return Linear.on_directions(directions, space.origin, found.coefficients, found.intercept)


def _fit_in_driver(
    read: Rows, fitted: ClassSums, everything: ClassSums, variances: NDArray[np.float64], *, twice: bool
) -> tuple[Regression | None, Regression]:
    """Fit twice by scikit-learn; the second fit starts from the weights of the first."""
    weights = half_whitening(variances)
    n_fitted = int(fitted.counts.sum())
    rows, classes, weighing = _collect(read, everything.names, weights, n_fitted, int(everything.counts.sum()))

    def fit_first(n: int, labels: tuple[str, ...], start: LogisticRegression | None) -> LogisticRegression:
        return _fitted(rows[:n], _places(classes[:n], everything.names, labels), weighing[:n], len(labels), start)

    trial = None
    if twice:
        model = fit_first(n_fitted, fitted.names, None)
        trial = _regression(model, fitted.names, weights)
    again = model if twice and fitted.names == everything.names else None
    return trial, _regression(fit_first(len(rows), everything.names, again), everything.names, weights)


def _fitted(
    rows: NDArray[np.float32],
    classes: NDArray[np.int32],
    weighing: NDArray[np.float32],
    n_classes: int,
    start: LogisticRegression | None = None,
    *,
    penalty: float = PENALTY,
) -> LogisticRegression:
    """Fit rows (n, k) with classes (n,) and weights (n,), starting from the fit `start`.

    One thread multiplies: OpenBLAS's wait for each other while they spin, so that where something else wants the cores
    two of them take ten times as long, and the result would depend on their number.
    """
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    # scikit-learn's C weighs the sum of losses, and it has one row of coefficients for two classes, the double of
    # either of the two that are as far from zero.
    strength = (2 if n_classes == 2 else 1) / (penalty * float(weighing.sum(dtype=np.float64)))
    model = start or LogisticRegression(tol=_TOLERANCE, max_iter=_ITERATIONS, warm_start=True)
    model.set_params(C=strength)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not done after so many iterations is as good
        return model.fit(rows, classes, sample_weight=weighing)


def _collect(
    read: Rows, labels: Sequence[str], weights: NDArray[np.float64], n_fitted: int, n: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Return half-whitened components (n, k), classes (n,) and weights (n,) of the training rows, ordered by path.

    Those that are held out come last.
    """
    rows, classes = np.empty((n, len(weights)), np.float32), np.empty(n, np.int32)
    weighing = np.empty(n, np.float32)
    names, scale = pa.array(labels, pa.string()), weights.astype(np.float32)
    place = {Role.FIT: 0, Role.HELD_OUT: n_fitted}
    paths: dict[Role, list[pa.Array]] = {role: [] for role in place}
    for batch, roles in read:
        found = np.asarray(pc.fill_null(pc.index_in(batch.column("label"), names), -1))
        components = matrix(batch.column("pca_features"))
        for role, start in place.items():
            at = np.flatnonzero((roles == role) & (found >= 0))
            place[role] = end = start + len(at)
            np.multiply(components[at], scale, out=rows[start:end])
            classes[start:end] = found[at]
            weighing[start:end] = weights_of(batch)[at]
            paths[role].append(batch.column("path").take(pa.array(at)))
    for role, part in ((Role.FIT, slice(n_fitted)), (Role.HELD_OUT, slice(n_fitted, n))):
        sort_by_path(paths[role], rows[part], classes[part], weighing[part])
    return rows, classes, weighing


def _places(classes: NDArray[np.int32], names: Sequence[str], labels: Sequence[str]) -> NDArray[np.int32]:
    """Translate classes, which number `names`, into numbers of `labels`, a subset of `names`."""
    place = {label: index for index, label in enumerate(labels)}
    return np.array([place.get(name, -1) for name in names], np.int32)[classes]


def _regression(model: Any, labels: Sequence[str], weights: NDArray[np.float64]) -> Regression:
    coefficients, intercept = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
    if len(labels) == 2:
        coefficients, intercept = np.vstack([-coefficients, coefficients]) / 2, np.r_[-intercept, intercept] / 2
    return Regression(tuple(labels), coefficients * weights, intercept)


def fit_on_spark(
    rows: DataFrame, labels: Sequence[str], variances: NDArray[np.float64]
) -> tuple[Regression | None, str | None]:
    """Fit by Spark ML.

    Args:
        rows: ``label, pca_features, weight``; rows without a label are left out.
        labels: the labels that occur, sorted.
        variances: (k,) variance of each component, falling.

    Returns:
        The regression; or None, and a sentence that says how much memory is needed.
    """
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import ElementwiseProduct, StringIndexerModel
    from pyspark.ml.functions import array_to_vector
    from pyspark.ml.linalg import Vectors
    from pyspark.sql.functions import col

    heap = _heap(rows.sparkSession)
    needed = _SPARK_ITSELF + _SPARK_VECTORS * 8 * len(labels) * len(variances)
    if needed > heap:
        return None, (
            f"Logistic regression was left out: {len(labels):,} classes of {len(variances):,} components do not "
            f"fit into {heap / 2**30:.1f} GB of Spark's memory; give it more "
            f"(--driver-memory {math.ceil(needed / 2**30 + 0.1)}g), or take fewer --components."
        )
    weights = half_whitening(variances)
    components = array_to_vector(col("pca_features").cast("array<double>")).alias("components")
    training = rows.where("label is not null").select("label", components, "weight")
    indexer = StringIndexerModel.from_labels(list(labels), inputCol="label", outputCol="class")
    weighting = ElementwiseProduct(scalingVec=Vectors.dense(weights), inputCol="components", outputCol="weighted")
    model = LogisticRegression(
        featuresCol="weighted",
        labelCol="class",
        weightCol="weight",
        family="multinomial",  # also for two labels, so that the coefficients always have a row a label
        standardization=False,
        regParam=PENALTY,
        maxIter=100,
    ).fit(weighting.transform(indexer.transform(training)))
    coefficients = model.coefficientMatrix.toArray() * weights
    return Regression(tuple(labels), coefficients, model.interceptVector.toArray()), None


def _heap(spark: SparkSession) -> int:
    """Return the maximum size in bytes of the driver's heap, where Spark ML computes."""
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    return int(jvm.java.lang.Runtime.getRuntime().maxMemory())


def half_whitening(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a factor for each component, shape (k,): it turns the standard deviation s into the square root of s.

    That lies between plain components, where the first ones dominate, and whitened ones, where noise counts as much.
    """
    positive = variances > 0
    return np.where(positive, np.where(positive, variances, 1.0) ** -0.25, 1.0)
