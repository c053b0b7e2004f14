"""Small pictures for the page: re-encoded, so that neither metadata nor a hostile file gets into it."""

import base64
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, ImageOps

from orchard.images.decoding import open_image

POINT_PIXELS = 56
GALLERY_PIXELS = 120
ICON_PIXELS = 28

# All pictures of a page together, in base64 characters: the page stays under 5 MB whatever the images are.
BUDGET = 1_400_000

# Reads of an object store overlap; more would only hold more whole files in memory.
_READERS = 8


def thumbnail(content: bytes, pixels: int, quality: int = 60) -> str:
    """Shrink an encoded image to fit a square and return it as a base64 WebP.

    Raises:
        Exception: whatever Pillow raises for content that it cannot decode.
    """
    with open_image(content) as image:
        image.draft("RGB", (pixels * 2, pixels * 2))  # a JPEG photo is decoded at up to 1/8 of its size
        # After EXIF orientation; a thumbnail first, since turning a large photo costs more than shrinking it.
        image.thumbnail((pixels, pixels), Image.Resampling.BICUBIC, reducing_gap=2.0)
        upright = ImageOps.exif_transpose(image).convert("RGBA")
    # A fresh canvas carries no EXIF (position!) and no ICC profile (up to half a megabyte each).
    canvas = Image.new("RGB", upright.size, "white")
    canvas.paste(upright, mask=upright.getchannel("A"))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def thumbnails(
    requests: Iterable[tuple[str, int]], read_image: Callable[[str], bytes], budget: int = BUDGET
) -> list[str | None]:
    """Thumbnails of ``(path, pixels)``, in order; None for what cannot be read or exceeds the budget."""

    def one(request: tuple[str, int]) -> str | None:
        path, pixels = request
        try:
            return thumbnail(read_image(path), pixels)
        except Exception:  # an image that has gone since, or any decoder's complaint, costs only its picture
            return None

    with ThreadPoolExecutor(_READERS, thread_name_prefix="thumbnails") as readers:
        made = list(readers.map(one, requests))
    kept: list[str | None] = []
    for encoded in made:
        fits = encoded is not None and len(encoded) <= budget
        kept.append(encoded if fits else None)
        budget -= len(encoded) if encoded is not None and fits else 0
    return kept
