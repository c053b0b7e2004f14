"""Thumbnails for the page, encoded again, so that neither metadata nor a hostile file gets into it."""

import base64
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from orchard.images.decoding import Rejection, decode
from orchard.images.limits import DEFAULT_LIMITS

POINT_PIXELS = 56
GALLERY_PIXELS = 120
CELL_PIXELS = 80
ICON_PIXELS = 28

# All pictures of a page together, in base64 characters: the page stays under 5 MB whatever the images are.
BUDGET = 1_500_000

# Reads of an object store overlap; more would only hold more whole files in memory.
_READERS = 8


def thumbnail(content: bytes, pixels: int, quality: int = 60) -> str:
    """Shrink an encoded image to fit a square and return it as a base64 WebP, without its metadata.

    Raises:
        ValueError: it cannot be decoded.
    """
    image = decode(content, 2 * pixels, DEFAULT_LIMITS)
    if isinstance(image, Rejection):
        raise ValueError(image.detail)
    canvas = Image.fromarray(image.pixels).resize(fitting(image.width, image.height, pixels), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def fitting(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Return width and height of an image after it is shrunk to fit into a square."""
    scale = min(1, pixels / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def thumbnails(
    requests: Iterable[tuple[str, int]], read_image: Callable[[str], bytes], budget: int = BUDGET
) -> list[str | None]:
    """Thumbnails of ``(path, pixels)``, in order; None for an image that cannot be read or exceeds the budget."""

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
