"""Random views of an image: drawn from its content, no larger than the network sees."""

from collections.abc import Mapping

import numpy as np

from orchard.features.views import random_view


def drawn(image: np.ndarray, digest: str = "d", number: int = 0, seed: int = 1, size: int = 224) -> np.ndarray:
    return random_view(image, digest, number, seed, size)


def test_a_view_is_drawn_from_content_number_and_seed(photos: Mapping[str, np.ndarray]) -> None:
    image = photos["coffee"]
    first = drawn(image)
    assert np.array_equal(first, drawn(image.copy()))
    others = [drawn(image, number=1), drawn(image, seed=2), drawn(image, digest="e")]
    assert all(first.shape != other.shape or not np.array_equal(first, other) for other in others)


def test_views_differ_in_part_side_light_and_sharpness(photos: Mapping[str, np.ndarray]) -> None:
    image = photos["astronaut"]
    views = [drawn(image, number=number) for number in range(200)]
    assert all(view.dtype == np.uint8 and view.ndim == 3 and max(view.shape[:2]) <= 224 for view in views)
    light = np.array([view.mean() for view in views]) / image.mean()
    assert light.std() > 0.1 and light.min() > 0.4 and light.max() < 1.8
    # Half of the views of a picture that is dark on the left are dark on the right.
    ramp = (
        np.repeat(np.linspace(20, 200, 300)[np.newaxis, :, np.newaxis], 300, axis=0).repeat(3, axis=2).astype(np.uint8)
    )
    turned = [view[:, :5].mean() > view[:, -5:].mean() for view in (drawn(ramp, number=n) for n in range(200))]
    assert 70 < sum(turned) < 130
    # Of black and white pixels in turns, a view out of focus is grey.
    board = np.indices((224, 224)).sum(axis=0)[..., np.newaxis].repeat(3, axis=2).astype(np.uint8) % 2 * 255
    contrast = np.array([drawn(board, number=n).std() for n in range(200)])
    assert (contrast < contrast.max() / 2).sum() > 20


def test_tiny_and_narrow_images_have_views() -> None:
    for shape in ((1, 1, 3), (1, 500, 3), (3, 2, 3)):
        for number in range(20):
            view = drawn(np.full(shape, 90, np.uint8), number=number)
            assert min(view.shape) >= 1 and max(view.shape[:2]) <= 224
