"""The file formats and precisions of exports, and which of them go together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from orchard.errors import UsageError

INPUT = "image"
"""The graph's input: uint8 (n, height, width, 3), RGB."""
OUTPUT = "probabilities"
"""An output of the graph: float32 (n, n_classes), rows that sum to 1."""


def probabilities_of(column: str) -> str:
    """Return the name of the graph's output for the kind or a further column: float32 (n, n_values)."""
    return f"{column}_probabilities"


KIND_PROBABILITIES = probabilities_of("kind")
"""The output for kinds, if the model knows kinds."""
FAMILIARITY = "familiarity"
"""An output of the graph: float32 (n,), 0..1; see `orchard.inference.familiarity.Familiarity`."""

CLASS_MAP = "class_map"
"""An output of the graph for the page: float32 (n, height, width). For each cell of the last grid over the picture, its
contribution to the likeliest label minus its mean contribution to all labels; see `orchard.inference.class_map`."""
WHOLE = "whole."
"""Prefix of further outputs for the page: the same outputs of the whole picture alone, without the other views. No
further column's name has a point, so that none of its outputs is called so."""


class Format(StrEnum):
    """File format of an exported model."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    KERAS = "keras"
    LITERT = "litert"

    @property
    def suffix(self) -> str:
        """The suffix of the file's name."""
        return {"onnx": ".onnx", "openvino": ".xml", "keras": ".keras", "litert": ".tflite"}[self]


class StoredPrecision(StrEnum):
    """Number format of an exported model's weights; with int8 the network also computes in integers."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def card_beside(file: Path) -> Path:
    """Return the path of a model file's card; files of several formats in one folder have one card each."""
    return file.with_name(f"{file.name}.json")


def check(kind: Format, precision: StoredPrecision, file: str) -> None:
    """Raise UsageError, with what to take instead, for a format that lacks the precision or has another suffix."""
    if kind is Format.KERAS and precision is not StoredPrecision.FLOAT32:
        raise UsageError(
            f"--format keras is float32 alone, not {precision}: take --format litert for a phone, or onnx."
        )
    name = file.rpartition("/")[2]
    if name.endswith(kind.suffix) and name != kind.suffix:
        return
    if name == kind.suffix:
        raise UsageError(f"--to {file} is a suffix alone: write a name before it, such as model{kind.suffix}.")
    other = next((found for found in Format if name.endswith(found.suffix)), None)
    advice = f", or take --format {other}" if other else ""
    raise UsageError(f"--to {file}: the name of a file of --format {kind} ends in {kind.suffix}{advice}.")
