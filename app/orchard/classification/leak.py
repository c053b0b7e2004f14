"""Byte-identical images: how many there are, in which splits, and under which labels."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from orchard.layout import Conflicts, Leak, Twins
from orchard.vocabulary import Split

_NAMED = 3


def find_leak(images: pa.Table) -> Leak:
    """Compare the digests of the images.

    Args:
        images: at least ``path, split, digest``; the featurized images of the inventory.
    """
    known = images.filter(pc.is_valid(images.column("digest")))
    split, digest = known.column("split"), known.column("digest")
    in_train = pc.unique(digest.filter(pc.equal(split, Split.TRAIN)))
    in_test = digest.filter(pc.equal(split, Split.TEST))
    copies = pc.struct_field(pc.value_counts(digest), "counts")
    return {
        "test_rows": pc.sum(pc.equal(images.column("split"), Split.TEST), min_count=0).as_py(),
        "test_rows_with_twin_in_train": pc.sum(pc.is_in(in_test, in_train), min_count=0).as_py(),
        "duplicate_rows": pc.sum(copies.filter(pc.greater(copies, 1)), min_count=0).as_py(),
    }


def label_conflicts(images: pa.Table) -> Conflicts:
    """Find images whose bytes another image has under another label.

    Args:
        images: at least ``path, label, digest``; the featurized images of the inventory.
    """
    known = images.filter(pc.and_(pc.is_valid(images["digest"]), pc.is_valid(images["label"])))
    labels = known.group_by("digest").aggregate([("label", "count_distinct")])
    twice = labels.filter(pc.greater(labels["label_count_distinct"], 1))["digest"]
    rows = known.filter(pc.is_in(known["digest"], twice.combine_chunks())).sort_by("path").to_pylist()
    first: dict[str, dict[str, str]] = {}
    pairs: dict[str, Twins] = {}
    for row in rows:
        one = first.setdefault(row["digest"], row)
        if row["label"] != one["label"] and len(pairs) < _NAMED:
            named: Twins = {"paths": [one["path"], row["path"]], "labels": [one["label"], row["label"]]}
            pairs.setdefault(row["digest"], named)
    return {"images": len(rows), "pairs": list(pairs.values())}


def conflict_warnings(conflicts: Conflicts) -> list[str]:
    """Return a sentence that names some of the conflicts; no sentence if there are no conflicts."""
    if not conflicts["images"]:
        return []
    pairs = (
        " and ".join(f"{path} ({label})" for path, label in zip(pair["paths"], pair["labels"], strict=True))
        for pair in conflicts["pairs"]
    )
    return [
        f"{conflicts['images']} images have the same bytes as one of another label, such as {'; '.join(pairs)}: "
        "keep each image under one label."
    ]
