"""The groups of finished images: they may change without decoding an image again."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from orchard.files import read_columns
from orchard.images.groups import describe, groups_of, regrouped, straddles
from orchard.images.lookup import PathIndex
from orchard.layout import INVENTORY, Dataset, Grouping
from orchard.output import Output
from orchard.stages import key_of_rows

_BATCH_ROWS = 16_384
"""Rows that are objects of Python at a time."""


def source_key(output: Output) -> str | None:
    """Return a digest of which source lists which image, None if there is one source."""
    images = output.read(Dataset.INVENTORY, ["path", "source"], INVENTORY)
    if images["source"].null_count == images.num_rows:
        return None
    return key_of_rows(_pairs(images, "source"))


def group_key(output: Output, *, straddling: bool = False) -> str | None:
    """Return a digest of the groups; None without groups, or, if requested, without a group that the split cuts."""
    images = output.read(Dataset.INVENTORY, ["path", "split", "group", "featurized"], INVENTORY)
    images = images.filter(images["featurized"])
    if images["group"].null_count == images.num_rows or (straddling and not straddles(images)):
        return None
    return key_of_rows(_pairs(images, "group"))


def _pairs(images: pa.Table, name: str) -> Iterator[list[str | None]]:
    """Yield path and another value of each image, in the order of the paths."""
    for batch in images.select(["path", name]).sort_by("path").to_batches(max_chunksize=_BATCH_ROWS):
        yield from map(list, zip(*(column.to_pylist() for column in batch.columns), strict=True))


def regroup(output: Output, group_by: str) -> None:
    """Group the images of the inventory anew, by their paths, unless they are grouped so already.

    Raises:
        UsageError: `group_by` finds nothing; a manifest's columns are known only where the source is listed.
    """
    before: Grouping | None = output.property("grouping")  # type: ignore[assignment]
    if before is not None and before["by"] == group_by:
        return
    images = output.read(Dataset.INVENTORY, ["path", "label", "group"], INVENTORY)
    images = regrouped(images, groups_of(group_by, images["path"].to_pylist(), images["label"].to_pylist()))
    update_groups(output, images, describe(group_by, images, from_column=False))


def update_groups(output: Output, images: pa.Table, grouping: Grouping | None) -> None:
    """Write the groups of `images` (columns ``path, group``) to the inventory, and record where they come from.

    A column ``source`` is written to the inventory, too.
    """
    add, remove = [], []
    names = [name for name in ("group", "source") if name in images.column_names]
    index, images = PathIndex(images["path"]), images.combine_chunks()
    for file in output.files(Dataset.INVENTORY):
        rows = read_columns(output.storage, file)
        places = index.places(rows["path"])
        at = pa.array(places, mask=places < 0)
        differs = False
        for name in names:
            values = images[name].take(at)
            if not pc.all(pc.equal(pc.fill_null(values, ""), pc.fill_null(rows[name], ""))).as_py():
                place = rows.schema.get_field_index(name)
                rows, differs = rows.set_column(place, rows.schema.field(name), values), True
        if differs:
            remove.append(file.name)
            add.append(output.stage(Dataset.INVENTORY, rows))
    if add or output.property("grouping") != grouping:
        output.commit({Dataset.INVENTORY: add}, remove=remove, properties={"grouping": grouping})
