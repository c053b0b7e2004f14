"""A local folder as a storage."""

import contextlib
import errno
import fcntl
import io
import itertools
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from orchard.errors import broken, file_failure
from orchard.storage.interface import Entry
from orchard.storage.walk import Enter, walk

# A write that was cut off leaves a file of this name, and no listing shows it. Its writer locks it, so that one that
# nobody locks is left over, and may be deleted.
_TEMPORARY_SUFFIX = ".orchard-tmp"

# Of file systems that have nothing to wait for, or cannot.
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


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
            _sync_folder(path.parent)

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
                        _write(file, data)
                except FileExistsError:
                    return False
            _sync_folder(path.parent)
            return True

    def replace_together(self, files: Mapping[str, bytes]) -> None:
        """See `Storage`. The last file is gone meanwhile. Raises StorageError."""
        with contextlib.ExitStack() as stack:
            paths = [self._path(key) for key in files]
            _delete_abandoned(paths[-1].parent)
            written = [stack.enter_context(self._written(p, d)) for p, d in zip(paths, files.values(), strict=True)]
            self.delete(list(files)[-1:])
            for temporary, path in zip(written, paths, strict=True):
                temporary.replace(path)
                _sync_folder(path.parent)

    @contextlib.contextmanager
    def _written(self, path: Path, data: bytes | memoryview | pa.Buffer) -> Iterator[Path]:
        """A temporary file beside ``path`` with the data, deleted afterwards unless it was renamed."""
        with self._temporary(path) as temporary, _created(temporary) as file:
            _write(file, data)
            yield temporary

    @contextlib.contextmanager
    def _temporary(self, path: Path) -> Iterator[Path]:
        """A name beside ``path``, in a folder that is there; whatever has it afterwards is deleted."""
        temporary = path.parent / f".{uuid.uuid4().hex}{_TEMPORARY_SUFFIX}"
        with self._writing(path):
            try:
                make_folder(path.parent)
                yield temporary
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def move(self, source: str, target: str) -> None:
        """See `Storage`."""
        path = self._path(target)
        with self._writing(path):
            make_folder(path.parent)
            try:
                self._path(source).replace(path)
            except FileNotFoundError:
                if not path.exists():
                    raise
            _sync_folder(path.parent)

    def copy(self, source: str, target: str) -> None:
        """See `Storage`. It makes a hard link if possible, because files are never changed, only replaced."""
        path = self._path(target)
        with self._temporary(path) as temporary:
            try:
                os.link(self._path(source), temporary)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without hard links
                with self._path(source).open("rb") as old, temporary.open("xb") as new:
                    shutil.copyfileobj(old, new)
                    new.flush()
                    _sync(new.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)

    def delete(self, keys: Iterable[str]) -> None:
        """See `Storage`. Folders that become empty go too."""
        changed = set[Path]()
        for key in keys:
            path = self._path(key)
            changed.add(path.parent)
            try:
                path.unlink(missing_ok=True)
            except NotADirectoryError:
                continue
            except OSError as error:
                raise file_failure(error, "deleted", f"{self.url}/{key}") from error
            with contextlib.suppress(OSError):  # not empty
                for folder in path.parents:
                    if folder == Path(self.url):
                        break
                    folder.rmdir()
                    changed.add(folder.parent)
        for folder in changed:
            with self._writing(folder):
                _sync_folder(folder)

    def clean(self, staging: str) -> None:
        """See `Storage`."""
        below = self._path(staging)
        for folder, _, files in os.walk(self.url, topdown=False):
            if any(name.endswith(_TEMPORARY_SUFFIX) for name in files):
                _delete_abandoned(Path(folder))
            if below in Path(folder).parents:
                with contextlib.suppress(OSError):  # not empty
                    Path(folder).rmdir()

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise file_failure(error, "written", str(path)) from error

    def _opened(self, key: str) -> io.FileIO:
        """A file for reading; never waits, as opening a pipe would that nobody writes to.

        What ails more than this file is a StorageError.
        """
        path = self._path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            mode = os.fstat(descriptor).st_mode
        except OSError as error:
            raise broken(error, str(path)) or error from None
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


@contextlib.contextmanager
def _created(temporary: Path) -> Iterator[BinaryIO]:
    """A new temporary file, locked where the file system has locks."""
    while True:
        with temporary.open("xb") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else another process found it before it was locked
                yield file
                return


def _delete_abandoned(folder: Path) -> None:
    """Delete the temporary files in a folder that nobody is writing; none on a file system without locks."""
    for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _write(file: BinaryIO, data: bytes | memoryview | pa.Buffer) -> None:
    file.write(data)
    file.flush()
    _sync(file.fileno())


def _sync(descriptor: int) -> None:
    """Wait until the disk has a file's content, or a folder's names."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in the folder, if it is still there."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # deleted, or one that may be written to and not read
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where they are missing; they are on the disk when the call returns."""
    missing = list(itertools.takewhile(lambda above: not above.is_dir(), [folder, *folder.parents]))
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        _sync_folder(made.parent)


def _read_up_to(descriptor: int, length: int) -> bytes:
    parts = []
    while length > 0 and (part := os.read(descriptor, min(length, 1 << 24))):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def readable_path(path: str | bytes | Path) -> str:
    """The path as text, as listings have it; ``\\xNN`` for each byte that is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
