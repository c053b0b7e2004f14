"""int8: post-training quantization of a backbone's weights and activations with NNCF.

The ranges of the activations are measured on images of the run itself. The quantised network is kept with the output,
so every worker and every later run uses the same network.

- *The first two convolutions stay float32* (`FLOAT32_CONVOLUTIONS`): what they lose is lost to all others. With all of
  EfficientNetLite0 in int8 the features of 580 photographs of fruits agreed with float32's by .88 (see `agreement`),
  and a discriminant that was fitted on float32's had 91.4 % of int8's right; without these two it is .98 and 94.5 %
  (94.3 % of float32's own).
- *Weights use seven of their eight bits* (NNCF's overflow fix). Processors without VNNI add products of bytes in 16
  bits, which eight-bit weights overflow: features would depend on the processor (.73 here instead of that .88). It
  costs no time.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.errors import InputError
from orchard.features.apart import decoding
from orchard.features.artifact import BATCH_SIZE, Artifact, Precision
from orchard.features.engines import OpenVinoEngine, graph_files, import_openvino, openvino_core
from orchard.features.resizing import Resizer
from orchard.features.views import middle
from orchard.files import digest_of
from orchard.images.decoding import Decoded, Limits
from orchard.images.reading import contents
from orchard.images.selection import sample
from orchard.storage import S3Options
from orchard.vocabulary import Fit, Split

SAMPLE_IMAGES = 192
"""Training images that a network is quantised with; a third of them is held back for the check."""
LEAST_IMAGES = 24
"""Number of these that int8 needs at least; with fewer, ranges would depend on single images."""
LEAST_AGREEMENT = 0.9
"""With a lower agreement, `--precision auto` does not take int8.

EfficientNetLite0 has .98, MobileNetV2 .93, without loss of accuracy. Quantised down to the first layer they have .88
and .82, and what was fitted on float32's features loses 2.9 and 4.5 points on theirs.
"""
FLOAT32_CONVOLUTIONS = 2
"""How many of the first convolutions are not quantised."""


@dataclass(frozen=True)
class Sample:
    """Training images to quantise a network with."""

    paths: tuple[str, ...]
    limits: Limits
    s3: S3Options
    fit: Fit = Fit.STRETCH

    @classmethod
    def of(cls, images: pa.Table, *, seed: int, limits: Limits, s3: S3Options, fit: Fit = Fit.STRETCH) -> Self:
        """Draw up to `SAMPLE_IMAGES` of `images` (``path, label, split``), shared out by label.

        Rows for training are taken, and those whose split is not known yet.
        """
        training = images.filter(pc.fill_null(pc.equal(images["split"], Split.TRAIN), True))
        return cls(tuple(sample(training, SAMPLE_IMAGES, seed)["path"].to_pylist()), limits, s3, fit)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        """Return what `dataclasses.asdict` made of one."""
        return cls(tuple(found["paths"]), Limits(**found["limits"]), S3Options(**found["s3"]), Fit(found["fit"]))

    def read(self) -> list[bytes]:
        """Return the bytes of the images that can be read. Raises StorageError if the storage does not answer."""
        listed = pa.table({"path": pa.array(self.paths, pa.string()), "size": pa.nulls(len(self.paths), pa.int64())})
        return [data for data in contents(listed, self.limits, self.s3) if isinstance(data, bytes)]


def digest(images: Sequence[bytes], fit: Fit = Fit.STRETCH) -> str:
    """Return 32 hexadecimal digits of the content of images, in their order, and of how they are made square."""
    return digest_of("".join([*map(digest_of, images), fit if fit is not Fit.STRETCH else ""]).encode())


def decoded(images: Sequence[bytes], size: int, limits: Limits, fit: Fit = Fit.STRETCH) -> list[NDArray[np.uint8]]:
    """Return images as the run decodes them for a network of `size` pixels, without those that cannot be.

    Raises:
        InputError: fewer than `LEAST_IMAGES` are left.
    """
    with decoding(apart=True) as decode:
        found = [image.pixels for data in images if isinstance(image := decode(data, size, limits, fit), Decoded)]
    if len(found) < LEAST_IMAGES:
        raise InputError(
            f"int8 is calibrated with at least {LEAST_IMAGES} training images, and {len(found)} of {len(images)} can "
            "be read and decoded: take --precision float32, or give more images."
        )
    return found


def quantized(artifact: Artifact, images: Sequence[NDArray[np.uint8]], calibration: str) -> Artifact:
    """Quantise a float32 artifact of OpenVINO's to int8; return it with its `agreement` with the original.

    Args:
        artifact: an artifact in float32.
        images: at least `LEAST_IMAGES`, uint8 (height, width, 3), RGB, of any sizes; a third is held back.
        calibration: digest of the files from which they were decoded.
    """
    held_back = [image for number, image in enumerate(images) if number % 3 == 2]
    others = [image for number, image in enumerate(images) if number % 3 != 2]
    topology, parameters = _quantize(artifact, others)
    network = hashlib.blake2b(topology + parameters, digest_size=16).hexdigest()
    found = replace(
        artifact,
        precision=Precision.INT8,
        calibration=calibration,
        network=network,
        topology=topology,
        parameters=parameters,
    )
    exact, rounded = OpenVinoEngine(artifact)(held_back), OpenVinoEngine(found)(held_back)
    return replace(found, agreement=round(agreement(exact, rounded), 4))


def agreement(exact: NDArray[np.float32], rounded: NDArray[np.float32]) -> float:
    """Return the mean cosine, at most 1, of features (n, n_features) to others of the same n images.

    Both are centred on the mean of the exact features. Pooled activations are positive, so even unrelated images'
    features have a cosine of .6; only the difference from the mean distinguishes an image.
    """
    a, b = exact - exact.mean(axis=0), rounded - exact.mean(axis=0)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)).mean())


def version() -> str:
    """Return the version of NNCF, on which the result depends."""
    return metadata.version("nncf")


def _quantize(artifact: Artifact, images: Sequence[NDArray[np.uint8]]) -> tuple[bytes, bytes]:
    """Return the graph as XML and the constants, with nodes that quantise and weights of int8."""
    import_openvino()  # before NNCF, which imports it with its statistics
    nncf = _import_nncf()
    from nncf.quantization import advanced_parameters as advanced

    size = artifact.input_size
    resize = Resizer(size)

    def pixels(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = np.empty((1, size, size, 3), np.float32)
        resize(middle(image, 1.0, size), batch[0])
        return batch

    graph = openvino_core().read_model(artifact.topology, artifact.parameters)
    graph.reshape([1, size, size, 3])
    kinds = ("Convolution", "GroupConvolution")
    convolutions = [op.get_friendly_name() for op in graph.get_ordered_ops() if op.get_type_name() in kinds]
    found = nncf.quantize(
        graph,
        nncf.Dataset(images, pixels),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,  # networks with swish have activations below zero
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=convolutions[:FLOAT32_CONVOLUTIONS]),
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            overflow_fix=advanced.OverflowFix.ENABLE,
            # One range for all channels, also before depthwise convolutions: it agrees as well (.984), and ONNX Runtime
            # computes no others in whole numbers.
            activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
        ),
    )
    found.reshape([BATCH_SIZE, size, size, 3])
    # Names count what the process has made before, in threads too: the same network would have another digest.
    for number, op in enumerate(found.get_ordered_ops()):
        if op.get_type_name() not in ("Parameter", "Result"):
            op.set_friendly_name(f"{op.get_type_name()}_{number}")
    found.set_rt_info("", ["nncf", "quantization", "ignored_scope", "names"])
    return graph_files(found)


def _import_nncf() -> Any:
    """Return NNCF without its usage statistics, which would be sent, its warnings among those of Orchard."""
    os.environ["NNCF_CI"] = "1"
    import nncf

    logger = logging.getLogger("nncf")
    logger.handlers.clear()  # it keeps the standard output of its import, which may be closed by now
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    return nncf
