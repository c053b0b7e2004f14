"""Facts about the data: formats, shapes, sizes, and the number of images of each label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchard.layout import DataMetrics


def describe(images: pa.Table, sizes: pa.Table) -> DataMetrics:
    """Return facts about the featurized images, of which there is at least one.

    Args:
        images: ``label, format`` of the inventory.
        sizes: ``width, height`` of the features.
    """
    counts = pc.value_counts(images["format"].drop_null()).to_pylist()
    width, height = (np.asarray(sizes[name], np.int64) for name in ("width", "height"))
    pixels = width * height
    powers, many = np.unique(np.floor(np.log2(np.maximum(pixels, 1))).astype(int), return_counts=True)
    smallest, largest = int(pixels.argmin()), int(pixels.argmax())
    labels = np.sort(np.asarray(pc.struct_field(pc.value_counts(images["label"].drop_null()), "counts")))
    return DataMetrics(
        formats={row["values"]: row["counts"] for row in sorted(counts, key=lambda row: -row["counts"])},
        shapes={
            "landscape": int((width > height).sum()),
            "portrait": int((width < height).sum()),
            "square": int((width == height).sum()),
        },
        pixels={str(2**power): count for power, count in zip(powers.tolist(), many.tolist(), strict=True)},
        smallest=[int(width[smallest]), int(height[smallest])],
        largest=[int(width[largest]), int(height[largest])],
        labels=len(labels),
        images_a_label={"fewest": int(labels[0]), "median": float(np.median(labels)), "most": int(labels[-1])}
        if len(labels)
        else {},
    )
