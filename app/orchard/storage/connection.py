"""A bucket through obstore: what all object stores have in common."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import obstore

from orchard.storage.s3_errors import is_mute

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, GCSStore, RetryConfig, S3Store

# Keys that obstore takes for others, or not at all: an empty part, "." or "..", a control character.
ODD = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")
_PAGE = 1000
# For a hiccup; after this, `ObjectStorage` goes on, and says so.
RETRIES: "RetryConfig" = {
    "max_retries": 4,
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=3),
}


def client(endpoint: str | None) -> "ClientConfig":
    """HTTP options of obstore's client for the server at a URL; None: the cloud's own server."""
    return {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=3),
        "read_timeout": timedelta(seconds=60),
        "timeout": timedelta(seconds=120),  # the slowest 64 MiB image still arrives at 5 Mbit/s
    }


class Found(NamedTuple):
    """An object of a listing."""

    key: str
    size: int
    tag: str


class Page(NamedTuple):
    """Up to a thousand objects of a listing, and the name of the next page; None: this is the last."""

    objects: list[Found]
    next: object | None


@dataclass(eq=False)
class _Position:
    """Position of a listing: its last key, and the stream of what follows; None if reading that has failed."""

    last: str
    stream: Iterator[Sequence[Any]] | None


class Connection:
    """obstore for one bucket. Errors are passed on unchanged; `s3_errors` interprets them.

    Attributes:
        store: obstore's, for ordinary keys.
    """

    store: "S3Store | GCSStore | AzureStore"

    def region(self) -> str | None:
        """The bucket's region; None: the store does not say."""
        return None

    def page(self, prefix: str, after: object | None) -> Page:
        """The objects whose keys begin with ``prefix``, a folder's; ``after`` is the ``next`` of the page before."""
        last, stream = (after.last, after.stream) if isinstance(after, _Position) else (None, None)
        if stream is None:
            stream = iter(obstore.list(self.store, prefix or None, offset=last, chunk_size=_PAGE))
        if isinstance(after, _Position):
            after.stream = None  # if it fails now, another goes on behind the last key
        found = [Found(each["path"], each["size"], (each["e_tag"] or "").strip('"')) for each in next(stream, ())]
        return Page(found, _Position(found[-1].key, stream) if found else None)

    def get(self, key: str, max_bytes: int | None) -> bytes | None:
        """The whole object; None if it is longer than ``max_bytes``."""
        _check(key)
        result = obstore.get(self.store, key)
        too_long = max_bytes is not None and result.meta["size"] > max_bytes
        return None if too_long else result.bytes().to_bytes()

    def range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object, fewer if it ends before."""
        _check(key)
        return obstore.get_range(self.store, key, start=start, length=length).to_bytes()

    def head(self, key: str) -> tuple[int, str]:
        """Bytes and ETag of an object."""
        _check(key)
        try:
            found = obstore.head(self.store, key)
        except Exception as error:
            if is_mute(error):
                self.range(key, 0, 1)  # it says why
            raise
        return found["size"], (found["e_tag"] or "").strip('"')

    def copy(self, source: str, target: str) -> None:
        """Copy ``source`` to ``target``, which is created or replaced."""
        obstore.copy(self.store, source, target)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is missing is no error."""
        obstore.delete(self.store, list(keys))


def _check(key: str) -> None:
    """Raise FileNotFoundError for a key that obstore would take for another."""
    if ODD.search(key):
        raise FileNotFoundError(2, "no such object", key)
