"""The views that a model averages, cut and resized inside a file's graph as `orchard.features.views.middle` does.

No file format has a resize that begins between two pixels and smooths. But along a side each pixel of a view is a
weighted mean of the picture's, so that cutting and resizing is a product of three matrices, down x picture x across;
the weights follow from the length of the side alone, and any runtime computes them from it.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Operations(Protocol):
    """The operations with which views are computed, named as in `keras.ops`."""

    cast: Any
    floor: Any
    floor_divide: Any
    matmul: Any
    maximum: Any
    minimum: Any
    reshape: Any
    sum: Any
    swapaxes: Any
    take: Any


class Side(NamedTuple):
    """One side (height or width) of a picture."""

    pixels: Any
    """(1, length) int32: 0, 1, …"""
    length: Any
    """int32."""


def view(operations: Operations, picture: Any, sides: tuple[Side, Side], share: float, size: int) -> Any:
    """Return the middle of pictures as the network gets it.

    Pillow's bilinear filter, which smooths when it shrinks, first brings the middle to at most `size` pixels. It rounds
    after each direction, across first, as Pillow does with squares. A smaller result is then enlarged as
    `orchard.features.resizing.Resizer` does it.

    Args:
        operations: the operations of the library to which the other arguments belong.
        picture: (n, 3, width, height) float32, whole numbers of 0..255.
        sides: height and width.
        share: share of each side that the middle takes, 0..1.
        size: side of the view in pixels.

    Returns:
        (n, 3, size, size) float32, by columns as `picture` is.
    """
    high, wide = (_Along(operations, side, share, size) for side in sides)

    def turned(picture: Any) -> Any:
        return operations.swapaxes(picture, 2, 3)

    # Always row by row: taking columns takes as long as all the rest.
    return wide.enlarged(turned(high.enlarged(high.shrunk(turned(wide.shrunk(picture))))))


class _Along:
    """One direction of a view.

    Where pixels lie is computed in whole numbers: in 16 bits, which runtimes like to take for floats, it would be wrong
    by pixels. Lengths are in units of 1 / (2 * denominator * seen) of a pixel.
    """

    def __init__(self, operations: Operations, side: Side, share: float, size: int) -> None:
        self._of = of = operations
        numerator, denominator = Fraction(share).limit_denominator(100).as_integer_ratio()
        none, one, two, of_part, of_whole, most = map(_whole, (0, 1, 2, numerator, denominator, size))
        odd = np.arange(1, 2 * size, 2, dtype=np.int32)
        inside = side.length * of_part
        seen = of.minimum(of.maximum(_rounded(of, inside, denominator), one), most)
        # What is seen may be fewer pixels than there are rows: the last one is repeated.
        places = of.reshape(of.minimum(seen * two - one, odd), (-1, 1))
        centres = places * inside + side.length * (of_whole - of_part) * seen
        support = of.maximum(inside, seen * of_whole) * two
        away = (side.pixels * two + one) * seen * of_whole - centres
        triangle = of.cast(of.maximum(support - of.maximum(away, away * _whole(-1)), none), "float32")
        self._weights = triangle / of.sum(triangle, axis=1, keepdims=True)
        between = of.maximum(seen * odd - most, none)  # in halves of 1 / size
        self._first = of.floor_divide(between, most * two)
        self._second = of.minimum(self._first + one, seen - one)
        self._share = of.cast(between - self._first * (most * two), "float32") / np.array(2 * size, np.float32)

    def shrunk(self, picture: Any) -> Any:
        """Return pictures (n, 3, length, m) in `size` rows, each the rounded mean of some."""
        return self._of.floor(self._of.matmul(self._weights, picture) + np.array(0.5, np.float32))

    def enlarged(self, picture: Any) -> Any:
        """Return pictures whose first `size` rows are enlarged to all of their rows."""
        first, second = (self._of.take(picture, place, 2) for place in (self._first, self._second))
        return first + (second - first) * self._of.reshape(self._share, (-1, 1))


def _rounded(of: Operations, dividend: Any, divisor: int) -> Any:
    """Return the whole number nearest to a quotient, of two the even one, as Python does."""
    two, twice = _whole(2), _whole(2 * divisor)
    shifted = dividend * two + _whole(divisor)
    found = of.floor_divide(shifted, twice)
    less_if_between = of.minimum(shifted - found * twice, _whole(1)) - _whole(1)
    return found + less_if_between * (found - of.floor_divide(found, two) * two)


def _whole(value: int) -> NDArray[np.int32]:
    """Return a whole number as the constant that all export libraries accept."""
    return np.array([value], np.int32)
