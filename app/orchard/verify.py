"""Checks every file of an output against what was written, and repairs what can be made again.

Results of later stages are deleted, and the next run makes them again. Rows of an image are kept if they are
consistent: the image is in the inventory and in exactly one of ``features`` and ``rejected``. Other images are worked
on again. A damaged log is written again from the existing files, because the folders hold only committed files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from orchard import models
from orchard.errors import InputError, OrchardError, OutputDamaged
from orchard.features.artifact import Artifact
from orchard.files import DataFile, digest_of, is_own, is_skipped, read_columns, read_file
from orchard.images.lookup import PathIndex
from orchard.layout import (
    BACKBONE,
    COMMITS,
    CURRENT_MODEL,
    DERIVED,
    FEATURIZED,
    FORGOTTEN,
    MODEL,
    PARTS,
    REDUCTION,
    SCHEMAS,
    STATISTICS,
    VIEWED,
    Dataset,
)
from orchard.output import NO_MODEL, Output

_LOOK_AGAIN = 3
"""How often an output that changes meanwhile is looked at again."""


class Verdict(TypedDict):
    """The damage that was found, and what was repaired."""

    files: int  # that were checked
    damage: list[str]  # one sentence each
    mended: bool  # whether the output is whole now; files of others in its folders stay
    images_to_do_again: int  # by the next run


class _Bad(defaultdict[str, set[str]]):
    """Folder -> names of damaged files; under the empty name, files that were never committed."""

    def __init__(self) -> None:
        super().__init__(set)


def verify(output: Output, *, mend: bool = True) -> Verdict:
    """Check every file of an output against its log, and the log itself, and repair what can be repaired.

    Raises:
        InputError: the output is empty.
        OutputDamaged: it cannot be mended.
        OutputLocked: another run writes to it, and it is to be mended.
    """
    if output.is_empty:
        raise InputError(f"{output.url} holds no results, so there is nothing to verify.")
    if not mend:  # one who only reads needs no lock, and no right to write
        verdict = _verdict(output)
        for _ in range(_LOOK_AGAIN):
            # Another run may have replaced files since the log was read; then the log has grown.
            if not verdict["damage"] or not output.refresh():
                break
            verdict = _verdict(output)
        return verdict
    with output.writing(unchecked=True):
        return _verdict(output, mend=True)


def _verdict(output: Output, *, mend: bool = False) -> Verdict:
    """Return what is damaged, and repair it if asked to, as one who holds the lock. Raises as `verify` does."""
    if (damage := output.damage) is not None:
        again = _write_log_anew(output) if mend else 0
        return Verdict(files=0, damage=[str(damage)], mended=mend, images_to_do_again=again)
    sentences, bad, others = _check(output)
    listed = sum(file.rows for file in output.files(Dataset.INVENTORY))
    # While views are made anew, images without them are as they should be.
    views = 0 if output.recall("views") else output.recall("identity").get("views", 0)
    images = _agreeing({dataset: _paths(output, dataset, bad) for dataset in FEATURIZED}, views)
    agree = len(images) == listed == sum(output.rows(d) for d in (Dataset.FEATURES, Dataset.REJECTED))
    if not agree and not any(bad[dataset] for dataset in FEATURIZED):
        sentences.append(
            f"features, views, rejected and inventory of {output.url} agree about {len(images)} images only."
        )
    if mend and sentences:
        _mend(output, bad, None if agree else images)
    mended = (mend or not sentences) and not others
    return Verdict(
        files=sum(len(output.files(folder)) for folder in (*Dataset, MODEL, PARTS)),
        damage=sentences + others,
        mended=mended,
        images_to_do_again=listed - len(images),
    )


def _check(output: Output) -> tuple[list[str], _Bad, list[str]]:
    """Read every committed file, and look for more.

    Returns:
        What is wrong as sentences, and by file; and a sentence for each file of others.
    """
    sentences, bad, others, storage = [], _Bad(), list[str](), output.storage
    for folder in (*Dataset, MODEL, PARTS):
        files = output.present_files(folder)
        for file in files:
            try:
                read_file(storage, file)
                if folder in SCHEMAS and file.digest is None:
                    read_columns(storage, file)
            except OutputDamaged as error:
                sentences.append(str(error).partition(": run orchard verify")[0] + ".")
                bad[folder].add(file.name)
        if not output.is_settled:  # what is not as the log says yet, the next start sets right
            continue
        prefix = f"{folder.rstrip('/')}/"
        known = {CURRENT_MODEL, *(file.name for file in files)}
        for name in sorted(entry.key for entry in storage.list(prefix) if entry.key not in known):
            if is_skipped(name.removeprefix(prefix)):
                continue
            if is_own(name):
                sentences.append(f"{output.url}/{name} was never committed.")
                bad[""].add(name)
            else:
                others.append(f"{output.url}/{name} is not Orchard's, but readers of its folder read it: take it away.")
    try:
        named = models.current(storage).folder
    except (OrchardError, OSError):
        named = None
    if output.is_settled and named != output.model_folder and not bad[MODEL]:
        sentences.append(f"{output.url}/{CURRENT_MODEL} does not name the model that holds.")
        bad[MODEL].add(CURRENT_MODEL)
    return sentences, bad, others


def _mend(output: Output, bad: _Bad, images: pa.Array | None) -> None:
    """Commit the output without damaged files and what was made from them; with the rows of `images`, if given."""
    output.storage.delete(sorted(bad[""]))
    add: dict[Dataset, list[DataFile]] = defaultdict(list)
    remove = set(bad[PARTS])
    agreeing = PathIndex(pa.array([], pa.string()) if images is None else images)
    for dataset in FEATURIZED if images is not None else ():
        for file in output.files(dataset):
            table = None if file.name in bad[dataset] else read_columns(output.storage, file)
            kept = table and table.filter(pa.array(agreeing.has(table["path"])))
            if kept is None or kept.num_rows < file.rows:
                remove.add(file.name)
                add[dataset] += [output.stage(dataset, kept)] if kept else []
    no_model = NO_MODEL if bad[MODEL] else None  # it has copies of the parts, and answers on if they are whole
    reduction = any(name.endswith((REDUCTION, STATISTICS)) for name in bad[PARTS])
    if images is not None or reduction or bad[Dataset.REDUCED] or bad[Dataset.REDUCED_CSV] or bad[Dataset.NEIGHBOURS]:
        output.commit(add, replace=DERIVED, remove=remove, properties=FORGOTTEN, model=no_model)
    elif bad[Dataset.PREDICTIONS] or bad[MODEL] or bad[PARTS]:
        replaced, forgotten = [Dataset.PREDICTIONS], {"classification": None}
        output.commit({}, replace=replaced, remove=remove, properties=forgotten, model=no_model)


def _agreeing(tables: Mapping[Dataset, pa.Table], views: int) -> pa.Array:
    """Return the paths of the images whose rows agree.

    Args:
        tables: ``path`` of `FEATURIZED`, and ``featurized`` and ``split`` of the inventory.
        views: how many there are to be of each training image.
    """
    inventory = tables[Dataset.INVENTORY]
    found = []
    for dataset, is_featurized in ((Dataset.FEATURES, True), (Dataset.REJECTED, False)):
        mine = _once(inventory.filter(pc.equal(inventory["featurized"], is_featurized))["path"])
        paths = _once(tables[dataset]["path"])
        found += paths.filter(pc.is_in(paths, value_set=mine)).chunks
    agreeing = _once(pa.chunked_array(found, pa.string())).combine_chunks()
    if not views:
        return agreeing
    is_seen = pc.and_(inventory["featurized"], pc.is_in(inventory["split"], pa.array(VIEWED, pa.string())))
    counts = pc.value_counts(tables[Dataset.VIEWS]["path"])
    whole = pc.struct_field(counts, "values").filter(pc.equal(pc.struct_field(counts, "counts"), views))
    seen = inventory["path"].filter(is_seen)
    lacking = seen.filter(pc.invert(pc.is_in(seen, value_set=whole))).combine_chunks()
    return agreeing.filter(pc.invert(pc.is_in(agreeing, value_set=lacking)))


def _write_log_anew(output: Output) -> int:
    """Start a new log with the files in the folders; return the number of images to do again.

    Raises:
        OutputDamaged: no record that can be read says what the features were made with.
    """
    properties: dict[str, Any] = {}
    for entry in sorted(output.storage.list(COMMITS)):
        try:
            properties |= json.loads(output.storage.read(entry.key))["properties"]
        except (ValueError, KeyError, TypeError):
            continue
    if not properties.get("identity"):
        raise OutputDamaged(
            f"{output.url} cannot be mended, as no record of a commit is left that says how its features were made: "
            "start over with --fresh."
        )
    tables = {dataset: list(_readable(output, dataset)) for dataset in FEATURIZED}
    images = _agreeing(
        {d: pa.concat_tables([SCHEMAS[d].empty_table(), *(t for _, t in found)]) for d, found in tables.items()},
        properties["identity"].get("views", 0),
    )
    add: dict[str, list[DataFile]] = {PARTS: list(_networks(output))[:1]}
    agreeing = PathIndex(images)
    for dataset, found in tables.items():
        for file, table in found:
            kept = table.filter(pa.array(agreeing.has(table["path"])))
            if kept.num_rows:
                whole = kept.num_rows == table.num_rows
                add.setdefault(dataset, []).append(file if whole else output.stage(dataset, kept))
    remembered = ("identity", "extraction", "seconds")
    output.start_over({name: properties[name] for name in remembered if properties.get(name)}, add=add)
    listed: int = sum(table.num_rows for _, table in tables[Dataset.INVENTORY])
    return listed - len(images)


def _readable(output: Output, dataset: Dataset) -> Iterator[tuple[DataFile, pa.Table]]:
    """Yield Orchard's files of a folder that can be read, with their rows."""
    for name in filter(is_own, (entry.key for entry in output.storage.list(f"{dataset}/"))):
        try:
            file = _as_it_is(output, name)
            table = read_columns(output.storage, file).cast(SCHEMAS[dataset])
        except (OutputDamaged, ValueError):
            continue
        yield DataFile(file.name, table.num_rows, file.size, file.digest), table


def _networks(output: Output) -> Iterator[DataFile]:
    """Yield the parts that are a network."""
    for entry in output.storage.list(PARTS):
        file = _as_it_is(output, entry.key)
        if file.name == f"{PARTS}{file.digest}/{BACKBONE}":
            try:
                Artifact.from_bytes(read_file(output.storage, file))
            except ValueError:
                continue
            yield file


def _as_it_is(output: Output, name: str) -> DataFile:
    data = output.storage.read(name)
    return DataFile(name, 0, len(data), digest_of(data))


def _paths(output: Output, dataset: Dataset, bad: _Bad) -> pa.Table:
    """Return ``path``, of the inventory also ``featurized`` and ``split``, of the files that can be read."""
    columns = ["path", "split", "featurized"] if dataset is Dataset.INVENTORY else ["path"]
    schema = pa.schema([SCHEMAS[dataset].field(name) for name in columns])
    files = [file for file in output.present_files(dataset) if file.name not in bad[dataset]]
    tables = (read_columns(output.storage, file, columns).cast(schema) for file in files)
    return pa.concat_tables([schema.empty_table(), *tables])


def _once(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the paths that occur exactly once."""
    counts = pc.value_counts(paths)
    values = pc.struct_field(counts, "values").filter(pc.equal(pc.struct_field(counts, "counts"), 1))
    return pa.chunked_array([values], pa.string())
