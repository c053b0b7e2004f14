"""Bilinear resizing of an image straight into a row of the backbone's input batch."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


class Resizer:
    """Resizes images to a square of ``size`` pixels, as ``tf.image.resize(..., "bilinear")`` does.

    Pixel centres lie at half pixels, the border is repeated, and nothing is smoothed away when shrinking: shrink a
    large image while decoding it. In the graph, OpenVINO's Interpolate would be slower, and rounded where the network
    runs in bfloat16 (one thread, 100 px images, EfficientNet-Lite0 with its resize: 312 images/s, in the graph 294).

    An object keeps its buffers (new ones for each image take three times as long): one thread at a time.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._buffers = [np.empty(0, np.float32) for _ in range(3)]

    def __call__(self, image: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write ``image``, uint8 (height, width, 3), into ``out``, float32 (size, size, 3), 0..255."""
        height, width, channels = image.shape
        size = self.size
        if height == size and width == size:
            np.copyto(out, image)
            return
        # The axis to resize is brought to the front, so that every step works on whole rows of memory.
        columns = self._buffer(0, width, height, channels)
        np.copyto(columns, image.transpose(1, 0, 2))
        wide = self._buffer(1, size, height, channels)
        self._lerp(columns.reshape(width, -1), wide.reshape(size, -1))
        rows = self._buffer(0, height, size, channels)
        np.copyto(rows, wide.transpose(1, 0, 2))
        self._lerp(rows.reshape(height, -1), out.reshape(size, -1))

    def _lerp(self, rows: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Interpolate (length, m) along its first axis to (size, m)."""
        lower, upper, weight = _neighbours(rows.shape[0], out.shape[0])
        step = self._buffer(2, *out.shape)
        # mode="clip" spares numpy a copy of `out`; the indices are in range.
        np.take(rows, lower, 0, out=out, mode="clip")
        np.take(rows, upper, 0, out=step, mode="clip")
        step -= out
        step *= weight
        out += step

    def _buffer(self, index: int, *shape: int) -> NDArray[np.float32]:
        length = math.prod(shape)
        if self._buffers[index].size < length:
            self._buffers[index] = np.empty(length, np.float32)
        return self._buffers[index][:length].reshape(shape)


@lru_cache(maxsize=4096)
def _neighbours(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of ``size`` outputs the two inputs around it, and the second one's weight as a column."""
    centre = (np.arange(size) + 0.5) * (length / size) - 0.5
    lower = np.floor(centre)
    weight = (centre - lower).astype(np.float32)[:, np.newaxis]
    index = lower.astype(np.intp)
    return index.clip(0, length - 1), (index + 1).clip(0, length - 1), weight
