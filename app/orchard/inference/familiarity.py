"""Familiarity: how near an image is to the training images, in a space that whitens the spread within classes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard import npz

KNOWN = 0.98
"""Share of held-out images of known classes that count as familiar: what is less familiar than all these is unknown."""


@dataclass(frozen=True)
class Familiarity:
    """The familiarity score, fitted by `orchard.classification.discriminant.fit`.

    Features are scaled, and whitened by the covariance within the classes. Then the images of a class spread equally in
    every direction around its mean. The score takes two cosines to the nearest class mean. One is in the space that the
    means span, where it separates classes. The other is in the whole space, where an image that is unrelated to all
    classes lies at a right angle to all means. The score is their geometric mean, 0 to 1.

    The cosine in the whole space recognises things of another sort (AUROC of packages against fruits 0.988). The one
    among the means recognises fruits that were not learned (0.753). Their mean does both nearly as well (0.983 and
    0.741; benchmarks/honesty.py). Compared with it there: softmax confidence (Hendrycks & Gimpel 2017,
    https://arxiv.org/abs/1610.02136; 0.660 and 0.550), the largest logit (Hendrycks et al. 2022,
    https://arxiv.org/abs/1911.11132; 0.896 and 0.745) and Mahalanobis distance (Lee et al. 2018,
    https://arxiv.org/abs/1807.03888; 0.978 and 0.610).

    Attributes:
        origin: (d,) float32, the mean of the training rows.
        inverse_scale: (d,) float32, of the scaler.
        discriminants: (d, q) float32, onto the span of the whitened means; q < n_classes.
        classes: (n_classes, q) float32, the means there, of length 1.
        spread: (d, r) float32, and `isotropic`: the squared length of a whitened row z is
            ``isotropic * |z|² - |z @ spread|²``; exact in the r directions of the largest spread, a mean elsewhere.
        isotropic: see `spread`.
    """

    origin: NDArray[np.float32]
    inverse_scale: NDArray[np.float32]
    discriminants: NDArray[np.float32]
    classes: NDArray[np.float32]
    spread: NDArray[np.float32]
    isotropic: float

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n,) float32, 0..1, of features (n, d)."""
        scaled = self._scaled(features)
        inside = scaled @ self.discriminants
        nearest = (inside @ self.classes.T).max(axis=1)
        among = np.square(inside).sum(axis=1)
        whole = self.isotropic * np.square(scaled).sum(axis=1) - np.square(scaled @ self.spread).sum(axis=1)
        lengths = np.sqrt(np.sqrt(among) * np.sqrt(np.maximum(whole, among)))
        score: NDArray[np.float32] = np.clip(nearest / np.maximum(lengths, np.float32(1e-12)), 0, 1)
        return score

    @property
    def rank(self) -> int:
        """Return q, the dimensions of the span of the whitened means."""
        return int(self.discriminants.shape[1])

    def inside(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the coordinates (n, q) of features (n, d) in the span of the whitened means."""
        coordinates: NDArray[np.float32] = self._scaled(features) @ self.discriminants
        return coordinates

    def _scaled(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return (features - self.origin) * self.inverse_scale

    def to_bytes(self) -> bytes:
        """Return an ``.npz`` file, without pickles."""
        return npz.dump({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return what `to_bytes` wrote; raises ValueError or KeyError if it is something else."""
        arrays = npz.load(data)
        values: dict[str, Any] = {field.name: arrays[field.name] for field in fields(cls)}
        return cls(**values | {"isotropic": float(values["isotropic"])})
