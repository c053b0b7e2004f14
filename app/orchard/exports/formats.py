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
    """Return the output of the graph for a label column above or beside the label: float32 (n, n_values)."""
    return f"{column}_probabilities"


KIND_PROBABILITIES = probabilities_of("kind")
"""That of a model that knows kinds."""
FAMILIARITY = "familiarity"
"""An output of the graph: float32 (n,), 0..1; see `orchard.inference.familiarity.Familiarity`."""

CLASS_MAP = "class_map"
"""An output of the graph for the page: float32 (n, height, width), what each cell of the last grid of the whole picture
says for the likeliest label beyond what it says for labels on average; see `orchard.inference.class_map`."""
WHOLE = "whole_"
"""Before the name of an output for the page: the same of the whole picture alone, without the other views."""


class Format(StrEnum):
    """What a model is exported to."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    KERAS = "keras"
    LITERT = "litert"

    @property
    def suffix(self) -> str:
        """How the file's name ends."""
        return {"onnx": ".onnx", "openvino": ".xml", "keras": ".keras", "litert": ".tflite"}[self]


class StoredPrecision(StrEnum):
    """How an exported model's weights are stored; int8 computes in whole numbers, too."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


def card_beside(file: Path) -> Path:
    """Return where a model file's card lies: files of several formats in one folder have one each."""
    return file.with_name(f"{file.name}.json")


def check(kind: Format, precision: StoredPrecision, file: str) -> None:
    """Raise UsageError, with what to take instead, for a format that lacks the precision or has another suffix."""
    if kind is Format.KERAS and precision is not StoredPrecision.FLOAT32:
        raise UsageError(
            f"--format keras is float32 alone, not {precision}: take --format litert for a phone, or onnx."
        )
    if file.endswith(kind.suffix) and not file.endswith("/" + kind.suffix) and file != kind.suffix:
        return
    other = next((found for found in Format if file.endswith(found.suffix)), None)
    advice = f", or take --format {other}" if other else ""
    raise UsageError(f"--to {file}: the name of a file of --format {kind} ends in {kind.suffix}{advice}.")
