"""Kinds and cards through a whole run: in every dataset, in the figures, and with the model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchard.cards import Cards
from orchard.inference.model import Model

from .conftest import Result, paint

Run = Callable[..., Result]
COLOURS = {"Plum 1": (90, 40, 110), "Plum Red 2": (150, 30, 60), "Lemon #2": (230, 210, 40)}


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    (tmp_path / "cards.csv").write_text("label,kind,language,name\n,Plum,fr,Prune\n")
    return tmp_path / "cards.csv"


def test_kinds_and_cards_of_a_run(run: Run, tmp_path: Path, cards: Path) -> None:
    for number, (label, colour) in enumerate(COLOURS.items()):
        for frame in range(8):
            paint(
                tmp_path / "in" / ("Training", "Test")[frame % 4 == 0] / label / f"{frame}.jpg",
                colour,
                10 * number + frame,
            )
    settings: dict[str, Any] = {"classifiers": "logistic_regression", "components": 3, "kind_from": "words"}
    first = run(tmp_path / "in", **settings, cards=str(cards))
    wanted = {"Plum 1": "Plum", "Plum Red 2": "Plum", "Lemon #2": "Lemon"}
    for dataset in ("inventory", "features", "reduced"):
        table = first.table(dataset)
        found = set(zip(table["label"].to_pylist(), table["kind"].to_pylist(), strict=True))
        assert found == set(wanted.items()), dataset
    (csv,) = (first.folder / "reduced_csv").glob("*.csv.gz")
    assert set(zip(*pd.read_csv(csv)[["label", "kind"]].to_numpy().T, strict=True)) == set(wanted.items())
    assert first.metrics["kinds"] == {"Lemon": {"test": 2, "train": 6}, "Plum": {"test": 4, "train": 12}}
    assert first.metrics["cards"] == {"cards": 1, "languages": ["fr"], "labels_without": ["Lemon #2"]}
    assert "1 of 3 labels have no card: Lemon #2; add rows to the cards." in first.metrics["warnings"]
    model = Model.load(str(first.folder))
    assert model.cards == Cards({}, {"Plum": {"fr": {"name": "Prune"}}})

    cards.write_text("label,kind,language,name\n,Plum,fr,Prune\nLemon #2,,fr,Citron\n")
    again = run(tmp_path / "in", **settings, cards=str(cards))
    assert again.metrics["images"]["decoded"] == 0
    assert again.metrics["classifiers"] == first.metrics["classifiers"]  # its seconds too: it was not trained again
    assert again.metrics["cards"]["labels_without"] == []
    assert Model.load(str(again.folder)).cards.labels == {"Lemon #2": {"fr": {"name": "Citron"}}}
    assert Model.load(str(again.folder)).digest == model.digest
