"""The images of a source: a folder, a bucket, a pattern, a single file or a manifest."""

import errno
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from orchard import interruption
from orchard.errors import AccessDenied, BucketMissing, InputError, OrchardError, StorageError, UsageError
from orchard.images.content import HEAD_BYTES, image_format
from orchard.images.corrections import Corrections
from orchard.images.corrections import read as read_corrections
from orchard.images.groups import describe, groups_of, regrouped
from orchard.images.kinds import KindFrom, kind_warnings, kinds_of
from orchard.images.manifests import SUFFIXES, is_manifest, read_manifest
from orchard.images.places import (
    doubtful,
    has_image_suffix,
    is_archive,
    is_ignored,
    places,
    shared_folder,
    source_name,
    split_named,
)
from orchard.images.selection import sample, with_labels
from orchard.layout import (
    COMMITS,
    LABEL_COLUMNS,
    LISTING,
    LOGS,
    MODEL,
    REVIEW,
    SUSPECT_LIST,
    CorrectionMetrics,
    Dataset,
    Grouping,
)
from orchard.settings import Settings
from orchard.storage import (
    Entry,
    LocalStorage,
    S3Options,
    Storage,
    is_object,
    local_path,
    open_storage,
    readable_path,
    split_object_url,
)
from orchard.vocabulary import Split

_LOG = COMMITS.partition("/")[0]  # what every output holds
_OUTPUT_FOLDERS = frozenset([_LOG, MODEL.strip("/"), REVIEW.strip("/"), LOGS.strip("/"), *Dataset])
_WILDCARD = re.compile(r"[*?\[{]")
_GATHERED = [("path", pa.string()), ("size", pa.int64()), ("version", pa.string()), ("folder", pa.int32())]
_BATCH = 100_000
_IGNORED_SHOWN = 20
# Objects are some 10 ms away; each thread waits for one.
_SNIFFING_THREADS = 32


@dataclass(frozen=True)
class Listing:
    """The images that a source lists, and what was noticed while listing it."""

    table: pa.Table
    """Schema LISTING, sorted by path; a null split means "assign one"."""
    ignored: list[str] = field(default_factory=list)
    """The first paths of files that are no images by name and by content, such as LICENSE, and of folders (with a
    slash at the end) that were not looked into: hidden ones, those of systems, outputs of Orchard."""
    ignored_count: int = 0
    duplicates: int = 0
    """Number of rows of a manifest that repeated another row."""
    warnings: list[str] = field(default_factory=list)
    """One sentence for each likely mistake in labels and splits."""
    grouping: Grouping | None = None
    """How images were grouped."""
    corrections: CorrectionMetrics | None = None
    """What a corrected list changed."""
    dropped: frozenset[str] = frozenset()
    """Paths that the corrected list leaves out."""


def list_images(
    source: str | Sequence[str],
    s3: S3Options,
    *,
    limit: int | None,
    labels: Collection[str] | None,
    seed: int,
    label_level: int = 1,
    kind_from: KindFrom | None = None,
    group_by: str | None = None,
    label_columns: Sequence[str] = (),
    corrections: Corrections | None = None,
    output: str | None = None,
) -> Listing:
    """Every image of ``source`` with its label, kind and split, as far as folders or a manifest tell them.

    Args:
        source: A folder, ``file://`` URL, a bucket's prefix (``s3a://``, ``gs://``, ``abfss://``); a pattern of these
            (``*``, ``?``, ``[a-z]``, ``{a,b}`` within a folder's or file's name, ``**`` across folders; a folder that
            it names is taken whole; something that exists under exactly this name comes first); one image; or a
            manifest, see `read_manifest`. Or several of these: the column ``source`` then names the one of an image,
            and their names tell the split as those of folders beside each other do.
        s3: Where the object store is.
        limit: At most so many images, a seeded sample shared out by label and split; None: all.
        labels: Only these; None: all.
        seed: Of the sample.
        label_level: Folders that make a label, see `places`.
        kind_from: Where kinds come from if no manifest has a column for them, see `kinds`; None: there are none.
        group_by: What names groups: a column of a manifest, or see `groups_of`; None: there are none.
        label_columns: Further columns to learn: of a manifest, or of all manifests among several sources.
        corrections: Other labels than the source says, and images to leave out, among those that are selected.
        output: A folder or prefix of which nothing is listed.

    Every file counts as an image, whatever its name; decoding finds out. Only files whose name is usual for something
    else (README, *.json ...) are looked into first. Hidden folders, operating systems' own folders, and other outputs
    of Orchard are left out.

    Raises:
        InputError: There is no such source, it holds no image, or none of a label or that is to be corrected, it has
            no such columns, or two sources list the same image.
        AccessDenied: It may not be read.
        StorageError: It cannot be listed.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise InputError("There is no source: give a folder, bucket or manifest of images.")
    found = [
        _read(one, s3, _Lister(one, s3, label_level, kind_from, output), group_by=group_by, label_columns=label_columns)
        for one in sources
    ]
    if not any(one.has_columns for one in found):
        _check_columns(label_columns, " and ".join(sources))
    warnings = [warning for one in found for warning in one.lister.warnings]
    warnings += _archive_warnings([path for one in found for path in one.lister.archives])
    if len(found) == 1:
        table = found[0].table
    else:
        tables = [one.table for one in found]
        beside = places("", _names_beside(sources, tables))
        warnings += beside.split_warnings
        table = _together(sources, list(map(_with_split, tables, beside.splits)))
    ignored = [path for one in found for path in one.lister.ignored]
    has_groups = any(one.has_groups for one in found)
    table = table.sort_by("path")
    if _lacks_test(table):
        warnings.append("There are labelled images for validation but none for testing, so the former are for testing.")
        table = _with_test(table)
    if corrections is not None:
        corrections.check(table)
    if labels is not None:
        table = with_labels(table, labels)
    if limit is not None:
        table = sample(table, limit, seed)
    corrected = None
    if corrections is not None:
        table, corrected = corrections.apply(table, kind_from)
    warnings += _label_warnings(table) + kind_warnings(table, kind_from)
    grouping = None
    if group_by is not None:
        if not has_groups:
            table = regrouped(table, groups_of(group_by, table["path"].to_pylist(), table["label"].to_pylist()))
        grouping = describe(group_by, table, from_column=has_groups)
    return Listing(
        table.combine_chunks(),
        ignored[:_IGNORED_SHOWN],
        sum(one.lister.n_ignored for one in found),
        sum(one.duplicates for one in found),
        list(dict.fromkeys(warnings)),
        grouping,
        corrected,
        corrections.dropped if corrections is not None else frozenset(),
    )


@dataclass(frozen=True)
class _Read:
    """What one source lists."""

    table: pa.Table
    lister: "_Lister"
    duplicates: int = 0
    has_groups: bool = False
    has_columns: bool = False


def _read(
    source: str, s3: S3Options, lister: "_Lister", *, group_by: str | None, label_columns: Sequence[str]
) -> _Read:
    """List one source. Raises as `list_images`."""
    found = _Read(LISTING.empty_table(), lister)
    try:
        storage, pattern = _opened(source, s3)
        if isinstance(pattern, str) and is_manifest(pattern):
            manifest = read_manifest(
                storage.read(pattern),
                f"{storage.url}/{pattern}",
                lister.level,
                lister.kind_from,
                group_by=group_by,
                label_columns=label_columns,
            )
            table = lister.inventory(manifest.table) if manifest.is_inventory else manifest.table
            lister.warnings += manifest.warnings
            found = _Read(table, lister, manifest.duplicates, manifest.has_groups, not manifest.is_inventory)
        elif isinstance(pattern, str):
            found = _Read(lister.images(storage, filter(None, [storage.stat(pattern)])), lister)
        else:
            entries = interruption.checked(lister.entries(storage))
            chosen = (e for e in entries if pattern is None or pattern.fullmatch(e.key))
            found = _Read(lister.images(storage, chosen), lister)
    except BucketMissing as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise _failure(error, source) from error
    if not found.table.num_rows:
        raise InputError(_nothing(source, lister, is_file=isinstance(pattern, str)))
    return found


def check_weights(source: str | Sequence[str], weights: Mapping[str, float]) -> None:
    """Check that each weight belongs to one of several sources.

    Raises:
        UsageError: there is no such source, or it is the only one.
    """
    names = [source] if isinstance(source, str) else list(source)
    unknown = [name for name in weights if source_name(name) not in map(source_name, names)]
    if unknown:
        raise UsageError(
            f"--source-weight {unknown[0]} names none of the sources: write it as it is given, {' or '.join(names)}."
        )
    if weights and len(names) == 1:
        raise UsageError(
            "--source-weight weighs several sources against each other: give another source, or leave it out."
        )


def _names_beside(sources: Sequence[str], tables: Sequence[pa.Table]) -> list[str]:
    """Return the name of each source that may tell its split beside the others.

    It is that of the folder or manifest; or, if a manifest's tells none, of the folder of its images below the one that
    holds those of all sources.
    """
    ends = [pc.min_max(table["path"]).as_py().values() for table in tables]  # what these two share, all do
    folders = [shared_folder([path.rpartition("/")[0] for path in two]) for two in ends]
    above = shared_folder(folders)
    found = []
    for source, folder in zip(sources, folders, strict=True):
        fixed, _ = _split_pattern(source.rstrip("/"))
        location = split_object_url(fixed)
        name = location.key.rpartition("/")[2] if location else local_path(fixed).name
        stem = name.partition(".")[0]
        if is_manifest(name):
            below = folder[len(above) :].lstrip("/").partition("/")[0]
            name = stem if split_named(stem) or not below else below
        found.append(name)
    return found


def _with_split(images: pa.Table, split: Split | None) -> pa.Table:
    """Return images with the split of their source, where nothing nearer tells one."""
    if split is None:
        return images
    at = LISTING.get_field_index("split")
    return images.set_column(at, LISTING.field("split"), pc.fill_null(images["split"], str(split)))


def _lacks_test(images: pa.Table) -> bool:
    """Whether labelled images are for validation, and none for testing."""
    splits = pc.unique(images["split"].filter(pc.is_valid(images["label"]))).to_pylist()
    return Split.VALIDATION in splits and Split.TEST not in splits


def _with_test(images: pa.Table) -> pa.Table:
    """Return images of which those for validation are for testing."""
    at = LISTING.get_field_index("split")
    is_validation = pc.fill_null(pc.equal(images["split"], Split.VALIDATION), False)
    return images.set_column(at, LISTING.field("split"), pc.if_else(is_validation, str(Split.TEST), images["split"]))


def _together(sources: Sequence[str], tables: Sequence[pa.Table]) -> pa.Table:
    """Join the lists of several sources. Raises InputError if two of them list the same image."""
    names = [source_name(source) for source in sources]
    at = LISTING.get_field_index("source")
    named = [
        table.set_column(at, LISTING.field("source"), pa.repeat(pa.scalar(name), table.num_rows))
        for name, table in zip(names, tables, strict=True)
    ]
    table = pa.concat_tables(named)
    counts = pc.value_counts(table["path"].combine_chunks())
    if len(counts) < table.num_rows:
        twice = next(row["values"] for row in counts.to_pylist() if row["counts"] > 1)
        of = sorted(table.filter(pc.equal(table["path"], twice))["source"].to_pylist())
        raise InputError(f"{' and '.join(of)} both list {twice}: give sources that have no image in common.")
    return table


def list_selected(source: str | Sequence[str], output: str | None, settings: Settings) -> Listing:
    """List the images that the settings select, see `list_images`, leaving out the ``output``.

    Raises:
        UsageError: The corrections are the list that a run into ``output`` writes anew; or ``output`` is new, and a
            folder of the source's images.
    """
    if settings.corrections and output and _is_same(settings.corrections, f"{output.rstrip('/')}/{SUSPECT_LIST}"):
        raise UsageError(
            f"--corrections {settings.corrections} is written anew by the run, and what was corrected would be lost: "
            "copy it to a place of its own first."
        )
    s3 = settings.s3_options()
    if output and any(_is_within(output, one) for one in ([source] if isinstance(source, str) else source)):
        _refuse_images(open_storage(output, s3))
    return list_images(
        source,
        s3,
        limit=settings.limit,
        labels=settings.labels or None,
        seed=settings.seed,
        label_level=settings.label_level,
        kind_from=settings.kind_from,
        group_by=settings.group_by,
        label_columns=settings.label_columns,
        corrections=read_corrections(settings.corrections, s3) if settings.corrections else None,
        output=output,
    )


def _is_within(url: str, source: str) -> bool:
    fixed = _split_pattern(source)[0]
    place, above = split_object_url(url), split_object_url(fixed)
    if place and above:  # which may be spelled s3:// and s3a://
        return place.url.startswith(f"{above.url}/")
    if place or above:
        return False
    return local_path(url).resolve().is_relative_to(local_path(fixed).resolve())


def _refuse_images(output: Storage) -> None:
    """Raise UsageError if there are images where a new output would be: they would be left out of its source."""
    if next(output.list(COMMITS), None) is not None:
        return
    image = next((entry.key for entry in output.list() if has_image_suffix(entry.key)), None)
    if image is not None:
        raise UsageError(
            f"{output.url} holds images, such as {image}, and nothing of an output is read as a source: choose another "
            "--output, such as a new folder."
        )


def _check_columns(missing: Sequence[str], source: str) -> None:
    """Raise InputError for columns that a source has not, as it is no manifest."""
    if missing:
        raise InputError(
            f"{source} is no manifest, and --label-columns names columns of one: give a table (CSV or Parquet) with "
            f"path, label and {', '.join(missing)}."
        )


def _failure(error: OSError, source: str) -> OrchardError:
    said = f"{source} cannot be read ({error.strerror or error}): check"
    if isinstance(error, PermissionError):
        return AccessDenied(f"{said} its permissions.")
    if error.errno in (errno.EINVAL, errno.ENXIO):  # a pipe, a socket
        return InputError(f"{said} what it is.")
    return StorageError(f"{said} the disk and the network.")


def check_apart(source: str | Sequence[str], output: str) -> None:
    """Check that an output is not the source itself; it may be a folder inside the source.

    Raises:
        UsageError: ``output`` is the source, or one of several, or the folder whose images a pattern chooses; or one of
            several is given twice.
    """
    if not isinstance(source, str):
        if twice := next((one for one in source if sum(_is_same(one, other) for other in source) > 1), None):
            raise UsageError(f"{twice} is given twice: name each source once.")
        for one in source:
            check_apart(one, output)
        return
    fixed, pattern = _split_pattern(source)
    is_pattern = pattern is not None and (split_object_url(source) is not None or not local_path(source).exists())
    if _is_same(source, output) or (is_pattern and _is_same(fixed, output)):
        raise UsageError(f"{output} is where the images are: choose another --output, such as a folder in it.")


def _is_same(one: str, other: str) -> bool:
    if split_object_url(one) or split_object_url(other):
        return split_object_url(one) == split_object_url(other)
    real, another = (local_path(url).resolve() for url in (one, other))
    try:
        return real.samefile(another)
    except OSError:  # one does not exist yet
        return real == another


def _opened(source: str, s3: S3Options) -> tuple[Storage, re.Pattern[str] | str | None]:
    """Return the storage to list, and the filter: None (everything), a pattern of keys, or one file's key."""
    storage = open_storage(source, s3)
    if isinstance(storage, LocalStorage):
        path = local_path(source)
        if path.is_dir():
            return storage, None
        if path.exists():
            return open_storage(str(path.parent), s3), readable_path(path.name)
    else:
        location = split_object_url(source)
        folder, _, name = storage.url.rpartition("/")
        if next(storage.list(), None) is not None:
            return storage, None
        if location and location.key and open_storage(folder, s3).exists(name):
            return open_storage(folder, s3), name
    fixed, pattern = _split_pattern(storage.url)
    if pattern is None:
        if isinstance(storage, LocalStorage):
            raise InputError(f"source {storage.url} does not exist: check the path.")
        raise InputError(f"source {storage.url} holds no objects: check the bucket and prefix.")
    try:
        return open_storage(fixed, s3), re.compile(_as_regex(pattern) + r"(/.*)?", re.DOTALL)
    except re.error as error:
        raise InputError(f"the pattern {pattern} cannot be understood ({error}): check its brackets.") from error


def _split_pattern(url: str) -> tuple[str, str | None]:
    """The folder above the first wildcard, and the pattern below it; no pattern if there is no wildcard."""
    found = _WILDCARD.search(url)
    if not found:
        return url, None
    folder, slash, _ = url[: found.start()].rpartition("/")
    return folder or slash or ".", url[len(folder + slash) :]


def _as_regex(pattern: str) -> str:
    """A pattern of file names as a regular expression, as bash reads it with globstar and dotglob."""
    parts: list[str] = []
    depth = 0
    tokens = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|[{},]|[^*?\[{},]+|\[", re.DOTALL)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    for token in tokens.findall(pattern):
        if token in wild:
            parts.append(wild[token])
        elif len(token) > 2 and token.startswith("["):
            negated = token[1] in "!^"
            content = token[1 + negated : -1].replace("\\", "\\\\").replace("[", "\\[")
            parts.append(f"[{'^/' if negated else ''}{content}]")
        elif token == "{":  # noqa: S105
            depth += 1
            parts.append("(?:")
        elif token == "}" and depth:  # noqa: S105
            depth -= 1
            parts.append(")")
        elif token == "," and depth:  # noqa: S105
            parts.append("|")
        else:
            parts.append(re.escape(token))
    return "".join(parts)


def _nothing(source: str, lister: "_Lister", *, is_file: bool) -> str:
    """Return a sentence for a source without an image."""
    if lister.archives:
        return f"{lister.archives[0]} is an archive, which Orchard does not open: unpack it."
    advice = f"give a folder, a bucket or a manifest of images ({', '.join(SUFFIXES)})"
    if is_file and lister.ignored:
        return f"{source} is neither an image nor a manifest: {advice}."
    n, first = lister.n_ignored, next(iter(lister.ignored), "")
    but = "" if not n else f", only {first}" if n == 1 else f", only {n} other files such as {first}"
    table = next((name for name in lister.ignored if is_manifest(name)), None)
    hint = f" A table is a manifest if it is named itself: {table}." if table else ""
    return f"{source} holds no image{but}: {advice}.{hint}"


def _label_warnings(listing: pa.Table) -> list[str]:
    """One sentence for labels that differ in capitals or blanks alone, which are learned as different ones."""
    alike: dict[str, list[str]] = {}
    for label in sorted(pc.unique(listing["label"]).drop_null().to_pylist()):
        alike.setdefault(" ".join(label.casefold().split()), []).append(label)
    several = [labels for labels in alike.values() if len(labels) > 1]
    if not several:
        return []
    others = f" (and {len(several) - 1} more likewise)" if len(several) > 1 else ""
    return [
        f"Labels that differ in capitals or blanks alone: {' and '.join(map(repr, several[0][:3]))}{others}; "
        "give them one name, if they are the same."
    ]


def _archive_warnings(archives: list[str]) -> list[str]:
    if not archives:
        return []
    which = f"{len(archives)} archives such as {archives[0]} were" if archives[1:] else f"The archive {archives[0]} was"
    return [f"{which} not opened: unpack what holds images."]


class _Lister:
    """Finds the images of a source, and keeps account of what it passes over."""

    def __init__(
        self, source: str, s3: S3Options, label_level: int, kind_from: KindFrom | None, output: str | None
    ) -> None:
        self.warnings: list[str] = []
        self.ignored: list[str] = []
        self.n_ignored = 0
        self.archives: list[str] = []
        self._s3 = s3
        self.level = label_level
        self.kind_from = kind_from
        self._output = output and open_storage(output, s3).url
        self._named = set((_split_pattern(source)[1] or "").split("/"))  # a pattern may ask for a hidden folder

    def entries(self, storage: Storage) -> Iterator[Entry]:
        """Every file in a folder of images; of a bucket, every object."""
        if not isinstance(storage, LocalStorage):
            return storage.list()
        root = storage.url.rstrip("/")
        outputs = {""} if Path(root, _LOG).is_dir() else set()

        def enter(path: bytes, names: Sequence[bytes]) -> bool:
            folder = readable_path(path).removeprefix(f"{root}/")
            return self._looks_into(root, folder, outputs | {folder} if _LOG.encode() in names else outputs)

        return storage.list(enter=enter, without=self._output)

    def images(self, storage: Storage, entries: Iterable[Entry]) -> pa.Table:
        """Schema LISTING of the entries that are images."""
        root = storage.url.rstrip("/")
        entries = iter(entries)
        numbers: dict[str, int] = {}  # of folders, which repeat
        batches = [pa.schema(_GATHERED).empty_table()]
        in_doubt: list[tuple[int, Entry]] = []
        n_rows = 0
        while batch := list(islice(entries, _BATCH)):
            keys, sizes, versions = zip(*batch, strict=True)
            in_doubt += [(row, entry) for row, entry in enumerate(batch, n_rows) if doubtful(entry.key)]
            paths = pc.binary_join_element_wise(root, pa.array(keys, pa.string()), "/")
            folders = [numbers.setdefault(key.rpartition("/")[0], len(numbers)) for key in keys]
            batches.append(pa.table([paths, sizes, versions, folders], schema=pa.schema(_GATHERED)))
            n_rows += len(batch)
        table, names = pa.concat_tables(batches), list(numbers)
        folder = np.asarray(table["folder"])
        is_image = np.ones(n_rows, bool)
        if not isinstance(storage, LocalStorage):
            is_image = self._are_meant(root, names)[folder]
            in_doubt = [(row, entry) for row, entry in in_doubt if is_image[row]]
        others = _no_images(storage, [entry for _, entry in in_doubt])
        is_image[[row for row, entry in in_doubt if entry.key in others]] = False
        for key in sorted(others):
            self._ignore(f"{root}/{key}")
        used, at = np.unique(folder[is_image], return_inverse=True)
        found = places(_name(root), [names[number] for number in used], self.level)
        self.warnings += found.label_warnings + found.split_warnings
        labels, kinds, splits = (
            pa.array(values, pa.string()).take(pa.array(at)) for values in (found.labels, found.kinds, found.splits)
        )
        kinds = kinds_of(labels, kinds, self.kind_from)
        table = table.drop_columns("folder").filter(pa.array(is_image))
        none = pa.nulls(table.num_rows, pa.string())
        columns = {"label": labels, "kind": kinds, "split": splits}
        columns |= dict.fromkeys(("group", LABEL_COLUMNS, "source"), none)
        for name, column in columns.items():
            table = table.append_column(name, column)
        return self._once(table.cast(LISTING))

    def _once(self, images: pa.Table) -> pa.Table:
        """Each path once: a name that is not UTF-8, as it is shown, may be the name of another file."""
        escaped = images["path"].filter(pc.match_substring(images["path"], r"\x"))  # few, or none, of millions
        twice = [path for path, times in Counter(escaped.to_pylist()).items() if times > 1]
        if not twice:
            return images
        rows = images.append_column("row", pa.array(np.arange(images.num_rows)))
        first = rows.group_by("path").aggregate([("row", "min")])
        for path in sorted(twice):
            self._ignore(path)
        more = f" (and {len(twice) - 1} more likewise)" if len(twice) > 1 else ""
        self.warnings.append(
            f"{min(twice)} is the name of one file, and what is shown of another's, which is not UTF-8{more}: only the "
            "former is read; rename the other."
        )
        return images.take(first["row_min"].combine_chunks().sort())

    def inventory(self, inventory: pa.Table) -> pa.Table:
        """The images of an inventory, which lists whatever a bucket holds."""
        bucket_of = pc.list_element(pc.split_pattern(inventory["path"], "/", max_splits=3), 2)
        tables = [LISTING.empty_table()]
        for bucket in sorted(pc.unique(bucket_of).to_pylist()):
            rows = inventory.filter(pc.equal(bucket_of, bucket))
            keys = pc.utf8_slice_codeunits(rows["path"], len(f"s3a://{bucket}/")).to_pylist()
            entries = map(Entry, keys, rows["size"].to_pylist(), rows["version"].to_pylist())
            tables.append(self.images(open_storage(f"s3a://{bucket}", self._s3), entries))
        return pa.concat_tables(tables)

    def _are_meant(self, root: str, folders: list[str]) -> npt.NDArray[np.bool_]:
        """For each folder of objects whether a folder on a disk would have been looked into, shape (n,)."""
        outputs = {f"/{f}/".partition(f"/{_LOG}/")[0].strip("/") for f in folders if _LOG in f.split("/")}
        known = {"": True}
        if self._output is not None and self._output.startswith(f"{root}/"):
            known[self._output.removeprefix(f"{root}/")] = False

        def is_meant(folder: str) -> bool:
            if folder not in known:
                known[folder] = is_meant(folder.rpartition("/")[0]) and self._looks_into(root, folder, outputs)
            return known[folder]

        return np.array([is_meant(folder) for folder in folders], bool)

    def _looks_into(self, root: str, folder: str, outputs: set[str]) -> bool:
        """Whether images may lie in a folder of the source; not in ``outputs``, if it is not the source itself."""
        if "" in outputs and folder in _OUTPUT_FOLDERS:
            return False
        name = folder.rpartition("/")[2]
        if folder in outputs or (is_ignored(name) and name not in self._named):
            self._ignore(f"{root}/{folder}/")
            return False
        return True

    def _ignore(self, path: str) -> None:
        self.n_ignored += 1
        if is_archive(path):
            self.archives.append(path)
        if len(self.ignored) < _IGNORED_SHOWN:
            self.ignored.append(path)


def _name(root: str) -> str:
    """The last folder's name; none of a bucket."""
    return "" if is_object(root) and root.count("/") == 2 else root.rpartition("/")[2]


def _no_images(storage: Storage, entries: list[Entry]) -> set[str]:
    """Return the keys of files whose content is no image either."""

    def is_image(entry: Entry) -> bool:
        try:
            return entry.size != 0 and image_format(storage.head(entry.key, HEAD_BYTES)) is not None
        except OSError:
            return False

    if not entries:
        return set()
    with ThreadPoolExecutor(_SNIFFING_THREADS) as pool:
        images = pool.map(is_image, entries)
        return {entry.key for entry, image in zip(entries, images, strict=True) if not image}
