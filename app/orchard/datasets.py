"""The datasets of an output as arrays in a worker and as DataFrames in Spark.

Files are read by Python workers through the output's storage, wherever it is: no Hadoop connector is needed, names
may hold what Spark would take for a pattern, and only committed files are seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchard import tasks
from orchard.errors import StorageError, UsageError
from orchard.files import DataFile, damaged, open_parquet, read_file, with_all_columns
from orchard.layout import SCHEMAS, Dataset
from orchard.output import Output
from orchard.storage import Storage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Mark = TypeVar("Mark", bound=np.generic)

BATCH_ROWS = 4096
"""Rows that a worker holds at a time: 20 MB with 1,280 features."""

GATHERED_ROWS = 1024
"""Rows of small files that a worker joins: with fewer, adding their matrices of 13 MB takes longer; twice as many take
20 MB more."""

STORED_ROWS = 16_384
"""Rows that the driver holds at a time: 20 MB with 300 components."""


def batches(
    storage: Storage, file: DataFile, columns: Sequence[str] | None = None, *, checked: bool = False
) -> Iterator[pa.RecordBatch]:
    """Read a Parquet file in order, at most `BATCH_ROWS` rows at a time; missing columns are nulls.

    Args:
        storage: the output's storage.
        file: the file.
        columns: columns to read; None: all.
        checked: the same stage has compared its digest before; now the checksums of its pages are, in a fifth of the
            time.

    Raises:
        OutputDamaged: it is gone, or not what was committed.
    """
    data = read_file(storage, replace(file, digest=None) if checked else file)
    try:
        pages = checked or file.digest is None
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=pages)
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns) if columns is not None else None):
            yield with_all_columns(batch, file, columns)
    except (pa.ArrowException, OSError) as error:
        raise damaged(storage, file.name, str(error).split("\n", maxsplit=1)[0].rstrip(".")) from error


def stored(output: Output, dataset: Dataset, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the committed rows of a Parquet dataset on the driver, `STORED_ROWS` at a time, as they are stored."""
    for file in output.files(dataset):
        with open_parquet(output.storage, file) as parquet:
            yield from parquet.iter_batches(batch_size=STORED_ROWS, columns=columns)


def with_marks(read: Iterable[pa.RecordBatch], marks: NDArray[Mark]) -> Iterator[tuple[pa.RecordBatch, NDArray[Mark]]]:
    """Yield the batches of a file together with the marks of their rows.

    Args:
        read: all rows of the file, in order.
        marks: (n,), one for each of them.
    """
    start = 0
    for batch in read:
        yield batch, marks[start : start + len(batch)]
        start += len(batch)


def gathered(
    read: Iterable[tuple[pa.RecordBatch, NDArray[Mark]]], rows: int = GATHERED_ROWS
) -> Iterator[tuple[pa.RecordBatch, NDArray[Mark]]]:
    """Yield batches with their marks, small ones joined until they have `rows` rows: for work that costs by batch."""
    waiting: list[tuple[pa.RecordBatch, NDArray[Mark]]] = []

    def joined() -> tuple[pa.RecordBatch, NDArray[Mark]]:
        found, marks = zip(*waiting, strict=True)
        waiting.clear()
        batch = pa.Table.from_batches(found).combine_chunks().to_batches()[0] if len(found) > 1 else found[0]
        return batch, np.concatenate(marks)

    for batch, marks in read:
        if waiting and sum(len(part) for part, _ in waiting) + len(batch) > rows:
            yield joined()
        waiting.append((batch, marks))
    if waiting:
        yield joined()


def matrix(column: pa.Array) -> NDArray[np.float32]:
    """Return a column of equally long float lists as (n, d) float32, without copying it.

    Raises:
        StorageError: the lists differ in length, or one is null.
    """
    n_rows = len(column)
    values = column.flatten()
    n_features = len(values) // n_rows if n_rows else 0
    offsets = column.offsets.to_numpy()
    if column.null_count or values.null_count or (np.diff(offsets) != n_features).any():
        raise StorageError(
            "The output holds features of different lengths: it was not written by one run of Orchard; "
            "use another output."
        )
    rows: NDArray[np.float32] = values.to_numpy(zero_copy_only=True).reshape(n_rows, n_features)
    return rows


def list_column(rows: NDArray[np.float32]) -> pa.Array:
    """Return (n, d) float32 as a column of lists, the opposite of `matrix`."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.reshape(-1)))


def balance(files: Sequence[DataFile], parts: int, *, max_rows: int | None = None) -> list[list[DataFile]]:
    """Divide files, in order, into some `parts` groups of about as many rows, and of about `max_rows` at the most."""
    total = sum(file.rows for file in files)
    if max_rows is not None:
        parts = max(parts, -(-total // max_rows))
    groups: list[list[DataFile]] = [[] for _ in range(max(1, min(parts, len(files))))]
    before = 0
    for file in files:
        middle = before + file.rows / 2
        groups[min(int(middle * len(groups) / max(total, 1)), len(groups) - 1)].append(file)
        before += file.rows
    return [group for group in groups if group]


def read(spark: SparkSession, output: Output, dataset: Dataset) -> DataFrame:
    """Return the committed rows of a dataset as a DataFrame with the columns of its schema.

    Raises:
        UsageError: the dataset is not kept as Parquet.
    """
    if dataset not in SCHEMAS:
        raise UsageError(f"{dataset} is not a Parquet dataset: read {Dataset.REDUCED}, which has the same rows.")
    return frame(spark, output.present_files(dataset), SCHEMAS[dataset], partial(batches, output.storage))


def frame(
    spark: SparkSession,
    files: Sequence[DataFile],
    schema: pa.Schema,
    rows_of: Callable[[DataFile], Iterator[pa.RecordBatch]],
) -> DataFrame:
    """Return the rows that `rows_of` yields in the workers for every file, as a lazy DataFrame."""
    from pyspark.sql.pandas.types import from_arrow_schema

    spark_schema = from_arrow_schema(schema)
    if not files:
        return spark.createDataFrame([], spark_schema)
    groups = balance(files, 2 * spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, len(groups), 1, len(groups))
    rows = partial(_rows, groups=groups, columns=schema.names, rows_of=rows_of)
    return tasks.map_batches(numbers, rows, spark_schema)


def _rows(
    numbers: Iterator[pa.RecordBatch],
    groups: list[list[DataFile]],
    columns: list[str],
    rows_of: Callable[[DataFile], Iterator[pa.RecordBatch]],
) -> Iterator[pa.RecordBatch]:
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            for file in groups[number]:
                for rows in rows_of(file):
                    yield rows.select(columns)
