"""The way to a bucket, one for each process, and whether the store answers."""

import functools
import os
import re
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

from orchard.storage import aws
from orchard.storage.interface import S3Options
from orchard.storage.s3_errors import is_mute
from orchard.storage.s3_requests import Page, Requests

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

# Keys that obstore takes for others, or not at all: an empty part, "." or "..", a control character.
_ODD = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\x7f]")
_UNTOLD_SECONDS, _TOLD_SECONDS = 1.0, 15.0
# A store that nobody asked for so long may have answered meanwhile.
_FORGET_SECONDS = 60.0


def connect(bucket: str, s3: S3Options) -> "Connection":
    """One connection pool for each bucket and process. Raises AccessDenied without credentials."""
    return _connect(bucket, replace(s3, timeout=0))


def reconnect() -> None:
    """Forget connections and keys."""
    _connect.cache_clear()


@functools.cache
def _connect(bucket: str, s3: S3Options) -> "Connection":
    return Connection(bucket, s3.resolved())


class Connection:
    """obstore, and what it lacks, for one bucket. Errors are as they come: `s3_errors` reads them.

    Attributes:
        store: obstore's, for ordinary keys.
        requests: for listings, and for keys of any kind.
    """

    def __init__(self, bucket: str, s3: S3Options) -> None:
        region = s3.region or "us-east-1"
        endpoint = s3.endpoint or f"https://s3.{region}.amazonaws.com"
        scheme, host = endpoint.split("://")
        root = f"{endpoint}/{bucket}" if s3.path_style else f"{scheme}://{bucket}.{host}"
        certificates = aws.certificates()
        credentials = None
        if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() not in ("true", "1"):
            credentials = aws.Credentials(region)
            credentials()  # now, for it may take a while to find out that there are none
        config: S3Config = {"region": region, "virtual_hosted_style_request": not s3.path_style}
        if s3.endpoint:
            config["endpoint"] = endpoint if s3.path_style else root  # obstore wants the bucket in it then
        client: ClientConfig = {
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=3),
            "read_timeout": timedelta(seconds=60),
            "timeout": timedelta(seconds=120),  # the slowest 64 MiB image still arrives at 5 Mbit/s
        }
        if certificates:
            client["root_certificate"] = certificates
        self.requests = Requests(root, region, credentials, certificates)
        self.store = S3Store(
            bucket,
            config=config,
            client_options=client,
            credential_provider=credentials,
            # For a hiccup; after this, `ObjectStorage` goes on, and says so.
            retry_config={
                "max_retries": 4,
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
                "retry_timeout": timedelta(seconds=3),
            },
        )

    def page(self, prefix: str, after: str | None) -> Page:
        """See `Requests`."""
        return self.requests.page(prefix, after)

    def get(self, key: str, max_bytes: int | None) -> bytes | None:
        """The whole object; None if it is longer than ``max_bytes``."""
        if _ODD.search(key):
            too_long = max_bytes is not None and self.head(key)[0] > max_bytes
            return None if too_long else self.requests.send("GET", key).data
        result = obstore.get(self.store, key)
        too_long = max_bytes is not None and result.meta["size"] > max_bytes
        return None if too_long else result.bytes().to_bytes()

    def range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object, fewer if it ends before."""
        if _ODD.search(key):
            answer = self.requests.send("GET", key, headers={"Range": f"bytes={start}-{start + length - 1}"})
            return answer.data if answer.status == 206 else answer.data[start : start + length]
        return obstore.get_range(self.store, key, start=start, length=length).to_bytes()

    def head(self, key: str) -> tuple[int, str]:
        """Bytes and ETag of an object."""
        try:
            if _ODD.search(key):
                headers = self.requests.send("HEAD", key).headers
                return int(headers["Content-Length"]), headers.get("ETag", "").strip('"')
            found = obstore.head(self.store, key)
            return found["size"], (found["e_tag"] or "").strip('"')
        except Exception as error:
            if is_mute(error):
                self.range(key, 0, 1)  # it says why
            raise


@functools.cache
def health(bucket: str, endpoint: str | None) -> "Health":  # noqa: ARG001 -- they are the cache's key
    """One for each bucket and process."""
    return Health()


@dataclass
class Health:
    """When a store last answered this process; shared by its threads."""

    has_answered: bool = False
    _silent: float | None = None
    _failed: float = 0.0
    _told: float = -_TOLD_SECONDS

    def answers(self) -> None:
        """Take note of an answer."""
        self.has_answered, self._silent = True, None

    def silent_since(self, started: float) -> float:
        """Take note that a request which began at ``started`` failed; return since when none was answered."""
        now = time.monotonic()
        if self._silent is None or now - self._failed > _FORGET_SECONDS:
            self._silent = started
        self._failed = now
        return min(started, self._silent)

    def is_to_be_told(self) -> bool:
        """Whether it is time for a word: not at once, for most troubles pass."""
        now = time.monotonic()
        if self._silent is None or now - self._silent < _UNTOLD_SECONDS or now - self._told < _TOLD_SECONDS:
            return False
        self._told = now
        return True
