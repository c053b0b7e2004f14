import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from orchard.errors import ClusterError, OrchardError, UsageError
from orchard.features.artifact import VIEW_SHARES, Artifact, EngineName, Precision
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import (
    OpenVinoEngine,
    cells_of,
    load_engine,
    openvino_core,
    resolve_precision,
    square_root,
)
from orchard.features.resizing import Resizer
from orchard.features.views import middle

Images = list[NDArray[np.uint8]]
Floats = NDArray[np.float32]
Features = Mapping[str, Floats]

# What Keras says by itself: its own preprocess_input and predict, on images that TensorFlow resized.
REFERENCE = """
import importlib, json, sys
import keras, numpy as np, tensorflow as tf
from orchard.features.backbones import find
from orchard.features.weights import keras_model, locate
images = np.load(sys.argv[2])
features = {}
for name, weights in json.loads(sys.argv[1]):
    backbone = find(name)
    network = keras_model(backbone, locate(backbone, weights))[0].layers[-1]
    size = (backbone.input_size, backbone.input_size)
    pixels = np.stack([tf.image.resize(images[key], size, "bilinear").numpy() for key in images])
    if backbone.in_keras:
        pixels = importlib.import_module(f"keras.applications.{backbone.family}").preprocess_input(pixels)
    else:
        pixels = (pixels - 127.0) / 128.0
    features[name] = network.predict(pixels, verbose=0)
np.savez(sys.argv[3], **features)
"""

LIGHT = [
    ("EfficientNetLite0", "imagenet"),
    ("EfficientNetLite1", "imagenet"),
    ("EfficientNetLite2", "imagenet"),
    ("MobileNetV2", "random"),
    ("MobileNetV3Small", "random"),
    ("EfficientNetB0", "random"),
    ("ResNet50", "random"),
    ("DenseNet121", "random"),
]
HEAVY = [
    (name, "random") for name in ("NASNetMobile", "ConvNeXtTiny", "Xception", "InceptionV3", "VGG16", "ResNet50V2")
]


def reference(models: list[tuple[str, str]], images: Images, folder: Path) -> Features:
    np.savez(folder / "images.npz", *images)
    files = [str(folder / "images.npz"), str(folder / "features.npz")]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", REFERENCE, json.dumps(models), *files]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    features: Features = np.load(folder / "features.npz")
    return features


@pytest.fixture(scope="module")
def keras_features(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Features:
    return reference(LIGHT, images, tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="module")
def lite() -> Artifact:
    return build_artifact(find("EfficientNetLite0"))


def cosines(a: Floats, b: Floats) -> Floats:
    found: Floats = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def assert_parity(name: str, weights: str, images: Images, expected: Floats) -> None:
    artifact = build_artifact(find(name), weights=weights)
    features = OpenVinoEngine(artifact)(images)
    assert features.dtype == np.float32
    assert features.shape == (len(images), find(name).n_features)
    assert cosines(features, expected).min() > 0.999
    if "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        rounded = OpenVinoEngine(replace(artifact, precision=Precision.BFLOAT16))(images)
        assert cosines(rounded, expected).min() > 0.99
        assert not np.array_equal(rounded, features)


@pytest.mark.parametrize(("name", "weights"), LIGHT)
def test_openvino_gives_what_keras_predicts(name: str, weights: str, images: Images, keras_features: Features) -> None:
    assert_parity(name, weights, images, keras_features[name])


@pytest.mark.slow
def test_openvino_gives_what_keras_predicts_for_heavier_families(images: Images, tmp_path: Path) -> None:
    expected = reference(HEAVY, images, tmp_path)
    for name, weights in HEAVY:
        assert_parity(name, weights, images, expected[name])


def test_the_tensorflow_engine_gives_what_keras_predicts(
    images: Images, keras_features: Features, tmp_path: Path
) -> None:
    artifact = build_artifact(find("EfficientNetLite0"), engine=EngineName.TENSORFLOW)
    np.savez(tmp_path / "images.npz", *images)
    script = (
        "import pickle, sys; import numpy as np; from orchard.features.engines import cells_of, load_engine;"
        "images = np.load(sys.argv[1]); artifact = pickle.load(sys.stdin.buffer); engine = load_engine(artifact);"
        "of_cells = cells_of(artifact)(images['arr_0']).mean(axis=(0, 1))[np.newaxis];"
        "np.save(sys.argv[2], np.concatenate([engine([images[key] for key in images]), of_cells]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "images.npz"), str(tmp_path / "features.npy")]
    subprocess.run(command, input=pickle.dumps(artifact), check=True, capture_output=True)
    *features, of_cells = np.load(tmp_path / "features.npy")
    assert cosines(np.array(features), keras_features["EfficientNetLite0"]).min() > 0.9999
    np.testing.assert_allclose(of_cells, features[0], atol=1e-4)


def test_features_are_the_mean_of_the_cells_of_the_last_grid(lite: Artifact, images: Images) -> None:
    cells = cells_of(lite)(images[0])
    assert cells.shape == (7, 7, 1280)
    np.testing.assert_allclose(cells.mean(axis=(0, 1)), load_engine(lite)(images[:1])[0], atol=1e-4)


def test_an_engine_lasts_as_long_as_its_artifact(lite: Artifact) -> None:
    artifact = replace(lite, weights="of this test alone")
    first, same = load_engine(artifact), load_engine(replace(artifact))
    assert first is same  # an equal artifact is as good
    gone = weakref.ref(first)
    del first, same, artifact
    gc.collect()
    assert gone() is None


def test_features_do_not_depend_on_the_neighbours(lite: Artifact, images: Images) -> None:
    engine = load_engine(lite)
    together = engine(images)
    assert np.array_equal(engine(images[::-1])[::-1], together)
    alone = np.concatenate([engine([image]) for image in images])
    assert np.array_equal(alone, together)


def test_features_of_several_views_are_the_mean_of_theirs(lite: Artifact, photos: dict[str, NDArray[np.uint8]]) -> None:
    looking = replace(lite, test_views=3)
    assert (lite.decoded_size, looking.decoded_size) == (224, 320)
    assert looking.fingerprint() != lite.fingerprint()
    assert Artifact.from_bytes(looking.to_bytes()) == looking
    images = [np.asarray(Image.fromarray(photo).resize((320, 320))) for photo in photos.values()]
    engine, single = load_engine(looking), load_engine(lite)
    cut = [image[offset : 320 - offset, offset : 320 - offset] for image in images for offset in (0, 20, 48)]
    smooth = [np.asarray(Image.fromarray(part).resize((224, 224), Image.Resampling.BILINEAR)) for part in cut]
    expected = single(smooth).reshape(len(images), 3, -1).mean(axis=1)
    found = engine(images)
    # Pillow's filter sees beyond the border of a part.
    assert cosines(found, expected).min() > 0.999 > cosines(found, single(smooth[::3])).max()
    assert np.array_equal(engine.single(smooth), single(smooth))
    assert engine([]).shape == (0, 1280)


def test_roots_are_taken_of_each_view_and_keep_their_sign(lite: Artifact, photos: dict[str, NDArray[np.uint8]]) -> None:
    assert np.allclose(square_root(np.array([4, -9, 0, 1e-20], np.float32)), [2, -3, 0, 0], atol=1e-6)
    rooted = replace(lite, square_root=True, test_views=3)
    assert len({artifact.fingerprint() for artifact in (rooted, lite, replace(rooted, square_root=False))}) == 3
    assert Artifact.from_bytes(rooted.to_bytes()) == rooted
    images = [np.asarray(Image.fromarray(photo).resize((300, 300))) for photo in photos.values()]
    views = load_engine(replace(lite, test_views=3))
    views_of = [middle(image, part, 224) for image in images for part in VIEW_SHARES[3]]
    expected = np.sqrt(views.single(views_of)).reshape(len(images), 3, -1).mean(axis=1)
    np.testing.assert_allclose(load_engine(rooted)(images), expected, atol=1e-5)


def test_any_number_of_images_is_taken(lite: Artifact, images: Images) -> None:
    engine = load_engine(lite)
    assert engine([]).shape == (0, 1280)
    many = engine(images * 3)
    assert many.shape == (39, 1280)
    assert np.array_equal(many[:13], many[26:])


def test_hundreds_of_shapes_cost_neither_memory_nor_time(lite: Artifact) -> None:
    psutil = pytest.importorskip("psutil")
    engine = load_engine(lite)
    generator = np.random.default_rng(0)
    shapes = generator.integers(1, 225, (200, 2))
    engine([np.zeros((*shape, 3), np.uint8) for shape in shapes[:8]])
    before = psutil.Process().memory_info().rss
    engine([np.full((*shape, 3), 99, np.uint8) for shape in shapes])
    assert psutil.Process().memory_info().rss - before < 50e6


def test_a_worker_imports_neither_tensorflow_nor_keras_and_stays_small(lite: Artifact) -> None:
    script = (
        "import pickle, sys; from pathlib import Path; import numpy as np;"
        "from orchard.features.engines import load_engine;"
        "engine = load_engine(pickle.load(sys.stdin.buffer)); engine([np.ones((100, 100, 3), np.uint8)] * 9);"
        "assert not {'tensorflow', 'keras'} & set(sys.modules);"
        "lines = Path('/proc/self/status').read_text().splitlines();"
        "status = dict(line.split(':', 1) for line in lines);"
        "assert int(status['VmHWM'].split()[0]) < 500 * 1024  # kB, at its highest"
    )
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps(lite), check=True)


def test_a_process_compiles_an_artifact_once_even_for_many_threads(lite: Artifact) -> None:
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_engine(replace(lite)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(engine) for engine in found}) == 1
    assert load_engine(replace(lite, weights_digest="other")) is not found[0]


class Overflowing(OpenVinoEngine):
    """ReLU and clamping hide most broken weights, so the last step breaks here."""

    def _infer(self) -> Floats:
        return super()._infer() * np.float32(1e38) * np.float32(1e38)


def test_features_that_are_not_finite_are_an_error(lite: Artifact) -> None:
    with pytest.raises(OrchardError, match="not finite"):
        Overflowing(lite)([np.full((50, 50, 3), 200, np.uint8)])


def test_bfloat16_stays_close_to_float32_on_every_fruit(lite: Artifact, fruits: Path) -> None:
    if resolve_precision("auto") is not Precision.BFLOAT16:
        pytest.skip("this machine does not compute in bfloat16")
    paths = sorted((fruits / "Test").glob("*/*.jpg"))[::12]
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    exact = load_engine(replace(lite, precision=Precision.FLOAT32))(photographs)
    rounded = load_engine(replace(lite, precision=Precision.BFLOAT16))(photographs)
    assert cosines(rounded, exact).min() > 0.99


def test_the_network_sees_the_resized_pixels(lite: Artifact, photos: dict[str, NDArray[np.uint8]]) -> None:
    image = photos["coffee"][:200, :150]
    resized = np.empty((224, 224, 3), np.float32)
    Resizer(224)(image, resized)
    engine = load_engine(lite)
    assert cosines(engine([image]), engine([resized.round().astype(np.uint8)]))[0] > 0.999


def test_the_precision_is_chosen_on_the_driver() -> None:
    has_bfloat16 = "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert resolve_precision("auto") is (Precision.BFLOAT16 if has_bfloat16 else Precision.FLOAT32)
    assert resolve_precision("float32") is Precision.FLOAT32
    assert resolve_precision("auto", EngineName.TENSORFLOW) is Precision.FLOAT32
    with pytest.raises(UsageError, match="float32 with tensorflow"):
        resolve_precision("bfloat16", EngineName.TENSORFLOW)
    with pytest.raises(UsageError, match="choose auto"):
        resolve_precision("int4")


def test_a_worker_without_bfloat16_says_what_to_do(lite: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every processor here may have it: the answer of one that has not is set.
    monkeypatch.setattr("orchard.features.engines.has_bfloat16", lambda _core: False)
    with pytest.raises(ClusterError, match="--precision float32"):
        OpenVinoEngine(replace(lite, precision=Precision.BFLOAT16))
    assert resolve_precision("auto") is Precision.FLOAT32
    with pytest.raises(UsageError, match="use float32 or auto"):
        resolve_precision("bfloat16")


def test_an_engine_that_another_thread_drops_leaves_signals_alone() -> None:
    """OpenVINO's plugin took the stack for signals with it: the next signal ended the process."""
    code = """
import os, signal, threading
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import load_engine
kept = [build_artifact(find("MobileNet").with_alpha(0.25), weights="random", seed=0)]
engine = [load_engine(kept[0])]
def drop():
    engine.clear()
    kept.clear()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
signal.raise_signal(signal.SIGUSR1)
os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "heard\n"), ended.stderr
