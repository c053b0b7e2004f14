"""A corrected list of images: labels that replace the source's, and images to leave out.

It has the columns of ``review/suspects.csv``: ``path``, and ``corrected`` with the label that is right, or ``drop``
with ``yes``; where both are empty nothing changes. Without a column ``corrected``, ``label`` is the right label.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from orchard.delimited import decoded, read_table, rows
from orchard.errors import InputError
from orchard.images.kinds import KindFrom, leading_words
from orchard.layout import ESCAPED, LISTING, SUSPECT_LIST, CorrectionMetrics
from orchard.storage import DEFAULT_S3, S3Options

MAX_BYTES = 256 * 2**20
_MAX_LABEL = 500  # characters
_SHOWN = 200
_YES, _NO = {"yes", "y", "x", "true", "1", "drop"}, {"no", "n", "false", "0"}


@dataclass(frozen=True)
class Corrections:
    """What is to change."""

    url: str
    labels: Mapping[str, str] = field(default_factory=dict)
    """Path -> label."""
    dropped: frozenset[str] = frozenset()
    """Paths."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Path -> where it stands in the list, from 1, the header included."""

    @classmethod
    def from_csv(cls, data: bytes, url: str) -> Self:
        """Return the corrections of a table in UTF-8 or UTF-16, separated by commas, semicolons, tabs or bars.

        An apostrophe before what a spreadsheet would take for a formula is not part of a cell.

        Args:
            data: the file.
            url: where it is, for errors.

        Raises:
            InputError: it is too large, no text or no such table; a row has no path, a path of another row, more cells
                than columns, a ``drop`` that is neither yes nor no, a label that is too long, or both.
        """
        if len(data) > MAX_BYTES:
            raise InputError(f"corrections {url} has more than {MAX_BYTES:,} bytes: leave out what is right already.")
        labels: dict[str, str] = {}
        dropped: set[str] = set()
        lines: dict[str, int] = {}
        try:
            given = rows(decoded(data), f"corrections {url}", lambda n: "path" in n, partial(_check_columns, url=url))
            for line, row in given:
                at = f"corrections {url}, line {line}"
                path, label, is_dropped = _read({name: ESCAPED.sub("", cell) for name, cell in row.items()}, at)
                if path in lines:
                    raise InputError(f"{at}: {_shown(path)} is in line {lines[path]} already: delete one of them.")
                lines[path] = line
                if is_dropped:
                    dropped.add(path)
                elif label:
                    labels[path] = label
        except UnicodeDecodeError as error:
            raise InputError(f"corrections {url} cannot be read as UTF-8 ({error.reason}): save it so.") from error
        except (csv.Error, ValueError) as error:
            raise InputError(f"corrections {url} cannot be read ({error}): save it as CSV.") from error
        return cls(url, labels, frozenset(dropped), lines)

    def check(self, listing: pa.Table) -> None:
        """Check that every image with a corrected label is in a listing of the whole source.

        Raises:
            InputError: one is not.
        """
        known = pc.is_in(pa.array(list(self.labels), pa.string()), listing["path"].combine_chunks()).to_pylist()
        if missing := [path for path, is_known in zip(self.labels, known, strict=True) if not is_known]:
            raise InputError(
                f"corrections {self.url}, line {self.lines[missing[0]]}: the source has no image {_shown(missing[0])}: "
                f"delete the row{'' if len(missing) == 1 else f' and {len(missing) - 1} more'}, or check the source."
            )

    def apply(self, listing: pa.Table, kind_from: KindFrom | None) -> tuple[pa.Table, CorrectionMetrics]:
        """Return a listing (schema `LISTING`) with the labels corrected, and without what is to be left out.

        The kind goes with the label: it is that of the other images of the label, or, where it comes from words, of its
        word. Images that are not in the listing do not matter.

        Raises:
            InputError: nothing is left.
        """
        before = listing.num_rows
        listing = listing.filter(pc.invert(pc.is_in(listing["path"], pa.array(sorted(self.dropped), pa.string()))))
        named = pa.array(list(self.labels), pa.string())
        if not listing.num_rows:
            raise InputError(f"corrections {self.url} drops all images that are selected: keep some.")
        new = pa.array(list(self.labels.values()), pa.string()).take(pc.index_in(listing["path"], named))
        changes = pc.fill_null(pc.not_equal(new, pc.fill_null(listing["label"], "")), False)
        corrected = listing.filter(changes)
        others = listing.filter(pc.invert(changes))
        labels = new.filter(changes)
        for name, values in (("label", labels), ("kind", _kinds(labels, others, kind_from))):
            corrected = corrected.set_column(corrected.schema.get_field_index(name), LISTING.field(name), values)
        found = CorrectionMetrics(relabelled=corrected.num_rows, dropped=before - listing.num_rows)
        return pa.concat_tables([others, corrected]).sort_by("path"), found


def read(url: str, s3: S3Options = DEFAULT_S3) -> Corrections:
    """Return the corrections in a table at a local path or ``s3a://`` URL.

    Raises:
        InputError: it is not there, or see `Corrections.from_csv`.
        StorageError: it cannot be read.
    """
    return Corrections.from_csv(read_table(url, "corrections", MAX_BYTES, s3), url)


def _check_columns(columns: Sequence[str], url: str) -> None:
    if "path" not in columns or not {"corrected", "label", "drop"} & set(columns):
        there = f"has {_shown(', '.join(columns))}" if columns else "is empty"
        raise InputError(
            f"corrections {url} needs the columns path and corrected, as {SUSPECT_LIST} has them, and {there}."
        )
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise InputError(f"corrections {url} has two columns {_shown(twice)!r}: rename one of them.")


def _read(row: Mapping[str, str], at: str) -> tuple[str, str, bool]:
    """Return the path, the right label (empty: as it is), and whether to leave the image out."""
    path = row.get("path", "")
    if not path.strip():
        raise InputError(f"{at}: it has no path: fill it in or delete the row.")
    label = unicodedata.normalize("NFC", row.get("corrected" if "corrected" in row else "label", "").strip())
    drop = row.get("drop", "").strip().lower()
    if drop and drop not in _YES | _NO:
        raise InputError(f"{at}: drop is {_shown(drop)!r}: write yes or leave it empty.")
    if drop in _YES and label and "corrected" in row:
        raise InputError(f"{at}: it has both a corrected label and a drop: empty one of them.")
    if len(label) > _MAX_LABEL:
        raise InputError(f"{at}: the label has more than {_MAX_LABEL} characters: shorten it.")
    return path, label, drop in _YES


def _kinds(labels: pa.ChunkedArray, others: pa.Table, kind_from: KindFrom | None) -> pa.Array:
    pairs = others.group_by(["label", "kind"]).aggregate([([], "count_all")]).sort_by("count_all").to_pylist()
    kinds = {pair["label"]: pair["kind"] for pair in pairs if pair["kind"] is not None}  # the commonest comes last
    found = []
    for label in labels.to_pylist():
        if label not in kinds and kind_from == "words":
            kinds[label] = leading_words([label])[0]
        found.append(kinds.get(label))
    return pa.array(found, pa.string())


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
