"""Real photos, and a cache of artifacts that the tests of this folder share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import SHARED
from orchard.features.backbones import find


@pytest.fixture(scope="session", autouse=True)
def artifact_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("artifacts")
        patch.setenv("ORCHARD_CACHE", str(folder))
        patch.delenv("KERAS_HOME", raising=False)
        yield folder


@pytest.fixture(scope="session")
def photos() -> dict[str, NDArray[np.uint8]]:
    """Photos that come with scikit-image and scikit-learn, RGB, in their own sizes."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    names = ("chelsea", "coffee", "astronaut", "rocket")
    own = {name: np.asarray(getattr(data, name)()) for name in names}
    return own | {name: np.asarray(load_sample_image(f"{name}.jpg")) for name in ("flower", "china")}


@pytest.fixture(scope="session")
def images(photos: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Thirteen images of many shapes, none larger than 224 px: a full batch and one that is filled up."""
    sizes = [(100, 100), (224, 224), (60, 90), (224, 149), (1, 1), (37, 211)]
    pictures = [Image.fromarray(photo) for photo in photos.values()]
    turned = [picture.transpose(Image.Transpose.ROTATE_90) for picture in pictures]
    both = zip(pictures + turned, sizes * 2, strict=True)
    grey = np.full((224, 224, 3), 40, np.uint8)
    return [np.asarray(picture.resize(size, Image.Resampling.BOX)) for picture, size in both] + [grey]


@pytest.fixture(scope="session")
def keras_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras home with MobileNetV2 of width 0.35: ImageNet's weights, or such as Keras draws where there are none."""
    if (SHARED / "keras").is_dir():
        return SHARED / "keras"
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    network = find("MobileNetV2").with_alpha(0.35)
    home = tmp_path_factory.mktemp("keras")
    (home / "models").mkdir()
    model = keras.applications.MobileNetV2(weights=None, include_top=False, alpha=0.35, input_shape=(224, 224, 3))
    with h5py.File(home / "models" / network.weights_filename(), "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return home


@pytest.fixture(scope="session")
def fruit(fruits: Path) -> Callable[[str, int], list[NDArray[np.uint8]]]:
    """``fruit(label, n)``: n test images of a label of `fruits`."""

    def some(label: str, n: int) -> list[NDArray[np.uint8]]:
        files = sorted((fruits / "Test" / label).glob("*.jpg"))
        return [np.asarray(Image.open(file).convert("RGB")) for file in files[:: max(1, len(files) // n)][:n]]

    return some
