"""What is still to do: the listing against what the output holds already."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import UsageError
from orchard.files import DataFile, read_columns
from orchard.images.splits import assign_splits
from orchard.images.versions import readable, with_versions
from orchard.layout import EXTRACTED, INVENTORY, NAMES, REJECTED, Dataset, Reason
from orchard.output import Output
from orchard.storage import DEFAULT_S3, S3Options


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
    output: Output,
    listing: pa.Table,
    *,
    prune: bool,
    retry_rejected: bool,
    test_fraction: float,
    seed: int,
    s3: S3Options = DEFAULT_S3,
) -> Pending:
    """Compare `listing` (schema `LISTING`) with the output's inventory.

    An image is done if its path is in the inventory with the same version, size, label, kind and split (one that
    Orchard assigned stays). Where the listing has no version, the storage is asked. Rejected images stay rejected
    while they are unchanged, unless `retry_rejected` or what could not be read can be now.

    Raises:
        UsageError: the output has rows of images that the source does not list, and `prune` is not set.
        InputError: none of the images is there.
    """
    listing, missing = with_versions(listing, s3)
    columns = ["path", "size", "version", *NAMES, "split", "featurized"]
    inventory = output.read(Dataset.INVENTORY, columns, INVENTORY)
    vanished = inventory["path"].filter(pc.invert(pc.is_in(inventory["path"], _values(listing["path"]))))
    if len(vanished) and not prune:
        raise UsageError(
            f"{output.url} holds {len(vanished)} images that the source, as selected, does not list (such as "
            f"{vanished[0]}): choose another --output, --prune to drop their rows, or --fresh to start over."
        )
    at = pc.index_in(listing["path"], _values(inventory["path"]))
    is_known = pc.is_valid(at)
    before = inventory.take(at)
    again = pc.is_in(listing["path"], pa.array([], pa.string()))  # none
    for name in NAMES:  # null: it has none
        again = pc.or_(again, pc.not_equal(pc.fill_null(listing[name], ""), pc.fill_null(before[name], "")))
    for name in ("version", "size", "split"):  # null: the source does not say
        again = pc.or_(again, _differs(listing[name], before[name]))
    is_missing = pc.is_in(listing["path"], pa.array(missing, pa.string()))
    again = pc.or_(again, pc.and_(is_missing, pc.fill_null(before["featurized"], False)))
    if retry_rejected:
        again = pc.or_(again, pc.invert(pc.fill_null(before["featurized"], True)))
    else:
        again = pc.or_(again, pc.is_in(listing["path"], _readable_again(output, missing, s3)))
    is_done = pc.and_not(is_known, again)
    replaced = listing["path"].filter(pc.and_(is_known, again))
    images = listing.filter(pc.invert(is_done)).sort_by("path")
    assigned = before.filter(is_done).select(["path", "label", "split"])
    assigned = assigned.append_column("group", listing["group"].filter(is_done))
    images = assign_splits(images, assigned, test_fraction=test_fraction, seed=seed)
    return Pending(
        images=images,
        replaced=pa.chunked_array([*replaced.chunks, *vanished.chunks], pa.string()),
        replaced_images=len(replaced),
        vanished_images=len(vanished),
    )


def _readable_again(output: Output, missing: list[str], s3: S3Options) -> pa.Array:
    """Return the paths of images that were rejected as unreadable, and are not any more."""
    rejected = output.read(Dataset.REJECTED, ["path", "reason"], REJECTED)
    refused = rejected.filter(pc.equal(rejected["reason"], Reason.UNREADABLE))["path"].to_pylist()
    return pa.array(readable(sorted(set(refused) - set(missing)), s3), pa.string())


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Return the column as what others are looked up in."""
    return column.combine_chunks()


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
