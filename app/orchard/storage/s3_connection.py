"""The connection to a bucket, one for each process, and whether the store answers."""

import functools
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from obstore.store import S3Store

from orchard.errors import RegionRefused
from orchard.storage import aws
from orchard.storage.addresses import Location
from orchard.storage.clouds import AzureConnection, GoogleConnection
from orchard.storage.connection import ODD, RETRIES, Connection, Page, client
from orchard.storage.interface import S3Options
from orchard.storage.s3_errors import is_mute
from orchard.storage.s3_requests import Requests

if TYPE_CHECKING:
    from obstore.store import S3Config

_UNTOLD_SECONDS, _TOLD_SECONDS = 1.0, 15.0
# A store that nobody asked for so long may have answered meanwhile.
_FORGET_SECONDS = 60.0


def connect(bucket: str, s3: S3Options, scheme: str = "s3a") -> Connection:
    """One connection pool for each bucket and process.

    Raises AccessDenied without credentials; RegionRefused, before anything is read, if the region is not allowed.
    """
    return _connect(bucket, replace(s3, timeout=0), scheme)


def reconnect() -> None:
    """Forget all connections and credentials, so that the next request makes new ones."""
    _connect.cache_clear()


@functools.cache
def _connect(bucket: str, s3: S3Options, scheme: str) -> Connection:
    kinds: dict[str, type[S3Connection | GoogleConnection | AzureConnection]] = {
        "s3a": S3Connection,
        "gs": GoogleConnection,
        "abfss": AzureConnection,
    }
    connection = kinds[scheme](bucket, s3.resolved())
    if s3.allowed_regions:
        _check_region(Location(scheme, bucket, "").root, connection.region(), s3.allowed_regions)
    return connection


def _check_region(address: str, region: str | None, allowed: tuple[str, ...]) -> None:
    if region not in allowed:
        where = "does not tell in which region it is" if region is None else f"is in {region}"
        raise RegionRefused(
            f"{address} {where}, and --allowed-regions is {','.join(allowed)}: nothing of it was read or written; "
            "take a bucket of S3 in one of these."
        )


class S3Connection(Connection):
    """One bucket of S3: obstore, and signed requests for what obstore cannot do.

    Attributes:
        requests: signed requests, for listings and for keys that obstore refuses.
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
        if s3.encryption:
            config["server_side_encryption"] = s3.encryption
        if s3.kms_key:
            config["sse_kms_key_id"] = s3.kms_key
        if s3.bucket_key:
            config["sse_bucket_key_enabled"] = True
        if s3.endpoint:
            config["endpoint"] = endpoint if s3.path_style else root  # obstore wants the bucket in it then
        options = client(endpoint)
        if certificates:
            options["root_certificate"] = certificates
        self.requests = Requests(root, region, credentials, certificates)
        self.store = S3Store(
            bucket,
            config=config,
            client_options=options,
            credential_provider=credentials,
            retry_config=RETRIES,
        )

    def region(self) -> str | None:
        """See `Requests`."""
        return self.requests.region()

    def page(self, prefix: str, after: object | None) -> Page:
        """See `Requests`."""
        return self.requests.page(prefix, after)

    def get(self, key: str, max_bytes: int | None) -> bytes | None:
        """The whole object; None if it is longer than ``max_bytes``."""
        if not ODD.search(key):
            return super().get(key, max_bytes)
        too_long = max_bytes is not None and self.head(key)[0] > max_bytes
        return None if too_long else self.requests.send("GET", key).data

    def range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object, fewer if it ends before."""
        if not ODD.search(key):
            return super().range(key, start, length)
        answer = self.requests.send("GET", key, headers={"Range": f"bytes={start}-{start + length - 1}"})
        return answer.data if answer.status == 206 else answer.data[start : start + length]

    def head(self, key: str) -> tuple[int, str]:
        """Bytes and ETag of an object."""
        if not ODD.search(key):
            return super().head(key)
        try:
            headers = self.requests.send("HEAD", key).headers
        except Exception as error:
            if is_mute(error):
                self.range(key, 0, 1)  # it says why
            raise
        return int(headers["Content-Length"]), headers.get("ETag", "").strip('"')


def health(scheme: str, bucket: str, s3: S3Options) -> "Health":
    """The `Health` of a bucket; there is one for each bucket and process."""
    return _health(scheme, bucket, s3.endpoint, s3.gcs_endpoint, s3.azure_endpoint)


@functools.cache
def _health(*_: str | None) -> "Health":
    return Health()


@dataclass
class Health:
    """When a store last answered this process; shared by its threads.

    Attributes:
        has_answered: whether it ever has.
        took_keys: whether it has taken the credentials, at least once.
    """

    has_answered: bool = False
    took_keys: bool = False
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
        """Whether to warn about the silence now: not at once, because most outages are short."""
        now = time.monotonic()
        if self._silent is None or now - self._silent < _UNTOLD_SECONDS or now - self._told < _TOLD_SECONDS:
            return False
        self._told = now
        return True
