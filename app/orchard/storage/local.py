"""A local folder as a storage."""

import contextlib
import errno
import io
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from orchard.errors import StorageError
from orchard.storage.interface import Entry
from orchard.storage.walk import Enter, walk

# A write that was cut off leaves a file of this name; no listing shows it.
_TEMPORARY_SUFFIX = ".orchard-tmp"


@dataclass(frozen=True)
class LocalStorage:
    """A folder. Links to folders are followed, but each real folder is listed once.

    A name that is not UTF-8 appears with ``\\xNN`` for each of its odd bytes, and is read by that name.
    """

    url: str

    def list(self, prefix: str = "", *, enter: Enter | None = None, without: str | None = None) -> Iterator[Entry]:
        """See `Storage`, and `walk` for the rest. Raises AccessDenied or StorageError for an unreadable folder."""
        folder = self._path(prefix)
        if not folder.is_dir():
            return
        strip = len(self.url.rstrip("/")) + 1
        for entry in walk(os.fsencode(folder), enter=enter, without=without):
            if entry.name.endswith(_TEMPORARY_SUFFIX.encode()):
                continue
            try:
                found = entry.stat()
                size, version = found.st_size, str(found.st_mtime_ns)
            except OSError:  # a link to nothing or to itself: reading it will say so
                if not entry.is_symlink():
                    continue  # deleted since
                size, version = 0, None
            yield Entry(readable_path(entry.path)[strip:], size, version)

    def stat(self, key: str) -> Entry | None:
        """See `Storage`."""
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key, found.st_size, str(found.st_mtime_ns))

    def read(self, key: str, max_bytes: int | None = None) -> bytes:
        """See `Storage`; at most ``max_bytes`` + 1 bytes."""
        with self._opened(key) as file:
            return file.readall() if max_bytes is None else _read_up_to(file.fileno(), max_bytes + 1)

    def head(self, key: str, length: int) -> bytes:
        """See `Storage`."""
        with self._opened(key) as file:
            return _read_up_to(file.fileno(), length)

    def open(self, key: str) -> BinaryIO:
        """See `Storage`."""
        return io.BufferedReader(self._opened(key))

    def exists(self, key: str) -> bool:
        """See `Storage`."""
        return self._path(key).is_file()

    def write(self, key: str, data: bytes | memoryview | pa.Buffer) -> None:
        """See `Storage`. Raises StorageError, such as for a full disk."""
        path = self._path(key)
        with self._written(path, data) as temporary:
            temporary.replace(path)

    def create(self, key: str, data: bytes) -> bool:
        """See `Storage`. Raises StorageError, such as for a full disk."""
        path = self._path(key)
        with self._written(path, data) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links: exclusive, though not whole at once
                try:
                    with path.open("xb") as file:
                        file.write(data)
                except FileExistsError:
                    return False
            return True

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes | memoryview | pa.Buffer) -> Iterator[Path]:
        """A temporary file beside ``path`` with the data, deleted afterwards unless it was renamed."""
        temporary = path.parent / f".{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"
        try:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(data)
                yield temporary
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written ({error.strerror}): check the folder's permissions and free space."
            ) from error

    def move(self, source: str, target: str) -> None:
        """See `Storage`."""
        path = self._path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path(source).replace(path)

    def copy(self, source: str, target: str) -> None:
        """See `Storage`; a hard link where the file system has them."""
        path = self._path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(self._path(source), path)
        except FileNotFoundError:
            raise
        except OSError:
            self.write(target, self.read(source))

    def delete(self, keys: Iterable[str]) -> None:
        """See `Storage`. Folders that become empty stay."""
        for key in keys:
            try:
                self._path(key).unlink(missing_ok=True)
            except NotADirectoryError:
                continue
            except OSError as error:
                where = f"{self.url}/{key}"
                raise StorageError(f"{where} cannot be deleted ({error.strerror}): check it.") from error

    def _opened(self, key: str) -> io.FileIO:
        """A file for reading; never waits, as opening a pipe would that nobody writes to."""
        path = self._path(key)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return io.FileIO(descriptor)
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", str(path))

    def _path(self, key: str) -> Path:
        if "\0" in key:
            raise OSError(errno.EINVAL, "a path cannot hold a null character", key)
        path = Path(self.url, key)
        if "\\x" in str(path) and not path.exists():
            odd = re.sub(rb"\\x([89a-f][0-9a-f])", lambda m: bytes.fromhex(m[1].decode()), os.fsencode(path))
            return Path(os.fsdecode(odd))
        return path


def _read_up_to(descriptor: int, length: int) -> bytes:
    parts = []
    while length > 0 and (part := os.read(descriptor, min(length, 1 << 24))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def readable_path(path: bytes) -> str:
    """The path as text; ``\\xNN`` for each byte that is not UTF-8."""
    return path.decode("utf-8", "backslashreplace")
