"""The single-writer lock of an output.

A folder is locked by the operating system (``flock``), which releases the lock when the process dies. An object store
has no locks: there the lock is a series of numbered leases. Its holder renews it by creating lease n + 1. Another run
takes it over in the same way, after lease n has been the newest for `EXPIRY_SECONDS`. Creating a lease that exists
fails, so only one of several runs succeeds, and the holder learns at its next renewal that it has lost the lock. It
stops writing before that: `HELD_SECONDS` after the start of its last renewal, it must renew before it may write again.

No decision uses the time of day, and no clock is compared with another machine's.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from orchard.errors import OrchardError, OutputLocked, StorageError, file_failure
from orchard.layout import LOCKS
from orchard.storage import LocalStorage, Storage, make_folder

RENEWAL_SECONDS = 10.0
HELD_SECONDS = 30.0
"""Seconds for which a holder that cannot renew continues."""
EXPIRY_SECONDS = 45.0
"""Seconds for which a lease must be unchanged before another run takes over: longer than its holder continues."""
# Whoever is told to stop does not wait for a store that does not answer: then the lease expires instead.
RELEASE_SECONDS = 3.0

# Where it is to be had, a clock that also counts while the machine sleeps.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_LEASE = re.compile(re.escape(LOCKS) + r"(\d{8})\.json")

log = logging.getLogger(__name__)


class Lease:
    """The holder's side of the lock. The lock of a folder cannot be lost."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @property
    def lost(self) -> bool:
        """Whether this run may not write: another run has taken over, or may have, because this one did not renew."""
        return False

    def check(self) -> None:
        """Check that this run may write.

        Raises:
            OutputLocked: another run took over.
            StorageError: the lease has run out and cannot be renewed.
        """
        if self.lost:
            raise OutputLocked(f"Another run took over {self._storage.url}; this one stops without touching it.")


class _ObjectLease(Lease):
    def __init__(self, storage: Storage, run_id: str, number: int, renewed: float) -> None:
        super().__init__(storage)
        self._run_id, self._number, self._renewed = run_id, number, renewed
        self._overtaken = False
        self._renewing = Lock()

    @property
    def lost(self) -> bool:
        return self._overtaken or _now() - self._renewed > HELD_SECONDS

    def check(self) -> None:
        if self.lost:  # this process was stopped, or the store did not answer: perhaps nobody took over meanwhile
            self.renew()
        super().check()

    def renew(self) -> None:
        with self._renewing:
            if self._overtaken:
                return
            started = _now()
            if _take(self._storage, self._number + 1, _lease(self._run_id)):
                self._number += 1
                self._renewed = started
            else:
                self._overtaken = True

    def keep(self, released: Event) -> None:
        """Renew until `released`, then give the lock to whoever wants it next."""
        while not released.wait(RENEWAL_SECONDS) and not self._overtaken:
            try:
                self.renew()
            except (OrchardError, OSError) as error:  # one missed renewal is no loss
                log.warning("could not renew the lock: %s", error)
        if not self._overtaken:
            try:
                _take(self._storage, self._number + 1, _lease(self._run_id, released=True))
            except (OrchardError, OSError) as error:
                log.warning("could not release the lock, so the next run will wait for it: %s", error)


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
        make_folder(path.parent)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise file_failure(error, "written to", f"the output {storage.url}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(f"Cannot lock {path}: {error.strerror}; use a local output or a bucket.") from error
            file.seek(0)
            raise _locked(storage.url, file.read()) from None
        with contextlib.suppress(OSError):  # on a full disk: who holds it is only told to people
            file.truncate(0)
            file.write(_lease(run_id))
        yield Lease(storage)
        with contextlib.suppress(OSError):
            file.truncate(0)


@contextmanager
def _hold_lease(storage: Storage, run_id: str) -> Iterator[Lease]:
    lease, released = _acquire(storage, run_id), Event()
    keeper = Thread(target=lease.keep, args=(released,), name="orchard-lock", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        released.set()
        keeper.join(RELEASE_SECONDS)


def _acquire(storage: Storage, run_id: str) -> _ObjectLease:
    """Wait until the newest lease is released or was seen unchanged for its time, and create the next."""
    seen: tuple[int, bytes] | None = None
    since = 0.0
    while True:
        started = _now()
        number = max(_leases(storage), default=0)
        if number:
            try:
                found = number, storage.read(_key(number))
            except FileNotFoundError:  # renewed since it was listed
                continue
            content = _content(found[1])
            if not _is_released(content):
                told = content.get("expiry_seconds")
                expiry = max(EXPIRY_SECONDS, min(told, 600)) if isinstance(told, int | float) else EXPIRY_SECONDS
                if seen is None:
                    seen, since = found, _now()
                    why = f"waiting up to {expiry:.0f} s for the lock of {storage.url}"
                    log.info("%s", why, extra={"fields": {"reason": why}})
                if found != seen:
                    raise _locked(storage.url, found[1])
                if started - since < expiry:
                    time.sleep(min(RENEWAL_SECONDS / 4, max(0.01, expiry - (started - since))))
                    continue
        started = _now()
        if _take(storage, number + 1, _lease(run_id)):
            return _ObjectLease(storage, run_id, number + 1, started)
        seen = None  # another was faster


def _take(storage: Storage, number: int, content: bytes) -> bool:
    """Create the lease of that number and delete older ones; False if another process made it first, or a later one."""
    if not storage.create(_key(number), content):
        return False
    numbers = _leases(storage)
    storage.delete([_key(older) for older in numbers if older < number])
    return max(numbers, default=number) == number


def _leases(storage: Storage) -> list[int]:
    return [int(match[1]) for entry in storage.list(LOCKS) if (match := _LEASE.fullmatch(entry.key))]


def _key(number: int) -> str:
    return f"{LOCKS}{number:08d}.json"


def _lease(run_id: str, *, released: bool = False) -> bytes:
    holder = {"run": run_id, "host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({**holder, "expiry_seconds": EXPIRY_SECONDS, "released": released}).encode()


def _content(lease: bytes) -> dict[str, Any]:
    """Return the content of a lease; empty if it is not one of any version."""
    try:
        content = json.loads(lease)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_released(lease: dict[str, Any]) -> bool:
    return lease.get("released") is True or lease.get("expires") == 0  # as earlier versions say it


def _locked(url: str, holder: bytes) -> OutputLocked:
    who = _content(holder)
    known = {"run", "pid", "host"} <= who.keys()
    text = f"run {who['run']} (process {who['pid']} on {who['host']})" if known else "another run"
    return OutputLocked(f"{url} is being written by {text}: wait until it ends, or choose another --output.")


def _now() -> float:
    """Return seconds of a monotonic clock."""
    return time.clock_gettime(_CLOCK)
