from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image
from skimage.transform import resize as skimage_resize

from orchard.features.resizing import Resizer


@pytest.mark.parametrize("shape", [(100, 100), (60, 90), (1, 1), (3, 224), (224, 7), (300, 500)])
def test_an_image_is_resized_bilinearly_as_scikit_image_does(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    out = np.full((224, 224, 3), np.nan, np.float32)
    Resizer(224)(image, out)
    expected = skimage_resize(  # type: ignore[no-untyped-call]
        image.astype(np.float64), (224, 224), order=1, mode="edge", anti_aliasing=False, preserve_range=True
    )
    np.testing.assert_allclose(out, expected, atol=1e-3)


def test_enlarging_is_what_pillow_does_before_it_rounds(photos: Mapping[str, np.ndarray]) -> None:
    image = np.asarray(Image.fromarray(photos["coffee"]).resize((100, 80)))
    out = np.empty((224, 224, 3), np.float32)
    Resizer(224)(image, out)
    pillow = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(out - pillow).max() < 1.01  # Pillow rounds after each of its two passes


def test_one_resizer_keeps_images_of_different_shapes_apart() -> None:
    generator, resize = np.random.default_rng(1), Resizer(32)
    images = [generator.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((9, 20), (40, 3), (32, 32), (9, 20))]
    outs = [np.empty((32, 32, 3), np.float32) for _ in images]
    for image, out in zip(images, outs, strict=True):
        resize(image, out)
    for image, out in zip(images, outs, strict=True):
        alone = np.empty_like(out)
        Resizer(32)(image, alone)
        assert np.array_equal(out, alone)
