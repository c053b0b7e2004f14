"""Byte-identical images: how many there are, and how many test images have a twin in training."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from orchard.schemas import Leak, Split


def find_leak(inventory: pa.Table, rows: pa.Table) -> Leak:
    """Compare the digests of the images.

    Args:
        inventory: at least ``path, digest``; of images that were worked on, featurized or not.
        rows: at least ``path, split``; of the featurized images.
    """
    # No digest: the image could not be read, or was never listed; it is nobody's twin.
    known = inventory.select(["path", "digest"]).filter(pc.is_valid(inventory.column("digest")))
    joined = rows.select(["path", "split"]).join(known, "path", join_type="inner")
    split, digest = joined.column("split"), joined.column("digest")
    in_train = pc.unique(digest.filter(pc.equal(split, Split.TRAIN)))
    in_test = digest.filter(pc.equal(split, Split.TEST))
    copies = pc.struct_field(pc.value_counts(digest), "counts")
    return {
        "test_rows": pc.sum(pc.equal(rows.column("split"), Split.TEST), min_count=0).as_py(),
        "test_rows_with_twin_in_train": pc.sum(pc.is_in(in_test, in_train), min_count=0).as_py(),
        "duplicate_rows": pc.sum(copies.filter(pc.greater(copies, 1)), min_count=0).as_py(),
    }
