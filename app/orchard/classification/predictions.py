"""The rows of ``predictions/``: the prediction of each classifier for every labelled image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.classification.forest import Forest
from orchard.datasets import balance, batches, matrix
from orchard.files import DataFile, parquet_bytes, part, stage_file
from orchard.images.columns import as_text, values_of
from orchard.inference.calibration import Calibration, softmax
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.kinds import Kinds
from orchard.inference.linear import Linear
from orchard.layout import CARRIED, LABEL_COLUMNS, NAMES, PREDICTIONS, Dataset
from orchard.output import Output
from orchard.reduction.stage import PART_ROWS
from orchard.storage import Storage
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.workers import Shared, Workers

Pairs = list[tuple[str, str, int]]
"""(true, predicted, number of test images), of labels, kinds, or values of a further column."""


@dataclass(frozen=True)
class LinearModel:
    """The linear classifier and its calibration, as workers need them for predictions."""

    classifier: str
    labels: Sequence[str]
    linear: Linear
    calibration: Calibration
    familiarity: Familiarity
    kinds: Kinds | None = None
    columns: Sequence[Column] = ()


@dataclass(frozen=True)
class Measured:
    """Confidence and familiarity of the answers to the test images, and which are right; arrays of shape (n,).

    Attributes:
        before: confidence before calibration, 0..1.
        after: confidence after calibration, 0..1.
        familiarity: similarity to the training images, 0..1.
        right: whether the likeliest label is the true one.
    """

    before: NDArray[np.float32]
    after: NDArray[np.float32]
    familiarity: NDArray[np.float32]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: NDArray[np.float32]) -> Measured:
        """Return it from rows (n, 4), whose columns are its attributes in order."""
        return cls(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] > 0)


@dataclass(frozen=True)
class Written:
    """Staged predictions: the files, and the `Pairs` of test images for labels, kinds and further columns."""

    files: list[DataFile]
    labels: Pairs
    kinds: Pairs
    columns: dict[str, Pairs] = field(default_factory=dict)


def write_linear(workers: Workers, output: Output, model: LinearModel) -> tuple[Written, Measured]:
    """Stage the predictions of a linear classifier for all labelled features.

    Returns:
        The staged predictions, and the `Measured` answers to the test images.
    """
    files = output.files(Dataset.FEATURES)
    shared = workers.share(model)
    groups = balance(files, 2 * workers.slots, max_rows=PART_ROWS)
    write = partial(_write_linear_part, output.storage, output.staging, shared)
    found = [done for done in workers.run(write, groups) if done is not None]
    shared.unpersist()
    rows = np.concatenate([np.empty((0, 4), np.float32), *(measured for _, measured in found)])
    return _together([written for written, _ in found]), Measured.of(rows)


def write_forest(workers: Workers, output: Output, classifier: str, forest: Forest, kinds: Kinds | None) -> Written:
    """Stage the predictions of a forest for all labelled rows of ``reduced/``."""
    shared = workers.share(forest)
    groups = balance(output.files(Dataset.REDUCED), 2 * workers.slots, max_rows=PART_ROWS)
    write = partial(_write_forest_part, output.storage, output.staging, shared, classifier, kinds=kinds)
    found = [done for done in workers.run(write, groups) if done is not None]
    shared.unpersist()
    return _together(found)


def _together(parts: Sequence[Written]) -> Written:
    files, labels, kinds = (
        [one for part in parts for one in getattr(part, name)] for name in ("files", "labels", "kinds")
    )
    columns: dict[str, Pairs] = {}
    for one in parts:
        for name, pairs in one.columns.items():
            columns.setdefault(name, []).extend(pairs)
    return Written(files, labels, kinds, columns)


def _write_linear_part(
    storage: Storage, staging: str, shared: Shared[LinearModel], files: Sequence[DataFile]
) -> tuple[Written, NDArray[np.float32]] | None:
    model = shared.value
    names = pa.array(model.labels, pa.string())
    index = {label: number for number, label in enumerate(model.labels)}
    rows: list[pa.RecordBatch] = []
    measured = [np.empty((0, 4), np.float32)]
    of_columns: dict[str, Pairs] = {column.name: [] for column in model.columns}
    for file in files:
        for read in batches(storage, file, ["path", *CARRIED, "split", "features"]):
            batch = read.filter(read.column("label").is_valid())
            if not batch.num_rows:
                continue
            features = matrix(batch.column("features"))
            scores = model.linear(features)
            chosen = scores.argmax(axis=1)
            probabilities = softmax(scores / model.calibration.temperature)
            after = probabilities.max(axis=1)
            near = model.familiarity(features)
            answers = model.calibration.answers(after, near)
            said = {
                "predicted": names.take(pa.array(chosen)),
                "confidence": pa.array(after),
                "familiarity": pa.array(near),
                "answer": pa.array(answers, pa.string()),
            }
            if model.kinds is not None:
                shares = model.kinds.probabilities(probabilities)
                said["kind_confidence"] = pa.array(shares.max(axis=1))
                said["predicted_kind"] = pa.array(model.kinds.names, pa.string()).take(pa.array(shares.argmax(axis=1)))
            is_test = pc.equal(batch.column("split"), Split.TEST).fill_null(False).to_numpy(zero_copy_only=False)
            if model.columns:
                said |= _of_columns(batch, features, model.columns, is_test, of_columns)
            rows.append(_rows(batch, model.classifier, said))
            if is_test.any():
                before = softmax(scores[is_test]).max(axis=1)
                true = np.array([index.get(label, -1) for label in batch.column("label").to_pylist()])[is_test]
                right = chosen[is_test] == true
                measured.append(np.stack([before, after[is_test], near[is_test], right], axis=1).astype(np.float32))
    if not rows:
        return None
    table = pa.Table.from_batches(rows)
    return replace(_stage(storage, staging, table), columns=of_columns), np.concatenate(measured)


def _of_columns(
    batch: pa.RecordBatch,
    features: NDArray[np.float32],
    columns: Sequence[Column],
    is_test: NDArray[np.bool_],
    pairs: dict[str, Pairs],
) -> dict[str, pa.Array]:
    """Return the predictions of further columns as columns of `PREDICTIONS`; add the pairs of test rows to `pairs`."""
    texts = batch.column(LABEL_COLUMNS)
    predicted: dict[str, list[str]] = {}
    confidences = []
    for column in columns:
        shares = column.probabilities(features)
        likeliest = pa.array(column.values, pa.string()).take(pa.array(shares.argmax(axis=1)))
        predicted[column.name] = likeliest.to_pylist()
        confidences.append([round(share, 4) for share in shares.max(axis=1).astype(float).tolist()])
        test = pa.table({"true": values_of(texts, column.name), "predicted": likeliest}).filter(pa.array(is_test))
        pairs[column.name] += _pairs(test, "true", "predicted")
    names = [column.name for column in columns]
    said = [json.dumps(dict(zip(names, row, strict=True))) for row in zip(*confidences, strict=True)]
    return {
        LABEL_COLUMNS: texts,
        "predicted_columns": as_text(predicted, len(texts)),
        "column_confidences": pa.array(said, pa.string()),
    }


def _write_forest_part(
    storage: Storage,
    staging: str,
    shared: Shared[Forest],
    classifier: str,
    files: Sequence[DataFile],
    *,
    kinds: Kinds | None,
) -> Written | None:
    forest = shared.value
    names = pa.array(forest.labels, pa.string())
    of_label = (
        None if kinds is None else pa.array([kinds.of_label(place) for place in range(len(forest.labels))], pa.string())
    )
    rows: list[pa.RecordBatch] = []
    for file in files:
        for read in batches(storage, file, ["path", *NAMES, "split", "pca_features"]):
            batch = read.filter(read.column("label").is_valid())
            if not batch.num_rows:
                continue
            # A probability of each class is dropped batch by batch: of 4,096 rows and 3,000 classes they take 49 MB.
            shares = forest(matrix(batch.column("pca_features")))
            chosen = pa.array(shares.argmax(axis=1))
            said = {"predicted": names.take(chosen), "confidence": pa.array(shares.max(axis=1))}
            if of_label is not None:
                said["predicted_kind"] = of_label.take(chosen)
            rows.append(_rows(batch, classifier, said))
    return _stage(storage, staging, pa.Table.from_batches(rows)) if rows else None


def _rows(batch: pa.RecordBatch, classifier: str, said: dict[str, pa.Array]) -> pa.RecordBatch:
    """Return rows of `PREDICTIONS`."""
    columns: dict[str, Any] = {name: batch.column(name) for name in ("path", *NAMES, "split")}
    columns |= {"classifier": pa.repeat(pa.scalar(classifier), batch.num_rows), **said}
    nothing = pa.nulls(batch.num_rows)
    return pa.record_batch(
        [columns.get(column.name, nothing).cast(column.type) for column in PREDICTIONS], schema=PREDICTIONS
    )


def _stage(storage: Storage, staging: str, table: pa.Table) -> Written:
    names = [column.name for column in PREDICTIONS if column.type == pa.string() and column.name != "path"]
    file = stage_file(
        storage, staging, part(Dataset.PREDICTIONS), parquet_bytes(table, dictionary=names), table.num_rows
    )
    test = table.filter(pc.equal(table.column("split"), Split.TEST))
    return Written([file], _pairs(test, "label", "predicted"), _pairs(test, "kind", "predicted_kind"))


def _pairs(test: pa.Table, true: str, predicted: str) -> Pairs:
    pairs = test.select([true, predicted]).drop_null()
    confusion = pairs.group_by([true, predicted]).aggregate([([], "count_all")]).to_pylist()
    return [(pair[true], pair[predicted], pair["count_all"]) for pair in confusion]
