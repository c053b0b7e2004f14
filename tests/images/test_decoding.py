"""Whatever the bytes, decoding returns upright 8-bit RGB or a reason, and never raises."""

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from orchard.images.decoding import Decoded, Limits, Rejection, decode
from orchard.layout import Reason

LIMITS = Limits()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def _decoded(data: bytes, target: int = 224) -> Decoded:
    result = decode(data, target, LIMITS)
    assert isinstance(result, Decoded), result
    assert result.pixels.dtype == np.uint8
    assert result.pixels.shape[2] == 3
    assert result.pixels.flags.c_contiguous
    return result


def _rejected(data: bytes, limits: Limits = LIMITS) -> Rejection:
    result = decode(data, 224, limits)
    assert isinstance(result, Rejection), result
    assert result.detail
    return result


def _scene(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Red on the left, blue on the right, smooth enough for JPEG."""
    image = Image.new("RGB", size, RED)
    ImageDraw.Draw(image).rectangle((size[0] // 2, 0, *size), fill=BLUE)
    return image.convert(mode)


def _png(width: int, height: int, depth: int, colour: int, raw: bytes) -> bytes:
    """A PNG of raw scanlines: Pillow itself writes no 16-bit RGB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO"])
def test_every_format_keeps_its_colours_and_its_size(kind: str) -> None:
    decoded = _decoded(_encode(_scene(), kind))
    assert (decoded.width, decoded.height) == (60, 40)
    assert decoded.pixels.shape == (40, 60, 3)
    assert np.abs(decoded.pixels[20, 10].astype(int) - RED).max() < 12
    assert np.abs(decoded.pixels[20, 50].astype(int) - BLUE).max() < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_of_several_frames_the_first_one_counts(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    data = _encode(first, kind, save_all=True, append_images=[second])
    assert np.abs(_decoded(data).pixels.astype(int) - RED).max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("target", [224, 16])
def test_images_are_turned_upright(kind: str, orientation: int, target: int) -> None:
    upright = _scene(size=(60, 40))
    stored = upright
    turn = Image.Transpose
    # What a camera held in that orientation stores: the inverse of what a viewer does.
    inverse = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    if orientation > 1:
        stored = upright.transpose(inverse[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = _decoded(_encode(stored, kind, exif=exif.tobytes()), target)
    assert (decoded.width, decoded.height) == (60, 40)
    height, width, _ = decoded.pixels.shape
    assert (width, height) == ((60, 40) if target == 224 else (16, 16))
    assert np.abs(decoded.pixels[height // 2, width // 8].astype(int) - RED).max() < 12
    assert np.abs(decoded.pixels[height // 2, -width // 8].astype(int) - BLUE).max() < 12


def test_metadata_that_cannot_be_read_leaves_the_image_as_it_is() -> None:
    data = _encode(_scene(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f garbage")
    assert _decoded(data).pixels.shape == (40, 60, 3)


@pytest.mark.parametrize("target", [224, 4])
def test_transparency_shows_white(target: int) -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    grey = Image.new("LA", (16, 16), (0, 0))
    palette = Image.new("P", (16, 16), 3)
    palette.putpalette([9, 9, 9] * 8)
    keyed = Image.new("RGB", (16, 16), (1, 2, 3))
    for data in (
        _encode(clear, "PNG"),
        _encode(clear, "WEBP", lossless=True),
        _encode(clear, "TIFF"),
        _encode(grey, "PNG"),
        _encode(palette, "PNG", transparency=3),
        _encode(palette, "GIF", transparency=3),
        _encode(keyed, "PNG", transparency=(1, 2, 3)),
        _encode(Image.new("L", (16, 16), 7), "PNG", transparency=7),
    ):
        assert (_decoded(data, target).pixels == 255).all()
    half = _encode(Image.new("RGBA", (16, 16), (255, 0, 0, 128)), "PNG")
    assert np.abs(_decoded(half, target).pixels.astype(int) - (255, 127, 127)).max() <= 1


def test_colour_does_not_bleed_out_of_transparent_pixels() -> None:
    image = Image.new("RGBA", (512, 512), (0, 255, 0, 0))
    ImageDraw.Draw(image).rectangle((0, 0, 255, 511), fill=(255, 0, 0, 255))
    pixels = _decoded(_encode(image, "PNG"), 15).pixels.astype(int)
    assert (pixels[..., 1] <= pixels[..., 0]).all()  # between red and white there is no green


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.new("1", (8, 8), 1), "PNG"),
        (Image.new("1", (8, 8), 1), "TIFF"),
        (Image.new("L", (8, 8), 255), "JPEG"),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"),
        (Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"),
        (Image.new("I;16", (8, 8), 65535), "PNG"),
        (Image.new("I;16", (8, 8), 65535), "TIFF"),
        (Image.new("F", (8, 8), 1.0), "TIFF"),
        (Image.new("F", (8, 8), 255.0), "TIFF"),
        (Image.new("I", (8, 8), 65535), "TIFF"),
    ],
)
def test_white_is_white_in_every_mode(image: Image.Image, kind: str) -> None:
    assert (_decoded(_encode(image, kind)).pixels == 255).all()


def test_ink_of_cmyk_has_its_colour() -> None:
    pixels = _decoded(_encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).pixels
    assert np.abs(pixels.astype(int) - RED).max() < 12


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    expected = np.arange(256).reshape(16, 16)
    for data in (_encode(Image.fromarray(ramp), "PNG"), _encode(Image.fromarray(ramp), "TIFF")):
        assert (_decoded(data).pixels == expected[..., None]).all()
    lines = b"".join(b"\0" + struct.pack(">6H", 65535, 257 * 128, 0, 0, 65535, 257 * 7) for _ in range(2))
    pixels = _decoded(_png(2, 2, 16, 2, lines)).pixels
    assert pixels[0].tolist() == [[255, 128, 0], [0, 255, 7]]


def test_floats_of_any_range_are_seen() -> None:
    ramp = np.linspace(-5, 1000, 256, dtype=np.float32).reshape(16, 16)
    pixels = _decoded(_encode(Image.fromarray(ramp), "TIFF")).pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert 120 < pixels.mean() < 135


def test_only_larger_images_are_resized_and_the_original_size_is_kept() -> None:
    small = _decoded(_encode(_scene(size=(224, 100)), "PNG"))
    assert small.pixels.shape == (100, 224, 3)
    for kind in ("JPEG", "PNG"):
        large = _decoded(_encode(_scene(size=(2000, 30)), kind))
        assert large.pixels.shape == (224, 224, 3)
        assert (large.width, large.height) == (2000, 30)


def test_shrinking_a_photograph_averages_it(fruits: Path) -> None:
    photo = Image.open(next((fruits / "Training").glob("Lemon*/*.jpg"))).convert("RGB")
    large = photo.resize((3200, 2400), Image.Resampling.LANCZOS)
    reference = np.asarray(large.resize((224, 224), Image.Resampling.BOX), dtype=float)
    for kind in ("JPEG", "PNG"):
        pixels = _decoded(_encode(large, kind)).pixels
        assert np.abs(pixels - reference).mean() < 2
    checks = (np.indices((1000, 1000)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert np.abs(_decoded(_encode(Image.fromarray(checks), "PNG")).pixels.astype(int) - 127).max() <= 16


# What cannot be decoded


def test_no_bytes_are_empty() -> None:
    assert _rejected(b"").reason is Reason.EMPTY


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"<html>", "HTML"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG"),
        (b"<?xml version='1.0'?><Error/>", "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04abc", "ZIP"),
        (b"\x00\x00\x00\x18ftypheic", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"BMW is a car maker, and this is no bitmap", "text"),
        (b"\x00" * 1000, "zero bytes"),
        (b"\x9d\x01\x02\x03", "9d 01 02 03"),
        ("é".encode() * 400, "text"),
    ],
)
def test_content_that_is_no_image_is_named(content: bytes, looks_like: str) -> None:
    rejection = _rejected(content)
    assert rejection.reason is Reason.UNSUPPORTED_FORMAT
    assert looks_like in rejection.detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_image_that_ends_early_is_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    data = _encode(Image.fromarray(noise), kind)
    assert _rejected(data[: int(len(data) * share)]).reason is Reason.TRUNCATED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_header_alone_is_truncated(kind: str) -> None:
    assert _rejected(_encode(_scene(), kind)[:20]).reason is Reason.TRUNCATED


def test_damage_with_the_end_in_place_is_corrupt() -> None:
    png = bytearray(_encode(_scene(), "PNG"))
    at = png.index(b"IDAT") + 6
    png[at : at + 20] = b"\xff" * 20
    assert _rejected(bytes(png)).reason is Reason.CORRUPT
    jpeg = bytearray(_encode(_scene(), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 99  # bits for each sample
    assert _rejected(bytes(jpeg)).reason is Reason.CORRUPT


def test_limits_hold_before_anything_is_decoded() -> None:
    bomb = _png(60_000, 60_000, 8, 2, b"")
    rejection = _rejected(bomb)
    assert rejection.reason is Reason.TOO_MANY_PIXELS
    assert "60000 x 60000" in rejection.detail
    data = _encode(_scene(), "PNG")
    assert _rejected(data, Limits(max_bytes=len(data) - 1)).reason is Reason.TOO_LARGE
    assert _rejected(data, Limits(max_pixels=60 * 40 - 1)).reason is Reason.TOO_MANY_PIXELS
    assert isinstance(decode(data, 224, Limits(max_bytes=len(data), max_pixels=60 * 40)), Decoded)


def test_pillow_writes_no_warnings() -> None:
    code = f"""
from orchard.images.decoding import decode, Limits
from PIL import Image
import io
bomb = {_png(10_000, 9_500, 8, 2, b"")!r}
print(decode(bomb, 224, Limits()).reason)
file = io.BytesIO()
Image.new("RGB", (8, 8)).save(file, "TIFF")
decode(file.getvalue()[:-30] + bytes(30), 224, Limits())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("truncated\n", "")


@pytest.mark.filterwarnings("ignore::UserWarning")  # pytest undoes the filter of the module
def test_no_damage_raises_an_exception(fruits: Path) -> None:
    chance = random.Random(3)
    photo = Image.open(next((fruits / "Test").glob("Apple*/*.jpg"))).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    originals = [
        _encode(photo, "JPEG", exif=exif),
        _encode(photo, "JPEG", progressive=True),
        _encode(photo, "PNG", exif=exif),
        _encode(photo.convert("P"), "PNG", transparency=1),
        _encode(photo.convert("RGBA"), "WEBP", exif=exif),
        _encode(photo, "BMP"),
        _encode(photo, "GIF", save_all=True, append_images=[photo.rotate(9)]),
        _encode(photo, "TIFF", compression="tiff_lzw"),
        _encode(photo, "TIFF", compression="tiff_adobe_deflate"),
        _encode(photo, "TIFF"),
        _encode(photo, "MPO", save_all=True, append_images=[photo]),
    ]
    reasons = set()
    for n in range(600):
        data = bytearray(originals[n % len(originals)])
        for _ in range(chance.choice([1, 3, 30])):
            # Headers are where parsers break: half of the damage goes there.
            at = chance.randrange(len(data) if chance.random() < 0.5 else min(200, len(data)))
            match chance.randrange(3):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at : at + chance.randrange(50)] = chance.randbytes(chance.randrange(50))
                case 2:
                    data[at : at + 4] = struct.pack("<I", chance.choice([0, 1, 2**31, 2**32 - 1]))
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        result = decode(bytes(data), 64, Limits(max_pixels=1_000_000))
        if isinstance(result, Rejection):
            reasons.add(result.reason)
            assert result.detail
        else:
            assert result.pixels.ndim == 3
    assert {Reason.TRUNCATED, Reason.CORRUPT, Reason.UNSUPPORTED_FORMAT, Reason.TOO_MANY_PIXELS} <= reasons


def test_every_photograph_of_the_collection_is_decoded(fruits: Path) -> None:
    for path in sorted(fruits.glob("T*/*/*.jpg"))[::40]:
        assert _decoded(path.read_bytes()).pixels.shape == (100, 100, 3)
