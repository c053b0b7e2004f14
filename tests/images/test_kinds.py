"""Kinds, the names above labels, come from folders, from words or from a manifest; what may not be meant so is said."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest

from conftest import SHARED
from orchard.errors import InputError
from orchard.images.kinds import KindFrom, kinds_of, leading_words
from orchard.images.places import places
from orchard.images.sources import Listing, list_images
from orchard.storage import S3Options

SHOPS = SHARED / "grocery" / "split.csv"


def _kinds(*folders: str, level: int = 1) -> list[str | None]:
    return places("photos", folders, level).kinds


def _list(source: Path, kind_from: KindFrom | None = None, level: int = 1) -> Listing:
    return list_images(
        str(source), S3Options(), limit=None, labels=None, seed=0, kind_from=kind_from, label_level=level
    )


def _names(listing: Listing) -> set[tuple[str | None, str | None]]:
    table = listing.table
    return set(zip(table["label"].to_pylist(), table["kind"].to_pylist(), strict=True))


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\xff\xd8\xff" + name.encode())
    return root


def test_the_folder_above_the_label_is_its_kind() -> None:
    assert _kinds("Fruit/Apple/Golden-Delicious", "Fruit/Apple/Granny-Smith", "Fruit/Pear/Anjou") == [
        "Apple",
        "Apple",
        "Pear",
    ]
    assert _kinds("Apple/Golden", "Pear/Anjou") == ["Apple", "Pear"]


def test_splits_are_no_kinds() -> None:
    found = ["Training/Apple/Golden", "Test/Apple/Golden", "Apple/Test/Golden", "Apple/Golden/Test"]
    assert _kinds(*found) == ["Apple"] * 4
    assert _kinds("Training/Lemon", "Test/Lemon") == [None, None]


def test_labels_in_the_root_have_no_kind() -> None:
    assert _kinds("Lemon", "Mango", "") == [None, None, None]
    assert _kinds("Training", "Test") == [None, None]


def test_a_label_beside_kinds_is_its_own_kind() -> None:
    assert _kinds("Fruit/Apple/Golden", "Fruit/Banana", "Fruit/Apple") == ["Apple", "Banana", "Apple"]
    assert _kinds("Apple/Golden", "Banana") == ["Apple", "Banana"]


def test_a_label_of_several_folders_has_the_kind_above_its_last() -> None:
    assert _kinds("Apple/Red", "Grape/Red", level=2) == ["Apple", "Grape"]
    assert _kinds("Fruit/Apple/Red", "Fruit/Banana", level=3) == ["Fruit/Apple", "Fruit/Banana"]


def test_names_are_in_nfc_and_objects_may_have_nameless_folders() -> None:
    assert _kinds("Pe\u0302che/Blanche", "Pêche//Jaune") == ["Pêche", "Pêche"]


@pytest.mark.skipif(not SHOPS.is_file(), reason=f"there are no photos from shops: no {SHOPS}")
def test_the_shop_photos_folders_tell_the_kinds_that_their_authors_gave() -> None:
    """Of 81 labels all but one, a mushroom without a folder of mushrooms."""
    rows = list(csv.DictReader(SHOPS.open()))
    folders = sorted({row["path"].rpartition("/")[0] for row in rows})
    given = {row["path"].rpartition("/")[0]: row["kind"] for row in rows}
    labels = {row["path"].rpartition("/")[0]: row["label"] for row in rows}
    other = {labels[folder] for folder, kind in zip(folders, _kinds(*folders), strict=True) if kind != given[folder]}
    assert other == {"Brown-Cap-Mushroom"}


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Apple 11", "Apple"),
        ("Apple Golden 3", "Apple"),
        ("Tomato Cherry Red 2", "Tomato"),
        ("Cherry 4", "Cherry"),
        ("Mango", "Mango"),
        ("apple_golden-3", "apple"),
        ("Golden-Delicious", "Golden"),
        ("Apple2", "Apple"),
        ("3 Apple", "Apple"),
        ("  Kiwi\n2 ", "Kiwi"),
        ("Red/Apple", "Red"),
        ("d'Anjou Pear", "d'Anjou"),
        ("Pêche blanche", "Pêche"),
        ("सेब लाल 2", "सेब"),
        ("苹果1", "苹果"),
        ("Яблоко №3", "Яблоко"),
        ("12", None),
        ("' -", None),
    ],
)
def test_the_first_word_is_the_kind(label: str, kind: str | None) -> None:
    assert leading_words([label]) == [kind]


def test_words_that_differ_in_case_are_one_kind() -> None:
    assert leading_words(["apple 1", "Apple 2", "APPLE-3", "STRASSE", "straße"]) == ["APPLE"] * 3 + ["STRASSE"] * 2


def test_an_image_without_a_label_has_no_word() -> None:
    labels = pa.chunked_array([["Apple 1", None], ["Apple 2"]])
    assert kinds_of(labels, pa.nulls(3, pa.string()), "words").to_pylist() == ["Apple", None, "Apple"]
    assert kinds_of(labels, pa.array(["x", "y", "z"]), None).to_pylist() == [None] * 3


def test_a_listing_has_kinds_only_if_they_are_asked_for(tmp_path: Path) -> None:
    root = _touch(tmp_path / "in", "Test/Apple/Golden 1/a.jpg", "Training/Apple/Golden 1/b.jpg", "Apple/Red/c.jpg")
    assert _names(_list(root)) == {("Golden 1", None), ("Red", None)}
    assert _names(_list(root, "folder")) == {("Golden 1", "Apple"), ("Red", "Apple")}
    assert _names(_list(root, "words")) == {("Golden 1", "Golden"), ("Red", "Red")}


def test_a_manifests_column_comes_first(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "path,label,kind\nApple/Red/a.jpg,Gala, Pomme\nApple/b.jpg,,Pe\u0302che\nc.jpg,Fig,\n"
    )
    for kind_from in (None, "folder", "words"):
        assert _names(_list(tmp_path / "list.csv", kind_from)) == {("Gala", "Pomme"), (None, "Pêche"), ("Fig", None)}
    (tmp_path / "list.csv").write_text("path,label\nApple/Red/a.jpg,Gala 3\n")
    assert _names(_list(tmp_path / "list.csv")) == {("Gala 3", None)}
    assert _names(_list(tmp_path / "list.csv", "folder")) == {("Gala 3", "Apple")}
    assert _names(_list(tmp_path / "list.csv", "words")) == {("Gala 3", "Gala")}


def test_an_image_with_two_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,kind\na.jpg,Gala,Apple\na.jpg,Gala,Pear\n")
    with pytest.raises(
        InputError, match="twice, with different labels, kinds, splits, groups or other values: keep one row"
    ):
        _list(tmp_path / "list.csv")


def test_what_may_not_be_meant_so_is_said(tmp_path: Path) -> None:
    two = _touch(tmp_path / "two", "Apple/Red/a.jpg", "Grape/Red/b.jpg", "Apple/Green/c.jpg")
    assert _list(two, "folder").warnings[-1] == (
        "Labels of more than one kind: 'Red' (Apple and Grape); --label-level 2 tells them apart, "
        "if they are not the same."
    )
    assert _list(two, "folder", level=2).warnings == []
    flat = _touch(tmp_path / "flat", "Lemon/a.jpg", "12/b.jpg")
    assert _list(flat, "folder").warnings == [
        "--kind-from folder found no kinds: no label lies in a folder of its kind, such as Apple/Golden."
    ]
    assert _list(flat, "words").warnings == [
        "1 of 2 images have no kind: only their labels are learned.",
        "All kinds are one, 'Lemon', so they tell nothing.",
    ]
    same = _touch(tmp_path / "same", "Lemon/a.jpg", "Mango/b.jpg")
    assert _list(same, "words").warnings == [
        "Every kind is called as its label, so kinds tell nothing that labels do not."
    ]
    assert _list(same).warnings == []
