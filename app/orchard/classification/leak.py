"""Byte-identical images: how many there are, and how many test images have a twin in training."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from orchard.layout import Leak, Split


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
