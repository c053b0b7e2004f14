"""Names of files say what is on their pictures, in many ways of writing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchard.inference.kinds import Kinds
from orchard.inference.model import Model
from orchard.inference.names import Measured, Named, Tally, Vocabulary

LABELS = (
    *("Apple Golden 1", "Apple Red 2", "Banana Lady Finger", "Cherry Rainier", "Mango", "Passion Fruit", "Peach"),
    *("Peach Flat", "Plum 3", "Plum 5", "Raspberry", "Sweet-Potato", "Tomato"),
)
KINDS = ("Apple", "Banana", "Cherry", "Mango", "Passion-Fruit", "Peach", "Plum", "Raspberry", "Sweet-Potato", "Tomato")
OF = (0, 0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9)


def model(*, with_kinds: bool) -> Model:
    artifact: Any = None  # what a model knows, not what it sees, is what matters
    zeros = np.zeros((len(LABELS), 1), np.float32)
    found = Model(artifact, LABELS, zeros, zeros[:, 0])
    return replace(found, kinds=Kinds(KINDS, np.eye(len(KINDS), dtype=np.float32)[list(OF)])) if with_kinds else found


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("apple.jpg", {"Apple"}),
        ("APPLES 12.JPEG", {"Apple"}),
        ("apples1_2.jpg", {"Apple"}),
        ("cherries(rainier)3.jpg", {"Cherry"}),
        ("Cherry (Rainier).png", {"Cherry"}),
        ("Bananas(lady_finger)2.jpg", {"Banana"}),
        ("apple_mango_peach_peach(flat)_plum.jpg", {"Apple", "Mango", "Peach", "Plum"}),
        ("tomatoes-mangoes+raspberries.jpg", {"Tomato", "Mango", "Raspberry"}),
        ("passion_fruit_plums.jpg", {"Passion-Fruit", "Plum"}),
        ("sweet_potatoes(no_such)_peaches2.webp", {"Sweet-Potato", "Peach"}),
        ("apple red_mango.jpg", {"Apple", "Mango"}),
        ("apple_golden.jpg", {"Apple"}),
        ("s3a://bucket/test-multiple_fruits/plum, peach & mango 7.jpg", {"Plum", "Peach", "Mango"}),
    ],
)
def test_kinds_are_read_however_they_are_written(name: str, kinds: set[str]) -> None:
    assert Vocabulary(model(with_kinds=True)).read(name) == Named(frozenset(frozenset({kind}) for kind in kinds))


@pytest.mark.parametrize(
    ("name", "things"),
    [
        ("apple.jpg", [{"Apple Golden 1", "Apple Red 2"}]),
        ("apples(golden)_mango.jpg", [{"Apple Golden 1"}, {"Mango"}]),
        ("peach_peach(flat).jpg", [{"Peach"}, {"Peach Flat"}]),
        ("cherries_cherry(rainier).jpg", [{"Cherry Rainier"}]),
        ("plums(no_such).jpg", [{"Plum 3", "Plum 5"}]),
    ],
)
def test_without_kinds_labels_are_read_and_a_name_may_mean_several(name: str, things: list[set[str]]) -> None:
    assert Vocabulary(model(with_kinds=False)).read(name) == Named(frozenset(map(frozenset, things)))


@pytest.mark.parametrize("with_kinds", [True, False])
def test_words_that_the_model_does_not_know_are_listed_as_they_are_written(with_kinds: bool) -> None:
    read = Vocabulary(model(with_kinds=with_kinds)).read
    assert read("mango_Lychees_carambula(x)2.jpg").unknown == ("Lychees", "carambula")
    assert read("DSC_0042.jpg").unknown == ("DSC",)
    assert read("0042.jpg") == read("(mango).jpg") == Named(frozenset())
    assert read("mangosteen.jpg").unknown == ("mangosteen",)


def test_recall_and_precision_count_each_thing_once_a_picture() -> None:
    tally = Tally()
    assert (tally.recall, tally.precision) == (None, None)
    tally.add([{"Apple Golden 1", "Apple Red 2"}, {"Mango"}], ["Apple Golden 1", "Apple Red 2", "Plum 3"])
    tally.add([{"Mango"}], [])
    assert (tally.pictures, tally.there, tally.found, tally.said, tally.right) == (2, 3, 1, 3, 2)
    assert (tally.recall, tally.precision) == (1 / 3, 2 / 3)


def test_answers_pass_and_pictures_whose_names_or_bytes_cannot_be_read_are_not_measured() -> None:
    mango: Any = {"box": [0, 0, 1, 1], "name": "Mango", "confidence": 1.0}
    answers: list[Any] = [
        {"path": "mango_apple.jpg", "regions": [mango]},
        {"path": "mango_lychee.jpg", "regions": [mango]},
        {"path": "17.jpg", "regions": [mango]},
        {"path": "plum.jpg", "reason": "corrupt", "detail": "x"},
    ]
    measured = Measured()
    assert list(measured.taken(Vocabulary(model(with_kinds=True)), iter(answers))) == answers
    assert (measured.tally.recall, measured.tally.precision) == (0.5, 1.0)
    assert (measured.tally.pictures, measured.unread, dict(measured.unknown)) == (1, 2, {"lychee": 1})
    assert "precision  100.0%" in str(measured) and "lychee (1)" in str(measured)
