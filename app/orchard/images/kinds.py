"""Kinds, the coarser names above labels: from the folder above, or from a label's first word."""

import unicodedata
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

KindFrom = Literal["folder", "words"]
"""Where kinds come from, unless a manifest has a column for them."""

_INSIDE_WORDS = "'\u2019\u200c\u200d"  # apostrophes, and what joins letters in some scripts
_NAMED = 3


def kinds_of(
    labels: pa.Array | pa.ChunkedArray, folders: pa.Array | pa.ChunkedArray, kind_from: KindFrom | None
) -> pa.Array:
    """The kind of each image, string, shape (n,); null where there is none.

    Args:
        labels: Of the images.
        folders: Their kinds as their folders say, see `orchard.images.places`.
        kind_from: Which of the two to take; None: neither.
    """
    if kind_from == "folder":
        return folders
    if kind_from is None:
        return pa.nulls(len(labels), pa.string())
    distinct = pc.unique(labels).drop_null()
    words = pa.array(leading_words(distinct.to_pylist()), pa.string())
    return words.take(pc.index_in(labels, distinct))


def leading_words(labels: list[str]) -> list[str | None]:
    """The first word of each label: ``Apple`` of "Apple 11", "apple_golden-3" and "Apple2"; None of "12".

    A word is letters of any script. Words that differ only in case are one, spelled as sorts first (``Apple``).
    """
    found = [_first_word(label) for label in labels]
    spelled: dict[str, str] = {}
    for word in sorted(filter(None, found)):
        spelled.setdefault(word.casefold(), word)
    return [spelled[word.casefold()] if word else None for word in found]


def _first_word(label: str) -> str | None:
    # Letters and their marks, which are no letters by themselves: in Devanagari every vowel is one.
    letters = (c if unicodedata.category(c)[0] in "LM" or c in _INSIDE_WORDS else " " for c in label)
    words = (word.strip(_INSIDE_WORDS) for word in "".join(letters).split())
    return next(filter(None, words), None)


def kind_warnings(listing: pa.Table, kind_from: KindFrom | None) -> list[str]:
    """One sentence for each likely mistake in the kinds of a listing (``label``, ``kind``)."""
    pairs = listing.group_by(["label", "kind"]).aggregate([([], "count_all")]).to_pylist()
    kinds = {pair["kind"] for pair in pairs if pair["kind"] is not None}
    if not kinds:
        where = {
            "folder": "no label lies in a folder of its kind, such as Apple/Golden",
            "words": "no label has a word",
        }
        return [f"--kind-from {kind_from} found no kinds: {where[kind_from]}."] if kind_from else []
    warnings = []
    kinds_by_label: dict[str, set[str]] = {}
    for pair in pairs:
        if pair["label"] is not None and pair["kind"] is not None:
            kinds_by_label.setdefault(pair["label"], set()).add(pair["kind"])
    if several := sorted(label for label, found in kinds_by_label.items() if len(found) > 1):
        shown = ", ".join(
            f"{label!r} ({' and '.join(sorted(kinds_by_label[label])[:_NAMED])})" for label in several[:_NAMED]
        )
        more = f" and {len(several) - _NAMED} more" if len(several) > _NAMED else ""
        remedy = "--label-level 2 tells them apart" if kind_from == "folder" else "give each its own label"
        warnings.append(f"Labels of more than one kind: {shown}{more}; {remedy}, if they are not the same.")
    if missing := sum(pair["count_all"] for pair in pairs if pair["kind"] is None):
        warnings.append(f"{missing} of {listing.num_rows} images have no kind: only their labels are learned.")
    if len(kinds) == 1:
        warnings.append(f"All kinds are one, {kinds.pop()!r}, so they tell nothing.")
    elif all(label == kind for label, found in kinds_by_label.items() for kind in found):
        warnings.append("Every kind is called as its label, so kinds tell nothing that labels do not.")
    return warnings
