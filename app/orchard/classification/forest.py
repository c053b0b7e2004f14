"""The forest: extremely randomised trees on the first components, grown in the driver on samples of the rows.

They split at random between the values that rows have (Geurts, Ernst & Wehenkel 2006, "Extremely randomized trees",
Machine Learning 63), which takes a tenth of the time of looking for the best split. On 9,280 training and 2,878 test
images of 58 fruits, 100 trees, two cores: 0.933 in 1.6 s on the first 64 components, 0.949 in 2.3 s on 128, 0.948 in
5 s on all 412; bootstrapped trees with the best splits 0.935 in 12 s on 64. Each tree of a large table grows on rows of
its own, few enough for memory (Breiman 1999, "Pasting small votes for classification in large databases and on-line",
Machine Learning 36), so that neither time nor memory grow with the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import interruption, npz
from orchard.classification.rows import Rows, sort_by_path, weights_of
from orchard.datasets import matrix
from orchard.images.selection import drawn
from orchard.machine import available_cores
from orchard.reduction.statistics import Role

# scikit-learn takes labels of few images for numbers to be estimated, and says so of each tree.
warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%", UserWarning)

COMPONENTS = 128
"""Number of leading components that the forest uses."""
TREES = 100
TREE_ROWS = 16_384
"""Training rows of one tree, at most."""
ROWS = 131_072
"""Training rows that the driver holds for all trees, about: 64 MB with 128 components."""

# A tree of scikit-learn has twice the nodes of its rows at the most, each with 64 bytes and the share of every class.
_NODE_BYTES, _CLASS_BYTES = 64, 8


@dataclass(frozen=True)
class Forest:
    """Grown trees, as arrays over the nodes of all.

    Attributes:
        labels: names of the n_classes classes.
        roots: (n_trees,) int32, the first node of each tree.
        features: (n_nodes,) int16, the component that a node compares; -1: it is a leaf.
        thresholds: (n_nodes,) float32; a row whose component is at most this goes left.
        left, right: (n_nodes,) int32, the child nodes; 0 for leaves.
        entries: (n_nodes + 1,) int32; node i has the entries ``entries[i]`` up to, without, ``entries[i + 1]``.
        classes: (n_entries,) int32, the class of each entry.
        shares: (n_entries,) float32, 0..1, its share of the training rows in the leaf.
    """

    labels: tuple[str, ...]
    roots: NDArray[np.int32]
    features: NDArray[np.int16]
    thresholds: NDArray[np.float32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    entries: NDArray[np.int32]
    classes: NDArray[np.int32]
    shares: NDArray[np.float32]

    def __call__(self, components: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probabilities (n, n_classes) of rows (n, k): the mean of what the trees say."""
        n = len(components)
        found = np.zeros((n, len(self.labels)), np.float32)
        columns = np.ascontiguousarray(components[:, : self.features.max(initial=0) + 1].T)
        for root in self.roots.tolist():
            node = np.full(n, root, np.int32)
            rows = np.arange(n)
            while len(rows):
                at = node[rows]
                feature = self.features[at]
                inside = feature >= 0
                rows, at, feature = rows[inside], at[inside], feature[inside]
                goes_left = columns[feature, rows] <= self.thresholds[at]
                node[rows] = np.where(goes_left, self.left[at], self.right[at])
            start, count = self.entries[node], self.entries[node + 1] - self.entries[node]
            row = np.repeat(np.arange(n), count)
            entry = np.arange(len(row)) + np.repeat(start - (np.cumsum(count) - count), count)
            found[row, self.classes[entry]] += self.shares[entry]  # a leaf names a class once
        found /= len(self.roots)
        return found

    def to_bytes(self) -> bytes:
        """Return an ``.npz`` file of the arrays, without pickles."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return npz.dump(arrays | {"labels": np.array(self.labels, np.str_)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote. Raises ValueError or KeyError if it is something else."""
        arrays: dict[str, Any] = npz.load(data)
        return cls(**{field.name: arrays[field.name] for field in fields(cls)} | {"labels": tuple(arrays["labels"])})


def grow(read: Rows, n: int, labels: Sequence[str], *, seed: int, memory: int) -> tuple[Forest | None, str | None]:
    """Grow a forest in the driver.

    Args:
        read: yields the rows.
        n: number of rows that are for training and have a label.
        labels: the labels that occur in training, sorted.
        seed: seed of the samples of rows and of the trees.
        memory: bytes that the trees may take while they grow.

    Returns:
        The forest, or None if memory is too small for any tree; and a sentence if memory was too small for whole trees.

    Raises:
        KeyboardInterrupt: the command is to end.
    """
    wanted = min(n, TREE_ROWS)
    row_bytes = 2 * (_NODE_BYTES + _CLASS_BYTES * len(labels))
    tree_rows = min(wanted, memory // row_bytes)
    lack = None
    if tree_rows < wanted:
        more = f"give it more (--classifier-memory {-(-row_bytes * wanted // 2**20)}m)"
        has = f"{memory / 2**20:,.0f} MB of the driver's memory"
        if tree_rows < 2 * len(labels):
            return None, (
                f"The random forest was left out: its trees of {len(labels):,} classes do not fit into {has}; {more}, "
                "or do without it (--classifiers linear_discriminant,logistic_regression)."
            )
        lack = f"The trees of the random forest have seen {tree_rows:,} images each: no more fit into {has}; {more}."
    rows, classes, weights = _sample(read, labels, min(1.0, ROWS / max(1, n)), seed)

    def tree(state: int) -> tuple[NDArray[Any], ...]:
        from sklearn.tree import ExtraTreeClassifier

        interruption.check()
        chosen = np.random.default_rng(state).choice(len(rows), min(tree_rows, len(rows)), replace=False)
        grown = ExtraTreeClassifier(max_features="sqrt", random_state=state)
        return _plain(grown.fit(rows[chosen], classes[chosen], sample_weight=weights[chosen]))

    states = np.random.SeedSequence(seed).generate_state(TREES).tolist()
    side_by_side = min(available_cores(), max(1, memory // (row_bytes * tree_rows)))
    with ThreadPoolExecutor(side_by_side, thread_name_prefix="orchard-trees") as threads:
        return _joined(tuple(labels), list(threads.map(tree, states))), lack


def _sample(
    read: Rows, labels: Sequence[str], share: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return a drawn share of the labelled training rows: first components, classes and weights, ordered by path."""
    names = pa.array(labels, pa.string())
    rows, classes, weights, paths = [], [], [], []
    for batch, roles in read:
        found = np.asarray(pc.fill_null(pc.index_in(batch.column("label"), names), -1))
        is_chosen = (roles != Role.NONE) & (found >= 0)
        if share < 1:
            is_chosen &= drawn(batch.column("path"), share, seed, "forest")
        at = np.flatnonzero(is_chosen)
        rows.append(matrix(batch.column("pca_features"))[at, :COMPONENTS])
        classes.append(found[at].astype(np.int64))
        weights.append(weights_of(batch)[at])
        paths.append(batch.column("path").take(pa.array(at)))
    components, codes, weighing = np.concatenate(rows), np.concatenate(classes), np.concatenate(weights)
    sort_by_path(paths, components, codes, weighing)
    return components, codes, weighing


def _plain(grown: Any) -> tuple[NDArray[Any], ...]:
    """Return a scikit-learn tree as the arrays of `Forest` from ``features`` on, with counts for ``entries``."""
    tree = grown.tree_
    features = np.maximum(tree.feature, -1).astype(np.int16)
    # Rows are float32, so a row is below a threshold if it is below the next float32 that is not above it.
    thresholds = tree.threshold.astype(np.float32)
    thresholds = np.where(thresholds > tree.threshold, np.nextafter(thresholds, np.float32(-np.inf)), thresholds)
    leaves = np.flatnonzero(features < 0)
    at, column = np.nonzero(tree.value[leaves, 0])
    shares = tree.value[leaves[at], 0, column].astype(np.float32)
    counts = np.bincount(leaves[at], minlength=len(features))
    classes = grown.classes_[column].astype(np.int32)
    left, right = (below.astype(np.int32) for below in (tree.children_left, tree.children_right))  # copies: let it go
    return features, thresholds, left, right, counts, classes, shares


def _joined(labels: tuple[str, ...], trees: Sequence[tuple[NDArray[Any], ...]]) -> Forest:
    features, thresholds, left, right, counts, classes, shares = (list(parts) for parts in zip(*trees, strict=True))
    roots = np.cumsum([0, *map(len, features[:-1])]).astype(np.int32)
    below = [
        np.concatenate(
            [np.where(nodes > 0, nodes + root, 0).astype(np.int32) for nodes, root in zip(side, roots, strict=True)]
        )
        for side in (left, right)
    ]
    return Forest(
        labels,
        roots,
        np.concatenate(features),
        np.concatenate(thresholds),
        left=below[0],
        right=below[1],
        entries=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int32),
        classes=np.concatenate(classes),
        shares=np.concatenate(shares),
    )
