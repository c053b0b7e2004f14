"""Groups are named as was asked for, or guessed; whole ones are drawn, of every label its share."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchard.errors import InputError, UsageError
from orchard.images.groups import FRAMES_PER_GROUP, describe, draw_groups, frame_names, groups_of, straddles
from orchard.images.sources import list_images
from orchard.layout import LISTING
from orchard.storage import S3Options


def _grouped(names: list[str], label: str = "Kiwi", frames: int = 3) -> list[set[str]]:
    groups = frame_names([f"/x/{name}" for name in names], [label] * len(names), frames)
    return [
        {name for name, group in zip(names, groups, strict=True) if group == g} for g in sorted(set(groups), key=str)
    ]


def test_consecutive_frames_are_together_in_their_natural_order() -> None:
    names = [f"{n}_100.jpg" for n in (9, 10, 11, 100, 101, 2)]
    assert _grouped(names) == [{"2_100.jpg", "9_100.jpg", "10_100.jpg"}, {"11_100.jpg", "100_100.jpg", "101_100.jpg"}]


def test_another_turn_or_label_is_another_sequence() -> None:
    names = [f"r{turn}_{n}_100.jpg" for turn in range(2) for n in range(3)] + ["r_0_100.jpg", "r_1_100.jpg"]
    sequences = [{"r_0_100.jpg", "r_1_100.jpg"}, set(names[:3]), set(names[3:6])]
    assert sorted(map(sorted, _grouped(names, frames=99))) == sorted(map(sorted, sequences))
    groups = frame_names(["/a/1.jpg", "/b/2.jpg", "/b/3.jpg"], ["a", "b", "b"])
    assert groups[0] is None and groups[1] == groups[2] == "b/#/000000 from 2"


def test_files_without_numbers_are_of_no_group() -> None:
    assert frame_names(["/x/a.jpg", "/x/b.jpg"], ["a", "a"]) == [None, None]
    assert frame_names([], []) == []


def test_training_and_test_folders_of_a_class_are_one_sequence(fruits: Path) -> None:
    listing = list_images(str(fruits), S3Options(), limit=None, labels=None, seed=0, group_by="frames")
    table, grouping = listing.table, listing.grouping
    groups, labels = table["group"].to_pylist(), table["label"].to_pylist()
    sizes = Counter(groups)
    assert max(sizes.values()) <= FRAMES_PER_GROUP
    assert np.median(list(sizes.values())) > FRAMES_PER_GROUP / 2
    assert straddles(table), "Fruits-360 took stretches and single frames of each turn for testing"
    assert grouping is not None and (grouping["source"], grouping["groups"]) == ("frames", len(sizes))
    assert [example["images"] for example in grouping["examples"]] == [27, 27]
    assert len({path for example in grouping["examples"] for path in example["paths"]}) == 6

    is_test = draw_groups(groups, labels, test_fraction=0.2, seed=0)
    assert 0.15 < is_test.mean() < 0.25
    of_groups: dict[str | None, set[bool]] = {group: set() for group in groups}
    of_labels: dict[str | None, list[bool]] = {label: [] for label in labels}
    for group, label, side in zip(groups, labels, is_test.tolist(), strict=True):
        of_groups[group].add(side)
        of_labels[label].append(side)
    assert all(len(sides) == 1 for sides in of_groups.values())
    assert all(0 < np.mean(sides) < 0.5 for sides in of_labels.values())


def test_frames_of_a_recording_are_drawn_as_one_stretch() -> None:
    groups = [f"Kiwi/r0_#/{run:06d} from 0" for run in range(20) for _ in range(5)]
    is_test = draw_groups(groups, ["Kiwi"] * 100, test_fraction=0.3, seed=3)
    assert is_test.sum() == 30
    assert np.count_nonzero(np.diff(np.r_[is_test, is_test[0]].astype(int))) == 2
    assert (draw_groups(groups, ["Kiwi"] * 100, test_fraction=0.3, seed=4) != is_test).any()


def test_a_label_with_one_group_only_trains_and_one_of_large_groups_is_tested() -> None:
    is_test = draw_groups(["a", "a", "a", "b", "b", "c"], ["Kiwi"] * 3 + ["Fig"] * 3, test_fraction=0.2, seed=0)
    assert is_test.tolist() == [False] * 5 + [True]


def test_a_group_of_several_labels_stays_whole() -> None:
    groups = [f"shop {n}" for n in range(10) for _ in range(4)]
    labels = ["Kiwi", "Kiwi", "Fig", "Plum"] * 10
    is_test = draw_groups(groups, labels, test_fraction=0.2, seed=0)
    assert Counter(label for label, side in zip(labels, is_test, strict=True) if side) == {
        "Kiwi": 4,
        "Fig": 2,
        "Plum": 2,
    }


PATHS = ["/shop-1/a/1.jpg", "/shop-1/b/2.jpg", "/shop-2/a/3.jpg", "/other/4.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"/(shop-\d)/", ["shop-1", "shop-1", "shop-2", None]),
        (r"shop-\d/.", ["shop-1/a", "shop-1/b", "shop-2/a", None]),
    ],
    ids=["its first group", "the whole match"],
)
def test_a_pattern_names_groups_by_what_it_finds(pattern: str, expected: list[str | None]) -> None:
    assert groups_of(pattern, PATHS, [None] * 4).to_pylist() == expected
    images = pa.table({"path": PATHS, "group": pa.array(expected)})
    found = describe(pattern, images, from_column=False)
    assert (found["source"], found["groups"], found["ungrouped"]) == ("pattern", len(set(expected)) - 1, 1)
    assert found["examples"][0]["paths"][0] == PATHS[0]


@pytest.mark.parametrize("pattern", ["nowhere", "(shop"])
def test_what_is_neither_a_column_nor_finds_anything_is_one_sentence(pattern: str) -> None:
    with pytest.raises(UsageError, match=r"^--group-by '\(?\w+' is no column of a manifest.*correct it\.$"):
        groups_of(pattern, PATHS, [None] * 4)


def test_a_column_of_a_manifest_names_groups(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,label,Session\n1.jpg,Kiwi, monday\n2.jpg,Kiwi,\n3.jpg,Fig,monday\n")
    listing = list_images(str(manifest), S3Options(), limit=None, labels=None, seed=0, group_by="session")
    assert listing.table.schema.equals(LISTING)
    assert listing.table["group"].to_pylist() == ["monday", None, "monday"]
    assert listing.grouping is not None and listing.grouping["source"] == "column"
    plain = list_images(str(manifest), S3Options(), limit=None, labels=None, seed=0)
    assert (plain.table["group"].null_count, plain.grouping) == (3, None)
    manifest.write_text("path,label,session\n1.jpg,Kiwi,monday\n1.jpg,Kiwi,tuesday\n")
    with pytest.raises(InputError, match="twice, with different labels, kinds, splits, groups or other values"):
        list_images(str(manifest), S3Options(), limit=None, labels=None, seed=0, group_by="session")
