"""Cards: the table that is read, what is refused of it, which card is found, and how they come to the model."""

import codecs
from pathlib import Path

import pyarrow as pa
import pytest

from orchard import cards, models, summary
from orchard.cards import Cards, bring_to_model, language_tag, read, remember
from orchard.errors import InputError, StorageError
from orchard.layout import BACKBONE, CARDS, FEATURES, INVENTORY, LABELS, Dataset
from orchard.output import NO_MODEL, Output
from orchard.verify import verify

TABLE = """label,kind,language,name,text,season,storage,origin,link,source,licence
Apple Golden 3,,en,Golden Delicious,"Sweet, and yellow.
Good for cakes.",October to April,cool,"West Virginia, 1890",https://example.org/golden?a=b,own,CC0
,Apple,en,Apple,,,,,,,
,Apple,fr,Pomme,Se garde longtemps.,,,,,,
,Apple,pt_br,Maçã,,,,,,,
Mango,,de,Mango,,,,,,,
"""
HEADER = "label,kind,language,name,link,text\n"


def table(text: str = TABLE) -> Cards:
    return Cards.from_csv(text.encode(), "cards.csv")


def test_a_table_is_read_as_it_is_meant() -> None:
    found = table()
    assert len(found) == 5
    assert found.languages == ["de", "en", "fr", "pt-BR"]
    assert found.find("Apple Golden 3", None) == {
        "label": "Apple Golden 3",
        "language": "en",
        "name": "Golden Delicious",
        "text": "Sweet, and yellow.\nGood for cakes.",
        "season": "October to April",
        "storage": "cool",
        "origin": "West Virginia, 1890",
        "link": "https://example.org/golden?a=b",
        "source": "own",
        "licence": "CC0",
    }
    assert found.find(None, "Apple", ["fr"]) == {
        "kind": "Apple",
        "language": "fr",
        "name": "Pomme",
        "text": "Se garde longtemps.",
    }
    assert Cards.from_bytes(found.to_bytes()) == found


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + TABLE.encode(),
        codecs.BOM_UTF16_LE + TABLE.encode("utf-16-le"),
        TABLE.replace("\n", "\r\n").encode(),
        ("sep=,\r\n" + TABLE).encode(),
        ("\n\n" + TABLE.replace("Apple,fr", " Apple ,FR") + ",,,,,\n\n").encode(),
    ],
    ids=["mark", "utf-16", "windows", "excel", "blanks"],
)
def test_what_spreadsheets_save_is_the_same_table(data: bytes) -> None:
    assert Cards.from_csv(data, "cards.csv").to_bytes() == table().to_bytes()


def test_columns_may_be_few_and_in_any_order() -> None:
    assert table("NAME;Language;Kind\nPomme;fr;Apple\n").find(None, "Apple") == {
        "kind": "Apple",
        "language": "fr",
        "name": "Pomme",
    }


def test_the_label_is_found_before_its_kind_and_names_are_in_nfc() -> None:
    found = table()
    assert found.find("Apple Golden 3", "Apple", ["fr"]) == found.find("Apple Golden 3", None)
    assert found.find("Apple 11", "Apple", ["fr"]) == found.find(None, "Apple", ["fr"])
    assert found.find("Mango 2", "Mango", ["en"]) == {"kind": "Mango", "language": "de", "name": "Mango"}
    assert found.find("Plum 5", "Plum") is None
    assert found.find(None, None) is None
    decomposed = table("label,language,name\nPe\u0302che,fr,Pe\u0302che\n")
    assert decomposed.find("Pêche", None) == {"label": "Pêche", "language": "fr", "name": "Pêche"}


@pytest.mark.parametrize(
    ("wanted", "language"),
    [
        (["fr"], "fr"),
        (["fr-CA"], "fr"),
        (["pt"], "pt-BR"),
        (["ja", "fr-FR"], "fr"),
        (["ja"], "en"),
        ([], "en"),
        (["pt-BR", "fr"], "pt-BR"),
    ],
)
def test_the_language_falls_back(wanted: list[str], language: str) -> None:
    card = table().find(None, "Apple", wanted)
    assert card is not None
    assert card["language"] == language


def test_without_english_any_language_will_do() -> None:
    card = table().find("Mango", None, ["ja"])
    assert card is not None
    assert card["language"] == "de"


@pytest.mark.parametrize(
    ("text", "tag"),
    [("FR", "fr"), ("pt_br", "pt-BR"), ("zh-hant-TW", "zh-Hant-TW"), ("", None), ("french", None), ("en-", None)],
)
def test_languages_are_written_one_way(text: str, tag: str | None) -> None:
    assert language_tag(text) == tag


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("label,language,nome\n", "column 'nome': did you mean 'name'"),
        ("label,language,name,notes of mine\n", "column 'notes of mine': there are label, kind"),
        ("label,language,name,Name\n", "two columns 'name'"),
        ("language,name\n", "no column 'label' or 'kind'"),
        ("kind,name\n", "no column 'language'"),
        (HEADER + ",,en,Apple,,\n", "line 2: it has neither label nor kind"),
        (HEADER + "A,,en,Apple,,\n\nB,,,Pear,,\n", "line 4: it has no language"),
        (HEADER + 'A,,en,Apple,,"two\nlines"\nB,,en,,,\n', "line 4: it has no name"),
        (HEADER + "A,,english,Apple,,\n", "line 2: 'english' is no language"),
        (
            HEADER + "A,,fr-CA,a,,\nB,,fr,b,,\nA,,FR_ca,c,,\n",
            "line 4: the label 'A' has a card in 'fr-CA' already, in line 2",
        ),
        (HEADER + "A,,en,Apple,javascript:alert(1),\n", "line 2: 'javascript:alert(1)' is no link"),
        (HEADER + "A,,en,Apple,//example.org,\n", "is no link"),
        (HEADER + "A,,en,Apple,https://,\n", "is no link"),
        (HEADER + "A,,en,Apple,https://me:secret@example.org/,\n", "is no link"),
        (HEADER + "A,,en,Apple,https://exa mple.org,\n", "is no link"),
        (HEADER + "A,,en,Apple,https://[,\n", "is no link"),
        (HEADER + "A,,en,Apple,,sweet,and sour\n", "line 2: it has 7 fields and the header 6"),
        (HEADER + f"A,,en,{'x' * 501},,\n", "line 2: its name has 501 characters: 500 are the most"),
        (HEADER + f"A,,en,x,,{'x' * 4001}\n", "its text has 4,001 characters"),
        (HEADER + "A,,en,Ap\x1bple,,\n", "line 2: its name holds control characters"),
        ("sep=,\nlabel,language,name\nA,en,\n", "line 3: it has no name"),
        (HEADER + 'A,,en,"Apple,,\n', "cannot be read"),
        ("label,language,name\nA,en,\0\n", "null characters"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_its_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        table(text)
    assert said in str(refused.value)
    assert str(refused.value).startswith("cards cards.csv")


def test_other_encodings_and_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        Cards.from_csv((HEADER + "A,,fr,Pêche,,\n").encode("latin-1"), "cards.csv")
    with pytest.raises(InputError, match="more than 4,194,304 bytes"):
        table(HEADER + "x" * 2**22)
    monkeypatch.setattr(cards, "MAX_CARDS", 4)
    with pytest.raises(InputError, match="more than 4 rows"):
        table()


def test_the_file_is_read_from_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "cards.csv").write_text(TABLE)
    assert read(str(tmp_path / "cards.csv")) == table() == read((tmp_path / "cards.csv").as_uri())
    with pytest.raises(InputError, match="does not exist: check --cards"):
        read(str(tmp_path / "other.csv"))
    with pytest.raises(StorageError, match="cannot be read"):
        read(str(tmp_path))


KNOWN = [("Apple Golden 3", "Apple"), ("Apple 11", "Apple"), ("Plum 5", "Plum"), ("Mango", "Mango"), (None, "Kiwi")]


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """An output of five images with a model."""
    output = Output(str(tmp_path / "out"))
    rows = [{"path": f"{n}.jpg", "label": label, "kind": k, "featurized": True} for n, (label, k) in enumerate(KNOWN)]
    tables = {Dataset.INVENTORY: INVENTORY, Dataset.FEATURES: FEATURES}
    with output.writing():
        output.commit({d: [output.stage(d, pa.Table.from_pylist(rows, schema))] for d, schema in tables.items()})
        output.commit({}, parts={BACKBONE: b"network"})
        output.commit({}, model=output.stage_model({LABELS: b"[]"}))
    return output


def put(output: Output, given: Cards | None) -> None:
    """As the stage does."""
    with output.writing():
        remember(output, given)
        bring_to_model(output)


def kept(output: Output) -> Cards | None:
    """What the model has."""
    model = models.current(output.storage)
    assert set(model.digests) - {CARDS} == {BACKBONE, LABELS}
    return Cards.from_bytes(model.read(CARDS)) if CARDS in model.digests else None


def test_other_cards_make_another_model_of_the_same_parts(output: Output) -> None:
    folders = [output.model_folder]
    for given in (table(), table(HEADER + "Mango,,fr,Mangue,,\n"), None):
        put(output, given)
        assert kept(output) == given
        folders.append(output.model_folder)
        records = len(list(Path(output.url, "_orchard", "commits").iterdir()))
        put(output, given)  # changes nothing
        assert len(list(Path(output.url, "_orchard", "commits").iterdir())) == records
    assert len(set(folders)) == 3 and folders[0] == folders[-1]
    assert verify(output)["damage"] == []


def test_cards_that_were_remembered_before_a_run_was_killed_come_to_the_model(output: Output) -> None:
    with output.writing():
        remember(output, table())
    assert kept(output) is None
    put(output, table())
    assert kept(output) == table()


def test_cards_wait_for_a_model(output: Output) -> None:
    with output.writing():
        output.commit({}, model=NO_MODEL)
    put(output, table())
    with output.writing():
        output.commit({}, model=output.stage_model({LABELS: b"[]"}))
    assert kept(output) == table()


def test_labels_without_a_card_and_cards_without_an_image_are_said(output: Output) -> None:
    put(output, table(TABLE + "Apple Gala,,en,Gala,,,,,,,\n,Grape,en,Grape,,,,,,,\n"))
    found = summary.metrics(output, decoded=0, seconds={})
    assert found["cards"] == {"cards": 7, "languages": ["de", "en", "fr", "pt-BR"], "labels_without": ["Plum 5"]}
    assert found["warnings"] == [
        "1 of 4 labels have no card: Plum 5; add rows to the cards.",
        "Cards of names that no image has: Apple Gala, Grape; check how labels and kinds are spelled.",
    ]
    assert found["kinds"] == {"Apple": {None: 2}, "Kiwi": {None: 1}, "Mango": {None: 1}, "Plum": {None: 1}}
    put(output, None)
    assert "cards" not in summary.metrics(output, decoded=0, seconds={})
