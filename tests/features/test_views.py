"""Random views of an image: drawn from its content, no larger than the network sees."""

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from orchard.features.views import cut_out, random_view, random_views


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


def disc(side: int = 100, radius: int = 40, ground: int = 255) -> np.ndarray:
    """A red disc with a white highlight, on a plain ground."""
    y, x = np.mgrid[:side, :side] - side // 2
    image = np.full((side, side, 3), ground, np.uint8)
    image[x**2 + y**2 < radius**2] = (200, 20, 20)
    image[(x - 8) ** 2 + y**2 < 25] = 255
    return image


def test_what_lies_on_a_plain_background_is_cut_out_with_its_highlight_and_a_soft_edge() -> None:
    for ground in (255, 250, 120, 0):
        thing = cut_out(disc(ground=ground))
        assert thing is not None and thing.mode == "RGBA"
        assert all(74 <= side <= 80 for side in thing.size)
        alpha = np.asarray(thing)[..., 3]
        assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2 + 8] == 255  # the highlight is not the background
        assert alpha[0, 0] == 0 and 0 < ((alpha > 0) & (alpha < 255)).mean() < 0.2
    noisy = disc().astype(int) + np.random.default_rng(0).integers(-12, 13, (100, 100, 3))
    assert cut_out(np.clip(noisy, 0, 255).astype(np.uint8)) is not None
    # It may touch the border, and a speck is not the thing.
    touching = disc(radius=50)
    touching[2:4, 2:4] = 0
    found = cut_out(touching)
    assert found is not None and min(found.size) > 90 and np.asarray(found)[:6, :6, 3].max() == 0


def test_other_images_are_not_cut_out(photos: Mapping[str, np.ndarray]) -> None:
    ramp = np.linspace(0, 255, 100).astype(np.uint8)[np.newaxis, :, np.newaxis].repeat(100, 0).repeat(3, 2)
    filled, empty, tiny = disc(radius=80), np.full((100, 100, 3), 255, np.uint8), disc(15, 5)
    for image in (*(photos[name] for name in ("chelsea", "coffee", "flower", "china")), ramp, filled, empty, tiny):
        assert cut_out(image) is None


def test_half_of_the_views_of_what_can_be_cut_out_show_it_on_backgrounds_alone_or_in_piles() -> None:
    image = disc()
    blue, green = (np.full((60, 80, 3), colour, np.uint8) for colour in ((0, 0, 200), (0, 160, 0)))
    views = random_views(image, "d", views=200, seed=1, size=96, backgrounds=[blue, green])
    plain = [random_view(image, "d", number, 1, 96) for number in range(200)]
    pasted = [seen for seen, as_ever in zip(views, plain, strict=True) if not np.array_equal(seen, as_ever)]
    assert 70 < len(pasted) < 130
    assert all(seen.shape == (96, 96, 3) and seen.dtype == np.uint8 for seen in pasted)
    shares: list[float] = []
    grounds: set[int] = set()
    things: list[int] = []
    for seen in pasted:
        red, others = seen[..., 0].astype(int), seen[..., 1:].astype(int)
        grounds.add(int(np.bincount(others.reshape(-1, 2).argmax(axis=1)[(others.max(axis=2) > 90).ravel()]).argmax()))
        is_thing = red > others.max(axis=2) + 40
        shares.append(is_thing.mean())
        things.append(ndimage.label(is_thing)[1])
    assert grounds == {0, 1}
    assert 0.1 < min(shares) < 0.3 and 0.5 < max(shares) < 0.95  # of many sizes
    assert max(things) >= 3 and np.mean(np.array(things) == 1) > 0.3
    again = random_views(image.copy(), "d", views=3, seed=1, size=96, backgrounds=[blue, green])
    assert all(np.array_equal(one, other) for one, other in zip(views, again, strict=False))
    other = random_views(image, "e", views=200, seed=1, size=96, backgrounds=[blue, green])
    assert not all(np.array_equal(one, another) for one, another in zip(views, other, strict=True))


def test_backgrounds_change_no_view_of_what_cannot_be_cut_out(photos: Mapping[str, np.ndarray]) -> None:
    ground = np.zeros((50, 50, 3), np.uint8)
    views = random_views(photos["coffee"], "d", views=6, seed=1, size=96, backgrounds=[ground])
    for number, seen in enumerate(views):
        assert np.array_equal(seen, random_view(photos["coffee"], "d", number, 1, 96))
