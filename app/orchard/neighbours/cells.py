"""Approximate search for many training images: an image is compared with those in nearby cells only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import tasks
from orchard.datasets import frame
from orchard.files import DataFile
from orchard.layout import NEIGHBOURS
from orchard.neighbours.rows import PART_ROWS, SIDES, Job, Tally, draw, listed, result, sample
from orchard.neighbours.search import CELL_ROWS, NEAREST, Nearest, centres, probed
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.workers import Shared, Workers

CENTRE_ROWS = 65_536
"""Training rows from which the centres of cells are computed, at most: 34 MB on the driver."""

MAX_CELLS = 8192
"""Number of cells, at most: with more training images cells grow, but the driver's work does not."""

MAX_CELL_ROWS = 16 * CELL_ROWS
"""Training rows of one cell that are compared, at most, which bounds a worker's memory. The images of a larger cell are
all alike, and any of them are near neighbours."""

CHECKED = 256
"""Number of images for which the result is compared with the exact search."""

_ROUTED = pa.schema(
    [
        pa.field("cell", pa.int32()),
        pa.field("is_query", pa.bool_()),
        pa.field("path", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("side", pa.int8()),
        pa.field("vector", pa.binary()),  # float16
    ]
)
_MET = "path string, side byte, neighbours array<string>, similarities array<float>, other float"  # in one cell
_WRITTEN = "name string, rows long, size long, digest string, tally binary"


def search_by_cells(
    workers: Workers, job: Job, groups: Sequence[Sequence[DataFile]], *, train_rows: int, seed: int
) -> tuple[list[tuple[DataFile, Tally]], float]:
    """Compare each image with the training images of the cells around it.

    Each training row goes to the worker of its own cell, each image to those of the `PROBES` nearest cells. The results
    of the cells are then merged by path. A worker holds one cell and a batch of rows at a time; Spark sorts on disk
    what does not fit into memory.

    Returns:
        The staged files, and the recall: the share of the true nearest neighbours of some images that were found (or
        others as near).
    """
    cells = min(-(-train_rows // CELL_ROWS), MAX_CELLS)
    share = min(1.0, min(64 * cells, CENTRE_ROWS) / train_rows)
    sampled = workers.run(partial(sample, job.storage, share, job.space), groups)
    shared = workers.share(centres(np.concatenate(sampled), cells, seed=seed))
    chosen, exact = _check_exactly(workers, job, groups)
    files = [file for group in groups for file in group]
    spark = workers.spark
    try:
        with tasks.at_work(spark.sparkContext):
            routed = frame(spark, files, _ROUTED, partial(_route, job, shared))
            rows = sum(file.rows for file in files)
            parts = max(2 * workers.slots, rows // PART_ROWS)
            gathered = routed.repartition(parts, "cell").sortWithinPartitions("cell", "is_query")
            met = tasks.map_batches(gathered, _meet, _MET)
            by_path = met.repartition(parts, "path").sortWithinPartitions("path")
            write = partial(_merge, job, frozenset(chosen))
            written = [
                (DataFile(row["name"], row["rows"], row["size"], row["digest"]), Tally.from_bytes(row["tally"]))
                for row in tasks.collect(tasks.map_batches(by_path, write, _WRITTEN))
            ]
    finally:
        shared.unpersist()
    similarities = {path: values for _, tally in written for path, values in tally.checked.items()}
    hits = total = 0
    for path, nearest in zip(chosen, exact, strict=True):
        true = nearest[np.isfinite(nearest)]
        ours = np.array(similarities[path], np.float32)[: len(true)]
        # float16 on the way through Spark leaves 0.001
        hits += int((ours >= true[: len(ours)] - 0.001).sum())
        total += len(true)
    return written, hits / max(total, 1)


def _route(job: Job, shared: Shared[NDArray[np.float32]], file: DataFile) -> Iterator[pa.RecordBatch]:
    """Yield each row of a features file once for each cell that it goes to."""
    for batch, label, side, rows in job.rows(file):
        near = probed(rows, shared.value)
        is_train = np.flatnonzero(side == SIDES[Split.TRAIN])
        at = np.concatenate([is_train, np.repeat(np.arange(len(rows)), near.shape[1])])
        vectors = _binary(rows)
        yield pa.record_batch(
            [
                pa.array(np.concatenate([near[is_train, 0], near.reshape(-1)])),
                pa.array(np.arange(len(at)) >= len(is_train)),
                batch["path"].take(pa.array(at)),
                pa.array(label[at]),
                pa.array(side[at]),
                vectors.take(pa.array(at)),
            ],
            schema=_ROUTED,
        )


def _meet(gathered: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Compare images with the training rows of a cell; rows come cell by cell, training rows first."""
    cell: int | None = None
    base: list[pa.RecordBatch] = []
    held: _Cell | None = None
    for batch in gathered:
        cells = batch["cell"].to_numpy(zero_copy_only=False)
        borders = np.flatnonzero(np.diff(cells)) + 1
        for start, end in zip(np.r_[0, borders], np.r_[borders, len(cells)], strict=True):
            if start == end:
                continue
            rows = batch.slice(start, end - start)
            if cells[start] != cell:
                cell, base, held = int(cells[start]), [], None
            training = rows.filter(pc.invert(rows["is_query"]))
            if training.num_rows and sum(part.num_rows for part in base) < MAX_CELL_ROWS:
                base.append(training)
            queries = rows.filter(rows["is_query"])
            if queries.num_rows:
                held = held or _Cell.of(base)
                yield held.meet(queries)


@dataclass(frozen=True)
class _Cell:
    """The training rows of a cell."""

    paths: pa.Array
    labels: NDArray[np.int32]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Sequence[pa.RecordBatch]) -> _Cell:
        table = pa.Table.from_batches(rows, rows[0].schema if rows else _ROUTED).slice(0, MAX_CELL_ROWS)
        paths = table["path"].combine_chunks()
        labels = table["label"].combine_chunks().to_numpy(zero_copy_only=False)
        return cls(paths, labels, _vectors(table["vector"].combine_chunks()))

    def meet(self, queries: pa.RecordBatch) -> pa.RecordBatch:
        nearest = Nearest.none(queries.num_rows)
        if len(self.paths):
            itself = np.asarray(pc.fill_null(pc.index_in(queries["path"], self.paths), -1), np.int64)
            nearest.meet(
                _vectors(queries["vector"]),
                self.vectors,
                np.arange(len(self.paths)),
                itself=itself,
                labels=queries["label"].to_numpy(zero_copy_only=False),
                base_labels=self.labels,
            )
        found = result(queries["path"], self.paths, nearest)
        return pa.record_batch(
            [queries["path"], queries["side"], found["neighbours"], found["similarities"], pa.array(nearest.other)],
            names=["path", "side", "neighbours", "similarities", "other"],
        )


def _binary(rows: NDArray[np.float32]) -> pa.Array:
    """Return rows (n, m) as n byte strings of float16."""
    halves = np.ascontiguousarray(rows, np.float16)
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * (halves.itemsize * halves.shape[1])
    return pa.BinaryArray.from_buffers(pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(halves)])


def _vectors(column: pa.BinaryArray) -> NDArray[np.float32]:
    """Undo `_binary`."""
    if not len(column):
        return np.empty((0, 0), np.float32)
    _, offsets, halves = column.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[column.offset, column.offset + len(column)]]
    return np.frombuffer(halves, np.uint8)[first:last].view(np.float16).reshape(len(column), -1).astype(np.float32)


@dataclass(frozen=True)
class _Found:
    """Images with their neighbours, ready to be written.

    Attributes:
        rows: schema `NEIGHBOURS`.
        sides: (n,) of each image, as of `SIDES`.
        other: (n,) the highest similarity to a training image of another label.
    """

    rows: pa.RecordBatch
    sides: NDArray[np.int8]
    other: NDArray[np.float32]

    @classmethod
    def of(cls, met: pa.RecordBatch) -> _Found:
        """Merge the neighbours that each image found in its cells; rows of one image are adjacent."""
        paths, starts = met["path"], _starts(met["path"])
        similarities, names = met["similarities"].flatten().to_numpy(), met["neighbours"].flatten().dictionary_encode()
        images = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(paths)]))
        images = np.repeat(images, met["similarities"].value_lengths().to_numpy())
        # Of equally near ones the first by path.
        order = np.asarray(pc.rank(names.dictionary, tiebreaker="dense"))[names.indices.to_numpy()]
        order = np.lexsort((order, -similarities, images))
        firsts = np.searchsorted(images, np.arange(len(starts)))  # those of an image stay where they were
        kept = order[np.arange(len(order)) - firsts[images] < NEAREST]
        counts = np.bincount(images[kept], minlength=len(starts))
        neighbours = names.take(pa.array(kept)).cast(pa.string())
        rows = listed(paths.take(pa.array(starts)), counts, neighbours, similarities[kept])
        other = np.maximum.reduceat(met["other"].to_numpy(), starts)
        return cls(rows, met["side"].to_numpy()[starts], other)


def _starts(paths: pa.Array) -> NDArray[np.int64]:
    """Return the rows at which a new path begins."""
    starts: NDArray[np.int64] = np.r_[0, 1 + np.flatnonzero(np.asarray(pc.not_equal(paths[1:], paths[:-1])))]
    return starts


def _merge(job: Job, checked: frozenset[str], met: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Merge the neighbours of each image over its cells (rows of one path are adjacent); stage files."""
    found: list[_Found] = []
    rest: list[pa.RecordBatch] = []  # of the last image so far, of which more may follow
    for batch in met:
        if not batch.num_rows:
            continue
        whole = pa.Table.from_batches([*rest, batch]).combine_chunks().to_batches()[0]
        last = int(_starts(whole["path"])[-1])
        rest = [whole.slice(last)]
        if last:
            found.append(_Found.of(whole.slice(0, last)))
        if sum(part.rows.num_rows for part in found) >= PART_ROWS:
            yield _written(job, checked, found)
            found = []
    found += map(_Found.of, rest)
    if found:
        yield _written(job, checked, found)


def _written(job: Job, checked: frozenset[str], found: Sequence[_Found]) -> pa.RecordBatch:
    rows = pa.Table.from_batches([part.rows for part in found], NEIGHBOURS)
    file = job.stage(rows)
    sides, other = np.concatenate([part.sides for part in found]), np.concatenate([part.other for part in found])
    tally = Tally.of(rows, sides, other, checked)
    values = (file.name, file.rows, file.size, file.digest, tally.to_bytes())
    return pa.record_batch([pa.array([value]) for value in values], names=["name", "rows", "size", "digest", "tally"])


def _check_exactly(
    workers: Workers, job: Job, groups: Sequence[Sequence[DataFile]]
) -> tuple[list[str], NDArray[np.float32]]:
    """Return the paths of some images, and the true similarities (n, k) of their nearest training images."""
    rows = sum(file.rows for group in groups for file in group)
    found = workers.run(partial(_drawn, job, min(1.0, 2 * CHECKED / rows)), groups)
    paths = [path for some, _ in found for path in some][:CHECKED]
    queries = workers.share(np.concatenate([vectors for _, vectors in found])[:CHECKED])
    try:
        nearest = workers.merge(partial(_search, job, queries, paths), groups, Nearest.merge)
    finally:
        queries.unpersist()
    return paths, nearest.similarities


def _drawn(job: Job, share: float, files: Sequence[DataFile]) -> tuple[list[str], NDArray[np.float32]]:
    """Return a share of the rows of `files`, paths and vectors."""
    paths: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    for file in files:
        for batch, _, _, rows in job.rows(file):
            # From the other end than what the space and the centres were made of.
            is_drawn = np.array([draw(path) >= 1 - share for path in batch["path"].to_pylist()], bool)
            paths += batch["path"].filter(pa.array(is_drawn)).to_pylist()
            vectors.append(rows[is_drawn])
    return paths, np.concatenate(vectors)


def _search(job: Job, shared: Shared[NDArray[np.float32]], paths: list[str], files: Sequence[DataFile]) -> Nearest:
    """Compare the queries with every training row of `files`."""
    queries, names = shared.value, pa.array(paths, pa.string())
    no_label = np.full(len(queries), -1)
    nearest = Nearest.none(len(queries))
    for file in files:
        for batch, label, side, rows in job.rows(file):
            is_train = side == SIDES[Split.TRAIN]
            training = batch["path"].filter(pa.array(is_train))
            itself = np.asarray(pc.fill_null(pc.index_in(names, training), -1), np.int64)
            numbers = np.arange(len(training))
            nearest.meet(queries, rows[is_train], numbers, itself=itself, labels=no_label, base_labels=label[is_train])
    return nearest
