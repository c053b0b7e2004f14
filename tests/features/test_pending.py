"""What is done is not done again; what has changed is; what is gone is not dropped unasked."""

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchard.datasets import batches
from orchard.errors import InputError, UsageError
from orchard.features.pending import Pending, find_pending, renamed, without
from orchard.files import read_columns
from orchard.layout import FEATURES, INVENTORY, LISTING, REJECTED, Dataset
from orchard.output import Output
from orchard.verify import verify


def listing(*images: tuple[str, int, str]) -> pa.Table:
    rows = [{"path": p, "size": s, "version": v, "label": "Lemon", "split": "train"} for p, s, v in images]
    return pa.Table.from_pylist(rows, LISTING)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """An output with three featurized images, the third without a version, and a rejected one."""
    output = Output(str(tmp_path))
    features = [
        {"path": p, "label": "Lemon", "split": "train", "width": 1, "height": 1, "features": [1.0]} for p in "abc"
    ]
    inventory = [
        {"path": p, "size": 1, "version": v, "label": "Lemon", "split": "train", "digest": p, "featurized": p != "x"}
        for p, v in (("a", "1"), ("b", "1"), ("c", None), ("x", "1"))
    ]
    with output.writing():
        output.commit(
            {
                Dataset.FEATURES: [output.stage(Dataset.FEATURES, pa.Table.from_pylist(features, FEATURES))],
                Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, pa.Table.from_pylist(inventory, INVENTORY))],
                Dataset.REJECTED: [
                    output.stage(
                        Dataset.REJECTED,
                        pa.Table.from_pylist([{"path": "x", "reason": "empty", "detail": ""}], REJECTED),
                    )
                ],
            }
        )
    return output


ALL = (("a", 1, "1"), ("b", 1, "1"), ("c", 1, "1"), ("x", 1, "1"))


def find(output: Output, images: pa.Table, *, prune: bool = False, retry_rejected: bool = False) -> Pending:
    return find_pending(output, images, prune=prune, retry_rejected=retry_rejected, test_fraction=0.2, seed=1)


def test_an_unchanged_listing_leaves_nothing_to_do(output: Output) -> None:
    pending = find(output, listing(*ALL))
    assert (pending.images.num_rows, len(pending.replaced)) == (0, 0)


@pytest.mark.parametrize(("name", "value"), [("kind", "Citrus"), ("label_columns", '{"ripeness":"ripe"}')])
def test_another_kind_or_value_is_noticed_and_so_is_none(output: Output, name: str, value: str) -> None:
    values = pa.array([value, None, None, None], pa.string())
    images = listing(*ALL)
    images = images.set_column(images.schema.get_field_index(name), LISTING.field(name), values)
    pending = find(output, images)
    assert pending.renamed.select(["path", name]).to_pylist() == [{"path": "a", name: value}]
    assert (pending.images.num_rows, len(pending.replaced)) == (0, 0)
    with output.writing():
        add, remove = renamed(output, pending.renamed)
        output.commit(add, remove=remove)
    for dataset, schema in ((Dataset.FEATURES, FEATURES), (Dataset.INVENTORY, INVENTORY)):
        assert value in output.read(dataset, [name], schema)[name].to_pylist()
    assert find(output, images).renamed.num_rows == 0
    assert find(output, listing(*ALL)).renamed["path"].to_pylist() == ["a"]


def test_files_that_were_written_before_there_were_kinds_are_read_and_written_anew(tmp_path: Path) -> None:
    """As version 0.1.0 wrote them; of a file that loses rows, the others get the column."""
    output = Output(str(tmp_path))
    rows = [
        {"path": p, "size": 1, "version": "1", "label": "Lemon", "split": "train", "featurized": True} for p in "ab"
    ]
    before = pa.Table.from_pylist(rows, INVENTORY).drop_columns(["kind", "label_columns"])
    features = pa.Table.from_pylist([{"path": p, "label": "Lemon", "features": [1.0]} for p in "ab"], FEATURES)
    with output.writing():
        output.commit(
            {
                Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, before)],
                Dataset.FEATURES: [output.stage(Dataset.FEATURES, features.drop_columns(["kind", "label_columns"]))],
            }
        )
        assert find(output, listing(*ALL[:2])).images.num_rows == 0
        assert output.read(Dataset.INVENTORY, ["path", "kind"], INVENTORY)["kind"].to_pylist() == [None, None]
        (batch,) = batches(output.storage, output.files(Dataset.FEATURES)[0], ["path", "kind", "label_columns"])
        assert batch.to_pylist() == [{"path": path, "kind": None, "label_columns": None} for path in "ab"]
        add, _ = without(output, pa.chunked_array([["a"]]))
        (staged,) = add[Dataset.INVENTORY]
        assert read_columns(output.storage, replace(staged, name=f"{output.staging}{staged.name}")).schema == INVENTORY
    assert verify(output)["damage"] == []


def test_a_new_image_is_to_do_and_a_replaced_one_too(output: Output) -> None:
    pending = find(output, listing(("a", 2, "1"), ("b", 1, "2"), *ALL[2:], ("new", 1, "1")))
    assert pending.images["path"].to_pylist() == ["a", "b", "new"]
    assert sorted(pending.replaced.to_pylist()) == ["a", "b"]
    assert pending.images.schema.names == LISTING.names


@pytest.mark.parametrize(
    ("column", "value", "is_changed"),
    [
        ("label", "Lime", True),
        ("label", None, True),
        ("split", "test", True),
        ("split", None, False),  # Orchard assigns it, and has
        ("size", None, False),
        ("version", None, False),  # its address is none that could be asked
    ],
)
def test_a_label_or_split_that_changed_is_noticed(
    output: Output, column: str, value: str | None, is_changed: bool
) -> None:
    rows = listing(*ALL).to_pylist()
    rows[0][column] = value
    pending = find(output, pa.Table.from_pylist(rows, LISTING))
    assert pending.renamed["path"].to_pylist() == ["a"] * is_changed
    assert (pending.images.num_rows, len(pending.replaced)) == (0, 0)  # no image is decoded again for it
    if is_changed:
        assert pending.renamed[column].to_pylist() == [value]


def test_an_image_that_is_replaced_under_another_label_is_decoded_again(output: Output) -> None:
    rows = listing(("a", 2, "2"), *ALL[1:]).to_pylist()
    rows[0]["label"] = "Lime"
    pending = find(output, pa.Table.from_pylist(rows, LISTING))
    assert (pending.images["path"].to_pylist(), pending.renamed.num_rows) == (["a"], 0)


def test_new_names_are_written_and_all_else_stays(output: Output) -> None:
    images = pa.Table.from_pylist(
        [{"path": p, "label": "Lime", "kind": "Citrus", "split": "test"} for p in "ax"], LISTING
    )
    before = output.read(Dataset.INVENTORY, INVENTORY.names, INVENTORY).to_pylist()
    with output.writing():
        add, remove = renamed(output, images)
        output.commit(add, remove=remove)
    again = Output(output.url)
    assert again.rows(Dataset.REJECTED) == 1
    names = [("Lime", "Citrus", "test"), ("Lemon", None, "train"), ("Lemon", None, "train"), ("Lime", "Citrus", "test")]
    new = [
        row | dict(zip(("label", "kind", "split"), name, strict=True)) for row, name in zip(before, names, strict=True)
    ]
    assert again.read(Dataset.INVENTORY, INVENTORY.names, INVENTORY).to_pylist() == new
    features = again.read(Dataset.FEATURES, FEATURES.names, FEATURES)
    assert features["label"].to_pylist() == ["Lime", "Lemon", "Lemon"]
    assert features["features"].to_pylist() == [[1.0]] * 3


def test_images_that_are_dropped_need_no_permission(output: Output) -> None:
    pending = find_pending(
        output, listing(*ALL[1:]), prune=False, retry_rejected=False, test_fraction=0.2, seed=1, dropped={"a"}
    )
    assert (pending.replaced.to_pylist(), pending.images.num_rows) == (["a"], 0)


def _real_images(tmp_path: Path, source: list[dict[str, object]]) -> tuple[Output, pa.Table]:
    """An output in which every image of a listing without versions is featurized but the last, which was refused."""
    output = Output(str(tmp_path / "out"))
    table = pa.Table.from_pylist(source, LISTING)
    inventory = find_pending(output, table, prune=False, retry_rejected=False, test_fraction=0.2, seed=1).images
    n = inventory.num_rows
    inventory = inventory.append_column("digest", inventory["path"])
    inventory = inventory.append_column("featurized", pa.array([True] * (n - 1) + [False]))
    inventory = pa.Table.from_pylist(inventory.to_pylist(), INVENTORY)
    rejected = [{"path": inventory["path"][n - 1].as_py(), "reason": "unreadable", "detail": "Permission denied"}]
    with output.writing():
        staged = output.stage(Dataset.INVENTORY, inventory)
        refused = output.stage(Dataset.REJECTED, pa.Table.from_pylist(rejected, REJECTED))
        output.commit({Dataset.INVENTORY: [staged], Dataset.REJECTED: [refused]})
    return output, table


def test_files_that_a_manifest_names_are_asked_for_their_versions(tmp_path: Path) -> None:
    for name in "abcx":
        (tmp_path / name).write_bytes(b"1")
    rows = [{"path": str(tmp_path / name), "label": "Lemon", "split": "train", "size": 99} for name in "abcx"]
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to("x")  # cannot be read
    output, table = _real_images(tmp_path, rows)
    assert find(output, table).images.num_rows == 0
    (tmp_path / "a").write_bytes(b"2")
    os.utime(tmp_path / "a", ns=(1, 1))
    pending = find(output, table)
    assert pending.images.select(["path", "size", "version"]).to_pylist() == [
        {"path": str(tmp_path / "a"), "size": 1, "version": "1"}
    ]
    (tmp_path / "b").unlink()  # its features would be of nothing
    assert find(output, table).replaced.to_pylist() == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_what_could_not_be_read_is_tried_again_once_it_can_be(tmp_path: Path) -> None:
    for name in "ax":
        (tmp_path / name).write_bytes(b"1")
    rows = [
        {"path": str(tmp_path / name), "label": "Lemon", "split": "train", "size": 1, "version": "1"} for name in "ax"
    ]
    output, table = _real_images(tmp_path, rows)
    assert find(output, table).images["path"].to_pylist() == [str(tmp_path / "x")]
    (tmp_path / "x").unlink()
    os.mkfifo(tmp_path / "x")
    assert find(output, table).images.num_rows == 0


def test_a_source_of_which_nothing_is_there_is_told_before_anything_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    output, table = _real_images(tmp_path, [{"path": str(tmp_path / name)} for name in "ax"])
    (tmp_path / "a").unlink()
    with pytest.raises(InputError, match=r"none of the 2 images that the source lists is there, such as .*/a"):
        find(output, table)


def test_rejected_images_wait_until_they_are_asked_for(output: Output) -> None:
    assert find(output, listing(*ALL), retry_rejected=True).images["path"].to_pylist() == ["x"]


def test_images_that_are_gone_need_permission(output: Output) -> None:
    with pytest.raises(UsageError, match="2 images"):
        find(output, listing(*ALL[:2]))
    pending = find(output, listing(*ALL[:2]), prune=True)
    assert sorted(pending.replaced.to_pylist()) == ["c", "x"]
    assert pending.vanished_images == 2


def test_dropped_rows_are_gone_from_every_dataset_and_the_others_stay(output: Output) -> None:
    with output.writing():
        add, remove = without(output, pa.chunked_array([["a", "x"]]))
        output.commit(add, remove=remove)
    again = Output(output.url)
    assert again.read(Dataset.FEATURES, ["path"], FEATURES)["path"].to_pylist() == ["b", "c"]
    assert again.rows(Dataset.REJECTED) == 0
    inventory = again.read(Dataset.INVENTORY, ["path", "digest"], INVENTORY)
    assert pc.equal(inventory["path"], inventory["digest"]).to_pylist() == [True, True]


def test_images_without_views_get_them_and_are_otherwise_done(output: Output) -> None:
    def unviewed(images: pa.Table, viewed: list[str] | None) -> list[str]:
        found = find_pending(
            output,
            images,
            prune=False,
            retry_rejected=False,
            test_fraction=0.2,
            seed=1,
            views=2,
            viewed=None if viewed is None else pa.array(viewed, pa.string()),
        )
        assert found.unviewed.schema == LISTING
        paths: list[str] = found.unviewed["path"].to_pylist()
        return paths

    inventory = output.read(Dataset.INVENTORY, INVENTORY.names, INVENTORY).to_pylist()
    training = [row["path"] for row in inventory if row["featurized"] and row["split"] == "train"]
    assert unviewed(listing(*ALL), None) == []  # all have theirs
    assert unviewed(listing(*ALL), []) == training != []
    assert unviewed(listing(*ALL), training[:1]) == training[1:]
    replaced = listing((training[0], 2, "1"), *(row for row in ALL if row[0] != training[0]))
    assert unviewed(replaced, []) == training[1:]  # it is done again as a whole
