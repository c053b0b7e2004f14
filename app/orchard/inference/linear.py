"""Classifiers that are one linear layer on the features, however they were fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from orchard import npz
from orchard.reduction.pca import Reduction


@dataclass(frozen=True)
class Linear:
    """Scores of features f are ``weights @ f + bias``.

    Attributes:
        weights: (n_classes, n_features) float32: the scaler, and the PCA if it takes part, are in them.
        bias: (n_classes,) float32.
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores (n, n_classes) of features (n, n_features)."""
        scores: NDArray[np.float32] = features @ self.weights.T + self.bias
        return scores

    @classmethod
    def on_components(
        cls, reduction: Reduction, coefficients: NDArray[np.floating], intercept: NDArray[np.floating]
    ) -> Self:
        """Fold scaler, PCA and a linear classifier on the components into one layer, computed in float64.

        Args:
            reduction: of n_features to k components.
            coefficients: (n_classes, k)
            intercept: (n_classes,)

        Raises:
            ValueError: the shapes do not fit.
        """
        return cls.on_directions(reduction.components_ / reduction.scale_, reduction.mean_, coefficients, intercept)

    @classmethod
    def on_directions(
        cls,
        directions: NDArray[np.float64],
        origin: NDArray[np.floating],
        coefficients: NDArray[np.floating],
        intercept: NDArray[np.floating],
    ) -> Self:
        """Return the classifier of features f whose columns are ``directions @ (f - origin)``, computed in float64.

        Args:
            directions: (k, n_features)
            origin: (n_features,)
            coefficients: (n_classes, k)
            intercept: (n_classes,)
        """
        weights = coefficients @ directions
        bias = intercept - weights @ origin
        return cls(weights.astype(np.float32), bias.astype(np.float32))

    def to_bytes(self) -> bytes:
        """Return an ``.npz`` file of ``weights`` and ``bias``, without pickles."""
        return npz.dump({"weights": self.weights, "bias": self.bias})

    @classmethod
    def from_bytes(cls, data: bytes, reduction: Reduction) -> Self:
        """Return the classifier in a part of a model: on features, or ``coefficients`` and ``intercept`` on components.

        Raises:
            ValueError, KeyError: it is something else.
        """
        arrays = npz.load(data)
        if "coefficients" in arrays:
            return cls.on_components(reduction, arrays["coefficients"], arrays["intercept"])
        return cls(arrays["weights"], arrays["bias"])
