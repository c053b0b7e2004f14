"""What is still to do: the listing against what the output holds already."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import UsageError
from orchard.files import DataFile, read_columns
from orchard.images.splits import assign_splits
from orchard.layout import EXTRACTED, INVENTORY, Dataset
from orchard.output import Output


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
    inventory = output.read(Dataset.INVENTORY, ["path", "size", "version", "label", "split", "featurized"], INVENTORY)
    key = pa.table({"path": listing["path"]})
    vanished = inventory.select(["path"]).join(key, "path", join_type="left anti")["path"]
    if len(vanished) and not prune:
        raise UsageError(
            f"{output.url} holds {len(vanished)} images that the source, as selected, does not list (such as "
            f"{vanished[0]}): choose another --output, --prune to drop their rows, or --fresh to start over."
        )
    before = inventory.select(["path", "size", "version", "featurized"])
    before = before.rename_columns(["path", "old_size", "old_version", "featurized"])
    known = listing.select(["path", "size", "version"]).join(before, "path", join_type="inner")
    again = pc.or_(_differs(known["version"], known["old_version"]), _differs(known["size"], known["old_size"]))
    if retry_rejected:
        again = pc.or_(again, pc.invert(known["featurized"]))
    replaced = known.filter(again)["path"]
    done = known.filter(pc.invert(again)).select(["path"])
    images = listing.join(done, "path", join_type="left anti").sort_by("path")
    assigned = inventory.select(["path", "label", "split"]).join(done, "path", join_type="inner")
    images = assign_splits(images, assigned, test_fraction=test_fraction, seed=seed)
    return Pending(
        images=images,
        replaced=pa.chunked_array([*replaced.chunks, *vanished.chunks], pa.string()),
        replaced_images=len(replaced),
        vanished_images=len(vanished),
    )


def _differs(new: pa.ChunkedArray, old: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return where both are known and not equal."""
    return pc.fill_null(pc.not_equal(new, old), False)


def without(output: Output, paths: pa.ChunkedArray) -> tuple[dict[Dataset, list[DataFile]], list[str]]:
    """Stage the files of the extraction that hold rows of `paths` again, without them.

    Returns:
        What to add in a commit, and the names of the files to remove.
    """
    add: dict[Dataset, list[DataFile]] = {}
    remove: list[str] = []
    for dataset in EXTRACTED if len(paths) else ():
        for file in output.files(dataset):
            is_dropped = pc.is_in(read_columns(output.storage, file, ["path"])["path"], value_set=paths)
            if not pc.any(is_dropped).as_py():
                continue
            kept = read_columns(output.storage, file).filter(pc.invert(is_dropped))
            remove.append(file.name)
            if kept.num_rows:
                add.setdefault(dataset, []).append(output.stage(dataset, kept))
    return add, remove
