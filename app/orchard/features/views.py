"""Views of an image: fixed ones whose features are averaged, and random ones for training.

Random views are a part of the image, as Inception was trained with (Szegedy et al. 2015,
https://arxiv.org/abs/1409.4842, section 6: between 3:4 and 4:3; here of more of the area), flipped or not; light and
colour vary as between lamps and phones, and some are out of focus. They are drawn from the image's content: the same
image gives the same views, on whatever executor and under whatever name.

Features of fixed views are averaged, rather than the probabilities that a classifier gives each of them. Measured on
2,640 photos from shops to learn from and 296 others (Klasson, Zhang & Kjellström 2019), of 81 labels, by
EfficientNet-Lite0 and the linear discriminant. The whole picture alone: 0.696 right; fitted on whole pictures, with
the probabilities of three views averaged: 0.713; features of three views averaged, in training too: 0.794; with two
random views of each training photo: 0.804 (two random views and whole pictures: 0.737).

Where there are backgrounds, some random views of an image with a plain background (studio pictures) show the thing on
it pasted onto one of them, once or in a pile (Dwibedi, Misra & Hebert 2017, https://arxiv.org/abs/1708.01642). Images
with any other background have the views that they always have. benchmarks/README.md says what it brings: not always
anything, so that there are no backgrounds but those that are asked for.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from orchard import npz

_AREA = (0.3, 1.0)
_ASPECT = 4 / 3
_LIGHT = 0.25  # at most so much darker or lighter; contrast and saturation likewise
_TINT = 0.08  # of each channel
_BLURRED, _BLUR = 0.25, 1.5  # how many, and the greatest standard deviation in pixels

_PASTED, _PILED = 0.5, 0.5  # how many views of what can be cut out, and how many of these show a pile
# Steps of 255, in any channel, from the colour of a plain background: of most of its border, and of shadows on it.
_ALIKE, _NEAR = 20, 40
_PLAIN = 0.6  # of the border: the thing may touch it
_COPIES = (4, 12)  # in a pile
_SIZES = {False: (0.5, 0.95), True: (0.3, 0.6)}  # longest side of the thing alone, and in a pile; the view's is 1
_TURN = {False: 20.0, True: 180.0}  # degrees, likewise
_SHARE = (0.03, 0.95)  # of the picture that a thing takes
_SPECK = 0.1  # what is smaller, in units of the largest part of the thing, is left out
_LEAST = 16  # pixels of a side, of what is cut out


@functools.lru_cache(maxsize=1)
def pictures(content: bytes) -> tuple[NDArray[np.uint8], ...]:
    """Return the backgrounds of a run, uint8 (height, width, 3), RGB; decoded once in a process.

    ``content`` is that of `orchard.features.backgrounds.Backgrounds`.
    """
    found = npz.load(content) if content else {}
    jpegs = (io.BytesIO(found[str(number)].tobytes()) for number in range(len(found)))
    return tuple(np.asarray(Image.open(jpeg).convert("RGB")) for jpeg in jpegs)


def middle(pixels: NDArray[np.uint8], share: float, size: int) -> NDArray[np.uint8]:
    """Return the middle of an image, uint8 (height, width, 3): `share` of each side, in at most `size` pixels."""
    height, width = pixels.shape[:2]
    left, top = (1 - share) / 2 * width, (1 - share) / 2 * height
    return cut(pixels, (left, top, width - left, height - top), size)


def random_views(
    pixels: NDArray[np.uint8],
    digest: str,
    *,
    views: int,
    seed: int,
    size: int,
    backgrounds: Sequence[NDArray[np.uint8]] = (),
) -> list[NDArray[np.uint8]]:
    """Return the random views of an image, from number 0 on.

    Args:
        pixels: uint8 (height, width, 3), RGB, up to `LARGER` times as large as a view.
        digest: digest of the image's bytes, from which views are drawn.
        views: number of views.
        seed: seed of every random choice.
        size: largest side of a view, in pixels.
        backgrounds: uint8 (height, width, 3), RGB, onto which things on a plain background are pasted in some views.

    Returns:
        uint8 (height, width, 3) each.
    """
    thing = cut_out(pixels) if backgrounds and views else None
    found = []
    for number in range(views):
        draw = _random(f"{seed} {number} {digest} pasted")
        if thing is None or draw.random() >= _PASTED:
            found.append(random_view(pixels, digest, number, seed, size))
        else:
            found.append(_seen(_pasted(thing, backgrounds, size, draw), draw))
    return found


def random_view(pixels: NDArray[np.uint8], digest: str, number: int, seed: int, size: int) -> NDArray[np.uint8]:
    """Return one random view, a part of the image, by its number; further arguments as in `random_views`."""
    draw = _random(f"{seed} {number} {digest}")
    height, width = pixels.shape[:2]
    area = draw.uniform(*_AREA)
    aspect = _ASPECT ** draw.uniform(-1, 1)
    across, down = min(1.0, np.sqrt(area * aspect)) * width, min(1.0, np.sqrt(area / aspect)) * height
    left, top = draw.uniform(0, width - across), draw.uniform(0, height - down)
    return _seen(cut(pixels, (left, top, left + across, top + down), size), draw)


def _random(key: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big"))


def _seen(view: NDArray[np.uint8], draw: np.random.Generator) -> NDArray[np.uint8]:
    """Return a view with random flip, light and blur."""
    if draw.random() < 0.5:
        view = view[:, ::-1]
    light, contrast, saturation = 1 + draw.uniform(-_LIGHT, _LIGHT, 3)
    channels = light * (1 + draw.uniform(-_TINT, _TINT, 3))
    blur = draw.uniform(0, _BLUR) if draw.random() < _BLURRED else 0.0
    seen = Image.fromarray(view).convert("RGB", _colours(view.mean(), channels, contrast, saturation))
    return np.asarray(seen.filter(ImageFilter.GaussianBlur(blur)) if blur else seen)


def cut_out(pixels: NDArray[np.uint8]) -> Image.Image | None:
    """Return what lies on a plain background, RGBA with a soft edge; None if the background is not plain.

    It is plain if the four corners and most of the border have one colour. Pixels of nearly that colour that are
    connected with the border are the background; a highlight on the thing is not.

    Args:
        pixels: uint8 (height, width, 3), RGB.
    """
    from scipy import ndimage  # only where there are backgrounds

    height, width = pixels.shape[:2]
    if min(height, width) < _LEAST:
        return None
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    colour = np.median(border, axis=0).astype(np.int16)
    distance = np.abs(pixels.astype(np.int16) - colour).max(axis=2)
    near = distance <= _NEAR
    edge = np.zeros_like(near)
    edge[[0, -1]], edge[:, [0, -1]] = True, True
    if (distance[edge] <= _ALIKE).mean() < _PLAIN or not near[[0, 0, -1, -1], [0, -1, 0, -1]].all():
        return None
    thing = ~ndimage.binary_propagation(edge & near, mask=near)
    parts, count = ndimage.label(thing)
    if not count:
        return None
    areas = np.bincount(parts.ravel())[1:]
    thing = np.append(False, areas >= _SPECK * areas.max())[parts]
    if not _SHARE[0] <= thing.mean() <= _SHARE[1]:
        return None
    # A pixel less all around, as the outermost ones have taken on the background's colour.
    mask = Image.fromarray(thing.astype(np.uint8) * 255).filter(ImageFilter.MinFilter(3))
    found = Image.fromarray(pixels)
    found.putalpha(mask.filter(ImageFilter.GaussianBlur(0.7)))
    box = mask.getbbox()
    return found.crop(box) if box else None


def _pasted(
    thing: Image.Image, backgrounds: Sequence[NDArray[np.uint8]], size: int, draw: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a crop of a background with the object pasted on it once or as a pile, uint8 (size, size, 3)."""
    ground = backgrounds[int(draw.integers(len(backgrounds)))]
    part = np.sqrt(draw.uniform(*_AREA))
    height, width = ground.shape[:2]
    left, top = draw.uniform(0, (1 - part) * width), draw.uniform(0, (1 - part) * height)
    box = (left, top, left + part * width, top + part * height)
    scene = Image.fromarray(ground).resize((size, size), Image.Resampling.BILINEAR, box)
    piled = bool(draw.random() < _PILED)
    for _ in range(int(draw.integers(_COPIES[0], _COPIES[1] + 1)) if piled else 1):
        scale = draw.uniform(*_SIZES[piled]) * size / max(thing.size)
        across, down = (max(1, round(scale * side)) for side in thing.size)
        copy = thing.resize((across, down), Image.Resampling.BILINEAR)
        copy = copy.rotate(draw.uniform(-1, 1) * _TURN[piled], Image.Resampling.BILINEAR, expand=True)
        # Alone it is whole; of a pile the outer ones may be cut off.
        outside = 0.3 * size if piled else 0.0
        x, y = (round(draw.uniform(min(-outside, size - side), max(0.0, size - side + outside))) for side in copy.size)
        scene.paste(copy, (x, y), copy)
    return np.asarray(scene)


def _colours(mean: float, channels: NDArray[np.float64], contrast: float, saturation: float) -> tuple[float, ...]:
    """Return the matrix (3, 4), row by row, that changes an image's colours about their grey, then about their mean."""
    mixed = contrast * (saturation * np.eye(3) + (1 - saturation) / 3)
    return tuple((channels[:, np.newaxis] * np.column_stack([mixed, np.full(3, (1 - contrast) * mean)])).ravel())


def cut(pixels: NDArray[np.uint8], box: tuple[float, float, float, float], size: int) -> NDArray[np.uint8]:
    """Return a part of an image, no larger than `size`, and enlarged by the network's own resize if it is smaller."""
    across, down = (max(1, min(size, round(box[end] - box[end - 2]))) for end in (2, 3))
    return np.asarray(Image.fromarray(pixels).resize((across, down), Image.Resampling.BILINEAR, box))
