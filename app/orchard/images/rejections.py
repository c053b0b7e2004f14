"""Says what most rejected images of a source are, and what to do about them."""

from collections import Counter

import pyarrow as pa

from orchard.layout import RejectedKind
from orchard.vocabulary import Reason

MOST_KINDS = 5
_AGAIN = "with --retry-rejected"  # the files stay as they are, and so would the rejections
_REMEDIES: dict[str, str] = {
    Reason.EMPTY: "fetch them again",
    Reason.UNREADABLE: "make them readable; the next run tries them again",
    Reason.TRUNCATED: "fetch them again, in full",
    Reason.CORRUPT: "open one in a viewer; save it, or fetch it again",
    Reason.TOO_LARGE: f"shrink them, or raise --max-bytes {_AGAIN}",
    Reason.TOO_MANY_PIXELS: f"shrink them, or raise --max-pixels and --max-decode-memory {_AGAIN}",
    Reason.TOO_SLOW: f"save them again, or raise --max-decode-seconds {_AGAIN}",
}
_LOOKS_LIKE = "looks like "


def commonest_kinds(rejected: pa.Table) -> list[RejectedKind]:
    """Return the commonest kinds of rejected images, the most frequent first, at most `MOST_KINDS`.

    An unsupported format is divided further by what the content looks like, and unreadable files by the storage's
    message. All others are counted by their reason.

    Args:
        rejected: columns ``reason`` and ``detail``, both string.
    """
    counts: Counter[tuple[str, str]] = Counter()
    remedies: dict[tuple[str, str], str] = {}
    columns = ["reason", "detail"]
    for row in (
        rejected.group_by(columns)
        .aggregate([([], "count_all")])
        .sort_by([(name, "ascending") for name in columns])
        .to_pylist()
    ):
        reason, detail = row["reason"] or "", row["detail"] or ""
        kind, remedy = reason.replace("_", " "), _REMEDIES.get(reason, "")
        if reason == Reason.UNSUPPORTED_FORMAT:
            kind, _, remedy = detail.removeprefix(_LOOKS_LIKE).partition(": ")
        elif reason == Reason.UNREADABLE:
            kind = f"unreadable ({detail})"
        counts[reason, kind] += row["count_all"]
        remedies.setdefault((reason, kind), remedy)
    return [
        RejectedKind(reason=reason, kind=kind, images=images, remedy=remedies[reason, kind])
        for (reason, kind), images in counts.most_common(MOST_KINDS)
    ]


def sentence(kind: RejectedKind) -> str:
    """Return a kind as it is printed: ``30 x a Git LFS pointer: run `git lfs pull```."""
    return f"{kind['images']:,} x {kind['kind']}" + (f": {kind['remedy']}" if kind["remedy"] else "")
