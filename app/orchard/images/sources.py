"""The images of a source: a folder, a bucket, a pattern, a single file or a manifest."""

import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from orchard import interruption
from orchard.errors import BucketMissing, InputError, StorageError
from orchard.images.content import HEAD_BYTES, image_format
from orchard.images.manifests import is_manifest, read_manifest
from orchard.images.places import doubtful, places
from orchard.images.selection import sample, with_labels
from orchard.layout import LISTING
from orchard.storage import Entry, LocalStorage, S3Options, Storage, local_path, open_storage, split_s3_url

_WILDCARD = re.compile(r"[*?\[{]")
_BATCH = 100_000
_IGNORED_SHOWN = 20
# Objects are some 10 ms away; each thread waits for one.
_SNIFFING_THREADS = 32


@dataclass(frozen=True)
class Listing:
    """What a source holds."""

    table: pa.Table
    """Schema LISTING, sorted by path; a null split means "assign one"."""
    ignored: list[str] = field(default_factory=list)
    """The first paths of files that are no images by name and by content, such as LICENSE."""
    ignored_count: int = 0
    duplicates: int = 0
    """Rows of a manifest that repeated another one."""


@dataclass
class _Ignored:
    paths: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, path: str) -> None:
        self.count += 1
        if len(self.paths) < _IGNORED_SHOWN:
            self.paths.append(path)


def list_images(source: str, s3: S3Options, *, limit: int | None, labels: Collection[str] | None, seed: int) -> Listing:
    """Every image of ``source`` with its label and split, as far as folders or a manifest tell them.

    Args:
        source: A folder, ``file://`` URL, ``s3a://bucket/prefix``; a pattern of these (``*``, ``?``, ``[a-z]``,
            ``{a,b}`` within a folder's or file's name, ``**`` across folders; a folder that it names is taken whole;
            something that exists under exactly this name comes first); one image; or a manifest, see `read_manifest`.
        s3: Where the object store is.
        limit: At most so many images, a seeded sample shared out by label and split; None: all.
        labels: Only these; None: all.
        seed: Of the sample.

    Every file counts as an image, whatever its name: decoding will tell. Only files whose name is known for
    something else (README, *.json ...) are looked into first.

    Raises:
        InputError: There is no such source, it holds no image, or none of a label.
        StorageError: It cannot be listed.
    """
    ignored = _Ignored()
    duplicates = 0
    try:
        storage, pattern = _opened(source, s3)
        if isinstance(pattern, str) and is_manifest(pattern):
            manifest = read_manifest(storage.read(pattern), f"{storage.url}/{pattern}")
            table, duplicates = manifest.table, manifest.duplicates
            if manifest.is_inventory:
                table = _without_other_files(table, s3, ignored)
        else:
            if isinstance(pattern, str):
                entries: Iterable[Entry] = _single(storage, pattern)
            else:
                entries = (e for e in storage.list() if pattern is None or pattern.fullmatch(e.key))
            table = _listed(storage, interruption.checked(entries), ignored)
    except BucketMissing as error:
        raise InputError(str(error)) from error
    except OSError as error:
        raise StorageError(f"{source} cannot be read ({error.strerror or error}): check its permissions.") from error
    if not table.num_rows:
        but = f", only {ignored.count} other files such as {ignored.paths[0]}" if ignored.count else ""
        raise InputError(f"{source} holds no image{but}: give a folder, bucket or manifest of images.")
    table = table.sort_by("path")
    if labels is not None:
        table = with_labels(table, labels)
    if limit is not None:
        table = sample(table, limit, seed)
    return Listing(table.combine_chunks(), ignored.paths, ignored.count, duplicates)


def _opened(source: str, s3: S3Options) -> tuple[Storage, re.Pattern[str] | str | None]:
    """The storage to list, and what of it: everything (None), a pattern of keys, or one file's key."""
    storage = open_storage(source, s3)
    if isinstance(storage, LocalStorage):
        path = local_path(source)
        if path.is_dir():
            return storage, None
        if path.exists():
            return open_storage(str(path.parent), s3), path.name
    else:
        _, key = split_s3_url(source) or ("", "")
        folder, _, name = storage.url.rpartition("/")
        if next(storage.list(), None) is not None:
            return storage, None
        if key and open_storage(folder, s3).exists(name):
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
    cut = url.rfind("/", 0, found.start())
    return url[:cut] or "/", url[cut + 1 :]


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


def _single(storage: Storage, key: str) -> Iterator[Entry]:
    """One file, which is an image by intention."""
    yield Entry(key, len(storage.read(key)), None)


def _listed(storage: Storage, entries: Iterable[Entry], ignored: _Ignored) -> pa.Table:
    """Schema LISTING of the entries that are images."""
    root = storage.url.rstrip("/")
    name = "" if re.fullmatch(r"s3a://[^/]*", root) else root.rpartition("/")[2]
    entries = iter(entries)
    batches = []
    while batch := list(islice(entries, _BATCH)):
        others = _no_images(storage, [entry for entry in batch if doubtful(entry.key)])
        if others:
            for key in sorted(others):
                ignored.add(f"{root}/{key}")
            batch = [entry for entry in batch if entry.key not in others]
        keys, sizes, versions = zip(*batch, strict=True) if batch else ((), (), ())
        paths = pc.binary_join_element_wise(root, pa.array(keys, pa.string()), "/")
        columns = [paths, pa.array(sizes, pa.int64()), pa.array(versions, pa.string()), *places(name, keys)]
        batches.append(pa.table(columns, schema=LISTING))
    return pa.concat_tables(batches) if batches else LISTING.empty_table()


def _no_images(storage: Storage, entries: list[Entry]) -> set[str]:
    """The keys of those that are no images by content either."""

    def is_image(entry: Entry) -> bool:
        try:
            return entry.size > 0 and image_format(storage.head(entry.key, HEAD_BYTES)) is not None
        except OSError:
            return False

    if not entries:
        return set()
    with ThreadPoolExecutor(_SNIFFING_THREADS) as pool:
        images = pool.map(is_image, entries)
        return {entry.key for entry, image in zip(entries, images, strict=True) if not image}


def _without_other_files(table: pa.Table, s3: S3Options, ignored: _Ignored) -> pa.Table:
    """An inventory's images: it lists whatever the bucket holds."""
    paths = table["path"].to_pylist()
    others: set[str] = set()
    for bucket in {path.split("/", maxsplit=3)[2] for path in paths}:
        root = f"s3a://{bucket}/"
        storage = open_storage(root, s3)
        asked = [Entry(p.removeprefix(root), 1, None) for p in paths if p.startswith(root) and doubtful(p)]
        others |= {root + key for key in _no_images(storage, asked)}
    for path in sorted(others):
        ignored.add(path)
    return table.filter(pa.array([path not in others for path in paths], pa.bool_()))
