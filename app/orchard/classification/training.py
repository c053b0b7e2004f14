"""Spark ML's classifiers on reduced features: train, predict, save."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchard import npz
from orchard.errors import UsageError
from orchard.layout import NAMES, RANDOM_FOREST
from orchard.output import Output

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


Files = dict[str, bytes]


class Classifier(StrEnum):
    """What can be trained."""

    LINEAR_DISCRIMINANT = "linear_discriminant"
    LOGISTIC_REGRESSION = "logistic_regression"
    RANDOM_FOREST = "random_forest"

    @property
    def is_linear(self) -> bool:
        """Whether it is one linear layer, which may answer; the forest is a baseline."""
        return self is not Classifier.RANDOM_FOREST


def chosen(names: Sequence[str], answer_with: str | None) -> list[Classifier]:
    """Return the classifiers of these names, among which is the one that is to answer.

    Raises:
        UsageError: there is no such classifier, or the one that is to answer is not a linear one of them.
    """
    unknown = [name for name in names if name not in list(Classifier)]
    if unknown:
        raise UsageError(f"There is no classifier {unknown[0]!r}: choose among {', '.join(Classifier)}.")
    found = [Classifier(name) for name in names]
    linear = [classifier for classifier in found if classifier.is_linear]
    if answer_with is not None and answer_with not in linear:
        raise UsageError(
            f"--answer-with {answer_with}: choose among the linear classifiers to train ({', '.join(linear)})."
        )
    return found


def classifier_title(name: str) -> str:
    """``logistic_regression`` as "Logistic regression"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


FOREST_COMPONENTS = 64
"""The forest sees only the first components: see `train`."""

TREES, LEAST_TREES, DEPTH = 50, 10, 12
"""Of the forest, where memory allows; fewer than the least are not worth their time."""

# A node has the count of each class, 8 bytes; Spark ML holds it six times over while it hands the forest to its tasks.
# With 900 MB 50 trees of 1,003 nodes of 450 classes grew, but could not be handed out.
_NODE_BYTES_PER_CLASS = 48
# As large as the coefficients: L-BFGS keeps twenty, and tasks, broadcast and line search have theirs. In a heap of 450
# MB 1,500 classes of 560 components fit, which is 45 of them, and 2,000 did not.
_LINEAR_VECTORS = 45
_SPARK_ITSELF = 150 * 2**20


def vectors(rows: DataFrame) -> DataFrame:
    """Return ``path, label, kind, split, components``: rows of ``reduced`` that have a label, as Spark ML's vectors."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col

    components = array_to_vector(col("pca_features").cast("array<double>")).alias("components")
    return rows.where("label is not null").select("path", *NAMES, "split", components)


def train(
    classifier: Classifier, rows: DataFrame, labels: Sequence[str], *, variances: NDArray[np.float64], seed: int
) -> tuple[Any | None, str | None]:
    """Fit one of Spark ML's classifiers on the rows of `vectors` whose split is ``train``.

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
        A fitted model of Spark ML with the columns ``prediction`` and ``probability``, and None; if memory is short, a
        smaller forest or None, and a sentence that says so.
    """
    from pyspark.ml import PipelineModel
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import ElementwiseProduct, StringIndexerModel, VectorSlicer
    from pyspark.ml.linalg import Vectors

    indexer = StringIndexerModel.from_labels(list(labels), inputCol="label", outputCol="class")
    training = indexer.transform(rows.where("split = 'train'"))
    if classifier is Classifier.LOGISTIC_REGRESSION:
        heap = _heap(rows.sparkSession)
        needed = _SPARK_ITSELF + _LINEAR_VECTORS * 8 * len(labels) * len(variances)
        if needed > heap:
            return None, (
                f"Logistic regression was left out: {len(labels):,} classes of {len(variances):,} components do not "
                f"fit into {_short(heap, needed)}, or take fewer --components."
            )
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
        return PipelineModel([weighting, linear]), None
    slicer = VectorSlicer(
        inputCol="components", outputCol="first", indices=list(range(min(len(variances), FOREST_COMPONENTS)))
    )
    sliced = slicer.transform(training).coalesce(training.sparkSession.sparkContext.defaultParallelism).cache()
    try:
        forest, lack = _grow(sliced, len(labels), seed)
    finally:
        sliced.unpersist()
    return PipelineModel([slicer, forest]) if forest else None, lack


def _grow(rows: DataFrame, n_classes: int, seed: int) -> tuple[Any | None, str | None]:
    """Fit a forest on the column ``first`` of as many trees as memory holds; if those are too few, None and why."""
    from pyspark.ml.classification import RandomForestClassifier

    def fit(trees: int) -> Any:
        return RandomForestClassifier(
            featuresCol="first",
            labelCol="class",
            numTrees=trees,
            maxDepth=DEPTH,
            maxBins=16,
            maxMemoryInMB=64,  # of node statistics for each task; Spark's 256 fills a driver of 1 GB
            seed=seed,
        ).fit(rows)

    heap = _heap(rows.sparkSession)
    # A bootstrap holds 63 % of the rows, and each can become a leaf; no tree has half the nodes that its depth allows.
    nodes = min(2**DEPTH, 1.27 * rows.count())
    trees = affordable_trees(heap, nodes, n_classes)
    if 0 < trees < TREES:  # most are much smaller: one tells
        nodes = 1.1 * fit(1).totalNumNodes
        trees = affordable_trees(heap, nodes, n_classes)
    if trees >= TREES:
        return fit(TREES), None
    memory = _short(heap, _SPARK_ITSELF + TREES * nodes * n_classes * _NODE_BYTES_PER_CLASS)
    if trees < LEAST_TREES:
        return None, (
            f"The random forest was left out: its trees of {n_classes:,} classes do not fit into {memory}, "
            "or do without it (--classifiers linear_discriminant,logistic_regression)."
        )
    return fit(trees), f"The random forest has {trees} trees instead of {TREES}: no more fit into {memory}."


def affordable_trees(heap: int, nodes: float, n_classes: int) -> int:
    """Return how many trees of so many nodes a heap of so many bytes can hold."""
    return max(0, int((heap - _SPARK_ITSELF) / (nodes * n_classes * _NODE_BYTES_PER_CLASS)))


def _short(heap: int, needed: float) -> str:
    return f"{heap / 2**30:.1f} GB of Spark's memory; give it more (--driver-memory {math.ceil(needed / 2**30 + 0.1)}g)"


def _heap(spark: SparkSession) -> int:
    """Return the bytes that the driver's heap, where trees grow, may have."""
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    return int(jvm.java.lang.Runtime.getRuntime().maxMemory())


def half_whitening(variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factor of each component, shape (k,), that takes its standard deviation to its square root.

    Between plain components, of which the first drown the others, and whitened ones, where noise counts as much.
    """
    positive = variances > 0
    return np.where(positive, np.where(positive, variances, 1.0) ** -0.25, 1.0)


def predict(model: Any, rows: DataFrame) -> DataFrame:
    """Return ``path, label, kind, split, class, probability`` for rows of `vectors`: an index, and all."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql.functions import col

    return model.transform(rows).select(
        "path",
        *NAMES,
        "split",
        col("prediction").cast("int").alias("class"),
        vector_to_array("probability", "float32").alias("probability"),
    )


def coefficients(model: Any, labels: Sequence[str]) -> bytes:
    """Return a fitted logistic regression as arrays that need no Spark.

    ``logistic_regression.npz`` holds ``coefficients`` (n_classes, k), ``intercept`` (n_classes,) and ``labels``
    (n_classes,): the scores are reduced @ coefficients.T + intercept, the probabilities their softmax.
    """
    weighting, linear = model.stages
    return npz.dump(
        {
            "coefficients": linear.coefficientMatrix.toArray() * weighting.getScalingVec().toArray(),
            "intercept": linear.interceptVector.toArray(),
            "labels": np.array(labels, dtype=np.str_),
        }
    )


def forest_files(spark: SparkSession, output: Output, model: Any) -> Files:
    """Return the files of a fitted forest, Spark ML's own, by their name in the model's folder."""
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
