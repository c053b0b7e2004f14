"""One OpenVINO graph from pixels to probabilities and familiarity: resizing or views, backbone, linear layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchard.errors import UsageError
from orchard.exports.formats import FAMILIARITY, INPUT, KIND_PROBABILITIES, OUTPUT, probabilities_of
from orchard.exports.views import Operations, Side, view
from orchard.features.artifact import VIEW_SHARES, Artifact, EngineName
from orchard.features.engines import SMALLEST, import_openvino
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.model import Model


def folded_graph(model: Model) -> Any:
    """Return `model` as an openvino.Model from `INPUT` to `OUTPUT` and `FAMILIARITY`, float32 but for the input.

    The input, uint8 (n, height, width, 3), may have any n, height and width. It is resized to the network's size by
    Pillow's bilinear filter, which smooths when it shrinks, as `orchard.images.decoding.decode` does, and is plain
    bilinear when it enlarges, as `orchard.features.resizing.Resizer` is; or cut into the views whose features are
    averaged, see `_views`.

    Raises:
        UsageError: the model is one of TensorFlow's.
    """
    check_engine(model)
    openvino = import_openvino()
    from openvino import opset13 as opset

    artifact = model.artifact
    size, shares = artifact.input_size, VIEW_SHARES[artifact.test_views]
    graph = openvino.Core().read_model(artifact.topology, artifact.parameters)
    graph.reshape([-1, size, size, 3])
    pixels = opset.parameter(openvino.PartialShape([-1, -1, -1, 3]), openvino.Type.u8, name=INPUT)
    # In float32, so that nothing is rounded between; channels last, which takes OpenVINO half as long for 3 megapixels.
    numbers = opset.convert(pixels, "f32")
    seen = _resized(opset, numbers, [size, size]) if len(shares) == 1 else _views(opset, numbers, artifact)
    graph.get_parameters()[0].output(0).replace(seen.output(0))
    matrix, bias = head(model)
    features = graph.get_results()[0].input_value(0)
    if artifact.square_root:
        least = np.array(SMALLEST, np.float32)
        features = opset.divide(features, opset.sqrt(opset.maximum(opset.abs(features), least))).output(0)
    if len(shares) > 1:
        of_views = opset.reshape(features, np.array([len(shares), -1, artifact.n_features]), False)
        features = opset.reduce_mean(of_views, [0], False).output(0)
    scores = opset.add(opset.matmul(features, matrix, False, False), bias, name="scores")
    probabilities = opset.softmax(scores, 1, name=OUTPUT)
    outputs = {OUTPUT: probabilities}
    if model.familiarity is not None:
        outputs[FAMILIARITY] = _familiarity(opset, features, model.familiarity)
    if model.kinds is not None:
        outputs[KIND_PROBABILITIES] = opset.matmul(probabilities, model.kinds.shares, False, False)
    for column in model.columns:
        weights, bias = head(column)
        of_column = opset.add(opset.matmul(features, weights, False, False), bias)
        outputs[probabilities_of(column.name)] = opset.softmax(of_column, 1, name=probabilities_of(column.name))
    results = [opset.result(node, name=f"{name}/result") for name, node in outputs.items()]
    folded = openvino.Model(results, [pixels], model.artifact.backbone)
    folded.inputs[0].tensor.set_names({INPUT})
    for output, name in zip(folded.outputs, outputs, strict=True):
        output.tensor.set_names({name})
    return folded


def check_engine(model: Model) -> None:
    """Raise UsageError, with what to take instead, unless the model's network is one of OpenVINO's."""
    if model.artifact.engine is not EngineName.OPENVINO:
        raise UsageError(
            f"The backbone in this output is for --engine {model.artifact.engine}: take --format keras or litert, "
            "or run orchard run again with --engine openvino."
        )


def _resized(opset: Any, numbers: Any, sizes: Any) -> Any:
    """Return images (n, height, width, 3) in another height and width, by Pillow's bilinear filter."""
    return opset.interpolate(numbers, sizes, "bilinear_pillow", "sizes", axes=[1, 2], name="resize")


def _views(opset: Any, numbers: Any, artifact: Artifact) -> Any:
    """Return the views of images (n, height, width, 3), as many times n, of the network's size, share by share.

    A picture with a side of more than `Artifact.decoded_size` is brought to a square of it first, as it is decoded.
    """
    size, square = artifact.input_size, np.full(2, artifact.decoded_size, np.int64)
    sides = opset.gather(opset.shape_of(numbers), np.array([1, 2]), np.array(0))
    is_larger = opset.greater(opset.reduce_max(sides, [0], True), square[:1])
    sides = opset.select(is_larger, square, sides)
    planes = opset.transpose(_resized(opset, numbers, sides), np.array([0, 3, 2, 1]))
    # Rounded, as what is decoded is.
    planes = opset.floor(opset.add(planes, np.array(0.5, np.float32)))

    def side(axis: int) -> Side:
        length = opset.convert(opset.gather(sides, np.array(axis), np.array(0)), "i32")
        pixels = opset.range(np.int32(0), length, np.int32(1), "i32")
        return Side(opset.reshape(pixels, np.array([1, -1]), False), length)

    operations, both = _operations(opset), (side(0), side(1))
    seen = [view(operations, planes, both, share, size) for share in VIEW_SHARES[artifact.test_views]]
    return opset.transpose(opset.concat(seen, 0), np.array([0, 3, 2, 1]))


def _operations(opset: Any) -> Operations:
    """Return OpenVINO's operations under the names that views are computed with."""
    swapped, kinds = {(2, 3): np.array([0, 1, 3, 2])}, {"float32": "f32"}
    return SimpleNamespace(
        cast=lambda values, kind: opset.convert(values, kinds[kind]),
        floor=opset.floor,
        floor_divide=opset.divide,
        matmul=lambda one, other: opset.matmul(one, other, False, False),
        maximum=opset.maximum,
        minimum=opset.minimum,
        reshape=lambda values, shape: opset.reshape(values, np.array(shape), False),
        sum=lambda values, axis, keepdims: opset.reduce_sum(values, [axis], keepdims),
        swapaxes=lambda values, *axes: opset.transpose(values, swapped[axes]),
        take=lambda values, places, axis: opset.gather(values, places, np.array(axis)),
    )


def _familiarity(opset: Any, features: Any, familiarity: Familiarity) -> Any:
    """Return the node of what `Familiarity` computes of `features`."""

    def squares(node: Any) -> Any:
        return opset.reduce_sum(opset.multiply(node, node), [1], False)

    scaled = opset.multiply(
        opset.subtract(features, familiarity.origin[np.newaxis]), familiarity.inverse_scale[np.newaxis]
    )
    inside = opset.matmul(scaled, familiarity.discriminants, False, False)
    classes = np.ascontiguousarray(familiarity.classes.T)
    nearest = opset.reduce_max(opset.matmul(inside, classes, False, False), [1], False)
    among = squares(inside)
    spread = squares(opset.matmul(scaled, familiarity.spread, False, False))
    whole = opset.subtract(opset.multiply(squares(scaled), np.array([familiarity.isotropic], np.float32)), spread)
    lengths = opset.sqrt(opset.multiply(opset.sqrt(among), opset.sqrt(opset.maximum(whole, among))))
    score = opset.divide(nearest, opset.maximum(lengths, np.array([1e-12], np.float32)))
    return opset.clamp(score, 0.0, 1.0, name=FAMILIARITY)


def output_shapes(model: Model) -> dict[str, list[str | int]]:
    """Return the shape of each output of the graph, ``n`` for the images."""
    shapes: dict[str, list[str | int]] = {OUTPUT: ["n", len(model.labels)]}
    if model.familiarity is not None:
        shapes[FAMILIARITY] = ["n"]
    if model.kinds is not None:
        shapes[KIND_PROBABILITIES] = ["n", len(model.kinds.names)]
    return shapes | {probabilities_of(column.name): ["n", len(column.values)] for column in model.columns}


def head(of: Model | Column) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights (n_features, n_classes) and bias (1, n_classes) of scores whose softmax is calibrated."""
    linear = of.linear if isinstance(of, Column) else of
    temperature = np.float32(of.calibration.temperature)
    return np.ascontiguousarray((linear.weights / temperature).T), (linear.bias / temperature)[np.newaxis]


def constant(node: Any, index: int) -> NDArray[Any]:
    """Return the values of the constant that is the input `index` of `node`."""
    values: NDArray[Any] = node.input_value(index).get_node().get_data()
    return values
