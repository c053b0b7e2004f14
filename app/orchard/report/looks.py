"""Pictures that show where the network looked, as overlays for the thumbnails of the page's mistakes."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from orchard.errors import OrchardError
from orchard.features.artifact import EngineName
from orchard.features.engines import cells_of
from orchard.images.decoding import Rejection, decode
from orchard.images.limits import DEFAULT_LIMITS
from orchard.inference.class_map import class_map
from orchard.inference.model import Model
from orchard.inference.predictor import for_this_processor
from orchard.inference.regions import square
from orchard.report.samples import Mistake
from orchard.report.thumbnails import GALLERY_PIXELS, fitting
from orchard.vocabulary import Fit

MAX_LOOKS = 24  # the mistakes that are seen without opening anything
MAX_SECONDS = 10.0  # after which no other image is looked at
BUDGET = 150_000  # characters of all pictures together

_DARKEST = 0.6  # of what says nothing for the answer
_MUCH = 0.5  # of what the cell says that says most


@dataclass(frozen=True)
class Look:
    """Where the network looked in an image.

    Attributes:
        picture: base64 WebP of the thumbnail's size: dark where nothing contributes to the answer, clear where most.
        place: the place in words.
    """

    picture: str
    place: str


def looks(
    mistakes: Sequence[Mistake], classifier: str, load: Callable[[], Model], read_image: Callable[[str], bytes]
) -> dict[str, Look]:
    """Return path -> where the network looked, for the first `MAX_LOOKS` mistakes.

    Args:
        mistakes: the mistakes.
        classifier: the classifier that made them.
        load: returns the output's model. If it fails, or the model has another classifier, the result is empty.
        read_image: as in `orchard.report.page.collect`.
    """
    try:
        model = load() if mistakes else None
    except OrchardError:
        return {}
    # TensorFlow would take longer to import than all that it is asked for.
    if model is None or model.classifier != classifier or model.artifact.engine is not EngineName.OPENVINO:
        return {}
    until = time.monotonic() + MAX_SECONDS
    artifact = for_this_processor(model.artifact)
    cells = cells_of(artifact)

    def read(mistake: Mistake) -> bytes | None:
        try:
            return read_image(mistake.path)
        except Exception:  # an image that has gone since has no thumbnail either
            return None

    found: dict[str, Look] = {}
    shown = mistakes[:MAX_LOOKS]
    budget = BUDGET
    with ThreadPoolExecutor(len(shown), thread_name_prefix="looks") as readers:
        for mistake, content in zip(shown, readers.map(read, shown), strict=True):
            if content is None or mistake.predicted not in model.labels:
                continue
            image = decode(content, artifact.decoded_size, DEFAULT_LIMITS, artifact.fit)
            if isinstance(image, Rejection):
                continue
            said = class_map(model, cells(image.pixels), mistake.predicted)
            picture = shade(said, image.width, image.height, artifact.fit)
            if time.monotonic() > until or len(picture) > budget:
                break
            budget -= len(picture)
            found[mistake.path] = Look(picture, in_words(said))
    return found


def shade(said: Sequence[Sequence[float]], width: int, height: int, fit: Fit) -> str:
    """Draw a class map, which covers the network's square input, as an overlay for the image's thumbnail.

    Args:
        said: the map, see `orchard.inference.class_map.class_map`.
        width: width of the upright image, in pixels.
        height: height of the upright image, in pixels.
        fit: how the image became square.
    """
    size = across, down = fitting(width, height, GALLERY_PIXELS)
    left, top, right, bottom = square(width, height, fit)
    seen = max(1, round((right - left) * across)), max(1, round((bottom - top) * down))
    light = Image.new("L", size)
    cells = Image.fromarray(np.rint(255 * np.array(said)).astype(np.uint8))
    light.paste(cells.resize(seen, Image.Resampling.BICUBIC), (round(left * across), round(top * down)))
    black = Image.new("L", size)
    dark = light.point([round(_DARKEST * (255 - value)) for value in range(256)])
    buffer = io.BytesIO()
    Image.merge("RGBA", (black, black, black, dark)).save(buffer, "WEBP", quality=50, alpha_quality=50)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def in_words(said: Sequence[Sequence[float]]) -> str:
    """Return the place, such as "top left", of the centre of a map's large contributions."""
    cells = np.array(said)
    weights = np.where(cells >= _MUCH, cells, 0)
    if not weights.any():
        return "nowhere"
    places = []
    for axis, names in ((0, ("top", "", "bottom")), (1, ("left", "", "right"))):
        side = cells.shape[axis]
        middle = (weights.sum(axis=1 - axis) * (np.arange(side) + 0.5)).sum() / weights.sum() / side
        places.append(names[min(2, int(3 * middle))])
    return " ".join(filter(None, places)) or "middle"
