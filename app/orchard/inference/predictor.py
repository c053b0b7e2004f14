"""A model that is loaded in this process and ready to classify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchard.features.artifact import BATCH_SIZE, Artifact, EngineName, Precision
from orchard.features.engines import Cells, Engine, OpenVinoEngine, TensorFlowEngine, cells_of, resolve_precision
from orchard.images.decoding import Decoded, Rejection, decode
from orchard.images.limits import DEFAULT_LIMITS, Limits
from orchard.inference import columns, regions
from orchard.inference.class_map import class_map
from orchard.inference.columns import ColumnAnswer
from orchard.inference.model import Model
from orchard.inference.regions import Region
from orchard.vocabulary import Answer, Fit

if TYPE_CHECKING:
    from orchard.features.apart import Decode

PLACE_IMAGES = regions.MOST_BOXES + 1
"""Number of images whose prediction costs as much as one image with regions and map, at most."""


@dataclass(frozen=True)
class Place:
    """Regions and class map of one image."""

    regions: tuple[Region, ...]
    """The regions found on it, the surest first."""
    map: list[list[float]]
    """How much each cell of the network's input contributes to the likeliest label, see `class_map`."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    top: tuple[tuple[str, float], ...]
    """The likeliest labels with their probabilities, 0..1, likeliest first."""
    answer: Answer
    familiarity: float
    """How near the image lies to the training images, 0..1."""
    kind: str | None = None
    """The kind if it is sure, whether the label is sure or not."""
    columns: tuple[ColumnAnswer, ...] = ()
    """The answers for the model's further label columns."""
    place: Place | None = None
    """Regions and class map, if they were requested."""

    @property
    def label(self) -> str | None:
        """The label if it is sure."""
        return self.top[0][0] if self.answer is Answer.SURE else None


class Predictor:
    """A model with an engine of its own; only one thread may use it at a time.

    Args:
        model: the model.
        batch_size: number of images that the network takes at once; a smaller batch is padded and costs as much.
        limits: limits for decoding one image.

    If this processor lacks bfloat16, a network of that precision runs in float32, from which it was rounded.
    """

    def __init__(self, model: Model, *, batch_size: int = BATCH_SIZE, limits: Limits = DEFAULT_LIMITS) -> None:
        artifact = for_this_processor(model.artifact)
        openvino = artifact.engine is EngineName.OPENVINO
        self.model = model
        self._limits = limits
        self._engine: Engine = (
            OpenVinoEngine(artifact, batch_size=batch_size) if openvino else TensorFlowEngine(artifact)
        )

    @property
    def input_size(self) -> int:
        """Side, in pixels, of the square that the network gets."""
        return self._engine.input_size

    def decode(self, data: bytes, by: Decode | None = None) -> Decoded | Rejection:
        """Decode the bytes of an image as the pipeline does, in this process or elsewhere; never raises."""
        return (by or decode)(data, self._engine.decoded_size, self._limits, self.model.artifact.fit)

    def decode_larger(self, data: bytes, by: Decode | None = None) -> Decoded | Rejection:
        """Decode like `decode`, and also at the larger size that `regions` needs; never raises."""
        size = self._engine.input_size
        return (by or decode)(
            data, self._engine.decoded_size, self._limits, self.model.artifact.fit, regions.LARGER * size
        )

    def regions(self, image: Decoded) -> list[Region]:
        """Return the regions of an image from `decode_larger`; it costs as much as 13 or 14 images."""
        pixels = image.pixels if image.larger is None else image.larger
        fit = self.model.artifact.fit
        shape = (image.width, image.height) if fit is Fit.STRETCH else (pixels.shape[1], pixels.shape[0])
        found = regions.find(self.model, self._engine.single, pixels, shape)
        seen = regions.square(image.width, image.height, fit)
        return [replace(region, box=regions.within(seen, region.box)) for region in found]

    def map(self, image: Decoded, label: str) -> list[list[float]]:
        """Return where an image resembles a label, see `class_map`; it costs as much as one image."""
        return class_map(self.model, self._cells(image.pixels), label)

    @cached_property
    def _cells(self) -> Cells:
        """Built when first used, as most callers never need it."""
        return cells_of(for_this_processor(self.model.artifact))

    def place(self, image: Decoded, prediction: Prediction) -> Place:
        """Return regions and map of an image from `decode_larger`; it costs as much as `PLACE_IMAGES` images."""
        return Place(tuple(self.regions(image)), self.map(image, prediction.top[0][0]))

    def features(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return (n, n_features) of n decoded images, uint8 (height, width, 3), RGB."""
        return self._engine(images)

    def predict(self, images: Sequence[NDArray[np.uint8]], top: int = 5) -> list[Prediction]:
        """Return the answer to each decoded image, with its ``top`` likeliest labels."""
        return answer(self.model, self.features(images), top) if len(images) else []


def for_this_processor(artifact: Artifact) -> Artifact:
    """Return the network in a precision that this processor has: float32 if it lacks bfloat16."""
    rounded = artifact.precision is Precision.BFLOAT16 and artifact.engine is EngineName.OPENVINO
    if rounded and resolve_precision("auto") is not Precision.BFLOAT16:
        return replace(artifact, precision=Precision.FLOAT32)
    return artifact


def answer(model: Model, features: NDArray[np.float32], top: int) -> list[Prediction]:
    """Return the predictions for features (n, n_features)."""
    probabilities, familiarity = model.probabilities(features), model.familiarities(features)
    said = model.calibration.answers(probabilities.max(axis=1), familiarity)
    further = columns.answers(model.columns, features, said == Answer.UNKNOWN)
    rows = zip(probabilities, map(Answer, said), familiarity.tolist(), strict=True)
    found = [_prediction(model, *row, top) for row in rows]
    return [replace(one, columns=values) for one, values in zip(found, further, strict=True)]


def _prediction(
    model: Model, probabilities: NDArray[np.float32], said: Answer, familiarity: float, top: int
) -> Prediction:
    order = np.argsort(-probabilities, kind="stable")[:top]
    kind = None
    if model.kinds is not None and said is Answer.SURE:
        kind = model.kinds.of_label(int(order[0]))
    elif model.kinds is not None and said is Answer.NOT_SURE:
        shares = model.kinds.probabilities(probabilities[np.newaxis])[0]
        kind = model.kinds.names[int(shares.argmax())] if shares.max() >= model.kinds.threshold else None
    top_labels = tuple((model.labels[index], float(probabilities[index])) for index in order)
    return Prediction(top_labels, said, familiarity, kind)
