"""Gets size and version of images from the storage if their list lacks them, in few requests."""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, takewhile

import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import AccessDenied, InputError
from orchard.storage import Entry, LocalStorage, S3Options, Storage, open_storage, read_path, split_object_url

# Objects are some 10 ms away; each thread waits for one.
_THREADS = 32
# A request lists so many objects; it takes as long as asking some hundred of them one by one on all threads.
_PAGE = 1000
_KEYS_WORTH_A_PAGE = 100


def with_versions(listing: pa.Table, s3: S3Options) -> tuple[pa.Table, list[str]]:
    """The listing with sizes and versions filled in where there is no version, and the paths where there is no file.

    Objects are found by listing the folder that holds them all, as long as that takes fewer requests than asking for
    each, and else one by one. What is not there or may not be asked for keeps its nulls.

    Raises:
        InputError: none of the images is there.
        StorageError: the storage does not answer.
    """
    if not listing["version"].null_count:
        return listing, []
    unknown = pc.is_null(listing["version"]).combine_chunks()
    paths = listing["path"].filter(unknown).to_pylist()
    found, missing = _asked(paths, s3)
    if len(missing) == listing.num_rows:
        raise InputError(
            f"none of the {len(missing)} images that the source lists is there, such as {missing[0]}: check the paths."
        )
    sizes = listing["size"].filter(unknown).to_pylist()
    sizes = [found[path].size if path in found else size for path, size in zip(paths, sizes, strict=True)]
    versions = [found[path].version if path in found else None for path in paths]
    for name, values in (("size", sizes), ("version", versions)):
        column = listing[name].combine_chunks()
        filled = pc.replace_with_mask(column, unknown, pa.array(values, column.type))
        listing = listing.set_column(listing.schema.get_field_index(name), listing.schema.field(name), filled)
    return listing, missing


def readable(paths: Sequence[str], s3: S3Options) -> list[str]:
    """Those of the paths whose first byte can be read."""

    def can_be_read(path: str) -> bool:
        try:
            read_path(path, s3, 0)
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(_THREADS) as pool:
        return [path for path, is_readable in zip(paths, pool.map(can_be_read, paths), strict=True) if is_readable]


def _asked(paths: list[str], s3: S3Options) -> tuple[dict[str, Entry], list[str]]:
    """Return the entry of each path that exists, and the paths that do not."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if location := split_object_url(path):
            places[location.root].append(path)
        elif path.startswith("/"):
            places["/"].append(path)
    found: dict[str, Entry] = {}
    missing: list[str] = []
    for root, inside in places.items():
        storage = open_storage(root, s3)
        entries = _entries(storage, [path.removeprefix(f"{root.rstrip('/')}/") for path in inside])
        for path, entry in zip(inside, entries, strict=True):
            if entry is None:
                missing.append(path)
            elif isinstance(entry, Entry):
                found[path] = entry
    return found, missing


def _entries(storage: Storage, keys: list[str]) -> list[Entry | OSError | None]:
    """Return for each key its entry, None if it does not exist, or the error that hides it."""
    known: dict[str, Entry] = {}
    if not isinstance(storage, LocalStorage) and len(keys) >= _KEYS_WORTH_A_PAGE:
        known, is_complete = _by_listing(storage, keys)
        if is_complete:
            return [known.get(key) for key in keys]

    def ask(some: list[str]) -> list[Entry | OSError | None]:
        return [known.get(key) or _stat(storage, key) for key in some]

    length = 256 if isinstance(storage, LocalStorage) else 1  # files are so near that handing one over takes longer
    with ThreadPoolExecutor(_THREADS) as pool:
        chunks = pool.map(ask, (keys[start : start + length] for start in range(0, len(keys), length)))
        return [entry for chunk in chunks for entry in chunk]


def _by_listing(storage: Storage, keys: list[str]) -> tuple[dict[str, Entry], bool]:
    """List the keys' common folder; return the entries found, and whether the listing was complete."""
    wanted = set(keys)
    known: dict[str, Entry] = {}
    listed = 0
    limit = len(keys) // _KEYS_WORTH_A_PAGE * _PAGE
    try:
        for entry in islice(storage.list(_common_folder(keys)), limit):
            listed += 1
            if entry.key in wanted:
                known[entry.key] = entry
                if len(known) == len(wanted):
                    return known, True
    except AccessDenied:  # objects may be readable without being listable
        return known, False
    return known, listed < limit


def _common_folder(keys: list[str]) -> str:
    parts = zip(*(key.split("/")[:-1] for key in (min(keys), max(keys))), strict=False)  # what these share, all do
    return "/".join(one for one, other in takewhile(lambda pair: pair[0] == pair[1], parts))


def _stat(storage: Storage, key: str) -> Entry | OSError | None:
    try:
        return storage.stat(key)
    except OSError as error:
        return error
