"""Nearest rows by cosine: exact, block by block, and by cells around centres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAREST = 5
"""Neighbours of each image."""

BLOCK_ROWS = 2048
"""Number of queries, and of base rows, that are compared at a time: 16 MB of similarities."""

CELL_ROWS = 1024
"""Training rows of a cell, roughly. The number of cells follows from it, so that a query is compared with about as many
rows however many there are."""

PROBES = 8
"""Number of cells in which an image's neighbours are searched."""


@dataclass
class Nearest:
    """The nearest rows found so far, for each of n queries.

    Attributes:
        rows: (n, k) int64, numbers of base rows, the nearest first; -1 where there are fewer.
        similarities: (n, k) float32, falling; -inf where there are fewer.
        other: (n,) float32, the highest similarity to a row of another label; -inf if there was none.
    """

    rows: NDArray[np.int64]
    similarities: NDArray[np.float32]
    other: NDArray[np.float32]

    @classmethod
    def none(cls, queries: int, k: int = NEAREST) -> Nearest:
        """Return the state before any row was compared."""
        return cls(
            np.full((queries, k), -1, np.int64),
            np.full((queries, k), -np.inf, np.float32),
            np.full(queries, -np.inf, np.float32),
        )

    def meet(
        self,
        queries: NDArray[np.float32],
        base: NDArray[np.float32],
        numbers: NDArray[np.int64],
        *,
        itself: NDArray[np.int64],
        labels: NDArray[np.integer],
        base_labels: NDArray[np.integer],
    ) -> None:
        """Compare the queries with further rows, in blocks.

        Args:
            queries: (n, m), rows of length 1.
            base: (b, m), rows of length 1.
            numbers: (b,) the base rows' numbers, rising, which name them in the result.
            itself: (n,) number of the base row that is the query itself and is left out; -1: there is none.
            labels: (n,) the queries' labels as numbers; -1: no label, so no row counts as having another label.
            base_labels: (b,) the base rows' labels as numbers.
        """
        for start in range(0, len(queries), BLOCK_ROWS):
            mine = slice(start, start + BLOCK_ROWS)
            for first in range(0, len(base), BLOCK_ROWS):
                theirs = slice(first, first + BLOCK_ROWS)
                similarity = queries[mine] @ base[theirs].T
                similarity[_where(itself[mine], numbers[theirs])] = -np.inf
                self._take(mine, similarity, numbers[theirs])
                np.copyto(similarity, -np.inf, where=labels[mine, None] == base_labels[None, theirs])
                similarity[:, base_labels[theirs] < 0] = -np.inf
                other = np.where(labels[mine] < 0, -np.inf, similarity.max(axis=1))
                self.other[mine] = np.maximum(self.other[mine], other)

    def _take(self, mine: slice, similarity: NDArray[np.float32], numbers: NDArray[np.int64]) -> None:
        """Merge the nearest of a block into those of the queries `mine`."""
        k = self.rows.shape[1]
        highest = _highest(similarity, k)
        at = np.flatnonzero(highest.max(axis=1) > self.similarities[mine, -1])  # few, after the first blocks
        if not len(at):
            return
        found, columns = _largest(similarity, at, highest[at], k)
        at += mine.start
        every = np.concatenate([self.similarities[at], found], axis=1)
        rows = np.concatenate([self.rows[at], np.where(np.isneginf(found), -1, numbers[columns])], axis=1)
        order = np.argsort(-every, axis=1, kind="stable")[:, :k]
        self.similarities[at] = np.take_along_axis(every, order, axis=1)
        self.rows[at] = np.take_along_axis(rows, order, axis=1)

    def merge(self, other: Nearest) -> Nearest:
        """Return the nearest of both, for the same queries."""
        every = np.concatenate([self.similarities, other.similarities], axis=1)
        rows = np.concatenate([self.rows, other.rows], axis=1)
        order = np.argsort(-every, axis=1, kind="stable")[:, : self.rows.shape[1]]
        return Nearest(
            np.take_along_axis(rows, order, axis=1),
            np.take_along_axis(every, order, axis=1),
            np.maximum(self.other, other.other),
        )


def centres(rows: NDArray[np.float32], count: int, *, seed: int, rounds: int = 8) -> NDArray[np.float32]:
    """Return centres of cells (count, m), of length 1, by spherical k-means (Dhillon & Modha 2001).

    An image's neighbours lie in the cells around the nearest centres: this is the inverted file of Sivic & Zisserman
    (2003) and of Jégou, Douze & Schmid (2011). Near twins, for which the search is made, fall into one cell, as in
    SemDeDup.

    Args:
        rows: (n, m), a sample of rows of length 1.
        count: number of cells, at most n.
        seed: seed of the draw of the first centres.
        rounds: number of times that the centres are moved.
    """
    rng = np.random.default_rng(seed)
    found = rows[rng.choice(len(rows), min(count, len(rows)), replace=False)].copy()
    for _ in range(rounds):
        nearest = np.concatenate([(block @ found.T).argmax(axis=1) for block in _blocks(rows)])
        order = np.argsort(nearest, kind="stable")
        cells, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(rows[order], starts, axis=0)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        found[cells] = np.divide(sums, length, out=found[cells], where=length > 0)
        empty = np.setdiff1d(np.arange(len(found)), cells)  # they go where rows are
        found[empty] = rows[rng.choice(len(rows), len(empty), replace=False)]
    return found


def probed(rows: NDArray[np.float32], found: NDArray[np.float32], probes: int = PROBES) -> NDArray[np.int32]:
    """Return the cells (n, probes) in which the neighbours of rows (n, m) are searched, the nearest first."""
    probes = min(probes, len(found))
    cells = []
    for block in _blocks(rows):
        similarity = block @ found.T
        best = np.argpartition(-similarity, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1, kind="stable")
        cells.append(np.take_along_axis(best, order, axis=1))
    return np.concatenate(cells).astype(np.int32) if cells else np.empty((0, probes), np.int32)


def _where(itself: NDArray[np.int64], numbers: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which queries are base rows themselves, and the places of these."""
    at = np.minimum(np.searchsorted(numbers, itself), len(numbers) - 1)
    queries = np.flatnonzero(numbers[at] == itself)
    return queries, at[queries]


def _highest(values: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the highest value (n, g) of each group of columns of (n, b); of g groups, column j is in group j % g.

    There are so many groups that looking through them and then through `k` of them is the least work.
    """
    n, b = values.shape
    groups = min(b, max(k, round((k * b) ** 0.5)))
    whole = b // groups * groups
    highest: NDArray[np.float32] = values[:, :whole].reshape(n, -1, groups).max(axis=1)
    np.maximum(highest[:, : b - whole], values[:, whole:], out=highest[:, : b - whole])
    return highest


def _largest(
    values: NDArray[np.float32], rows: NDArray[np.intp], highest: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the k largest of `values` (n, b) in some `rows` (r,), and their columns, (r, k) each; all b if k is more.

    The k largest lie in the k groups with the highest values: no other group can hold one. So few columns are sorted.

    Args:
        values: as `_highest` got them.
        rows: numbers of rows.
        highest: (r, g) of these, as `_highest` returned them.
        k: number of columns.
    """
    b, groups = values.shape[1], highest.shape[1]
    if groups > k:
        best = np.argpartition(highest, groups - k, axis=1)[:, -k:]
    else:
        best = np.broadcast_to(np.arange(groups), highest.shape)
    columns = (best[:, None] + groups * np.arange(-(-b // groups))[:, None]).reshape(len(rows), -1)
    is_one = columns < b
    columns = np.minimum(columns, b - 1)
    found = np.where(is_one, values[rows[:, None], columns], -np.inf)
    if found.shape[1] <= k:
        return found, columns
    chosen = np.argpartition(found, found.shape[1] - k, axis=1)[:, -k:]
    return np.take_along_axis(found, chosen, axis=1), np.take_along_axis(columns, chosen, axis=1)


def _blocks(rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS)]
