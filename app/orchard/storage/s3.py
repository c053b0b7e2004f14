"""A bucket of Amazon S3, or of a server that speaks its protocol, as a storage."""

import configparser
import contextlib
import functools
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

from orchard.errors import AccessDenied, StorageError
from orchard.storage.interface import Entry, S3Options
from orchard.storage.s3_errors import key_failure, store_failure

if TYPE_CHECKING:
    from obstore.store import S3Config

# Above this, one object is sent in parts, several at a time; it still appears whole or not at all.
_MULTIPART_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class ObjectStorage:
    """A bucket, or a prefix in it, on Amazon S3 or a server that speaks its protocol."""

    bucket: str
    prefix: str
    s3: S3Options

    @property
    def url(self) -> str:
        """``s3a://bucket/prefix``."""
        return f"s3a://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def _store(self) -> "S3Store":
        return _connect(self.bucket, self.s3)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `Storage`. Empty objects with a slash at the end, which stand for folders, are left out."""
        strip = len(self.prefix) + 1 if self.prefix else 0
        try:
            for batch in obstore.list(self._store, self._key(prefix) or None, chunk_size=1000):
                for found in batch:
                    # obstore drops the slash of a folder's marker, but there is no object without it.
                    if not found["size"] and not self.exists(found["path"][strip:]):
                        continue
                    version = (found["e_tag"] or "").strip('"') or None
                    yield Entry(found["path"][strip:], found["size"], version)
        except StorageError:
            raise
        except Exception as error:
            raise self._failure(error, prefix) from error

    def stat(self, key: str) -> Entry | None:
        """See `Storage`."""
        try:
            found = obstore.head(self._store, self._key(key))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failure(error, key) from error
        return Entry(key, found["size"], (found["e_tag"] or "").strip('"') or None)

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `Storage`; at most ``max_bytes`` + 1 bytes."""
        try:
            result = obstore.get(self._store, self._key(key))
            if max_bytes is None or result.meta["size"] <= max_bytes:
                return result.bytes().to_bytes()
        except Exception as error:
            raise self._failure(error, key) from error
        return self.head(key, max_bytes + 1)

    def head(self, key: str, length: int) -> bytes:
        """See `Storage`."""
        try:
            return obstore.get_range(self._store, self._key(key), start=0, length=length).to_bytes()
        except Exception as error:
            if "416 Range Not Satisfiable" in str(error):  # an object without bytes has no range
                return self.read(key)[:length]
            raise self._failure(error, key) from error

    def open(self, key: str) -> BinaryIO:
        """See `Storage`."""
        return cast(BinaryIO, _Ranges(self, key))

    def _range(self, key: str, start: int, length: int) -> bytes:
        try:
            return obstore.get_range(self._store, self._key(key), start=start, length=length).to_bytes()
        except Exception as error:
            raise self._failure(error, key) from error

    def _size(self, key: str) -> int:
        try:
            return obstore.head(self._store, self._key(key))["size"]
        except Exception as error:
            raise self._failure(error, key) from error

    def exists(self, key: str) -> bool:
        """See `Storage`."""
        if not self._key(key):
            return False
        try:
            obstore.head(self._store, self._key(key))
        except FileNotFoundError:
            return False
        except Exception as error:
            raise self._failure(error, key) from error
        return True

    def write(self, key: str, data: bytes | memoryview | pa.Buffer) -> None:
        """See `Storage`."""
        view = memoryview(data).cast("B")
        try:
            obstore.put(self._store, self._key(key), view, use_multipart=view.nbytes > _MULTIPART_BYTES)
        except Exception as error:
            raise self._write_failure(error, key) from error

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage`. Needs a store that knows ``If-None-Match``, as Amazon S3 does since 2024."""
        try:
            obstore.put(self._store, self._key(key), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # A request that was answered too late is sent again, and then finds what it has itself created.
            return self.read(key) == data
        except Exception as error:
            raise self._write_failure(error, key) from error
        return True

    def move(self, source: str, target: str) -> None:
        """See `Storage`."""
        try:
            obstore.copy(self._store, self._key(source), self._key(target))
            obstore.delete(self._store, self._key(source))
        except Exception as error:
            raise self._failure(error, source) from error

    def copy(self, source: str, target: str) -> None:
        """See `Storage`."""
        try:
            obstore.copy(self._store, self._key(source), self._key(target))
        except Exception as error:
            raise self._failure(error, source) from error

    def delete(self, keys: Iterable[str]) -> None:
        """See `Storage`. A thousand to a request, several requests at a time."""
        paths = [self._key(key) for key in keys]
        try:
            if paths:
                obstore.delete(self._store, paths)
        except Exception as error:
            raise self._write_failure(error, paths[0]) from error

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    def _failure(self, error: Exception, key: str) -> Exception:
        return store_failure(error, self.s3, self.bucket) or key_failure(error, f"{self.url}/{key}")

    def _write_failure(self, error: Exception, key: str) -> StorageError:
        failure = self._failure(error, key)
        if isinstance(failure, PermissionError):
            return AccessDenied(f"{self.url}/{key} may not be written with these credentials: allow s3:PutObject.")
        return failure if isinstance(failure, StorageError) else StorageError(f"{failure}: check the bucket.")


class _Ranges(io.RawIOBase):
    """An object as a file for Parquet readers: every read is a request for just those bytes."""

    def __init__(self, storage: ObjectStorage, key: str) -> None:
        self._storage, self._key, self._size, self._position = storage, key, storage._size(key), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        length = left if size < 0 else min(size, left)
        data = self._storage._range(self._key, self._position, length) if length else b""
        self._position += len(data)
        return data


@functools.cache
def _connect(bucket: str, s3: S3Options) -> S3Store:
    """One connection pool for each bucket and process."""
    s3 = s3.resolved()
    endpoint = s3.endpoint
    if endpoint and not s3.path_style:  # obstore wants the bucket in the endpoint then
        scheme, host = endpoint.split("://")
        endpoint = f"{scheme}://{bucket}.{host}"
    config: S3Config = {
        "region": s3.region or "us-east-1",
        "virtual_hosted_style_request": not s3.path_style,
    }
    if endpoint:
        config["endpoint"] = endpoint
    return S3Store(
        bucket,
        config={**config, **_shared_credentials(os.environ)},
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=3),
            "timeout": timedelta(seconds=120),  # the slowest 64 MiB image still arrives at 5 Mbit/s
        },
        # A wrong endpoint is told within seconds; a throttled task is tried again by Spark as well.
        retry_config={
            "max_retries": 8,
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=5),
                "base": 2,
            },
            "retry_timeout": timedelta(seconds=20),
        },
    )


def _shared_credentials(env: Mapping[str, str]) -> "S3Config":
    """Keys of the ``AWS_PROFILE`` in ``~/.aws/credentials``, which obstore does not read by itself.

    Empty where the environment has credentials or names another way to get them.
    """
    others = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
    if any(env.get(name) for name in others) or any(name.startswith("AWS_CONTAINER_") for name in env):
        return {}
    parser = configparser.RawConfigParser()
    file = Path(env.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
        parser.read(file, encoding="utf-8")
    profile = env.get("AWS_PROFILE") or "default"
    if not parser.has_section(profile):
        return {}
    names = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
    }
    found = dict(parser.items(profile))
    return {option: found[name] for name, option in names.items() if name in found}  # type: ignore[return-value]
