"""The single-writer lock of an output.

A folder is locked by the operating system (``flock``), which lets go when the process dies. An object store has no
such thing: there the lock is a lease, renewed while its holder lives. Lease n + 1 is created only if it does not exist
and only when lease n has been released or has expired, so of several that wait one alone gets it.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from orchard.errors import OrchardError, OutputLocked, StorageError
from orchard.layout import LOCKS
from orchard.storage import LocalStorage, Storage

RENEWAL_SECONDS = 10.0
# A driver that was killed leaves its lease; the next one has to wait this long for it.
EXPIRY_SECONDS = 45.0

log = logging.getLogger(__name__)


class Lease:
    """What the holder of the lock knows of it."""

    lost = False
    """Whether another run took over because this one could not renew in time."""


@contextmanager
def hold(storage: Storage, run_id: str) -> Iterator[Lease]:
    """Hold the lock of the output at `storage` for the duration of a ``with`` block.

    Raises:
        OutputLocked: another run holds it, and is alive.
    """
    locked = _hold_file(storage, run_id) if isinstance(storage, LocalStorage) else _hold_lease(storage, run_id)
    with locked as lease:
        yield lease


@contextmanager
def _hold_file(storage: LocalStorage, run_id: str) -> Iterator[Lease]:
    path = Path(storage.url, LOCKS, "lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise StorageError(f"Cannot write to {storage.url}: {error.strerror}; choose another --output.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(f"Cannot lock {path}: {error.strerror}; use a local or S3 output.") from error
            file.seek(0)
            raise _locked(storage.url, file.read()) from None
        file.truncate(0)
        file.write(_identity(run_id))
        file.flush()
        yield Lease()
        file.truncate(0)


@contextmanager
def _hold_lease(storage: Storage, run_id: str) -> Iterator[Lease]:
    key = _acquire(storage, run_id)
    lease, released = Lease(), Event()

    def renew() -> None:
        renewed = time.monotonic()
        while not released.wait(RENEWAL_SECONDS):
            try:
                lease.lost = _newest(storage) != key
                if lease.lost:
                    return
                storage.write(key, _lease_bytes(run_id, time.time() + EXPIRY_SECONDS))
                renewed = time.monotonic()
            except OrchardError as error:
                # One missed renewal is no loss; silence until the lease has run out is.
                log.warning("could not renew the lock: %s", error)
                lease.lost = time.monotonic() - renewed > EXPIRY_SECONDS

    renewer = Thread(target=renew, name="orchard-lock", daemon=True)
    renewer.start()
    try:
        yield lease
    finally:
        released.set()
        renewer.join()
        if not lease.lost:
            storage.write(key, _lease_bytes(run_id, 0))


def _acquire(storage: Storage, run_id: str) -> str:
    """Wait until the newest lease is free or has expired, and create the next; return its key."""
    seen: bytes | None = None
    while True:
        newest = _newest(storage)
        if newest is not None:
            data = storage.read(newest)
            wait = json.loads(data)["expires"] - time.time()
            if wait > 0:
                if seen is not None and data != seen:  # it was renewed: its holder lives
                    raise _locked(storage.url, data.decode())
                if seen is None:
                    log.info("waiting up to %.0f s for the lock of %s", wait, storage.url)
                seen = data
                time.sleep(min(wait + 0.1, RENEWAL_SECONDS / 4))
                continue
        number = 0 if newest is None else int(Path(newest).stem)
        key = f"{LOCKS}{number + 1:08d}.json"
        if storage.create(key, _lease_bytes(run_id, time.time() + EXPIRY_SECONDS)):
            storage.delete([entry.key for entry in storage.list(LOCKS) if entry.key < key])
            return key
        seen = None


def _newest(storage: Storage) -> str | None:
    return max((entry.key for entry in storage.list(LOCKS)), default=None)


def _identity(run_id: str) -> str:
    return json.dumps({"run": run_id, "host": socket.gethostname(), "pid": os.getpid()})


def _lease_bytes(run_id: str, expires: float) -> bytes:
    return json.dumps({**json.loads(_identity(run_id)), "expires": expires}).encode()


def _locked(url: str, holder: str) -> OutputLocked:
    try:
        who = json.loads(holder)
        text = f"run {who['run']} (process {who['pid']} on {who['host']})"
    except (ValueError, KeyError):
        text = "another run"
    return OutputLocked(f"{url} is being written by {text}: wait until it ends, or choose another --output.")
