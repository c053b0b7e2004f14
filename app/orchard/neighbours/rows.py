"""Code that both searches share: rows of features in the search space, samples of them, and rows of neighbours."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.datasets import batches, matrix
from orchard.files import DataFile, parquet_bytes, part, stage_file
from orchard.layout import NEIGHBOURS, Dataset
from orchard.neighbours.search import Nearest
from orchard.neighbours.space import Space
from orchard.neighbours.twins import BINS, count
from orchard.storage import Storage
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.workers import Shared

PART_ROWS = 65_536
"""Rows of a file of ``neighbours/``, at most, roughly."""

SIDES = {str(Split.TRAIN): 0, str(Split.TEST): 1}
"""Split -> its number; any other split is -1."""


@dataclass(frozen=True)
class Job:
    """Storage, space and labels, which every task needs."""

    storage: Storage
    staging: str
    space: Shared[Space]
    labels: list[str]
    """Labels of the training images, sorted."""

    def rows(
        self, file: DataFile
    ) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int32], NDArray[np.int8], NDArray[np.float32]]]:
        """Yield the rows of a features file: as they are, their labels as numbers, their sides, their vectors.

        A label that no training image has is ``len(labels)``, none is -1; sides are those of `SIDES`.
        """
        names, sides = pa.array(self.labels, pa.string()), pa.array(list(SIDES), pa.string())
        for batch in batches(self.storage, file, ["path", "label", "split", "features"]):
            known = pc.fill_null(pc.index_in(batch["label"], names), len(self.labels))
            label = np.where(np.asarray(pc.is_null(batch["label"])), -1, np.asarray(known))
            side = pc.fill_null(pc.index_in(batch["split"], sides), -1)
            yield batch, label.astype(np.int32), np.asarray(side, np.int8), self.space.value(matrix(batch["features"]))

    def stage(self, rows: pa.Table) -> DataFile:
        """Write rows of `NEIGHBOURS` as an uncommitted file."""
        return stage_file(self.storage, self.staging, part(Dataset.NEIGHBOURS), parquet_bytes(rows), rows.num_rows)


@dataclass(frozen=True)
class Tally:
    """Counts that are made while neighbours are written.

    Attributes:
        test: (BINS,) number of test images by the cosine to their nearest training image.
        other: (BINS,) number of training images by the cosine to the nearest one with another label.
        checked: path -> similarities, for the images with which the recall is measured.
    """

    test: NDArray[np.int64]
    other: NDArray[np.int64]
    checked: Mapping[str, list[float]]

    @classmethod
    def of(
        cls,
        rows: pa.Table,
        sides: NDArray[np.integer],
        other: NDArray[np.float32],
        checked: frozenset[str] = frozenset(),
    ) -> Self:
        """Count rows of `NEIGHBOURS`: their sides as of `SIDES`, and the nearest of another label."""
        found = rows["similarities"].combine_chunks()
        lengths = found.value_lengths().to_numpy()
        nearest = np.full(len(found), -np.inf, np.float32)
        nearest[lengths > 0] = found.flatten().to_numpy()[(np.cumsum(lengths) - lengths)[lengths > 0]]
        is_test = (sides == SIDES[Split.TEST]) & np.isfinite(nearest)
        is_train = (sides == SIDES[Split.TRAIN]) & np.isfinite(other)
        chosen = rows.filter(pc.is_in(rows["path"], pa.array(list(checked), pa.string())))
        by_path = dict(zip(chosen["path"].to_pylist(), chosen["similarities"].to_pylist(), strict=True))
        return cls(count(nearest[is_test]), count(other[is_train]), by_path)

    @classmethod
    def none(cls) -> Self:
        """Return the counts for no rows."""
        return cls(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), {})

    def merge(self, more: Tally) -> Tally:
        """Return the sum of both counts."""
        return Tally(self.test + more.test, self.other + more.other, {**self.checked, **more.checked})

    def to_bytes(self) -> bytes:
        """Encode it, to be sent from a worker to the driver."""
        return json.dumps([self.test.tolist(), self.other.tolist(), dict(self.checked)]).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote."""
        test, other, checked = json.loads(data)
        return cls(np.array(test, np.int64), np.array(other, np.int64), checked)


def sample(
    storage: Storage, share: float, space: Shared[Space] | None, files: Sequence[DataFile]
) -> NDArray[np.float32]:
    """Return a share of the training rows of `files`, by hash of their paths, (n, d) or (n, m) in a space."""
    found: list[NDArray[np.float32]] = []
    for file in files:
        for batch in batches(storage, file, ["path", "split", "features"]):
            is_train = np.asarray(pc.fill_null(pc.equal(batch["split"], Split.TRAIN), False))
            chosen = is_train & np.array([draw(path) < share for path in batch["path"].to_pylist()], bool)
            rows = matrix(batch["features"])[chosen]
            found.append(rows if space is None else space.value(rows))
    return np.concatenate(found)


def draw(path: str) -> float:
    """Return a number from 0 to 1 that depends on the path alone."""
    return zlib.crc32(path.encode("utf-8", "surrogatepass")) / 2**32


def result(paths: pa.Array, names: pa.Array, nearest: Nearest) -> pa.RecordBatch:
    """Return rows of `NEIGHBOURS`; `names` are the paths of the base."""
    is_one = np.isfinite(nearest.similarities)
    neighbours = names.take(pa.array(nearest.rows[is_one]))
    return listed(paths, is_one.sum(axis=1), neighbours, nearest.similarities[is_one].clip(-1, 1))


def listed(
    paths: pa.Array, counts: NDArray[np.integer], neighbours: pa.Array, similarities: NDArray[np.float32]
) -> pa.RecordBatch:
    """Return rows of `NEIGHBOURS` of n images, whose neighbours and their similarities follow each other.

    Args:
        paths: (n,) of the images.
        counts: (n,) neighbours of each image.
        neighbours: (sum of counts,) their paths.
        similarities: likewise.
    """
    offsets = pa.array(np.r_[0, np.cumsum(counts)].astype(np.int32))
    columns = (pa.ListArray.from_arrays(offsets, values) for values in (neighbours, pa.array(similarities)))
    return pa.record_batch([paths, *columns], schema=NEIGHBOURS)
