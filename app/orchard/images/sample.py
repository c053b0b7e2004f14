"""Generates a small labelled collection of drawn fruits, to try everything without a download."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from orchard.errors import UsageError, file_failure

_SIZE = 100  # pixels, as in Fruits-360
_DRAWN = 128  # drawn somewhat larger, so that edges are smooth
_Colour = tuple[int, int, int]
_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fruit:
    """How a fruit looks; lengths are shares of the image's width."""

    radius: tuple[float, float]
    """Horizontal and vertical."""
    colour: _Colour
    """RGB of the skin."""
    blush: _Colour
    """RGB that the skin turns to in patches."""
    texture: float
    """Strength of the skin's grain."""
    gloss: float
    """Strength of the highlight, 0 to 1."""
    stem: float
    """Length; 0: none."""
    dent: float = 0.0
    """Depth of the hollow at the stem."""
    tips: float = 0.0
    """How pointed the ends are, as a lemon's."""
    bend: float = 0.0
    """How much it is curved, as a banana."""


# Two apples, and cherry and plum, are close on purpose: a collection on which every classifier is right shows little.
FRUITS = {
    "Apple Red": Fruit((0.33, 0.31), (178, 30, 38), (214, 120, 60), 0.05, 0.55, 0.10, dent=0.10),
    "Apple Braeburn": Fruit((0.32, 0.32), (188, 52, 42), (206, 158, 74), 0.07, 0.5, 0.10, dent=0.09),
    "Apple Green": Fruit((0.33, 0.31), (132, 176, 46), (176, 196, 84), 0.05, 0.5, 0.10, dent=0.10),
    "Banana": Fruit((0.40, 0.12), (232, 200, 60), (170, 140, 50), 0.04, 0.2, 0.05, bend=0.9, tips=0.3),
    "Cherry": Fruit((0.25, 0.24), (120, 14, 34), (160, 30, 46), 0.02, 0.9, 0.30, dent=0.08),
    "Kiwi": Fruit((0.34, 0.28), (116, 88, 48), (136, 108, 62), 0.22, 0.06, 0.0),
    "Lemon": Fruit((0.35, 0.25), (238, 208, 44), (222, 214, 90), 0.10, 0.35, 0.0, tips=0.55),
    "Orange": Fruit((0.32, 0.32), (236, 136, 24), (240, 160, 50), 0.13, 0.35, 0.0),
    "Plum": Fruit((0.26, 0.27), (98, 22, 54), (132, 34, 54), 0.03, 0.45, 0.07, dent=0.05),
}


def write_sample(folder: Path | str, *, seed: int = 0, train: int = 45, test: int = 15, broken: int = 2) -> int:
    """Draw ``folder/{Training,Test}/<fruit>/<n>_100.jpg``: JPEGs of 100 x 100 pixels.

    Args:
        folder: Missing or empty.
        seed: The same seed draws the same images.
        train: Training images of each fruit.
        test: Test images of each fruit.
        broken: Number of training files that cannot be decoded, as failed downloads leave them: in turn a cut-off JPEG
            and a web page named ``.jpg``.

    Returns:
        How many files were written.

    Raises:
        UsageError: The folder holds something.
        StorageError: It cannot be written to.
    """
    folder = Path(folder)
    try:
        if folder.exists() and next(folder.iterdir(), None) is not None:
            raise UsageError(f"{folder} is not empty: give a new folder for the sample, or empty it.")
        # Drawn first, which takes seconds: who stops it then has no folder with a part of the sample.
        files = list(_files(seed, {"Training": train, "Test": test}, broken))
        for path, data in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
    except OSError as error:
        raise file_failure(error, "written", f"the sample in {folder}") from error
    return len(files)


def _files(seed: int, counts: dict[str, int], broken: int) -> Iterable[tuple[str, bytes]]:
    for n_fruit, (name, fruit) in enumerate(FRUITS.items()):
        for n_split, (split, count) in enumerate(counts.items()):
            for n in range(count):
                yield f"{split}/{name}/{n}_100.jpg", _jpeg(draw(fruit, [seed, n_fruit, n_split, n]))
    names = list(FRUITS)
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
    for n in range(broken):
        name = names[n % len(names)]
        whole = _jpeg(draw(FRUITS[name], [seed, n, len(counts), 0]))
        yield f"Training/{name}/broken_{n}_100.jpg", page if n % 2 else whole[: len(whole) // 2]


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    return file.getvalue()


def draw(fruit: Fruit, seed: list[int]) -> Image.Image:
    """One photograph of the fruit, RGB, 100 x 100, under the light, angle and background that the seed gives."""
    chance = np.random.default_rng(seed)
    turn = chance.uniform(0, 2 * np.pi) if fruit.stem == 0 or fruit.bend else chance.normal(0, 0.45)
    scale = chance.uniform(0.72, 1.12)
    centre = chance.normal(0, 0.045, 2).astype(np.float32)
    y, x = np.mgrid[0:_DRAWN, 0:_DRAWN].astype(np.float32) / _DRAWN - 0.5
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    u = ((x - centre[0]) * cos + (y - centre[1]) * sin) / scale
    v = ((y - centre[1]) * cos - (x - centre[0]) * sin) / scale

    height = _bulge(fruit, u, v, chance)
    inside = height > 0
    pixels = _background(x, y, chance)
    shade = np.clip(1 - ((x - centre[0] - 0.05) ** 2 + ((y - centre[1] - 0.14) * 1.3) ** 2) / 0.12, 0, 1)
    pixels *= 1 - 0.35 * shade[..., None]  # the fruit's shadow

    skin = _skin(fruit, u, v, chance)
    light = _light(height, chance)
    highlight = np.clip(light - 0.86, 0, 1)[..., None] * 6 * fruit.gloss * chance.uniform(0.5, 1.1)
    lit = skin * (0.35 + 0.8 * np.clip(light, 0, 1))[..., None] + 255 * highlight
    # One pixel of transition at the edge.
    edge = np.clip(height * 30, 0, 1)[..., None]
    pixels = np.where(inside[..., None], pixels * (1 - edge) + lit * edge, pixels)

    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if fruit.stem and chance.random() < 0.75:  # stems come off
        _draw_stem(image, fruit, centre=centre, scale=scale, turn=turn, chance=chance)
    if chance.random() < 0.25:
        _draw_leaf(image, chance)
    image = image.filter(ImageFilter.GaussianBlur(_DRAWN / _SIZE * chance.gamma(1.2, 0.45)))
    image = image.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
    tint = chance.normal(1, 0.05, 3).astype(np.float32) * chance.uniform(0.72, 1.2)  # white balance and exposure
    noise = chance.standard_normal((_SIZE, _SIZE, 3), np.float32) * chance.uniform(1, 9)
    return Image.fromarray(np.clip(np.asarray(image) * tint + noise, 0, 255).astype(np.uint8))


def _bulge(fruit: Fruit, u: _Floats, v: _Floats, chance: np.random.Generator) -> _Floats:
    """Height of the fruit's surface over the table, shape as ``u``; 0 outside."""
    a, b = (radius * chance.normal(1, 0.05) for radius in fruit.radius)
    v = v + fruit.bend * (u**2 - 0.5 * a**2) * chance.normal(1, 0.12)
    angle = np.arctan2(v / b, u / a)
    lobes = sum(chance.normal(0, 0.012) * np.cos(k * angle + chance.uniform(0, 6)) for k in range(2, 6))
    radius = np.hypot(u / a, v / b) * (1 + lobes)
    # A lemon's ends reach out where v is small; an apple's top sinks in where u is.
    radius -= fruit.tips * 0.3 * np.exp(-((v / (0.22 * b)) ** 2)) / (1 + np.exp((0.7 * a - np.abs(u)) / 0.03))
    radius += fruit.dent * 1.6 * np.exp(-((u / (0.32 * a)) ** 2)) / (1 + np.exp((v + 0.4 * b) / 0.04))
    bulge: _Floats = np.sqrt(np.clip(1 - radius**2, 0, None)) * min(a, b)
    return bulge


def _light(height: _Floats, chance: np.random.Generator) -> _Floats:
    """Cosine between the surface and a lamp above, shape as ``height``: Lambert's law."""
    dy, dx = np.gradient(height * _DRAWN)
    lamp = np.array([chance.normal(-0.35, 0.3), chance.normal(-0.45, 0.2), 1.0], np.float32)
    lamp /= np.linalg.norm(lamp)
    cosine: _Floats = (-dx * lamp[0] - dy * lamp[1] + lamp[2]) / np.sqrt(dx**2 + dy**2 + 1)
    return cosine


def _skin(fruit: Fruit, u: _Floats, v: _Floats, chance: np.random.Generator) -> _Floats:
    """Colour of the skin, shape (_DRAWN, _DRAWN, 3): patches of blush, grain and streaks."""
    patches = np.clip(_cloud(6, chance) * 0.9 + 0.45 + 0.6 * v * chance.normal(0, 1), 0, 1)[..., None]
    colour, blush = np.array([fruit.colour, fruit.blush], np.float32) * chance.normal(1, 0.05, 3).astype(np.float32)
    skin: _Floats = colour + (blush - colour) * 0.55 * patches
    grain = 1 + fruit.texture * (0.6 * _cloud(50, chance) + 0.6 * _cloud(18, chance))
    if fruit.blush[1] > 110 and fruit.dent:  # an apple's stripes
        grain = grain + 0.06 * np.sin(u * 70 + 4 * _cloud(5, chance))
    skin *= grain[..., None]
    return skin


def _background(x: _Floats, y: _Floats, chance: np.random.Generator) -> _Floats:
    """White as in a studio, or a table: shape (_DRAWN, _DRAWN, 3)."""
    if chance.random() < 0.5:
        base = np.array([244, 244, 242], np.float32) - np.float32(chance.uniform(0, 18))
        plain: _Floats = base - 14 * (y + x * chance.normal(0, 1))[..., None]
        return plain
    base = np.array([(150, 112, 78), (120, 128, 136), (188, 178, 160), (96, 120, 92)][chance.integers(4)], np.float32)
    rows = np.sin((y + 0.03 * _cloud(4, chance)) * chance.uniform(20, 60)) * chance.uniform(0, 10)
    table: _Floats = base + rows[..., None] + (9 * _cloud(40, chance) + 22 * _cloud(3, chance))[..., None]
    return table


def _cloud(cells: int, chance: np.random.Generator) -> _Floats:
    """Smooth noise of ``cells`` bumps across, about -1 to 1, shape (_DRAWN, _DRAWN)."""
    coarse = Image.fromarray(chance.standard_normal((cells, cells), np.float32) / 2)
    return np.asarray(coarse.resize((_DRAWN, _DRAWN), Image.Resampling.BICUBIC), dtype=np.float32)


def _draw_stem(
    image: Image.Image,
    fruit: Fruit,
    *,
    centre: _Floats,
    scale: float,
    turn: float,
    chance: np.random.Generator,
) -> None:
    start = np.array([fruit.radius[0] * 0.96, 0]) if fruit.bend else np.array([0, -fruit.radius[1] * 0.80])
    if fruit.bend:
        start[1] = -0.5 * fruit.bend * fruit.radius[0] ** 2
    along = np.array([1.0, -0.3]) if fruit.bend else np.array([chance.normal(0, 0.25), -1.0])
    t = np.linspace(0, 1, 8)[:, None]
    line = start + along * fruit.stem * t + np.array([chance.normal(0, 0.06), 0]) * t**2
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    points = ((line @ rotation) * scale + centre + 0.5) * _DRAWN
    colour = tuple(int(c) for c in np.array([86, 62, 34]) * chance.uniform(0.7, 1.3))
    width = int(scale * (6 if fruit.bend else 3 if fruit.stem > 0.2 else 4))
    ImageDraw.Draw(image).line([tuple(p) for p in points], fill=colour, width=width, joint="curve")


def _draw_leaf(image: Image.Image, chance: np.random.Generator) -> None:
    """A leaf, or a finger's shadow, that hides a part of the fruit."""
    angle, length = chance.uniform(0, 2 * np.pi), chance.uniform(0.2, 0.42) * _DRAWN
    middle = _DRAWN / 2 + np.array([np.cos(angle), np.sin(angle)]) * _DRAWN * chance.uniform(0.28, 0.45)
    lean = chance.uniform(0, 2 * np.pi)
    t = np.linspace(-1, 1, 15)
    side = 0.28 * (1 - t**2) * length
    along, across = np.array([np.cos(lean), np.sin(lean)]), np.array([-np.sin(lean), np.cos(lean)])
    spine = middle + t[:, None] * along * length / 2
    outline = np.r_[spine + side[:, None] * across, (spine - side[:, None] * across)[::-1]]
    green = tuple(int(c) for c in np.array([70, 112, 48]) * chance.uniform(0.6, 1.3))
    pen = ImageDraw.Draw(image)
    pen.polygon([tuple(p) for p in outline], fill=green)
    pen.line([tuple(p) for p in spine], fill=tuple(int(c * 1.25) for c in green), width=1)
