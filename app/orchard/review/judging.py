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

LIKELIER = 9
"""Times as likely as its label another one has to be, before an image is doubted. With 5 % of the labels wrong, a
classifier is as unsure as that makes it; the threshold of confident learning (the mean confidence of the other label's
images) then left out a fifth of the wrong ones of 81 groceries."""

BINS = 2000
"""Of familiarities from -1 to 1 while they are counted."""

_ROW = [("path", pa.string()), ("label", pa.string()), ("split", pa.string())]
DOUBTED = pa.schema([*_ROW, ("suggested", pa.string()), ("margin", pa.float32())])
"""Images whose label is not the likeliest one, by far."""
STRANGE = pa.schema([*_ROW, ("familiarity", pa.float32())])
"""Images that are least like the other ones of their label."""


@dataclass(frozen=True)
class Judged:
    """What is found of some rows.

    Attributes:
        doubted: of `DOUBTED`, the smallest margins, the smallest first.
        strange: of `STRANGE`, the least familiar, the least first.
        images: that were judged.
        familiarity: (BINS,) images by familiarity.
    """

    doubted: pa.Table
    strange: pa.Table
    images: int
    familiarity: NDArray[np.int64]

    @classmethod
    def none(cls) -> Self:
        """Return what is found of no rows."""
        return cls(DOUBTED.empty_table(), STRANGE.empty_table(), 0, np.zeros(BINS, np.int64))

    def merge(self, other: Self) -> Self:
        """Return what is found of the rows of both."""
        return type(self)(
            _least(pa.concat_tables([self.doubted, other.doubted]), "margin"),
            _least(pa.concat_tables([self.strange, other.strange]), "familiarity"),
            self.images + other.images,
            self.familiarity + other.familiarity,
        )


@dataclass(frozen=True)
class Judge:
    """What a worker needs.

    Attributes:
        model: fitted on the training rows.
        labels: its classes.
        temperature: of its scores: they are divided by it before they become probabilities.
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
        said = self.model(matrix(read["features"])[at], place, is_fitted[at])
        margin = said.margin / np.float32(self.temperature)
        images = read.select(["path", "label", "split"]).take(pa.array(at))
        doubted = np.flatnonzero(margin <= -np.log(LIKELIER))
        strange = np.argsort(said.familiarity)[:MOST]
        suggested = names.take(pa.array(said.other[doubted]))
        bins = np.clip(((said.familiarity + 1) / 2 * BINS).astype(np.int64), 0, BINS - 1)
        return Judged(
            pa.table([*images.take(pa.array(doubted)).columns, suggested, pa.array(margin[doubted])], schema=DOUBTED),
            pa.table([*images.take(pa.array(strange)).columns, pa.array(said.familiarity[strange])], schema=STRANGE),
            len(at),
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
    found = Judged.none()
    for file in files:
        for read in batches(storage, file, ["path", "label", "split", "features"]):
            found = found.merge(judge(read))
    return found


def _least(rows: pa.Table, column: str) -> pa.Table:
    return rows.sort_by([(column, "ascending"), ("path", "ascending")]).slice(0, MOST)
