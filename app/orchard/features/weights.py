"""Finds a backbone's weights, and builds the Keras model with them.

Only the process that builds a model calls :func:`keras_model`: it imports Keras.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchard.errors import AccessDenied, UsageError, WeightsUnavailable
from orchard.features import efficientnet_lite
from orchard.features.backbones import DEFAULT_BACKBONE, Backbone, Preprocessing
from orchard.features.branches import branched, branches_of
from orchard.files import digest_of
from orchard.layout import TUNED
from orchard.scratch import scratch, temporary
from orchard.storage import S3Options, may_read, open_storage, split_object_url

if TYPE_CHECKING:
    import keras

    from orchard.output import Output

SUFFIXES = (".h5", ".keras", ".pth")

# A server that is silent for so long (s) is not going to answer; a download that moves may take its time.
_SILENCE = 10.0


@dataclass(frozen=True)
class Weights:
    """A backbone's weights: a file, random weights, or, with neither, weights that must be downloaded first."""

    description: str
    path: Path | None = None
    seed: int | None = None

    def digest(self) -> str:
        """32 hexadecimal digits of the content, so that a replaced file counts as other weights."""
        if self.path is None:
            return hashlib.blake2b(f"random {self.seed}".encode(), digest_size=16).hexdigest()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def locate(backbone: Backbone, weights: str = "imagenet", *, seed: int = 0) -> Weights:
    """Find the weights that ``--weights imagenet|random|FILE`` means, without downloading anything.

    ``imagenet`` is an installed package for EfficientNetLite, and Keras' own file in a Keras home for the others.
    Raises UsageError for a file that is not there, WeightsUnavailable where the package is missing.
    """
    if weights == "random":
        return Weights(f"random, seed {seed}", seed=seed)
    if weights == "imagenet":
        if not backbone.in_keras:
            return Weights("imagenet", efficientnet_lite.weights_path(backbone.name))
        return Weights("imagenet", _in_keras_homes(backbone.weights_filename()))
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise UsageError(f"--weights {weights}: there is no such file; give imagenet, random or a file of weights.")
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"--weights {weights}: a file of weights ends in {', '.join(SUFFIXES)}; save it so with Keras."
        )
    if not os.access(path, os.R_OK):
        raise UsageError(f"--weights {weights}: the file cannot be read; allow this user to read it.")
    return Weights(path.name, path)


def brought(backbone: Backbone, weights: str, s3: S3Options) -> str:
    """Copy weights from a bucket to this machine; return the name by which `locate` finds them.

    ``weights`` may be an object's address. So may ``KERAS_HOME``, which is then replaced by a copy for this process and
    its children. Raises UsageError for a missing object, and AccessDenied and StorageError as the store does.
    """
    if split_object_url(weights):
        folder, _, name = weights.rpartition("/")
        target = _scratch() / hashlib.blake2b(folder.encode(), digest_size=8).hexdigest() / name
        if not target.is_file() and not _copy(folder, name, target, s3):
            raise UsageError(
                f"--weights {weights}: there is no such object; give imagenet, random or weights in a bucket."
            )
        return str(target)
    home = os.environ.get("KERAS_HOME", "")
    if weights == "imagenet" and backbone.in_keras and split_object_url(home):
        name = f"models/{backbone.weights_filename()}"
        if _copy(home, name, _scratch() / "keras" / name, s3):
            os.environ["KERAS_HOME"] = str(_scratch() / "keras")
    return weights


def _copy(folder: str, name: str, target: Path, s3: S3Options) -> bool:
    try:
        content = open_storage(folder, s3).read(name)
    except FileNotFoundError:
        return False
    except PermissionError as error:
        raise AccessDenied(f"{folder}/{name} may not be read ({error.strerror}): allow {may_read(folder)}.") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return True


def tuned(output: Output) -> str | None:
    """Write the weights of an output's tuned network to a file that is deleted when this process ends.

    Returns the name by which `locate` finds them; None if the output has none. Raises as `Output.part` does.
    """
    content = output.part(TUNED)
    if content is None:
        return None
    path = _scratch() / digest_of(content) / TUNED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


@functools.cache
def _scratch() -> Path:
    """A temporary folder, removed when this process ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(scratch("weights"))


def keras_homes() -> list[Path]:
    """The folders in which Keras keeps its files, in the order of the search."""
    homes = [Path.home() / ".keras"]
    home = os.environ.get("KERAS_HOME")
    if home and not split_object_url(home):
        homes.insert(0, Path(home).expanduser())
    return homes


def _in_keras_homes(filename: str) -> Path | None:
    # Keras itself passes over a KERAS_HOME that it cannot write to, and downloads.
    files = (home / "models" / filename for home in keras_homes())
    return next((file for file in files if os.access(file, os.R_OK)), None)


def keras_model(backbone: Backbone, weights: Weights) -> tuple[keras.Model, Weights]:
    """Build ``backbone`` without its classifier, in Keras' present image data format, and load its weights.

    Returns a model from float32 (n, input_size, input_size, 3) pixels, RGB, 0..255, to float32 (n, n_features),
    and the weights with the path that a download ended at. Raises UsageError for a file that does not fit and
    WeightsUnavailable for a download that failed.
    """
    import keras

    size = backbone.input_size
    image = keras.Input((size, size, 3), name="image")
    first = keras.config.image_data_format() == "channels_first"
    planes = keras.layers.Permute((3, 1, 2), name="channels_first")(image) if first else image
    shape = (3, size, size) if first else (size, size, 3)
    if backbone.in_keras:
        network, weights = _keras_application(backbone, weights, shape)
    else:
        network = _lite(backbone, weights, shape)
    if weights.seed is not None:
        _randomize(network, weights.seed)
    features = network(_preprocessed(planes, backbone.preprocessing, channel_axis=1 if first else -1))
    return keras.Model(image, features, name=backbone.name), weights


def _preprocessed(x: Any, mode: Preprocessing, channel_axis: int) -> Any:
    import keras

    # The constants of keras.applications.imagenet_utils, for x in 0..255: (x - mean) / deviation by channel.
    match mode:
        case Preprocessing.NONE:
            return x
        case Preprocessing.TF:
            mean, deviation = [127.5] * 3, [127.5] * 3
        case Preprocessing.LITE:
            mean, deviation = [127.0] * 3, [128.0] * 3
        case Preprocessing.TORCH:
            mean, deviation = [255 * m for m in (0.485, 0.456, 0.406)], [255 * d for d in (0.229, 0.224, 0.225)]
        case Preprocessing.CAFFE:
            x = keras.ops.flip(x, axis=channel_axis)  # RGB to BGR
            mean, deviation = [103.939, 116.779, 123.68], [1.0] * 3
    variance = [d**2 for d in deviation]
    return keras.layers.Normalization(channel_axis, mean, variance, name="preprocessing")(x)


def _lite(backbone: Backbone, weights: Weights, shape: tuple[int, int, int]) -> keras.Model:
    network = efficientnet_lite.network(backbone.name, input_shape=shape)
    if weights.path is None:
        return network
    if weights.path.suffix == ".pth":
        efficientnet_lite.set_imagenet_weights(network, weights.path)
        return network
    return _loaded(network, weights.path)


def _loaded(network: keras.Model, path: Path) -> keras.Model:
    """Return the network, or one of its blocks with branches, with the weights that Keras saved."""
    with _fitting(network.name, path):
        if branches := branches_of(path):
            network, _ = branched(network, branches)
        network.load_weights(path)
    return network


def _keras_application(
    backbone: Backbone, weights: Weights, shape: tuple[int, int, int]
) -> tuple[keras.Model, Weights]:
    import keras

    settings: dict[str, Any] = {"include_top": False, "pooling": "avg", "input_shape": shape}
    if backbone.widths:
        settings["alpha"] = backbone.alpha
    build: Callable[..., keras.Model] = getattr(keras.applications, backbone.name)
    if weights.seed is not None:
        return build(weights=None, **settings), weights
    # EfficientNet is another graph with weights="imagenet" than with weights=FILE, so a file of ours has to be
    # given to Keras as if it had downloaded it.
    path = weights.path or _download(backbone, build, settings)
    with _downloads_answered_by(path), _fitting(backbone.name, path):
        if branches_of(path):
            return _loaded(build(weights=None, **settings), path), Weights(weights.description, path)
        return build(weights="imagenet", **settings), Weights(weights.description, path)


@contextmanager
def _fitting(name: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else f"{reason[:200]}…"
        raise UsageError(
            f"The weights in {path} do not fit {name} without its classifier ({reason}): "
            "give the file that Keras saved for this backbone and width (its name holds `notop` or `no_top`)."
        ) from error


@contextmanager
def _downloads_answered_by(path: Path) -> Iterator[None]:
    from keras.src.utils import file_utils

    original = file_utils.get_file
    file_utils.get_file = lambda *_args, **_kwargs: str(path)
    try:
        yield
    finally:
        file_utils.get_file = original


class _Wanted(Exception):
    def __init__(self, filename: str, origin: str, checks: dict[str, Any]) -> None:
        super().__init__(filename)
        self.filename, self.origin, self.checks = filename, origin, checks


def _download(backbone: Backbone, build: Callable[..., keras.Model], settings: Mapping[str, Any]) -> Path:
    """Let Keras download ``backbone``'s file into the first Keras home that can be written to."""
    from keras.src.utils import file_utils

    def ask(fname: str, origin: str, **settings: Any) -> str:
        checks = {key: value for key, value in settings.items() if key in ("file_hash", "md5_hash")}
        raise _Wanted(fname, origin, checks)

    original, timeout = file_utils.get_file, socket.getdefaulttimeout()
    file_utils.get_file = ask
    try:
        build(weights="imagenet", **settings)
        raise AssertionError("Keras built the model without asking for its weights")
    except _Wanted as caught:
        wanted = caught
    finally:
        file_utils.get_file = original
    home = next((home for home in keras_homes() if _writable(home / "models")), None)
    if home is None:
        raise _unavailable(backbone, "no Keras home can be written to")
    socket.setdefaulttimeout(_SILENCE)
    try:
        # Into a folder of its own first: a download that breaks off leaves nothing behind.
        with temporary(home / "models", ".download-") as folder:
            part = original(wanted.filename, wanted.origin, cache_dir=str(folder), cache_subdir=".", **wanted.checks)
            return Path(part).replace(home / "models" / wanted.filename)
    except Exception as error:  # urllib, ssl, http.client and Keras' bare Exception
        raise _unavailable(backbone, " ".join(str(error).split()) or type(error).__name__) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _unavailable(backbone: Backbone, reason: str) -> WeightsUnavailable:
    return WeightsUnavailable(
        f"The ImageNet weights of {backbone.name} ({backbone.weights_filename()}) are in no Keras home and could not "
        f"be downloaded ({reason}): set KERAS_HOME to a folder that holds them in models/, give --weights FILE, "
        f"or take --backbone {DEFAULT_BACKBONE}, which needs no download."
    )


def _randomize(network: keras.Model, seed: int) -> None:
    """Set every kernel to He's normal initialisation (2015, https://arxiv.org/abs/1502.01852, eq. 10).

    NumPy draws the numbers, so that every engine and machine gets the same ones; Keras draws by its backend.
    """
    generator = np.random.default_rng(seed)
    for variable in network.trainable_variables:
        shape = tuple(variable.shape)
        if len(shape) > 1:
            depthwise = len(shape) == 4 and shape[-1] == 1
            inputs = math.prod(shape[:2]) if depthwise else math.prod(shape[:-1])
            variable.assign(generator.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / inputs)))
