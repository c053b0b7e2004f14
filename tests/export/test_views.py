"""The views that a file's graph cuts are those that `predict` sees, pixel by pixel."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from openvino import opset13
from PIL import Image

from orchard.exports.graph import _views
from orchard.features.artifact import LARGER, VIEW_SHARES, Artifact
from orchard.features.engines import import_openvino, openvino_core
from orchard.features.resizing import Resizer
from orchard.features.views import middle

SIZE = 64
LARGEST = int(np.ceil(LARGER * SIZE))


@pytest.fixture(scope="module")
def cut() -> Any:
    """From pictures to their views."""
    openvino = import_openvino()
    artifact = cast(Artifact, SimpleNamespace(input_size=SIZE, decoded_size=LARGEST, test_views=3))
    picture = opset13.parameter(openvino.PartialShape([-1, -1, -1, 3]), openvino.Type.f32)
    graph = openvino.Model([_views(opset13, picture, artifact)], [picture])
    compiled = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pictures: compiled([pictures.astype(np.float32)])[0]


@pytest.mark.parametrize(
    ("height", "width"),
    [(LARGEST, LARGEST), (80, 80), (57, 57), (1, 1), (2, 3), (44, 92), (12, 92), (80, 57), (100, 40), (92, 93)],
)
def test_they_are_pillows(cut: Any, height: int, width: int) -> None:
    """To what rounding makes of it: Pillow rounds after whichever direction is cheaper first."""
    pictures = np.random.default_rng(height).integers(0, 256, (2, height, width, 3), np.uint8)
    found = cut(pictures).reshape(3, 2, SIZE, SIZE, 3)
    if max(height, width) > LARGEST:  # as it is decoded
        resized = [Image.fromarray(p).resize((LARGEST, LARGEST), Image.Resampling.BILINEAR) for p in pictures]
        pictures = np.stack([np.asarray(picture) for picture in resized])
    expected = np.empty_like(found)
    for of_part, part in zip(expected, VIEW_SHARES[3], strict=True):
        for picture, out in zip(pictures, of_part, strict=True):
            Resizer(SIZE)(middle(picture, part, SIZE), out)
    differences = np.abs(found - expected)
    assert differences.mean() < (0.03 if height == width else 0.3)
    assert differences.max() < (1.01 if height == width else 2.01)
