"""The exception tree. Every error is one sentence: what, where, what to do next.

::

    OrchardError                 exit code 4
    ├── UsageError               2  a flag, variable, file or Python argument that cannot be right
    │   └── SettingsChanged      2  the output holds results of other settings
    ├── InputError               3  the source is missing, empty or holds no image
    ├── WeightsUnavailable       3  the backbone's weights cannot be had
    ├── TrainingError            3  the data cannot train a classifier (one class, no training rows)
    ├── StorageError             4  reading or writing a file or object failed
    │   ├── AccessDenied         3  the store refuses the credentials, or there are none
    │   ├── NotAFolder           3  a file is where a folder is needed
    │   ├── BucketMissing        3  there is no bucket of that name
    │   ├── RegionRefused        3  a bucket is not in the region that is set, or in one that is allowed
    │   ├── OutputDamaged        3  a file of the output is gone, or not what was written
    │   └── OutputLocked         4  another run writes to the same output
    └── ClusterError             4  Spark, Java or the cluster failed
        └── ExecutorsRefused     3  the cluster will not start the executors that are asked for
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from orchard.redaction import redacted


class OrchardError(Exception):
    """Base of all errors that Orchard raises on purpose; the text is one sentence for a person, without secrets."""

    exit_code = 4

    def __str__(self) -> str:
        return redacted(super().__str__())


class UsageError(OrchardError):
    """A setting that is wrong, by itself or together with others."""

    exit_code = 2


class SettingsChanged(UsageError):
    """The output was made with settings that would give other features than the present ones."""


class InputError(OrchardError):
    """The source does not exist, cannot be listed, or holds nothing to work on."""

    exit_code = 3


class WeightsUnavailable(OrchardError):
    """The backbone's weights are in no package, Keras home or file, and cannot be downloaded."""

    exit_code = 3


class TrainingError(OrchardError):
    """The features cannot train or measure a classifier."""

    exit_code = 3


class StorageError(OrchardError):
    """A file or object could not be read or written."""


class AccessDenied(StorageError):
    """The store refuses the credentials. A second try would not help, so a cluster makes none."""

    exit_code = 3


class NotAFolder(StorageError):
    """A file is where a folder is needed. A second try would not help."""

    exit_code = 3


class BucketMissing(StorageError):
    """The bucket does not exist; as a source that is an InputError."""

    exit_code = 3


class RegionRefused(StorageError):
    """A bucket is not in the region that is set, not in one that is allowed, or cannot tell in which it is."""

    exit_code = 3


class OutputDamaged(StorageError):
    """A file of the output is gone, or its content is not what was written; `orchard verify` says what can be done."""

    exit_code = 3


class OutputLocked(StorageError):
    """Another run holds the lock of the output."""


class ClusterError(OrchardError):
    """Java is missing, or Spark or its cluster failed."""


class ExecutorsRefused(ClusterError):
    """A permanent hindrance to executors, such as a quota or a missing image; a cluster makes no second try."""

    exit_code = 3


_REMEDIES = {
    errno.ENOSPC: "the disk is full, free some space",
    errno.EDQUOT: "the quota is used up, free some space",
    errno.EFBIG: "its file system, or a limit (ulimit -f), lets no file be so large: raise it, or name another folder",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the system's limit of open files",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.EACCES: "allow it for this user",
    errno.EPERM: "allow it for this user",
    errno.EIO: "check the disk and the system's log",
}
_KINDS: dict[int, type[StorageError]] = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), AccessDenied),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), NotAFolder),  # the second where the folder is to be made
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MOUNT = (errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT)
_BROKEN = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, *_MOUNT}


def in_driver_pod(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a driver in a pod that the chart or `orchard submit` made."""
    return "ORCHARD_POD_NAME" in environment


def is_of_file(error: Exception) -> TypeGuard[OSError]:
    """Whether an error of the operating system concerns a file or a disk rather than a connection."""
    return isinstance(error, OSError) and (error.filename is not None or error.errno in _REMEDIES)


def is_of_machine(error: Exception) -> bool:
    """Whether an error says that the machine, or the container, has no memory, process or thread left to give."""
    if isinstance(error, OSError):
        return error.filename is None and error.errno in (errno.EAGAIN, errno.ENOMEM)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))


def machine_failure(error: Exception) -> ClusterError:
    """Return the sentence for what `is_of_machine`."""
    return ClusterError(
        f"No memory, process or thread is left here ({first_line(error)}): give the machine or the container more, or "
        "let fewer processes work (--master 'local[1]', --engines 1), and start again."
    )


def file_failure(error: OSError, what: str = "read or written", path: str | None = None) -> StorageError:
    """Return the sentence for an operating system's error about a file, which "cannot be `what`"."""
    name = path or os.fspath(error.filename or "a file")
    number, path = error.errno or 0, os.fspath(error.filename or name)
    kind = _KINDS.get(number, StorageError)
    remedy = _REMEDIES.get(number, "mount it again" if number in _MOUNT else "check it")
    if kind is AccessDenied:
        remedy = _permission(number, path) or remedy
    elif number in _FULL and (claim := _claim_of(path)):
        remedy = f"the claim {claim} is full, free some space or enlarge it"
    elif kind is NotAFolder:
        remedy = f"{_file_of(path)} is a file, name a folder instead"
    return kind(f"{name} cannot be {what} ({error.strerror or type(error).__name__}): {remedy}, and start again.")


def _permission(number: int, path: str) -> str | None:
    """Return what lets this process write to `path`; None where there is no more to say than the usual."""
    claim = _claim_of(path)
    if number == errno.EROFS:
        return f"mount the claim {claim} for writing, or choose another folder" if claim else None
    if not hasattr(os, "getuid"):
        return None
    groups = " ".join(map(str, sorted({os.getgid(), *os.getgroups()})))
    user = f"allow it for this user (uid {os.getuid()}, groups {groups})"
    return f"{user}, on the claim {claim} by a podSecurityContext.fsGroup that may write there" if claim else user


def _claim_of(path: str) -> str | None:
    """Return the claim that is mounted where `path` is, as far as this process is told."""
    claims = (pair.partition("=") for pair in os.environ.get("ORCHARD_CLAIMS", "").split(",") if pair)
    return next((name for name, _, at in claims if f"{path}/".startswith(f"{at.rstrip('/')}/")), None)


def _file_of(path: str) -> str:
    """Return the part of `path` that is a file where a folder is needed."""
    return next((str(part) for part in (Path(path), *Path(path).parents) if part.is_file()), path)


def broken(error: OSError, path: str) -> StorageError | None:
    """Return the sentence for an error of the machine or a whole mount; None if it concerns only one file."""
    return file_failure(error, "read", path) if error.errno in _BROKEN else None


def first_line(error: BaseException) -> str:
    """Return the most informative line of another library's exception; Java's come with their whole stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("An error occurred while calling"):
        return lines[1].removeprefix(": ")
    return lines[0] if lines else type(error).__name__
