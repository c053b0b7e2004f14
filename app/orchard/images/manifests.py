"""Manifests: lists of images in a CSV or Parquet file, or an S3 Inventory."""

import csv
import gzip
import io
import posixpath
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import unquote_plus

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from orchard.delimited import decoded, delimiter, first_row
from orchard.errors import InputError
from orchard.images.columns import as_text
from orchard.images.kinds import KindFrom, kinds_of
from orchard.images.places import placed, split_named
from orchard.layout import CARRIED, LISTING
from orchard.storage import SPELLED, LocalStorage, is_object, local_path, split_object_url

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_MAX_BLOCK = 2**30
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@dataclass(frozen=True)
class Manifest:
    """What a manifest lists."""

    table: pa.Table
    """Schema LISTING; unique by path; an inventory's has no labels and splits."""
    duplicates: int
    """Number of rows that repeated another row and were left out."""
    is_inventory: bool
    """Whether it lists all objects of a bucket (S3 Inventory) rather than chosen images."""
    warnings: list[str] = field(default_factory=list)
    """One sentence for each likely mistake in labels and splits."""
    has_groups: bool = False
    """Whether a column names the groups."""


def is_manifest(name: str) -> bool:
    """Whether a file of this name lists images."""
    return name.lower().endswith(SUFFIXES)


def read_manifest(
    data: bytes,
    url: str,
    label_level: int = 1,
    kind_from: KindFrom | None = None,
    *,
    group_by: str | None = None,
    label_columns: Sequence[str] = (),
) -> Manifest:
    """Read the manifest at ``url``: columns ``path`` and, if any, ``label``, ``kind``, ``split``, ``size``, by header.

    Relative paths are relative to the manifest's folder. Without a column ``label`` or ``split``, both come from
    folders (see `places`); without a column ``kind``, kinds come from ``kind_from`` (see `kinds`). The column called
    ``group_by`` names groups, and the columns ``label_columns`` hold further values to learn. CSV may be separated by
    commas, semicolons, tabs or bars, and be in UTF-8 or UTF-16. An S3 Inventory is recognised by its columns ``bucket``
    and ``key``, or, as CSV without a header, by its first row.

    Raises InputError: not readable, no such columns, a row without a path, a path that is listed twice with
    different labels, kinds, splits or other values, a split that is none, a size that is no number.
    """
    try:
        table = _read_parquet(data) if url.lower().endswith(".parquet") else _read_csv(data)
        table = table.select([at for at, name in enumerate(table.column_names) if name])  # spreadsheets leave others
        if twice := next((name for name, columns in Counter(table.column_names).items() if columns > 1), None):
            raise InputError(f"manifest {url} has two columns {twice!r}: rename one of them.")
        if {"bucket", "key"} <= set(table.column_names):
            return _unique(_from_inventory(table, url), url, [], is_inventory=True)
        if "path" not in table.column_names:
            found = ", ".join(map(_shown, table.column_names[:8]))
            raise InputError(f"manifest {url} has no column 'path', only {found}: name the column of the images so.")
        if missing := [name for name in label_columns if name not in table.column_names]:
            found = ", ".join(map(_shown, table.column_names[:8]))
            raise InputError(
                f"manifest {url} has no column {missing[0]!r}, only {found}: name one of these with --label-columns."
            )
        listing, warnings = _from_paths(
            table, url, label_level, kind_from, group_by=group_by, label_columns=label_columns
        )
        return replace(
            _unique(listing, url, warnings, is_inventory=False), has_groups=_group_column(table, group_by) is not None
        )
    except UnicodeDecodeError as error:
        raise InputError(f"manifest {url} cannot be read as UTF-8 ({error.reason}): save it so.") from error
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise InputError(f"manifest {url} cannot be read ({first_line}): check the file.") from error


def _read_parquet(data: bytes) -> pa.Table:
    """A Parquet file's columns, text of one type; NaN, which stands for a missing number in many tools, as null."""
    table = pq.read_table(pa.BufferReader(data))
    for at, name in enumerate(table.column_names):
        values = table[at]
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pa.types.is_large_string(values.type) or pa.types.is_string_view(values.type):
            values = values.cast(pa.string())
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        table = table.set_column(at, name, values)
    return table.rename_columns([name.strip().lower() for name in table.column_names])


def _read_csv(data: bytes) -> pa.Table:
    """A CSV file's columns as strings, empty ones as nulls; an inventory's keys decoded."""
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    whole = decoded(data)
    text = whole.lstrip("\r\n")
    if not text.strip():
        return pa.table({"path": pa.array([], pa.string())})
    mark, text = delimiter(text, lambda names: "path" in names or {"bucket", "key"} <= names)
    first = first_row(text, mark)
    names = [name.strip().lower() for name in first]
    inventory = _inventory_columns(text, first)
    rows = f"{text}\n".encode()  # arrow wants an end of the header's line
    skipped = len(whole[: len(whole) - len(text)].splitlines())
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(rows),
            pyarrow.csv.ReadOptions(
                column_names=inventory or names,
                # Not skip_rows, which skips lines: a name may have several.
                skip_rows_after_names=0 if inventory else 1,
                block_size=min(len(rows), _MAX_BLOCK),  # a row must fit into two, whatever it holds besides the path
            ),
            pyarrow.csv.ParseOptions(delimiter=mark, newlines_in_values=True),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(inventory or names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except pa.ArrowInvalid:  # it names no line
        _check_rows(text, mark, skipped)
        raise
    if any(pc.any(pc.match_substring_regex(column, "[\r\n]")).as_py() for column in table.columns):
        _check_rows(text, mark, skipped)
    if {"bucket", "key"} <= set(table.column_names) and "path" not in table.column_names:
        keys = [key and unquote_plus(key) for key in table["key"].to_pylist()]
        table = table.set_column(table.schema.get_field_index("key"), "key", pa.array(keys, pa.string()))
    return table


def _check_rows(text: str, mark: str, skipped: int) -> None:
    """Raise ValueError with the line of the first row that has too few or too many values, or a stray quote.

    A stray quote makes rows a part of a value: arrow reads on to the next quote, or the end. Only values of several
    lines can be so; a quote in the middle of a value does no harm.

    Args:
        text: the table.
        mark: what separates its columns.
        skipped: how many lines of the file are before it.
    """
    line, wanted = 1 + skipped, 0
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        for cells in reader:
            wanted = wanted or len(cells)
            if cells and len(cells) != wanted:
                raise ValueError(
                    f"line {line} has {len(cells)} value{'s' if len(cells) > 1 else ''}, and the first row {wanted}; "
                    "a value that holds the separator is written in quotes"
                )
            line = 1 + skipped + reader.line_num
    except csv.Error:
        raise ValueError(
            f"line {line} has a quote at the beginning of a value, and none at its end; "
            "a quote that is part of a value is written twice, in a value in quotes"
        ) from None


def _inventory_columns(text: str, first: list[str]) -> list[str] | None:
    """Names for the columns of an S3 Inventory without header; None for any other file.

    Bucket and key come first, the rest is what its owner chose, told here by the first row's values.
    """
    quoted = text.startswith('"')  # as AWS writes every value
    if not quoted or len(first) < 2 or not re.fullmatch(r"[a-z0-9][a-z0-9.-]{2,62}", first[0]):
        return None
    header = [name.strip().lower() for name in first]
    if "path" in header or {"bucket", "key"} <= set(header):
        return None
    names = ["bucket", "key"] + [f"column {n}" for n in range(2, len(first))]
    for n, value in enumerate(first[2:], 2):
        if value in ("true", "false"):
            names[n] = "is_delete_marker" if "is_latest" in names else "is_latest"
        elif re.fullmatch("[0-9]+", value) and "size" not in names:
            names[n] = "size"
        elif re.fullmatch(r"[0-9a-f]{32}(-\d+)?", value) and "e_tag" not in names:
            names[n] = "e_tag"
    return names


def _from_inventory(table: pa.Table, url: str) -> pa.Table:
    """Schema LISTING from the present version of every object, without the markers of folders."""
    is_whole = pc.and_(pc.is_valid(table["bucket"]), pc.is_valid(table["key"]))
    if not pc.all(is_whole).as_py():
        raise InputError(f"inventory {url} has a row without bucket or key: export it again.")
    for name, wanted in (("is_latest", "true"), ("is_delete_marker", "false")):
        if name in table.column_names:
            table = table.filter(pc.equal(pc.utf8_lower(table[name].cast(pa.string())), wanted))
    table = table.filter(pc.invert(pc.ends_with(table["key"], "/")))
    paths = pc.binary_join_element_wise("s3a://", table["bucket"], "/", table["key"], "")
    version = (
        table[etag] if (etag := "e_tag" if "e_tag" in table.column_names else "etag") in table.column_names else None
    )
    unknown = pa.nulls(table.num_rows, pa.string())
    version = unknown if version is None else version.cast(pa.string())
    columns = [paths, _sizes(table, url), version, *(unknown for _ in LISTING.names[3:])]
    return pa.table(columns, schema=LISTING)


def _from_paths(
    table: pa.Table,
    url: str,
    level: int,
    kind_from: KindFrom | None,
    *,
    group_by: str | None,
    label_columns: Sequence[str],
) -> tuple[pa.Table, list[str]]:
    """Schema LISTING from ``path``, ``label``, ``kind``, ``split``, ``size``, groups, further columns; and warnings."""
    if (has_none := _is_blank(table["path"])).any():
        is_blank = np.all([_is_blank(column) for column in table.columns], axis=0)
        if (rows := np.flatnonzero(has_none & ~is_blank)).size:
            raise InputError(f"manifest {url} has no path in row {rows[0] + 1}: fill it in or delete the row.")
        table = table.filter(pa.array(~is_blank))
    texts = [text or "" for text in _strings(table, "path")]  # blank ones are told above
    folder = url.rpartition("/")[0]
    if any("\\" in text for text in texts) and not any("/" in text for text in texts):
        texts = _from_windows(texts, folder)
    known: dict[str, str] = {}  # folders repeat: each one is resolved once
    paths = []
    for text in texts:
        if "://" in text and not text.startswith("file:") and (scheme := _SCHEME.match(text)):
            # Keys are taken literally; of addresses that are not read, reading will say so.
            paths.append(f"{SPELLED.get(scheme[1], scheme[1])}{text[scheme.end(1) :]}")
            continue
        if text.startswith("file:") and "%" in text:  # in the name, too
            paths.append(str(local_path(text)))
            continue
        head, slash, name = text.rpartition("/")
        if head not in known:
            known[head] = _resolved(head or slash, folder)
        paths.append(f"{known[head].rstrip('/')}/{name}")
    inside = [path[len(folder) + 1 :] if path.startswith(f"{folder}/") else path for path in paths]
    is_elsewhere = not any(path.startswith(f"{folder}/") for path in paths)
    labels, kinds, splits, found = placed(folder.rpartition("/")[2], inside, level, are_whole=is_elsewhere)
    warnings = []
    if "label" in table.column_names:
        labels = _names(table, "label")
    else:
        warnings += found.label_warnings
    kinds = _names(table, "kind") if "kind" in table.column_names else kinds_of(labels, kinds, kind_from)
    if "split" in table.column_names:
        splits = _splits(_strings(table, "split"), url)
    else:
        warnings += found.split_warnings
    column = _group_column(table, group_by)
    groups = pa.nulls(len(paths), pa.string()) if column is None else _names(table, column)
    further = as_text({name: _names(table, name).to_pylist() for name in label_columns}, len(paths))
    none = pa.nulls(len(paths), pa.string())
    columns = [paths, _sizes(table, url), none, labels, kinds, splits, groups, further, none]
    return pa.table(columns, schema=LISTING), warnings


def _group_column(table: pa.Table, group_by: str | None) -> str | None:
    """The column that ``--group-by`` names; None if there is none."""
    name = (group_by or "").strip().lower()
    return name if name in table.column_names else None


def _from_windows(texts: list[str], folder: str) -> list[str]:
    """Paths with the slashes of this system, unless files are really named with backslashes."""
    if split_object_url(folder) is None and LocalStorage(folder).stat(texts[0]) is not None:
        return texts
    return [text.replace("\\", "/") for text in texts]


def _resolved(folder: str, base: str) -> str:
    """The absolute folder, or that of a bucket, that ``folder`` means in a manifest that lies in ``base``."""
    if folder.startswith(("/", "file:")):
        return str(local_path(folder))
    scheme, slashes, root = base.partition("://") if is_object(base) else ("", "", base)
    return scheme + slashes + posixpath.normpath(posixpath.join(root, folder))


def _splits(values: list[str | None], url: str) -> pa.Array:
    distinct = {value: split_named(value) for value in set(values) if value and value.strip()}
    for value, split in sorted(distinct.items()):
        if split is None:
            raise InputError(f"manifest {url} has the split {value!r}: use train, test or validation.")
    return pa.array([distinct.get(value or "") for value in values], pa.string())


def _is_blank(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
    return np.asarray(pc.is_null(column))


def _strings(table: pa.Table, name: str) -> list[str | None]:
    """A column's values as text. Raises ValueError if they cannot be: lists, records, bytes that are no UTF-8."""
    try:
        found: list[str | None] = table[name].cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise ValueError(f"its column {name!r} holds {table[name].type} that is no text") from None
    return found


def _names(table: pa.Table, column: str) -> pa.Array:
    """Labels, kinds, groups or other values in Unicode's NFC; null where there is none."""
    given = [text and unicodedata.normalize("NFC", text.strip()) for text in _strings(table, column)]
    return pa.array([name or None for name in given], pa.string())


def _sizes(table: pa.Table, url: str) -> pa.Array:
    """Bytes, null where they are not told."""
    if "size" not in table.column_names:
        return pa.nulls(table.num_rows, pa.int64())
    sizes: list[int | None] = []
    for row, value in enumerate(table["size"].to_pylist()):
        try:
            size = None if value is None else int(value)
        except (ValueError, TypeError, OverflowError):
            size = -1
        if size is not None and (not 0 <= size < 2**63 or (isinstance(value, float) and size != value)):
            raise InputError(
                f"manifest {url} has the size {value!r} in row {row + 1}: give bytes as a whole number, or nothing."
            )
        sizes.append(size)
    return pa.array(sizes, pa.int64())


def _shown(text: str) -> str:
    """Shorten a value for an error message."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]}…"


def _unique(listing: pa.Table, url: str, warnings: list[str], *, is_inventory: bool) -> Manifest:
    """Each path once. Raises InputError if a path is listed with two labels, kinds, splits, groups or other values."""
    merged = listing.group_by(["path", *CARRIED, "split", "group"]).aggregate([("size", "max"), ("version", "max")])
    merged = merged.rename_columns({"size_max": "size", "version_max": "version"})
    merged = merged.append_column("source", pa.nulls(merged.num_rows, pa.string()))
    merged = merged.select(LISTING.names).cast(LISTING)
    counts = pc.value_counts(merged["path"].combine_chunks())
    if len(counts) < merged.num_rows:
        twice = next(row["values"] for row in counts.to_pylist() if row["counts"] > 1)
        raise InputError(
            f"manifest {url} lists {_shown(twice)} twice, with different labels, kinds, splits, groups or other values:"
            " keep one row."
        )
    return Manifest(merged, listing.num_rows - merged.num_rows, is_inventory, warnings)
