"""From a backbone in Keras to the artifact that workers run, in a process of its own.

The process is thrown away, so neither Keras' memory nor its import time falls to the driver::

    build = start_build(backbone)     # returns at once; the JVM can start meanwhile
    artifact = build.result()

OpenVINO: Keras' OpenVINO backend gives the graph itself, channels first, so that nothing has to be transposed:
2.9 s for MobileNetV2, against 7.6 s by way of TensorFlow, and the same operations and speed after OpenVINO's common
passes. The families that Keras cannot build channels first go by way of TensorFlow.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from orchard import child, interruption
from orchard.errors import OrchardError, StorageError
from orchard.features.artifact import BATCH_SIZE, FEATURES_VERSION, Artifact, EngineName, Precision
from orchard.features.backbones import Backbone, find
from orchard.features.engines import import_openvino
from orchard.features.weights import Weights, keras_model, locate
from orchard.storage import LocalStorage

if TYPE_CHECKING:
    import keras

# Whoever waits that long (s) waits for a hung process; NASNetLarge takes a minute on one slow core.
_BUILD_SECONDS = 1800.0


@dataclass(frozen=True)
class Request:
    """What is to be built; the child process gets it as JSON."""

    backbone: str
    alpha: float
    weights: str
    engine: EngineName
    precision: Precision
    seed: int

    def located(self) -> tuple[Backbone, Weights]:
        """The backbone of the width, and where its weights are."""
        backbone = find(self.backbone).with_alpha(self.alpha)
        return backbone, locate(backbone, self.weights, seed=self.seed)


class Build:
    """An artifact that is being built, or that the cache held already."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = ExitStack()
        self._artifact = self._cached()
        if self._artifact is None:
            self._start()

    def result(self) -> Artifact:
        """Wait for the artifact; raises UsageError, WeightsUnavailable, or OrchardError if the build broke."""
        with self._lock:
            if self._artifact is None:
                self._artifact = self._collect()
            return self._artifact

    def cancel(self) -> None:
        """Stop the process and remove what it left."""
        with self._ending:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            if self._scratch is not None:
                self._scratch.cleanup()

    def _cached(self) -> Artifact | None:
        _, weights = self._request.located()
        if weights.path is None and weights.seed is None:
            return None
        return _read(cache_folder() / _cache_name(self._request, weights.digest()), self._request.precision)

    def _start(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="orchard-build-")
        options = child.options(
            KERAS_BACKEND=_keras_backend(self._request), TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1"
        )
        command = [sys.executable, "-m", "orchard.features.conversion", self._scratch.name]
        (Path(self._scratch.name) / "request.json").write_text(json.dumps(asdict(self._request)))
        with (Path(self._scratch.name) / "log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
            )
        self._ending.enter_context(interruption.in_order(self._process.kill))

    def _collect(self) -> Artifact:
        assert self._process is not None and self._scratch is not None
        folder = Path(self._scratch.name)
        try:
            self._process.wait(_BUILD_SECONDS)
            child.raise_error(folder)
            artifact = _read(folder / "artifact", self._request.precision)
            if artifact is None:
                lines = (folder / "log").read_text(errors="replace").strip().splitlines() or ["no output"]
                raise OrchardError(
                    f"Building {self._request.backbone} broke off with code {self._process.returncode} "
                    f"({lines[-1]}): check the memory, or take another backbone or engine."
                )
        except subprocess.TimeoutExpired as error:
            raise OrchardError(
                f"Building {self._request.backbone} took more than {_BUILD_SECONDS / 60:.0f} minutes: "
                "take a smaller backbone."
            ) from error
        finally:
            self.cancel()
        return artifact


def start_build(
    backbone: Backbone,
    *,
    weights: str = "imagenet",
    alpha: float | None = None,
    engine: EngineName = EngineName.OPENVINO,
    precision: Precision = Precision.FLOAT32,
    seed: int = 0,
) -> Build:
    """Begin to build the artifact in a process of its own, unless the cache has it, and return at once.

    ``weights`` is ``imagenet``, ``random`` (drawn from ``seed``) or a file. Raises UsageError and
    WeightsUnavailable for what can be seen at once; :meth:`Build.result` raises the rest.
    """
    backbone = backbone.with_alpha(alpha)
    return Build(Request(backbone.name, backbone.alpha, weights, engine, precision, seed))


def build_artifact(
    backbone: Backbone,
    *,
    weights: str = "imagenet",
    alpha: float | None = None,
    engine: EngineName = EngineName.OPENVINO,
    precision: Precision = Precision.FLOAT32,
    seed: int = 0,
) -> Artifact:
    """:func:`start_build`, and wait."""
    build = start_build(backbone, weights=weights, alpha=alpha, engine=engine, precision=precision, seed=seed)
    return build.result()


# --- The cache: one file an artifact ------------------------------------------------------------------------


def cache_folder() -> Path:
    """``$ORCHARD_CACHE``, ``$XDG_CACHE_HOME/orchard`` or ``~/.cache/orchard``."""
    if folder := os.environ.get("ORCHARD_CACHE"):
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "orchard"


def _cache_name(request: Request, weights_digest: str) -> str:
    packages = ("keras", "openvino") if _keras_backend(request) == "openvino" else ("keras", "openvino", "tensorflow")
    versions = [f"{package} {_version(package)}" for package in packages]
    # The precision is not built in: one file serves all.
    key = [
        FEATURES_VERSION,
        _source_digest(),
        request.backbone,
        request.alpha,
        request.engine,
        weights_digest,
        versions,
    ]
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()


def _version(package: str) -> str:
    names = ("tensorflow", "tensorflow-cpu") if package == "tensorflow" else (package,)
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _source_digest() -> str:
    folder = Path(__file__).parent
    names = ("artifact.py", "backbones.py", "conversion.py", "efficientnet_lite.py", "weights.py")
    return hashlib.blake2b(b"".join((folder / name).read_bytes() for name in names), digest_size=16).hexdigest()


def _read(path: Path, precision: Precision) -> Artifact | None:
    """The artifact in ``path``, to be run with ``precision``; None if there is none or it is damaged."""
    try:
        return replace(Artifact.from_bytes(path.read_bytes()), precision=precision)
    except (OSError, ValueError):
        return None


# --- What runs in the child process -------------------------------------------------------------------------


def _keras_backend(request: Request) -> str:
    openvino = request.engine is EngineName.OPENVINO and find(request.backbone).channels_first
    return "openvino" if openvino else "tensorflow"


def _convert(request: Request) -> Artifact:
    import_openvino()  # before Keras does
    # Keras' OpenVINO backend imports SciPy for windows of sounds alone; without it Keras is there in half the time.
    for name in ("scipy", "scipy.signal"):
        sys.modules.setdefault(name, ModuleType(name))
    import keras

    # A keras.json in the user's home may say otherwise.
    keras.config.set_floatx("float32")
    native = keras.backend.backend() == "openvino"
    keras.config.set_image_data_format("channels_first" if native else "channels_last")
    backbone, weights = request.located()
    model, weights = keras_model(backbone, weights)
    if request.engine is EngineName.OPENVINO:
        topology, parameters = _openvino_files(
            _openvino_graph(model) if native else _openvino_graph_of_tensorflow(model)
        )
        topology = _keep_float32(topology, backbone.float32_convolutions)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path)
            topology, parameters = path.read_bytes(), b""
    return Artifact(
        backbone=backbone.name,
        alpha=backbone.alpha,
        input_size=backbone.input_size,
        n_features=int(model.output_shape[-1]),
        engine=request.engine,
        precision=request.precision,
        weights=weights.description,
        weights_digest=weights.digest(),
        topology=topology,
        parameters=parameters,
    )


def _openvino_graph(model: keras.Model) -> Any:
    """Call a model of Keras' OpenVINO backend on a parameter: what it returns is the graph."""
    import openvino
    from keras.src.backend.openvino.core import OpenVINOKerasTensor
    from openvino import opset13

    image = opset13.parameter([BATCH_SIZE, *model.input_shape[1:]], openvino.Type.f32, name="image")
    features = model(OpenVINOKerasTensor(image.output(0)), training=False)
    return openvino.Model([opset13.result(features.output, name="features")], [image])


def _openvino_graph_of_tensorflow(model: keras.Model) -> Any:
    import openvino
    import tensorflow

    signature = tensorflow.TensorSpec((BATCH_SIZE, *model.input_shape[1:]), tensorflow.float32)
    traced = tensorflow.function(lambda image: model(image, training=False), input_signature=[signature])
    return openvino.convert_model(traced.get_concrete_function())


def _openvino_files(graph: Any) -> tuple[bytes, bytes]:
    """The graph after OpenVINO's common passes (batch normalisation folded), as XML and float32 constants."""
    import openvino
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(graph, cf=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(graph, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def _keep_float32(topology: bytes, convolutions: int) -> bytes:
    """Mark the first convolutions so that OpenVINO computes them in float32, whatever the precision of the rest."""
    root = ElementTree.fromstring(topology)  # noqa: S314 - written by `_openvino_files` a moment ago
    layers = (layer for layer in root.iter("layer") if layer.get("type") in ("Convolution", "GroupConvolution"))
    for layer in itertools.islice(layers, convolutions):
        information = layer.find("rt_info")
        if information is None:
            information = ElementTree.Element("rt_info")
            layer.insert(1 if layer.find("data") is not None else 0, information)
        ElementTree.SubElement(information, "attribute", {"name": "precise", "version": "0", "value": ""})
    return ElementTree.tostring(root)


def main(folder: Path) -> int:
    """Build what ``folder/request.json`` asks for into ``folder/artifact`` and the cache."""
    values = json.loads((folder / "request.json").read_text())
    values |= {"engine": EngineName(values["engine"]), "precision": Precision(values["precision"])}
    request = Request(**values)
    try:
        artifact = _convert(request)
    except OrchardError as error:
        return child.leave_error(folder, error)
    (folder / "artifact").write_bytes(artifact.to_bytes())
    try:
        name = _cache_name(request, artifact.weights_digest)
        LocalStorage(str(cache_folder().absolute())).write(name, artifact.to_bytes())
    except (OSError, StorageError) as error:
        print(f"The cache cannot be written to: {error}", file=sys.stderr)  # noqa: T201 - the build's log
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
