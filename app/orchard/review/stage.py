"""The stage that searches for faults of the data: from inventory and features to ``review/suspects.csv``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from orchard.classification.training import Classifier
from orchard.errors import InputError
from orchard.files import DataFile
from orchard.images.corrections import Corrections
from orchard.images.lookup import PathIndex
from orchard.layout import FEATURES, INVENTORY, REVIEW, STATISTICS, SUSPECT_LIST, Dataset, ReviewMetrics
from orchard.output import Output
from orchard.reduction.stage import load
from orchard.reduction.statistics import Statistics
from orchard.review.clusters import clusters, near_pairs
from orchard.review.data import describe
from orchard.review.faults import (
    as_csv,
    outliers,
    poor_pictures,
    rank,
    same_images,
    summary,
    twins_of_other_labels,
    wrong_labels,
)
from orchard.review.judging import Judge, judge_labels
from orchard.review.leave_one_out import LeaveOneOut
from orchard.stages import Stage, feature_names, key_of
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.progress import Advance
    from orchard.spark.session import Session

log = logging.getLogger(__name__)

VERSION = 2
"""Raise it when a change makes the same features give other faults: older results are then computed again."""


def stage_of(output: Output) -> Stage:
    """Return the stage. Its key is made of the features and of the classifier that judges labels.

    If somebody has deleted the list of suspects, it is written again.
    """
    calibrations = output.recall("classification").get("calibrations", {})
    temperature = calibrations.get(Classifier.LINEAR_DISCRIMINANT, {}).get("temperature", 1.0)
    before = [output.recall(name).get("key") for name in ("reduction", "neighbours")]
    key = key_of(VERSION, feature_names(output), before, temperature)

    def work(session: Session, progress: Advance) -> None:
        run(session, output, key=key, temperature=temperature, progress=progress)

    gone = not output.storage.exists(SUSPECT_LIST)
    return Stage("review", "review", key, work, output.rows(Dataset.FEATURES), again=gone)


def run(
    session: Session,
    output: Output,
    *,
    key: str,
    temperature: float,
    progress: Callable[[int], None] | None = None,
) -> ReviewMetrics:
    """Find likely faults, write the ranked list of suspects, and commit the metrics as the property ``review``.

    Labels are judged if at least two are in training and the features are reduced; the other faults are found in any
    case.

    Args:
        session: starts Spark, which is needed if labels can be judged.
        output: the output, with features, locked for writing.
        key: the stage's key.
        temperature: the calibration of the linear discriminant's scores.
        progress: called with the number of rows done since the last call.
    """
    columns = ["path", "label", "split", "digest", "featurized", "format", "brightness", "sharpness"]
    images = output.read(Dataset.INVENTORY, columns, INVENTORY)
    images = images.filter(images["featurized"]).sort_by("path")  # not in the order in which tasks ended
    data = describe(images, output.read(Dataset.FEATURES, ["width", "height"], FEATURES))
    faults = [same_images(images), poor_pictures(images)]
    judged = 0
    near = output.recall("neighbours").get("metrics", {})
    linked = None
    if near.get("threshold") is not None:
        pairs = near_pairs(output, PathIndex(images["path"]), near["threshold"])
        linked = clusters(images["path"], pairs)
        faults.append(twins_of_other_labels(images, pairs))
    statistics = _statistics(output)
    if statistics is not None:
        more, judged = _judge_labels(session, output, statistics, temperature)
        faults += more
    found = pa.concat_tables(faults)
    suspects = rank(found)
    metrics = summary(found, suspects, judged)
    if linked is not None:
        metrics["clusters"] = linked
    _keep_corrections(output)
    output.write(SUSPECT_LIST, as_csv(suspects))
    output.commit({}, properties={"review": {"key": key, "metrics": metrics, "data": data}})
    if progress:
        progress(images.num_rows)
    return metrics


def _keep_corrections(output: Output) -> None:
    """Copy the list aside, before it is written anew, if people have written into it, or saved it in another form."""
    if not output.storage.exists(SUSPECT_LIST):
        return
    data = output.storage.read(SUSPECT_LIST)
    try:
        written = Corrections.from_csv(data, SUSPECT_LIST)
    except InputError:  # it is a table of theirs
        kept = bool(data.strip())
    else:
        kept = bool(written.labels or written.dropped)
    if kept:
        aside = f"{REVIEW}corrected-{output.run_id}.csv"
        output.write(aside, data)
        log.warning(
            "%s/%s, into which somebody has written, is written anew; the former one is kept as %s: give that to "
            "--corrections to apply it",
            *(output.url, SUSPECT_LIST, aside),
        )


def _statistics(output: Output) -> Statistics | None:
    """Return the statistics by which labels are judged; None if there are no images, or one label only."""
    reduction = output.recall("reduction")
    data = output.part(STATISTICS) if "metrics" in reduction else None
    statistics = None if data is None else Statistics.from_bytes(data)
    if statistics is None or len(statistics.everything.columns["label"].names) < 2:
        return None
    return statistics


def _judge_labels(
    session: Session, output: Output, statistics: Statistics, temperature: float
) -> tuple[list[pa.Table], int]:
    sums = statistics.everything
    classes = sums.columns["label"]
    files: list[DataFile] = [file for file in output.files(Dataset.FEATURES) if file.rows]
    fitted_on = output.recall("reduction").get("fitted_on", [Split.TRAIN])
    judge = Judge(LeaveOneOut.fit(sums.labelled, classes, load(output)), classes.names, temperature, fitted_on)
    judged = judge_labels(session.workers, output.storage, files, judge)
    return [wrong_labels(judged), outliers(judged)], judged.images
