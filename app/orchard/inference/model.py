"""The model in an output: a network and one linear layer that scaler, PCA and logistic regression fold into."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard import models
from orchard.cards import Cards
from orchard.errors import StorageError
from orchard.features.artifact import Artifact
from orchard.inference.calibration import Calibration
from orchard.layout import BACKBONE, CALIBRATION, CARDS, LABELS, LOGISTIC_REGRESSION, METRICS, REDUCTION, RUN
from orchard.reduction.pca import Reduction
from orchard.storage import DEFAULT_S3, S3Options, Storage, open_storage

_PARTS = (LOGISTIC_REGRESSION, BACKBONE, REDUCTION, LABELS, CALIBRATION)
_READ_AGAIN = 3


@dataclass(frozen=True)
class Model:
    """What it takes to tell what is on an image.

    The scores of features f are ``weights @ f + bias``; their softmax, after calibration, are the probabilities.
    """

    artifact: Artifact
    labels: tuple[str, ...]
    """The names of the n_classes classes, in the order of the scores."""
    weights: NDArray[np.float32]
    """(n_classes, n_features): scaler, PCA and logistic regression in one."""
    bias: NDArray[np.float32]
    """(n_classes,)"""
    calibration: Calibration = field(default_factory=Calibration)
    metrics: dict[str, Any] = field(default_factory=dict, repr=False)
    """``metrics.json`` of the run, empty if it is missing."""
    run: dict[str, Any] = field(default_factory=dict, repr=False)
    """``run.json`` of the run, empty if it is missing."""
    cards: Cards = field(default_factory=Cards, repr=False)
    """What there is to know about labels and kinds; no part of the digest, as no answer depends on it."""

    @classmethod
    def load(cls, output: str, s3: S3Options = DEFAULT_S3) -> Self:
        """Return the model in an output folder or ``s3a://`` prefix.

        Raises:
            InputError: there is none, or it has no logistic regression.
            OutputDamaged: a part is gone, or not what the model was made with.
            StorageError: it cannot be read.
        """
        storage = open_storage(output, s3)
        contents = _parts(storage)
        try:
            artifact = Artifact.from_bytes(contents[BACKBONE])
            reduction = Reduction.from_bytes(contents[REDUCTION])
            with np.load(io.BytesIO(contents[LOGISTIC_REGRESSION]), allow_pickle=False) as arrays:
                coefficients, intercept = arrays["coefficients"], arrays["intercept"]
            labels = tuple(json.loads(contents[LABELS]))
            calibration = Calibration.from_bytes(contents[CALIBRATION])
            cards = Cards.from_bytes(contents[CARDS]) if CARDS in contents else Cards()
            weights, bias = collapse(reduction, coefficients, intercept)
            if weights.shape != (len(labels), artifact.n_features):
                raise ValueError("its parts do not fit")
        except (ValueError, KeyError) as error:
            raise StorageError(f"The model in {output} cannot be used ({error}): run orchard run again.") from error
        return cls(artifact, labels, weights, bias, calibration, _json(storage, METRICS), _json(storage, RUN), cards)

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that tell this model from any that answers otherwise."""
        content = hashlib.blake2b(self.artifact.fingerprint().encode(), digest_size=16)
        for part in (self.weights.tobytes(), self.bias.tobytes(), repr((self.labels, self.calibration)).encode()):
            content.update(part)
        return content.hexdigest()

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, n_classes) of features (n, n_features)."""
        scores: NDArray[np.float32] = features @ self.weights.T + self.bias
        return scores

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 (n, n_classes), of features (n, n_features)."""
        return self.calibration.probabilities(self.scores(features))


def collapse(
    reduction: Reduction, coefficients: NDArray[np.floating], intercept: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold scaler, PCA and a linear classifier on the components into one layer.

    Args:
        reduction: of n_features to k components.
        coefficients: (n_classes, k)
        intercept: (n_classes,)

    Returns:
        weights (n_classes, n_features) and bias (n_classes,), float32, computed in float64.

    Raises:
        ValueError: the shapes do not fit.
    """
    weights = coefficients @ (reduction.components_ / reduction.scale_)
    bias = intercept - weights @ reduction.mean_
    return weights.astype(np.float32), bias.astype(np.float32)


def _parts(storage: Storage) -> dict[str, bytes]:
    """Return the parts of the model that holds; if another takes its place meanwhile, of that."""
    for attempt in range(_READ_AGAIN):
        try:
            folder = models.current(storage)
            optional = [part for part in (CARDS,) if part in folder.digests]
            return {part: folder.read(part) for part in (*_PARTS, *optional)}
        except FileNotFoundError as error:
            if attempt + 1 == _READ_AGAIN:
                raise models.explain(storage, error) from error
        except OSError as error:
            raise models.explain(storage, error) from error
    raise AssertionError("unreachable")


def _json(storage: Storage, key: str) -> dict[str, Any]:
    try:
        found = json.loads(storage.read(key))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
