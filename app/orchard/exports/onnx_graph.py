"""Converts OpenVINO's graph to ONNX, one operation at a time, for browsers, iOS and servers.

OpenVINO's common passes have simplified the graph before (batch normalisation folded, channels first). So few kinds of
operations are left, and ONNX Runtime has little to do when it loads the file.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchard.errors import OrchardError, UsageError
from orchard.exports.formats import INPUT, StoredPrecision
from orchard.exports.graph import constant, folded_graph, output_shapes
from orchard.features.artifact import Precision
from orchard.inference.model import Model
from orchard.version import VERSION

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

OPSET = 18  # the first whose Resize smooths
IR_VERSION = 10  # what ONNX Runtime 1.18 and later read, in the browser too
# Smaller constants (biases, bounds) stay float32 in a file of float16: they weigh nothing.
_LEAST_HALVED = 1024


def to_onnx(
    model: Model,
    precision: StoredPrecision = StoredPrecision.FLOAT32,
    metadata: Mapping[str, str] | None = None,
    *,
    where: bool = False,
) -> bytes:
    """Return `model` as an ONNX file from uint8 (n, height, width, 3) pixels to probabilities (n, n_classes).

    float16 halves the file: weights are stored in it, and cast to float32 when the file is loaded. ``metadata`` is
    added to labels, threshold and digest. ``where`` is as in `folded_graph`. The translation needs neither TensorFlow
    nor ONNX Runtime, and takes 0.3 s for EfficientNetLite0.

    Raises:
        UsageError: `onnx` is not installed; the model is one of TensorFlow's; int8, and the network is not.
        OrchardError: the network contains an operation that cannot be translated.
    """
    if precision is StoredPrecision.INT8 and model.artifact.precision is not Precision.INT8:
        raise UsageError("int8 needs images to calibrate with: orchard export OUT --format onnx --precision int8.")
    onnx = import_onnx()
    translation = _Translation(folded_graph(model, where=where), half=precision is StoredPrecision.FLOAT16)
    graph = onnx.helper.make_graph(
        translation.nodes,
        model.artifact.backbone,
        [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["n", "height", "width", 3])],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in output_shapes(model, where=where).items()
        ],
        translation.initializers,
    )
    proto = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="orchard",
        producer_version=VERSION,
    )
    properties = {
        "labels": json.dumps(model.labels, ensure_ascii=False),
        "threshold": str(model.calibration.threshold),
        "familiarity_threshold": str(model.calibration.familiarity),
        "digest": model.digest,
        **(metadata or {}),
    }
    onnx.helper.set_model_props(proto, properties)
    onnx.checker.check_model(proto)
    data: bytes = proto.SerializeToString()
    return data


def import_onnx() -> Any:
    """Return the package `onnx`; raises UsageError with the way to install it."""
    try:
        import onnx
    except ImportError as error:
        raise UsageError("The package onnx is not installed: pip install onnx.") from error
    return onnx


class _Translation:
    """The nodes and constants of an OpenVINO graph in ONNX, in an order in which they can run."""

    def __init__(self, graph: Any, *, half: bool) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._half = half
        self._counts: Counter[str] = Counter()
        self._names: dict[str, str] = {}  # of OpenVINO's node -> of the tensor in ONNX
        self._padding: dict[str, list[int]] = {}  # of the node of a Pad that its convolutions do themselves
        nodes = graph.get_ordered_ops()
        dequantizing = {maker.get_name() for node in nodes for maker in _dequantizing(node)}
        for node in nodes:
            if node.get_name() in dequantizing:  # the convolution writes them
                continue
            kind = node.get_type_name()
            if kind == "Parameter":
                self._names[node.get_name()] = INPUT
            elif kind == "Result":
                self._name_output(node)
            elif kind != "Constant" and node.get_name() not in self._names:
                self._names[node.get_name()] = self._translate(node, kind)

    def _name_output(self, result: Any) -> None:
        """Give what a result takes the name of the output, also where other nodes take it: before and after."""
        node = result.input_value(0).get_node().get_name()
        former, output = self._names[node], result.get_friendly_name().removesuffix("/result")
        for made in self.nodes:
            for names in (made.input, made.output):
                names[:] = [output if name == former else name for name in names]
        self._names[node] = output

    def _translate(self, node: Any, kind: str) -> str:
        if kind in _SIMPLE:
            return self.add(_SIMPLE[kind], self.inputs(node))
        translate = _TRANSLATIONS.get(kind)
        if translate is None:
            raise OrchardError(
                f"The backbone holds the operation {kind} ({node.get_friendly_name()}), which Orchard cannot write to "
                "ONNX: take --format openvino, or another backbone."
            )
        return translate(self, node)

    def add(self, operation: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node of one output and return the output's name."""
        from onnx import helper

        name = self._name(operation)
        self.nodes.append(helper.make_node(operation, inputs, [name], name=name, **attributes))
        return name

    def input(self, node: Any, index: int) -> str:
        """Return the name of an input, which is written if it is a constant."""
        source = node.input_value(index).get_node()
        if source.get_type_name() != "Constant":
            return self._names[source.get_name()]
        if source.get_name() not in self._names:
            self._names[source.get_name()] = self.constant(source.get_data())
        return self._names[source.get_name()]

    def inputs(self, node: Any) -> list[str]:
        """Return the names of all inputs."""
        return [self.input(node, index) for index in range(node.get_input_size())]

    def dequantized(self, values: NDArray[np.integer], scale: NDArray[np.float32]) -> str:
        """Write ``values * scale`` as whole numbers, with a scale (n,) for each along the first axis of n."""
        return self.add("DequantizeLinear", [self.constant(values), self.constant(scale, exact=True)], axis=0)

    def constant(self, values: NDArray[Any], *, exact: bool = False) -> str:
        """Write a constant and return its name; weights in half precision if the file is to be so, and not `exact`."""
        from onnx import TensorProto, numpy_helper

        name = self._name("constant")
        halved = self._half and not exact and values.dtype == np.float32 and values.size >= _LEAST_HALVED
        if halved and np.abs(values).max() > np.finfo(np.float16).max:
            raise OrchardError("The weights are too large for float16: take --precision float32.")
        values = np.asarray(values.astype(np.float16) if halved else values, order="C")  # a number stays one
        self.initializers.append(numpy_helper.from_array(values, name))
        return self.add("Cast", [name], to=TensorProto.FLOAT) if halved else name

    def alias(self, node: Any, name: str) -> None:
        """Use the tensor `name` for `node`, which is then not translated itself."""
        self._names[node.get_name()] = name

    def leave_padding(self, node: Any, padding: list[int]) -> None:
        """Remember `padding` (top, left, bottom, right) for the convolutions that take `node`."""
        self._padding[node.get_name()] = padding

    def padding(self, node: Any) -> list[int]:
        """Return the padding of the convolution `node`: its own and that of a Pad node before it."""
        before = self._padding.get(node.input_value(0).get_node().get_name(), [0, 0, 0, 0])
        return [a + b for a, b in zip(_pads(node), before, strict=True)]

    def _name(self, kind: str) -> str:
        self._counts[kind] += 1
        return f"{kind}_{self._counts[kind]}"


def _pads(node: Any) -> list[int]:
    attributes = node.get_attributes()
    return [*attributes["pads_begin"], *attributes["pads_end"]]


def _convolution(to: _Translation, node: Any) -> str:
    scale, attributes = _kernel_scale(node), node.get_attributes()
    kernel = constant(node, 1) if scale is None else constant(_dequantizing(node)[-1], 0)
    groups = 1
    if node.get_type_name() == "GroupConvolution":  # (groups, out, in, height, width)
        groups = kernel.shape[0]
        kernel = kernel.reshape(-1, *kernel.shape[2:])
    inputs = [to.input(node, 0), to.constant(kernel) if scale is None else to.dequantized(kernel, scale)]
    takers = list(node.output(0).get_target_inputs())
    addition = takers[0].get_node() if len(takers) == 1 else None
    bias = None if addition is None else _bias(addition, 1 - takers[0].get_index(), len(kernel))
    if bias is not None:
        entry = _quantization(node.input_value(0).get_node())
        if scale is None or entry is None:
            inputs.append(to.constant(bias))
        else:  # as the sum of products has it
            step = (entry[0] * scale).astype(np.float32)
            inputs.append(to.dequantized(np.rint(bias / step).astype(np.int32), step))
    name = to.add(
        "Conv",
        inputs,
        kernel_shape=kernel.shape[2:],
        strides=list(attributes["strides"]),
        dilations=list(attributes["dilations"]),
        pads=to.padding(node),
        group=groups,
    )
    if bias is not None:
        to.alias(addition, name)
    return name


def _dequantizing(node: Any) -> list[Any]:
    """Return the Multiply and the Convert that make floats of a convolution's int8 kernel; none if it is of floats."""
    if node.get_type_name() not in ("Convolution", "GroupConvolution"):
        return []
    multiply = node.input_value(1).get_node()
    if multiply.get_type_name() != "Multiply" or multiply.input_value(0).get_node().get_type_name() != "Convert":
        return []
    return [multiply, multiply.input_value(0).get_node()]


def _kernel_scale(node: Any) -> NDArray[np.float32] | None:
    """Return the scale of each output channel of an int8 kernel; None for a kernel of floats."""
    makers = _dequantizing(node)
    if not makers:
        return None
    scale: NDArray[np.float32] = constant(makers[0], 1).reshape(-1)
    return scale


def _quantization(node: Any) -> tuple[np.float32, np.uint8] | None:
    """Return scale and zero point of a FakeQuantize node; None for any other node.

    Raises:
        OrchardError: it is one that ONNX has not.
    """
    if node.get_type_name() == "Pad":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high, *out = (constant(node, index) for index in (1, 2, 3, 4))
    if low.size > 1 or node.get_attributes()["levels"] != 256 or [low, high] != out:
        raise OrchardError("The backbone quantises in a way that Orchard cannot write to ONNX: take --format openvino.")
    step = np.float32((high - low).item() / 255)
    return step, np.uint8(np.rint(-low.item() / step))


def _fake_quantize(to: _Translation, node: Any) -> str:
    found = _quantization(node)
    assert found is not None
    step, zero = (to.constant(np.asarray(value)) for value in found)
    return to.add("DequantizeLinear", [to.add("QuantizeLinear", [to.input(node, 0), step, zero]), step, zero])


def _bias(addition: Any, index: int, channels: int) -> NDArray[np.float32] | None:
    """Return the constant (channels,) that the node adds to a convolution, if that is what it does."""
    if addition.get_type_name() != "Add" or addition.input_value(index).get_node().get_type_name() != "Constant":
        return None
    values: NDArray[np.float32] = constant(addition, index)
    if values.ndim not in (3, 4) or values.shape[-3:] != (channels, 1, 1) or values.size != channels:
        return None
    return values.reshape(-1)


def _pad(to: _Translation, node: Any) -> str:
    begin, end = constant(node, 1).tolist(), constant(node, 2).tolist()
    value = float(constant(node, 3)) if node.get_input_size() > 3 else 0.0
    mode = node.get_attributes().get("pad_mode", "constant")
    if mode != "constant":
        raise OrchardError(f"The backbone pads by {mode}, which Orchard cannot write to ONNX: take --format openvino.")
    convolutions = all(
        taker.get_node().get_type_name() in ("Convolution", "GroupConvolution") and taker.get_index() == 0
        for taker in node.output(0).get_target_inputs()
    )
    if convolutions and value == 0 and len(begin) == 4 and not any(begin[:2] + end[:2]) and min(begin + end) >= 0:
        to.leave_padding(node, begin[2:] + end[2:])
        return to.input(node, 0)
    pads, fill = to.constant(np.array(begin + end, np.int64)), to.constant(np.asarray(value, np.float32))
    return to.add("Pad", [to.input(node, 0), pads, fill])


def _pool(to: _Translation, node: Any) -> str:
    attributes = node.get_attributes()
    settings = {
        "kernel_shape": list(attributes["kernel"]),
        "strides": list(attributes["strides"]),
        "pads": _pads(node),
        "ceil_mode": int(attributes["rounding_type"] != "floor"),
    }
    if node.get_type_name() == "MaxPool":
        return to.add("MaxPool", [to.input(node, 0)], **settings, dilations=list(attributes["dilations"]))
    included = int(not attributes["exclude-pad"])
    return to.add("AveragePool", [to.input(node, 0)], **settings, count_include_pad=included)


def _clamp(to: _Translation, node: Any) -> str:
    attributes = node.get_attributes()
    bounds = [to.constant(np.asarray(attributes[bound], np.float32)) for bound in ("min", "max")]
    return to.add("Clip", [to.input(node, 0), *bounds])


def _reduce_mean(to: _Translation, node: Any) -> str:
    return _reduce(to, node, "ReduceMean")


def _reduce(to: _Translation, node: Any, operation: str) -> str:
    axes = to.constant(constant(node, 1).astype(np.int64).reshape(-1))
    return to.add(operation, [to.input(node, 0), axes], keepdims=int(node.get_attributes()["keep_dims"]))


def _reduce_sum(to: _Translation, node: Any) -> str:
    return _reduce(to, node, "ReduceSum")


def _reduce_max(to: _Translation, node: Any) -> str:
    return _reduce(to, node, "ReduceMax")


def _matmul(to: _Translation, node: Any) -> str:
    attributes = node.get_attributes()
    inputs = []
    for index, flag in enumerate(("transpose_a", "transpose_b")):
        source = node.input_value(index)
        if not attributes[flag]:
            inputs.append(to.input(node, index))
        elif source.get_node().get_type_name() == "Constant":
            inputs.append(to.constant(np.swapaxes(constant(node, index), -1, -2)))
        else:
            axes = list(range(len(source.get_partial_shape())))
            axes[-2:] = axes[:-3:-1]
            inputs.append(to.add("Transpose", [to.input(node, index)], perm=axes))
    return to.add("MatMul", inputs)


def _transpose(to: _Translation, node: Any) -> str:
    return to.add("Transpose", [to.input(node, 0)], perm=constant(node, 1).tolist())


def _reshape(to: _Translation, node: Any) -> str:
    shape = constant(node, 1).astype(np.int64)
    zero_copies = node.get_attributes()["special_zero"]
    return to.add("Reshape", [to.input(node, 0), to.constant(shape)], allowzero=int(not zero_copies and 0 in shape))


def _convert(to: _Translation, node: Any) -> str:
    from onnx import helper

    kind = np.dtype(node.output(0).get_element_type().to_dtype())
    return to.add("Cast", [to.input(node, 0)], to=helper.np_dtype_to_tensor_dtype(kind))


def _interpolate(to: _Translation, node: Any) -> str:
    """Translate the graph's own resize (see `folded_graph`); the networks have none."""
    attributes = node.get_attributes()
    if attributes["mode"] != "bilinear_pillow" or attributes["shape_calculation_mode"] != "sizes":
        raise OrchardError("The backbone resizes in a way that Orchard cannot write to ONNX: take --format openvino.")
    return to.add(
        "Resize",
        [to.input(node, 0), "", "", to.input(node, 1)],
        mode="linear",
        antialias=1,
        coordinate_transformation_mode="half_pixel",
        axes=constant(node, 2).tolist(),
    )


def _strided_slice(to: _Translation, node: Any) -> str:
    attributes = node.get_attributes()
    if any(any(attributes[mask]) for mask in ("new_axis_mask", "shrink_axis_mask", "ellipsis_mask")):
        raise OrchardError("The backbone slices in a way that Orchard cannot write to ONNX: take --format openvino.")
    begin, end, step = (constant(node, index).astype(np.int64) for index in (1, 2, 3))
    far = np.iinfo(np.int64).max
    for values, mask, open_up, open_down in ((begin, "begin_mask", 0, far), (end, "end_mask", far, -far)):
        for axis, ignored in enumerate(attributes[mask]):
            if ignored:
                values[axis] = open_up if step[axis] > 0 else open_down
    wanted = [a for a in range(len(step)) if (begin[a], end[a], step[a]) != (0, far, 1)]
    parts = [np.array(values, np.int64) for values in (begin[wanted], end[wanted], wanted, step[wanted])]
    return to.add("Slice", [to.input(node, 0), *(to.constant(part) for part in parts)])


def _gather(to: _Translation, node: Any) -> str:
    return to.add("Gather", [to.input(node, 0), to.input(node, 1)], axis=int(constant(node, 2)))


def _softmax(to: _Translation, node: Any) -> str:
    return to.add("Softmax", [to.input(node, 0)], axis=node.get_attributes()["axis"])


def _concat(to: _Translation, node: Any) -> str:
    return to.add("Concat", to.inputs(node), axis=node.get_attributes()["axis"])


def _hard_sigmoid(to: _Translation, node: Any) -> str:
    return to.add("HardSigmoid", [to.input(node, 0)], alpha=1 / 6, beta=0.5)


def _swish(to: _Translation, node: Any) -> str:
    x = to.input(node, 0)
    scaled = x if node.get_input_size() == 1 else to.add("Mul", [x, to.input(node, 1)])
    return to.add("Mul", [x, to.add("Sigmoid", [scaled])])


def _squared_difference(to: _Translation, node: Any) -> str:
    difference = to.add("Sub", to.inputs(node))
    return to.add("Mul", [difference, difference])


_SIMPLE = {
    "Abs": "Abs",
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "Equal": "Equal",
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "Erf": "Erf",
    "Power": "Pow",
    "HSwish": "HardSwish",
    "Floor": "Floor",
    "Greater": "Greater",
    "Maximum": "Max",
    "Minimum": "Min",
    "Range": "Range",
    "Select": "Where",
    "ShapeOf": "Shape",
    "Sqrt": "Sqrt",
}
_TRANSLATIONS: dict[str, Callable[[_Translation, Any], str]] = {
    "AvgPool": _pool,
    "Clamp": _clamp,
    "Concat": _concat,
    "Convert": _convert,
    "Convolution": _convolution,
    "FakeQuantize": _fake_quantize,
    "Gather": _gather,
    "GroupConvolution": _convolution,
    "HSigmoid": _hard_sigmoid,
    "Interpolate": _interpolate,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Pad": _pad,
    "ReduceMax": _reduce_max,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
    "Reshape": _reshape,
    "Softmax": _softmax,
    "SquaredDifference": _squared_difference,
    "StridedSlice": _strided_slice,
    "Swish": _swish,
    "Transpose": _transpose,
}
