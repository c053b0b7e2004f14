"""Decodes untrusted bytes into pixels, or into the reason why they cannot be decoded."""

import io
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from orchard.images import boxes, gif, jpeg, png
from orchard.images.colour import from_space, in_mode, to_srgb
from orchard.images.content import ImageFormat, boxes_end, describe, image_format
from orchard.images.limits import Deadline, Limits, OutOfTime, Unfit, bounded_memory, check_cost
from orchard.images.tiff import ends_early, open_tiff
from orchard.vocabulary import Fit, Reason

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

__all__ = ["Decoded", "Limits", "Rejection", "decode", "too_much_memory", "too_slow"]

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
_GREY = {"1", "L", "LA", "La", "I;16", "I;16L", "I;16B"}
# How many times the target size the cheap first step (JPEG's DCT scaling, box average) leaves to the second.
_REDUCING_GAP = 2
_DECODERS: dict[ImageFormat, Callable[[io.BytesIO], Image.Image]] = {
    ImageFormat.WEBP: WebPImageFile,
    ImageFormat.BMP: BmpImageFile,
}
# Bytes of memory for a pixel while it is decoded; these decoders deliver all pixels in a piece beside Pillow's image.
_WHOLE = {ImageFormat.WEBP: 16, ImageFormat.AVIF: 16, ImageFormat.HEIC: 10}
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # of the others 4
# Those whose native code may take memory that no header tells.
_BOUNDED = {ImageFormat.AVIF, ImageFormat.HEIC, ImageFormat.TIFF}
GREY = 127
"""Grey value of padding: the middle of the range. A network that computes (x - 127) / 128 of a pixel gets 0."""
# Pixels that are converted at once.
_TILE_PIXELS = 2**21
# The processors are shared by tasks, one image a time each.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
if pillow_heif is not None:
    pillow_heif.options.DECODE_THREADS = 1


@dataclass(frozen=True)
class Decoded:
    """An image's pixels."""

    pixels: npt.NDArray[np.uint8]
    """RGB, shape (height, width, 3), C-contiguous; not larger than the target."""
    width: int
    """Of the original, upright, in pixels."""
    height: int
    format: ImageFormat
    larger: npt.NDArray[np.uint8] | None = None
    """The same, not larger than what was asked for beside the target."""


@dataclass(frozen=True)
class Rejection:
    """Why there are no pixels."""

    reason: Reason
    detail: str


def decode(
    data: bytes, target: int, limits: Limits, fit: Fit = Fit.STRETCH, larger: int | None = None
) -> Decoded | Rejection:
    """Decode the first frame of an image, upright, in sRGB. Never raises, whatever the bytes.

    An image whose sides are both at most ``target`` keeps its size; any other is stretched to
    ``(target, target)`` with an antialiased bilinear filter, as the network's own resize would. To be cropped, the
    square in its middle is taken for the image; to be padded, it keeps its proportions and gets a grey border. Both
    give squares. With ``larger`` the image comes in that size, too, as if it were the target; it is decoded once.

    - Alpha is composited on white: the usual background of product photos, and of Fruits-360.
    - Colours are converted to sRGB by the ICC profile that the image carries: grey, RGB or CMYK. One that is broken, or
      of another kind than the pixels, is ignored; CMYK without one is taken for ideal inks. So are they converted from
      what HEIC, AVIF and PNG tell by numbers in a profile's place, as browsers do: Display P3, BT.2020, PQ and HLG
      (tone mapped, see `from_space`), and a PNG's gAMA with cHRM. EXIF's colour space is ignored, as in browsers.
    - 16 bits become 8 by dividing by 257, not by clipping. Fewer bits in a TIFF's 16 are known by its MaxSampleValue.
      Signed 16 bits are taken for 0..32767 where none is negative; 32-bit integers up to 65535 for 16 bits; values
      that use more than half of their type's range for all of it. Floats in 0..1, with what a filter adds, are
      multiplied by 255, floats in 0..255 are kept. Any other range is stretched to 0..255, because such files do
      not say what white is.
    - A JPEG that lacks its end is taken if nothing of its pixels is missing.
    """
    found = None
    try:
        found = _format(data, limits)
        memory = bounded_memory(2 * limits.max_memory) if found in _BOUNDED else nullcontext()
        with Deadline(limits.max_seconds), memory:
            return _decode_image(data, found, target, limits, fit=fit, larger=larger)
    except Unfit as unfit:
        return Rejection(unfit.reason, unfit.detail)
    except OutOfTime:
        return too_slow(found, limits)
    except (MemoryError, Image.DecompressionBombError):
        return too_much_memory(found)
    except Exception as error:  # Pillow raises whatever its parsers meet
        if found is ImageFormat.JPEG and (rare := jpeg.rare_kind(data)):
            return Rejection(Reason.UNSUPPORTED_FORMAT, rare)
        message = f"{error}".split("\n", maxsplit=1)[0][:200] or type(error).__name__
        cut = "truncated" in message.lower() or (found is not None and _ends_early(found, data))
        return Rejection(Reason.TRUNCATED if cut else Reason.CORRUPT, f"{found}: {message}")


def too_slow(found: ImageFormat | None, limits: Limits) -> Rejection:
    """Return the rejection of an image of that format that takes longer than it may."""
    return Rejection(Reason.TOO_SLOW, f"{found} takes more than {limits.max_seconds:g} s to decode")


def too_much_memory(found: ImageFormat | None) -> Rejection:
    """Return the rejection of an image of that format for whose pixels there is no memory."""
    return Rejection(Reason.TOO_MANY_PIXELS, f"{found} takes more memory than there is to decode")


def _format(data: bytes, limits: Limits) -> ImageFormat:
    if not data:
        raise Unfit(Reason.EMPTY, "0 bytes")
    if len(data) > limits.max_bytes:
        raise Unfit(Reason.TOO_LARGE, f"more than {limits.max_bytes} bytes")
    found = image_format(data)
    if found is None:
        raise Unfit(Reason.UNSUPPORTED_FORMAT, f"looks like {describe(data)}")
    return found


def _decode_image(
    data: bytes, found: ImageFormat, target: int, limits: Limits, *, fit: Fit, larger: int | None
) -> Decoded:
    if found is ImageFormat.JPEG:  # otherwise the zeros would be taken for pixels
        data = jpeg.without_padding(data)
    try:
        return _decode_whole(data, found, target, limits, fit=fit, larger=larger)
    except OSError as error:
        if found is not ImageFormat.JPEG or "truncated" not in str(error):
            raise
        # Only the end marker may be missing: then it shows nowhere what comes before it.
        ended = (data + fill + jpeg.END for fill in jpeg.FILLS)
        whole, *others = (_decode_whole(one, found, target, limits, fit=fit, larger=larger) for one in ended)
        if not all(np.array_equal(whole.pixels, other.pixels) for other in others) or jpeg.lacks_scans(data):
            raise
        return whole


def _decode_whole(
    data: bytes, found: ImageFormat, target: int, limits: Limits, *, fit: Fit, larger: int | None
) -> Decoded:
    with _open(data, found, limits) as image:
        width, height = image.size
        seen = (min if fit is Fit.CROP else max)(width, height)  # of its sides, the one that has to fit
        coefficients = jpeg.check_scans(data, image, limits) if isinstance(image, JpegImageFile) else 0
        if seen > target:
            least = max(_REDUCING_GAP * target, larger or 0)
            image.draft(None, (least, least))  # acts on JPEG alone
        pixels = image.width * image.height
        each = _WHOLE.get(found) or _BYTES.get(image.mode, 4)
        side = min(image.size)
        cut = side**2 * _BYTES.get(image.mode, 4) if fit is Fit.CROP and side < max(image.size) else 0
        check_cost(found, (width, height), pixels, pixels * each + cut + coefficients, limits)
        image.load()
        orientation = _orientation(image)
        whole = _middle(image) if cut else image

        def upright(target: int) -> Image.Image:
            # The target is turned, too: turning afterwards comes to the same and costs less. Pillow resizes
            # RGBA with premultiplied alpha, so compositing afterwards does too.
            picture = _eight_bits(whole) if seen <= target else _resized(whole, _size(width, height, target, fit))
            if picture.mode == "RGBA":
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            if "space" in image.info:
                picture = from_space(in_mode(picture, "RGB"), image.info["space"])
            else:  # grey that got alpha became RGB by that
                picture = in_mode(picture, "L") if image.mode in _GREY else picture
                picture = to_srgb(picture, image.info.get("icc_profile"))
            if orientation in _TRANSPOSE:
                picture = picture.transpose(_TRANSPOSE[orientation])
            return _padded(picture) if fit is Fit.PAD else picture

        own = np.asarray(upright(target))
        also = None
        if larger is not None:  # what fits is not converted twice
            also = own if seen <= target or larger == target else np.asarray(upright(larger))
        if orientation >= 5 and orientation in _TRANSPOSE:
            width, height = height, width
        return Decoded(own, width, height, found, also)


def _open(data: bytes, found: ImageFormat, limits: Limits) -> Image.Image:
    """Open an image by its format's class: only these decoders can be reached, and the limits are ours."""
    match found:
        case ImageFormat.JPEG:  # a phone's MPO is a JPEG followed by others; the first one counts
            jpeg.check_header(data)
            return JpegImageFile(io.BytesIO(data))
        case ImageFormat.PNG:
            data, info = png.simplified(data)
            image = PngImageFile(io.BytesIO(data))
            image.info.update(info)
            return image
        case ImageFormat.GIF:
            return GifImageFile(io.BytesIO(gif.simplified(data)))
        case ImageFormat.TIFF:
            return open_tiff(data, limits)
        case ImageFormat.HEIC if pillow_heif is None:
            raise Unfit(Reason.UNSUPPORTED_FORMAT, "looks like HEIC: install pillow-heif, or save it as JPEG")
        case ImageFormat.AVIF if not AvifImagePlugin.SUPPORTED:
            raise Unfit(Reason.UNSUPPORTED_FORMAT, "looks like AVIF: install a Pillow that has it")
        case ImageFormat.HEIC | ImageFormat.AVIF:
            decoder = AvifImagePlugin.AvifImageFile if found is ImageFormat.AVIF else pillow_heif.HeifImageFile
            picture = cast(Image.Image, decoder(io.BytesIO(data)))
            if "icc_profile" not in picture.info and (space := boxes.space(data)):
                picture.info["space"] = space
            return picture
    return _DECODERS[found](io.BytesIO(data))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if the metadata cannot be read."""
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1  # saves 20 us
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _size(width: int, height: int, target: int, fit: Fit) -> tuple[int, int]:
    """Return width and height that an image of such a width and height is resized to."""
    if fit is not Fit.PAD:
        return target, target
    longer = max(width, height)
    return max(1, int(width * target / longer + 0.5)), max(1, int(height * target / longer + 0.5))


def _middle(image: Image.Image) -> Image.Image:
    """The square in the middle of an image; of two that are as near, the left or upper one."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def fitted(image: Image.Image, target: int, fit: Fit) -> npt.NDArray[np.uint8]:
    """Resize an upright RGB image as `decode` does: to a square if the fit asks for one, and to at most the target."""
    if fit is Fit.CROP:
        image = _middle(image)
    if max(image.size) > target:
        image = _resized(image, _size(*image.size, target, fit))
    return np.asarray(_padded(image) if fit is Fit.PAD else image)


def _padded(image: Image.Image) -> Image.Image:
    """An RGB image in the middle of a grey square."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), (GREY, GREY, GREY))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in another size, in a mode of 8 bits.

    What has to be converted first is, with the first and cheap step of shrinking, tile by tile: the whole would
    take several times the memory of what was decoded.
    """
    if image.mode in ("L", "RGB", "CMYK") and not image.has_transparency_data:
        return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
    width, height = image.size
    across, down = (max(1, old // (_REDUCING_GAP * new)) for old, new in zip(image.size, size, strict=True))
    columns = max(1, min(width, _TILE_PIXELS) // across) * across
    rows = max(1, _TILE_PIXELS // columns // down) * down
    reduced: Image.Image | None = None
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            box = (left, top, min(left + columns, width), min(top + rows, height))
            tile = _eight_bits(image.crop(box)).reduce((across, down))
            if reduced is None:
                reduced = Image.new(tile.mode, (-(-width // across), -(-height // down)))
            reduced.paste(tile, (left // across, top // down))
    assert reduced is not None
    whole = (0, 0, width / across, height / down)
    return reduced.resize(size, Image.Resampling.BILINEAR, whole)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in a mode that resizes well: L, RGB, CMYK or RGBA, 8 bits each."""
    if image.mode.startswith("I;16"):
        return _scaled(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """16 bits as 8."""
    values = np.asarray(image)
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    key: Any = image.info.get("transparency")
    if not isinstance(key, int):
        return Image.fromarray(grey)
    return Image.merge(
        "LA", [Image.fromarray(grey), Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))]
    ).convert("RGBA")


def _ends_early(found: ImageFormat, data: bytes) -> bool:
    """Whether a broken file lacks its end, by what its format says about the end."""
    order: Literal["little", "big"] = "big" if data[:1] == b"M" else "little"
    match found:
        case ImageFormat.JPEG:
            early = b"\xff\xd9" not in data[-1024:]
        case ImageFormat.PNG:
            early = b"IEND" not in data[-1024:]
        case ImageFormat.GIF:
            early = b";" not in data[-16:]
        case ImageFormat.WEBP:
            early = int.from_bytes(data[4:8], order) + 8 > len(data)
        case ImageFormat.BMP:
            early = int.from_bytes(data[2:6], order) > len(data)
        case ImageFormat.TIFF:
            early = ends_early(data)
        case ImageFormat.AVIF | ImageFormat.HEIC:
            early = boxes_end(data) > len(data)
    return early
