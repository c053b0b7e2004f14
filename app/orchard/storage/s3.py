"""A bucket of Amazon S3 (or of a server that speaks its protocol), Google Cloud Storage or Azure Storage as a storage.

Every operation goes through `ObjectStorage._try`, which repeats a request while the store does not answer.
"""

import io
import logging
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar, cast

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError

from orchard import interruption
from orchard.errors import AccessDenied, OrchardError, StorageError, in_driver_pod
from orchard.storage import s3_errors as errors
from orchard.storage.addresses import Location
from orchard.storage.connection import Connection
from orchard.storage.interface import Entry, S3Options
from orchard.storage.s3_connection import Health, connect, health, reconnect

log = logging.getLogger(__name__)

# Above this, one object is sent in parts, several at a time; it still appears whole or not at all.
_MULTIPART_BYTES = 64 * 1024 * 1024
# A task that Spark tries again need not be patient: the attempt before has been.
_RETRIED_TASK_SECONDS = 20.0
# At a person's machine a name that does not resolve is most likely a wrong one, if it never did. A driver in a cluster
# may be started before the store's service is.
_NAME_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 5.0
T = TypeVar("T")


@dataclass(frozen=True)
class ObjectStorage:
    """A bucket, or a prefix in it."""

    bucket: str
    prefix: str
    s3: S3Options
    scheme: str = "s3a"

    @property
    def url(self) -> str:
        """``s3a://bucket/prefix``, or another store's."""
        return Location(self.scheme, self.bucket, self.prefix).url

    def reach(self) -> None:
        """Connect to the bucket. Raises StorageError, also if the bucket is not in an allowed region."""
        self._try(lambda _: None, "")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """See `Storage`. Empty objects with a slash at the end, which stand for folders, are left out."""
        found = self._pages(prefix)
        return found if self.scheme == "s3a" else _without_folders(found)

    def _pages(self, prefix: str) -> Iterator[Entry]:
        folder = self._key(prefix).strip("/")
        strip = len(self.prefix) + 1 if self.prefix else 0
        token: object | None = None
        while True:
            page = self._try(lambda at: at.page(f"{folder}/" if folder else "", token), prefix)  # noqa: B023
            for key, size, tag in page.objects:
                if size or not key.endswith("/"):
                    yield Entry(key[strip:], size, tag or None)
            if page.next is None:
                return
            if page.next == token:
                raise StorageError(f"the listing of {self.url} does not end: look at the server.")
            token = page.next

    def stat(self, key: str) -> Entry | None:
        """See `Storage`."""
        if not key.strip("/"):
            return None
        try:
            size, tag = self._try(lambda at: at.head(self._key(key)), key)
        except FileNotFoundError:
            return None
        return Entry(key, size, tag or None)

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `Storage`; at most ``max_bytes`` + 1 bytes."""
        content = self._try(lambda at: at.get(self._key(key), max_bytes), key)
        return self.head(key, cast(int, max_bytes) + 1) if content is None else content

    def head(self, key: str, length: int) -> bytes:
        """See `Storage`."""

        def get(at: Connection) -> bytes:
            try:
                return at.range(self._key(key), 0, length)
            except Exception as error:
                if "status code: 416" in str(error):  # an object without bytes has no range
                    return b""
                raise

        return self._try(get, key)

    def open(self, key: str) -> BinaryIO:
        """See `Storage`."""
        return cast(BinaryIO, _Ranges(self, key))

    def _range(self, key: str, start: int, length: int) -> bytes:
        return self._try(lambda at: at.range(self._key(key), start, length), key)

    def exists(self, key: str) -> bool:
        """See `Storage`."""
        return bool(self._key(key)) and self.stat(key) is not None

    def write(self, key: str, data: bytes | memoryview | pa.Buffer) -> None:
        """See `Storage`."""
        view = memoryview(data).cast("B")
        parts = view.nbytes > _MULTIPART_BYTES
        self._try_to_write(lambda at: obstore.put(at.store, self._key(key), view, use_multipart=parts), key)

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage`.

        Needs a store that knows ``If-None-Match``, as Azure does, and Amazon S3 since 2024; Google's has a condition of
        its own.
        """

        def put(at: Connection) -> bool:
            try:
                obstore.put(at.store, self._key(key), data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

        if self._try_to_write(put, key):
            return True
        try:  # a request that was answered too late is sent again, and then finds what it has itself created
            return self.read(key) == data
        except FileNotFoundError:  # whoever created it has deleted it since
            return False

    def replace_together(self, files: Mapping[str, bytes]) -> None:
        """See `Storage`. The last file comes last."""
        for key, data in files.items():
            self.write(key, data)

    def move(self, source: str, target: str) -> None:
        """See `Storage`."""
        try:
            self.copy(source, target)
        except FileNotFoundError:
            if not self.exists(target):
                raise
        self.delete([source])

    def copy(self, source: str, target: str) -> None:
        """See `Storage`."""
        self._try_to_write(lambda at: at.copy(self._key(source), self._key(target)), target, source)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Storage`. On S3 a thousand to a request, several requests at a time."""
        paths = [self._key(key) for key in keys]
        if paths:
            self._try_to_write(lambda at: at.delete(paths), paths[0])

    def clean(self, staging: str) -> None:
        """See `Storage`. A write that is cut off leaves nothing here, and there are no folders."""

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def _try(self, operation: Callable[[Connection], T], key: str) -> T:
        """Do what may be repeated, again and again while the store does not answer, for up to ``s3.timeout`` seconds.

        Raises what `Storage` says for ``key``.
        """
        state, started = health(self.scheme, self.bucket, self.s3), time.monotonic()
        seconds, renewed = 0.2, False
        while True:
            try:
                result = operation(connect(self.bucket, self.s3, self.scheme))
            except Exception as error:
                if errors.answers(error) and not errors.passes(error):
                    state.answers()
                if errors.refuses_keys(error) and not renewed:
                    reconnect()  # with the keys that there are by now
                    renewed = True
                    continue
                if not errors.passes(error):
                    raise self._failure(error, key, state) from error
                left = self._patience(error, state) - (time.monotonic() - state.silent_since(started))
                if left <= 0:
                    raise self._failure(error, key, state) from error
                if state.is_to_be_told():
                    where = errors.place(self.s3.resolved(), self.scheme, self.bucket)
                    why = f"{where} does not answer ({errors.reason(error)}): trying for {left:.0f} s more"
                    log.warning("%s", why, extra={"fields": {"reason": why}})
                interruption.wait(min(left, seconds * random.uniform(0.5, 1)))  # noqa: S311 -- not all at the same time
                seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
            else:
                state.answers()
                state.took_keys |= result is not None  # to connect alone asks nothing
                return result

    def _patience(self, error: Exception, state: Health) -> float:
        """For how many seconds the store may be silent."""
        if interruption.asked():
            return 0.0
        task = _task()
        if task is not None and task.attemptNumber() > 0:
            return min(self.s3.timeout, _RETRIED_TASK_SECONDS)
        if errors.names_nobody(error) and not state.has_answered and task is None and not in_driver_pod():
            return min(self.s3.timeout, _NAME_SECONDS)
        return self.s3.timeout

    def _try_to_write(self, operation: Callable[[Connection], T], key: str, source: str | None = None) -> T:
        """The same for what changes the store: what hinders it is a StorageError, but that ``source`` is missing."""
        try:
            return self._try(operation, source or key)
        except FileNotFoundError:
            if source is not None:
                raise
            raise self._unwritten(key, "no such object") from None
        except PermissionError as error:
            raise AccessDenied(
                f"{self.url}/{key} may not be changed with these credentials ({error.strerror}): "
                f"allow {errors.WORDS[self.scheme].writing}."
            ) from error
        except OSError as error:
            raise self._unwritten(key, error.strerror) from error

    def _failure(self, error: Exception, key: str, state: Health) -> Exception:
        if isinstance(error, OrchardError) and not isinstance(error, AccessDenied):
            return error
        # There is no task before the store has taken the driver's, which are the same.
        was_taken = state.took_keys or _task() is not None
        found = errors.store_failure(error, self.s3, self.bucket, self.scheme, was_taken=was_taken)
        return found or errors.key_failure(error, f"{self.url}/{key}")

    def _unwritten(self, key: str, why: str | None) -> StorageError:
        kind = errors.WORDS[self.scheme].bucket
        return StorageError(f"{self.url}/{key} cannot be written ({why}): check the {kind}.")


def _task() -> Any:
    """Return the task of Spark's that this is; None outside of one."""
    pyspark = sys.modules.get("pyspark")
    return pyspark.TaskContext.get() if pyspark else None


def _without_folders(entries: Iterator[Entry]) -> Iterator[Entry]:
    """All but empty objects that stand for a folder: obstore leaves out the slash, and what is in it comes next."""
    empty: Entry | None = None
    for entry in entries:
        if empty is not None and not entry.key.startswith(f"{empty.key}/"):
            yield empty
        empty = None if entry.size else entry
        if entry.size:
            yield entry
    if empty is not None:
        yield empty


class _Ranges(io.RawIOBase):
    """An object as a file for Parquet readers: every read is a request for just those bytes."""

    def __init__(self, storage: ObjectStorage, key: str) -> None:
        self._storage, self._key, self._position = storage, key, 0
        self._size = storage._try(lambda at: at.head(storage._key(key)), key)[0]

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
