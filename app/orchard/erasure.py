"""Erases images from an output, and names everything that was learned from them.

It deletes rows of every dataset, paths in the log and in the stages' properties, and lines of the logs of runs. One
commit does this, and it resets the log, because old commits hold paths, too. If it is killed, the same command
continues. Models stay, because one image cannot be removed from them: they have to be made again.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchard import delimited, runlog
from orchard.classification.judged import Judged
from orchard.errors import OrchardError
from orchard.files import DataFile, digest_of, parquet_bytes, part, read_columns, read_file, stage_file
from orchard.images import erased
from orchard.images.versions import readable
from orchard.layout import (
    ERASED,
    ESCAPED,
    INVENTORY,
    JUDGED,
    METRICS,
    MODEL,
    NEIGHBOURS,
    PARTS,
    REPORT,
    REVIEW,
    RUN,
    SCHEMAS,
    TO_DO_AGAIN,
    TUNED,
    VIEWED,
    Dataset,
)
from orchard.output import Output
from orchard.storage import S3Options, Storage, local_path, readable_path, split_object_url

GONE = "(erased)"
"""Text that replaces a path in a sentence."""
_SHOWN = 20


class Erasure(TypedDict):
    """Everything that an output holds of images, and what happens to it."""

    output: str
    images: int  # of which there are rows
    unknown: list[str]  # paths, as they were given, of which there are none
    erased_before: list[str]  # of the unknown, those that are remembered as erased
    rows: dict[str, int]  # dataset -> rows that go
    neighbours_of_others: int  # rows of other images from whose neighbours they go
    files: list[str]  # other files that name one: written again without it, or dropped
    copies: list[str]  # further images of the same bytes, which stay
    in_source: list[str]  # of the images, those that can still be read where they came from
    to_make_again: list[str]  # a sentence for each thing that was learned from them, or left the output
    erased: bool  # whether it was done


@dataclass
class Plan:
    """The changes to make; `said` describes them."""

    paths: list[str]
    said: Erasure
    rewritten: dict[str, list[DataFile]] = field(default_factory=dict)
    """Folder -> files to write again."""
    lists: dict[str, bytes] = field(default_factory=dict)
    """File outside the commits -> its content without the images."""
    dropped: list[str] = field(default_factory=list)
    """Files outside the commits that are deleted."""


def find(output: Output, images: Sequence[str], s3: S3Options, *, older_than: timedelta | None = None) -> Plan:
    """Find every trace of images in an output; nothing is changed.

    Args:
        output: the output.
        images: paths as in the output, relative paths, or addresses; one with a slash at the end means all below it.
        s3: options of the stores in which the images may still exist.
        older_than: an age: also find the logs of older runs, and of those that seem to be yet to come, as a clock was
            ahead; and all images if the last commit is older.

    Raises:
        UsageError: a path is of a scheme that is not read.
        OutputDamaged, StorageError: the output cannot be read.
    """
    columns = ["path", "split", "digest", "featurized"]
    inventory = output.read(Dataset.INVENTORY, columns, INVENTORY)
    paths, unknown = _named(images, inventory["path"].to_pylist())
    dropped: list[str] = []
    if older_than is not None:
        since = datetime.now(UTC) - older_than
        dropped = [key for key in runlog.files(output.storage) if _is_old(key, since)]
        if output.committed is not None and output.committed < since.timestamp():
            paths = sorted({*paths, *inventory["path"].to_pylist()})
            dropped += _review_lists(output.storage)
    values = pa.array(paths, pa.string())
    mine = inventory.filter(pc.is_in(inventory["path"], value_set=values))
    plan = Plan(
        paths,
        Erasure(
            output=output.url,
            images=mine.num_rows,
            unknown=unknown,
            erased_before=_erased_before(output, unknown),
            rows={},
            neighbours_of_others=0,
            files=[],
            copies=_copies(inventory, mine, values),
            in_source=_in_source(paths[:_SHOWN], s3) if mine.num_rows else [],
            to_make_again=_learned(output, mine),
            erased=False,
        ),
        dropped=dropped,
    )
    if paths:
        _find_rows(output, plan, values)
        _find_names(output, plan)
    plan.said["files"] = sorted({*plan.lists, *plan.dropped, *plan.said["files"]})
    return plan


def erase(output: Output, plan: Plan, *, remember: bool = True) -> Erasure:
    """Make the changes that `find` has planned: lists and logs first, then everything else by one commit.

    This deletes report, metrics and ``run.json``; the caller writes them again.

    Args:
        output: the output, locked for writing.
        plan: the plan for this output, made under the same lock.
        remember: whether to keep digests of the paths, so that later runs leave the images out.

    Raises: as `Output.commit`.
    """
    if remember and plan.paths:
        output.write(ERASED, erased.changed(erased.known(output.storage), plan.paths, allow_again=False))
    for name, content in plan.lists.items():
        output.write(name, content)
    output.storage.delete(plan.dropped)
    if plan.paths:
        files: dict[str, list[DataFile]] = {}
        for folder in (*Dataset, MODEL, PARTS):
            again = {file.name for file in plan.rewritten.get(folder, ())}
            files[folder] = [file for file in output.files(folder) if file.name not in again]
            written = [_written(output, folder, file, plan.paths) for file in plan.rewritten.get(folder, ())]
            files[folder] += [file for file in written if file is not None]
            if again and not files[folder] and folder in SCHEMAS:  # every reader can open it
                files[folder] = [output.stage(Dataset(folder), SCHEMAS[Dataset(folder)].empty_table())]
        properties = _scrubbed(output.properties, re.compile(_any_of(plan.paths)))
        if "listed" in properties.get("listing", {}):
            properties["listing"]["listed"] -= plan.said["images"]
        output.start_over(properties, files)
    done: Erasure = {**plan.said, "erased": True}
    return done


def allow_again(output: Output, images: Sequence[str]) -> int:
    """Let later runs take erased images in again, and return how many of those that are named were erased."""
    before = erased.known(output.storage)
    after = erased.changed(before, [_as_listed(image) for image in images] + list(images), allow_again=True)
    output.write(ERASED, after)
    return len(before) - len(json.loads(after)["paths"])


def _named(images: Sequence[str], listed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the paths to erase, and those given that match nothing listed.

    The latter are among the former: logs may name them all the same.
    """
    found: set[str] = set()
    unknown = []
    known = set(listed)
    for image in images:
        path = image if image in known else _as_listed(image)
        if image.endswith("/"):
            inside = [each for each in listed if each.startswith((f"{path.rstrip('/')}/", image))]
            found |= {*inside}
            unknown += [] if inside else [image]
            continue
        found.add(path)
        unknown += [] if path in known else [image]
    return sorted(found), unknown


def _erased_before(output: Output, images: Sequence[str]) -> list[str]:
    before = erased.known(output.storage) if images else set()
    return [image for image in images if erased.digest(_as_listed(image)) in before]


def _as_listed(image: str) -> str:
    location = split_object_url(image)
    return location.url if location else readable_path(local_path(image))


def _in_source(paths: Sequence[str], s3: S3Options) -> list[str]:
    try:
        return readable(paths, s3)
    except OrchardError:  # a source that cannot be asked keeps nothing from being erased
        return []


def _any_of(paths: Collection[str]) -> str:
    """Return a pattern that finds the paths, but not where another path only begins like one of them."""
    longest_first = sorted(paths, key=len, reverse=True)
    return f"(?:{'|'.join(map(re.escape, longest_first))})(?!\\.?\\w|/)"


def _copies(inventory: pa.Table, mine: pa.Table, paths: pa.Array) -> list[str]:
    same = pc.is_in(inventory["digest"], value_set=mine["digest"].drop_null().combine_chunks())
    others = inventory.filter(pc.and_(same, pc.invert(pc.is_in(inventory["path"], value_set=paths))))
    found: list[str] = others["path"].to_pylist()
    return sorted(found)


def _learned(output: Output, mine: pa.Table) -> list[str]:
    """Return a sentence for each thing learned from the images, and for exports outside of the output."""
    if not mine.num_rows:
        return []
    url, identity = output.url, output.recall("identity")
    learned = mine.filter(pc.and_(mine["featurized"], pc.is_in(mine["split"], pa.array(VIEWED, pa.string())))).num_rows
    model = (output.model_folder or "").removeprefix(MODEL).rstrip("/")
    again = f"orchard run SOURCE --output {url}"
    found = []
    if learned and output.recall("reduction"):
        found.append(f"scaler, PCA and reduced table were fitted on {learned} of them: {again}")
    if learned and model:
        found.append(f"the model {model[:12]}, its classifiers and calibration too: {again}, then restart its servers")
    elif model:
        found.append(f"the model's accuracy was measured on them, and nothing fitted: {again}")
    if learned and output.has_part(TUNED):
        found.append(f"the network was tuned on images of this output: orchard tune {url}")
    if learned and identity.get("precision") == "int8":
        found.append(f"the network's int8 ranges were set by training images: {again} --fresh")
    if learned and model:
        found.append(f"files that orchard export made of the model {model[:12]}: export again, and take those back")
    found.append(
        "what has left this output: copies of its tables and lists, logs of the cluster, Spark's event log, backups, "
        "older versions that a bucket keeps, what orchard compare made of the same source"
    )
    return found


def _find_rows(output: Output, plan: Plan, paths: pa.Array) -> None:
    """Record the files of datasets and parts that contain the paths, and count the rows."""
    for dataset in Dataset:
        for file in output.files(dataset):
            mine, others = _count(output, dataset, file, paths)
            if mine or others:
                plan.rewritten.setdefault(dataset, []).append(file)
                plan.said["neighbours_of_others"] += others
            if mine:
                plan.said["rows"][dataset] = plan.said["rows"].get(dataset, 0) + mine
    parts = [
        file
        for file in output.files(PARTS)
        if file.name.endswith(f"/{TO_DO_AGAIN}") or (file.name.endswith(f"/{JUDGED}") and output.part(JUDGED))
    ]
    if parts:
        plan.rewritten[PARTS] = parts


def _count(output: Output, dataset: Dataset, file: DataFile, paths: pa.Array) -> tuple[int, int]:
    """Return the number of rows of the paths, and of other rows that have them as neighbours."""
    if dataset is Dataset.REDUCED_CSV:
        named = set(paths.to_pylist())
        return sum(_path_of(row) in named for row in _csv_rows(read_file(output.storage, file))), 0
    columns = ["path", "neighbours"] if dataset is Dataset.NEIGHBOURS else ["path"]
    rows = read_columns(output.storage, file, columns)
    is_mine = pc.is_in(rows["path"], value_set=paths)
    others = 0
    if dataset is Dataset.NEIGHBOURS:
        rest = rows.filter(pc.invert(is_mine))["neighbours"].combine_chunks()
        named = pc.is_in(pc.list_flatten(rest), value_set=paths)
        others = pc.count_distinct(pc.list_parent_indices(rest).filter(named)).as_py()
    return pc.sum(is_mine).as_py() or 0, others


def _written(output: Output, folder: str, file: DataFile, names: Sequence[str]) -> DataFile | None:
    """Stage a file again without the paths; None if nothing is left of it."""
    paths = pa.array(names, pa.string())
    if folder == PARTS:
        content, name = read_file(output.storage, file), file.name.rpartition("/")[2]
        if name == JUDGED:
            data: bytes | pa.Buffer = Judged.from_bytes(content).without(paths).to_bytes()
        else:
            table = pq.read_table(pa.BufferReader(content))
            data = parquet_bytes(table.filter(pc.invert(pc.is_in(table["path"], value_set=paths))))
        return stage_file(output.storage, output.staging, f"{PARTS}{digest_of(data)}/{name}", data)
    if folder == Dataset.REDUCED_CSV:
        named = set(names)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        kept = [row for row in _csv_rows(read_file(output.storage, file)) if _path_of(row) not in named]
        writer.writerows(kept)
        packed = gzip.compress(text.getvalue().encode(), 1)
        return stage_file(output.storage, output.staging, part(Dataset.REDUCED_CSV, "csv.gz"), packed, len(kept) - 1)
    rows = read_columns(output.storage, file)
    rows = rows.filter(pc.invert(pc.is_in(rows["path"], value_set=paths)))
    if folder == Dataset.NEIGHBOURS:
        rows = _without_neighbours(rows, set(names))
    return output.stage(Dataset(folder), rows) if rows.num_rows else None


def _without_neighbours(rows: pa.Table, names: Collection[str]) -> pa.Table:
    kept = [
        {**row, "neighbours": [n for n, _ in left], "similarities": [s for _, s in left]}
        for row in rows.to_pylist()
        for left in [
            [pair for pair in zip(row["neighbours"], row["similarities"], strict=True) if pair[0] not in names]
        ]
    ]
    return pa.Table.from_pylist(kept, NEIGHBOURS)


def _csv_rows(data: bytes) -> Iterator[list[str]]:
    """Yield the rows of a file of ``reduced_csv``, its header first."""
    with gzip.open(io.BytesIO(data), "rt", encoding="utf-8", newline="") as text:
        yield from csv.reader(text)


def _path_of(row: Sequence[str]) -> str:
    return ESCAPED.sub("", row[0]) if row else ""


def _find_names(output: Output, plan: Plan) -> None:
    """Record the files outside of the datasets that contain the paths."""
    storage = output.storage
    names = re.compile(_any_of(_spellings(plan.paths)).encode())
    for name in filter(storage.exists, (METRICS, RUN, REPORT)):
        # They count images, and a report shows some without naming them.
        if plan.said["rows"] or names.search(storage.read(name)):
            plan.said["files"].append(name)

    def rewrite(keys: Sequence[str], without: Callable[[bytes], bytes]) -> None:
        for key in keys:
            if key not in plan.dropped:
                data = storage.read(key)
                if (kept := without(data)) != data:
                    plan.lists[key] = kept

    def without_lines(data: bytes) -> bytes:
        return b"".join(line for line in data.splitlines(keepends=True) if not names.search(line))

    paths = set(plan.paths)
    rewrite(runlog.files(storage), without_lines)
    rewrite(_review_lists(storage), lambda data: _without_suspects(data, paths))


def _review_lists(storage: Storage) -> list[str]:
    """Return the list of suspects, and those that people wrote into."""
    return [entry.key for entry in storage.list(REVIEW) if entry.key.endswith(".csv")]


def _spellings(paths: Collection[str]) -> set[str]:
    """Return each path as it is, and as JSON and Python would quote it."""
    return {
        spelled
        for path in paths
        for spelled in (path, json.dumps(path)[1:-1], json.dumps(path, ensure_ascii=False)[1:-1], repr(path)[1:-1])
    }


def _without_suspects(data: bytes, names: Collection[str]) -> bytes:
    """Return the list of suspects, as people may have saved it, without rows of the paths and without their names."""
    try:
        mark, table = delimited.delimiter(delimited.decoded(data), lambda columns: "path" in columns)
        rows = list(csv.reader(io.StringIO(table, newline=""), delimiter=mark))
        at = [name.strip().lower() for name in rows[0]].index("path")
    except (ValueError, IndexError, csv.Error):  # it is no such table any more, or in another encoding
        spelled = [name.encode() for name in names]
        return b"".join(line for line in data.splitlines(keepends=True) if not any(name in line for name in spelled))
    kept = [
        ["" if ESCAPED.sub("", cell) in names else cell for cell in row]
        for row in rows
        if len(row) <= at or ESCAPED.sub("", row[at]) not in names
    ]
    if kept == rows:
        return data
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=mark, lineterminator="\n").writerows(kept)
    return written.getvalue().encode()


def _scrubbed(value: Any, names: re.Pattern[str]) -> Any:
    """Return what stages remember without the paths: entries of one go, and sentences lose it."""
    if isinstance(value, str):
        return names.sub(GONE, value)
    if isinstance(value, list):
        return [_scrubbed(each, names) for each in value if not _is_of(each, names)]
    if isinstance(value, Mapping):
        return {
            _scrubbed(key, names): None if key == "like" and _is_of(each, names) else _scrubbed(each, names)
            for key, each in value.items()
        }
    return value


def _is_of(value: object, names: re.Pattern[str]) -> bool:
    """Whether a list's entry is a path or about one."""
    path = value.get("path") if isinstance(value, Mapping) else value
    return isinstance(path, str) and names.fullmatch(path) is not None


def _is_old(key: str, since: datetime) -> bool:
    """Whether a run's log is of before, or may be, as the run seems to be yet to come."""
    try:
        return not since <= runlog.began(key) <= datetime.now(UTC) + runlog.AHEAD
    except ValueError:
        return False
