"""Further label columns of a manifest: which values an image has, and what is refused."""

from pathlib import Path

import pyarrow as pa
import pytest

from orchard.errors import InputError, UsageError
from orchard.images.columns import as_text, names_in, values_of
from orchard.images.sources import list_images
from orchard.settings import load
from orchard.storage import S3Options

MANIFEST = (
    "path,label,split,Ripeness,variety\na.jpg,Apple,train,ripe,Gala\nb.jpg,Apple,train,,Pe\u0302che \nc.jpg,,test,,\n"
)


def listed(manifest: Path, *columns: str) -> pa.Table:
    return list_images(str(manifest), S3Options(), limit=None, labels=None, seed=0, label_columns=columns).table


def test_values_are_read_from_their_columns_and_none_is_none(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(MANIFEST)
    texts = listed(tmp_path / "list.csv", "variety", "ripeness")["label_columns"]
    assert texts.to_pylist() == ['{"ripeness":"ripe","variety":"Gala"}', '{"variety":"Pêche"}', None]
    assert names_in(texts) == ("ripeness", "variety")
    assert values_of(texts, "ripeness").to_pylist() == ["ripe", None, None]
    assert values_of(texts, "variety").to_pylist() == ["Gala", "Pêche", None]
    assert listed(tmp_path / "list.csv")["label_columns"].to_pylist() == [None] * 3, "unless they are asked for"


def test_the_same_values_make_the_same_text() -> None:
    one = as_text({"b": ["=1", None], "a": [None, 'x"}']}, 2)
    assert one.equals(as_text({"a": [None, 'x"}'], "b": ["=1", None]}, 2))
    assert values_of(one, "a").to_pylist() == [None, 'x"}']
    assert as_text({}, 3).null_count == 3


def test_columns_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(MANIFEST)
    with pytest.raises(InputError, match="no column 'colour', only path, label, split, ripeness, variety: name one"):
        listed(tmp_path / "list.csv", "ripeness", "colour")
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="is no manifest, and --label-columns names columns of one"):
        listed(tmp_path, "ripeness")


def test_an_image_with_two_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,ripeness\na.jpg,raw\na.jpg,ripe\n")
    with pytest.raises(InputError, match="twice, with different labels, kinds, splits, groups or other values: keep"):
        listed(tmp_path / "list.csv", "ripeness")


@pytest.mark.parametrize("names", ["label", "kind", "ripeness,split", "Maturité", "a b", "../x", "a,a"])
def test_a_name_that_files_and_outputs_cannot_have_is_refused(names: str) -> None:
    with pytest.raises(UsageError, match="--label-columns"):
        load({"label_columns": names})
    assert load({"label_columns": "Ripeness, disease_2"}).label_columns == ("ripeness", "disease_2")  # as headers are
