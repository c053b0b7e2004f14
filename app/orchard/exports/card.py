"""The model card: what a file contains, its inputs and outputs, how accurate it is, and who may use it."""

from __future__ import annotations

from typing import Any

from orchard.exports.formats import (
    FAMILIARITY,
    INPUT,
    KIND_PROBABILITIES,
    OUTPUT,
    Format,
    StoredPrecision,
    probabilities_of,
)
from orchard.exports.graph import output_shapes
from orchard.features.artifact import AFTER_TUNING, VIEW_SHARES, Artifact
from orchard.features.backbones import find
from orchard.images.decoding import GREY
from orchard.inference.description import TrainingDescription, describe
from orchard.inference.model import Model
from orchard.redaction import redacted
from orchard.version import VERSION
from orchard.vocabulary import Answer, Fit

CARD_VERSION = 2

# Of the ImageNet weights, as far as known; nobody but their publishers can tell.
_WEIGHTS_LICENCES = {
    "convnext": "MIT",
    "densenet": "BSD-3-Clause",
    "resnet": "MIT",
    "resnet_v2": "MIT",
    "vgg16": "CC-BY-4.0",
    "vgg19": "CC-BY-4.0",
}


def model_card(model: Model, kind: Format, precision: StoredPrecision) -> dict[str, Any]:
    """Return the card of `model` in a format and precision, ready for JSON, without the file's name and size."""
    artifact, described = model.artifact, describe(model)
    backbone = find(artifact.backbone, alpha=artifact.alpha, input_size=artifact.input_size)
    card: dict[str, Any] = {
        "card_version": CARD_VERSION,
        "description": f"Classifies photos into {len(model.labels)} classes.",
        "digest": described.digest,
        "format": str(kind),
        "precision": str(precision),
        "labels": described.labels,
        "kinds": described.kinds,
        "columns": [
            {
                "name": column.name,
                "values": column.values,
                "output": probabilities_of(column.name),
                "temperature": column.temperature,
                "threshold": column.threshold,
            }
            for column in described.columns
        ],
        "input": _input(kind, artifact),
        "outputs": _outputs(model, 1 if kind is Format.LITERT else "n"),
        "classifier": described.classifier,
        "temperature": described.temperature,
        "threshold": described.threshold,
        "familiarity_threshold": described.familiarity_threshold,
        "kind_threshold": described.kind_threshold,
        "answers": {
            Answer.UNKNOWN: "If familiarity is below familiarity_threshold: it is unlike anything that was learned.",
            Answer.NOT_SURE: "Otherwise, if the greatest probability is below threshold: which label is not sure.",
            "kind": "If which label is not sure, but the greatest kind probability reaches kind_threshold: that kind.",
            Answer.SURE: "Otherwise: the label of the greatest probability.",
            "columns": "Of each: the value of its greatest probability, if familiarity is at or above "
            "familiarity_threshold and that probability at or above the column's threshold.",
        },
        "backbone": {
            "name": artifact.backbone,
            "alpha": artifact.alpha,
            "n_features": artifact.n_features,
            # Those of a network with branches are not in the table.
            "parameters": backbone.parameters if artifact.n_features == backbone.n_features else None,
            "weights": redacted(artifact.weights),
            "weights_digest": artifact.weights_digest,
            "imagenet_top1_percent": backbone.top1 if artifact.weights == "imagenet" else None,
            "features_computed_in": described.precision,
        },
        "training": _training(model, described.training),
        "licences": {
            "orchard": "Apache-2.0",
            "backbone_weights": _weights_licence(backbone.family, artifact.weights.removesuffix(AFTER_TUNING)),
            "training_images": "to be stated by whoever trained the model",
        },
        "versions": {"orchard": VERSION}
        | {f"trained_with_{name}": str(version) for name, version in described.training.versions.items()},
    }
    return card


_MEANINGS = {
    OUTPUT: "calibrated probabilities, in the order of labels; each row sums to 1",
    FAMILIARITY: "how near the photo lies to what was learned, 0 to 1",
    KIND_PROBABILITIES: "probabilities of the kinds, in their order: the sums of those of their labels",
}
_OF_COLUMN = "calibrated probabilities of a further column's values, in their order; each row sums to 1"


def _outputs(model: Model, rows: int | str) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": "float32", "shape": [rows, *shape[1:]], "meaning": _MEANINGS.get(name, _OF_COLUMN)}
        for name, shape in output_shapes(model).items()
    ]


_SQUARE = {
    Fit.STRETCH: "proportions need not be kept: the file stretches to a square, as training did",
    Fit.CROP: "cut the photo to the square in its middle first, as training did",
    Fit.PAD: f"put the photo in the middle of a square of its longer side first, of grey {GREY}, as training did",
}


def _input(kind: Format, artifact: Artifact) -> dict[str, Any]:
    return {
        "name": INPUT,
        "dtype": "uint8",
        "shape": [1 if kind is Format.LITERT else "n", "height", "width", 3],
        "layout": "NHWC",
        "channels": "RGB",
        "range": [0, 255],
        "height_and_width": "any",
        "size": artifact.decoded_size,
        "fit": str(artifact.fit),
        "square": _SQUARE[artifact.fit],
        "views": artifact.test_views,
        "resize": _resize(kind, artifact),
        "orientation": "upright: turn the photo as its EXIF orientation says",
        "transparency": "composited on white",
    }


def _resize(kind: Format, artifact: Artifact) -> str:
    size, largest = (f"{side} x {side}" for side in (artifact.input_size, artifact.decoded_size))
    if artifact.test_views > 1:
        middles = " and ".join(f"{share:g}" for share in VIEW_SHARES[artifact.test_views][1:])
        views = f"bilinear to {size}, smoothing when it shrinks, of the whole and of its middle, {middles} of each side"
        first = "the file brings" if kind in (Format.ONNX, Format.OPENVINO) else "bring"
        return f"{views}; done by the file; {first} a larger photo to {largest} first"
    if kind is Format.LITERT:
        twice = 2 * artifact.input_size
        return f"bilinear to {size} without smoothing: shrink a larger photo to about {twice} pixels first"
    return f"bilinear to {size}, smoothing when it shrinks; done by the file"


def _training(model: Model, training: TrainingDescription) -> dict[str, Any]:
    metrics, measured = model.metrics, training.test
    found: dict[str, Any] = {
        "run_id": training.run_id,
        "finished": training.finished,
        "images": training.images,
        "classes": len(model.labels),
        "images_by_split": training.images_by_split,
        "images_by_label": training.images_by_label,
        "components": training.components,
    }
    if measured:
        wanted = ("accuracy", "macro_precision", "macro_recall", "macro_f1", "test_rows", "train_rows")
        found["test"] = {name: measured[name] for name in wanted if name in measured}
    if columns := metrics.get("columns"):
        of_columns = {name: column["test"] for name, column in columns.items() if "test" in column}
        figures = ("accuracy", "macro_f1", "test_rows", "train_rows")
        found["test_by_column"] = {name: {one: test[one] for one in figures} for name, test in of_columns.items()}
    if calibration := metrics.get("calibration"):
        left_out = ("reliability_before", "reliability_after", "coverage")
        found["calibration"] = {name: value for name, value in calibration.items() if name not in left_out}
    if grouped := metrics.get("group_split", {}).get("classifiers", {}).get(model.classifier):
        found["test_by_group"] = {name: grouped[name] for name in ("accuracy", "macro_f1") if name in grouped}
    return found


def _weights_licence(family: str, weights: str) -> str:
    if weights == "imagenet":
        return f"{_WEIGHTS_LICENCES.get(family, 'Apache-2.0')} as far as known: check with their publisher"
    return "none: random" if weights.startswith("random") else f"that of {redacted(weights)}"
