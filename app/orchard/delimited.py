"""The text of a table as spreadsheets save it: UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Set

_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_DELIMITERS = ",;\t|"


def decoded(data: bytes) -> str:
    """The whole text.

    Raises UnicodeDecodeError: it is not in UTF-8, nor in UTF-16 with its mark. Raises ValueError: it is no text.
    """
    mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
    text = data.removeprefix(mark).decode(_MARKS.get(mark, "utf-8"))
    if "\0" in text[:1000]:
        raise ValueError("it holds null characters")
    return text


def delimiter(text: str, is_header: Callable[[Set[str]], bool]) -> tuple[str, str]:
    """What separates the columns, and the text without Excel's own line about it.

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
