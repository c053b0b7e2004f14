"""Converts a Keras backbone to the artifact that workers run, in a child process.

The process ends afterwards, so neither Keras' memory nor its import time burdens the driver::

    build = start_build(backbone)     # returns at once; the JVM can start meanwhile
    artifact = build.result()

OpenVINO: Keras' OpenVINO backend gives the graph itself, channels first, so that nothing has to be transposed:
2.9 s for MobileNetV2, against 7.6 s by way of TensorFlow, and the same operations and speed after OpenVINO's common
passes. The families that Keras cannot build channels first go by way of TensorFlow.

int8 is made of that float32 network, with images of the run (`orchard.features.quantization`), and has an entry of its
own in the cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from orchard import child, interruption
from orchard.errors import InputError, OrchardError, StorageError
from orchard.features import quantization
from orchard.features.artifact import BATCH_SIZE, FEATURES_VERSION, Artifact, EngineName, Precision
from orchard.features.backbones import Backbone, find
from orchard.features.engines import graph_files, import_openvino
from orchard.features.quantization import LEAST_AGREEMENT, Sample
from orchard.features.weights import Weights, keras_model, locate
from orchard.scratch import scratch
from orchard.storage import LocalStorage

if TYPE_CHECKING:
    import keras

# Whoever waits that long (s) waits for a hung process; NASNetLarge takes a minute on one slow core.
_BUILD_SECONDS = 1800.0


@dataclass(frozen=True)
class Request:
    """Description of the artifact to build, which the child process gets as JSON."""

    backbone: str
    alpha: float
    input_size: int
    weights: str
    engine: EngineName
    precision: Precision
    seed: int
    sample: Sample | None = None
    """For int8: the images to quantise with."""
    may_fall_back: bool = False
    """For int8: whether to fall back to float32 if int8 fails its check (`--precision auto`)."""

    def located(self) -> tuple[Backbone, Weights]:
        """The backbone of the width and input size, and where its weights are."""
        backbone = find(self.backbone, alpha=self.alpha, input_size=self.input_size)
        return backbone, locate(backbone, self.weights, seed=self.seed)


class Build:
    """An artifact that is being built, or that the cache held already."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = ExitStack()
        self._artifact = self._cached()
        if self._artifact is None:
            self._start()

    def result(self) -> Artifact:
        """Wait for the artifact; raises UsageError, WeightsUnavailable, or OrchardError if the build failed."""
        with self._lock:
            if self._artifact is None:
                self._artifact = self._collect()
            return self._artifact

    def cancel(self) -> None:
        """Stop the process, and remove the files that it left."""
        with self._ending:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def _cached(self) -> Artifact | None:
        if self._request.precision is Precision.INT8:  # the child reads the images, which are in the key
            return None
        return _cached_float32(self._request)

    def _start(self) -> None:
        self._folder = self._ending.enter_context(scratch("build"))
        variables = child.KERAS | {"KERAS_BACKEND": _keras_backend(self._request)}
        self._process = child.start("orchard.features.conversion", self._folder, self._request, variables=variables)
        self._ending.enter_context(interruption.in_order(self._process.kill))

    def _collect(self) -> Artifact:
        assert self._process is not None and self._folder is not None
        folder = self._folder
        try:
            self._process.wait(_BUILD_SECONDS)
            child.raise_error(folder)
            artifact = _read(folder / "artifact")
            if artifact is None:
                raise OrchardError(
                    f"Building {self._request.backbone} {child.last_words(folder, self._process.returncode)}: "
                    "check the memory, or take another backbone or engine."
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
    sample: Sample | None = None,
    may_fall_back: bool = False,
) -> Build:
    """Begin to build the artifact in a process of its own, unless the cache has it, and return at once.

    ``weights`` is ``imagenet``, ``random`` (drawn from ``seed``) or a file. int8 needs a ``sample``; with
    ``may_fall_back`` the artifact is in float32 if there are too few images, or if the features in int8 do not agree
    with those in float32. Raises UsageError and WeightsUnavailable for errors that can be seen at once;
    :meth:`Build.result` raises the others.
    """
    backbone = backbone.with_alpha(alpha)
    asked = (weights, engine, precision, seed, sample, may_fall_back)
    return Build(Request(backbone.name, backbone.alpha, backbone.input_size, *asked))


def build_artifact(
    backbone: Backbone,
    *,
    weights: str = "imagenet",
    alpha: float | None = None,
    engine: EngineName = EngineName.OPENVINO,
    precision: Precision = Precision.FLOAT32,
    seed: int = 0,
    sample: Sample | None = None,
    may_fall_back: bool = False,
) -> Artifact:
    """:func:`start_build`, and wait."""
    build = start_build(
        backbone,
        weights=weights,
        alpha=alpha,
        engine=engine,
        precision=precision,
        seed=seed,
        sample=sample,
        may_fall_back=may_fall_back,
    )
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
    # float32 and bfloat16 are not built in: one file serves both.
    key = [
        FEATURES_VERSION,
        _source_digest(),
        request.backbone,
        request.alpha,
        request.input_size,
        request.engine,
        weights_digest,
        versions,
    ]
    return _digest(key)


def _int8_cache_name(float32: str, calibration: str) -> str:
    return _digest([float32, "int8", calibration, quantization.version()])


def _digest(key: list[object]) -> str:
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
    names = ("artifact.py", "backbones.py", "conversion.py", "efficientnet_lite.py", "quantization.py", "weights.py")
    return hashlib.blake2b(b"".join((folder / name).read_bytes() for name in names), digest_size=16).hexdigest()


def _cached_float32(request: Request) -> Artifact | None:
    """The network before it is quantised, in the precision of the request or in float32; None if it is not there."""
    _, weights = request.located()
    if weights.path is None and weights.seed is None:
        return None
    found = _read(cache_folder() / _cache_name(request, weights.digest()))
    return found and replace(found, precision=_built_precision(request))


def _built_precision(request: Request) -> Precision:
    return Precision.FLOAT32 if request.precision is Precision.INT8 else request.precision


def _read(path: Path) -> Artifact | None:
    """The artifact in ``path``; None if there is none or it is damaged."""
    try:
        return Artifact.from_bytes(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write(name: str, artifact: Artifact) -> None:
    """Put an artifact into the cache, if the cache can be written to."""
    try:
        LocalStorage(str(cache_folder().absolute())).write(name, artifact.to_bytes())
    except (OSError, StorageError) as error:
        print(f"The cache cannot be written to: {error}", file=sys.stderr)  # noqa: T201 - the build's log


# --- What runs in the child process -------------------------------------------------------------------------


def _keras_backend(request: Request) -> str:
    openvino = request.engine is EngineName.OPENVINO and find(request.backbone).channels_first
    return "openvino" if openvino else "tensorflow"


def _convert(request: Request) -> Artifact:
    import_openvino()  # before Keras does
    with _without_scipy():
        import keras

    # A keras.json in the user's home may say otherwise.
    keras.config.set_floatx("float32")
    native = keras.backend.backend() == "openvino"
    keras.config.set_image_data_format("channels_first" if native else "channels_last")
    backbone, weights = request.located()
    model, weights = keras_model(backbone, weights)
    if request.engine is EngineName.OPENVINO:
        topology, parameters = _openvino_files(_openvino_graph(model) if native else graph_of_tensorflow(model))
        topology = _keep_float32(topology, backbone.float32_convolutions)
    else:
        with scratch("build") as folder:
            path = folder / "model.keras"
            model.save(path)
            topology, parameters = path.read_bytes(), b""
    return Artifact(
        backbone=backbone.name,
        alpha=backbone.alpha,
        input_size=backbone.input_size,
        n_features=int(model.output_shape[-1]),
        engine=request.engine,
        precision=_built_precision(request),
        weights=weights.description,
        weights_digest=weights.digest(),
        topology=topology,
        parameters=parameters,
    )


@contextmanager
def _without_scipy() -> Iterator[None]:
    """Keras' OpenVINO backend imports SciPy for windows of sounds alone; without it Keras is there in half the time."""
    names = [name for name in ("scipy", "scipy.signal") if name not in sys.modules]
    sys.modules |= {name: ModuleType(name) for name in names}
    try:
        yield
    finally:  # NNCF wants the real one
        for name in names:
            del sys.modules[name]


def _openvino_graph(model: keras.Model) -> Any:
    """Call a model of Keras' OpenVINO backend on a parameter: what it returns is the graph."""
    import openvino
    from keras.src.backend.openvino.core import OpenVINOKerasTensor
    from openvino import opset13

    image = opset13.parameter([BATCH_SIZE, *model.input_shape[1:]], openvino.Type.f32, name="image")
    features = model(OpenVINOKerasTensor(image.output(0)), training=False)
    return openvino.Model([opset13.result(features.output, name="features")], [image])


def graph_of_tensorflow(model: keras.Model) -> Any:
    """Return a Keras model on TensorFlow as OpenVINO's, for batches of `BATCH_SIZE`."""
    import openvino
    import tensorflow

    signature = tensorflow.TensorSpec((BATCH_SIZE, *model.input_shape[1:]), tensorflow.float32)
    traced = tensorflow.function(lambda image: model(image, training=False), input_signature=[signature])
    return openvino.convert_model(traced.get_concrete_function())


def _openvino_files(graph: Any) -> tuple[bytes, bytes]:
    """The graph after OpenVINO's common passes (batch normalisation folded), as XML and float32 constants."""
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(graph, cf=True)
    return graph_files(graph)


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
    """Build the artifact that ``folder/request.json`` describes into ``folder/artifact`` and the cache."""
    values = child.request_of(folder)
    values |= {"engine": EngineName(values["engine"]), "precision": Precision(values["precision"])}
    if values["sample"] is not None:
        values["sample"] = Sample.from_json(values["sample"])
    request = Request(**values)
    try:
        artifact = _cached_float32(request)
        if artifact is None:
            artifact = _convert(request)
            _write(_cache_name(request, artifact.weights_digest), artifact)
        if request.sample is not None:
            artifact = _in_int8(request, request.sample, artifact)
    except OrchardError as error:
        return child.leave_error(folder, error)
    (folder / "artifact").write_bytes(artifact.to_bytes())
    return 0


def _in_int8(request: Request, sample: Sample, artifact: Artifact) -> Artifact:
    """Return the float32 artifact in int8, or as it is where float32 may be fallen back to and int8 does not do.

    Raises:
        InputError: there are too few images, and float32 may not be fallen back to.
    """
    images = sample.read()
    calibration = quantization.digest(images, sample.fit)
    name = _int8_cache_name(_cache_name(request, artifact.weights_digest), calibration)
    found = _read(cache_folder() / name)
    if found is None:
        try:
            pixels = quantization.decoded(images, artifact.input_size, sample.limits, sample.fit)
        except InputError:
            if request.may_fall_back:
                return artifact
            raise
        found = quantization.quantized(artifact, pixels, calibration)
        _write(name, found)
    assert found.agreement is not None
    if request.may_fall_back and found.agreement < LEAST_AGREEMENT:
        return replace(artifact, agreement=found.agreement)
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
