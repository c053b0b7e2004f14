"""Temporary folders; where their disk is full, the error says which disk that is.

What writes there tells of a full disk in many ways: an error without a file's name, a library's own error, or a child
process that ends without a word.
"""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchard import interruption
from orchard.errors import OrchardError, StorageError

_LITTLE = 64 * 1024
"""Free bytes below which a disk counts as full; who writes more leaves less."""


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """Make a temporary folder, whose name says what it is for, and remove it afterwards. Raises as `within` does."""
    with tempfile.TemporaryDirectory(prefix=f"orchard-{purpose}-") as name:
        folder = Path(name)
        interruption.remove(folder)
        with within(folder):
            yield folder
    interruption.removed(folder)


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
