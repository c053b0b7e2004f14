"""What is still to do: the listing against what the output holds already."""

from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchard.errors import UsageError
from orchard.images.splits import assign_splits
from orchard.output import DataFile, Output
from orchard.schemas import FEATURES, INVENTORY, Dataset


@dataclass(frozen=True)
class Pending:
    """The images to work on, and the paths whose present rows have to go first."""

    images: pa.Table
    """Schema `LISTING`, every row with its split."""
    replaced: pa.ChunkedArray
    """Paths whose image was replaced, is to be tried again, or is no longer in the source."""
    replaced_images: int
    vanished_images: int


def find_pending(
    output: Output, listing: pa.Table, *, prune: bool, retry_rejected: bool, test_fraction: float, seed: int
) -> Pending:
    """Compare `listing` (schema `LISTING`) with the output's inventory.

    An image is done if its path is in the inventory with the same version and size. Rejected images stay rejected
    while they are unchanged, unless `retry_rejected`.

    Raises:
        UsageError: the output has rows of images that the source does not list, and `prune` is not set.
    """
    inventory = output.read(Dataset.INVENTORY, ["path", "size", "version", "featurized"], INVENTORY)
    key = pa.table({"path": listing["path"]})
    vanished = inventory.select(["path"]).join(key, "path", join_type="left anti")["path"]
    if len(vanished) and not prune:
        raise UsageError(
            f"{output.url} holds {len(vanished)} images that the source, as selected, does not list (such as "
            f"{vanished[0]}): choose another --output, --prune to drop their rows, or --fresh to start over."
        )
    before = inventory.rename_columns(["path", "old_size", "old_version", "featurized"])
    known = listing.select(["path", "size", "version"]).join(before, "path", join_type="inner")
    again = pc.or_(_differs(known["version"], known["old_version"]), _differs(known["size"], known["old_size"]))
    if retry_rejected:
        again = pc.or_(again, pc.invert(known["featurized"]))
    replaced = known.filter(again)["path"]
    done = known.filter(pc.invert(again)).select(["path"])
    images = listing.join(done, "path", join_type="left anti").sort_by("path")
    images = assign_splits(images, _assigned(output, listing, done), test_fraction=test_fraction, seed=seed)
    return Pending(
        images=images,
        replaced=pa.chunked_array([*replaced.chunks, *vanished.chunks], pa.string()),
        replaced_images=len(replaced),
        vanished_images=len(vanished),
    )


def _assigned(output: Output, listing: pa.Table, done: pa.Table) -> pa.Table:
    """Return ``path, label, split`` of the listed images that are done; the split of a rejected one may be null."""
    before = output.read(Dataset.FEATURES, ["path", "split"], FEATURES).rename_columns(["path", "assigned"])
    rows = listing.select(["path", "label", "split"]).join(done, "path", join_type="inner").join(before, "path")
    return rows.set_column(2, "split", pc.coalesce(rows["assigned"], rows["split"])).drop_columns("assigned")


def _differs(new: pa.ChunkedArray, old: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return where both are known and not equal."""
    return pc.fill_null(pc.not_equal(new, old), False)


def drop(output: Output, paths: pa.ChunkedArray) -> None:
    """Commit the datasets of the extraction without the rows of `paths`, rewriting the files that hold them."""
    if not len(paths):
        return
    add: dict[Dataset, list[DataFile]] = {}
    remove: list[str] = []
    for dataset in (Dataset.FEATURES, Dataset.REJECTED, Dataset.INVENTORY):
        for file in output.files(dataset):
            data = BytesIO(output.storage.read(file.name))
            held = pq.read_table(data, columns=["path"])["path"]
            is_dropped = pc.is_in(held, value_set=paths)
            if not pc.any(is_dropped).as_py():
                continue
            remove.append(file.name)
            kept = pq.read_table(data).filter(pc.invert(is_dropped))
            if kept.num_rows:
                add.setdefault(dataset, []).append(output.stage(dataset, kept))
    output.commit(add, remove=remove)
