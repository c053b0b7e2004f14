"""The pass over the features that judges labels: the result of a task, and how results merge, within `MOST`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchard.datasets import balance, batches, matrix
from orchard.files import DataFile
from orchard.review.leave_one_out import LeaveOneOut
from orchard.storage import Storage
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.workers import Shared, Workers

MOST = 10_000
"""Images that are listed for each fault, at most."""

LIKELIER = 9
"""An image is doubted if another label is this many times as likely as its own. If 5 % of the labels are wrong, the
classifier itself is less sure; the threshold of confident learning (the mean confidence of the other label's images)
then missed a fifth of the wrong labels among 81 groceries."""

CHANCE = 3.0
"""An image is unrelated to a label if its cosine is below so many standard deviations of unrelated directions' cosine.
All of 40 shop photographs among 58 studio fruits are found, and 33 of 40 studio photographs among 81 groceries; nothing
else is."""

_ROW = [("path", pa.string()), ("label", pa.string()), ("split", pa.string())]
DOUBTED = pa.schema([*_ROW, ("suggested", pa.string()), ("margin", pa.float32())])
"""Images for which another label is far likelier than their own."""
STRANGE = pa.schema([*_ROW, ("familiarity", pa.float32())])
"""Images that resemble neither the other images of their label nor those of another label."""


@dataclass(frozen=True)
class Judged:
    """The suspects among some rows.

    Attributes:
        doubted: rows of `DOUBTED` with the smallest margins, the smallest first.
        strange: rows of `STRANGE` with the lowest familiarity, the lowest first.
        images: number of images that were judged.
    """

    doubted: pa.Table
    strange: pa.Table
    images: int

    @classmethod
    def none(cls) -> Self:
        """Return the result for no rows."""
        return cls(DOUBTED.empty_table(), STRANGE.empty_table(), 0)

    def merge(self, other: Self) -> Self:
        """Return the result for the rows of both together."""
        return type(self)(
            _least(pa.concat_tables([self.doubted, other.doubted]), "margin"),
            _least(pa.concat_tables([self.strange, other.strange]), "familiarity"),
            self.images + other.images,
        )


@dataclass(frozen=True)
class Judge:
    """The classifier that judges labels, as workers need it.

    Attributes:
        model: the discriminant, which can take back any row that it was fitted on.
        labels: names of its classes.
        temperature: its scores are divided by it before they become probabilities.
        fitted_on: the splits whose rows it was fitted on.
    """

    model: LeaveOneOut
    labels: Sequence[str]
    temperature: float
    fitted_on: Sequence[str] = (Split.TRAIN,)

    def __call__(self, read: pa.RecordBatch) -> Judged:
        """Judge the labelled ones of rows of features (``path, label, split, features``)."""
        names = pa.array(self.labels, pa.string())
        places = np.asarray(pc.fill_null(pc.index_in(read["label"], names), -1), np.intp)
        is_fitted = np.asarray(pc.is_in(read["split"], pa.array(self.fitted_on, pa.string())))
        # Of a label's only training image nothing can be said without it.
        at = np.flatnonzero((places >= 0) & (self.model.counts[places] > is_fitted))
        place = places[at]
        said = self.model(matrix(read["features"])[at], place, is_fitted[at])
        margin = said.margin / np.float32(self.temperature)
        images = read.select(["path", "label", "split"]).take(pa.array(at))
        # Of as many labels as there are, one is a little nearer by chance.
        deviation, most = len(self.model.origin) ** -0.5, CHANCE + np.sqrt(2 * np.log(len(names)))
        is_strange = (said.familiarity < CHANCE * deviation) & (said.familiarity_other < most * deviation)
        strange = np.flatnonzero(is_strange)
        doubted = np.flatnonzero((margin <= -np.log(LIKELIER)) & ~is_strange)
        suggested = names.take(pa.array(said.other[doubted]))
        return Judged(
            pa.table([*images.take(pa.array(doubted)).columns, suggested, pa.array(margin[doubted])], schema=DOUBTED),
            pa.table([*images.take(pa.array(strange)).columns, pa.array(said.familiarity[strange])], schema=STRANGE),
            len(at),
        )


def judge_labels(workers: Workers, storage: Storage, files: Sequence[DataFile], judge: Judge) -> Judged:
    """Judge the labels of all labelled rows of feature files, training rows as if they had not been learned.

    Args:
        workers: what does the work.
        storage: the output's storage.
        files: files of ``features/``.
        judge: the classifier that judges.
    """
    shared = workers.share(judge)
    groups = balance(files, 2 * workers.slots)
    found = workers.merge(partial(_judge_files, storage, shared), groups, Judged.merge)
    shared.unpersist()
    return found


def _judge_files(storage: Storage, shared: Shared[Judge], files: Sequence[DataFile]) -> Judged:
    found = Judged.none()
    for file in files:
        for read in batches(storage, file, ["path", "label", "split", "features"]):
            found = found.merge(shared.value(read))
    return found


def _least(rows: pa.Table, column: str) -> pa.Table:
    return rows.sort_by([(column, "ascending"), ("path", "ascending")]).slice(0, MOST)
