"""One OpenVINO graph from pixels to probabilities and familiarity: resizing or views, backbone, linear layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchard.errors import UsageError
from orchard.exports.formats import CLASS_MAP, FAMILIARITY, INPUT, KIND_PROBABILITIES, OUTPUT, WHOLE, probabilities_of
from orchard.exports.views import Operations, Side, view
from orchard.features.artifact import VIEW_SHARES, Artifact, EngineName
from orchard.features.engines import SMALLEST, averaged, import_openvino, openvino_core
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.model import Model


def folded_graph(model: Model, *, where: bool = False) -> Any:
    """Return `model` as an openvino.Model from `INPUT` to `OUTPUT` and `FAMILIARITY`, float32 but for the input.

    The input, uint8 (n, height, width, 3), may have any n, height and width. It is resized to the network's size by
    Pillow's bilinear filter, which smooths when it shrinks, as `orchard.images.decoding.decode` does, and is plain
    bilinear when it enlarges, as `orchard.features.resizing.Resizer` is; or cut into the views whose features are
    averaged, see `_views`.

    Args:
        model: the model.
        where: whether to add `CLASS_MAP`, which shows where the network looks, and, if there are several views, the
            outputs `WHOLE` of label, kind and familiarity.

    Raises:
        UsageError: the model is one of TensorFlow's.
    """
    check_engine(model)
    openvino = import_openvino()
    from openvino import opset13 as opset

    artifact = model.artifact
    size, shares = artifact.input_size, VIEW_SHARES[artifact.test_views]
    graph = openvino_core().read_model(artifact.topology, artifact.parameters)
    graph.reshape([-1, size, size, 3])
    pixels = opset.parameter(openvino.PartialShape([-1, -1, -1, 3]), openvino.Type.u8, name=INPUT)
    # In float32, so that nothing is rounded between; channels last, which takes OpenVINO half as long for 3 megapixels.
    numbers = opset.convert(pixels, "f32")
    seen = _resized(opset, numbers, [size, size]) if len(shares) == 1 else _views(opset, numbers, artifact)
    graph.get_parameters()[0].output(0).replace(seen.output(0))
    matrix, bias = head(model)
    features = graph.get_results()[0].input_value(0)
    if artifact.square_root:
        features = opset.divide(features, _lengths(opset, features)).output(0)
    if len(shares) > 1:
        of_views = opset.reshape(features, np.array([len(shares), -1, artifact.n_features]), False)
        features = opset.reduce_mean(of_views, [0], False).output(0)
    weights = opset.constant(matrix)
    scores = opset.add(opset.matmul(features, weights, False, False), bias, name="scores")
    outputs = _answers(opset, model, features, scores)
    for column in model.columns:
        of_value, shift = head(column)
        of_column = opset.add(opset.matmul(features, of_value, False, False), shift)
        outputs[probabilities_of(column.name)] = opset.softmax(of_column, 1, name=probabilities_of(column.name))
    if where:
        cells = _cells_of_whole(opset, graph, artifact)
        outputs[CLASS_MAP] = _class_map(opset, scores, cells, (weights, bias), square_root=artifact.square_root)
        if len(shares) > 1:
            whole = opset.gather(of_views, np.array(0), np.array(0)).output(0)
            of_whole = opset.add(opset.matmul(whole, weights, False, False), bias)
            outputs |= _answers(opset, model, whole, of_whole, WHOLE)
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


def _lengths(opset: Any, features: Any) -> Any:
    """Return what `orchard.features.engines.square_root` divides features by."""
    return opset.sqrt(opset.maximum(opset.abs(features), np.array(SMALLEST, np.float32)))


def _answers(opset: Any, model: Model, features: Any, scores: Any, prefix: str = "") -> dict[str, Any]:
    """Return the outputs for label, kind and familiarity by name."""
    probabilities = opset.softmax(scores, 1, name=prefix + OUTPUT)
    outputs = {prefix + OUTPUT: probabilities}
    if model.familiarity is not None:
        outputs[prefix + FAMILIARITY] = _familiarity(opset, features, model.familiarity, prefix + FAMILIARITY)
    if model.kinds is not None:
        outputs[prefix + KIND_PROBABILITIES] = opset.matmul(probabilities, model.kinds.shares, False, False)
    return outputs


def _cells_of_whole(opset: Any, graph: Any, artifact: Artifact) -> Any:
    """Return the last grid of whole pictures, (n, n_features, height, width)."""
    cells, channels = averaged(graph)
    if channels == 3:
        cells = opset.transpose(cells, np.array([0, 3, 1, 2])).output(0)
    _, *shape = (side.get_length() for side in list(cells.get_partial_shape())[1:])
    by_view = opset.reshape(
        cells, np.array([len(VIEW_SHARES[artifact.test_views]), -1, artifact.n_features, *shape]), False
    )
    return opset.gather(by_view, np.array(0), np.array(0))


def _class_map(
    opset: Any, scores: Any, cells: Any, linear: tuple[Any, NDArray[np.float32]], *, square_root: bool
) -> Any:
    """Return the node of `CLASS_MAP`.

    Args:
        opset: OpenVINO's operations.
        scores: (n, n_classes).
        cells: (n, n_features, height, width).
        linear: weights (n_features, n_classes), a constant, and bias (1, n_classes).
        square_root: whether the scores are of the roots of features.
    """
    weights, bias = linear
    on_average = weights.get_data().mean(axis=1)[np.newaxis]
    n_features, height, width = (side.get_length() for side in list(cells.output(0).get_partial_shape())[1:])
    likeliest = opset.convert(opset.equal(scores, opset.reduce_max(scores, [1], True)), "f32")
    row = opset.subtract(opset.matmul(likeliest, weights, False, True), on_average)
    offset = opset.subtract(
        opset.matmul(likeliest, np.ascontiguousarray(bias.T), False, False), bias.mean(keepdims=True)
    )
    flat = opset.reshape(cells, np.array([-1, n_features, height * width]), False)
    if square_root:
        row = opset.divide(row, _lengths(opset, opset.reduce_mean(flat, [2], False)))
    said = opset.matmul(opset.reshape(row, np.array([-1, 1, n_features]), False), flat, False, False)
    said = opset.add(said, opset.reshape(offset, np.array([-1, 1, 1]), False))
    return opset.reshape(said, np.array([-1, height, width]), False)


def _familiarity(opset: Any, features: Any, familiarity: Familiarity, name: str) -> Any:
    """Return the node, with that name, that computes `Familiarity` from `features`."""

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
    return opset.clamp(score, 0.0, 1.0, name=name)


def output_shapes(model: Model, *, where: bool = False) -> dict[str, list[str | int]]:
    """Return the shape of each output of the graph, ``n`` for the images; with `CLASS_MAP` if that is wanted."""
    shapes: dict[str, list[str | int]] = {OUTPUT: ["n", len(model.labels)]}
    if model.familiarity is not None:
        shapes[FAMILIARITY] = ["n"]
    if model.kinds is not None:
        shapes[KIND_PROBABILITIES] = ["n", len(model.kinds.names)]
    several = model.artifact.test_views > 1
    of_whole = {WHOLE + name: shape for name, shape in shapes.items()} if several else {}
    shapes |= {probabilities_of(column.name): ["n", len(column.values)] for column in model.columns}
    return {**shapes, CLASS_MAP: ["n", "rows", "columns"], **of_whole} if where else shapes


def head(of: Model | Column) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights (n_features, n_classes) and bias (1, n_classes) of scores whose softmax is calibrated."""
    linear = of.linear if isinstance(of, Column) else of
    temperature = np.float32(of.calibration.temperature)
    return np.ascontiguousarray((linear.weights / temperature).T), (linear.bias / temperature)[np.newaxis]


def constant(node: Any, index: int) -> NDArray[Any]:
    """Return the values of the constant that is the input `index` of `node`."""
    values: NDArray[Any] = node.input_value(index).get_node().get_data()
    return values
