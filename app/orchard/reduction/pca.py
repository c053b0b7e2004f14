"""Standard scaling and principal component analysis, fitted from moments, as one affine map."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard import npz
from orchard.errors import TrainingError, UsageError
from orchard.machine import blas_threads
from orchard.reduction.moments import Moments


@dataclass(frozen=True)
class Reduction:
    """A fitted scaler and PCA: scikit-learn's ``StandardScaler``, whose scale here has a floor, and ``PCA``.

    No feature is divided by less than the median of all features' standard deviations. A feature that hardly varies in
    training, as many do before a white background, would otherwise decide alone on any other photograph: trained on 58
    studio fruits, deviations go down to 2e-5, and photographs from shops reach a z of 186,000; with the median as floor
    44, at the same accuracy (benchmarks/honesty.py). A constant of the deviations' own distribution in the denominator
    is how Tusher, Tibshirani & Chu (2001, "Significance analysis of microarrays", PNAS 98) tame small variances.

    Zero-variance features get scale 1 and take no part in the components: their share of the total variance
    is nil, instead of a division by zero.

    Attributes:
        mean_: (d,) float64, of the training rows.
        scale_: (d,) float64, standard deviation (ddof=0), or the median of all features' where that is larger; 1 where
            it is zero.
        components_: (k, d) float64, orthonormal; the entry of largest magnitude of each is positive.
        explained_variance_: (k,) float64, variance (ddof=1) of the scaled training rows along each component.
        explained_variance_ratio_: (min(n, d),) float64, share of the total variance of *every* component, falling;
            sums to 1, or is all 0 if the training rows do not differ.
        zero_variance_features_: how many features are constant in training.
        n_samples_: training rows.
    """

    mean_: NDArray[np.float64]
    scale_: NDArray[np.float64]
    components_: NDArray[np.float64]
    explained_variance_: NDArray[np.float64]
    explained_variance_ratio_: NDArray[np.float64]
    zero_variance_features_: int
    n_samples_: int

    @classmethod
    def fit(cls, moments: Moments, *, variance: float | None = 0.95, components: int | None = None) -> Self:
        """Fit on the moments of the training rows.

        Args:
            moments: of n rows of d features, n >= 1.
            variance: keep the fewest components that hold at least this share of the variance, 0 < variance <= 1.
            components: keep this many instead; never more than the rank of the training rows, and at least one
                (a zero one if there is one row only, or if all rows are equal).

        Raises:
            TrainingError: no rows.
            UsageError: `variance` or `components` out of range, or neither given.
        """
        _check(variance, components)
        if not moments.count:
            raise TrainingError(
                "There are no training rows to fit scaler and PCA on: put images under a train split, "
                "or leave the splits to Orchard."
            )
        n, d = int(moments.count), moments.n_features  # each row counts once
        scatter = moments.scatter
        # Below what rounding leaves of n additions, a variance is zero.
        noise = n * np.finfo(np.float64).eps * np.diagonal(moments.gram)
        constant = np.diagonal(scatter) <= noise
        deviation = np.sqrt(np.where(constant, 0.0, np.diagonal(scatter) / n))
        varying = np.flatnonzero(~constant)
        floor = np.median(deviation[varying]) if len(varying) else 0.0
        scale = np.where(constant, 1.0, np.maximum(deviation, floor))

        # PCA of the scaled rows is the eigen-decomposition of their covariance
        # (Jolliffe 2002, "Principal Component Analysis", section 2.3).
        covariance = scatter if len(varying) == d else scatter[np.ix_(varying, varying)]
        covariance = covariance / (n * scale[varying])
        covariance /= scale[varying][:, None]
        with blas_threads():
            values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        precision = len(varying) * np.finfo(np.float64).eps * values.max(initial=0.0)
        rank = min(int((values > precision).sum()), n - 1)

        spectrum = np.zeros(min(n, d))
        spectrum[:rank] = values[:rank]
        ratio = spectrum / (spectrum.sum() or 1.0)
        k = max(1, min(rank, components if components is not None else _enough(ratio, variance)))

        basis = np.zeros((k, d))
        if rank:
            basis[:, varying] = _fix_signs(vectors[:, :k].T)
        explained = spectrum[:k] * (n / max(n - 1, 1))  # ddof=1, as scikit-learn has it
        return cls(moments.mean, scale, basis, explained, ratio, int(constant.sum()), n)

    @property
    def n_components_(self) -> int:
        """k, the length of a reduced row."""
        return len(self.components_)

    @property
    def explained_variance_share(self) -> float:
        """Share of the total variance, 0..1, that the k components hold."""
        return min(1.0, float(self.explained_variance_ratio_[: self.n_components_].sum()))

    def affine(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return origin (d,), weights (d, k) and bias (k,): reduced = (features - origin) @ weights + bias.

        The origin is the mean rounded to float32, so that the subtraction loses nothing however large the mean
        is; the bias holds what the rounding left out.
        """
        weights = (self.components_ / self.scale_).T
        origin = self.mean_.astype(np.float32)
        bias = (origin.astype(np.float64) - self.mean_) @ weights
        return origin, np.ascontiguousarray(weights, dtype=np.float32), bias.astype(np.float32)

    def transform(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the principal components (n, k) float32 of features (n, d)."""
        return Projection(*self.affine())(rows)

    def to_bytes(self) -> bytes:
        """Return the reduction as an ``.npz`` file, without pickles."""
        return npz.dump({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the reduction that `to_bytes` wrote."""
        arrays = npz.load(data)
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        for name in ("zero_variance_features_", "n_samples_"):
            values[name] = int(values[name])
        return cls(**values)


@dataclass(frozen=True)
class Projection:
    """The affine map of a `Reduction`, as workers need it; see `Reduction.affine`."""

    origin: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (n, k) float32 of features (n, d)."""
        centred = (rows - self.origin).astype(np.float32, copy=False)
        reduced: NDArray[np.float32] = centred @ self.weights
        reduced += self.bias
        return reduced


def _check(variance: float | None, components: int | None) -> None:
    if components is not None and components < 1:
        raise UsageError(f"components is {components}: ask for at least 1.")
    if components is None and (variance is None or not 0 < variance <= 1):
        raise UsageError(f"variance is {variance}: give a share above 0 and up to 1, such as 0.95, or components.")


def _enough(ratio: NDArray[np.float64], variance: float | None) -> int:
    """Return the fewest components that hold the share `variance`; the last bits of a sum do not count."""
    return int(np.searchsorted(np.cumsum(ratio), (variance or 1.0) - 1e-12)) + 1


def _fix_signs(components: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the entry of largest magnitude of each row (k, d) positive: eigenvectors have no sign of their own."""
    largest = np.argmax(np.abs(components), axis=1, keepdims=True)
    signed: NDArray[np.float64] = components * np.sign(np.take_along_axis(components, largest, axis=1))
    return signed
