"""The rows on which classifiers are fitted, of components or of features, read in the driver or in Spark's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.datasets import batches, frame, matrix, with_marks
from orchard.files import DataFile
from orchard.inference.familiarity import Familiarity
from orchard.layout import FEATURES, REDUCED, Dataset
from orchard.output import Output
from orchard.reduction.stage import Roles
from orchard.reduction.statistics import Role
from orchard.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_WEIGHT = pa.field("weight", pa.float32())
_TRAINING = pa.schema([REDUCED.field("label"), REDUCED.field("pca_features"), _WEIGHT])

_COLUMNS_AT_A_TIME = 32

Marked = Iterator[tuple[pa.RecordBatch, NDArray[np.int8]]]


@dataclass(frozen=True)
class Rows:
    """Rows with ``path``, ``label`` and numbers, and what each is for: those of `Role.NONE` train nothing.

    The numbers are ``pca_features``, or of `feature_rows` the ``features``.

    Where they have a column ``weight``, each counts so much in fitting: see `weights_of`.

    Attributes:
        files: where they come from.
        read: yields those of a file with their `Role`; it can be pickled.
    """

    files: Sequence[DataFile]
    read: Callable[[DataFile], Marked]

    def __iter__(self) -> Marked:
        """Read them here."""
        for file in self.files:
            yield from self.read(file)

    def frame(self, spark: SparkSession, *roles: Role) -> DataFrame:
        """Return ``label, pca_features, weight`` of those of some roles as a lazy DataFrame, which workers read."""
        return frame(spark, self.files, _TRAINING, partial(_of_roles, self.read, roles))


def weights_of(batch: pa.RecordBatch) -> NDArray[np.float32]:
    """Return how much each row counts in fitting, (n,): 1 where nothing is said."""
    if _WEIGHT.name not in batch.schema.names:
        return np.ones(len(batch), np.float32)
    weights: NDArray[np.float32] = batch.column(_WEIGHT.name).to_numpy()
    return weights


def reduced_rows(output: Output, roles: NDArray[np.int8], weights: NDArray[np.float32] | None = None) -> Rows:
    """Return the rows of ``reduced/``.

    Args:
        output: the output.
        roles: (n,) of the rows of the features, in the order of their files.
        weights: (n,) of the same; None: each is 1.
    """
    files = output.files(Dataset.REDUCED)
    features, reduced = (output.read(d, ["path"], FEATURES)["path"] for d in (Dataset.FEATURES, Dataset.REDUCED))
    at = np.asarray(pc.index_in(reduced, features.combine_chunks()))
    ends = np.cumsum([file.rows for file in files])[:-1]
    names = [file.name for file in files]
    of_roles = dict(zip(names, np.split(roles[at], ends), strict=True))
    of_weights = {} if weights is None else dict(zip(names, np.split(weights[at], ends), strict=True))
    return Rows(files, partial(_read, output.storage, "pca_features", of_roles, of_weights))


def feature_rows(
    storage: Storage,
    files: Sequence[DataFile],
    roles: Roles,
    weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> Rows:
    """Return the rows of feature files, with the roles and weights of the rows of each; None: each weight is 1."""
    return Rows(files, partial(_read, storage, "features", roles, weights or {}))


def inside_rows(
    rows: Rows, space: Familiarity, *roles: Role
) -> tuple[NDArray[np.float32], list[str], NDArray[np.float32]]:
    """Return labelled rows of features of some roles in the span of whitened means, ordered by path.

    Returns:
        Coordinates (n, q), labels (n,) and weights (n,).
    """
    found, labels, weights, paths = [np.empty((0, space.rank), np.float32)], [], [np.empty(0, np.float32)], []
    for batch, role in rows:
        is_chosen = np.isin(role, roles) & batch.column("label").is_valid().to_numpy(zero_copy_only=False)
        chosen = batch.filter(pa.array(is_chosen))
        if not chosen.num_rows:
            continue
        found.append(space.inside(matrix(chosen.column("features"))))
        labels.append(chosen.column("label").cast(pa.string()))
        weights.append(weights_of(chosen))
        paths.append(chosen.column("path"))
    coordinates, weighing = np.concatenate(found), np.concatenate(weights)
    names = pa.chunked_array(labels, pa.string()).to_numpy()
    sort_by_path(paths, coordinates, weighing, names)
    return coordinates, names.tolist(), weighing


def sort_by_path(paths: Sequence[pa.Array], rows: NDArray[np.floating], *others: NDArray[Any]) -> None:
    """Bring rows (n, k) and what else there is of each (n,) into the order of their paths, in place.

    Files lie in the order in which tasks have ended, which is another one in every run, and after a kill. What draws
    rows by their number, or stops within a tolerance, must not depend on it.

    Args:
        paths: of the rows, batch by batch.
        rows: changed.
        others: changed.
    """
    order = np.asarray(pc.sort_indices(pa.chunked_array(paths, pa.string())))
    for values in others:
        values[:] = values[order]
    for start in range(0, rows.shape[1], _COLUMNS_AT_A_TIME):  # the rows once more would be memory that nobody counts
        columns = rows[:, start : start + _COLUMNS_AT_A_TIME]
        columns[:] = columns[order]


def _read(
    storage: Storage, numbers: str, roles: Roles, weights: Mapping[str, NDArray[np.float32]], file: DataFile
) -> Marked:
    read = batches(storage, file, ["path", "label", numbers])
    if weights:
        read = (batch.append_column(_WEIGHT, pa.array(mark)) for batch, mark in with_marks(read, weights[file.name]))
    return with_marks(read, roles[file.name])


def _of_roles(read: Callable[[DataFile], Marked], roles: Sequence[Role], file: DataFile) -> Iterator[pa.RecordBatch]:
    for batch, role in read(file):
        columns = [batch.column("label"), batch.column("pca_features"), pa.array(weights_of(batch))]
        yield pa.record_batch(columns, schema=_TRAINING).filter(pa.array(np.isin(role, roles)))
