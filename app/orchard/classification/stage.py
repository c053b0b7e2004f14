"""The Spark stage from ``reduced/`` to ``predictions/``, metrics and the model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict, cast

import pyarrow as pa
import pyarrow.compute as pc

from orchard import tasks
from orchard.classification.groups import evaluate_groups
from orchard.classification.held_out import calibrate
from orchard.classification.leak import find_leak
from orchard.classification.metrics import evaluate, majority_baseline
from orchard.classification.training import Classifier, predict, to_files, train, vectors
from orchard.datasets import matrix, read
from orchard.errors import InputError, TrainingError
from orchard.files import DataFile, parquet_bytes, part, stage_file
from orchard.inference.calibration import Calibration
from orchard.layout import (
    CALIBRATION,
    INVENTORY,
    LABELS,
    PREDICTIONS,
    Baseline,
    CalibrationMetrics,
    ClassifierMetrics,
    Dataset,
    GroupSplit,
    Leak,
    Split,
)
from orchard.output import NO_MODEL, Output
from orchard.reduction.stage import load
from orchard.session import Session
from orchard.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VERSION = 1
"""Raise it when the same components begin to give other classifiers: what was made before is then made again."""

_NAMED = 10  # labels that a warning names before it only counts


class Classification(TypedDict, total=False):
    """What the stage remembers: see `orchard.layout.Metrics` for what it shares with it."""

    key: str  # of settings and input; only if all that was asked for is done
    begun: str  # the same, from the first classifier on
    lacked: str  # the driver's memory, if it was too little for a classifier or for all of its trees
    classifiers: dict[str, ClassifierMetrics]
    calibration: CalibrationMetrics | None
    baseline: Baseline
    leak: Leak
    group_split: GroupSplit | None
    warnings: list[str]


def run(session: Session, output: Output, classifiers: Sequence[Classifier], *, key: str, **options: Any) -> None:
    """Do the stage as `classify` does; data that cannot train a classifier becomes a warning, and there is no model."""
    try:
        classify(session.spark, output, classifiers, key=key, **options)
    except TrainingError as error:
        found = {"key": key, "warnings": [str(error)]}
        output.commit({}, replace=[Dataset.PREDICTIONS], properties={"classification": found}, model=NO_MODEL)


@tasks.on_spark
def classify(
    spark: SparkSession,
    output: Output,
    classifiers: Sequence[Classifier],
    *,
    key: str = "",
    seed: int,
    split_by_group: bool,
    test_fraction: float,
    driver_memory: str = "",
    progress: Callable[[int], None] | None = None,
) -> Classification:
    """Train on ``train``, predict every labelled row, measure on ``test``, and commit.

    Each classifier is committed when it is done, with its predictions and a model of all that are done: what hinders a
    later one costs no earlier one, and the next start goes on with it. Images without a label are left out, and so is a
    classifier that the memory cannot hold, with a warning.

    Args:
        spark: where the work runs.
        output: with reduced features, held for writing.
        classifiers: which to train.
        key: what settings and input come to; results of another one are replaced.
        seed: of the forest and of the split by groups.
        split_by_group: also measure with consecutive frames on one side of the split.
        test_fraction: of the split by groups.
        driver_memory: to be remembered if it is too little.
        progress: called with 1 after every classifier, those of the split by groups too.

    Returns:
        What was committed as the property ``classification``.

    Raises:
        InputError: there are no reduced features.
        TrainingError: there is nothing to train or to test on, or only one label.
    """
    if not output.rows(Dataset.REDUCED):
        raise InputError(f"{output.url} holds no reduced features: run orchard reduce first.")
    inventory = output.read(Dataset.INVENTORY, ["path", "label", "split", "digest", "featurized"], INVENTORY)
    rows = inventory.filter(inventory["featurized"])
    _check(*(_count(rows, split) for split in (Split.TRAIN, Split.TEST)))
    labels = sorted(_count(rows, Split.TRAIN))
    reduction = load(output)

    found, files = _begin(output, key, rows)
    table = vectors(read(spark, output, Dataset.REDUCED)).cache()
    try:
        for classifier in classifiers:
            if classifier in found["classifiers"]:
                continue
            start = time.perf_counter()
            model, lack = train(classifier, table, labels, variances=reduction.explained_variance_, seed=seed)
            if lack is not None and lack not in found["warnings"]:
                found |= {"lacked": driver_memory, "warnings": [*found["warnings"], lack]}
            if model is None:
                continue
            made, calibrated, staged, measured = _measure(output, classifier, model, table, labels=labels, rows=rows)
            files |= made
            found["calibration"] = calibrated or found["calibration"]
            measured["seconds"] = time.perf_counter() - start
            is_first = not found["classifiers"]
            found["classifiers"] = found["classifiers"] | {str(classifier): measured}
            if len(found["classifiers"]) == len(classifiers) and not split_by_group:
                found["key"] = key
            output.commit(
                {Dataset.PREDICTIONS: staged},
                replace={Dataset.PREDICTIONS} if is_first else (),
                properties={"classification": found},
                model=output.stage_model(files),
            )
            if progress:
                progress(1)
    finally:
        table.unpersist()

    if split_by_group and found["classifiers"]:
        try:
            found["group_split"] = evaluate_groups(
                spark,
                output,
                [classifier for classifier in classifiers if classifier in found["classifiers"]],
                components=reduction.n_components_,
                seed=seed,
                test_fraction=test_fraction,
                progress=progress,
            )
        except TrainingError as error:  # the other figures stand
            found["warnings"] = [*found["warnings"], str(error)]
    if "key" not in found:
        found["key"] = key
        nothing: dict[str, Any] = {} if found["classifiers"] else {"replace": {Dataset.PREDICTIONS}, "model": NO_MODEL}
        output.commit({}, properties={"classification": found}, **nothing)
    return found


def _begin(output: Output, key: str, rows: pa.Table) -> tuple[Classification, dict[str, bytes]]:
    """Return what is found and the model's files so far: nothing yet, or what a run that was cut off committed."""
    found = cast(Classification, output.property("classification") or {})
    if found.get("begun") == key and "key" not in found:
        return found, output.classifier_files()
    train_counts, test_counts = (_count(rows, split) for split in (Split.TRAIN, Split.TEST))
    found = {
        "begun": key,
        "classifiers": {},
        "calibration": None,
        "baseline": majority_baseline(train_counts, test_counts),
        "leak": find_leak(rows),
        "group_split": None,
        "warnings": _warnings(rows, train_counts, test_counts),
    }
    return found, {LABELS: json.dumps(sorted(train_counts), ensure_ascii=False).encode()}


def _measure(
    output: Output, classifier: Classifier, model: Any, table: DataFrame, *, labels: Sequence[str], rows: pa.Table
) -> tuple[dict[str, bytes], CalibrationMetrics | None, list[DataFile], ClassifierMetrics]:
    """Predict every row; return the model's files, its calibration, the staged predictions, how good they are."""
    files = to_files(table.sparkSession, output, classifier, model, labels)
    counts = {split: sum(_count(rows, split).values()) for split in Split}
    calibration, calibrated = Calibration(), None
    if classifier is Classifier.LOGISTIC_REGRESSION:
        calibration, calibrated = calibrate(model, table, labels, counts)
        files[CALIBRATION] = calibration.to_bytes()
    staged, pairs = _write(output, classifier, predict(model, table), labels, calibration.temperature)
    measured = evaluate(
        [true for true, _, _ in pairs],
        [predicted for _, predicted, _ in pairs],
        counts=[count for _, _, count in pairs],
        train_rows=counts[Split.TRAIN],
    )
    return files, calibrated, staged, measured


def _count(rows: pa.Table, split: Split) -> dict[str, int]:
    """Return label -> labelled rows of `split`."""
    labels = rows.filter(pc.equal(rows.column("split"), split)).column("label").drop_null()
    return {item["values"]: item["counts"] for item in pc.value_counts(labels).to_pylist()}


def _check(train_counts: dict[str, int], test_counts: dict[str, int]) -> None:
    if not train_counts:
        raise TrainingError("No classifier was trained: no image of the train split has a label.")
    if len(train_counts) == 1:
        (label,) = train_counts
        raise TrainingError(
            f"No classifier was trained: all training images are labelled {label!r}, and it takes two labels; "
            "a label is the name of an image's folder."
        )
    if not test_counts:
        raise TrainingError(
            "No classifier was trained: no labelled image is in the test split, so nothing could be measured; "
            "add a Test folder, or leave the split to Orchard."
        )


def _warnings(rows: pa.Table, train_counts: dict[str, int], test_counts: dict[str, int]) -> list[str]:
    warnings = []
    if unlabelled := rows.column("label").null_count:
        warnings.append(f"{unlabelled} image(s) have no label: they were neither trained on nor predicted.")
    seen = train_counts.keys() | test_counts.keys() | _count(rows, Split.VALIDATION).keys()
    if untrained := sorted(seen - train_counts.keys()):
        warnings.append(
            f"{_name(untrained)} cannot be predicted, for lack of training images; their test images count as errors."
        )
    if untested := sorted(train_counts.keys() - test_counts.keys()):
        warnings.append(f"{_name(untested)} were not measured, for lack of test images.")
    return warnings


def _name(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f"{len(labels)} label(s) ({', '.join(labels[:_NAMED])}{more})"


def _write(
    output: Output, classifier: Classifier, predictions: DataFrame, labels: Sequence[str], temperature: float
) -> tuple[list[DataFile], list[tuple[str, str, int]]]:
    """Stage predictions from the workers; return the files, and how often each label was taken for which in test."""
    write = partial(_write_part, output.storage, output.staging, str(classifier), list(labels), temperature=temperature)
    schema = (
        "name string, rows long, size long, digest string, "
        "confusion array<struct<label: string, predicted: string, count: long>>"
    )
    written = tasks.collect(tasks.map_batches(predictions, write, schema))
    files = [DataFile(row["name"], row["rows"], row["size"], row["digest"]) for row in written]
    return files, [(p["label"], p["predicted"], p["count"]) for row in written for p in row["confusion"]]


def _write_part(
    storage: Storage,
    staging: str,
    classifier: str,
    labels: list[str],
    predictions: Iterator[pa.RecordBatch],
    *,
    temperature: float,
) -> Iterator[pa.RecordBatch]:
    names = pa.array(labels, pa.string())
    # A probability of each class is dropped batch by batch: of 16,384 rows and 3,000 classes they take 0.2 GB.
    answers = [_answers(batch, classifier, names, temperature) for batch in predictions if batch.num_rows]
    if not answers:
        return
    result = pa.Table.from_batches(answers)
    data = parquet_bytes(result, dictionary=["label", "split", "classifier", "predicted"])
    file = stage_file(storage, staging, part(Dataset.PREDICTIONS), data, result.num_rows)

    test = result.filter(pc.equal(result.column("split"), Split.TEST))
    confusion = test.group_by(["label", "predicted"]).aggregate([([], "count_all")])
    pairs = [
        {"label": pair["label"], "predicted": pair["predicted"], "count": pair["count_all"]}
        for pair in confusion.to_pylist()
    ]
    pair_type = pa.struct([("label", pa.string()), ("predicted", pa.string()), ("count", pa.int64())])
    yield pa.record_batch(
        [
            *(pa.array([value]) for value in (file.name, file.rows, file.size, file.digest)),
            pa.array([pairs], pa.list_(pair_type)),
        ],
        names=["name", "rows", "size", "digest", "confusion"],
    )


def _answers(batch: pa.RecordBatch, classifier: str, labels: pa.Array, temperature: float) -> pa.RecordBatch:
    """Return rows of `PREDICTIONS` for rows with a probability of each class."""
    # The softmax of scores / temperature, from that of the scores.
    shares = matrix(batch.column("probability")) ** (1 / temperature)
    columns: dict[str, Any] = {
        "path": batch.column("path"),
        "label": batch.column("label"),
        "split": batch.column("split"),
        "classifier": pa.repeat(pa.scalar(classifier), batch.num_rows),
        "predicted": labels.take(batch.column("class")),
        "confidence": pa.array(shares.max(axis=1) / shares.sum(axis=1)),
    }
    return pa.record_batch([columns[field.name].cast(field.type) for field in PREDICTIONS], PREDICTIONS)
