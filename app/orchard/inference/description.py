"""A model's description: the model card, ``/v1/model`` and the page's ``model.json`` are made from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from orchard.inference.columns import Column
from orchard.inference.model import Model
from orchard.vocabulary import Fit


@dataclass(frozen=True)
class ColumnDescription:
    """A further label column."""

    name: str
    values: list[str]
    temperature: float
    threshold: float

    @classmethod
    def of(cls, column: Column) -> ColumnDescription:
        """Describe a column."""
        return cls(column.name, list(column.values), column.calibration.temperature, column.calibration.threshold)


@dataclass(frozen=True)
class TrainingDescription:
    """The model's training; facts that its run does not record are None or empty."""

    run_id: str | None
    finished: str | None
    versions: dict[str, str]
    """Versions of Orchard and its dependencies, by name."""
    images: int | None
    images_by_label: dict[str, dict[str, int]]
    """Label -> split -> number of images."""
    components: int | None
    explained_variance: float | None
    test: dict[str, Any]
    """Figures of the classifier that answers, on the test images."""

    @property
    def images_by_split(self) -> dict[str, int]:
        """Images of all labels by split."""
        splits: Counter[str] = Counter()
        for counts in self.images_by_label.values():
            splits.update(counts if isinstance(counts, dict) else {})  # metrics.json may have been edited
        return dict(splits)

    @classmethod
    def of(cls, model: Model) -> TrainingDescription:
        """Make the description from a model's ``metrics.json`` and ``run.json``."""
        metrics, run = model.metrics, model.run
        pca = metrics.get("pca", {})
        return cls(
            run_id=run.get("run_id"),
            finished=run.get("finished"),
            versions=run.get("versions") or {},
            images=metrics.get("images", {}).get("featurized"),
            images_by_label=metrics.get("labels", {}),
            components=pca.get("k"),
            explained_variance=pca.get("explained_variance"),
            test=metrics.get("classifiers", {}).get(model.classifier) or {},
        )


@dataclass(frozen=True)
class Description:
    """Description of a model, without the addresses of images and results."""

    digest: str
    labels: list[str]
    kinds: list[str] | None
    """Names of the kinds; None: the model knows no kinds."""
    kind_of_label: list[str | None] | None
    """The kind of each label, in the order of `labels`."""
    kind_threshold: float | None
    columns: list[ColumnDescription]
    backbone: str
    input_size: int
    """Side, in pixels, of the square that the network gets."""
    largest_size: int
    """Largest side, in pixels, of a picture that is not shrunk first."""
    fit: Fit
    test_views: int
    precision: str
    classifier: str
    temperature: float
    threshold: float
    familiarity_threshold: float
    training: TrainingDescription


def describe(model: Model) -> Description:
    """Return the description of a model."""
    artifact, calibration, kinds = model.artifact, model.calibration, model.kinds
    return Description(
        digest=model.digest,
        labels=list(model.labels),
        kinds=list(kinds.names) if kinds else None,
        kind_of_label=[kinds.of_label(place) for place in range(len(model.labels))] if kinds else None,
        kind_threshold=kinds.threshold if kinds else None,
        columns=[ColumnDescription.of(column) for column in model.columns],
        backbone=artifact.backbone,
        input_size=artifact.input_size,
        largest_size=artifact.decoded_size,
        fit=artifact.fit,
        test_views=artifact.test_views,
        precision=str(artifact.precision),
        classifier=model.classifier,
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        familiarity_threshold=calibration.familiarity,
        training=TrainingDescription.of(model),
    )
