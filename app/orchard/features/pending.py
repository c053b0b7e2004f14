"""Which images are still to be featurized: the listing compared with what the output holds."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import UsageError
from orchard.files import DataFile, read_columns
from orchard.images.erased import digest, known
from orchard.images.lookup import PathIndex
from orchard.images.splits import assign_splits
from orchard.images.versions import readable, with_versions
from orchard.layout import CARRIED, FEATURIZED, INVENTORY, LISTING, REJECTED, VIEWED, Dataset
from orchard.output import Output
from orchard.storage import DEFAULT_S3, S3Options
from orchard.vocabulary import Reason


@dataclass(frozen=True)
class Pending:
    """The images to work on, the images whose names alone have changed, and the paths whose rows are deleted first."""

    images: pa.Table
    """Schema `LISTING`, every row with its split."""
    renamed: pa.Table
    """Schema `LISTING`: finished images with another label, kind, value or split; they are not decoded again."""
    replaced: pa.ChunkedArray
    """Paths whose image was replaced, is tried again, or is no longer in the source."""
    unviewed: pa.Table
    """Schema `LISTING`: finished images that lack their random views."""
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
    dropped: Collection[str] = (),
    views: int = 0,
    viewed: pa.Array | None = None,
    s3: S3Options = DEFAULT_S3,
) -> Pending:
    """Compare `listing` (schema `LISTING`) with the output's inventory.

    An image is finished if its path is in the inventory with the same version, size, label, kind, other values and
    split (a split that Orchard assigned stays). If the listing has no version, the storage is asked. A rejected image
    stays rejected while it is unchanged, unless `retry_rejected` is set, or it could not be read before but can be now.
    With `views`, an image that comes into a split of `VIEWED` is done again, because it has no views. Finished images
    that are not among `viewed` need their views (None: all have them).

    Raises:
        UsageError: the output has rows of images that the source does not list and that are not `dropped`, and `prune`
            is not set.
        InputError: none of the images is there.
    """
    listing, missing = with_versions(listing, s3)
    columns = ["path", "size", "version", *CARRIED, "split", "featurized"]
    inventory = output.read(Dataset.INVENTORY, columns, INVENTORY)
    vanished = inventory["path"].filter(pc.invert(pc.is_in(inventory["path"], _values(listing["path"]))))
    unasked = vanished.filter(pc.invert(pc.is_in(vanished, pa.array(sorted(dropped), pa.string()))))
    if len(unasked) and not prune:
        erased = known(output.storage)
        again = [path for path in unasked.to_pylist() if digest(path) in erased]
        if again:
            raise UsageError(
                f"{output.url} holds {len(again)} images that were erased from it (such as {again[0]}), as a version "
                "without orchard erase took them in again: erase them once more."
            )
        raise UsageError(
            f"{output.url} holds {len(unasked)} images that the source, as selected, does not list (such as "
            f"{unasked[0]}): choose another --output, --prune to drop their rows, or --fresh to start over."
        )
    at = pc.index_in(listing["path"], _values(inventory["path"]))
    is_known = pc.is_valid(at)
    before = inventory.take(at)
    is_renamed = _differs(listing["split"], before["split"])  # null: the source does not say
    for name in CARRIED:  # null: it has none
        is_renamed = pc.or_(is_renamed, pc.not_equal(pc.fill_null(listing[name], ""), pc.fill_null(before[name], "")))
    again = pc.or_(*(_differs(listing[name], before[name]) for name in ("version", "size")))  # as of the split
    is_missing = pc.is_in(listing["path"], pa.array(missing, pa.string()))
    again = pc.or_(again, pc.and_(is_missing, pc.fill_null(before["featurized"], False)))
    if retry_rejected:
        again = pc.or_(again, pc.invert(pc.fill_null(before["featurized"], True)))
    else:
        again = pc.or_(again, pc.is_in(listing["path"], _readable_again(output, missing, s3)))
    seen = pa.array(VIEWED, pa.string())
    if views:
        becomes_viewed = pc.and_not(pc.is_in(listing["split"], seen), pc.is_in(before["split"], seen))
        again = pc.or_(again, pc.and_(pc.fill_null(becomes_viewed, False), pc.fill_null(before["featurized"], False)))
    is_there = pc.and_not(is_known, again)
    is_done = pc.and_not(is_there, is_renamed)
    replaced = listing["path"].filter(pc.and_(is_known, again))
    images = listing.filter(pc.invert(is_done)).sort_by("path")
    assigned = before.filter(is_done).select(["path", "label", "split"])
    assigned = assigned.append_column("group", listing["group"].filter(is_done))
    images = assign_splits(images, assigned, test_fraction=test_fraction, seed=seed)
    is_only_renamed = pc.is_in(images["path"], _values(listing["path"].filter(pc.and_(is_there, is_renamed))))
    as_renamed = images.filter(is_only_renamed)
    unviewed = LISTING.empty_table()
    if viewed is not None:
        at_split = LISTING.get_field_index("split")
        done = listing.filter(is_done).set_column(at_split, LISTING.field("split"), before.filter(is_done)["split"])
        done = pa.concat_tables([done.select(LISTING.names), as_renamed.select(LISTING.names)])
        featurized = inventory["path"].filter(inventory["featurized"])
        lacks = pc.and_not(pc.is_in(done["path"], _values(featurized)), pc.is_in(done["path"], viewed))
        lacks = pc.and_(lacks, pc.is_in(done["split"], seen))
        unviewed = done.filter(lacks).sort_by("path")
    return Pending(
        images=images.filter(pc.invert(is_only_renamed)),
        renamed=as_renamed,
        unviewed=unviewed,
        replaced=pa.chunked_array([*replaced.chunks, *vanished.chunks], pa.string()),
        replaced_images=len(replaced),
        vanished_images=len(vanished),
    )


def _readable_again(output: Output, missing: list[str], s3: S3Options) -> pa.Array:
    """Return the paths of images that were rejected as unreadable and can be read now."""
    rejected = output.read(Dataset.REJECTED, ["path", "reason"], REJECTED)
    refused = rejected.filter(pc.equal(rejected["reason"], Reason.UNREADABLE))["path"].to_pylist()
    return pa.array(readable(sorted(set(refused) - set(missing)), s3), pa.string())


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Return the column as one array, to look other values up in."""
    return column.combine_chunks()


def _differs(new: pa.ChunkedArray, old: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return where both are known and not equal."""
    return pc.fill_null(pc.not_equal(new, old), False)


def without(output: Output, paths: pa.ChunkedArray) -> tuple[dict[Dataset, list[DataFile]], list[str]]:
    """Stage the files of the extraction that hold rows of `paths` again, without them.

    Returns:
        The files to add in a commit, and the names of the files to remove.
    """
    add: dict[Dataset, list[DataFile]] = {}
    remove: list[str] = []
    dropped = PathIndex(paths)
    for dataset in FEATURIZED if len(dropped) else ():
        for file in output.files(dataset):
            is_dropped = dropped.has(read_columns(output.storage, file, ["path"])["path"])
            if not is_dropped.any():
                continue
            kept = read_columns(output.storage, file).filter(pa.array(~is_dropped))
            remove.append(file.name)
            if kept.num_rows:
                add.setdefault(dataset, []).append(output.stage(dataset, kept))
    return add, remove


def renamed(output: Output, images: pa.Table) -> tuple[dict[Dataset, list[DataFile]], list[str]]:
    """Stage the files of the extraction that hold rows of `images` again, with their label, kind, values and split.

    Args:
        output: held for writing; one file is in memory at a time.
        images: schema `LISTING`.

    Returns:
        As `without`.
    """
    add: dict[Dataset, list[DataFile]] = {}
    remove: list[str] = []
    index, images = PathIndex(images["path"]), images.combine_chunks()
    for dataset in (Dataset.FEATURES, Dataset.VIEWS, Dataset.INVENTORY) if len(index) else ():
        for file in output.files(dataset):
            places = index.places(read_columns(output.storage, file, ["path"])["path"])
            if (places < 0).all():
                continue
            rows = read_columns(output.storage, file)
            is_renamed, at = pa.array(places >= 0), pa.array(np.maximum(places, 0))
            for name in (*CARRIED, "split"):
                new = pc.if_else(is_renamed, images[name].take(at), rows[name])
                rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), new)
            remove.append(file.name)
            add.setdefault(dataset, []).append(output.stage(dataset, rows))
    return add, remove
