"""Leave-one-out predictions of a linear discriminant for every image, from a single fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from orchard.classification.discriminant import spread
from orchard.reduction.moments import Moments
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import ClassSums


@dataclass(frozen=True)
class Doubts:
    """Doubts about the labels of n images; arrays of shape (n,).

    Attributes:
        margin: score of the label minus that of the best other label; below 0 the other label is likelier.
        other: index of the best other label.
        familiarity: cosine to the mean of the other images of the same label, -1..1. For unrelated things it is about
            0, with a standard deviation of 1 over the root of the number of features.
        familiarity_other: cosine to the mean of the best other label, -1..1.
    """

    margin: NDArray[np.float32]
    other: NDArray[np.intp]
    familiarity: NDArray[np.float32]
    familiarity_other: NDArray[np.float32]


@dataclass(frozen=True)
class LeaveOneOut:
    """A linear discriminant from which any training row can be removed exactly.

    Confident learning (Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
    https://arxiv.org/abs/1911.00068) asks classifiers that were trained without a fold about the fold. Here each row is
    a fold of its own, and none costs a fit: without row x of class g, whose mean is m over n_g rows, the mean becomes
    ``m - u / (n_g - 1)`` with ``u = x - m``, and the scatter within the classes loses ``n_g / (n_g - 1) u uᵀ``, so that
    its inverse follows by Sherman & Morrison (1950, "Adjustment of an inverse matrix"). Scale and shrinkage stay.

    With 5 % of the labels wrong, the 6 % of images with the smallest margin contained all wrong labels, for 58 fruits
    and for 81 groceries. Five random folds gave the same, but need five fits and a second pass. Folds of neighbouring
    frames gave .98 to 1 of the wrong labels.

    Attributes:
        origin: (d,) float32, mean of the training rows.
        whitening: (d, d) float32, maps centred rows to the space in which the spread within the classes is white.
        means: (c, d) float32, the class means in that space.
        counts: (c,) int64, rows of each class.
        weight: weight of a row in the covariance within the classes.
    """

    origin: NDArray[np.float32]
    whitening: NDArray[np.float32]
    means: NDArray[np.float32]
    counts: NDArray[np.int64]
    weight: float

    @classmethod
    def fit(cls, moments: Moments, classes: ClassSums, reduction: Reduction) -> Self:
        """Fit as `orchard.classification.discriminant.fit` does."""
        found = spread(moments, classes, reduction)
        white = found.vectors / np.sqrt(found.values)
        return cls(
            origin=found.mean.astype(np.float32),
            whitening=np.ascontiguousarray(found.inverse[:, np.newaxis] * white, dtype=np.float32),
            means=(found.means @ white).astype(np.float32),
            counts=classes.counts,
            weight=(1 - found.shrinkage) / moments.count,
        )

    def __call__(
        self,
        rows: NDArray[np.float32],
        labels: NDArray[np.intp],
        is_fitted: NDArray[np.bool_],
    ) -> Doubts:
        """Say what the other training rows say of rows (n, d).

        Args:
            rows: features.
            labels: (n,) places of their classes. A class has another training row than the one that is judged.
            is_fitted: (n,) whether a row is a training row.
        """
        z = (rows - self.origin) @ self.whitening
        own, at = self.means[labels], np.arange(len(rows))
        u = z - own
        others = np.maximum(self.counts[labels] - is_fitted, 1)  # rows of the class that stay
        step = np.where(is_fitted, 1 / others, 0).astype(np.float32)
        lost = np.where(is_fitted, self.weight * (1 + step), 0).astype(np.float32)
        length = _dot(u, u)
        gain = lost / np.maximum(1 - lost * length, np.finfo(np.float32).eps)  # the inverse is I + gain u uᵀ

        along = _dot(z, u)[:, np.newaxis] - u @ self.means.T  # (z - mean) u
        distances = _dot(z, z)[:, np.newaxis] - 2 * z @ self.means.T + _dot(self.means, self.means)
        distances += gain[:, np.newaxis] * np.square(along)
        distances[at, labels] = np.square(1 + step) * (length + gain * np.square(length))
        counts = np.broadcast_to(np.log(self.counts), distances.shape).copy()
        counts[at, labels] = np.log(others)
        scores = (counts - distances / 2).astype(np.float32)
        given = scores[at, labels]
        scores[at, labels] = -np.inf
        other = scores.argmax(axis=1)
        return Doubts(
            margin=given - scores[at, other],
            other=other,
            familiarity=_cosine(z, own - step[:, np.newaxis] * u, u, gain),
            familiarity_other=_cosine(z, self.means[other], u, gain),
        )


def _dot(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    product: NDArray[np.floating] = np.einsum("ij,ij->i", a, b)
    return product


def _cosine(
    a: NDArray[np.floating], b: NDArray[np.floating], u: NDArray[np.floating], gain: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Return the cosines of rows, where the inner product is that of ``I + gain u uᵀ``."""

    def inner(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
        product: NDArray[np.floating] = _dot(x, y) + gain * _dot(x, u) * _dot(y, u)
        return product

    lengths = np.sqrt(inner(a, a) * inner(b, b))
    cosine: NDArray[np.float32] = (inner(a, b) / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return cosine
