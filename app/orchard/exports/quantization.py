"""Exports whose backbone has another precision than the run: int8 from float32, or float32 from int8.

The network of OpenVINO and ONNX in int8 is the run's own, or made of it as a run makes it
(`orchard.features.quantization`); LiteRT has a converter of its own. Other numbers give other features, so that the
run's threshold of familiarity is another one there: see `matching`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchard.errors import InputError, WeightsUnavailable
from orchard.exports.graph import check_engine
from orchard.features import quantization
from orchard.features.artifact import Artifact, Precision
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import OpenVinoEngine
from orchard.images.limits import DEFAULT_LIMITS, Limits
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor
from orchard.layout import INVENTORY, Dataset
from orchard.output import Output
from orchard.storage import S3Options
from orchard.vocabulary import Fit

log = logging.getLogger(__name__)


class Images(NamedTuple):
    """Training images of a run, decoded as the run decodes them."""

    pixels: list[NDArray[np.uint8]]
    """uint8 (height, width, 3), RGB, as the network's engine takes them: see `Artifact.decoded_size`."""
    digest: str


def training_images(
    output: str, s3: S3Options, *, size: int, fit: Fit, seed: int, limits: Limits = DEFAULT_LIMITS
) -> Images:
    """Return the images with which a run in int8 over the images of `output` quantises its backbone.

    Raises:
        InputError: too few of them can still be read.
    """
    table = Output(output, s3).read(Dataset.INVENTORY, ["path", "label", "split", "featurized"], INVENTORY)
    images = quantization.Sample.of(table.filter(table["featurized"]), seed=seed, limits=limits, fit=fit, s3=s3)
    contents = images.read()
    try:
        return Images(quantization.decoded(contents, size, limits, fit), quantization.digest(contents, fit))
    except InputError:
        raise InputError(
            f"int8 is calibrated with the images that {output} was trained on, and only {len(contents)} of "
            f"{len(images.paths)} can still be read: bring them back to where they were, or take --precision float16."
        ) from None


def in_other_numbers(model: Model, images: Images, *, weights: str, seed: int) -> Model:
    """Return a float model with its network converted to int8, or an int8 model with its network in float32.

    Args:
        model: a model of OpenVINO's engine.
        images: images to quantise with, and to set the threshold of familiarity by.
        weights: the backbone's weights, from which float32 is made again.
        seed: seed of random weights.

    Raises:
        UsageError: the model is one of TensorFlow's.
        WeightsUnavailable: the weights are not available, or are not those of the model.
    """
    check_engine(model)
    before = familiarity_of(model, images)
    if model.artifact.precision is Precision.INT8:
        network = _in_float32(model.artifact, weights, seed)
    else:
        exact = replace(model.artifact, precision=Precision.FLOAT32)
        # NNCF shows its progress on standard output, which is the command's.
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            network = quantization.quantized(exact, images.pixels, images.digest)
        if network.agreement is not None and network.agreement < quantization.LEAST_AGREEMENT:
            log.warning("the features of int8 agree with float32's by %s only: try float16 too", network.agreement)
    after = model.familiarities(OpenVinoEngine(network)(images.pixels))
    return replace(with_threshold(model, before, after), artifact=network)


def familiarity_of(model: Model, images: Images) -> NDArray[np.float32]:
    """Return the familiarity of images to a model, float32 (n,), 0..1."""
    return model.familiarities(Predictor(model).features(images.pixels))


def with_threshold(model: Model, before: NDArray[np.float32], after: NDArray[np.float32]) -> Model:
    """Return the model with the threshold that `matching` gives for its exported network."""
    threshold = matching(model.calibration.familiarity, before, after)
    return replace(model, calibration=replace(model.calibration, familiarity=threshold))


def matching(threshold: float, before: NDArray[np.floating], after: NDArray[np.floating]) -> float:
    """Return the threshold of familiarity for an exported network: the run's, times the median of ``after / before``.

    The run has measured its threshold on held-out images, which an export no longer has. A threshold that all but a few
    training images exceed would be four times as strict (58 fruits: a quarter of the test photographs unknown). So the
    threshold is changed as the familiarity of the same images changes.

    Args:
        threshold: the run's threshold, 0..1.
        before: (n,) familiarity of training images with the run's network.
        after: (n,) familiarity of the same images with the exported network.
    """
    ratio = float(np.median(after / np.maximum(before, np.float32(1e-6)))) if len(before) else 1.0
    return float(np.floor(min(threshold * ratio, 1.0) * 10_000) / 10_000)


def _in_float32(artifact: Artifact, weights: str, seed: int) -> Artifact:
    backbone = find(artifact.backbone, alpha=artifact.alpha, input_size=artifact.input_size)
    built = build_artifact(backbone, weights=weights, engine=artifact.engine, seed=seed)
    if built.weights_digest != artifact.weights_digest:
        raise WeightsUnavailable(
            f"The weights of {artifact.backbone} found here ({weights}) are not those that the model was made with: "
            "give the same file with --weights, or take --precision int8, which needs none."
        )
    return built
