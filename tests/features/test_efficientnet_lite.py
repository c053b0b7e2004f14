import collections
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchard.errors import UsageError
from orchard.features.efficientnet_lite import VARIANTS, read_pytorch_file, weights_path

Photos = Mapping[str, np.ndarray]
Classified = tuple[tuple[np.ndarray, int], str]

CLASSIFY = """
import sys
import keras, numpy as np
from orchard.features.efficientnet_lite import network, set_imagenet_weights, weights_path
keras.config.set_image_data_format("channels_last")
name = sys.argv[3]
model = network(name, include_top=True)
set_imagenet_weights(model, weights_path(name))
assert not [layer.name for layer in model.layers if layer.name.startswith("_")]
images = np.load(sys.argv[1])
np.savez(sys.argv[2], probabilities=model.predict((images - 127.0) / 128.0, verbose=0), parameters=model.count_params())
"""


# "4.7M", "5.4M", "6.1M" in the table of the authors, by gradient alone; the others are moving averages.
PARAMETERS = {"EfficientNetLite0": 4_694_024, "EfficientNetLite1": 5_470_344, "EfficientNetLite2": 6_150_168}


def squared(image: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray(image)
    side, (width, height) = min(picture.size), picture.size
    left, top = (width - side) // 2, (height - side) // 2
    cut = picture.crop((left, top, left + side, top + side))
    return np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC), np.float32)


def classify(images: Iterable[np.ndarray], folder: Path, name: str = "EfficientNetLite0") -> tuple[np.ndarray, int]:
    np.save(folder / "images.npy", np.stack([squared(image, VARIANTS[name].input_size) for image in images]))
    command = [sys.executable, "-c", CLASSIFY, str(folder / "images.npy"), str(folder / "answers.npz"), name]
    subprocess.run(command, env=os.environ | {"KERAS_BACKEND": "openvino"}, check=True, capture_output=True)
    answers = np.load(folder / "answers.npz")
    return answers["probabilities"], int(answers["parameters"])


@pytest.fixture(scope="module", params=VARIANTS)
def answers(request: pytest.FixtureRequest, photos: Photos, tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return classify(photos.values(), tmp_path_factory.mktemp("classify"), request.param), request.param


def test_photos_get_their_imagenet_names(photos: Photos, answers: Classified) -> None:
    probabilities = dict(zip(photos, answers[0][0], strict=True))
    assert probabilities["chelsea"].argmax() in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert probabilities["chelsea"][[281, 282, 285]].sum() > 0.8
    assert probabilities["coffee"].argmax() == 967  # espresso
    assert probabilities["coffee"][967] > 0.6
    assert probabilities["china"].argmax() == 698  # palace
    if answers[1] == "EfficientNetLite0":  # the others see a projectile and a honeycomb
        assert probabilities["rocket"].argmax() == 657  # missile
        assert probabilities["flower"].argmax() == 985  # daisy, the flower that ImageNet has


def test_the_whole_network_has_the_published_number_of_parameters(answers: Classified) -> None:
    (_, parameters), name = answers
    assert parameters == PARAMETERS[name]


def test_fruit_gets_its_imagenet_name(fruit: Callable[[str, int], list[np.ndarray]], tmp_path: Path) -> None:
    expected = {"Lemon Meyer": {951}, "Apple Granny Smith": {948}, "Banana": {954}}
    images = {label: fruit(label, 8) for label in expected if len(fruit(label, 8)) == 8}
    probabilities, _ = classify([image for some in images.values() for image in some], tmp_path)
    for index, label in enumerate(images):
        top5 = probabilities[index * 8 : index * 8 + 8].argsort(1)[:, -5:]
        assert np.isin(list(expected[label]), top5).all(), label
        assert (np.isin(top5, list(expected[label])).any(1)).mean() >= 0.75, label


@pytest.mark.parametrize("name", VARIANTS)
def test_the_weights_file_is_read_whole(name: str) -> None:
    state = read_pytorch_file(weights_path(name))
    floats = [array for array in state.values() if array.dtype == np.float32]
    assert sum(array.size for array in floats) == PARAMETERS[name]
    assert all(np.isfinite(array).all() for array in floats)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert (state["_bn0.running_var"] >= 0).all()  # and some are zero: there the epsilon decides


class RunsCode:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("content", [RunsCode(), collections.Counter(), np.zeros(3)])
def test_a_pickle_that_asks_for_more_than_tensors_is_refused_and_does_nothing(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UsageError, match="no PyTorch file of plain tensors"):
        read_pytorch_file(tmp_path / "bad.pth")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("keep", [0, 1, 20, 40_000, 46_000, 1_000_000, -4])
def test_a_cut_off_weights_file_is_refused(keep: int, tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(weights_path("EfficientNetLite0").read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"cut\.pth is no PyTorch file"):
        read_pytorch_file(tmp_path / "cut.pth")
