"""Parses addresses: local paths, and objects of Amazon S3, Google Cloud Storage and Azure Storage."""

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from orchard.errors import UsageError

OBJECTS = ("s3a://", "gs://", "abfss://")
"""Beginnings of an object's address, as Orchard stores addresses."""
_OBJECT = re.compile(r"(s3a?|gs|abfss?)://([^/]+)/*(.*)", re.DOTALL)
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_CONTAINER = re.compile(r"[^/@]+@[^/@.]+\.dfs\.[^/@]+")
SPELLED = {"s3": "s3a", "abfs": "abfss"}
"""Other spellings of a scheme -> the scheme that Orchard uses."""


class Location(NamedTuple):
    """The address of an object or a prefix, in its parts."""

    scheme: str
    """``s3a``, ``gs`` or ``abfss``."""
    bucket: str
    """The bucket's name; on Azure ``container@account.dfs.core.windows.net``."""
    key: str

    @property
    def root(self) -> str:
        """The address of the whole bucket."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def url(self) -> str:
        """The address."""
        return f"{self.root}/{self.key}".rstrip("/")


def is_object(path: str) -> bool:
    """Whether a path of a listing is the address of an object, rather than a local path."""
    return path.startswith(OBJECTS)


def split_object_url(url: str) -> Location | None:
    """Split the address ``s3a://bucket/key`` (or ``s3://``), ``gs://…`` or ``abfss://…``; the key is taken literally.

    None for anything else. Raises UsageError for an address of Azure that does not say which account is meant.
    """
    match = _OBJECT.fullmatch(url)
    if match is None:
        return None
    scheme = SPELLED.get(match[1], match[1])
    if scheme == "abfss" and not _CONTAINER.fullmatch(match[2]):
        raise UsageError(
            f"{url} does not say whose container that is: "
            f"write abfss://{match[2].partition('@')[0]}@ACCOUNT.dfs.core.windows.net/{match[3]}."
        )
    return Location(scheme, match[2], match[3].rstrip("/"))


def local_path(url: str) -> Path:
    """The absolute path of a local path or ``file:`` URL; ``%20`` and the like are decoded if need be.

    Raises UsageError for other schemes, which says what to write, and where there is no path to speak of.
    """
    if not url:
        raise UsageError("an address is empty: give a path; . is the current folder.")
    if url.startswith("file:"):
        url = "/" + url.removeprefix("file:").lstrip("/")
        if "%" in url and not Path(url).exists():
            url = unquote(url)
    elif (scheme := SCHEME.match(url)) and not Path(url).exists():
        raise UsageError(f"{url} cannot be opened: {_advice(url, scheme[1].lower())}")
    try:
        return Path(os.path.abspath(os.path.expanduser(url)))  # noqa: PTH100, PTH111 - Path keeps ".."
    except FileNotFoundError:
        raise UsageError(
            f"{url} is in the current folder, which was deleted: go to another, and start again."
        ) from None


_OTHERS = [
    (re.compile(r"wasbs?://([^/@]+)@([^/.]+)\.blob\.([^/]+)/*(.*)"), r"abfss://\1@\2.dfs.\3/\4"),
    (re.compile(r"https?://([^/.]+)\.(?:blob|dfs)\.([^/]+\.[^/]+)/([^/?]+)/*([^?]*).*"), r"abfss://\3@\1.dfs.\2/\4"),
    (re.compile(r"https?://storage\.(?:googleapis|cloud\.google)\.com/([^/?]+)/*([^?]*).*"), r"gs://\1/\2"),
    (re.compile(r"https?://([^/]+)\.storage\.googleapis\.com/+([^?]*).*"), r"gs://\1/\2"),
    (re.compile(r"https?://([^/]+)\.s3[.-][^/]*amazonaws\.com[^/]*/+([^?]*).*"), r"s3a://\1/\2"),
    (re.compile(r"gcs://(.*)"), r"gs://\1"),
    (re.compile(r"(?:az|azure|adl)://([^/@]+)(?:@[^/]*)?/*(.*)"), r"abfss://\1@ACCOUNT.dfs.core.windows.net/\2"),
]
"""Other ways to write such an address, as tools and consoles have them."""


def _advice(url: str, scheme: str) -> str:
    for pattern, instead in _OTHERS:
        if match := pattern.fullmatch(url):
            return f"write {match.expand(instead).rstrip('/')}."
    expected = {
        "s3": "s3a://BUCKET/PREFIX",
        "gs": "gs://BUCKET/PREFIX",
        "ab": "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
        "wa": "abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX",
    }.get(scheme[:2], "a local path, file://, s3a://, gs:// or abfss://")
    return f"Orchard reads {expected}, not {scheme}:."
