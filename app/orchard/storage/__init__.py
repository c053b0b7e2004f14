"""Folders and buckets behind one interface; files are written completely or not at all, and outlast a power cut."""

import errno
from collections.abc import Iterable

from orchard.storage.addresses import SCHEME, SPELLED, Location, is_object, local_path, split_object_url
from orchard.storage.interface import Entry, S3Options, Storage
from orchard.storage.local import LocalStorage, make_folder, readable_path
from orchard.storage.s3 import ObjectStorage
from orchard.storage.s3_errors import WORDS

__all__ = [
    "DEFAULT_S3",
    "SPELLED",
    "Entry",
    "LocalStorage",
    "Location",
    "ObjectStorage",
    "S3Options",
    "Storage",
    "check_regions",
    "is_object",
    "local_path",
    "make_folder",
    "may_read",
    "open_storage",
    "read_path",
    "readable_path",
    "split_object_url",
]

DEFAULT_S3 = S3Options()


def open_storage(url: str, s3: S3Options = DEFAULT_S3) -> Storage:
    """The storage at a local path, ``file://`` URL, or a bucket's prefix.

    Buckets are ``s3a://bucket/prefix`` (``s3://`` alike), ``gs://bucket/prefix`` and
    ``abfss://container@account.dfs.core.windows.net/prefix``.

    Nothing is contacted or created yet. Raises UsageError for other schemes.
    """
    if location := split_object_url(url):
        return ObjectStorage(location.bucket, location.key, s3.resolved(), location.scheme)
    return LocalStorage(readable_path(local_path(url)))


def check_regions(addresses: Iterable[str], s3: S3Options) -> None:
    """Check that every bucket among the addresses is in an allowed region, before any object is read or written.

    Raises RegionRefused, and StorageError if a bucket cannot be asked.
    """
    if s3.allowed_regions:
        found = filter(None, map(split_object_url, addresses))
        for scheme, bucket in sorted({(location.scheme, location.bucket) for location in found}):
            ObjectStorage(bucket, "", s3.resolved(), scheme).reach()


def read_path(path: str, s3: S3Options = DEFAULT_S3, max_bytes: int | None = None) -> bytes:
    """The content of an absolute local path or an object's address, as listings name images.

    At most ``max_bytes`` + 1 bytes are read; if more than ``max_bytes`` are returned, the file is larger.
    Connections are kept for each bucket and process. Raises as `Storage` does.
    """
    if is_object(path):
        scheme, _, place = path.partition("://")
        bucket, _, key = place.partition("/")
        if not bucket or not key.strip("/"):
            raise FileNotFoundError(errno.ENOENT, "a bucket, not an object", path)
        return ObjectStorage(bucket, "", s3, scheme).read(key, max_bytes)
    if other := SCHEME.match(path):
        said = f"{other[1]}: is not read, local paths, file://, s3a://, gs:// and abfss:// are"
        raise OSError(errno.EPROTONOSUPPORT, said, path)
    return LocalStorage("/").read(path, max_bytes)


def may_read(path: str) -> str:
    """The permission that is needed to read a path of a listing, as words for a message."""
    return WORDS[path.partition("://")[0]].reading if is_object(path) else "this user to read them"
