"""Lists of images in a CSV or Parquet file: one's own, or an S3 Inventory."""

import csv
import gzip
import io
import posixpath
import re
import zlib
from dataclasses import dataclass
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from orchard.errors import InputError
from orchard.images.places import places, split_named
from orchard.layout import LISTING
from orchard.storage import local_path, split_s3_url

SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Manifest:
    """What a manifest lists."""

    table: pa.Table
    """Schema LISTING; unique by path."""
    duplicates: int
    """Rows that repeated another one and were left out."""
    is_inventory: bool
    """Whether a bucket was listed as it is, rather than images chosen by someone."""


def is_manifest(name: str) -> bool:
    """Whether a file of this name lists images."""
    return name.lower().endswith(SUFFIXES)


def read_manifest(data: bytes, url: str) -> Manifest:
    """Read the manifest at ``url``: columns ``path`` and optionally ``label``, ``split``, ``size``, by header.

    Relative paths are relative to the manifest's folder. Where there is no column ``label`` or ``split``, folders
    tell. An S3 Inventory is known by its columns ``bucket`` and ``key``, or as CSV without a header by its first row.
    Raises InputError: not readable, no such columns, a row without a path, a path that is listed twice with
    different labels, a split that is none.
    """
    try:
        table = _read_parquet(data) if url.lower().endswith(".parquet") else _read_csv(data)
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise InputError(f"manifest {url} cannot be read ({first_line}): check the file.") from error
    if {"bucket", "key"} <= set(table.column_names):
        return _unique(_from_inventory(table), url, is_inventory=True)
    if "path" not in table.column_names:
        found = ", ".join(table.column_names[:8])
        raise InputError(f"manifest {url} has no column 'path', only {found}: name the column of the images so.")
    return _unique(_from_paths(table, url), url, is_inventory=False)


def _read_parquet(data: bytes) -> pa.Table:
    table = pq.read_table(pa.BufferReader(data))
    return table.rename_columns([name.strip().lower() for name in table.column_names])


def _read_csv(data: bytes) -> pa.Table:
    """A CSV file's columns as strings, empty ones as nulls; an inventory's keys decoded."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        return pa.table({"path": pa.array([], pa.string())})
    first = next(csv.reader(io.StringIO(data.split(b"\n", maxsplit=1)[0].decode())))
    names = [name.strip().lower() for name in first]
    inventory = _inventory_columns(data, first)
    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        pyarrow.csv.ReadOptions(column_names=inventory or names, skip_rows=0 if inventory else 1),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(inventory or names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
            null_values=[""],
        ),
    )
    if {"bucket", "key"} <= set(table.column_names) and "path" not in table.column_names:
        keys = [key and unquote_plus(key) for key in table["key"].to_pylist()]
        table = table.set_column(table.schema.get_field_index("key"), "key", pa.array(keys, pa.string()))
    return table


def _inventory_columns(data: bytes, first: list[str]) -> list[str] | None:
    """Names for the columns of an S3 Inventory without header; None for any other file.

    Bucket and key come first, the rest is what its owner chose, told here by the first row's values.
    """
    quoted = data.startswith(b'"')  # as AWS writes every value
    if not quoted or len(first) < 2 or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{2,62}", first[0]):
        return None
    header = [name.strip().lower() for name in first]
    if "path" in header or {"bucket", "key"} <= set(header):
        return None
    names = ["bucket", "key"] + [f"column {n}" for n in range(2, len(first))]
    for n, value in enumerate(first[2:], 2):
        if value in ("true", "false"):
            names[n] = "is_delete_marker" if "is_latest" in names else "is_latest"
        elif value.isdigit() and "size" not in names:
            names[n] = "size"
        elif re.fullmatch(r"[0-9a-f]{32}(-\d+)?", value) and "e_tag" not in names:
            names[n] = "e_tag"
    return names


def _from_inventory(table: pa.Table) -> pa.Table:
    """Schema LISTING from the present version of every object, without the markers of folders."""
    for name, wanted in (("is_latest", "true"), ("is_delete_marker", "false")):
        if name in table.column_names:
            table = table.filter(pc.equal(pc.utf8_lower(table[name].cast(pa.string())), wanted))
    table = table.filter(pc.invert(pc.ends_with(table["key"], "/")))
    labels, splits = places("", table["key"].to_pylist())
    paths = pc.binary_join_element_wise("s3a://", table["bucket"], "/", table["key"], "")
    etag = "e_tag" if "e_tag" in table.column_names else "etag"
    version = _column(table, etag, pa.string())
    return pa.table([paths, _column(table, "size", pa.int64()), version, labels, splits], schema=LISTING)


def _from_paths(table: pa.Table, url: str) -> pa.Table:
    """Schema LISTING from the columns ``path``, ``label``, ``split``, ``size``."""
    texts = table["path"].cast(pa.string()).to_pylist()
    if None in texts:
        raise InputError(f"manifest {url} has no path in row {texts.index(None) + 1}: fill it in or delete the row.")
    folder = url.rpartition("/")[0]
    known: dict[str, str] = {}  # folders repeat: each one is resolved once
    paths = []
    for text in texts:
        head, slash, name = text.rpartition("/")
        if head not in known:
            known[head] = _resolved(head or slash, folder)
        paths.append(f"{known[head].rstrip('/')}/{name}")
    inside = [path[len(folder) + 1 :] if path.startswith(f"{folder}/") else path for path in paths]
    labels, splits = places(folder.rpartition("/")[2], inside)
    if "label" in table.column_names:
        labels = table["label"].cast(pa.string())
    if "split" in table.column_names:
        splits = _splits(table["split"].cast(pa.string()), url)
    columns = [paths, _column(table, "size", pa.int64()), pa.nulls(len(paths), pa.string()), labels, splits]
    return pa.table(columns, schema=LISTING)


def _resolved(folder: str, base: str) -> str:
    """The absolute folder, or ``s3a://bucket/…``, that ``folder`` means in a manifest that lies in ``base``."""
    if location := split_s3_url(f"{folder}/"):
        return f"s3a://{location[0]}/{location[1]}"
    if folder.startswith(("/", "file:")):
        return str(local_path(folder))
    scheme, root = ("s3a://", base.removeprefix("s3a://")) if base.startswith("s3a://") else ("", base)
    return scheme + posixpath.normpath(posixpath.join(root, folder))


def _splits(values: pa.ChunkedArray, url: str) -> pa.Array:
    distinct = {value: split_named(value) for value in pc.unique(values.drop_null()).to_pylist() if value.strip()}
    for value, split in distinct.items():
        if split is None:
            raise InputError(f"manifest {url} has the split {value!r}: use train, test or validation.")
    return pa.array([distinct.get(value) for value in values.to_pylist()], pa.string())


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    return table[name].cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)


def _unique(listing: pa.Table, url: str, *, is_inventory: bool) -> Manifest:
    """Each path once. Raises InputError if a path is listed with two labels or splits."""
    merged = listing.group_by(["path", "label", "split"]).aggregate([("size", "max"), ("version", "max")])
    merged = merged.rename_columns({"size_max": "size", "version_max": "version"})
    merged = merged.select(LISTING.names).cast(LISTING)
    counts = pc.value_counts(merged["path"].combine_chunks())
    if len(counts) < merged.num_rows:
        twice = next(row["values"] for row in counts.to_pylist() if row["counts"] > 1)
        raise InputError(f"manifest {url} lists {twice} twice, with different labels or splits: keep one row.")
    return Manifest(merged, listing.num_rows - merged.num_rows, is_inventory)
