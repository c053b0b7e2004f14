"""Spark ML's classifiers on reduced features: train, predict, save."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchard.errors import TrainingError
from orchard.layout import LOGISTIC_REGRESSION, RANDOM_FOREST
from orchard.output import Output

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


Files = dict[str, bytes]


class Classifier(StrEnum):
    """What can be trained."""

    LOGISTIC_REGRESSION = "logistic_regression"
    RANDOM_FOREST = "random_forest"


FOREST_COMPONENTS = 64
"""The forest sees only the first components: see `train`."""

TREES, LEAST_TREES, DEPTH = 50, 10, 12
"""Of the forest, where memory allows; fewer than the least are not worth their time."""

# Spark ML keeps in every inner node the class counts of itself and both sides, 8 bytes each, while trees grow.
_NODE_BYTES_PER_CLASS = 12
_FOREST_SHARE = 0.5  # of the heap; the other half takes the counts that tasks gather, and the rows


def vectors(rows: DataFrame) -> DataFrame:
    """Return ``path, label, split, components``: rows of ``reduced`` that have a label, as Spark ML's vectors."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col

    components = array_to_vector(col("pca_features").cast("array<double>")).alias("components")
    return rows.where("label is not null").select("path", "label", "split", components)


def train(
    classifier: Classifier, rows: DataFrame, labels: Sequence[str], *, variances: NDArray[np.float64], seed: int
) -> Any:
    """Fit a classifier on the rows of `vectors` whose split is ``train``.

    Measured on 9,280 training and 2,878 test images of 58 fruits. Logistic regression on 574 components of
    EfficientNet-Lite0, by scikit-learn: accuracy 0.980 on half-whitened components for penalties of 1e-5 to 1e-3,
    in 38 to 74 iterations; plain ones are no better (0.977 to 0.981) and not done after 100; nearer to white 0.976
    to 0.980. Forest on 495 components of MobileNetV2, by scikit-learn, 100 trees of depth 12: 0.902 on the first 64,
    0.922 on all in nine times the time; Spark's, on all, ran out of a driver memory of 1 GB.

    Args:
        classifier: which.
        rows: all splits; only ``train`` is looked at.
        labels: those that occur in training, sorted; class i of the model is ``labels[i]``.
        variances: (k,) float64, of the components, falling.
        seed: of the forest's bootstraps.

    Returns:
        A fitted model of Spark ML with the columns ``prediction`` and ``probability``.

    Raises:
        TrainingError: the forest is left out, for the memory holds too few trees of so many classes.
    """
    from pyspark.ml import PipelineModel
    from pyspark.ml.classification import LogisticRegression, RandomForestClassifier
    from pyspark.ml.feature import ElementwiseProduct, StringIndexerModel, VectorSlicer
    from pyspark.ml.linalg import Vectors

    indexer = StringIndexerModel.from_labels(list(labels), inputCol="label", outputCol="class")
    training = indexer.transform(rows.where("split = 'train'"))
    if classifier is Classifier.LOGISTIC_REGRESSION:
        weights = Vectors.dense(half_whitening(variances))
        weighting = ElementwiseProduct(scalingVec=weights, inputCol="components", outputCol="weighted")
        linear = LogisticRegression(
            featuresCol="weighted",
            labelCol="class",
            family="multinomial",  # also for two labels, so that the coefficients always have a row a label
            standardization=False,
            regParam=1e-4,
            maxIter=100,
        ).fit(weighting.transform(training))
        return PipelineModel([weighting, linear])
    slicer = VectorSlicer(
        inputCol="components", outputCol="first", indices=list(range(min(len(variances), FOREST_COMPONENTS)))
    )
    sliced = slicer.transform(training).coalesce(training.sparkSession.sparkContext.defaultParallelism).cache()
    try:
        trees = affordable_trees(len(labels), sliced.count(), _heap(training.sparkSession))
        forest = RandomForestClassifier(
            featuresCol="first",
            labelCol="class",
            numTrees=trees,
            maxDepth=DEPTH,
            maxBins=16,
            maxMemoryInMB=64,  # of node statistics for each task; Spark's 256 fills a driver of 1 GB
            seed=seed,
        ).fit(sliced)
    finally:
        sliced.unpersist()
    return PipelineModel([slicer, forest])


def affordable_trees(n_classes: int, rows: int, heap: int) -> int:
    """Return how many trees a heap of so many bytes can hold, at most `TREES`.

    Raises:
        TrainingError: it cannot hold `LEAST_TREES`.
    """
    # A bootstrap holds 63 % of the rows, and each of them can become a leaf.
    nodes = min(2 ** (DEPTH + 1), 1.27 * rows)
    tree = nodes * n_classes * _NODE_BYTES_PER_CLASS
    trees = int(heap * _FOREST_SHARE / tree)
    if trees < LEAST_TREES:
        needed = math.ceil(LEAST_TREES * tree / _FOREST_SHARE / 2**30 * 1.1)
        raise TrainingError(
            f"The random forest was left out, for its trees of {n_classes:,} classes do not fit into Spark's memory of "
            f"{heap / 2**30:.1f} GB: give it more (--driver-memory {needed}g), or do without "
            "(--classifiers logistic_regression)."
        )
    return min(TREES, trees)


def shortfall(model: Any) -> str | None:
    """Return a sentence if `train` made a smaller forest than usual, for lack of memory."""
    trees = getattr(model.stages[-1], "getNumTrees", TREES)
    if trees >= TREES:
        return None
    return (
        f"The random forest has {trees} trees instead of {TREES}, for so many classes need more of Spark's memory: "
        "give it more (--driver-memory)."
    )


def _heap(spark: SparkSession) -> int:
    """Return the bytes of the smallest heap that holds the forest: the driver's, or that of an executor."""
    context = spark.sparkContext
    jvm = context._jvm
    assert jvm is not None
    driver = int(jvm.java.lang.Runtime.getRuntime().maxMemory())
    if context.master.startswith("local"):
        return driver
    executor = context.getConf().get("spark.executor.memory", "1g")
    return min(driver, int(jvm.org.apache.spark.network.util.JavaUtils.byteStringAsBytes(executor)))


def half_whitening(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor of each component, shape (k,), that takes its standard deviation to its square root.

    Between plain components, of which the first drown the others, and whitened ones, where noise counts as much.
    """
    positive = variances > 0
    return np.where(positive, np.where(positive, variances, 1.0) ** -0.25, 1.0)


def predict(model: Any, rows: DataFrame) -> DataFrame:
    """Return ``path, label, split, class, probability`` for rows of `vectors`: a class index, and of each class."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql.functions import col

    return model.transform(rows).select(
        "path",
        "label",
        "split",
        col("prediction").cast("int").alias("class"),
        vector_to_array("probability", "float32").alias("probability"),
    )


def to_files(spark: SparkSession, output: Output, classifier: Classifier, model: Any, labels: Sequence[str]) -> Files:
    """Return the files of a fitted model: arrays that need no Spark of logistic regression, Spark ML's of the forest.

    ``logistic_regression.npz`` holds ``coefficients`` (n_classes, k), ``intercept`` (n_classes,) and ``labels``
    (n_classes,): the scores are reduced @ coefficients.T + intercept, the probabilities their softmax.

    Returns:
        The content of each, by its name in the model's folder.
    """
    if classifier is Classifier.LOGISTIC_REGRESSION:
        weighting, linear = model.stages
        arrays = io.BytesIO()
        np.savez(
            arrays,
            coefficients=linear.coefficientMatrix.toArray() * weighting.getScalingVec().toArray(),
            intercept=linear.interceptVector.toArray(),
            labels=np.array(labels, dtype=np.str_),
        )
        return {LOGISTIC_REGRESSION: arrays.getvalue()}
    if spark.sparkContext.master.startswith("local"):
        with tempfile.TemporaryDirectory(prefix="orchard-model-") as folder:
            model.write().overwrite().save(Path(folder).as_uri())
            found = [file for file in sorted(Path(folder).rglob("*")) if file.is_file() and file.suffix != ".crc"]
            return {RANDOM_FOREST + file.relative_to(folder).as_posix(): file.read_bytes() for file in found}
    # Executors write their parts themselves, so it must be a place that all of them see.
    folder = f"{output.staging}{RANDOM_FOREST}"
    url = output.url if "://" in output.url else f"file://{output.url}"
    model.write().overwrite().save(f"{url}/{folder}")
    keys = [entry.key for entry in output.storage.list(folder)]
    files = {RANDOM_FOREST + key.removeprefix(folder): output.storage.read(key) for key in keys if key[-4:] != ".crc"}
    output.storage.delete(keys)
    return files
