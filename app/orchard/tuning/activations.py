"""Outputs of the frozen blocks for all images: float16 in a memory-mapped file, computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from orchard.features.apart import Decode, decoding
from orchard.features.artifact import BATCH_SIZE, LARGER
from orchard.features.engines import import_openvino, openvino_core
from orchard.features.resizing import Resizer
from orchard.features.views import middle, random_view
from orchard.files import digest_of
from orchard.images.decoding import Decoded, Limits
from orchard.images.reading import contents
from orchard.storage import LocalStorage, S3Options
from orchard.vocabulary import Fit

_FILE, _DONE = "activations", "activations.json"
_REMEMBERED = 32
"""Images after which what is done is remembered."""


@dataclass(frozen=True)
class Pictures:
    """How images are read and seen.

    Attributes:
        limits: of decoding.
        s3: where objects are.
        fit: how they become square.
        size: pixels of a side of what the network sees.
        seed: of the views.
        shares: of an image's sides, of the views that are not random.
    """

    limits: Limits
    s3: S3Options
    fit: Fit
    size: int
    seed: int
    shares: tuple[float, ...] = (1.0,)

    def views(self, images: pa.Table, views: int) -> Iterator[list[NDArray[np.uint8]] | None]:
        """Yield the random views of each image, or those of `shares` if `views` is 0; None: it cannot be decoded."""
        with decoding(apart=True) as decode:  # training is not to end with a decoder
            yield from self._views(images, views, decode)

    def _views(self, images: pa.Table, views: int, decode: Decode) -> Iterator[list[NDArray[np.uint8]] | None]:
        larger = int(np.ceil(LARGER * self.size)) if views or self.shares != (1.0,) else None
        for data in contents(images, self.limits, self.s3):
            found = decode(data, self.size, self.limits, self.fit, larger) if isinstance(data, bytes) else None
            if not isinstance(found, Decoded) or not isinstance(data, bytes):
                yield None
            elif found.larger is None:
                yield [found.pixels]
            elif not views:
                yield [middle(found.larger, share, self.size) for share in self.shares]
            else:
                digest = digest_of(data)
                yield [random_view(found.larger, digest, view, self.seed, self.size) for view in range(views)]


def write(
    folder: Path,
    graph: Any,
    images: pa.Table,
    views: int,
    pictures: Pictures,
    *,
    threads: int,
    done: Callable[[int], None],
) -> Activations:
    """Compute the activations of `images` and return them; what an earlier call has done in `folder` is kept.

    What it could not read is tried again: the images may be back where they were.

    Args:
        folder: takes the files.
        graph: OpenVINO's, from pixels of (BATCH_SIZE, size, size, 3) to activations.
        images: ``path, size``.
        views: random ones of each; 0: those of `Pictures.shares`.
        pictures: how they are read.
        threads: that compute.
        done: told of the pictures of each image.
    """
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(graph, "CPU", settings)
    each, shape = views or len(pictures.shares), tuple(compiled.output(0).shape)[1:]
    folder.mkdir(parents=True, exist_ok=True)
    storage = LocalStorage(str(folder.absolute()))
    begun = storage.exists(_DONE)
    remembered: dict[str, Any] = json.loads(storage.read(_DONE)) if begun else {"images": 0, "unreadable": []}
    start, unreadable = int(remembered["images"]), list[int]()
    numbers = [*remembered["unreadable"], *range(start, images.num_rows)]
    rows: NDArray[np.float16] = np.memmap(
        folder / _FILE, np.dtype(np.float16), "r+" if begun else "w+", shape=(images.num_rows, each, *shape)
    )
    done((images.num_rows - len(numbers)) * each)
    queue = _Queue(compiled, rows, Resizer(pictures.size), pictures.size)
    waiting = images.take(pa.array(numbers, pa.int64()))
    for number, seen in zip(numbers, pictures.views(waiting, views), strict=True):
        if seen is None:
            unreadable.append(number)
        for view, pixels in enumerate(seen or ()):
            queue.put((number, view), pixels)
        if (number >= start and (number + 1) % _REMEMBERED == 0) or number == numbers[-1]:
            queue.flush()
            rows.flush()  # type: ignore[attr-defined]  # a memmap's
            storage.write(_DONE, json.dumps({"images": max(start, number + 1), "unreadable": unreadable}).encode())
        done(each)
    return Activations(rows, np.setdiff1d(np.arange(images.num_rows), np.array(unreadable, np.intp)))


class _Queue:
    """Fills batches while the one before is computed."""

    def __init__(self, compiled: Any, rows: NDArray[np.float16], resize: Resizer, size: int) -> None:
        self._requests = [compiled.create_infer_request() for _ in range(2)]
        self._batches = [np.zeros((BATCH_SIZE, size, size, 3), np.float32) for _ in range(2)]
        self._places: list[list[tuple[int, int]]] = [[], []]
        self._rows, self._resize, self._now = rows, resize, 0
        openvino = import_openvino()
        for request, batch in zip(self._requests, self._batches, strict=True):
            request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))

    def put(self, place: tuple[int, int], pixels: NDArray[np.uint8]) -> None:
        places = self._places[self._now]
        self._resize(pixels, self._batches[self._now][len(places)])
        places.append(place)
        if len(places) == BATCH_SIZE:
            self._send()

    def flush(self) -> None:
        """Compute what waits, and write it all."""
        if self._places[self._now]:
            self._send()
        self._collect(1 - self._now)

    def _send(self) -> None:
        self._requests[self._now].start_async()
        self._now = 1 - self._now
        self._collect(self._now)

    def _collect(self, number: int) -> None:
        """Write the results of the batch `number`, if it was sent."""
        if not self._places[number]:
            return
        self._requests[number].wait()
        found = self._requests[number].get_output_tensor().data
        for place, values in zip(self._places[number], found, strict=False):
            self._rows[place] = values
        self._places[number] = []


@dataclass(frozen=True)
class Activations:
    """Of images and their views.

    Attributes:
        rows: (images, views, height, width, channels) float16, in a file.
        known: numbers of the images that could be decoded.
    """

    rows: NDArray[np.float16]
    known: NDArray[np.intp]

    @property
    def views(self) -> int:
        """Of each image."""
        return int(self.rows.shape[1])

    def batch(self, images: Sequence[int] | NDArray[np.intp], views: Sequence[int] | NDArray[np.intp]) -> Any:
        """Return (n, height, width, channels) float16 of n images, a view of each."""
        return self.rows[np.asarray(images), np.asarray(views)]
