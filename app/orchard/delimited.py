"""Reads tables as spreadsheets save them: UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence, Set

from orchard.errors import InputError, OrchardError, file_failure
from orchard.storage import DEFAULT_S3, S3Options, local_path, read_path, split_object_url

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_DELIMITERS = ",;\t|"
csv.field_size_limit(2**31 - 1)  # Python's own of 131,072 would call a larger value a fault of the table


def decoded(data: bytes) -> str:
    """The whole text.

    Raises UnicodeDecodeError: it is not in UTF-8, nor in UTF-16 with its mark. Raises ValueError: it is no text.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    text = data.removeprefix(mark).decode(_MARKS.get(mark, "utf-8"))
    if "\0" in text[:1000]:
        raise ValueError("it holds null characters; if it is UTF-16 without its mark or UTF-32, save it as UTF-8")
    return text


def delimiter(text: str, is_header: Callable[[Set[str]], bool]) -> tuple[str, str]:
    """The separator of the columns, and the text without Excel's own line (``sep=;``) about it.

    Args:
        text: The table.
        is_header: Whether these, stripped and in lower case, can be the names of its columns.
    """
    if told := re.match(r'"?sep=(.)"?(?:\r\n|\r|\n)', text):
        return told[1], text[told.end() :]
    for mark in _DELIMITERS:
        if is_header({name.strip().lower() for name in first_row(text, mark)}):
            return mark, text
    return ",", text


def first_row(text: str, mark: str) -> list[str]:
    """The first row's cells."""
    return next(csv.reader(io.StringIO(text[:100_000], newline=""), delimiter=mark), [])


def rows(
    text: str, name: str, is_header: Callable[[Set[str]], bool], check: Callable[[Sequence[str]], None]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row that is not empty by column, with the number of its first line in the file.

    Args:
        text: The table.
        name: What it is called in errors.
        is_header: As of `delimiter`.
        check: Raises what is wrong with the names of the columns, in lower case.

    Raises InputError: it is empty, or a row has more cells than the header. Raises csv.Error: it is no table.
    """
    mark, table = delimiter(text.lstrip("\r\n"), is_header)
    skipped = len(text.splitlines()) - len(table.splitlines())
    reader = csv.reader(io.StringIO(table, newline=""), delimiter=mark, strict=True)
    columns: list[str] | None = None
    ended = skipped
    for cells in reader:
        line, ended = ended + 1, skipped + reader.line_num
        while cells and not cells[-1].strip():
            cells.pop()
        if not cells:
            continue
        if columns is None:
            columns = [cell.strip().lower() for cell in cells]
            check(columns)
        elif len(cells) > len(columns):
            raise InputError(
                f"{name}, line {line}: it has {len(cells)} fields and the header {len(columns)}: "
                "put texts that hold the separator into quotes."
            )
        else:
            yield line, dict(zip(columns, cells, strict=False))
    if columns is None:
        check([])


def read_table(url: str, setting: str, max_bytes: int, s3: S3Options = DEFAULT_S3) -> bytes:
    """The content of the file that a setting names, by a local path or an object's address; at most one byte too many.

    Raises:
        InputError: It is not there.
        StorageError: It cannot be read.
    """
    location = split_object_url(url)
    path = location.url if location else str(local_path(url))
    try:
        return read_path(path, s3, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{setting} {url} does not exist: check --{setting}.") from None
    except OrchardError:
        raise
    except OSError as error:
        raise file_failure(error, "read", url) from error
