"""Mistakes show where the network looked, in a picture and in words, within bounds."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from orchard.errors import InputError
from orchard.inference.model import Model
from orchard.report import looks as module
from orchard.report.looks import in_words, looks, shade
from orchard.report.samples import Mistake
from orchard.vocabulary import Fit

LABELS = ("a", "b", "c")


def dark(left: int, top: int) -> bytes:
    """A white picture of 200 x 100 with a black square."""
    image = Image.new("RGB", (200, 100), "white")
    image.paste("black", (left, top, left + 50, top + 25))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def opened(picture: str) -> np.ndarray:
    """The alpha of a picture, (height, width)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA"))[..., 3]


def test_where_the_network_looked_is_shown_and_said(a_model: Callable[[Sequence[str]], Model]) -> None:
    images = {"right.png": dark(150, 0), "left.png": dark(0, 75), "all.png": dark(75, 37), "broken.png": b"GIF89a"}
    mistakes = [Mistake(path, "a", "b", 0.9) for path in (*images, "gone.png")]
    mistakes += [Mistake("right.png", "b", "never learned", 0.8), Mistake("of-none.png", "b", "a", 0.8)]
    images["of-none.png"] = dark(0, 0)
    found = looks(mistakes, "logistic_regression", lambda: a_model(LABELS), images.__getitem__)
    places = {path: look.place for path, look in found.items()}
    assert places == {
        "right.png": "top right",
        "left.png": "bottom left",
        "all.png": "middle",
        "of-none.png": "nowhere",
    }
    shown = opened(found["right.png"].picture)
    assert shown.shape == (60, 120)  # as large as the thumbnail
    assert shown[5, 110] < 40 and shown[50, 10] > 140
    assert opened(found["of-none.png"].picture).min() > 140


@pytest.mark.parametrize(("fit", "clear"), [(Fit.STRETCH, (10, 110)), (Fit.CROP, (40, 80)), (Fit.PAD, (10, 110))])
def test_a_map_lies_over_what_the_network_sees(fit: Fit, clear: tuple[int, int]) -> None:
    shown = opened(shade([[1.0] * 7] * 7, 300, 150, fit))
    left, right = clear
    assert shown.shape == (60, 120)
    assert shown[30, left] < 10 and shown[30, right] < 10
    assert (shown[30, 20] > 140) == (fit is Fit.CROP)


def test_a_map_is_said_in_words() -> None:
    assert in_words([[0.1, 0.2], [0.0, 0.0]]) == "nowhere"
    assert in_words([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]) == "top"
    assert in_words([[0.0, 0.0, 0.0], [0.9, 0.0, 0.0], [1.0, 0.4, 0.4]]) == "bottom left"


def test_time_and_size_are_bounded(a_model: Callable[[Sequence[str]], Model], monkeypatch: pytest.MonkeyPatch) -> None:
    model = a_model(LABELS)
    mistakes = [Mistake(f"{n}.png", "a", "b", 0.9) for n in range(40)]

    def of(load: Callable[[], Model], classifier: str = "logistic_regression") -> int:
        return len(looks(mistakes, classifier, load, lambda _: dark(0, 0)))

    assert of(lambda: model) == module.MAX_LOOKS
    monkeypatch.setattr(module, "BUDGET", 2_000)
    assert 0 < of(lambda: model) < 10
    monkeypatch.setattr(module, "MAX_SECONDS", -1)
    assert of(lambda: model) == 0
    monkeypatch.undo()

    def none() -> Model:
        raise InputError("there is no model")

    assert of(none) == 0
    assert of(lambda: model, "random_forest") == 0
    assert of(lambda: replace(model, classifier="")) == 0
