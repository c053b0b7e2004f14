"""Pictures on the page are small, clean and never in the way."""

import base64
import io

import numpy as np
from PIL import Image

from orchard.report.thumbnails import thumbnail, thumbnails


def _opened(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_photo_keeps_its_proportions_and_stands_upright() -> None:
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (0, 0, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: blue, stored left, belongs on top
    small = _opened(thumbnail(_saved(image, "JPEG", exif=exif), 56))
    assert small.size == (28, 56)
    red, _, blue = np.asarray(small)[6, 14]
    assert blue > 150 > red


def test_metadata_and_colour_profile_stay_behind() -> None:
    exif = Image.Exif()
    exif[0x010E] = "at home, 48.85 N 2.35 E"
    content = _saved(Image.new("RGB", (90, 90)), "JPEG", exif=exif, icc_profile=b"profile" * 50_000)
    encoded = thumbnail(content, 56)
    assert len(encoded) < 2_000
    assert not _opened(encoded).getexif()
    assert "icc_profile" not in _opened(encoded).info


def test_transparent_grey_and_palette_images_become_pictures() -> None:
    for mode in ("RGBA", "LA", "P", "L", "1", "I;16"):
        assert _opened(thumbnail(_saved(Image.new(mode, (70, 30)), "PNG"), 56)).size == (56, 24)
    transparent = _opened(thumbnail(_saved(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG"), 56))
    assert np.asarray(transparent).min() > 250


def test_what_cannot_be_read_has_no_picture_and_the_rest_keep_their_place() -> None:
    content = {"good": _saved(Image.new("RGB", (9, 9)), "PNG"), "broken": b"\xff\xd8\xff not a JPEG"}
    made = thumbnails([("gone", 56), ("good", 56), ("broken", 56), ("good", 56)], content.__getitem__)
    assert [picture is not None for picture in made] == [False, True, False, True]


def test_the_budget_is_kept_whatever_the_images_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8)
    content = _saved(Image.fromarray(noise), "PNG")
    made = [picture for picture in thumbnails([("x", 120)] * 30, lambda _: content, budget=40_000) if picture]
    assert 0 < sum(map(len, made)) <= 40_000
    assert len(made) < 30
