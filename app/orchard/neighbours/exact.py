"""Exact search: every image is compared with every training image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.datasets import balance
from orchard.files import DataFile
from orchard.layout import NEIGHBOURS
from orchard.neighbours.rows import PART_ROWS, SIDES, Job, Tally, result
from orchard.neighbours.search import Nearest
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.workers import Shared, Workers


@dataclass(frozen=True)
class _Base:
    """Training rows of the exact search, as vectors of the space.

    Attributes:
        paths: (b,) sorted.
        labels: (b,) int32, numbers of labels; -1: none.
        vectors: (b, m) float32.
    """

    paths: list[str]
    labels: NDArray[np.int32]
    vectors: NDArray[np.float32]


def search_exactly(workers: Workers, job: Job, groups: Sequence[Sequence[DataFile]]) -> list[tuple[DataFile, Tally]]:
    """Stage the neighbours of the images in `groups` of feature files; every worker holds all training rows."""
    parts = workers.run(partial(_base, job), groups)
    paths = [path for found, *_ in parts for path in found]
    order = sorted(range(len(paths)), key=paths.__getitem__)
    labels = np.concatenate([found for _, found, _ in parts])
    vectors = np.concatenate([found for *_, found in parts])
    base = workers.share(_Base([paths[row] for row in order], labels[order], vectors[order]))
    files = [file for group in groups for file in group]
    try:
        return workers.run(partial(_write, job, base), balance(files, len(groups), max_rows=PART_ROWS))
    finally:
        base.unpersist()


def _base(job: Job, files: Sequence[DataFile]) -> tuple[list[str], NDArray[np.int32], NDArray[np.float32]]:
    """Return the training rows of `files`: paths, numbers of labels, vectors."""
    paths: list[str] = []
    labels: list[NDArray[np.int32]] = []
    vectors: list[NDArray[np.float32]] = []
    for file in files:
        for batch, label, side, rows in job.rows(file):
            is_train = side == SIDES[Split.TRAIN]
            paths += batch["path"].filter(pa.array(is_train)).to_pylist()
            labels.append(label[is_train])
            vectors.append(rows[is_train])
    return paths, np.concatenate(labels), np.concatenate(vectors)


def _write(job: Job, base: Shared[_Base], files: Sequence[DataFile]) -> tuple[DataFile, Tally]:
    """Compare the images of `files` with every training image; stage one file."""
    training = base.value
    names = pa.array(training.paths, pa.string())
    every = np.arange(len(names))
    found: list[pa.RecordBatch] = []
    tally = Tally.none()
    for file in files:
        for batch, label, side, rows in job.rows(file):
            nearest = Nearest.none(len(rows))
            itself = np.asarray(pc.fill_null(pc.index_in(batch["path"], names), -1), np.int64)
            nearest.meet(rows, training.vectors, every, itself=itself, labels=label, base_labels=training.labels)
            found.append(result(batch["path"], names, nearest))
            tally = tally.merge(Tally.of(pa.Table.from_batches(found[-1:]), side, nearest.other))
    return job.stage(pa.Table.from_batches(found, NEIGHBOURS)), tally
