"""Decodes TIFFs whose samples are not 8 unsigned bits, which Pillow reads wrongly or not at all.

Pillow and libtiff decompress the bytes of the samples, as if they were a grey image that is wider; what they mean is
worked out here, strip by strip.
"""

import functools
import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from orchard.images.colour import MAX_PROFILE_BYTES
from orchard.images.content import RAW
from orchard.images.jpeg import MAX_SCANS
from orchard.images.limits import Limits, Unfit, check_cost
from orchard.vocabulary import Reason

_MAX_PARTS = 500_000  # 100 million pixels in tiles of 16 x 16 are fewer
# A filter's overshoot of what is meant to end at 1.
_NEARLY_ONE = 2
_BAND_BYTES = 8 * 2**20  # decompressed at once, if the file's strips are not longer
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _MAX_SAMPLE_VALUE = 273, 274, 277, 278, 279, 281
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 284, 317, 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _S_MAX_SAMPLE_VALUE, _ICC_PROFILE = 338, 339, 341, 34675
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_JPEGS = {6, 7}  # compressions
_OPTIONAL = {34925, 50000, 50001}  # LZMA, Zstandard and WebP: libtiff may have been built without them
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
_NAMES = {34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL"}


_Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class _Layout:
    """How an image lies in a file."""

    order: str  # < or >
    tags: _Tags
    profile: bytes | None
    values_end: int
    """Where the last of the tags' values ends that are not in the directory itself."""

    def __getitem__(self, tag: int) -> tuple[int, ...]:
        return self.tags.get(tag, ())

    def get(self, tag: int, default: int) -> int:
        return self[tag][0] if self[tag] else default

    @property
    def tiled(self) -> bool:
        return bool(self[_TILE_OFFSETS])

    @property
    def parts_end(self) -> int:
        """Where the last strip or tile ends, by its own account."""
        offsets, counts = (_TILE_OFFSETS, _TILE_BYTES) if self.tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
        return max(map(sum, zip(self[offsets], self[counts], strict=False)), default=0)


def ends_early(data: bytes) -> bool:
    """Whether a broken TIFF ends before what its directory names."""
    try:
        layout = _layout(data)
    except (OSError, struct.error):
        return True
    return max(layout.values_end, layout.parts_end) > len(data)


def open_tiff(data: bytes, limits: Limits) -> Image.Image:
    """Open the first image of a TIFF: as Pillow does, or already decoded, in mode L, RGB or RGBA.

    Raises:
        Unfit: it is too large, or of a kind that is not decoded.
        Exception: whatever Pillow raises for a file that is broken.
    """
    layout = _layout(data)
    # A raw file's first image is its thumbnail, and the others lie below that; DNG (a phone's ProRAW) says what it is.
    if layout[_DNG_VERSION] or (layout[_SUB_IFDS] and layout.get(_SUBFILE_TYPE, 0) & 1):
        raise Unfit(Reason.UNSUPPORTED_FORMAT, f"looks like {RAW}")
    _check_compression(layout.get(_COMPRESSION, 1))
    width, height = layout.get(_WIDTH, 0), layout.get(_HEIGHT, 0)
    samples, photometric = layout.get(_SAMPLES, 1), layout.get(_PHOTOMETRIC, _WHITE_IS_ZERO)
    bits, form = layout.get(_BITS, 1), layout.get(_SAMPLE_FORMAT, _UNSIGNED)
    grey = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
    separate = layout.get(_PLANAR, 1) == 2
    check_cost("TIFF", (width, height), width * height, width * height * (1 if samples == 1 else 4), limits)
    tile_bytes = layout.get(_TILE_WIDTH, 0) * layout.get(_TILE_HEIGHT, 0) * samples * bits // 8
    check_cost("TIFF", (width, height), 0, tile_bytes, limits)
    parts = max(1, len(layout[_STRIP_OFFSETS]), len(layout[_TILE_OFFSETS]))
    if parts > _MAX_PARTS:
        raise Unfit(Reason.TOO_SLOW, f"TIFF of more than {_MAX_PARTS} strips or tiles: save it again")
    if layout.get(_COMPRESSION, 1) in _JPEGS and data.count(b"\xff\xda") > MAX_SCANS + 4 * parts:
        raise Unfit(Reason.TOO_SLOW, f"TIFF of a JPEG of more than {MAX_SCANS} scans: save it again")

    known = form in (_UNSIGNED, 4) and bits <= 8 and not (grey and (samples > 2 or (samples == 2 and separate)))
    big_endian_big = data[:4] == b"MM\x00+"  # Pillow does not know it
    if not big_endian_big and (known or layout.get(_COMPRESSION, 1) in _JPEGS or not (grey or photometric == _RGB)):
        try:
            return TiffImageFile(io.BytesIO(data))
        except SyntaxError as error:
            if "unknown pixel mode" not in str(error):
                raise
            if layout.get(_COMPRESSION, 1) in _JPEGS or not (grey or photometric == _RGB):
                raise _unknown(layout) from None
    return _Samples(data, layout, limits).image()


@functools.cache
def _check_compression(number: int) -> None:
    """Raise Unfit for a compression that libtiff does not know: its own error says no more than -2."""
    try:
        if number in _OPTIONAL:  # only trying tells whether it is there
            Image.new("RGB", (16, 16)).save(io.BytesIO(), "TIFF", compression=COMPRESSION_INFO[number])
        elif number not in COMPRESSION_INFO:
            raise KeyError(number)
    except (OSError, KeyError):
        detail = f"a TIFF whose compression is {_NAMES.get(number, number)}: save it with another, such as LZW"
        raise Unfit(Reason.UNSUPPORTED_FORMAT, detail) from None


def _layout(data: bytes) -> _Layout:
    """The tags of the first image."""
    order = "<" if data[:1] == b"I" else ">"
    if 43 in data[2:4]:  # BigTIFF
        header, count, entry, value = f"{order}Q", f"{order}Q", f"{order}HHQ", f"{order}Q"
        (at,) = struct.unpack_from(header, data, 8)
    else:
        header, count, entry, value = f"{order}I", f"{order}H", f"{order}HHI", f"{order}I"
        (at,) = struct.unpack_from(header, data, 4)
    tags: _Tags = {}
    profile = None
    values_end = 0
    try:
        (entries,) = struct.unpack_from(count, data, at)
        at += struct.calcsize(count)
        if at + min(entries, 65535) * struct.calcsize(entry + value[1:]) > len(data):  # it may say what the others mean
            raise OSError("image file is truncated")
        for _ in range(min(entries, 65535)):
            tag, kind, n = struct.unpack_from(entry, data, at)
            at += struct.calcsize(entry)
            code = _TYPES.get(kind, "")
            start = at
            if n * struct.calcsize(order + code) > struct.calcsize(value):
                (start,) = struct.unpack_from(value, data, at)
                values_end = max(values_end, start + n * struct.calcsize(order + code))
            at += struct.calcsize(value)
            if tag == _ICC_PROFILE and n <= MAX_PROFILE_BYTES:
                profile = data[start : start + n]
            elif tag in _READ and code and tag not in tags and n * struct.calcsize(code) <= len(data):
                tags[tag] = struct.unpack_from(f"{order}{n}{code}", data, start)
    except (struct.error, OverflowError):
        if _WIDTH not in tags or _HEIGHT not in tags:
            raise OSError("image file is truncated") from None
    return _Layout(order, tags, profile, values_end)


_READ = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _STRIP_OFFSETS, _ORIENTATION, _SAMPLES),
    *(_ROWS_PER_STRIP, _STRIP_BYTES, _MAX_SAMPLE_VALUE, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT),
    *(_TILE_OFFSETS, _TILE_BYTES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _S_MAX_SAMPLE_VALUE),
    *(_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION),
}


def _unknown(layout: _Layout) -> Unfit:
    kinds = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "float", 5: "complex", 6: "complex float"}
    bits = ", ".join(map(str, layout[_BITS][:8])) or "1"
    samples = kinds.get(layout.get(_SAMPLE_FORMAT, _UNSIGNED), "unknown")
    detail = f"TIFF of {samples} samples of {bits} bits, photometric interpretation {layout.get(_PHOTOMETRIC, 0)}"
    return Unfit(Reason.UNSUPPORTED_FORMAT, f"a TIFF of a rare kind: save it with 8 or 16 bits a sample ({detail})")


class _Samples:
    """Grey or RGB, with or without alpha, of any number format."""

    def __init__(self, data: bytes, layout: _Layout, limits: Limits) -> None:
        self._data, self._layout, self._limits = data, layout, limits
        self._width, self._height = layout.get(_WIDTH, 0), layout.get(_HEIGHT, 0)
        self._bits, self._form = layout.get(_BITS, 1), layout.get(_SAMPLE_FORMAT, _UNSIGNED)
        self._form = _UNSIGNED if self._form == 4 else self._form  # "undefined"
        self._samples = layout.get(_SAMPLES, 1)
        self._colours = 3 if layout.get(_PHOTOMETRIC, _WHITE_IS_ZERO) == _RGB else 1
        self._separate = layout.get(_PLANAR, 1) == 2
        whole = self._bits in (8, 16, 32, 64) and self._form in (_UNSIGNED, _SIGNED, _FLOAT)
        packed = self._bits < 32 and self._form == _UNSIGNED and not layout.tiled and layout.get(_PREDICTOR, 1) == 1
        if (
            not (whole or packed)
            or (self._form == _FLOAT and self._bits == 8)
            or self._samples < self._colours
            or {*layout[_BITS]} - {self._bits}
            or {*layout[_SAMPLE_FORMAT]} - {self._form}
        ):
            raise _unknown(layout)

    def image(self) -> Image.Image:
        """Decode it."""
        extra = self._layout.get(_EXTRA_SAMPLES, 0) if self._samples > self._colours else 0
        mode = {1: "RGBa", 2: "RGBA"}.get(extra, "L" if self._colours == 1 else "RGB")
        black, white = self._range()
        opaque = 1.0 if self._form == _FLOAT else float(2 ** (self._bits - (self._form == _SIGNED)) - 1)
        image = Image.new(mode, (self._width, self._height))
        for top, numbers in self._strips():
            colours = _bytes(numbers[..., : self._colours], black, white)
            if self._layout.get(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO:
                colours = 255 - colours
            if len(mode) == 4:
                alpha = _bytes(numbers[..., self._colours : self._colours + 1], 0, opaque)
                shape = (*alpha.shape[:2], 3)
                colours = np.concatenate([np.broadcast_to(colours, shape), alpha], -1)
            strip = Image.frombuffer(
                mode, (self._width, len(colours)), np.ascontiguousarray(colours), "raw", mode, 0, 1
            )
            image.paste(strip, (0, top))
        image.getexif()[_ORIENTATION] = self._layout.get(_ORIENTATION, 1)
        if self._layout.profile and self._colours == 3:
            image.info["icc_profile"] = self._layout.profile
        return image

    def _range(self) -> tuple[float, float]:
        """Return the values of black and white, see `orchard.images.decoding.decode`."""
        if self._form == _FLOAT:
            low, high = self._extremes()
            white = 1.0 if high <= _NEARLY_ONE else 255.0
            return (0.0, white) if low >= 0 and high <= 255 else (low, high)
        signed = self._form == _SIGNED
        least, most = (-(2 ** (self._bits - 1)), 2 ** (self._bits - 1) - 1) if signed else (0, 2**self._bits - 1)
        declared = max(self._layout[_MAX_SAMPLE_VALUE] or self._layout[_S_MAX_SAMPLE_VALUE], default=0)
        if not 0 < declared < most:
            declared = 0
        if not signed and (declared or self._bits <= 24):
            return 0.0, float(declared or most)
        low, high = self._extremes()
        if low >= 0:
            least, most = 0, declared or (65535 if self._bits > 24 and high <= 65535 else most)
        if high - low > (most - least) / 2 or (low >= 0 and (declared or high <= 65535)):
            return float(least), float(most)
        return low, high

    def _extremes(self) -> tuple[float, float]:
        """The least and the greatest number; 0 is among them, if they are all the same."""
        low, high = np.inf, -np.inf
        for _, numbers in self._strips():
            colours = numbers[..., : self._colours]
            finite = colours[np.isfinite(colours)]
            if finite.size:
                low, high = min(low, float(finite.min())), max(high, float(finite.max()))
        if low > high:
            return 0.0, 1.0
        return (low, high) if low < high else (min(low, 0.0), max(high, 0.0) or 1.0)

    def _strips(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """The samples from top to bottom: the first row, and shape (rows, width, samples)."""
        planes = self._samples if self._separate else 1
        used = self._colours + (self._samples > self._colours) if self._separate else 1
        bands = [self._bands(plane, planes) for plane in range(min(planes, used))]
        for parts in zip(*bands, strict=True):
            step = max(1, _BAND_BYTES // max(1, parts[0][1].shape[1]))
            for first in range(0, len(parts[0][1]), step):
                rows = [self._numbers(raw[first : first + step]) for _, raw in parts]
                yield parts[0][0] + first, rows[0] if len(rows) == 1 else np.concatenate(rows, -1)

    def _bands(self, plane: int, planes: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The decompressed bytes from top to bottom: the first row, and shape (rows, bytes of a row)."""
        layout, tiled = self._layout, self._layout.tiled
        offsets, counts = (
            layout[_TILE_OFFSETS if tiled else _STRIP_OFFSETS],
            layout[_TILE_BYTES if tiled else _STRIP_BYTES],
        )
        across = -(-self._width // max(1, layout.get(_TILE_WIDTH, 0))) if tiled else 1
        rows = layout.get(_TILE_HEIGHT, 0) if tiled else min(layout.get(_ROWS_PER_STRIP, self._height), self._height)
        row_bytes = self._row_bytes(across * layout.get(_TILE_WIDTH, 0) if tiled else self._width)
        if rows < 1 or len(offsets) % planes or len(offsets) // planes < -(-self._height // rows) * across:
            raise ValueError("strips or tiles are missing")
        check_cost("TIFF", (self._width, self._height), 0, planes * rows * row_bytes, self._limits)
        if layout.parts_end > len(self._data):  # where another directory will be
            raise OSError("image file is truncated")
        group = max(1, _BAND_BYTES // (rows * row_bytes))
        first = plane * (len(offsets) // planes)
        for top in range(0, self._height, group * rows):
            height = min(group * rows, self._height - top)
            part = slice(first + top // rows * across, first + -(-(top + height) // rows) * across)
            tags: _Tags = {
                _WIDTH: (row_bytes,),
                _HEIGHT: (height,),
                _BITS: (8,),
                _COMPRESSION: (layout.get(_COMPRESSION, 1),),
                _PHOTOMETRIC: (_BLACK_IS_ZERO,),
                _FILL_ORDER: (layout.get(_FILL_ORDER, 1),),
                _SAMPLES: (1,),
            }
            if tiled:
                tags |= {_TILE_WIDTH: (row_bytes // across,), _TILE_HEIGHT: (rows,)}
            else:
                tags |= {_ROWS_PER_STRIP: (rows,)}
            tags[_TILE_OFFSETS if tiled else _STRIP_OFFSETS] = offsets[part]
            if counts:
                tags[_TILE_BYTES if tiled else _STRIP_BYTES] = counts[part]
            with TiffImageFile(io.BytesIO(_with_directory(self._data, tags))) as image:
                yield top, np.asarray(image)

    def _row_bytes(self, width: int) -> int:
        return -(-width * (1 if self._separate else self._samples) * self._bits // 8)

    def _numbers(self, raw: NDArray[np.uint8]) -> NDArray[Any]:
        """Samples, shape (rows, width, samples), of bytes (rows, bytes of a row)."""
        samples, predictor = (1 if self._separate else self._samples), self._layout.get(_PREDICTOR, 1)
        if self._bits % 8 or self._bits == 24:
            bits = np.unpackbits(raw, axis=1)[:, : self._width * samples * self._bits]
            bits = bits.reshape(len(raw), self._width, samples, self._bits)
            numbers = np.zeros(bits.shape[:-1], np.uint32)
            for place in range(self._bits):
                numbers = (numbers << 1) | bits[..., place]
            return numbers
        size, order = self._bits // 8, self._layout.order
        tile = self._layout.get(_TILE_WIDTH, 0) if self._layout.tiled else raw.shape[1] // (samples * size)
        rows: NDArray[Any] = raw.reshape(len(raw), -1, tile * samples * size)
        if predictor == 3:  # differences of bytes, the highest of all samples first
            shape = rows.shape[:2]
            summed = np.cumsum(rows.reshape(*shape, -1, samples), axis=2, dtype=np.uint8)
            rows = summed.reshape(*shape, size, -1).swapaxes(2, 3)
            order = ">"
        numbers = np.ascontiguousarray(rows).view(f"{order}u{size}").reshape(*rows.shape[:2], tile, samples)
        numbers = numbers.astype(f"=u{size}")
        if predictor == 2:
            numbers = np.cumsum(numbers, axis=2, dtype=numbers.dtype)
        kind = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}[self._form]
        return numbers.view(f"={kind}{size}").reshape(len(raw), -1, samples)[:, : self._width]


def _bytes(numbers: NDArray[Any], black: float, white: float) -> NDArray[np.uint8]:
    """Numbers as 0..255."""
    exact = numbers.dtype.itemsize > (4 if numbers.dtype.kind == "f" else 2)
    wide: NDArray[Any] = numbers.astype(np.float64 if exact else np.float32).clip(black, white)
    scaled: NDArray[Any] = np.rint((np.nan_to_num(wide, copy=False, nan=black) - black) * (255 / (white - black)))
    return scaled.astype(np.uint8)


def _with_directory(data: bytes, tags: _Tags) -> bytes:
    """The file with another, little-endian directory."""
    at = len(data) + len(data) % 2
    rest = at + 2 + 12 * len(tags) + 4
    entries, more = [struct.pack("<H", len(tags))], b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            packed, more = struct.pack("<I", rest + len(more)), more + packed
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + packed)
    return b"".join([b"II*\0", struct.pack("<I", at), data[8:], bytes(at - len(data)), *entries, bytes(4), more])
