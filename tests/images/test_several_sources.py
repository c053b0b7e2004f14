"""Several sources: every image says which one lists it, and none is in two."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from orchard.errors import InputError, UsageError
from orchard.images.sources import check_apart, check_weights, list_images
from orchard.settings import load
from orchard.storage import S3Options


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, str]:
    for path in ("studio/Apple/1.jpg", "studio/Pear/2.jpg", "market/test/Apple/1.jpg", "market/train/Pear/3.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "market" / "notes.txt").write_text("Bought on Tuesday.")
    return str(tmp_path / "studio"), f"{tmp_path / 'market'}/"


def listed(source: str | Sequence[str], **options: object) -> pa.Table:
    return list_images(source, S3Options(), limit=None, labels=None, seed=0, **options).table  # type: ignore[arg-type]


def test_each_image_says_where_it_comes_from(folders: tuple[str, str]) -> None:
    rows = listed(folders).select(["path", "label", "split", "source"]).to_pylist()
    studio, market = (folder.rstrip("/") for folder in folders)
    assert [(row["source"], row["label"], row["split"]) for row in rows] == [
        (market, "Apple", "test"),
        (market, "Pear", "train"),
        (studio, "Apple", None),
        (studio, "Pear", None),
    ]
    assert all(row["path"].startswith(row["source"]) for row in rows)
    both = list_images(folders, S3Options(), limit=None, labels=None, seed=0)
    assert (both.ignored_count, both.ignored) == (1, [f"{market}/notes.txt"])
    assert listed(folders[0])["source"].null_count == 2, "of one source there is nothing to say"


@pytest.mark.parametrize(
    ("names", "folders", "splits"),
    [
        (["Training", "Test"], ["Training", "Test"], ["train", "test"]),
        (["seg_train", "seg_test"], ["seg_train", "seg_test"], ["train", "test"]),
        (["train/", "dev"], ["train", "dev"], ["train", "test"]),
        (["train/*/*.jpg", "test"], ["train", "test"], ["train", "test"]),
        (["train.csv", "test.csv"], ["a", "b"], ["train", "test"]),
        (["a.csv", "b.csv"], ["train", "test"], ["train", "test"]),
        (["Test tube", "Train station"], ["Test tube", "Train station"], [None, None]),
        (["studio", "market"], ["studio", "market"], [None, None]),
    ],
)
def test_sources_beside_each_other_tell_the_split_as_folders_do(
    tmp_path: Path, names: list[str], folders: list[str], splits: list[str | None]
) -> None:
    sources = []
    for number, (name, folder) in enumerate(zip(names, folders, strict=True)):
        image = tmp_path / "in" / folder / "Apple" / f"{number}.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"")
        sources.append(f"{image.parents[2]}/{name}")
        if name.endswith(".csv"):
            sources[-1] = str(tmp_path / "lists" / name)
            (tmp_path / "lists").mkdir(exist_ok=True)
            Path(sources[-1]).write_text(f"path,label\n{image},Apple\n")
    found = listed(sources).sort_by("path").to_pylist()
    by_number = {row["path"].rpartition("/")[2]: row["split"] for row in found}
    assert [by_number[f"{number}.jpg"] for number in range(len(names))] == splits
    assert {row["label"] for row in found} == {"Apple"}
    assert listed(sources[0])["split"].to_pylist() == [None], "alone, its own name says nothing"


def test_a_sample_is_of_all_sources(folders: tuple[str, str]) -> None:
    found = list_images(folders, S3Options(), limit=2, labels=["Pear"], seed=0).table
    assert len(set(found["source"].to_pylist())) == 2


def test_columns_are_those_of_the_manifests_among_them(folders: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label,ripeness\nmarket/train/Pear/3.jpg,Pear,ripe\n")
    found = listed([folders[0], str(tmp_path / "list.csv")], label_columns=["ripeness"])
    assert found["label_columns"].to_pylist() == ['{"ripeness":"ripe"}', None, None]
    with pytest.raises(InputError, match="is no manifest, and --label-columns"):
        listed(folders, label_columns=["ripeness"])


@pytest.mark.usefixtures("folders")
def test_an_image_in_two_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"both list .*/studio/Apple/1.jpg: give sources that have no image in common"):
        listed([str(tmp_path / "studio"), str(tmp_path / "studio" / "Apple")])


def test_an_output_among_images_and_a_source_given_twice_are_refused(folders: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="is where the images are"):
        check_apart(folders, folders[1])
    with pytest.raises(UsageError, match="is given twice: name each source once"):
        check_apart([folders[0], f"{folders[0]}/"], "/elsewhere")


def test_weights_are_of_sources(folders: tuple[str, str]) -> None:
    check_weights(folders, {folders[1].rstrip("/"): 0.3})
    with pytest.raises(UsageError, match="names none of the sources: write it as it is given"):
        check_weights(folders, {"studio": 0.3})
    with pytest.raises(UsageError, match="weighs several sources against each other"):
        check_weights(folders[0], {folders[0]: 0.3})
    for wrong in (0, -1, "much"):
        with pytest.raises(UsageError):
            load({"source_weight": {"a": wrong}})
