"""Whatever the bytes, decoding returns upright 8-bit RGB or a reason, and never raises."""

import io
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageDraw

from orchard.images import boxes
from orchard.images.decoding import Decoded, Limits, Rejection, decode
from orchard.vocabulary import Fit, Reason
from profiles import grey, press, wide_gamut

pillow_heif.register_heif_opener()
LIMITS = Limits()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
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


def _chunk(name: bytes, content: bytes, wrong: int = 0) -> bytes:
    checksum = zlib.crc32(name + content) ^ wrong
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _png(
    width: int, height: int, depth: int, colour: int, raw: bytes, interlaced: bool = False, before: bytes = b""
) -> bytes:
    """A PNG of raw scanlines: Pillow itself writes no 16-bit RGB, and nothing interlaced."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    data = _chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + data + _chunk(b"IEND", b"")


def _scanlines(samples: npt.NDArray[np.integer], depth: int, interlaced: bool) -> bytes:
    """What a PNG holds of samples (height, width, channels)."""
    starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    lines = []
    for left, top, across, down in starts if interlaced else [(0, 0, 1, 1)]:
        for row in samples[top::down, left::across]:
            if row.size:
                bits = (row.reshape(-1, 1) >> np.arange(depth)[::-1] & 1).astype(np.uint8)
                lines.append(b"\0" + np.packbits(bits.reshape(-1)).tobytes())
    return b"".join(lines)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "MPO", "AVIF", "HEIF"])
def test_every_format_keeps_its_colours_and_its_size(kind: str) -> None:
    decoded = _decoded(_encode(_scene(), kind))
    assert (decoded.width, decoded.height) == (60, 40)
    assert decoded.pixels.shape == (40, 60, 3)
    assert np.abs(decoded.pixels[20, 10].astype(int) - RED).max() < 12
    assert np.abs(decoded.pixels[20, 50].astype(int) - BLUE).max() < 12


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "MPO", "AVIF", "HEIF"])
def test_of_several_frames_the_first_one_counts(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), BLUE)
    data = _encode(first, kind, save_all=True, append_images=[second])
    assert np.abs(_decoded(data).pixels.astype(int) - RED).max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
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


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth"),
    [
        (colour, depth)
        for colour, depths in ((0, "1 2 4 8 16"), (2, "8 16"), (3, "1 2 4 8"), (4, "8 16"), (6, "8 16"))
        for depth in map(int, depths.split())
    ],
)
def test_png_of_every_kind(colour: int, depth: int, interlaced: bool) -> None:
    rows, columns = np.mgrid[0:21, 0:30]
    grey = (columns * 9 % 256 / 255)[..., None]
    shown = np.concatenate([grey, 1 - grey, (rows * 12 % 256 / 255)[..., None]], -1) if colour in (2, 6) else grey
    most = 2**depth - 1
    samples = np.rint(shown * most).astype(int)
    before = _chunk(b"PLTE", np.repeat(np.rint(np.arange(most + 1) * (255 / most)), 3).astype(np.uint8).tobytes())
    expected = np.broadcast_to(np.rint(samples * (255 / most)), (21, 30, 3)).astype(int)
    if colour in (4, 6):
        alpha = np.where(rows < 10, most, 0)[..., None]
        samples = np.concatenate([samples, alpha], -1)
        expected = np.where(alpha, expected, 255)
    data = _png(30, 21, depth, colour, _scanlines(samples, depth, interlaced), interlaced, before * (colour == 3))
    assert np.abs(_decoded(data).pixels - expected).max() <= 1
    assert np.abs(_decoded(data, 20).pixels.mean(axis=(0, 1)) - expected.mean(axis=(0, 1))).max() < 6
    key = {0: 1, 2: 3}.get(colour)
    if key:  # what has the colour of one pixel is clear
        chunk = _chunk(b"tRNS", struct.pack(f">{key}H", *samples[0, 12]))
        pixels = _decoded(_png(30, 21, depth, colour, _scanlines(samples, depth, interlaced), interlaced, chunk)).pixels
        expected = np.where((samples == samples[0, 12]).all(-1)[..., None], 255, expected)
        assert np.abs(pixels - expected).max() <= 1


@pytest.mark.parametrize("target", [224, 16])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("space", ["Display P3", "Adobe RGB"])
def test_wide_colours_become_srgb(space: str, kind: str, target: int) -> None:
    profile = wide_gamut(space)
    image = Image.new("RGB", (40, 40), (60, 160, 90))
    to_srgb = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), "RGB", "RGB"
    )
    expected = np.asarray(ImageCms.applyTransform(image, to_srgb)).astype(int)
    assert np.abs(expected - np.asarray(image)).max() > 15
    pixels = _decoded(_encode(image, kind, icc_profile=profile, quality=95), target).pixels
    assert np.abs(pixels - expected[0, 0]).max() <= 6
    if kind == "PNG":
        palette = _encode(image.convert("P", palette=Image.Palette.ADAPTIVE), kind, icc_profile=profile)
        alpha = _encode(image.convert("RGBA"), kind, icc_profile=profile)
        assert np.abs(_decoded(palette, target).pixels - expected[0, 0]).max() <= 1
        assert np.abs(_decoded(alpha, target).pixels - expected[0, 0]).max() <= 1


@pytest.mark.parametrize("target", [224, 16])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_grey_is_as_bright_as_its_profile_says(kind: str, target: int) -> None:
    for mode in ("L", "LA", "I;16") if kind == "PNG" else ("L",):
        image = Image.new("L", (40, 40), 100)
        whole = Image.fromarray(np.full((40, 40), 100 * 257, np.uint16)) if mode == "I;16" else image.convert(mode)
        for power, expected in ((1.0, 168), (1.8, 119), (2.2, 100)):  # as Chrome 156
            data = _encode(whole, kind, icc_profile=grey(power), quality=100)
            assert np.abs(_decoded(data, target).pixels.astype(int) - expected).max() <= 2
    clear = _encode(Image.new("LA", (40, 40), (100, 0)), "PNG", icc_profile=grey(1.8))
    assert (_decoded(clear, target).pixels == 255).all()


@pytest.mark.parametrize("target", [224, 16])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_ink_of_cmyk_has_the_colour_of_its_profile(kind: str, target: int) -> None:
    seen = {  # by Chrome 156
        (255, 0, 0, 0): (0, 164, 232),
        (0, 255, 0, 0): (223, 28, 128),
        (0, 0, 255, 0): (251, 228, 0),
        (0, 0, 0, 0): (255, 255, 255),
    }
    for ink, expected in seen.items():
        data = _encode(Image.new("CMYK", (40, 40), ink), kind, icc_profile=press(), quality=100)
        assert np.abs(_decoded(data, target).pixels.astype(int) - expected).max() <= 3


# What Chrome 156 makes of these colours in that space: Display P3, BT.2020, and of HDR PQ and HLG.
_ASKED = ((60, 160, 90), (200, 40, 30), (128, 128, 128), (255, 255, 255))
_CHROME = {
    (12, 13): ((0, 163, 82), (218, 0, 4), (128, 128, 128), (255, 255, 255)),
    (9, 1): ((0, 169, 76), (248, 0, 7), (128, 128, 128), (255, 255, 255)),
    (12, 16): ((0, 220, 0), (255, 0, 0), (132, 132, 132), (255, 255, 255)),
    (9, 16): ((0, 225, 0), (255, 0, 0), (132, 132, 132), (255, 255, 255)),
    (9, 18): ((0, 138, 63), (230, 0, 0), (99, 99, 99), (255, 255, 255)),
}


def _with_numbers(image: Image.Image, kind: str, primaries: int, transfer: int) -> bytes:
    """A file that tells its colours by the numbers of ITU-T H.273."""
    if kind == "PNG":
        data = _encode(image, kind)
        return data[:33] + _chunk(b"cICP", bytes([primaries, transfer, 0, 1])) + data[33:]
    data = _encode(image, kind, quality=100, subsampling="4:4:4", **({"chroma": 444} if kind == "HEIF" else {}))
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


@pytest.mark.parametrize("target", [224, 16])
@pytest.mark.parametrize("kind", ["PNG", "AVIF", "HEIF"])
@pytest.mark.parametrize("numbers", _CHROME)
def test_wide_and_hdr_colours_that_a_file_tells_by_numbers_become_srgb(
    numbers: tuple[int, int], kind: str, target: int
) -> None:
    for asked, expected in zip(_ASKED, _CHROME[numbers], strict=True):
        for mode in ("RGB", "RGBA"):
            data = _with_numbers(Image.new(mode, (40, 40), asked), kind, *numbers)
            assert np.abs(_decoded(data, target).pixels.astype(int) - expected).max() <= 6


def test_numbers_of_another_item_than_the_image_do_not_count() -> None:
    plain = _decoded(_with_numbers(_scene(), "AVIF", 1, 13)).pixels
    wide = bytearray(_with_numbers(_scene(), "AVIF", 9, 16))
    assert (_decoded(bytes(wide)).pixels != plain).any()
    names = re.findall(rb"(?:ispe|pixi|av1C|colr)", wide[wide.index(b"ipco") :])
    at = wide.index(b"ipma") + 15  # the numbers of the image's properties, from 1; the highest bit has a meaning
    theirs = [number & 0x7F for number in wide[at : at + wide[at - 1]]]
    wide[at + theirs.index(names.index(b"colr") + 1)] = names.index(b"pixi") + 1
    assert (_decoded(bytes(wide)).pixels == plain).all()


def test_boxes_that_are_broken_tell_no_colours_and_raise_nothing() -> None:
    data = _with_numbers(_scene(), "AVIF", 9, 16)
    assert boxes.space(data)
    assert boxes.space(data[:60]) is None
    for length in range(400):
        for rest in (b"", bytes(40), b"\xff" * 40 + data[length + 40 :], bytes(40) + data[length + 40 :]):
            boxes.space(data[:length] + rest)


def test_of_what_a_png_says_of_colour_that_counts_which_counts_in_browsers() -> None:
    image = Image.new("RGB", (20, 20), (60, 160, 90))
    plain = _encode(image, "PNG")

    def seen(*chunks: bytes) -> list[int]:
        return [int(value) for value in _decoded(plain[:33] + b"".join(chunks) + plain[33:]).pixels[5, 5]]

    linear, usual = (_chunk(b"gAMA", struct.pack(">I", number)) for number in (100_000, 45_455))
    white, srgb = (31_270, 32_900), (64_000, 33_000, 30_000, 60_000, 15_000, 6_000)
    adobe = (64_000, 33_000, 21_000, 71_000, 15_000, 6_000)
    same, wide = (_chunk(b"cHRM", struct.pack(">8I", *white, *primaries)) for primaries in (srgb, adobe))
    profile = _chunk(b"iCCP", b"x\0\0" + zlib.compress(wide_gamut("Adobe RGB")))
    p3 = _chunk(b"cICP", bytes([12, 13, 0, 1]))
    as_it_is, converted = [60, 160, 90], seen(profile)
    assert converted[0] == 0
    assert seen(linear) == [133, 208, 160]  # as Chrome 156, and so are those below
    assert np.abs(np.subtract(seen(usual, wide), converted)).max() <= 1
    assert seen(p3, profile) == seen(p3) != as_it_is
    assert seen(profile, linear) == seen(profile, _chunk(b"sRGB", b"\0")) == converted
    for chunks in (
        [usual],
        [usual, same],
        [wide],
        [_chunk(b"sRGB", b"\0"), linear, wide],
        [_chunk(b"gAMA", bytes(4))],
        [_chunk(b"gAMA", b"\1")],
        [_chunk(b"gAMA", struct.pack(">I", 100_000), wrong=1)],
        [usual, _chunk(b"cHRM", b"\1")],
        [usual, _chunk(b"cHRM", struct.pack(">8I", *[30_000] * 8))],  # all in one place
        [usual, _chunk(b"cHRM", bytes(32))],
        [usual, _chunk(b"cHRM", struct.pack(">8I", 40_000, 60_000, *srgb))],  # white without blue
        [_chunk(b"cICP", b"\x0c")],
        [_chunk(b"cICP", bytes([12, 13, 0, 0]))],  # of the narrow range
        [_chunk(b"cICP", bytes([2, 2, 0, 1]))],
    ):
        assert seen(*chunks) == as_it_is


def test_profiles_of_srgb_and_broken_ones_change_nothing() -> None:
    image = _scene()
    plain = _decoded(_encode(image, "PNG")).pixels
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = wide_gamut("Adobe RGB")
    broken = [b"", b"no profile", wide[:200], wide.replace(b"curv", b"xxxx"), bytes(2_000_000), wide[:128] + bytes(400)]
    grey = wide.replace(b"RGB ", b"GRAY")
    for profile in (srgb, srgb + bytes(2_000_000), grey, wide + b"mpet", *broken):
        assert (_decoded(_encode(image, "PNG", icc_profile=profile)).pixels == plain).all()
    for mode in ("L", "CMYK"):  # a profile of another kind than the pixels
        as_it_is = _decoded(_encode(image.convert(mode), "TIFF")).pixels
        assert (_decoded(_encode(image.convert(mode), "TIFF", icc_profile=wide)).pixels == as_it_is).all()


def test_metadata_are_no_reason_to_refuse_a_png() -> None:
    plain = _encode(_scene(), "PNG")
    expected = _decoded(plain).pixels
    large = zlib.compress(bytes(2_000_000))
    for chunk in (
        _chunk(b"iCCP", b"p\0\0" + large),
        _chunk(b"iCCP", b"p\0\0no profile"),
        _chunk(b"iCCP", b"p\0\7" + large),
        _chunk(b"zTXt", b"Comment\0\0" + large),
        _chunk(b"zTXt", b"Comment\0\1" + large),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + large),
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + large),
        _chunk(b"tEXt", b"Comment\0x", wrong=1),
        _chunk(b"gAMA", b""),
        _chunk(b"tRNS", b""),
        _chunk(b"eXIf", b"II*\0garbage"),
        _chunk(b"acTL", b"\0"),
        _chunk(b"aaAa", b"a", wrong=9) * 1000,
        _chunk(b"tEXt", b"a\0" + bytes(3_000_000)),
    ):
        for at in (33, len(plain) - 12):  # before the pixels and after
            data = plain[:at] + chunk + plain[at:]
            assert (_decoded(data).pixels == expected).all(), (chunk[:40], at)
    assert (_decoded(plain[:-12]).pixels == expected).all()  # the end is not the pixels
    for name in (b"IHDR", b"PLTE"):
        data = _encode(_scene().convert("P"), "PNG")
        at = data.index(name) + 5
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert isinstance(decode(damaged, 224, LIMITS), Rejection)


def test_orientation_is_read_from_wherever_a_png_has_it() -> None:
    plain = _encode(_scene(), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()
    text = f"\nexif\n{len(content):8}\n{content.hex()}\n".encode()
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for chunk in (
        _chunk(b"eXIf", content[6:]),
        _chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
        _chunk(b"tEXt", b"Raw profile type exif\0" + text),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        decoded = _decoded(plain[:33] + chunk + plain[33:])
        assert (decoded.width, decoded.height) == (40, 60), chunk[:40]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("target", [900, 100])
def test_a_jpeg_that_lacks_only_its_end_is_whole(fruits: Path, target: int, options: dict[str, object]) -> None:
    photo = Image.open(next((fruits / "Test").glob("Apple*/*.jpg"))).convert("RGB").resize((610, 430))
    for image in (photo, photo.convert("L"), photo.convert("CMYK")):
        data = _encode(image, "JPEG", quality=92, **options)
        expected = _decoded(data, target).pixels
        for end in (b"", b"\xff", b"\0" * 700):
            assert (_decoded(data[:-2] + end, target).pixels == expected).all()
        for share in (0.5, 0.9):
            cut = decode(data[: int(len(data) * share)], target, LIMITS)
            assert isinstance(cut, Rejection), share
            assert cut.reason is Reason.TRUNCATED


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_that_lacks_its_last_pixels_or_its_last_scan_is_truncated(
    fruits: Path, options: dict[str, object]
) -> None:
    photo = Image.open(next((fruits / "Test").glob("Apple*/*.jpg"))).convert("RGB").rotate(45, expand=True)
    data = _encode(photo, "JPEG", **options)
    expected = _decoded(data).pixels
    scans = [len(data) - found.start() for found in re.finditer(b"\xff\xda", data)]
    assert len(scans) > 1 or "progressive" not in options
    near = {cut + more for cut in scans[1:] for more in range(-12, 13)}
    for cut, rest in [(cut, b"") for cut in sorted(near | set(range(3, 40)))] + [(len(data) // 2, bytes(len(data)))]:
        found = decode(data[:-cut] + rest, 224, LIMITS)
        if isinstance(found, Decoded):
            assert (found.pixels == expected).all(), cut
        else:
            assert found.reason is Reason.TRUNCATED, cut


def test_what_follows_an_image_and_odd_metadata_do_not_matter() -> None:
    data = _encode(_scene(), "JPEG")
    expected = _decoded(data).pixels
    pieces = b"\xff\xe1\x00\x08Exif\0\0" + b"\xff\xfe\x00\x03a" * 50 + b"\xff\xed\x00\x10Photoshop 3.0\0"
    for odd in (data + b"garbage" * 999, data + data, data[:2] + pieces + data[2:], b"\xff\xd8\xff\xff\xff" + data[3:]):
        assert (_decoded(odd).pixels == expected).all()


def test_large_jpegs_are_judged_by_what_is_decoded() -> None:
    data = _encode(Image.new("RGB", (6000, 4000), RED), "JPEG", quality=30)
    limits = Limits(max_pixels=5_000_000)
    result = decode(data, 224, limits)
    assert isinstance(result, Decoded)
    assert (result.width, result.height) == (6000, 4000)
    assert np.abs(result.pixels.astype(int) - RED).max() < 12
    assert _rejected(data, Limits(max_pixels=4_700_000)).reason is Reason.TOO_MANY_PIXELS  # 5 times as many at most
    png = _encode(Image.new("L", (3000, 2000)), "PNG")
    assert _rejected(png, limits).reason is Reason.TOO_MANY_PIXELS
    progressive = _encode(Image.new("RGB", (6000, 4000), RED), "JPEG", quality=30, progressive=True)
    rejection = _rejected(progressive, Limits(max_memory=50 * 2**20))  # its coefficients are all kept
    assert rejection.reason is Reason.TOO_MANY_PIXELS
    assert "MiB" in rejection.detail


def test_a_tall_and_a_broad_image_of_any_mode_are_shrunk_in_tiles() -> None:
    for size in ((9000, 600), (500_000, 1), (1, 500_000)):
        for mode in ("1", "P", "LA", "RGBA", "I;16"):
            image = Image.new(mode, size, {"1": 1, "P": 0, "I;16": 65535}.get(mode, "white"))
            if mode == "P":
                image.putpalette([255, 255, 255])
            assert (_decoded(_encode(image, "PNG")).pixels == 255).all(), (size, mode)
    ramp = np.linspace(0, 255, 1800).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp, (1300, 1800))).convert("RGBA")
    straight = _decoded(_encode(image.convert("RGB"), "PNG")).pixels.astype(int)
    assert np.abs(_decoded(_encode(image, "PNG")).pixels - straight).max() <= 1
    palette = _encode(image.convert("L").convert("P"), "PNG", transparency=bytes([255] * 255 + [254]))
    assert np.abs(_decoded(palette).pixels - straight).max() <= 1


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
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1miaf", "HEIF"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"BMW is a car maker, and this is no bitmap", "text"),
        (b"\x00" * 1000, "zero bytes"),
        (b"\x9d\x01\x02\x03", "9d 01 02 03"),
        ("é".encode() * 400, "text"),
        (b"<!-- saved from --><!-- twice --><html>", "HTML page: the download failed"),
        (b"<Error><Code>AccessDenied</Code></Error>", "XML"),
        (b"<!DOCTYPE svg PUBLIC 'x'>" * 18, "text"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "video"),
        (b"\x1aE\xdf\xa3webm", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", "sound"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw file"),
        (b"\0\0\0\x18ftypcrx ", "a camera's raw file"),
        (b"\0MRM\0\0\1\0", "a camera's raw file"),
        (b"FOVb\0\0\2\0", "a camera's raw file"),
        (b"\0\0\0\x18ftypavci\0\0\0\0mif1avci", "HEIF"),
        (b"\0\0\0\x18ftypmif2\0\0\0\0mif2miaf", "HEIF"),
        (b"\0\0\0\x18ftypavc1\0\0\0\0isomavc1", "video"),
        (b"\0\0\1\0\1\0\x10\x10", "an icon"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
        (b"P6\n4 4\n255\n", "Netpbm"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"../../.git/annex/objects/1x/2y", "git-annex"),
        (b"data:image/png;base64,iVBOR", "a data: URL"),
        (b"\0\5\x16\7\0\2", "AppleDouble"),
    ],
)
def test_content_that_is_no_image_is_named(content: bytes, looks_like: str) -> None:
    rejection = _rejected(content)
    assert rejection.reason is Reason.UNSUPPORTED_FORMAT
    assert looks_like in rejection.detail


def test_a_jpeg_of_a_kind_that_is_not_decoded_is_named() -> None:
    data = _encode(_scene(), "JPEG")
    at = data.index(b"\xff\xc0")
    for marker, bits, says in (
        (0xC3, 8, "lossless"),
        (0xF7, 8, "lossless"),
        (0xC1, 12, "12 bits"),
        (0xC3, 16, "16 bits"),
    ):
        rejection = _rejected(data[:at] + bytes([0xFF, marker, *data[at + 2 : at + 4], bits]) + data[at + 5 :])
        assert rejection.reason is Reason.UNSUPPORTED_FORMAT
        assert says in rejection.detail and "save it with 8 bits" in rejection.detail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_an_image_that_ends_early_is_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    data = _encode(Image.fromarray(noise), kind)
    assert _rejected(data[: int(len(data) * share)]).reason is Reason.TRUNCATED


@pytest.mark.parametrize(("kind", "length"), [("JPEG", 20), ("PNG", 20), ("GIF", 20), ("AVIF", 30), ("AVIF", 34)])
def test_a_header_alone_is_truncated(kind: str, length: int) -> None:
    assert _rejected(_encode(_scene(), kind)[:length]).reason is Reason.TRUNCATED


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


def _scans(count: int, size: tuple[int, int] = (200, 200)) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = _encode(Image.new("L", size), "JPEG", progressive=True)
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * count + data[-2:]


def test_a_jpeg_may_have_many_scans_and_not_too_many() -> None:
    assert isinstance(decode(_scans(50), 224, LIMITS), Decoded)
    by_chance = _scans(0) + b"\xff\xda\0" * 3000  # a phone's motion picture, say
    assert isinstance(decode(by_chance, 224, LIMITS), Decoded)
    assert isinstance(decode(_scans(50, (2000, 1000)), 224, Limits(max_pixels=1_000_000)), Rejection)
    started = time.process_time()
    rejection = _rejected(_scans(2000, (2000, 2000)))
    assert rejection.reason is Reason.TOO_SLOW
    assert "scans" in rejection.detail
    assert time.process_time() - started < 1


def test_a_decode_has_a_deadline() -> None:
    jpeg, bmp = _encode(_scene(), "JPEG"), _encode(_scene("P"), "BMP")
    # A million bytes one by one, in Python: padding before a marker, and runs of one pixel.
    padding = jpeg[:2] + b"\xff" * 3_000_000 + jpeg[2:]
    rle = bytearray(bmp[:1078] + b"\1\0" * 3_000_000)
    rle[18:26], rle[30:34] = struct.pack("<ii", 5000, 5000), struct.pack("<I", 1)
    for data in (padding, bytes(rle)):
        result = _rejected(data, Limits(max_seconds=0.05))
        assert result.reason is Reason.TOO_SLOW
    assert isinstance(decode(jpeg, 224, Limits(max_seconds=0.05)), Decoded)


@pytest.mark.parametrize("kind", ["JPEG", "AVIF", "TIFF"])
def test_limits_may_be_as_large_and_as_small_as_numbers_are(kind: str) -> None:
    """With 1e10 s, which no timer takes, all images were corrupt; with 1e-9, which it takes for none, none was slow."""
    data = _encode(_scene(), kind)
    for limits in (Limits(max_seconds=1e300), Limits(max_memory=10**30, max_bytes=10**30, max_pixels=10**30)):
        assert isinstance(decode(data, 224, limits), Decoded)
    large = _encode(_scene(size=(3000, 3000)), "JPEG", progressive=True)
    assert _rejected(large, Limits(max_seconds=1e-9)).reason is Reason.TOO_SLOW


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "GIF comment"])
def test_countless_pieces_are_refused_before_they_are_kept(name: str) -> None:
    data = _encode(_scene("L" if "GIF" in name else "RGB"), name[:4].strip())
    at = {"JPEG": 2, "PNG": 33}.get(name, data.find(b",", 13))
    piece = {"JPEG": b"\xff\xfe\0\2", "PNG": _chunk(b"aaAa", b""), "GIF": b"!\xf9\0", "GIF comment": b"\1a"}[name]
    pieces = piece * 300_000 if name != "GIF comment" else b"!\xfe" + piece * 300_000 + b"\0"
    started = time.process_time()
    rejection = _rejected(data[:at] + pieces + data[at:])
    assert rejection.reason is Reason.TOO_SLOW
    assert time.process_time() - started < 2


def test_memory_is_bounded_by_what_the_header_says() -> None:
    """The peak beyond what the file needs, in a process of its own for each kind."""
    code = """
import io, sys
from PIL import Image
from orchard import memory
from orchard.images.decoding import Limits, decode
mode, kind, side, options = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
file = io.BytesIO()
Image.new(mode, (side, side)).save(file, kind, **options)
size = {"1": 1, "P": 1, "L": 1, "I;16": 2}.get(mode, 4) * side * side
before = memory.peak()
result = decode(file.getvalue(), 224, Limits(max_memory=2**40))
assert hasattr(result, "pixels"), result
print((memory.peak() - before) / size)
"""
    for mode, kind, options, most in (
        ("RGBA", "PNG", {"compress_level": 1}, 1.8),
        ("I;16", "PNG", {"compress_level": 1}, 4),
        ("F", "TIFF", {"compression": "tiff_adobe_deflate"}, 2),
    ):
        command = [sys.executable, "-c", code, mode, kind, "3000", repr(options)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(run.stdout) < most, (mode, kind)


def test_a_phones_largest_heic_has_room() -> None:
    """48 megapixels take less than the 512 MiB that a decode may take; here a quarter of both."""
    image = Image.new("RGB", (4032, 3024), (60, 160, 90))
    data = _encode(image, "HEIF", quality=50, tile_size=512, enc_params={"preset": "ultrafast"})
    result = decode(data, 224, Limits(max_memory=LIMITS.max_memory // 4))
    assert isinstance(result, Decoded), result
    assert np.abs(result.pixels.astype(int) - (60, 160, 90)).max() <= 6


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


@pytest.mark.parametrize("size", [(60, 30), (900, 300), (300, 901)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_becomes_square_as_it_is_told(size: tuple[int, int], kind: str) -> None:
    """Red where the crop is, green beyond it."""
    side, (width, height) = min(size), size
    image = Image.new("RGB", size, GREEN)
    image.paste(RED, ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2))
    data = _encode(image, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))
    stretched, cropped, padded = (_fitted(data, fit) for fit in Fit)
    small = max(size) <= 224
    assert stretched.shape[:2] == ((height, width) if small else (224, 224))
    assert cropped.shape[:2] == ((side, side) if small else (224, 224))
    assert padded.shape[:2] == ((max(size), max(size)) if small else (224, 224))
    inside = slice(4, -4)
    assert (np.abs(cropped[inside, inside].astype(int) - RED) < 8).all()
    across = padded if width > height else padded.transpose(1, 0, 2)  # green, red, green between two grey bars
    bar = (len(across) - round(len(across) * side / max(size))) // 2
    assert (np.abs(across[: bar - 2].astype(int) - 127) < 2).all() and (
        np.abs(across[2 - bar :].astype(int) - 127) < 2
    ).all()
    assert (np.abs(across[len(across) // 2, len(across) // 2].astype(int) - RED) < 8).all()
    assert (np.abs(across[len(across) // 2, 2].astype(int) - GREEN) < 8).all()


def _fitted(data: bytes, fit: Fit) -> npt.NDArray[np.uint8]:
    found = decode(data, 224, LIMITS, fit)
    assert isinstance(found, Decoded), found
    assert found.pixels.flags.c_contiguous
    return found.pixels


@pytest.mark.parametrize("fit", Fit)
def test_a_picture_that_is_square_and_one_that_is_turned_come_to_the_same_by_any_fit(fit: Fit) -> None:
    square = _encode(_scene(size=(300, 300)), "PNG")
    assert np.array_equal(_fitted(square, fit), _fitted(square, Fit.STRETCH))
    wide = _scene(size=(640, 320))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    turned = _encode(wide.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert np.array_equal(_fitted(turned, fit), _fitted(_encode(wide, "PNG"), fit))


def test_what_is_cropped_counts_as_memory() -> None:
    wide = _encode(Image.new("RGB", (3000, 1000)), "PNG")
    limits = Limits(max_memory=14_000_000)  # 12 MB for the pixels of Pillow, 4 for the square of them
    assert isinstance(decode(wide, 224, limits), Decoded)
    found = decode(wide, 224, limits, Fit.CROP)
    assert isinstance(found, Rejection) and found.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("size", [(100, 80), (300, 200), (900, 600)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("fit", Fit)
def test_an_image_comes_in_a_second_size_as_if_that_were_the_target(size: tuple[int, int], mode: str, fit: Fit) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = _encode(_scene(mode, size), "TIFF" if mode == "CMYK" else "PNG", icc_profile=profile)
    found, alone, large = (
        decode(data, 224, LIMITS, fit, 320),
        decode(data, 224, LIMITS, fit),
        decode(data, 320, LIMITS, fit),
    )
    assert isinstance(found, Decoded) and isinstance(alone, Decoded) and isinstance(large, Decoded)
    assert np.array_equal(found.pixels, alone.pixels) and alone.larger is None
    assert found.larger is not None and np.array_equal(found.larger, large.pixels)


def test_a_png_whose_pixels_do_not_match_their_checksum_is_damaged() -> None:
    """Zeros for the rest, as a download leaves that was given its space first, go on as pixels."""
    raw = b"".join(b"\0" + bytes([line // 3, 7, line % 5] * 100) for line in range(100))
    whole = _png(100, 100, 8, 2, raw)
    assert _decoded(whole).pixels.shape == (100, 100, 3)
    for keep in range(60, len(whole) - 24):
        assert _rejected(whole[:keep] + bytes(len(whole) - keep)).reason in (Reason.CORRUPT, Reason.TRUNCATED)


def test_a_wrong_checksum_of_right_pixels_does_not_matter() -> None:
    raw = b"".join(b"\0" + bytes([line] * 300) for line in range(100))
    whole = _png(100, 100, 8, 2, raw)
    at = whole.index(b"IEND") - 8
    wrong = whole[:at] + bytes(4) + whole[at + 4 :]
    assert wrong != whole
    np.testing.assert_array_equal(_decoded(wrong).pixels, _decoded(whole).pixels)
