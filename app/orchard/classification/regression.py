"""Logistic regression on the components: in the driver if its rows fit, else by Spark ML.

Where images have views, it is fitted in the span of the discriminant's whitened means instead: see `fit_inside`.

Both have the same minimum: the mean log loss, plus `PENALTY` / 2 times the squares of all coefficients of the
half-whitened components; intercepts are free. Measured on 9,280 training and 2,878 test images of 58 fruits, 574
components of EfficientNet-Lite0: accuracy 0.980 on half-whitened components for penalties of 1e-5 to 1e-3, in 38 to 74
iterations; plain ones are no better (0.977 to 0.981) and not done after 100; nearer to white 0.976 to 0.980.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import npz, tasks
from orchard.classification import multinomial
from orchard.classification.rows import Rows, sort_by_path, weights_of
from orchard.datasets import matrix
from orchard.inference.familiarity import Familiarity
from orchard.inference.linear import Linear
from orchard.layout import FittedBy
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import ClassSums, Role

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


PENALTY = 1e-4
INSIDE_PENALTY = 3e-3
"""Of the coefficients in the span of whitened means."""
INSIDE_BYTES = 8
"""Of each number of the rows of `fit_inside`: in single precision, and twice while they are read."""

# Largest entry of the gradient. On 58 fruits accuracy is 0.9805 at 1e-3 (10 iterations), 0.9864 at 1e-4 (30), 0.9868
# here (51) and at 1e-5 no better (83).
_TOLERANCE = 3e-5
_ITERATIONS = 200

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
    """Import SciPy and scikit-learn in the background, for a second. A process cannot end before the import is done."""

    def load() -> None:
        import sklearn.tree  # noqa: F401 - which imports scipy.optimize

    Thread(target=load, name="orchard-imports").start()


def fitted_by(rows: int, columns: int, n_classes: int, memory: int, *, inside: bool = False) -> FittedBy:
    """Return what fits so many rows: SciPy if that takes at most `memory` bytes of the driver, else Spark ML.

    Rows of components may also be held in half precision, those of `fit_inside` not.
    """
    needed = multinomial.memory(rows, columns, n_classes, INSIDE_BYTES if inside else 2)
    return FittedBy.SCIPY if needed <= memory else FittedBy.SPARK_ML


def fit(
    spark: Callable[[], SparkSession],
    rows: Rows,
    fitted: ClassSums,
    everything: ClassSums,
    variances: NDArray[np.float64],
    *,
    twice: bool,
    memory: int,
) -> Fits:
    """Fit on the rows of `Role.FIT` and `Role.HELD_OUT`.

    Args:
        spark: returns the session, for Spark ML.
        rows: the rows.
        fitted: the classes of the rows of `Role.FIT`.
        everything: the classes of the rows of `Role.FIT` and `Role.HELD_OUT`.
        variances: (k,) variance of each component, falling.
        twice: whether to fit on the rows of `Role.FIT` alone, too.
        memory: bytes that it may take in the driver, see `fitted_by`.

    Returns:
        The fit without the held-out rows, or None unless `twice`; the fit on all rows, or None if memory is too small;
        and a sentence in that case.
    """
    n, names = int(everything.counts.sum()), everything.names
    if fitted_by(n, len(variances), len(names), memory) is FittedBy.SCIPY:
        fits = multinomial.memory(n, len(variances), len(names), 4) <= memory
        # Half precision ends at 65,504; among n scaled rows no component is above sqrt(n) of its deviations.
        number = np.float32 if fits else np.float16
        return *_fit_in_driver(rows, fitted, everything, variances, number, twice=twice), None
    session, trial = spark(), None
    with tasks.at_work(session.sparkContext):
        if twice:
            trial, lack = fit_on_spark(rows.frame(session, Role.FIT), fitted.names, variances)
            if trial is None:
                return None, None, lack
        final, lack = fit_on_spark(rows.frame(session, Role.FIT, Role.HELD_OUT), everything.names, variances)
    return trial, final, lack


def fit_rows(rows: NDArray[np.float32], labels: Sequence[str | None], variances: NDArray[np.float64]) -> Regression:
    """Fit on components (n, k) of labels (n,) that the driver holds anyway; `variances` as of `fit`."""
    names, classes = np.unique(np.array(labels, np.str_), return_inverse=True)
    weights = half_whitening(variances)
    ones = np.ones(len(rows), np.float32)
    found = _fitted(rows * weights.astype(np.float32), classes.astype(np.int32), ones, len(names))
    return _regression(found, tuple(names.tolist()), weights)


def fit_inside(
    space: Familiarity, rows: NDArray[np.float32], labels: Sequence[str | None], weights: NDArray[np.float32]
) -> Linear:
    """Fit in the span of the discriminant's whitened means, where views shaped the discriminant.

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
    found = _fitted(rows, classes.astype(np.int32), weights, len(names), penalty=INSIDE_PENALTY)
    directions = space.discriminants.T.astype(np.float64) * space.inverse_scale
    return Linear.on_directions(directions, space.origin, found[:, :-1], found[:, -1])


def _fit_in_driver(
    read: Rows,
    fitted: ClassSums,
    everything: ClassSums,
    variances: NDArray[np.float64],
    number: type[np.floating],
    *,
    twice: bool,
) -> tuple[Regression | None, Regression]:
    """Fit twice, on rows that are held as `number`; the second fit starts from the weights of the first."""
    weights = half_whitening(variances)
    n_fitted = int(fitted.counts.sum())
    rows = np.empty((int(everything.counts.sum()), len(variances)), number)
    classes, weighing = _read_into(rows, read, everything.names, weights, n_fitted)

    trial, start = None, None
    if twice:
        of_fitted = _places(classes[:n_fitted], everything.names, fitted.names)
        found = _fitted(rows[:n_fitted], of_fitted, weighing[:n_fitted], len(fitted.names))
        trial = _regression(found, fitted.names, weights)
        start = found if fitted.names == everything.names else None
    found = _fitted(rows, classes, weighing, len(everything.names), start)
    return trial, _regression(found, everything.names, weights)


def _fitted(
    rows: NDArray[np.floating],
    classes: NDArray[np.int32],
    weighing: NDArray[np.float32],
    n_classes: int,
    start: NDArray[np.float64] | None = None,
    *,
    penalty: float = PENALTY,
) -> NDArray[np.float64]:
    """Fit rows (n, k) with classes (n,) and weights (n,), starting from the fit `start`; see `multinomial.fit`."""
    return multinomial.fit(
        rows,
        classes,
        weighing,
        n_classes,
        penalty=penalty,
        tolerance=_TOLERANCE,
        iterations=_ITERATIONS,
        start=start,
    )


def _read_into(
    rows: NDArray[np.floating], read: Rows, labels: Sequence[str], weights: NDArray[np.float64], n_fitted: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Fill `rows` (n, k) with the half-whitened components of the training rows, ordered by path.

    Those that are held out come last, from row `n_fitted` on.

    Returns:
        Their classes (n,) and weights (n,).
    """
    classes, weighing = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
    names, scale = pa.array(labels, pa.string()), weights.astype(np.float32)
    place = {Role.FIT: 0, Role.HELD_OUT: n_fitted}
    paths: dict[Role, list[pa.Array]] = {role: [] for role in place}
    for batch, roles in read:
        found = np.asarray(pc.fill_null(pc.index_in(batch.column("label"), names), -1))
        components = matrix(batch.column("pca_features"))
        for role, start in place.items():
            at = np.flatnonzero((roles == role) & (found >= 0))
            place[role] = end = start + len(at)
            rows[start:end] = components[at] * scale
            classes[start:end] = found[at]
            weighing[start:end] = weights_of(batch)[at]
            paths[role].append(batch.column("path").take(pa.array(at)))
    for role, part in ((Role.FIT, slice(n_fitted)), (Role.HELD_OUT, slice(n_fitted, len(rows)))):
        sort_by_path(paths[role], rows[part], classes[part], weighing[part])
    return classes, weighing


def _places(classes: NDArray[np.int32], names: Sequence[str], labels: Sequence[str]) -> NDArray[np.int32]:
    """Translate classes, which number `names`, into numbers of `labels`, a subset of `names`."""
    place = {label: index for index, label in enumerate(labels)}
    return np.array([place.get(name, -1) for name in names], np.int32)[classes]


def _regression(found: NDArray[np.float64], labels: Sequence[str], weights: NDArray[np.float64]) -> Regression:
    return Regression(tuple(labels), found[:, :-1] * weights, found[:, -1])


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
