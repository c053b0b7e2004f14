"""What there is to know about a fruit comes with the answer if it is asked for, and whole for the page."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from orchard.cards import Cards
from orchard.inference.calibration import Calibration
from orchard.inference.model import Model
from orchard.serving.app import Serving, create_app
from orchard.serving.cards import accepted, requested
from orchard.serving.openapi import Card
from orchard.serving.problems import Problem

CARDS = Cards(
    {
        "Mango": {
            "en": {"name": "Mango", "text": "</script> & <b>"},
            "fr": {"name": "Mangue", "link": "https://example.org/"},
        }
    },
    {"Plum": {"fr": {"name": "Prune"}}},
)


@pytest.fixture(scope="module")
def client(trained: Path) -> Iterator[TestClient]:
    """A model with cards that is sure of everything."""
    model = replace(Model.load(str(trained)), cards=CARDS, calibration=Calibration(threshold=0))
    with TestClient(create_app(model, Serving(engines=1))) as client:
        yield client


@pytest.fixture(scope="module")
def photo(fruits: Path) -> bytes:
    return min((fruits / "Test" / "Mango").iterdir()).read_bytes()


def ask(client: TestClient, photo: bytes, query: str, **headers: str) -> dict[str, Any]:
    answer = client.post(f"/v1/predict?{query}", files={"file": photo}, headers=headers)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["predictions"]
    assert found["label"] == "Mango"
    return dict(found)


def test_an_answer_has_a_card_only_where_one_is_asked_for(client: TestClient, photo: bytes) -> None:
    assert "card" not in ask(client, photo, "top=2", **{"accept-language": "fr"})
    card = ask(client, photo, "cards=fr-CA")["card"]
    assert card == {"label": "Mango", "language": "fr", "name": "Mangue", "link": "https://example.org/"}
    assert set(Card.model_fields) >= card.keys()
    assert ask(client, photo, "top=2&cards", **{"accept-language": "de;q=0.9, fr;q=0.5"})["card"] == card
    assert ask(client, photo, "cards=")["card"]["language"] == "en"


def test_a_language_that_is_none_is_refused_in_a_sentence(client: TestClient, photo: bytes) -> None:
    for query in ("cards=<b>", "cards=french", "cards=fr&cards=en"):
        answer = client.post(f"/v1/predict?{query}", files={"file": photo})
        assert (answer.status_code, answer.json()["reason"]) == (422, "bad_parameter")
        assert answer.json()["detail"] == "cards is a language such as fr or pt-BR, or empty."


def test_the_page_gets_all_cards_and_asks_again_only_for_others(client: TestClient) -> None:
    assert client.get("/model.json").json()["cards"] == "/cards.json"
    answer = client.get("/cards.json")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json() == {
        "cards": [
            {"label": "Mango", "language": "en", "name": "Mango", "text": "</script> & <b>"},
            {"label": "Mango", "language": "fr", "name": "Mangue", "link": "https://example.org/"},
            {"kind": "Plum", "language": "fr", "name": "Prune"},
        ]
    }
    assert client.get("/cards.json", headers={"if-none-match": answer.headers["etag"]}).status_code == 304


def test_a_model_without_cards_says_so(trained: Path) -> None:
    client = TestClient(create_app(Model.load(str(trained))))
    assert client.get("/model.json").json()["cards"] is None
    assert client.get("/cards.json").status_code == 404


def test_the_parameter_is_described(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    (cards,) = (p for p in document["paths"]["/v1/predict"]["post"]["parameters"] if p["name"] == "cards")
    assert cards["allowEmptyValue"] is True
    assert "link" in document["components"]["schemas"]["Card"]["properties"]


def test_a_kind_that_is_sure_alone_has_its_card_and_what_is_unsure_none() -> None:
    card_of = requested(CARDS, b"cards=en", [])
    assert card_of is not None
    assert card_of(None, "Plum") == {"kind": "Plum", "language": "fr", "name": "Prune"}
    assert card_of("Plum 5", "Plum") == card_of(None, "Plum")
    assert card_of(None, None) is None
    assert requested(CARDS, b"top=3&wildcards=fr", []) is None
    with pytest.raises(Problem):
        requested(CARDS, b"cards=\xff", [])


@pytest.mark.parametrize(
    ("header", "languages"),
    [
        (b"", []),
        (b"fr-CA, fr;q=0.9,en;q=0.8, *;q=0.1", ["fr-CA", "fr", "en"]),
        (b"en;q=0.1,de;q=0.5, ja;q=0", ["de", "en"]),
        (b"en;q=2, fr;level=1, it", ["it"]),
        (b"<script>,\xff,de", ["de"]),
        (b",".join([b"xx"] * 10 + [b"de"]), ["xx"] * 10),
    ],
)
def test_the_languages_of_a_browser_are_taken_in_its_order(header: bytes, languages: list[str]) -> None:
    assert accepted(header) == languages
