"""What is done is not done again; what has changed is; what is gone is not dropped unasked."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchard.errors import UsageError
from orchard.features.pending import Pending, find_pending, without
from orchard.layout import FEATURES, INVENTORY, LISTING, REJECTED, Dataset
from orchard.output import Output


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
        {"path": p, "size": 1, "version": v, "digest": p, "featurized": p != "x"}
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


def test_a_new_image_is_to_do_and_a_replaced_one_too(output: Output) -> None:
    pending = find(output, listing(("a", 2, "1"), ("b", 1, "2"), *ALL[2:], ("new", 1, "1")))
    assert pending.images["path"].to_pylist() == ["a", "b", "new"]
    assert sorted(pending.replaced.to_pylist()) == ["a", "b"]
    assert pending.images.schema.names == LISTING.names


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
