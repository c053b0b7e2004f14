"""One OpenVINO graph from pixels to probabilities and familiarity: resize, network, linear layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchard.errors import UsageError
from orchard.exports.formats import FAMILIARITY, INPUT, KIND_PROBABILITIES, OUTPUT, probabilities_of
from orchard.features.artifact import EngineName
from orchard.features.engines import import_openvino
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.model import Model


def folded_graph(model: Model) -> Any:
    """Return `model` as an openvino.Model from `INPUT` to `OUTPUT` and `FAMILIARITY`, float32 but for the input.

    The input, uint8 (n, height, width, 3), may have any n, height and width: it is resized to the network's size by
    Pillow's bilinear filter, which smooths when it shrinks, as `orchard.images.decoding.decode` does, and is plain
    bilinear when it enlarges, as `orchard.features.resizing.Resizer` is.

    Raises:
        UsageError: the model is one of TensorFlow's, or averages views.
    """
    check_views(model)
    check_engine(model)
    openvino = import_openvino()
    from openvino import opset13 as opset

    size = model.artifact.input_size
    graph = openvino.Core().read_model(model.artifact.topology, model.artifact.parameters)
    graph.reshape([-1, size, size, 3])
    pixels = opset.parameter(openvino.PartialShape([-1, -1, -1, 3]), openvino.Type.u8, name=INPUT)
    # In float32, so that nothing is rounded between; channels last, which takes OpenVINO half as long for 3 megapixels.
    resized = opset.interpolate(
        opset.convert(pixels, "f32"), [size, size], "bilinear_pillow", "sizes", axes=[1, 2], name="resize"
    )
    graph.get_parameters()[0].output(0).replace(resized.output(0))
    weights, bias = head(model)
    features = graph.get_results()[0].input_value(0)
    scores = opset.add(opset.matmul(features, weights, False, False), bias, name="scores")
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
            f"The network in this output is one for --engine {model.artifact.engine}: take --format keras or litert, "
            "or run orchard run again with --engine openvino."
        )


def check_views(model: Model) -> None:
    """Raise UsageError for a model whose features are the mean of several views: no file has more than one."""
    if model.artifact.test_views != 1:
        raise UsageError(
            f"The model was made with --test-views {model.artifact.test_views}, which no exported file can do: answer "
            "with orchard predict or orchard serve, or run again with --test-views 1 into another output."
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
