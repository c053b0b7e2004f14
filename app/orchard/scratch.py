"""Temporary folders; where their disk is full, the error says which disk that is.

What writes there tells of a full disk in many ways: an error without a file's name, a library's own error, or a child
process that ends without a word.
"""

import errno
import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from orchard import interruption
from orchard.errors import OrchardError, StorageError

# A command that is killed leaves folders of this name. It locks them while it lives, so that one that nobody locks is
# left over; without the suffix a folder is another's, such as an output among temporary files.
_SUFFIX = ".orchard-tmp"

_LITTLE = 64 * 1024
"""Free bytes below which a disk counts as full; who writes more leaves less."""


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Make a temporary folder, whose name says what it is for, and remove it afterwards. Raises as `within` does."""
    with temporary(Path(tempfile.gettempdir()), f"orchard-{purpose}-") as folder, within(folder):
        yield folder


@contextmanager
def temporary(where: Path, prefix: str) -> Iterator[Path]:
    """Make a temporary folder in another and remove it afterwards, as well as those that killed commands left there."""
    _remove_abandoned(where)
    while True:
        made = tempfile.TemporaryDirectory(_SUFFIX, prefix, where, ignore_cleanup_errors=True)
        with made as name, ExitStack() as stack:
            folder = Path(name)
            interruption.remove(folder)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(_opened(folder, stack), fcntl.LOCK_EX)
            is_there = folder.is_dir()  # else another command found it before it was locked
            if is_there:
                yield folder
        interruption.removed(folder)
        if is_there:
            return


@functools.cache
def _remove_abandoned(where: Path) -> None:
    """Remove this user's temporary folders that nobody locks, once; none on a file system without locks."""
    for folder in where.glob(f"*{_SUFFIX}"):
        with suppress(OSError), ExitStack() as stack:
            descriptor = _opened(folder, stack)
            if os.fstat(descriptor).st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _opened(folder: Path, stack: ExitStack) -> int:
    """Return a descriptor of a folder, and of no link to one, that is closed with the stack."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    stack.callback(os.close, descriptor)
    return descriptor


@contextmanager
def within(folder: Path, variable: str = "TMPDIR") -> Iterator[None]:
    """Say of what fails for want of room in a temporary folder, which `variable` moves, that this is why.

    Raises:
        StorageError: the folder's disk is full.
    """
    try:
        yield
    except OrchardError:
        raise
    except Exception as error:
        if not (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) and not is_full(folder):
            raise
        raise unwritable(full(folder), folder.parent, variable) from error


def unwritable(why: str, where: Path | None = None, variable: str = "TMPDIR") -> StorageError:
    """Return the error for temporary files that cannot be written; `variable` names another folder for them."""
    return StorageError(
        f"Temporary files cannot be written ({why}): free some space in {where or tempfile.gettempdir()}, or name "
        f"another folder by the variable {variable}, and start again."
    )


def is_full(folder: Path) -> bool:
    """Return whether the disk of a folder has no room for more."""
    return shutil.disk_usage(folder).free < _LITTLE


def full(folder: Path) -> str:
    """Return the words for it."""
    return f"the disk of {folder.parent} is full"
