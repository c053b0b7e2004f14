"""The results of one pass over the features: moments of all training rows, and the sums of each class.

Scaler, PCA and linear discriminants are fitted on them without reading a row again, on all training rows or on those
that are not held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard import npz
from orchard.reduction.moments import Moments


class Role(IntEnum):
    """The use of a row: fitting, choosing and calibrating, or neither."""

    NONE = 0
    """It is for testing: nothing is fitted on it."""
    FIT = 1
    HELD_OUT = 2
    """Classifiers are chosen and calibrated on it; if it is a training row, all is fitted again with it in the end."""


@dataclass(frozen=True)
class ClassSums:
    """The number of rows of each class, and their sum.

    Attributes:
        names: names of the c classes, sorted.
        counts: (c,) int64, number of rows; float64 if they have weights.
        sums: (c, d) float64, sum of the rows.
    """

    names: tuple[str, ...]
    counts: NDArray[Any]
    sums: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.floating], names: Sequence[str | None]) -> Self:
        """Return the sums of rows (n, d) of the classes `names` (n,); rows whose class is None are left out."""
        named = np.array([name is not None for name in names], bool)
        classes, codes = np.unique(np.array([name for name in names if name is not None], np.str_), return_inverse=True)
        sums = np.zeros((len(classes), rows.shape[1]))
        chosen = rows if named.all() else rows[named]
        order = np.argsort(codes, kind="stable")  # sums of runs: many times as fast as adding row by row
        counts = np.bincount(codes, minlength=len(classes))
        if len(order):
            starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
            sums = np.add.reduceat(chosen[order], starts, axis=0, dtype=np.float64)
        return cls(tuple(classes.tolist()), counts.astype(np.int64), sums)

    def scaled(self, factor: float) -> Self:
        """Return the sums of the same rows, each with the weight `factor`."""
        return type(self)(self.names, self.counts * factor, self.sums * factor)

    def merge(self, other: Self) -> Self:
        """Return the sums of the rows of both."""
        if self.names == other.names:
            return type(self)(self.names, self.counts + other.counts, self.sums + other.sums)
        names = tuple(sorted({*self.names, *other.names}))
        place = {name: index for index, name in enumerate(names)}
        counts = np.zeros(len(names), np.result_type(self.counts, other.counts))
        sums = np.zeros((len(names), max(self.sums.shape[1], other.sums.shape[1])))
        for part in (self, other):
            if part.names:
                at = [place[name] for name in part.names]
                counts[at] += part.counts
                sums[at] += part.sums
        return type(self)(names, counts, sums)


@dataclass(frozen=True)
class Sums:
    """All sums over the rows of one `Role`.

    Attributes:
        moments: moments of all rows, for scaler and PCA.
        labelled: moments of the rows with a label.
        columns: class sums of each label column, ``label`` first; rows without a value in a column are left out.
        valued: for each label column except ``label``, the moments of the rows with a value.
    """

    moments: Moments
    labelled: Moments
    columns: dict[str, ClassSums] = field(default_factory=dict)
    valued: dict[str, Moments] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: NDArray[np.floating],
        columns: dict[str, Sequence[str | None]],
        shift: NDArray[np.floating] | None = None,
    ) -> Self:
        """Return the sums of rows (n, d) with the values of each label column (n,)."""
        moments = Moments.of(rows, shift)
        # Columns that have values in the same rows, which is usual, share one Gram matrix.
        found = {np.ones(len(rows), bool).tobytes(): moments}
        valued: dict[str, Moments] = {}
        for name, values in columns.items():
            named = np.array([value is not None for value in values], bool)
            rows_named = named.tobytes()
            if rows_named not in found:
                found[rows_named] = Moments.of(rows[named], moments.shift)
            valued[name] = found[rows_named]
        labelled = valued.pop("label")
        return cls(moments, labelled, {name: ClassSums.of(rows, values) for name, values in columns.items()}, valued)

    def scaled(self, factor: float) -> Self:
        """Return the sums of the same rows, each with a weight; below 0 they take from what they are merged with."""
        found: dict[int, Moments] = {}

        def scaled(moments: Moments) -> Moments:
            return found.setdefault(id(moments), moments.scaled(factor))

        return type(self)(
            scaled(self.moments),
            scaled(self.labelled),
            {name: sums.scaled(factor) for name, sums in self.columns.items()},
            {name: scaled(moments) for name, moments in self.valued.items()},
        )

    def of_column(self, name: str) -> Moments:
        """Return the moments of the rows with a value in a label column."""
        return self.labelled if name == "label" else self.valued[name]

    def merge(self, other: Self) -> Self:
        """Return the sums of the rows of both."""
        found: dict[tuple[int, int], Moments] = {}  # what both share is added once

        def merged(one: Moments, another: Moments) -> Moments:
            pair = id(one), id(another)
            if pair not in found:
                found[pair] = one.merge(another)
            return found[pair]

        return type(self)(
            merged(self.moments, other.moments),
            merged(self.labelled, other.labelled),
            {name: sums.merge(other.columns[name]) for name, sums in self.columns.items()},
            {name: merged(moments, other.valued[name]) for name, moments in self.valued.items()},
        )


@dataclass(frozen=True)
class Statistics:
    """The sums of the rows to fit on, and of the held-out rows.

    Attributes:
        fit: sums of the rows of `Role.FIT`.
        held_out: sums of the held-out rows; None if these are a validation split that is not fitted on.
        roles: (n,) int8, the `Role` of every row of the features, in the order of their files. Judging a classifier
            needs the same held-out rows.
        is_validation: whether the held-out rows are the validation split.
        fit_views, held_out_views: sums of the random views of these rows; None: there are no views.
        fit_weights, held_out_weights: corrections for the sources' weights, to be merged for a discriminant: the sums
            of the rows (and views) of weight w, times w - 1; None: every row has the weight 1.
        weights: (n,) float32, the weight of every row of the features, in the order of `roles`; None: all are 1.
    """

    fit: Sums
    held_out: Sums | None = None
    roles: NDArray[np.int8] = field(default_factory=lambda: np.empty(0, np.int8))
    is_validation: bool = False
    fit_views: Sums | None = None
    held_out_views: Sums | None = None
    fit_weights: Sums | None = None
    held_out_weights: Sums | None = None
    weights: NDArray[np.float32] | None = None

    @property
    def everything(self) -> Sums:
        """Of all training rows."""
        return self.fit if self.held_out is None else self.fit.merge(self.held_out)

    @property
    def fit_seen(self) -> Sums:
        """Of the rows of `Role.FIT` and their views, by their weights."""
        return _merged(self.fit, self.fit_views, self.fit_weights)

    @property
    def everything_seen(self) -> Sums:
        """Of all training rows and their views, by their weights."""
        return _merged(self.fit_seen, self.held_out, self.held_out_views, self.held_out_weights)

    def to_bytes(self) -> bytes:
        """Return an ``.npz`` file, without pickles: of the labelled rows, which is what classifiers need."""
        arrays: dict[str, Any] = {"roles": self.roles, "is_validation": self.is_validation}
        if self.weights is not None:
            arrays["weights"] = self.weights
        for role, sums in (
            ("fit", self.fit),
            ("held_out", self.held_out),
            ("fit_views", self.fit_views),
            ("held_out_views", self.held_out_views),
            ("fit_weights", self.fit_weights),
            ("held_out_weights", self.held_out_weights),
        ):
            if sums is None:
                continue
            arrays |= _arrays(role, sums.labelled)
            for name, moments in sums.valued.items():
                if moments is not sums.labelled:
                    arrays |= _arrays(f"{role}/{name}", moments)
            for name, classes in sums.columns.items():
                arrays |= {
                    f"{role}/{name}/names": np.array(classes.names, np.str_),
                    f"{role}/{name}/counts": classes.counts,
                    f"{role}/{name}/sums": classes.sums,
                }
        return npz.dump(arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote; unlabelled rows are gone."""
        found: dict[str, Sums] = {}
        arrays = npz.load(data)
        for role in ("fit", "held_out", "fit_views", "held_out_views", "fit_weights", "held_out_weights"):
            if f"{role}/count" not in arrays:
                continue
            moments = _moments(arrays, role)
            names = [key.split("/")[1] for key in arrays if key.startswith(f"{role}/") and key.endswith("/names")]
            columns = {
                name: ClassSums(
                    tuple(arrays[f"{role}/{name}/names"].tolist()),
                    arrays[f"{role}/{name}/counts"],
                    arrays[f"{role}/{name}/sums"],
                )
                for name in names
            }
            valued = {
                name: _moments(arrays, f"{role}/{name}") if f"{role}/{name}/count" in arrays else moments
                for name in names
                if name != "label"
            }
            found[role] = Sums(moments, moments, columns, valued)
        return cls(
            found["fit"],
            found.get("held_out"),
            arrays["roles"],
            bool(arrays["is_validation"]),
            found.get("fit_views"),
            found.get("held_out_views"),
            found.get("fit_weights"),
            found.get("held_out_weights"),
            arrays.get("weights"),
        )


def _merged(first: Sums, *others: Sums | None) -> Sums:
    return reduce(Sums.merge, [sums for sums in others if sums is not None], first)


def _arrays(prefix: str, moments: Moments) -> dict[str, Any]:
    """Return moments as arrays of a file."""
    names = ("count", "shift", "sum", "gram")
    return {f"{prefix}/{name}": value for name, value in zip(names, moments.__getstate__(), strict=True)}


def _moments(arrays: dict[str, NDArray[Any]], prefix: str) -> Moments:
    """Undo `_arrays`."""
    moments = Moments.__new__(Moments)
    shift, total, gram = (arrays[f"{prefix}/{name}"] for name in ("shift", "sum", "gram"))
    moments.__setstate__((arrays[f"{prefix}/count"].item(), shift, total, gram))
    return moments
