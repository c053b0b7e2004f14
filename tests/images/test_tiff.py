"""Whatever numbers a TIFF holds, and however they lie in it, it shows what its tags say."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from orchard.images.decoding import Decoded, Limits, Rejection, decode
from orchard.vocabulary import Reason

ROWS, COLUMNS = np.mgrid[0:48, 0:64]
GREY = COLUMNS * 4 % 256 / 255
RGB = np.stack([GREY, ROWS * 5 % 256 / 255, 1 - GREY], -1)
# Numbers of each type from its least, or 0 of a float, to its greatest, or 1.
NUMBERS = ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]


def _as(values: NDArray[Any], numbers: str) -> NDArray[Any]:
    kind = np.dtype(numbers)
    if kind.kind == "f":
        return values.astype(kind)
    least, most = float(np.iinfo(kind).min), float(np.iinfo(kind).max)
    return np.rint(values * (most - least) + least).clip(least, most).astype(kind)


def _written(values: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **options)
    return file.getvalue()


def _shown(data: bytes) -> NDArray[np.uint8]:
    result = decode(data, 224, Limits())
    assert isinstance(result, Decoded), result
    return result.pixels


def _differs(data: bytes, values: NDArray[Any]) -> float:
    expected = np.rint(values * 255).reshape(48, 64, -1)
    return float(np.abs(_shown(data) - np.broadcast_to(expected, (48, 64, 3))).mean())


def tiff(tags: Mapping[int, tuple[int, ...]], data: bytes, order: str = "<") -> bytes:
    """A TIFF of these tags, all of them LONG, and its data at 8."""
    at = 8 + len(data)
    rest, entries, more = at + 2 + 12 * len(tags) + 4, [struct.pack(f"{order}H", len(tags))], b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            packed, more = struct.pack(f"{order}I", rest + len(more)), more + packed
        entries.append(struct.pack(f"{order}HHI", tag, 4, len(values)) + packed)
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at)
    return header + data + b"".join(entries) + bytes(4) + more


def grey_tiff(values: NDArray[Any], bits: int, photometric: int = 1, **more: int) -> bytes:
    """One uncompressed strip."""
    height, width = values.shape
    data = values.tobytes()
    tags = {256: (width,), 257: (height,), 258: (bits,), 259: (1,), 262: (photometric,), 273: (8,), 277: (1,)}
    tags |= {278: (height,), 279: (len(data),)} | {int(tag[1:]): (value,) for tag, value in more.items()}
    return tiff(tags, data, ">" if values.dtype.byteorder == ">" else "<")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_grey_of_any_numbers(numbers: str, order: str) -> None:
    for photometric, values in (("minisblack", GREY), ("miniswhite", 1 - GREY)):
        samples = _as(values, numbers)
        for options in (
            {},
            {"rowsperstrip": 7},
            {"tile": (16, 32)},
            {"compression": "zlib", "rowsperstrip": 5},
            {"compression": "zlib", "tile": (32, 16)},
        ):
            data = _written(samples, byteorder=order, photometric=photometric, **options)
            assert _differs(data, GREY) < 1, (photometric, options)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_colours_of_any_numbers(numbers: str, order: str) -> None:
    opaque = np.concatenate([RGB, np.ones((48, 64, 1))], -1)
    for how in ({}, {"compression": "zlib", "rowsperstrip": 9}, {"compression": "zlib", "tile": (16, 32)}):
        options = {"byteorder": order, "photometric": "rgb", **how}
        assert _differs(_written(_as(RGB, numbers), **options), RGB) < 1, options
        planes = np.moveaxis(_as(RGB, numbers), -1, 0)
        assert _differs(_written(planes, planarconfig="separate", **options), RGB) < 1, options
        alpha = _written(_as(opaque, numbers), extrasamples=["unassalpha"], **options)
        assert _differs(alpha, RGB) < 1, options


def _predicted(samples: NDArray[Any], predictor: int) -> NDArray[np.uint8]:
    """Rows of samples (rows, width, bands) as the differences that compress well."""
    rows, width, bands = samples.shape
    if predictor == 3:
        size = samples.dtype.itemsize
        numbers = samples.astype(f">f{size}").view(np.uint8).reshape(rows, width * bands, size).swapaxes(1, 2)
        samples = np.ascontiguousarray(numbers).reshape(rows, -1, bands)
    numbers = samples.view(f"{samples.dtype.byteorder.replace('|', '=')}u{samples.dtype.itemsize}")
    differences = np.diff(numbers.astype(np.uint64), axis=1, prepend=np.zeros((rows, 1, bands), np.uint64))
    return np.ascontiguousarray(differences.astype(numbers.dtype)).view(np.uint8).reshape(rows, -1)


@pytest.mark.parametrize(("numbers", "predictor"), [("<u2", 2), (">u2", 2), ("<u4", 2), (">f4", 3), ("<f8", 3)])
def test_predictors(numbers: str, predictor: int) -> None:
    samples = _as(RGB, numbers)
    order, size = numbers[0], int(numbers[2])
    tags = {256: (64,), 257: (48,), 258: (8 * size,) * 3, 262: (2,), 277: (3,), 317: (predictor,)}
    tags[339] = (3 if predictor == 3 else 1,) * 3
    file = io.BytesIO()
    Image.fromarray(_predicted(samples, predictor)).save(file, "TIFF", compression="tiff_lzw")
    with Image.open(file) as coded:
        offsets, counts = coded.tag_v2[273], coded.tag_v2[279]  # type: ignore[attr-defined]
        rows = coded.tag_v2[278]  # type: ignore[attr-defined]
    strips = b"".join(file.getvalue()[at : at + n] for at, n in zip(offsets, counts, strict=True))
    starts = tuple(8 + at - offsets[0] for at in offsets)
    lzw = tags | {259: (5,), 278: (rows,), 273: starts, 279: tuple(counts)}
    assert _differs(tiff(lzw, strips, order), RGB) < 1

    wide = np.pad(samples, [(0, 0), (0, 16), (0, 0)])  # two tiles of 48 x 40 and 16 columns to spare
    tiles = [zlib.compress(_predicted(wide[:, at : at + 40], predictor).tobytes()) for at in (0, 40)]
    sizes = len(tiles[0]), len(tiles[1])
    tiled = tags | {259: (8,), 322: (40,), 323: (48,), 324: (8, 8 + sizes[0]), 325: sizes}
    assert _differs(tiff(tiled, b"".join(tiles), order), RGB) < 1


def test_sixteen_bits_where_white_is_zero_are_inverted() -> None:
    for order in "<>":
        values = np.rint((1 - GREY) * 65535).astype(f"{order}u2")
        assert _differs(grey_tiff(values, 16, photometric=0), GREY) < 1


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_fewer_bits_in_sixteen_are_known_by_their_greatest_value(bits: int) -> None:
    most = 2**bits - 1
    for order in "<>":
        values = np.rint(GREY * most).astype(f"{order}u2")
        assert _differs(grey_tiff(values, 16, t281=most), GREY) < 1
        assert _differs(grey_tiff(most - values, 16, photometric=0, t281=most), GREY) < 1
        assert _shown(grey_tiff(values, 16)).max() <= 64  # sixteen bits, without it
        signed = values.astype(f"{order}i2")
        assert _differs(grey_tiff(signed, 16, t339=2, t341=most), GREY) < 1


@pytest.mark.parametrize("bits", [3, 6, 10, 12, 14])
def test_samples_that_are_no_whole_bytes(bits: int) -> None:
    values = np.rint(GREY * (2**bits - 1)).astype(np.uint16)
    spread = (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    packed = np.packbits(spread.reshape(48, -1), axis=1)
    data = packed.tobytes()
    tags = {256: 64, 257: 48, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 48, 279: len(data)}
    assert _differs(tiff({tag: (value,) for tag, value in tags.items()}, data), GREY) < 255 / 2**bits


def test_signed_numbers_are_not_dark() -> None:
    assert _differs(grey_tiff(np.rint(GREY * 32767).astype("<i2"), 16, t339=2), GREY) < 1
    assert _differs(grey_tiff(np.rint(GREY * 65535 - 32768).astype("<i2"), 16, t339=2), GREY) < 1
    heights = np.rint(GREY * 900 - 30).astype("<i2")  # a landscape: no type's range, so it is stretched
    assert _differs(grey_tiff(heights, 16, t339=2), GREY / GREY.max()) < 1


def test_floats_that_overshoot_are_seen() -> None:
    assert _differs(_written((GREY * 1.1).astype(np.float32)), GREY) < 14
    holes = GREY.astype(np.float32)
    holes[:4] = np.nan
    holes[4:8] = np.inf
    shown = _shown(_written(holes))
    assert (shown[:4] == 0).all()
    assert (shown[4:8] == 255).all()
    assert np.abs(shown[8:, :, 0] - np.rint(GREY[8:] * 255)).max() <= 1


def test_alpha_of_any_numbers_shows_white() -> None:
    for numbers in ("u2", "f4"):
        clear = _as(np.concatenate([RGB, np.zeros((48, 64, 1))], -1), numbers)
        assert (_shown(_written(clear, photometric="rgb", extrasamples=["unassalpha"])) == 255).all()
        grey = _as(np.stack([GREY, GREY * 0], -1), numbers)
        shown = _shown(_written(grey, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]))
        assert (shown == 255).all()


def test_orientation_and_profile_hold_for_every_kind() -> None:
    data = _written(_as(RGB, "f4"), photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    result = decode(data, 224, Limits())
    assert isinstance(result, Decoded)
    assert (result.width, result.height) == (48, 64)
    assert np.abs(result.pixels - np.rot90(np.rint(RGB * 255), -1)).mean() < 1
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert _differs(_written(_as(RGB, "u2"), photometric="rgb", iccprofile=grey), RGB) < 1


def test_big_tiffs_of_both_orders() -> None:
    for order in "<>":
        for numbers in ("u1", "u2"):
            data = _written(_as(RGB, numbers), photometric="rgb", byteorder=order, bigtiff=True)
            assert _differs(data, RGB) < 1


def test_a_kind_that_is_not_decoded_says_what_it_is_and_what_to_do() -> None:
    complex_numbers = grey_tiff(np.zeros((4, 4), np.complex64), 64, t339=6)
    for data in (complex_numbers, tiff({256: (4,), 257: (4,), 258: (16,), 262: (8,), 273: (8,), 277: (3,)}, bytes(96))):
        result = decode(data, 224, Limits())
        assert isinstance(result, Rejection)
        assert result.reason is Reason.UNSUPPORTED_FORMAT
        assert "save it with 8 or 16 bits" in result.detail


def test_a_raw_file_whose_first_image_is_its_thumbnail_is_named() -> None:
    thumbnail = {256: (8,), 257: (4,), 258: (8, 8, 8), 262: (2,), 273: (8,), 277: (3,), 278: (4,), 279: (96,)}
    photo = _shown(tiff(thumbnail, bytes(96)))
    assert photo.shape == (4, 8, 3)
    for tags in ({254: (1,), 330: (8,)}, {254: (0,), 50706: (1, 4, 0, 0)}):  # as Nikon's and Sony's, and DNG
        found = decode(tiff({**thumbnail, **tags}, bytes(96)), 64, Limits())
        assert isinstance(found, Rejection) and found.reason is Reason.UNSUPPORTED_FORMAT
        assert "a camera's raw file: export it as JPEG" in found.detail
    for tags in ({254: (0,), 330: (8,)}, {254: (1,)}):  # a pyramid, and a mere thumbnail
        assert _shown(tiff({**thumbnail, **tags}, bytes(96))).shape == photo.shape


@pytest.mark.parametrize(("compression", "name"), [(50001, "WebP"), (34712, "JPEG 2000"), (65000, "65000")])
def test_a_compression_that_is_not_known_is_named(compression: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """WebP was "decoder error -2", and corrupt; some builds of libtiff have it."""

    def save(*_: object, **__: object) -> None:
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr(Image.Image, "save", save)
    for bits in (8, 16):
        result = decode(grey_tiff(np.zeros((4, 4), f"u{bits // 8}"), bits, t259=compression), 224, Limits())
        assert isinstance(result, Rejection)
        assert result.reason is Reason.UNSUPPORTED_FORMAT
        assert f"a TIFF whose compression is {name}: save it with another" in result.detail


def test_costs_are_bounded_before_anything_is_decoded() -> None:
    tags = {256: (100,), 257: (100,), 258: (16,), 259: (8,), 262: (1,), 277: (1,)}
    zeros = zlib.compress(bytes(1000))
    tiles = tags | {322: (60_000,), 323: (60_000,), 324: (8,), 325: (len(zeros),)}
    for bits in (8, 16):
        result = decode(tiff(tiles | {258: (bits,)}, zeros), 224, Limits())
        assert isinstance(result, Rejection)
        assert result.reason is Reason.TOO_MANY_PIXELS
    strips = tags | {257: (600_000,), 278: (1,), 273: (8,) * 600_000, 279: (10,) * 600_000}
    result = decode(tiff(strips, zeros), 224, Limits())
    assert isinstance(result, Rejection)
    assert result.reason is Reason.TOO_SLOW
    for broken in ({322: (0,), 323: (0,), 324: (8,)}, {278: (1,), 273: (8,)}, {278: (0,), 273: (8,)}, {}):
        assert isinstance(decode(tiff(tags | broken, zeros), 224, Limits()), Rejection)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_a_tiff_that_ends_early_is_truncated_wherever_its_directory_is(mode: str, compression: str) -> None:
    image = Image.fromarray(np.rint(RGB * 255).astype(np.uint8)).convert("RGB" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(_as(GREY, "u2"))
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    data = file.getvalue()
    whole = _shown(data)
    for cut in (1, 2, 5, 20, 60, 100, 150, len(data) // 2, len(data) - 30, len(data) - 8):
        found = decode(data[:-cut], 224, Limits())
        if isinstance(found, Decoded):  # of what may be missing, as the resolution
            assert (found.pixels == whole).all(), cut
        else:
            assert found.reason is Reason.TRUNCATED, (cut, found.detail)
