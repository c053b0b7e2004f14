"""Files and objects behind one interface: folders and S3 buckets, read and written whole or not at all."""

import errno
import os
import re
from pathlib import Path
from urllib.parse import unquote

from orchard.errors import UsageError
from orchard.storage.interface import Entry, S3Options, Storage
from orchard.storage.local import LocalStorage, readable_path
from orchard.storage.s3 import ObjectStorage

__all__ = [
    "DEFAULT_S3",
    "Entry",
    "LocalStorage",
    "ObjectStorage",
    "S3Options",
    "Storage",
    "local_path",
    "open_storage",
    "read_path",
    "readable_path",
    "split_s3_url",
]

DEFAULT_S3 = S3Options()
_S3_URL = re.compile(r"s3a?://([^/]+)/*(.*)", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")


def open_storage(url: str, s3: S3Options = DEFAULT_S3) -> Storage:
    """The storage at a local path, ``file://`` URL or ``s3a://bucket/prefix`` (``s3://`` alike).

    Nothing is contacted or created yet. Raises UsageError for other schemes.
    """
    if location := split_s3_url(url):
        return ObjectStorage(*location, s3.resolved())
    return LocalStorage(readable_path(os.fsencode(local_path(url))))


def read_path(path: str, s3: S3Options = DEFAULT_S3, max_bytes: int | None = None) -> bytes:
    """The content of an absolute local path or ``s3a://bucket/key``, as listings name images.

    At most ``max_bytes`` + 1 bytes are read: a longer answer than ``max_bytes`` says that the file is larger.
    Connections are kept for each bucket and process. Raises as `Storage` does.
    """
    if path.startswith("s3a://"):
        bucket, _, key = path.removeprefix("s3a://").partition("/")
        if not bucket or not key.strip("/"):
            raise FileNotFoundError(errno.ENOENT, "a bucket, not an object", path)
        return ObjectStorage(bucket, "", s3).read(key, max_bytes)
    if scheme := _SCHEME.match(path):
        raise OSError(errno.EPROTONOSUPPORT, f"{scheme[1]}: is not read, local paths, file:// and s3a:// are", path)
    return LocalStorage("/").read(path, max_bytes)


def split_s3_url(url: str) -> tuple[str, str] | None:
    """Bucket and key of ``s3a://bucket/key`` or ``s3://…``, taken literally; None for anything else."""
    match = _S3_URL.fullmatch(url)
    return (match[1], match[2].rstrip("/")) if match else None


def local_path(url: str) -> Path:
    """The absolute path of a local path or ``file:`` URL; ``%20`` and the like are decoded if need be.

    Raises UsageError for other schemes.
    """
    if url.startswith("file:"):
        url = "/" + url.removeprefix("file:").lstrip("/")
        if "%" in url and not Path(url).exists():
            url = unquote(url)
    elif (scheme := _SCHEME.match(url)) and not Path(url).exists():
        name = scheme[1].lower()
        expected = "s3a://BUCKET/PREFIX" if name.startswith("s3") else "a local path, file:// or s3a://"
        raise UsageError(f"{url} cannot be opened: Orchard reads {expected}, not {name}:.")
    return Path(os.path.abspath(os.path.expanduser(url)))  # noqa: PTH100, PTH111 - Path keeps ".."
