"""Bytes into pixels, or into the reason why not; the bytes are not trusted."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from orchard.images.content import ImageFormat, describe, image_format
from orchard.layout import Reason

# Pillow warns of odd metadata, which does not concern the pixels, once for each image.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How many times the target size the cheap first step (JPEG's DCT scaling, box average) leaves to the second.
_REDUCING_GAP = 2
# Opened by class rather than by Image.open: only these decoders can be reached, and the limits are ours.
# A phone's MPO is a JPEG followed by others; the first one counts.
_DECODERS: dict[ImageFormat, type[ImageFile.ImageFile]] = {
    ImageFormat.JPEG: JpegImageFile,
    ImageFormat.PNG: PngImageFile,
    ImageFormat.WEBP: WebPImageFile,
    ImageFormat.BMP: BmpImageFile,
    ImageFormat.GIF: GifImageFile,
    ImageFormat.TIFF: TiffImageFile,
}


@dataclass(frozen=True)
class Limits:
    """What an image may cost."""

    max_bytes: int = 64 * 1024 * 1024
    """Of the file."""
    max_pixels: int = 100_000_000
    """Width times height, as the header says; checked before anything is decoded."""


@dataclass(frozen=True)
class Decoded:
    """An image's pixels."""

    pixels: npt.NDArray[np.uint8]
    """RGB, shape (height, width, 3), C-contiguous; not larger than the target."""
    width: int
    """Of the original, upright, in pixels."""
    height: int


@dataclass(frozen=True)
class Rejection:
    """Why there are no pixels."""

    reason: Reason
    detail: str


def decode(data: bytes, target: int, limits: Limits) -> Decoded | Rejection:
    """Decode the first frame of an image, upright, in RGB. Never raises, whatever the bytes.

    An image whose sides are both at most ``target`` keeps its size; any other is stretched to
    ``(target, target)`` with an antialiased bilinear filter, as the network's own resize would.

    - Alpha is composited on white: the usual background of product photos, and of Fruits-360.
    - 16 bits become 8 by dividing by 257, not by clipping. 32-bit integers up to 65535 are taken for 16 bits,
      floats in 0..1 are multiplied by 255, floats in 0..255 are kept; any other range is stretched to 0..255,
      because such files do not say what white is.
    """
    if not data:
        return Rejection(Reason.EMPTY, "0 bytes")
    if len(data) > limits.max_bytes:
        return Rejection(Reason.TOO_LARGE, f"more than {limits.max_bytes} bytes")
    found = image_format(data)
    if found is None:
        return Rejection(Reason.UNSUPPORTED_FORMAT, f"looks like {describe(data)}")
    try:
        return _decode_image(data, found, target, limits.max_pixels)
    except Exception as error:  # Pillow raises whatever its parsers meet
        message = f"{error}".split("\n", maxsplit=1)[0][:200] or type(error).__name__
        cut = "truncated" in message.lower() or _ends_early(found, data)
        return Rejection(Reason.TRUNCATED if cut else Reason.CORRUPT, f"{found}: {message}")


def open_image(data: bytes, limits: Limits = Limits()) -> ImageFile.ImageFile:
    """Open an image with the decoders that `decode` allows, and within its limit of pixels; nothing is decoded yet.

    Raises:
        ValueError: it is of another format, or too large.
    """
    found = image_format(data)
    if found is None:
        raise ValueError("not an image of an allowed format")
    image = _DECODERS[found](io.BytesIO(data))
    if image.width * image.height > limits.max_pixels:
        raise ValueError(f"{image.width} x {image.height} pixels")
    return image


def _decode_image(data: bytes, found: ImageFormat, target: int, max_pixels: int) -> Decoded | Rejection:
    with _DECODERS[found](io.BytesIO(data)) as image:
        width, height = image.size
        if width * height > max_pixels:
            detail = f"{found} of {width} x {height} pixels, more than {max_pixels}"
            return Rejection(Reason.TOO_MANY_PIXELS, detail)
        if width * height == 0:
            return Rejection(Reason.CORRUPT, f"{found} of {width} x {height} pixels")
        fits = width <= target and height <= target
        if not fits:
            image.draft(None, (_REDUCING_GAP * target, _REDUCING_GAP * target))  # acts on JPEG alone
        image.load()
        orientation = _orientation(image)
        upright = _eight_bits(image)
        if not fits:
            # A square target: turning afterwards comes to the same and costs less. Pillow resizes
            # RGBA with premultiplied alpha, so compositing afterwards does too.
            box = (target, target)
            upright = upright.resize(box, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
        if upright.mode == "RGBA":
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
        if upright.mode != "RGB":
            upright = upright.convert("RGB")
        if orientation in _TRANSPOSE:
            upright = upright.transpose(_TRANSPOSE[orientation])
            if orientation >= 5:
                width, height = height, width
        return Decoded(np.asarray(upright), width, height)


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 if the metadata cannot be read."""
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1  # saves 20 us
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that resizes well: L, RGB, CMYK or RGBA, 8 bits each."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_scaled(np.asarray(image), sixteen=mode != "F"))
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _scaled(values: npt.NDArray[np.generic], sixteen: bool) -> npt.NDArray[np.uint8]:
    """Values of an unknown range as 0..255; see `decode`."""
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    numbers = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    if low >= 0 and sixteen and high <= 65535:
        numbers /= 257
    elif low >= 0 and not sixteen and high <= 1:
        numbers *= 255
    elif low < 0 or high > 255:
        numbers = (numbers - low) * (255 / ((high - low) or 1))
    return np.rint(numbers).astype(np.uint8)


def _ends_early(found: ImageFormat, data: bytes) -> bool:
    """Whether a broken file lacks its end, by what its format says about the end."""
    match found:
        case ImageFormat.JPEG:
            return b"\xff\xd9" not in data[-1024:]
        case ImageFormat.PNG:
            return b"IEND" not in data[-1024:]
        case ImageFormat.GIF:
            return b";" not in data[-16:]
        case ImageFormat.WEBP:
            return int.from_bytes(data[4:8], "little") + 8 > len(data)
        case ImageFormat.BMP:
            return int.from_bytes(data[2:6], "little") > len(data)
        case ImageFormat.TIFF:
            order = "little" if data[:1] == b"I" else "big"
            return int.from_bytes(data[4:8], order) >= len(data)  # type: ignore[arg-type]
