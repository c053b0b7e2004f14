"""What a storage is: the interface that local folders and buckets share, and where a bucket is."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple, Protocol

import pyarrow as pa

from orchard.errors import UsageError
from orchard.storage import aws


@dataclass(frozen=True)
class S3Options:
    """Where the object stores are; credentials are not part of it: every process finds its own.

    Attributes:
        endpoint: URL of an S3-compatible server; None: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL`` or the
            profile's ``endpoint_url``, else Amazon's.
        region: None: ``AWS_REGION``, ``AWS_DEFAULT_REGION`` or the profile's, else us-east-1.
        path_style: whether the bucket is in the URL's path rather than in its host name; None: where there is
            an endpoint.
        timeout: seconds without an answer of the store after which a request fails; until then it is repeated.
        gcs_endpoint: URL of a server with Google Cloud Storage's API; None: ``STORAGE_EMULATOR_HOST``, else Google's.
        azure_endpoint: URL of an account's blob service; None: ``AZURE_STORAGE_ENDPOINT``, else Azure's.
        allowed_regions: regions whose buckets may be used; empty: all.
        encryption: how S3 encrypts what is written, such as ``aws:kms``; None: as the bucket is configured.
        kms_key: the key's ARN, id or alias; None: the bucket's own.
        bucket_key: whether S3 may derive a key for the bucket from it, which takes fewer requests to KMS.
    """

    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    timeout: float = 20.0
    gcs_endpoint: str | None = None
    azure_endpoint: str | None = None
    allowed_regions: tuple[str, ...] = ()
    encryption: str | None = None
    kms_key: str | None = None
    bucket_key: bool = False

    def __post_init__(self) -> None:
        """Take a list as well: what other processes are told goes through JSON."""
        object.__setattr__(self, "allowed_regions", tuple(self.allowed_regions))

    def resolved(self) -> "S3Options":
        """These options, completed from this process' environment, so that workers do not need the environment."""
        env = os.environ.get
        endpoint = _checked("S3", self.endpoint or aws.endpoint())
        emulator = env("STORAGE_EMULATOR_HOST") or None
        if emulator and "://" not in emulator:  # as Google's own tools have it
            emulator = f"http://{emulator}"
        return replace(
            self,
            endpoint=endpoint,
            region=self.region or env("AWS_REGION") or env("AWS_DEFAULT_REGION") or aws.region() or "us-east-1",
            path_style=endpoint is not None if self.path_style is None else self.path_style,
            gcs_endpoint=_checked("GCS", self.gcs_endpoint or emulator),
            azure_endpoint=_checked("Azure", self.azure_endpoint or env("AZURE_STORAGE_ENDPOINT") or None),
        )


def _checked(store: str, endpoint: str | None) -> str | None:
    if endpoint is None:
        return None
    if not re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]*)?", endpoint):
        raise UsageError(f"the {store} endpoint {endpoint!r} is no URL of the form http(s)://host[:port][/path].")
    return endpoint.rstrip("/")


class Entry(NamedTuple):
    """One file or object of a listing."""

    key: str
    """Relative to the storage's root, parts separated by ``/``."""
    size: int
    """Bytes."""
    version: str | None
    """Changes when the content is replaced: modification time (ns) of a file, ETag of an object."""


class Storage(Protocol):
    """A folder or a bucket's prefix. Picklable: a worker opens its own connection on first use.

    What is written, moved or deleted stays so once the call has returned, after a power cut too.

    A file that cannot be read raises FileNotFoundError, PermissionError or another OSError with the reason in
    ``strerror``. StorageError means that the store itself fails, or that a file cannot be written.
    """

    @property
    def url(self) -> str:
        """``/absolute/folder``, ``s3a://bucket/prefix`` or another store's, without a slash at the end."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file below the folder ``prefix``, at any depth and of any name; nothing if it is missing."""

    def stat(self, key: str) -> Entry | None:
        """Size and version of one file, without reading it; None if there is none."""

    def read(self, key: str) -> bytes:
        """The whole content."""

    def head(self, key: str, length: int) -> bytes:
        """The first ``length`` bytes, fewer if there are no more."""

    def open(self, key: str) -> BinaryIO:
        """The file, seekable, for readers that need only parts of it, such as some columns of Parquet."""

    def exists(self, key: str) -> bool:
        """Whether there is a file of that key."""

    def write(self, key: str, data: bytes | memoryview | pa.Buffer) -> None:
        """Replace the file; a reader sees the old or the new content, never a part."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the file if there is none, atomically against other writers; False if there is one."""

    def replace_together(self, files: Mapping[str, bytes]) -> None:
        """Replace files of one folder; the others belong to the last one.

        In a folder a full disk leaves all as they were, and what killed writers have left there is deleted.
        """

    def move(self, source: str, target: str) -> None:
        """Rename a file and replace ``target``. It is no error if only ``target`` exists: then it was done before.

        In a bucket this is a copy and a deletion.
        """

    def copy(self, source: str, target: str) -> None:
        """Copy ``source`` to ``target``, which is created or replaced; ``source`` is never changed in place later."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; one that is missing is no error."""

    def clean(self, staging: str) -> None:
        """Delete what killed writers left behind: half-written files anywhere, and empty folders below ``staging``.

        No other process may be writing below ``staging`` meanwhile.
        """
