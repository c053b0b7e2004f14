"""Files of an output: each gets its name once, is written completely, and is checked when it is read."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from orchard.errors import OutputDamaged
from orchard.layout import ADDED, INCOMPLETE, SCHEMAS, Dataset
from orchard.storage import Storage

_Rows = TypeVar("_Rows", pa.Table, pa.RecordBatch)


@dataclass(frozen=True)
class DataFile:
    """A file of an output: its name relative to it (``features/part-….parquet``) and what its content must be."""

    name: str
    rows: int
    size: int | None = None
    """Size in bytes; None if a version that did not record it has begun the output."""
    digest: str | None = None
    """Digest of the content, see `digest_of`; None as for `size`."""


def digest_of(data: bytes | memoryview | pa.Buffer) -> str:
    """BLAKE2b of 128 bits, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def part(dataset: Dataset, suffix: str = "parquet") -> str:
    """Return a name for a new file of `dataset`; no two attempts at the same work get the same name."""
    return f"{dataset}/part-{secrets.token_hex(12)}.{suffix}"


_OWN = re.compile(
    rf"[a-z_]+/(part-[0-9a-f]{{24}}\.[a-z.]+|{INCOMPLETE})|model/(current\.json|[0-9a-f]+/[^/]+)|_orchard/.+"
)


def is_own(name: str) -> bool:
    """Whether a file of an output has a name that Orchard gives: another is somebody else's, and stays."""
    return _OWN.fullmatch(name) is not None


def is_skipped(name: str) -> bool:
    """Whether readers of a dataset's folder skip a file, or a folder in it, because its name begins with . or _."""
    return any(step.startswith((".", "_")) for step in name.split("/"))


def filled(storage: Storage, names: Sequence[str]) -> list[str]:
    """Return which of these files are there and hold something; a shell makes an empty one for its output."""
    found = {name: storage.stat(name) for name in names}
    return [name for name, entry in found.items() if entry and entry.size]


def parquet_bytes(table: pa.Table, *, dictionary: bool | list[str] = True) -> pa.Buffer:
    """Return `table` as a Parquet file; `dictionary` names the columns worth dictionary encoding."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", compression_level=1, use_dictionary=dictionary, write_page_checksum=True
    )
    return sink.getvalue()


def stage_file(storage: Storage, staging: str, name: str, data: bytes | pa.Buffer, rows: int = 0) -> DataFile:
    """Write the file `name` below the key prefix `staging`, where it waits for its commit."""
    storage.write(f"{staging}{name}", data)
    return DataFile(name, rows, len(data), digest_of(data))


def read_file(storage: Storage, file: DataFile) -> bytes:
    """Return the whole content of a file.

    Raises:
        OutputDamaged: it is gone, or not what was committed.
    """
    try:
        data = storage.read(file.name)
    except FileNotFoundError:
        raise gone(storage, file.name) from None
    if file.digest is not None and digest_of(data) != file.digest:
        raise damaged(storage, file.name, "its content is not what was written")
    return data


@contextmanager
def open_parquet(storage: Storage, file: DataFile) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of which only parts are read; each page is checked when it is read.

    Raises:
        OutputDamaged: it is gone, or not what was committed.
    """
    try:
        with storage.open(file.name) as content:
            if file.size is not None and content.seek(0, 2) != file.size:
                raise damaged(storage, file.name, "its size is not what was written")
            content.seek(0)
            yield pq.ParquetFile(content, page_checksum_verification=True)
    except FileNotFoundError:
        raise gone(storage, file.name) from None
    except (pa.ArrowException, OSError) as error:
        raise damaged(storage, file.name, str(error).split("\n", maxsplit=1)[0].rstrip(".")) from error


def read_columns(storage: Storage, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Return some columns of a Parquet file, all by default, with those it lacks. Raises as `open_parquet` does."""
    with open_parquet(storage, file) as parquet:
        return with_all_columns(parquet.read(columns=None if columns is None else list(columns)), file, columns)


def with_all_columns(rows: _Rows, file: DataFile, columns: Sequence[str] | None = None) -> _Rows:
    """Return rows of a dataset's file with all columns of today's schema; missing ones are nulls.

    Args:
        rows: rows of the file.
        file: the file, whose folder names the dataset.
        columns: the requested columns; None: all.
    """
    schema: pa.Schema = SCHEMAS[Dataset(file.name.split("/")[-2])]
    present = set(rows.schema.names)
    for field in schema:
        if field.name in ADDED - present and (columns is None or field.name in columns):
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
            present.add(field.name)
    ordered: list[str] = [name for name in schema.names if name in present]
    return rows.select([*ordered, *(name for name in rows.schema.names if name not in schema.names)])


def gone(storage: Storage, name: str) -> OutputDamaged:
    """The error for a committed file that someone deleted."""
    return damaged(storage, name, "it is committed but gone")


def damaged(storage: Storage, name: str, why: str) -> OutputDamaged:
    """The error for a file of an output that cannot be used."""
    url = storage.url
    return OutputDamaged(f"{url}/{name} is damaged ({why}): run orchard verify {url}, which mends what can be mended.")
