"""The files below a folder: every real folder once, however many links lead to it."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchard.errors import file_failure

Enter = Callable[[bytes, Sequence[bytes]], bool]
"""Whether to list a folder, by its path and the names in it."""

_Identity = tuple[int, int]


def walk(root: bytes, *, enter: Enter | None = None, without: str | None = None) -> Iterator[os.DirEntry[bytes]]:
    """Every entry below ``root`` that is no folder: files, broken links, pipes and the like.

    Folders are visited before links to folders, and each once: a link to a folder that is listed anyway, to one that
    holds ``root``, or to itself adds nothing. Sorted within each folder.

    Args:
        root: an absolute path.
        enter: asked before a folder is listed, but not for ``root``; None: all are listed.
        without: a folder in ``root`` of which nothing is listed, by whatever way it is reached.

    Raises:
        AccessDenied: a folder may not be listed.
        StorageError: a folder cannot be listed.
    """
    holding = set(_identities(root)[1:])
    excluded = _identity(os.fsencode(without)) if without is not None else None  # None too if it does not exist yet
    if excluded in holding:  # what holds the images themselves
        excluded = None
    visited: set[_Identity] = set()
    folders, links = [root], deque[bytes]()
    while folders or links:
        is_link = not folders
        folder = links.popleft() if is_link else folders.pop()
        try:
            identity = _identified(folder)
            if identity in visited or identity == excluded:
                continue
            if is_link and (identity in holding or (excluded and excluded in _identities(folder))):
                continue
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue  # deleted since its parent was listed
        except OSError as error:
            raise file_failure(error, "listed", f"folder {folder.decode('utf-8', 'backslashreplace')}") from error
        if folder != root and enter is not None and not enter(folder, [entry.name for entry in entries]):
            continue
        visited.add(identity)
        below = []
        for entry in entries:
            if not _is_folder(entry):
                yield entry
            elif entry.is_symlink():
                links.append(entry.path)
            else:
                below.append(entry.path)
        folders += reversed(below)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identified(path: bytes) -> _Identity:
    status = os.stat(path)  # noqa: PTH116 - bytes
    return status.st_dev, status.st_ino


def _identity(path: bytes) -> _Identity | None:
    with contextlib.suppress(OSError):
        return _identified(path)
    return None


def _identities(path: bytes) -> list[_Identity | None]:
    """Of the real folder and of all that hold it."""
    real = Path(os.fsdecode(os.path.realpath(path)))
    return [_identity(os.fsencode(folder)) for folder in (real, *real.parents)]
