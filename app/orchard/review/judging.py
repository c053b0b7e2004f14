"""The pass over the features that judges labels: what a task finds, and how it is merged; bounded by `MOST`."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import tasks
from orchard.datasets import balance, batches, matrix
from orchard.files import DataFile
from orchard.layout import Split
from orchard.review.leave_one_out import LeaveOneOut
from orchard.storage import Storage

if TYPE_CHECKING:
    from pyspark import Broadcast
    from pyspark.sql import SparkSession

MOST = 10_000
"""Images of a fault that are listed."""

BINS = 2000
"""Of familiarities from -1 to 1 while they are counted."""

_ROW = [("path", pa.string()), ("label", pa.string()), ("split", pa.string())]
DOUBTED = pa.schema(
    [*_ROW, ("suggested", pa.string()), ("margin", pa.float32()), ("confidence_suggested", pa.float32())]
)
"""Images whose label is not the likeliest one."""
STRANGE = pa.schema([*_ROW, ("familiarity", pa.float32())])
"""Images that are least like the other ones of their label."""


@dataclass(frozen=True)
class Judged:
    """What is found of some rows.

    Attributes:
        doubted: of `DOUBTED`, the smallest margins, the smallest first.
        strange: of `STRANGE`, the least familiar, the least first.
        confidence: (c,) sum of the confidences in their labels of the images of each label.
        images: (c,) how many these are.
        familiarity: (BINS,) images by familiarity.
    """

    doubted: pa.Table
    strange: pa.Table
    confidence: NDArray[np.float64]
    images: NDArray[np.int64]
    familiarity: NDArray[np.int64]

    @classmethod
    def none(cls, n_labels: int) -> Self:
        """Return what is found of no rows."""
        nothing = np.zeros(n_labels), np.zeros(n_labels, np.int64), np.zeros(BINS, np.int64)
        return cls(DOUBTED.empty_table(), STRANGE.empty_table(), *nothing)

    def merge(self, other: Self) -> Self:
        """Return what is found of the rows of both."""
        return type(self)(
            _least(pa.concat_tables([self.doubted, other.doubted]), "margin"),
            _least(pa.concat_tables([self.strange, other.strange]), "familiarity"),
            self.confidence + other.confidence,
            self.images + other.images,
            self.familiarity + other.familiarity,
        )

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """(c,) mean confidence of the images of each label: as confident as this, an image is taken to be of it."""
        return self.confidence / np.maximum(self.images, 1)


@dataclass(frozen=True)
class Judge:
    """What a worker needs.

    Attributes:
        model: fitted on the training rows.
        labels: its classes.
        temperature: of its scores.
    """

    model: LeaveOneOut
    labels: Sequence[str]
    temperature: float

    def __call__(self, read: pa.RecordBatch) -> Judged:
        """Judge the labelled ones of rows of features (``path, label, split, features``)."""
        names = pa.array(self.labels, pa.string())
        places = np.asarray(pc.fill_null(pc.index_in(read["label"], names), -1), np.intp)
        is_fitted = np.asarray(pc.fill_null(pc.equal(read["split"], Split.TRAIN), False))
        # Of a label's only training image nothing can be said without it.
        at = np.flatnonzero((places >= 0) & (self.model.counts[places] > is_fitted))
        place = places[at]
        said = self.model(matrix(read["features"])[at], place, is_fitted[at], self.temperature)
        images = read.select(["path", "label", "split"]).take(pa.array(at))
        doubted = np.flatnonzero(said.margin < 0)
        strange = np.argsort(said.familiarity)[:MOST]
        suggested = names.take(pa.array(said.other[doubted]))
        shares = (pa.array(column[doubted]) for column in (said.margin, said.confidence_other))
        bins = np.clip(((said.familiarity + 1) / 2 * BINS).astype(np.int64), 0, BINS - 1)
        return Judged(
            pa.table([*images.take(pa.array(doubted)).columns, suggested, *shares], schema=DOUBTED),
            pa.table([*images.take(pa.array(strange)).columns, pa.array(said.familiarity[strange])], schema=STRANGE),
            np.bincount(place, said.confidence, minlength=len(names)).astype(np.float64),
            np.bincount(place, minlength=len(names)).astype(np.int64),
            np.bincount(bins, minlength=BINS).astype(np.int64),
        )


def judge_labels(spark: SparkSession, storage: Storage, files: Sequence[DataFile], judge: Judge) -> Judged:
    """Judge the labels of all labelled rows of feature files, those of training rows as if they had not been learned.

    Args:
        spark: where the work runs.
        storage: of the output.
        files: of ``features/``.
        judge: what is fitted.
    """
    context = spark.sparkContext
    shared = context.broadcast(pickle.dumps(judge))
    groups = balance(files, 2 * context.defaultParallelism)
    found = tasks.tree_reduce(context, partial(_judge_files, storage, shared), groups, Judged.merge)
    shared.unpersist()
    return found


def _judge_files(storage: Storage, shared: Broadcast[bytes], files: Sequence[DataFile]) -> Judged:
    judge: Judge = pickle.loads(shared.value)  # noqa: S301 - the driver's
    found = Judged.none(len(judge.labels))
    for file in files:
        for read in batches(storage, file, ["path", "label", "split", "features"]):
            found = found.merge(judge(read))
    return found


def _least(rows: pa.Table, column: str) -> pa.Table:
    return rows.sort_by([(column, "ascending"), ("path", "ascending")]).slice(0, MOST)
