"""A corrected list changes what it says, and is refused in one sentence where it cannot be meant so."""

from pathlib import Path

import pyarrow as pa
import pytest

from orchard.errors import InputError, UsageError
from orchard.images.corrections import Corrections, read
from orchard.images.sources import list_images, list_selected
from orchard.layout import LISTING, SUSPECTS
from orchard.review.faults import as_csv
from orchard.settings import load
from orchard.storage import S3Options

HEADER = "path,label,suggested,corrected,drop\n"


def listing() -> pa.Table:
    rows = [
        {"path": f"/in/{name}", "label": label, "kind": kind, "split": "train"}
        for name, label, kind in (
            ("1", "Golden", "Apple"),
            ("2", "Golden", "Apple"),
            ("3", "Lemon", "Citrus"),
            ("4", None, None),
            ("5", "Lemon", "Citrus"),
        )
    ]
    return pa.Table.from_pylist(rows, LISTING)


def of(text: str) -> Corrections:
    return Corrections.from_csv(text.encode(), "c.csv")


def test_labels_are_corrected_with_their_kinds_and_images_left_out() -> None:
    text = HEADER + "/in/1,Golden,Lemon,Lemon,\n/in/2,Golden,Lemon,,\n/in/3,Lemon,,,yes\n/in/4,,,New,\n/gone,x,,,YES\n"
    found, counts = of(text).apply(listing(), None)
    assert counts == {"relabelled": 2, "dropped": 1}
    assert found.schema == LISTING
    assert [(row["path"], row["label"], row["kind"]) for row in found.to_pylist()] == [
        ("/in/1", "Lemon", "Citrus"),
        ("/in/2", "Golden", "Apple"),
        ("/in/4", "New", None),
        ("/in/5", "Lemon", "Citrus"),
    ]


def test_a_new_label_has_the_kind_of_its_word() -> None:
    found, _ = of("path;corrected\n/in/1;Pear 3\n").apply(listing(), "words")
    assert found["kind"][0].as_py() == "Pear"


def test_a_plain_list_of_paths_and_labels_will_do_and_what_is_right_is_no_change() -> None:
    corrections = of("\ufeffPath\tLabel\n/in/1\tGolden\n/in/5\tGolden\n")
    found, counts = corrections.apply(listing(), None)
    assert counts == {"relabelled": 1, "dropped": 0}
    again, nothing = corrections.apply(found, None)
    assert (again, nothing) == (found, {"relabelled": 0, "dropped": 0})


def test_what_the_review_writes_is_read_back() -> None:
    rows = [{"path": "=a.jpg", "label": "-x", "corrected": '@y, "z"', "fault": "label", "score": 1.0}]
    found = Corrections.from_csv(as_csv(pa.Table.from_pylist(rows, SUSPECTS)), "c.csv")
    assert found.labels == {"=a.jpg": '@y, "z"'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns path and corrected.*is empty"),
        ("name,label\na,b\n", "needs the columns path and corrected.*has name, label"),
        ("path,drop,Drop\n", "two columns 'drop'"),
        (HEADER + "/in/1,,,Lemon,\n\n,,,Lemon,\n", r"c.csv, line 4: it has no path"),
        (HEADER + "/in/1,,,Lemon,\n/in/1,,,,yes\n", r"line 3: /in/1 is in line 2 already"),
        (HEADER + "/in/1,,,Lemon,yes\n", "line 2: it has both"),
        (HEADER + "/in/1,,,,perhaps\n", "line 2: drop is 'perhaps': write yes"),
        (HEADER + "/in/1,,,a,,b\n", "line 2: it has 6 fields"),
        (HEADER + f"/in/1,,,{'x' * 501},\n", "line 2: the label has more than 500"),
        (HEADER + '/in/1,,,"x,\n', "cannot be read"),
        (HEADER + '"/in/1",,,Lemon,\n"/out/9",,,"a\nb",\n', r"line 3: the source has no image /out/9"),
    ],
)
def test_what_cannot_be_meant_so_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        of(text).check(listing())
    assert "\n" not in str(error.value)


def test_a_list_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="drops all images"):
        of("path,drop\n" + "".join(f"/in/{i},yes\n" for i in range(1, 6))).apply(listing(), None)


def test_a_list_that_is_not_there_or_not_in_utf_8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: check --corrections"):
        read(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match="cannot be read as UTF-8"):
        Corrections.from_csv(HEADER.encode() + b"\xff\xfe\xfa,,,x,", "c.csv")


def test_the_list_that_a_run_writes_anew_is_not_taken(tmp_path: Path) -> None:
    settings = load({"corrections": f"{tmp_path}/out/review/../review/suspects.csv"})
    with pytest.raises(UsageError, match=r"is written anew by the run.*copy it"):
        list_selected(str(tmp_path), f"{tmp_path}/out/", settings)


def test_a_source_is_listed_as_corrected(tmp_path: Path) -> None:
    for name in ("Lemon/1.jpg", "Lemon/2.jpg", "Lime/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    corrections = of(f"path,corrected,drop\n{tmp_path}/Lemon/1.jpg,Lime,\n{tmp_path}/Lemon/2.jpg,,yes\n")
    found = list_images(str(tmp_path), S3Options(), limit=None, labels=None, seed=1, corrections=corrections)
    assert found.table["path"].to_pylist() == [f"{tmp_path}/Lemon/1.jpg", f"{tmp_path}/Lime/3.jpg"]
    assert found.table["label"].to_pylist() == ["Lime", "Lime"]
    assert found.corrections == {"relabelled": 1, "dropped": 1}
    assert found.dropped == {f"{tmp_path}/Lemon/2.jpg"}
    # What is selected does not depend on corrections, or one of them would make other images vanish.
    some = list_images(str(tmp_path), S3Options(), limit=1, labels=["Lime"], seed=1, corrections=corrections)
    assert some.table["path"].to_pylist() == [f"{tmp_path}/Lime/3.jpg"]
