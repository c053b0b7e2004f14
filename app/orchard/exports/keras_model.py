"""The model in Keras and in LiteRT, built in a child process: the parent never imports TensorFlow.

::

    parent                          child (KERAS_BACKEND=tensorflow)
    request.json, head.npz    ->    backbone from its weights, resize before it, dense layers after it
    images.npy, before.npy    ->    where the run or the file is of int8: the file's own threshold of familiarity
    model.keras or .tflite    <-
    threshold.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchard import child
from orchard.errors import OrchardError, WeightsUnavailable
from orchard.exports.formats import (
    FAMILIARITY,
    INPUT,
    KIND_PROBABILITIES,
    OUTPUT,
    Format,
    StoredPrecision,
    probabilities_of,
)
from orchard.exports.graph import head
from orchard.exports.quantization import Images, familiarity_of, matching
from orchard.exports.views import Side, view
from orchard.features.artifact import VIEW_SHARES, Precision
from orchard.features.backbones import Backbone, find
from orchard.features.engines import SMALLEST
from orchard.features.quantization import FLOAT32_CONVOLUTIONS
from orchard.features.resizing import Resizer
from orchard.features.weights import Weights, keras_model, locate
from orchard.inference.familiarity import Familiarity
from orchard.inference.model import Model
from orchard.scratch import scratch

if TYPE_CHECKING:
    import keras

_COLUMN = ".column.npz"
"""How the file with the layer of a further label column ends."""
_SECONDS = 1800.0  # int8 of a large network takes minutes


@dataclass(frozen=True)
class _Request:
    """What the child is to build."""

    format: Format
    precision: StoredPrecision
    backbone: str
    alpha: float
    input_size: int
    test_views: int
    square_root: bool
    weights: str
    seed: int
    weights_digest: str
    card: dict[str, Any]  # for the file's metadata
    familiarity_threshold: float  # of the run

    def located(self) -> tuple[Backbone, Weights]:
        """The backbone of the width and input size, and where its weights are."""
        backbone = find(self.backbone, alpha=self.alpha, input_size=self.input_size)
        return backbone, locate(backbone, self.weights, seed=self.seed)


class KerasFile(NamedTuple):
    """A file's content, and its threshold of familiarity for the card."""

    data: bytes
    familiarity_threshold: float


def keras_file(
    model: Model,
    kind: Format,
    precision: StoredPrecision = StoredPrecision.FLOAT32,
    *,
    weights: str,
    seed: int = 0,
    card: Mapping[str, Any] = MappingProxyType({}),
    images: Images | None = None,
) -> KerasFile:
    """Return `model` as a .keras or .tflite file.

    Args:
        model: the model, with any engine.
        kind: Keras or LiteRT.
        precision: precision of the file; Keras has only float32.
        weights: the backbone's weights: ``imagenet``, ``random`` (by ``seed``) or a file.
        seed: seed of random weights.
        card: the model card, which a .tflite file contains as its metadata "model.json", with the file's threshold.
        images: images to calibrate int8 with, and to set the threshold by if the run or the file is in int8.

    Raises:
        WeightsUnavailable: the weights are not available, or are not those of the model.
        OrchardError: the child process failed.
    """
    artifact = model.artifact
    request = _Request(
        kind,
        precision,
        artifact.backbone,
        artifact.alpha,
        artifact.input_size,
        artifact.test_views,
        artifact.square_root,
        weights,
        seed,
        artifact.weights_digest,
        dict(card),
        model.calibration.familiarity,
    )
    _check_digest(request, request.located()[1])
    matrix, bias = head(model)
    with scratch("export") as folder:
        np.savez(folder / "head.npz", weights=matrix, bias=bias[0])
        if model.familiarity is not None:
            (folder / "familiarity.npz").write_bytes(model.familiarity.to_bytes())
        if model.kinds is not None:
            np.save(folder / "kinds.npy", model.kinds.shares)
        for column in model.columns:
            of_column, its_bias = head(column)
            np.savez(folder / f"{column.name}{_COLUMN}", weights=of_column, bias=its_bias[0])
        if images is not None and images.pixels:
            squares = _resized(images.pixels, artifact.decoded_size)
            np.save(folder / "images.npy", squares)
            if artifact.precision is Precision.INT8:  # which the child cannot compute
                np.save(folder / "before.npy", familiarity_of(model, images._replace(pixels=list(squares))))
        _run_child(folder, request)
        threshold = json.loads((folder / "threshold.json").read_text())
        return KerasFile((folder / f"model{kind.suffix}").read_bytes(), float(threshold))


def _resized(images: Sequence[NDArray[np.uint8]], size: int) -> NDArray[np.uint8]:
    """Return images as squares of one size, uint8 (n, size, size, 3)."""
    resize, batch = Resizer(size), np.empty((len(images), size, size, 3), np.float32)
    for image, row in zip(images, batch, strict=True):
        resize(image, row)
    return np.rint(batch).astype(np.uint8)


def _check_digest(request: _Request, weights: Weights) -> None:
    yet_to_be_downloaded = weights.path is None and weights.seed is None
    if not yet_to_be_downloaded and weights.digest() != request.weights_digest:
        raise WeightsUnavailable(
            f"The weights of {request.backbone} found here ({weights.path or weights.description}) are not those that "
            "the model was made with: give the same file with --weights, or take --format onnx, which needs none."
        )


def _run_child(folder: Path, request: _Request) -> None:
    process = child.start("orchard.exports.keras_model", folder, request, variables=child.KERAS)
    try:
        process.wait(_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise OrchardError(
            f"Exporting {request.backbone} took more than {_SECONDS / 60:.0f} minutes: take --precision float32."
        ) from error
    finally:
        process.kill()
        process.wait()
    child.raise_error(folder)
    if process.returncode:
        raise OrchardError(
            f"Exporting {request.backbone} {child.last_words(folder, process.returncode)}: check the memory, or take "
            "--format onnx."
        )


# --- What runs in the child process -------------------------------------------------------------------------


def main(folder: Path) -> int:
    """Build the file that ``folder/request.json`` describes: ``folder/model.keras`` or ``.tflite``."""
    values = child.request_of(folder)
    values |= {"format": Format(values["format"]), "precision": StoredPrecision(values["precision"])}
    request = _Request(**values)
    path = folder / f"model{request.format.suffix}"
    try:
        model = _folded(request, folder)
        if request.format is Format.KERAS:
            model.save(path)
            threshold = _threshold(request, folder, model, None)
        else:
            data = _litert(model, request.precision, folder)
            threshold = _threshold(request, folder, model, data)
            card = request.card | {"familiarity_threshold": threshold}
            path.write_bytes(_with_metadata(data, json.dumps(card, ensure_ascii=False)))
        (folder / "threshold.json").write_text(json.dumps(threshold))
    except OrchardError as error:
        return child.leave_error(folder, error)
    return 0


def _threshold(request: _Request, folder: Path, model: keras.Model, litert: bytes | None) -> float:
    """Return the threshold of familiarity of the exported model, matched on images; without images the run's own."""
    if not (folder / "images.npy").is_file() or not (folder / "familiarity.npz").is_file():
        return request.familiarity_threshold
    import tensorflow as tf

    images = np.load(folder / "images.npy")

    def by_keras() -> NDArray[np.float32]:
        run = tf.function(lambda image: model(image, training=False)[FAMILIARITY])
        return np.concatenate([run(image[np.newaxis]).numpy() for image in images])

    def by_litert(data: bytes) -> NDArray[np.float32]:
        run = tf.lite.Interpreter(model_content=data, num_threads=1).get_signature_runner()
        return np.concatenate([run(image=image[np.newaxis])[FAMILIARITY] for image in images])

    before = np.load(folder / "before.npy") if (folder / "before.npy").is_file() else by_keras()
    return matching(request.familiarity_threshold, before, by_keras() if litert is None else by_litert(litert))


def _folded(request: _Request, folder: Path) -> keras.Model:
    """Return a model of standard layers alone: it loads where Orchard is not installed."""
    import keras

    # What a keras.json in the user's home says may be otherwise.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
    backbone, weights = request.located()
    network, weights = keras_model(backbone, weights)
    _check_digest(request, weights)
    size = backbone.input_size
    # LiteRT has no kernel for the resize that smooths.
    smooth = request.format is Format.KERAS
    litert = request.format is Format.LITERT
    image = keras.Input((None, None, 3), batch_size=1 if litert else None, name=INPUT, dtype="uint8")
    numbers = keras.layers.Rescaling(1.0, name="float32")(image)
    shares = VIEW_SHARES[request.test_views]
    if len(shares) == 1:
        seen = keras.layers.Resizing(size, size, interpolation="bilinear", antialias=smooth, name="resize")(numbers)
    else:
        seen = _views(numbers, shares, size)
    with np.load(folder / "head.npz") as arrays:
        matrix, bias = arrays["weights"], arrays["bias"]
    dense = keras.layers.Dense(len(bias), activation="softmax", name=OUTPUT)
    features = network(seen)
    if request.square_root:
        features = features / keras.ops.sqrt(keras.ops.maximum(keras.ops.abs(features), SMALLEST))
    if len(shares) > 1:
        of_views = keras.ops.reshape(features, (len(shares), -1, features.shape[-1]))
        features = keras.ops.mean(of_views, axis=0)
    outputs = {OUTPUT: dense(features)}
    path = folder / "familiarity.npz"
    if path.is_file():
        outputs[FAMILIARITY] = _familiarity(features, Familiarity.from_bytes(path.read_bytes()))
    if (folder / "kinds.npy").is_file():
        shares = np.load(folder / "kinds.npy")
        summed = keras.layers.Dense(shares.shape[1], use_bias=False, name=KIND_PROBABILITIES)
        outputs[KIND_PROBABILITIES] = summed(outputs[OUTPUT])
        summed.set_weights([shares])
    layers = [(dense, matrix, bias)]
    for file in sorted(folder.glob(f"*{_COLUMN}")):
        name = probabilities_of(file.name.removesuffix(_COLUMN))
        with np.load(file) as arrays:
            matrix, bias = arrays["weights"], arrays["bias"]
        layer = keras.layers.Dense(len(bias), activation="softmax", name=name)
        outputs[name] = layer(features)
        layers.append((layer, matrix, bias))
    model = keras.Model(image, outputs, name=request.backbone)
    for layer, matrix, bias in layers:
        layer.set_weights([matrix, bias])
    return model


def _views(numbers: Any, shares: Sequence[float], size: int) -> Any:
    """Return the views of images (n, height, width, 3), as many times n, of the network's size, share by share.

    A picture is not brought to `Artifact.decoded_size` first, as no standard layer does so to large ones alone.
    """
    from keras import ops

    def side(pixels: Any) -> Side:
        """Return the side that is as long as `pixels` (length,): Keras tells no length that is not known beforehand."""
        counted = ops.cumsum(ops.cast(ops.ones_like(pixels), "int32"))
        return Side(ops.reshape(counted - 1, (1, -1)), ops.max(counted))

    sides = side(numbers[0, :, 0, 0]), side(numbers[0, 0, :, 0])
    planes = ops.transpose(numbers, (0, 3, 2, 1))
    seen = [view(ops, planes, sides, share, size) for share in shares]
    return ops.transpose(ops.concatenate(seen, axis=0), (0, 3, 2, 1))


def _familiarity(features: Any, familiarity: Familiarity) -> Any:
    """Compute `Familiarity` from `features` with standard layers and operations."""
    from keras import layers, ops

    def linear(inputs: Any, matrix: NDArray[np.float32], name: str) -> Any:
        layer = layers.Dense(matrix.shape[1], use_bias=False, name=name)
        outputs = layer(inputs)
        layer.set_weights([matrix])
        return outputs

    def squares(values: Any) -> Any:
        return ops.sum(ops.square(values), axis=1)

    scaled = layers.Normalization(mean=familiarity.origin, variance=familiarity.inverse_scale**-2.0, name="scaled")(
        features
    )
    inside = linear(scaled, familiarity.discriminants, "discriminants")
    nearest = ops.max(linear(inside, familiarity.classes.T, "classes"), axis=1)
    among = squares(inside)
    whole = squares(scaled) * familiarity.isotropic - squares(linear(scaled, familiarity.spread, "spread"))
    lengths = ops.sqrt(ops.sqrt(among) * ops.sqrt(ops.maximum(whole, among)))
    return ops.clip(nearest / ops.maximum(lengths, 1e-12), 0.0, 1.0)


def _litert(model: keras.Model, precision: StoredPrecision, folder: Path) -> bytes:
    import keras
    import tensorflow as tf

    def serve(image: Any) -> dict[str, Any]:
        found: dict[str, Any] = model(image, training=False)
        return found

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, [tf.TensorSpec((1, None, None, 3), tf.uint8, name=INPUT)])
    archive.write_out(str(folder / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    float32 = _float32_nodes(converter.convert()) if precision is StoredPrecision.INT8 else []
    if precision is not StoredPrecision.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision is StoredPrecision.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if precision is not StoredPrecision.INT8:
        data: bytes = converter.convert()
        return data
    images = np.load(folder / "images.npy")

    def calibration() -> Iterator[list[NDArray[np.uint8]]]:
        for image in images:
            yield [image[np.newaxis]]

    converter.representative_dataset = calibration
    # A softmax in int8 has steps of 1/256, and the linear layer before it decides; see `FLOAT32_CONVOLUTIONS`.
    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_ops=["RESIZE_BILINEAR", "FULLY_CONNECTED", "SOFTMAX"], denylisted_nodes=float32
    )
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=calibration, debug_options=options
    )
    quantized: bytes = debugger.get_nondebug_quantized_model()
    return quantized


def _float32_nodes(data: bytes) -> list[str]:
    """Return the names of the tensors that a .tflite file writes in its first convolutions and after its features."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    convolutions = (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D)
    graph, codes = model.subgraphs[0], model.operatorCodes
    found = [i for i, node in enumerate(graph.operators) if codes[node.opcodeIndex].builtinCode in convolutions]
    nodes = list(graph.operators[: found[FLOAT32_CONVOLUTIONS - 1] + 1])
    dense = [node for node in graph.operators if codes[node.opcodeIndex].builtinCode == schema.BuiltinOperator.SOFTMAX]
    makers = {output: node for node in graph.operators for output in node.outputs}
    features = makers[dense[-1].inputs[0]].inputs[0]
    while len(graph.tensors[makers[features].inputs[0]].shape) < 4:  # the mean of views is one of numbers already
        features = makers[features].inputs[0]
    reached = {features}
    for node in graph.operators:  # in an order in which they can run
        if reached.intersection(node.inputs):
            reached.update(node.outputs)
            nodes.append(node)
    return [graph.tensors[node.outputs[0]].name.decode() for node in nodes]


def _with_metadata(data: bytes, card: str) -> bytes:
    """Return the .tflite file with the card as its metadata "model.json"."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(data))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(card.encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = b"model.json", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
