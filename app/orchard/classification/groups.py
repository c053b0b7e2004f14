"""Where groups straddle the split: everything is fitted again with whole groups on one side of it."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import tasks
from orchard.classification.discriminant import fit
from orchard.classification.metrics import evaluate, majority_baseline
from orchard.classification.training import Classifier, predict, train, vectors
from orchard.datasets import balance, batches, frame, matrix, with_marks
from orchard.errors import TrainingError
from orchard.files import DataFile
from orchard.images.groups import draw_groups, group_names
from orchard.inference.linear import Linear
from orchard.layout import FEATURES, INVENTORY, REDUCED, ClassifierMetrics, Dataset, GroupSplit, Split
from orchard.output import Output
from orchard.reduction.pca import Projection, Reduction
from orchard.reduction.stage import project_batches, training_sums, view_sums
from orchard.reduction.statistics import Role
from orchard.storage import Storage

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import DataFrame, SparkSession


def evaluate_groups(
    spark: SparkSession,
    output: Output,
    classifiers: Sequence[Classifier],
    *,
    components: int,
    seed: int,
    test_fraction: float,
    progress: Callable[[int], None] | None = None,
) -> GroupSplit:
    """Split by the groups of the inventory, fit scaler, PCA and classifiers on one side, measure on the other.

    All labelled images take part, whatever their split; nothing is written.

    Args:
        spark: where the work runs.
        output: with features and groups.
        classifiers: which to train.
        components: k, as in the main reduction; fewer if the training rows have fewer.
        seed: of the split and of the forest.
        test_fraction: of each label's images, about, 0 to 1.
        progress: called with 1 after every classifier.

    Raises:
        TrainingError: the groups leave fewer than two labels to train on, or nothing to test.
    """
    files = output.files(Dataset.FEATURES)
    images = output.read(Dataset.FEATURES, ["path", "label"], FEATURES)
    labels = np.array(images.column("label").to_pylist(), dtype=object)
    labelled = np.array([label is not None for label in labels], bool)
    inventory = output.read(Dataset.INVENTORY, ["path", "group"], INVENTORY)
    at = pc.index_in(images["path"], inventory["path"].combine_chunks())
    groups = np.array(group_names(inventory.take(at)), dtype=object)
    in_test = np.zeros(len(labels), bool)
    in_test[labelled] = draw_groups(
        groups[labelled].tolist(), labels[labelled].tolist(), test_fraction=test_fraction, seed=seed
    )
    in_train = ~in_test & labelled
    train_counts, test_counts = _count(labels[in_train]), _count(labels[in_test])
    if len(train_counts) < 2 or not test_counts:
        raise TrainingError(
            "A split by groups leaves too little to train or to test on: name smaller ones, or add some for each label."
        )

    starts = np.cumsum([0, *(file.rows for file in files)])
    masks = {file.name: in_train[start : start + file.rows] for file, start in zip(files, starts, strict=False)}
    roles = {name: np.where(mask, Role.FIT, Role.NONE).astype(np.int8) for name, mask in masks.items()}
    sums, _ = training_sums(spark, output.storage, files, roles)
    reduction = Reduction.fit(sums.moments, components=components)
    views, _ = view_sums(spark, output, roles)
    seen = sums if views is None else sums.merge(views)
    projection = spark.sparkContext.broadcast(Projection(*reduction.affine()))
    rows_of = partial(_regrouped, output.storage, projection, masks)
    rows = vectors(frame(spark, files, REDUCED, rows_of)).cache()
    known = sorted(train_counts)
    measured: dict[str, ClassifierMetrics] = {}
    try:
        for classifier in classifiers:
            start = time.perf_counter()
            if classifier is Classifier.LINEAR_DISCRIMINANT:
                fitted = fit(seen.labelled, seen.columns["label"], reduction)
                true, predicted, counts = _pairs(spark, output, masks, fitted.linear, sums.columns["label"].names)
            else:
                model, _ = train(classifier, rows, known, variances=reduction.explained_variance_, seed=seed)
                if model is None:
                    continue
                true, predicted, counts = _confusion(predict(model, rows.where("split = 'test'")), known)
            seconds = time.perf_counter() - start
            measured[classifier] = evaluate(
                true, predicted, counts=counts, train_rows=int(in_train.sum()), seconds=seconds
            )
            if progress:
                progress(1)
    finally:
        rows.unpersist()
        projection.unpersist()
    return {
        "groups": len(set(groups[labelled].tolist())),
        "train_rows": int(in_train.sum()),
        "test_rows": int(in_test.sum()),
        "k": reduction.n_components_,
        "baseline": majority_baseline(train_counts, test_counts),
        "classifiers": measured,
    }


def _regrouped(
    storage: Storage, projection: Broadcast[Projection], masks: Mapping[str, NDArray[np.bool_]], file: DataFile
) -> Iterator[pa.RecordBatch]:
    """Yield reduced rows of a features file with the split that the groups gave them."""
    for batch, in_train in with_marks(project_batches(storage, projection.value, file), masks[file.name]):
        split = pa.array(np.where(in_train, str(Split.TRAIN), str(Split.TEST)), pa.string())
        columns = [split if field.name == "split" else batch.column(field.name) for field in REDUCED]
        yield pa.record_batch(columns, schema=REDUCED)


def _pairs(
    spark: SparkSession,
    output: Output,
    masks: Mapping[str, NDArray[np.bool_]],
    linear: Linear,
    labels: Sequence[str],
) -> tuple[list[str], list[str], list[int]]:
    """Count the pairs of label and prediction of a classifier on features."""
    context = spark.sparkContext
    shared = context.broadcast(pickle.dumps(linear))
    count = partial(_count_pairs, output.storage, shared, labels, masks)
    files = output.files(Dataset.FEATURES)
    found: Counter[tuple[str, str]] = sum(
        tasks.run(context, count, balance(files, 2 * context.defaultParallelism)), Counter()
    )
    shared.unpersist()
    return [true for true, _ in found], [predicted for _, predicted in found], list(found.values())


def _count_pairs(
    storage: Storage,
    shared: Broadcast[bytes],
    labels: Sequence[str],
    masks: Mapping[str, NDArray[np.bool_]],
    files: Sequence[DataFile],
) -> Counter[tuple[str, str]]:
    linear: Linear = pickle.loads(shared.value)  # noqa: S301 - the driver's
    found: Counter[tuple[str, str]] = Counter()
    for file in files:
        for batch, in_train in with_marks(batches(storage, file, ["label", "features"]), masks[file.name]):
            test = batch.filter(pa.array(~in_train)).drop_null()
            if test.num_rows:
                chosen = linear(matrix(test.column("features"))).argmax(axis=1)
                found.update(zip(test.column("label").to_pylist(), (labels[i] for i in chosen), strict=True))
    return found


def _confusion(predictions: DataFrame, labels: Sequence[str]) -> tuple[list[str], list[str], list[int]]:
    """Count the pairs of label and prediction in Spark."""
    pairs = tasks.collect(predictions.groupBy("label", "class").count())
    return [p["label"] for p in pairs], [labels[p["class"]] for p in pairs], [p["count"] for p in pairs]


def _count(labels: NDArray[np.object_]) -> dict[str, int]:
    names, counts = np.unique(labels, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
