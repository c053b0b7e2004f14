"""int8: weights and activations as whole numbers, their ranges measured on images that the model was trained on."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchard.errors import InputError, StorageError, UsageError
from orchard.exports.formats import INPUT, OUTPUT
from orchard.exports.onnx_graph import import_onnx
from orchard.features.resizing import Resizer
from orchard.images.decoding import Limits, Rejection, decode
from orchard.inference.predictor import DEFAULT_LIMITS
from orchard.layout import INVENTORY, Dataset, Fit, Split
from orchard.output import Output
from orchard.storage import S3Options, read_path

IMAGES = 200
"""How many training images the ranges are measured on."""
_LEAST_IMAGES = 10
# What gains by whole numbers. The sums of residual blocks are among them, so that nothing is converted in between.
_OPERATIONS = ["Conv", "Add", "Clip", "Relu", "MatMul", "MaxPool", "AveragePool", "Concat"]

FLOAT32_CONVOLUTIONS = 2
"""How many of the first convolutions stay float32: what they lose is lost to all others.

EfficientNetLite0 in ONNX, 2,878 photographs of 58 fruits: with them in float32 98.3 % keep their answer, without
96.1 %, and it takes 3.4 ms rather than 4.4.
"""


def calibration_images(
    output: str, s3: S3Options, size: int, limits: Limits = DEFAULT_LIMITS, fit: Fit = Fit.STRETCH
) -> NDArray[np.uint8]:
    """Return up to `IMAGES` training images of an output, evenly spread over their paths, as the network sees them.

    Returns:
        uint8 (n, size, size, 3), RGB.

    Raises:
        InputError: too few of them can still be read.
    """
    table = Output(output, s3).read(Dataset.INVENTORY, ["path", "split", "featurized"], INVENTORY)
    paths = sorted(row["path"] for row in table.to_pylist() if row["split"] == Split.TRAIN and row["featurized"])
    chosen = [paths[index] for index in np.linspace(0, len(paths) - 1, min(IMAGES, len(paths)), dtype=int)]
    images = [image for path in chosen if (image := _image(path, s3, size, limits, fit)) is not None]
    if len(images) < _LEAST_IMAGES:
        raise InputError(
            f"int8 is calibrated with the images that {output} was trained on, and only {len(images)} of {len(chosen)} "
            "can still be read: bring them back to where they were, or take --precision float16."
        )
    return np.stack(images)


def _image(path: str, s3: S3Options, size: int, limits: Limits, fit: Fit) -> NDArray[np.uint8] | None:
    try:
        decoded = decode(read_path(path, s3, limits.max_bytes), size, limits, fit)
    except (OSError, StorageError):
        return None
    if isinstance(decoded, Rejection):
        return None
    resized = np.empty((size, size, 3), np.float32)
    Resizer(size)(decoded.pixels, resized)
    return np.rint(resized).astype(np.uint8)


def quantize_onnx(data: bytes, images: NDArray[np.uint8]) -> bytes:
    """Return the ONNX file `data`, of float32, in int8 (quantize and dequantize nodes around every operation).

    Resize, normalisation, the first convolutions, and all that follows the features stay float32: they cost little
    and decide.

    Args:
        data: what `to_onnx` returned.
        images: (n, size, size, 3) to measure the activations' ranges on.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """
    onnx = import_onnx()
    try:
        from onnxruntime import quantization  # type: ignore[import-untyped]
    except ImportError as error:
        raise UsageError("int8 needs onnxruntime, which is not installed: pip install onnxruntime.") from error

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._next: Iterator[dict[str, Any]] = ({INPUT: image[np.newaxis]} for image in images)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._next, None)

    model = onnx.load_model_from_string(data)
    nodes = model.graph.node
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    first = convolutions[FLOAT32_CONVOLUTIONS]
    with tempfile.TemporaryDirectory(prefix="orchard-export-") as folder:
        path = Path(folder) / "model.onnx"
        logging.disable(logging.WARNING)  # it advises to fold what OpenVINO has folded
        try:
            quantization.quantize_static(
                model,
                path,
                Images(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_OPERATIONS,
                nodes_to_exclude=[*(node.name for node in nodes[:first]), *_after_features(nodes)],
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
        quantized = onnx.load_model(path)
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in model.metadata_props})
    onnx.checker.check_model(quantized)
    content: bytes = quantized.SerializeToString()
    return content


def _after_features(nodes: Sequence[Any]) -> list[str]:
    """Return the names of the nodes that make probabilities and familiarity of the features."""
    makers = {node.output[0]: node for node in nodes}
    node = makers[OUTPUT]
    while node.op_type != "MatMul":  # the softmax, the bias
        node = next(makers[name] for name in node.input if name in makers)
    reached = {node.input[0]}
    found = []
    for node in nodes:  # in an order in which they can run
        if reached.intersection(node.input):
            reached.add(node.output[0])
            found.append(node.name)
    return found
