"""Finds several things on one picture: parts of it are classified, and a sure answer for a part is a region.

The parts are the whole picture, its halves and quarters, and quarters between these. Each part is classified like a
picture of its own; benchmarks/regions.py measures what is found on mosaics of photos from shops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchard.features.views import cut
from orchard.inference.model import Model
from orchard.vocabulary import Fit

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of width and height, 0..1."""

LARGER = 2
"""A picture is decoded to so many times the network's input size, so that a quarter of it fills the input."""
MOST_BOXES = 14
"""Number of parts of a picture, at most."""
FAMILIAR = 0.9
"""Factor for the threshold of familiarity of parts: they show less of a thing's surroundings than a picture of it."""
CONFIDENT = 0.9
OBLONG = 4 / 3
"""From this ratio of the longer to the shorter side on, only the longer side is halved; one more half is its middle."""


@dataclass(frozen=True)
class Region:
    """A thing on a picture.

    Attributes:
        box: the part that shows it best.
        name: its kind, or its label if the model knows no kinds.
        confidence: confidence in that part, 0..1.
    """

    box: Box
    name: str
    confidence: float


def boxes(width: int, height: int) -> list[Box]:
    """Return the parts of a picture of this size that are classified, the whole picture first."""
    half = (0.0, 0.25, 0.5)
    found: list[Box] = [(0.0, 0.0, 1.0, 1.0)]
    corners = [(x, y) for y in (0.0, 0.5) for x in (0.0, 0.5)]
    between = [(0.25, 0.0), (0.0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.25, 0.5)]
    found += [(x, y, x + 0.5, y + 0.5) for x, y in corners + between]
    if height <= OBLONG * width:
        found += [(x, 0.0, x + 0.5, 1.0) for x in (half if width > OBLONG * height else half[::2])]
    if width <= OBLONG * height:
        found += [(0.0, y, 1.0, y + 0.5) for y in (half if height > OBLONG * width else half[::2])]
    return found


def square(width: int, height: int, fit: Fit) -> Box:
    """Return the box of a picture of this size that the network gets, as shares; outside 0..1 if it is padded."""
    if fit is Fit.STRETCH:
        return 0.0, 0.0, 1.0, 1.0
    side = (min if fit is Fit.CROP else max)(width, height)
    across, down = side / width, side / height
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def within(outer: Box, box: Box) -> Box:
    """Return a box of a part in the coordinates of the picture."""
    left, top, right, bottom = outer

    def share(low: float, high: float, of: float) -> float:
        return min(1.0, max(0.0, low + (high - low) * of))

    return (
        share(left, right, box[0]),
        share(top, bottom, box[1]),
        share(left, right, box[2]),
        share(top, bottom, box[3]),
    )


def find(
    model: Model,
    features_of: Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]],
    pixels: NDArray[np.uint8],
    shape: tuple[int, int],
) -> list[Region]:
    """Return the things on a picture, the surest first; each kind once, in the part that shows it best.

    Args:
        model: the model.
        features_of: returns the features (n, n_features) of n images.
        pixels: uint8 (height, width, 3), RGB, up to `LARGER` times the network's input size, maybe stretched.
        shape: width and height before it was stretched.
    """
    parts = boxes(*shape)
    height, width = pixels.shape[:2]
    edges = [(left * width, top * height, right * width, bottom * height) for left, top, right, bottom in parts]
    features = features_of([cut(pixels, box, model.artifact.input_size) for box in edges])
    shares, familiarity = model.probabilities(features), model.familiarities(features)
    names: Sequence[str] = model.labels
    if model.kinds is not None:
        shares, names = model.kinds.probabilities(shares), model.kinds.names
    confidence = shares.max(axis=1)
    shows = (familiarity >= FAMILIAR * model.calibration.familiarity) & (confidence >= CONFIDENT)
    found: dict[str, tuple[float, Region]] = {}
    for part in np.flatnonzero(shows):
        name, score = names[int(shares[part].argmax())], float(confidence[part] * familiarity[part])
        if score > found.get(name, (0.0,))[0]:
            found[name] = score, Region(parts[part], name, float(confidence[part]))
    return [region for _, region in sorted(found.values(), key=lambda one: -one[0])]
