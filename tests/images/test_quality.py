"""Brightness and sharpness mean what people see."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from orchard.images.quality import quality_of


def test_brightness_is_luminance() -> None:
    for colour, luminance in (((0, 0, 0), 0.0), ((255, 255, 255), 1.0), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114)):
        assert quality_of(np.full((9, 13, 3), colour, np.uint8)).brightness == pytest.approx(luminance)


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    green = pixels[:, :, 1].astype(float)
    edges = 4 * green[1:-1, 1:-1] - green[:-2, 1:-1] - green[2:, 1:-1] - green[1:-1, :-2] - green[1:-1, 2:]
    assert quality_of(pixels).sharpness == pytest.approx(edges.var(), rel=1e-5)
    figures = []
    for radius in (0, 1, 2, 4):
        found = quality_of(np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))).sharpness
        assert found is not None
        figures.append(found)
    assert figures == sorted(figures, reverse=True)
    assert quality_of(np.full((9, 9, 3), 77, np.uint8)).sharpness == 0


def test_of_an_image_without_an_inside_no_edge_is_known() -> None:
    assert quality_of(np.zeros((2, 50, 3), np.uint8)).sharpness is None
    assert quality_of(np.zeros((1, 1, 3), np.uint8)).brightness == 0
