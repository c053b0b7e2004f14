"""The views that a model averages, cut and resized inside a file's graph as `orchard.features.views.middle` does.

No file format has a resize that begins between two pixels and smooths. But along a side each pixel of a view is a
weighted mean of the picture's, so that cutting and resizing is a product of three matrices, down x picture x across;
the weights follow from the length of the side alone, and any runtime computes them from it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Operations(Protocol):
    """What views are computed with, by the names of `keras.ops`."""

    abs: Any
    cast: Any
    floor: Any
    matmul: Any
    maximum: Any
    minimum: Any
    reshape: Any
    round: Any  # halves to the even number
    sum: Any
    swapaxes: Any
    take: Any


class Side(NamedTuple):
    """A side of a picture."""

    at: Any
    """(1, length) float32, where the centres of its pixels are: 0.5, 1.5, …"""
    length: Any
    """float32, pixels."""


def view(operations: Operations, picture: Any, sides: tuple[Side, Side], part: float, size: int) -> Any:
    """Return the middle of pictures as the network sees it.

    Pillow's triangle, which smooths where it shrinks, first brings the middle to at most `size` pixels, and rounds
    after each of the two directions; what is smaller then is enlarged, as `orchard.features.resizing.Resizer` does.

    Args:
        operations: of the library that the others are of.
        picture: (n, 3, width, height) float32, whole numbers of 0..255.
        sides: height and width.
        part: of each side, in the middle.
        size: pixels of a side of the view.

    Returns:
        (n, 3, size, size) float32, by columns as `picture` is.
    """
    high, wide = (_Along(operations, side, part, size) for side in sides)

    def turned(picture: Any) -> Any:
        return operations.swapaxes(picture, 2, 3)

    # Always row by row: taking columns takes as long as all the rest.
    return wide.enlarged(turned(high.enlarged(high.shrunk(turned(wide.shrunk(picture))))))


class _Along:
    """One direction of a view."""

    def __init__(self, operations: Operations, side: Side, part: float, size: int) -> None:
        self._of = of = operations
        none, self._half, one = _number(0), _number(0.5), _number(1)
        left = side.length * _number((1 - part) / 2)
        inside = side.length - left - left
        seen = of.minimum(of.maximum(of.round(inside), one), _number(size))
        step = inside / seen
        support = of.maximum(step, one)
        middles = np.arange(size, dtype=np.float32) + self._half
        # What is seen may be fewer pixels than there are rows: the last one is repeated.
        centres = of.minimum(seen - self._half, middles[:, np.newaxis]) * step + left
        triangle = of.maximum(support - of.abs(side.at - centres), none)
        self._weights = triangle / of.sum(triangle, axis=1, keepdims=True)
        places = of.maximum(seen / _number(size) * middles - self._half, none)
        first = of.floor(places)
        self._share = places - first
        self._first, self._second = (of.cast(place, "int32") for place in (first, of.minimum(first + one, seen - one)))

    def shrunk(self, picture: Any) -> Any:
        """Return pictures (n, 3, length, m) in `size` rows, each the rounded mean of some."""
        return self._of.floor(self._of.matmul(self._weights, picture) + self._half)

    def enlarged(self, picture: Any) -> Any:
        """Return pictures with what is seen, the first of `size` rows, in all of them."""
        first, second = (self._of.take(picture, place, 2) for place in (self._first, self._second))
        return first + (second - first) * self._of.reshape(self._share, (-1, 1))


def _number(value: float) -> NDArray[np.float32]:
    """Return a number in the one form that all libraries take for float32."""
    return np.array(value, np.float32)
