"""Drawn stand-ins for the photographs of Fruits-360: frames of fruits that turn, on white, where there are none.

They are for a clone that has no photographs beside it. Nothing said about accuracy is measured on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

TRAINING, TEST = 160, 50
"""Frames of a fruit, as many as Fruits-360 has of most."""
SIZE = 100  # pixels
_LATITUDES, _LONGITUDES = 64, 256  # of a skin that is laid flat
_FRAMES = (TRAINING + TEST) // 2  # of each of two turns: upright, and lying (`r_`)
_STRETCH = 21  # frames, of which the last go to testing
_OUT_OF_FOCUS = ("Training/Cherry Rainier 2/30_100.jpg", "Training/Onion Red 2/r_30_100.jpg")  # a review finds them
_Floats = NDArray[np.float32]
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Fruit:
    """How a fruit looks."""

    width: float  # of its height
    skin: _Colour
    spots: _Colour
    spotted: float  # share of the skin, 0 to 1
    gloss: float = 0.3  # 0 to 1
    grain: float = 0.02  # strength of fine dots
    bumps: int = 0  # around the equator: a raspberry's
    stripes: int = 0  # from pole to pole: an onion's
    pointed: float = 0.0  # how narrow the top is, 0 to 1


FRUITS = {
    "Apple Golden 2": Fruit(1.0, (214, 208, 96), (180, 186, 70), 0.3, stripes=3),
    "Cherry Rainier 2": Fruit(0.95, (236, 214, 164), (206, 60, 60), 0.5, gloss=0.6),
    "Grape pink 2": Fruit(0.75, (120, 40, 62), (150, 96, 104), 0.35, gloss=0.5),
    "Lemon Meyer": Fruit(0.85, (252, 174, 18), (240, 150, 10), 0.3, grain=0.08, pointed=0.15),
    "Mango": Fruit(0.88, (60, 112, 66), (110, 140, 84), 0.3, grain=0.04),
    "Onion Red 2": Fruit(0.7, (74, 34, 34), (120, 78, 60), 0.4, stripes=24, pointed=0.8),
    "Orange 2": Fruit(0.97, (196, 124, 40), (150, 90, 36), 0.2, gloss=0.05, grain=0.12),
    "Papaya 2": Fruit(0.62, (150, 158, 40), (226, 170, 40), 0.5, pointed=0.4),
    "Plum 5": Fruit(0.92, (34, 20, 28), (78, 40, 44), 0.3, gloss=0.9),
    "Raspberry": Fruit(0.9, (150, 50, 160), (110, 40, 190), 0.4, gloss=0.5, bumps=14),
    "Tomato 2": Fruit(0.55, (212, 24, 26), (190, 40, 20), 0.2, gloss=0.8, pointed=0.2),
}


def write_turntable(folder: Path, fruits: Mapping[str, Fruit] = FRUITS) -> None:
    """Draw ``folder/{Training,Test}/<fruit>/<frame>_100.jpg``, always the same; takes three seconds for all fruits."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_text("Drawn by Orchard's tests.\n")
    for number, (name, fruit) in enumerate(fruits.items()):
        for split in ("Training", "Test"):
            (folder / split / name).mkdir(parents=True)
        random = np.random.default_rng(number)
        skin = _skin(fruit, random)
        for turn, lying in (("", False), ("r_", True)):
            latitude, longitude, light, edge = _surface(fruit, lying, random)
            for frame in range(_FRAMES):
                turned = (longitude + frame * _LONGITUDES // _FRAMES) % _LONGITUDES
                lit = skin[latitude, turned] * light[..., 0:1] + 255 * fruit.gloss * light[..., 1:2]
                lit = lit * random.normal(1, 0.02) + random.normal(0, 2, (SIZE, SIZE, 1)).astype(np.float32)
                pixels = 255 + (lit - 255) * edge
                split = "Test" if frame % _STRETCH >= _STRETCH * TRAINING // (TRAINING + TEST) else "Training"
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                file = f"{split}/{name}/{turn}{frame}_100.jpg"
                if file in _OUT_OF_FOCUS:
                    image = image.filter(ImageFilter.GaussianBlur(4))
                image.save(folder / file, quality=90)


def _surface(
    fruit: Fruit, lying: bool, random: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp], _Floats, _Floats]:
    """Row and column of the skin at each pixel, (SIZE, SIZE); diffuse and mirrored light; how much is fruit, 0 to 1."""
    y, x = (np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) - SIZE / 2) / (0.46 * SIZE)
    if lying:
        x, y = y, x
    width = fruit.width * (1 - fruit.pointed * np.clip(-y, 0, 1) ** 0.5)
    across = x / np.maximum(width, 0.05)
    inside = 1 - across**2 - y**2
    depth = np.sqrt(np.clip(inside, 0, None))
    tilt = random.uniform(0.1, 0.3)  # of the axis towards the camera
    pole, front = y * np.cos(tilt) + depth * np.sin(tilt), depth * np.cos(tilt) - y * np.sin(tilt)
    latitude = (np.arcsin(np.clip(pole, -1, 1)) / np.pi + 0.5) * (_LATITUDES - 1)
    longitude = (np.arctan2(across, front) / (2 * np.pi) + 0.5) * (_LONGITUDES - 1)
    facing = np.clip(-0.35 * across - 0.45 * y + 0.82 * depth, 0, 1)
    light = np.stack([0.45 + 0.6 * facing, 0.7 * facing**40], axis=-1)
    edge = np.clip(inside * 12, 0, 1)[..., np.newaxis]
    return latitude.astype(np.intp), longitude.astype(np.intp), light.astype(np.float32), edge.astype(np.float32)


def _skin(fruit: Fruit, random: np.random.Generator) -> _Floats:
    """The skin laid flat: (_LATITUDES, _LONGITUDES, 3)."""
    skin, spots = np.array([fruit.skin, fruit.spots], np.float32)
    cloud = _cloud(5, random) + 0.6 * _cloud(14, random)
    above = cloud > np.quantile(cloud, 1 - fruit.spotted)
    colour = skin + (spots - skin) * np.where(above, 0.9, 0.15 * np.abs(cloud))[..., np.newaxis]
    latitude, longitude = np.mgrid[0:_LATITUDES, 0:_LONGITUDES].astype(np.float32)
    around = 2 * np.pi * longitude / _LONGITUDES
    shade = 1 + fruit.grain * random.standard_normal((_LATITUDES, _LONGITUDES))
    if fruit.bumps:
        rows = np.pi * latitude / _LATITUDES * fruit.bumps / 2
        shade += 0.45 * np.sin(around * fruit.bumps + np.pi * (rows // np.pi % 2)) * np.abs(np.sin(rows)) - 0.1
    if fruit.stripes:
        shade += 0.12 * np.sin(around * fruit.stripes + 2 * cloud)
    laid: _Floats = (colour * shade[..., np.newaxis]).astype(np.float32)
    return laid


def _cloud(cells: int, random: np.random.Generator) -> _Floats:
    """Smooth noise of ``cells`` bumps from pole to pole, which closes around the equator."""
    coarse = random.standard_normal((cells, 4 * cells)).astype(np.float32)
    wide = Image.fromarray(np.tile(coarse, (1, 3))).resize((3 * _LONGITUDES, _LATITUDES), Image.Resampling.BICUBIC)
    return np.asarray(wide, np.float32)[:, _LONGITUDES : 2 * _LONGITUDES]
