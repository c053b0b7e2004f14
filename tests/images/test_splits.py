"""Splits are seeded, stratified, stable, and keep groups together where there are any."""

import random
from collections import Counter

import pyarrow as pa
import pytest

from orchard.images.selection import seeded_hashes
from orchard.images.splits import assign_splits, hold_out
from orchard.layout import LISTING

Row = tuple[str, str | None, str | None]  # path, label, split


def _listing(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist([{"path": p, "label": label, "split": s} for p, label, s in rows], LISTING)


def _images(
    count: int, label: str | None = "Kiwi", split: str | None = None
) -> list[tuple[str, str | None, str | None]]:
    return [(f"/data/{label}/{split}/{n}.jpg", label, split) for n in range(count)]


def _assigned(table: pa.Table, done: pa.Table | None = None, fraction: float = 0.2, seed: int = 0) -> dict[str, str]:
    result = assign_splits(table, done, test_fraction=fraction, seed=seed)
    assert result.schema.equals(LISTING)
    assert result.drop_columns("split").equals(table.drop_columns("split"))
    return dict(zip(result["path"].to_pylist(), result["split"].to_pylist(), strict=True))


def test_every_label_gives_its_share_to_test() -> None:
    table = _listing(_images(100) + _images(37, "Plum") + _images(2, "Fig") + _images(1, "Date") + _images(10, None))
    result = assign_splits(table, None, test_fraction=0.2, seed=0)
    rows = zip(result["label"].to_pylist(), result["split"].to_pylist(), strict=True)
    assert Counter(label for label, split in rows if split == "test") == {"Kiwi": 20, "Plum": 7, None: 2}
    assert result["split"].null_count == 0


def test_draws_for_other_purposes_do_not_follow_the_split() -> None:
    sides = _assigned(_listing(_images(2000)))
    training = [path for path, split in sides.items() if split == "train"]
    assert (seeded_hashes(training, 0) < 0.15 * 2.0**64).sum() == 0, "these would be for testing"
    for purpose in ("forest", "held out"):
        assert 0.12 < (seeded_hashes(training, 0, purpose) < 0.15 * 2.0**64).mean() < 0.18


def test_a_label_is_never_left_without_training_images() -> None:
    assert list(_assigned(_listing(_images(1)), fraction=0.9).values()) == ["train"]
    assert Counter(_assigned(_listing(_images(3)), fraction=1.0).values()) == {"train": 1, "test": 2}
    assert set(_assigned(_listing(_images(9)), fraction=0.0).values()) == {"train"}


def test_a_given_split_is_kept_and_counts() -> None:
    rows = _images(30, split="validation") + _images(10, split="test") + _images(40)
    assigned = _assigned(_listing(rows))
    assert all(assigned[path] == split for path, _, split in rows if split)
    # A fifth of 50 are in test already.
    assert {assigned[path] for path, _, split in rows if split is None} == {"train"}


def test_the_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    rows = _images(200)
    first = _assigned(_listing(rows))
    random.Random(0).shuffle(rows)
    assert _assigned(_listing(rows)) == first
    assert _assigned(_listing(rows), seed=1) != first


@pytest.mark.parametrize("cut", [0, 1, 50, 199, 200])
def test_a_run_that_was_interrupted_assigns_as_one_that_was_not(cut: int) -> None:
    rows = _images(150) + _images(50, "Plum")
    whole = _assigned(_listing(rows))
    random.Random(cut).shuffle(rows)
    # What was rejected has been worked on, too, and has no split.
    done = [(path, label, None if n % 10 == 0 else whole[path]) for n, (path, label, _) in enumerate(rows[:cut])]
    resumed = _assigned(_listing(rows[cut:]), _listing(done).select(["path", "label", "split", "group"]))
    assert resumed == {path: whole[path] for path, _, _ in rows[cut:]}


def test_added_images_complete_the_share_and_leave_the_others_alone() -> None:
    before = _listing(_images(100))
    done = assign_splits(before, None, test_fraction=0.2, seed=0).select(["path", "label", "split", "group"])
    added = _listing([(f"/data/new/{n}.jpg", "Kiwi", None) for n in range(50)])
    assert Counter(_assigned(added, done).values()) == {"train": 40, "test": 10}


def test_nothing_new_is_no_error() -> None:
    assert _assigned(LISTING.empty_table()) == {}


def _grouped(groups: int, each: int, label: str = "Kiwi") -> pa.Table:
    names = [f"{label} {group}" for group in range(groups) for _ in range(each)]
    rows = [{"path": f"/{name}/{n}.jpg", "label": label, "group": name} for n, name in enumerate(names)]
    return pa.Table.from_pylist(rows, LISTING)


def _sides(table: pa.Table, assigned: dict[str, str]) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = {}
    for path, group in zip(table["path"].to_pylist(), table["group"].to_pylist(), strict=True):
        sides.setdefault(group, set()).add(assigned[path])
    return sides


def test_whole_groups_go_to_one_side() -> None:
    table = pa.concat_tables([_grouped(20, 7), _grouped(5, 3, "Plum"), _grouped(1, 9, "Fig")])
    assigned = _assigned(table)
    sides = _sides(table, assigned)
    assert all(len(side) == 1 for side in sides.values())
    tested = Counter(group.split()[0] for group, side in sides.items() if side == {"test"})
    assert tested == {"Kiwi": 4, "Plum": 1}, "a fifth of each; of one group nothing"
    assert _assigned(table, seed=1) != assigned


@pytest.mark.parametrize("cut", [1, 60, 139])
def test_a_run_that_was_interrupted_draws_the_same_groups(cut: int) -> None:
    table = _grouped(20, 7)
    whole = _assigned(table)
    order = list(range(table.num_rows))
    random.Random(cut).shuffle(order)
    done = table.take(order[:cut])
    split = [whole[path] if n % 10 else None for n, path in enumerate(done["path"].to_pylist())]
    done = done.set_column(table.schema.get_field_index("split"), LISTING.field("split"), pa.array(split, pa.string()))
    rest = table.take(order[cut:])
    assert _assigned(rest, done) == {path: whole[path] for path in rest["path"].to_pylist()}


def test_an_added_image_goes_where_its_group_is() -> None:
    table = _grouped(20, 7)
    done = assign_splits(table, None, test_fraction=0.2, seed=0)
    side = dict(zip(done["group"].to_pylist(), done["split"].to_pylist(), strict=True))
    added = pa.Table.from_pylist([{"path": f"/new/{g}.jpg", "label": "Kiwi", "group": g} for g in side], LISTING)
    assert _assigned(added, done, fraction=0.5) == {f"/new/{group}.jpg": split for group, split in side.items()}


def _held(
    paths: list[str], labels: list[str | None], seed: int = 0, groups: list[str | None] | None = None
) -> dict[str, list[str]]:
    """The paths that are held out, by label, in the order of `paths`."""
    held: dict[str, list[str]] = {}
    for path, label, is_held in zip(paths, labels, hold_out(paths, labels, seed, groups), strict=True):
        if is_held:
            held.setdefault(str(label), []).append(path)
    return held


def _frames(label: str, count: int) -> tuple[list[str], list[str | None]]:
    return [f"{label}/{n}_100.jpg" for n in range(count)], [label] * count


def test_a_tenth_of_every_label_is_held_out_as_one_stretch_of_frames() -> None:
    paths, labels = _frames("Kiwi", 1_000)
    more, names = _frames("Plum", 400)
    held = _held(paths + more, labels + names)
    assert {label: len(found) for label, found in held.items()} == {"Kiwi": 100, "Plum": 40}
    for label, count in (("Kiwi", 1_000), ("Plum", 400)):
        numbers = {int(path.split("/")[1].split("_")[0]) for path in held[label]}
        ends = [n for n in numbers if (n + 1) % count not in numbers]
        assert len(ends) == 1, "frames follow on from one another, the first after the last"


def test_what_is_held_out_depends_on_the_seed_and_on_no_order() -> None:
    paths = [f"{label}/{name}.jpg" for label in range(300) for name in ("1", "01", "2")]
    labels: list[str | None] = [path.split("/")[0] for path in paths]
    some = _held(paths, labels)
    order = random.Random(1).sample(range(900), 900)
    assert _held([paths[i] for i in order], [labels[i] for i in order]) == some
    assert _held(paths, labels, seed=1) != some


def test_of_few_images_up_to_three_tenths_are_held_out_and_no_label_is_lost() -> None:
    for count, expected in ((300, 60), (100, 30), (20, 6)):
        assert len(_held(*_frames("Kiwi", count))["Kiwi"]) == expected
    paths, labels = _frames("Kiwi", 50)
    assert "Date" not in _held([*paths, "Date/1.jpg"], [*labels, "Date"])


def test_of_many_labels_of_few_images_some_give_one() -> None:
    paths = [f"{label}/{n}.jpg" for label in range(1_500) for n in range(3)]
    held = _held(paths, [path.split("/")[0] for path in paths])
    assert sum(map(len, held.values())) == pytest.approx(450, abs=5)
    assert all(len(found) == 1 for found in held.values())
    assert _held([f"{n}.jpg" for n in range(90)], [str(n) for n in range(90)]) == {}, "one image a label"


def test_images_without_a_label_are_not_held_out() -> None:
    paths, labels = _frames("Kiwi", 700)
    nameless = [f"x/{n}.jpg" for n in range(900)]
    grouped: list[str | None] = [f"group {n // 7}" for n in range(1_600)]
    for groups in (None, grouped):
        held = _held(paths + nameless, labels + [None] * 900, groups=groups)
        assert set(held) == {"Kiwi"}
        assert len(held["Kiwi"]) == pytest.approx(70, abs=4)


def test_large_groups_of_few_images_are_enough_too() -> None:
    paths, labels = _frames("Kiwi", 150)
    more, names = _frames("Plum", 150)
    groups: list[str | None] = [path.split("/")[0] + str(n % 150 // 25) for n, path in enumerate(paths + more)]
    held = _held(paths + more, labels + names, groups=groups)
    assert 60 <= sum(map(len, held.values())) <= 100
    assert {label: len(found) % 25 for label, found in held.items()} == {"Kiwi": 0, "Plum": 0}


def test_groups_that_are_known_stay_whole() -> None:
    paths, labels = _frames("Kiwi", 800)
    groups: list[str | None] = [f"day {n % 40}" for n in range(780)] + [None] * 20
    held = set(_held(paths, labels, groups=groups)["Kiwi"])
    for day in range(40):
        mine = {path for path, group in zip(paths, groups, strict=True) if group == f"day {day}"}
        assert mine <= held or not mine & held
    assert len(held) == pytest.approx(80, abs=20)
