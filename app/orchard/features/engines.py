"""The engines that turn images into features on a worker.

A worker imports only OpenVINO (0.1 s, and no TensorFlow in its memory), and compiles a backbone once::

    engine = load_engine(artifact)        # of the process, kept as long as its artifact
    features = engine(images)
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from orchard.errors import ClusterError, OrchardError, UsageError, first_line
from orchard.features.artifact import BATCH_SIZE, VIEW_SHARES, Artifact, EngineName, Precision
from orchard.features.backbones import Backbone, find
from orchard.features.resizing import Resizer
from orchard.features.views import middle
from orchard.scratch import scratch, unwritable

SMALLEST = 1e-12
"""Lower bound of the value by whose square root a feature is divided."""


class Engine(Protocol):
    """A backbone that is ready to run in this process; only one thread may use it at a time."""

    n_features: int
    input_size: int  # pixels
    decoded_size: int
    """Largest side, in pixels, of an image that it takes."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Features, float32 (n, n_features), of n images, uint8 (height, width, 3), RGB, of any sizes.

        Images are resized bilinearly to the input size; shrink much larger ones before, for nothing smooths them
        here. An image's features do not depend on the images beside it. Raises OrchardError for features that
        are not finite. Where the artifact has several views, they are the mean of the views' features.
        """
        ...

    def single(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The features of images as they are, without views."""
        ...


class _BatchedEngine:
    """Base of both engines: batches of one size, the last one padded, and a check of the features."""

    def __init__(self, artifact: Artifact, batch_size: int = BATCH_SIZE) -> None:
        self.n_features = artifact.n_features
        self.input_size = artifact.input_size
        self.decoded_size = artifact.decoded_size
        self._shares = VIEW_SHARES[artifact.test_views]
        self._square_root = artifact.square_root
        self._name = artifact.backbone
        self._resize = Resizer(artifact.input_size)
        self._batch = np.zeros((batch_size, artifact.input_size, artifact.input_size, 3), np.float32)

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        if len(self._shares) == 1:
            return self.single(images)
        views = [middle(image, share, self.input_size) for image in images for share in self._shares]
        features = self.single(views).reshape(len(images), len(self._shares), self.n_features)
        averaged: NDArray[np.float32] = features.mean(axis=1)
        return averaged

    def single(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        features = np.empty((len(images), self.n_features), np.float32)
        size = len(self._batch)
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            for image, row in zip(batch, self._batch, strict=False):
                self._resize(image, row)
            features[start : start + len(batch)] = self._infer()[: len(batch)]
        if not np.isfinite(features).all():
            raise OrchardError(
                f"{self._name} gave features that are not finite: check its weights, or use --precision float32."
            )
        return square_root(features) if self._square_root else features

    def _infer(self) -> NDArray[np.float32]:
        """The features of ``self._batch``."""
        raise NotImplementedError


class OpenVinoEngine(_BatchedEngine):
    """Runs an artifact by OpenVINO on one thread: Spark keeps the other cores busy with other workers."""

    def __init__(self, artifact: Artifact, batch_size: int = BATCH_SIZE) -> None:
        super().__init__(artifact, batch_size)
        openvino = import_openvino()
        core = openvino_core()
        if artifact.precision is Precision.BFLOAT16 and not has_bfloat16(core):
            raise ClusterError(
                "This machine's processor does not compute in bfloat16, which the driver's does and chose: "
                "use --precision float32, so that every executor computes alike."
            )
        graph = core.read_model(artifact.topology, artifact.parameters)
        if batch_size != BATCH_SIZE:
            graph.reshape(self._batch.shape)
        self._request = core.compile_model(graph, "CPU", _settings(artifact)).create_infer_request()
        self._request.set_input_tensor(openvino.Tensor(self._batch, shared_memory=True))

    def _infer(self) -> NDArray[np.float32]:
        self._request.infer()
        features: NDArray[np.float32] = self._request.get_output_tensor().data
        return features


def _settings(artifact: Artifact) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        # Pinned, two workers of one machine would share its first core and be half as fast.
        "ENABLE_CPU_PINNING": False,
        # Never left to the processor at hand: features of one output are computed alike.
        "INFERENCE_PRECISION_HINT": "bf16" if artifact.precision is Precision.BFLOAT16 else "f32",
    }


class TensorFlowEngine(_BatchedEngine):
    """Runs an artifact by TensorFlow: the reference, and the engine of executors with a GPU."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        import tensorflow

        gpus = tensorflow.config.list_physical_devices("GPU")
        try:
            for gpu in gpus:  # several workers share one
                tensorflow.config.experimental.set_memory_growth(gpu, True)
            if not gpus:
                tensorflow.config.threading.set_intra_op_parallelism_threads(1)
                tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            pass  # someone else in this process has used TensorFlow already, with settings of his own
        model = _keras_network(artifact)
        signature = tensorflow.TensorSpec(self._batch.shape, tensorflow.float32)
        self._run = tensorflow.function(lambda x: model(x, training=False), input_signature=[signature])

    def _infer(self) -> NDArray[np.float32]:
        features: NDArray[np.float32] = self._run(self._batch).numpy()
        return features


def _keras_network(artifact: Artifact) -> Any:
    import keras

    keras.config.set_image_data_format("channels_last")
    with scratch("network") as folder:
        path = folder / "model.keras"
        path.write_bytes(artifact.topology)
        return keras.saving.load_model(path, compile=False)


def graph_files(graph: Any, *, half: bool = False) -> tuple[bytes, bytes]:
    """Return a graph of OpenVINO, which writes only files, as XML and constants; `half`: these in float16."""
    with scratch("graph") as folder:
        path = folder / "model.xml"
        try:
            import_openvino().save_model(graph, path, compress_to_fp16=half)
        except RuntimeError as error:  # of a full disk it says no more, and removes what it has written
            raise unwritable(first_line(error)) from error
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


Cells = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""What the features of an image, uint8 (height, width, 3), are the mean of: float32 (rows, columns, n_features)."""


def cells_of(artifact: Artifact) -> Cells:
    """Compile a network that returns the last grid, which it averages, without views and before any square root.

    An engine's own network does not return the grid; this is a second one, made on request.
    """
    run = _openvino_cells(artifact) if artifact.engine is EngineName.OPENVINO else _tensorflow_cells(artifact)
    resize = Resizer(artifact.input_size)

    def cells(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = np.empty((1, artifact.input_size, artifact.input_size, 3), np.float32)
        resize(image, batch[0])
        return run(batch)

    return cells


def _openvino_cells(artifact: Artifact) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    openvino = import_openvino()
    core = openvino_core()
    graph = core.read_model(artifact.topology, artifact.parameters)
    graph.reshape([1, artifact.input_size, artifact.input_size, 3])
    cells, channels = averaged(graph)
    compiled = core.compile_model(openvino.Model([cells], graph.get_parameters()), "CPU", _settings(artifact))
    return lambda batch: np.moveaxis(compiled(batch)[0], channels, -1)[0]


def _tensorflow_cells(artifact: Artifact) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    import keras

    model = _keras_network(artifact)
    *_, before, network = model.layers
    prepared = keras.Model(model.input, before.output)
    until = keras.Model(network.input, network.layers[-1].input)  # the last layer averages
    return lambda batch: until(prepared(batch, training=False), training=False).numpy()[0]


def averaged(graph: Any) -> tuple[Any, int]:
    """Return the node of an openvino.Model whose global average is its output, and the axis of the features."""
    mean = graph.get_results()[0].input_value(0).get_node()
    (channels,) = {1, 2, 3} - set(mean.input_value(1).get_node().get_data().tolist())
    return mean.input_value(0), channels


def square_root(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the square root of each feature, with the feature's sign.

    A network's averages over a picture are near zero for most features and large for few. The root brings them nearer
    to the normal distribution that a discriminant assumes (Perronnin, Sanchez & Mensink 2010, "Improving the Fisher
    Kernel for Large-Scale Image Classification", https://doi.org/10.1007/978-3-642-15561-1_11; Yang, Liu & Xu 2021,
    "Free Lunch for Few-shot Learning", https://arxiv.org/abs/2101.06395, section 3.2).
    """
    lengths: NDArray[np.float32] = np.sqrt(np.maximum(np.abs(features), np.float32(SMALLEST)))
    return np.divide(features, lengths, dtype=np.float32)


def import_openvino() -> Any:
    """OpenVINO without its usage statistics, which would be written to the home folder and sent."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@functools.cache
def openvino_core() -> Any:
    """Return the one OpenVINO core of this process, which is never dropped.

    With its core, OpenVINO's CPU plugin gives the thread that makes it another stack for signals, and unmaps that stack
    where the core is dropped. If another thread drops it, the first thread's next signal ends the process.
    """
    return import_openvino().Core()


# What int8 saves of an image's milliseconds on one core with AVX2 at the network's own size, and what it costs before
# the first image: seconds of processor time that it takes to quantise. Both by benchmarks/precision.py; VNNI and AMX
# make it save more. Measured once, for what features are must not hang on a clock.
_INT8_SAVES_MS = {("EfficientNetLite0", 1.0): 5.0, ("MobileNetV2", 1.0): 3.5}
_INT8_COSTS_SECONDS = 12.5
# A run takes int8 by itself where it saves so many times what it costs.
_INT8_PAYS = 2.0


def resolve_precision(
    precision: str = "auto",
    engine: EngineName = EngineName.OPENVINO,
    *,
    backbone: Backbone | None = None,
    images: int = 0,
) -> Precision:
    """The precision that ``--precision auto|float32|bfloat16|int8`` means on this machine, the driver's.

    ``auto`` is bfloat16 if the processor supports it; else int8 if that is known to be faster for so many ``images``
    with this ``backbone``; else float32. Raises UsageError for a precision that this machine lacks.
    """
    if precision not in ("auto", *Precision):
        raise UsageError(f"--precision {precision}: choose auto, {' or '.join(Precision)}.")
    if precision == Precision.FLOAT32 or (precision == "auto" and engine is EngineName.TENSORFLOW):
        return Precision.FLOAT32
    if engine is EngineName.TENSORFLOW:
        raise UsageError(f"--precision {precision} is for --engine openvino: use --precision float32 with tensorflow.")
    if precision == Precision.INT8:
        return Precision.INT8
    if has_bfloat16(openvino_core()):
        return Precision.BFLOAT16
    if precision == "auto":
        return Precision.INT8 if _int8_pays(backbone, images) else Precision.FLOAT32
    raise UsageError("--precision bfloat16: this machine's processor does not compute in it; use float32 or auto.")


def has_bfloat16(core: Any) -> bool:
    """Return whether this machine's processor computes in bfloat16, as OpenVINO's core says."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _int8_pays(backbone: Backbone | None, images: int) -> bool:
    """Whether int8 pays for so many images, by a table: timing it now would make features depend on noise."""
    if backbone is None or "avx2" not in processor_flags():
        return False
    saved = _INT8_SAVES_MS.get((backbone.name, backbone.alpha), 0.0) / 1000
    saved *= (backbone.input_size / find(backbone.name).input_size) ** 2
    return images * saved >= _INT8_PAYS * _INT8_COSTS_SECONDS


def processor_flags() -> frozenset[str]:
    """The processor's features, as Linux names them: avx2, avx512_vnni, amx_int8; empty if the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


_engines: WeakKeyDictionary[Artifact, Engine] = WeakKeyDictionary()
_engines_lock = threading.Lock()


def load_engine(artifact: Artifact) -> Engine:
    """The engine of ``artifact`` in this process, compiled when first asked for, and kept while there is the artifact.

    Raises ClusterError where this machine lacks what the driver chose.
    """
    with _engines_lock:
        if artifact not in _engines:
            openvino = artifact.engine is EngineName.OPENVINO
            _engines[artifact] = OpenVinoEngine(artifact) if openvino else TensorFlowEngine(artifact)
        return _engines[artifact]
