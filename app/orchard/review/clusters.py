"""Clusters of near twins: images linked by pairs that are similar enough."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.files import read_columns
from orchard.images.lookup import PathIndex
from orchard.layout import ClusterMetrics, Dataset
from orchard.neighbours.twins import is_near
from orchard.output import Output

_LARGEST, _PATHS = 10, 20
PAIRS = pa.schema([("image", pa.int32()), ("like", pa.int32()), ("similarity", pa.float32())])
"""The places of an image and of a training image that is its near twin: twelve bytes, where two paths take some two
hundred, and of a million images that are all alike there are five million pairs."""


def near_pairs(output: Output, images: PathIndex, threshold: float) -> pa.Table:
    """Return the pairs of `PAIRS` in ``neighbours/``, the nearest of each image first.

    Args:
        output: with neighbours; one file is in memory at a time, and the pairs.
        images: all that have neighbours.
        threshold: cosine from which images are near twins.
    """
    found = [PAIRS.empty_table()]
    for file in output.files(Dataset.NEIGHBOURS):
        rows = read_columns(output.storage, file)
        similarities = np.asarray(pc.list_flatten(rows["similarities"]), np.float32)
        at = np.flatnonzero(is_near(similarities, threshold))
        row = np.asarray(pc.list_parent_indices(rows["neighbours"]), np.int64)[at]
        like = images.places(pc.list_flatten(rows["neighbours"]).take(pa.array(at)))
        found.append(pa.table([images.places(rows["path"])[row], like, similarities[at]], PAIRS.names).cast(PAIRS))
    return pa.concat_tables(found)


def clusters(paths: pa.ChunkedArray, pairs: pa.Table) -> ClusterMetrics:
    """Return the figures of the clusters that pairs (`PAIRS`) link; places are indices in `paths`."""
    root = _roots(len(paths), *(np.asarray(pairs[name], np.int64) for name in ("image", "like")))
    names, counts = np.unique(root, return_counts=True)
    is_one = counts > 1
    order = np.argsort(-counts[is_one], kind="stable")[:_LARGEST]
    largest = [paths.take(pa.array(np.flatnonzero(root == name)[:_PATHS])) for name in names[is_one][order]]
    return ClusterMetrics(
        clusters=int(is_one.sum()),
        images=int(counts[is_one].sum()),
        largest=[sorted(some.to_pylist()) for some in largest],
    )


def _roots(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each of n nodes the least node that edges (a, b) link it to.

    Least labels are passed along all edges at once and shortened by pointer jumping, as in the parallel algorithm of
    Shiloach & Vishkin (1982, "An O(log n) parallel connectivity algorithm"): a few rounds of array operations.
    """
    root = np.arange(n)
    while True:
        least = np.minimum(root[a], root[b])
        new = root.copy()
        np.minimum.at(new, root[a], least)
        np.minimum.at(new, root[b], least)
        while not np.array_equal(jumped := new[new], new):
            new = jumped
        if np.array_equal(new, root):
            return root
        root = new
