"""Measures how bright and how sharp an image is, on the pixels that the backbone gets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEP = 4  # rows and columns from one pixel to the next whose colour counts: the mean hardly changes
_LUMA = np.array([0.299, 0.587, 0.114], np.float32) / 255  # ITU-R BT.601


@dataclass(frozen=True)
class Quality:
    """Two figures of an image."""

    brightness: float
    """Luminance of the mean colour, 0 (black) to 1 (white)."""
    sharpness: float | None
    """Variance of the Laplacian, in squared steps of 255; None if a side has fewer than three pixels."""


def quality_of(pixels: NDArray[np.uint8]) -> Quality:
    """Measure an image.

    The variance of the Laplacian is low where no edge is sharp (Pech-Pacheco, Cristóbal, Chamorro-Martínez & Fernández
    2000, "Diatom autofocusing in brightfield microscopy: a comparative study"). Only the green channel is used, which
    holds most of the luminance; that takes a third of the time.

    Args:
        pixels: (height, width, 3) uint8, RGB.
    """
    colours = pixels[::_STEP, ::_STEP].reshape(-1, 3).astype(np.float32)
    brightness = float((colours @ _LUMA).mean())
    if min(pixels.shape[:2]) < 3:
        return Quality(brightness, None)
    green = pixels[:, :, 1].astype(np.int16)
    edges = 4 * green[1:-1, 1:-1]
    for neighbour in (green[:-2, 1:-1], green[2:, 1:-1], green[1:-1, :-2], green[1:-1, 2:]):
        edges -= neighbour
    values = edges.ravel().astype(np.float32)
    mean = values.mean()
    return Quality(brightness, max(0.0, float(values @ values / len(values) - mean * mean)))
