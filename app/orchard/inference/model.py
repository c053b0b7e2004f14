"""The model of an output: a backbone, and linear layers that combine scaler, PCA and classifier."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from orchard import models
from orchard.cards import Cards
from orchard.errors import InputError, StorageError
from orchard.features.artifact import Artifact
from orchard.inference import columns as further
from orchard.inference.calibration import Calibration, Decision
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.kinds import Kinds
from orchard.inference.linear import Linear
from orchard.layout import BACKBONE, CALIBRATION, CARDS, COLUMNS, FAMILIARITY, KINDS, LABELS, METRICS, REDUCTION, RUN
from orchard.reduction.pca import Reduction
from orchard.storage import DEFAULT_S3, S3Options, Storage, open_storage

_PARTS = (CALIBRATION, BACKBONE, REDUCTION, LABELS, FAMILIARITY)
_CLASSIFIER = "classifier"
_READ_AGAIN = 3


@dataclass(frozen=True)
class Model:
    """A trained model: backbone, linear layers, calibration, and the names of its labels.

    The scores of features f are ``weights @ f + bias``; their softmax, after calibration, are the probabilities.
    """

    artifact: Artifact
    labels: tuple[str, ...]
    """The names of the n_classes classes, in the order of the scores."""
    weights: NDArray[np.float32]
    """(n_classes, n_features): the scaler and the classifier in one, and the PCA if it takes part."""
    bias: NDArray[np.float32]
    """(n_classes,)"""
    calibration: Calibration = field(default_factory=Calibration)
    familiarity: Familiarity | None = None
    """Measures how near features lie to the training images; None: every image counts as familiar."""
    classifier: str = ""
    """Name of the classifier that answers, such as ``linear_discriminant``."""
    kinds: Kinds | None = None
    """The kinds of the labels; None: there are none."""
    columns: tuple[Column, ...] = ()
    """Further label columns, each with a classifier of its own."""
    metrics: dict[str, Any] = field(default_factory=dict, repr=False)
    """``metrics.json`` of the run, empty if it is missing or about another model."""
    run: dict[str, Any] = field(default_factory=dict, repr=False)
    """``run.json`` of the run, empty if it is missing or about another model."""
    cards: Cards = field(default_factory=Cards, repr=False)
    """Cards of labels and kinds; not a part of the digest, because no answer depends on them."""

    @classmethod
    def load(cls, output: str, s3: S3Options = DEFAULT_S3) -> Self:
        """Return the model in an output folder or ``s3a://`` prefix.

        Raises:
            InputError: there is none, or it has no linear classifier.
            OutputDamaged: a part is missing, or differs from the one that the model was made with.
            StorageError: it cannot be read.
        """
        storage = open_storage(output, s3)
        try:
            folder, contents = _parts(storage)
            artifact = Artifact.from_bytes(contents[BACKBONE])
            reduction = Reduction.from_bytes(contents[REDUCTION])
            labels = tuple(json.loads(contents[LABELS]))
            decision = Decision.from_bytes(contents[CALIBRATION])
            linear = Linear.from_bytes(contents[_CLASSIFIER], reduction)
            familiarity = Familiarity.from_bytes(contents[FAMILIARITY])
            kinds = Kinds.from_bytes(contents[KINDS], decision.kind_threshold or 1.0) if KINDS in contents else None
            columns = further.from_bytes(contents[COLUMNS]) if COLUMNS in contents else ()
            cards = Cards.from_bytes(contents[CARDS]) if CARDS in contents else Cards()
            layers = [(len(labels), linear), *((len(column.values), column.linear) for column in columns)]
            if any(layer.weights.shape != (classes, artifact.n_features) for classes, layer in layers):
                raise ValueError("its parts do not fit")
        except (ValueError, KeyError) as error:
            raise StorageError(f"The model in {output} cannot be used ({error}): run orchard run again.") from error
        metrics, run = _json(storage, METRICS), _json(storage, RUN)
        if metrics.get("model", folder) != folder:  # of the run before, or the next: this one writes them at its end
            metrics, run = {}, {}
        return cls(
            artifact,
            labels,
            linear.weights,
            linear.bias,
            decision.label,
            familiarity,
            decision.classifier,
            kinds,
            columns,
            metrics,
            run,
            cards,
        )

    @cached_property
    def digest(self) -> str:
        """32 hexadecimal digits; a model that answers differently has another digest."""
        content = hashlib.blake2b(self.artifact.fingerprint().encode(), digest_size=16)
        for part in (self.weights.tobytes(), self.bias.tobytes(), repr((self.labels, self.calibration)).encode()):
            content.update(part)
        if self.familiarity is not None:
            content.update(self.familiarity.to_bytes())
        if self.kinds is not None:
            content.update(self.kinds.to_bytes() + repr(self.kinds.threshold).encode())
        if self.columns:
            content.update(further.to_bytes(self.columns))
        return content.hexdigest()

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (n, n_classes) of features (n, n_features)."""
        scores: NDArray[np.float32] = features @ self.weights.T + self.bias
        return scores

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 (n, n_classes), of features (n, n_features)."""
        return self.calibration.probabilities(self.scores(features))

    def familiarities(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how near features (n, n_features) lie to the training images, float32 (n,), 0..1."""
        return np.ones(len(features), np.float32) if self.familiarity is None else self.familiarity(features)


def _parts(storage: Storage) -> tuple[str, dict[str, bytes]]:
    """Return the current model's folder and its parts, read again if a new model replaces it meanwhile."""
    for attempt in range(_READ_AGAIN):
        try:
            folder = models.current(storage)
            if CALIBRATION not in folder.digests:
                raise InputError(
                    f"The model in {storage.url} has no linear classifier, which is what answers: make one with "
                    f"orchard classify {storage.url} --classifiers linear_discriminant."
                )
            if FAMILIARITY not in folder.digests:
                raise models.of_earlier_version(storage.url)
            optional = [part for part in (CARDS, COLUMNS, KINDS) if part in folder.digests]
            found = {part: folder.read(part) for part in (*_PARTS, *optional)}
            classifier = Decision.from_bytes(found[CALIBRATION]).classifier
            return folder.folder, found | {_CLASSIFIER: folder.read(f"{classifier}.npz")}
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
