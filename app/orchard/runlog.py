"""The log of a run, kept in its output, so that it can be read when pod or terminal is gone.

::

    OUT/logs/<run>/log-0001.jsonl …      Orchard's own log: JSON lines, and the sentence with which a run fails
    OUT/logs/<run>/spark-0001.log …      what the driver's JVM said

Secrets are hidden as everywhere (`orchard.redaction`). A part is written again while it grows, so parts are short. The
logs of the last `KEPT` runs are kept. A log must never stop a run: lines that cannot be written are left out.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread

from orchard import progress
from orchard.errors import InputError, OrchardError
from orchard.layout import LOGS
from orchard.redaction import redacted
from orchard.storage import ObjectStorage, S3Options, Storage, open_storage

KEPT = 20
SECONDS = 20.0
"""Interval, in seconds, at which new lines are written."""
PART_BYTES = 2**20
PATIENCE_SECONDS = 3.0
"""Seconds that a store may take, because a run that ends cannot wait."""
AHEAD = timedelta(hours=1)
"""How far another machine's clock may be ahead; the log of a run that began later has a wrong date."""

log = logging.getLogger("orchard")

_BEGAN = "%Y%m%dT%H%M%S"
_RUN_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{6}")


def new_run_id() -> str:
    """Return a name for a run; names are in the order of time."""
    return _named(datetime.now(UTC)) + secrets.token_hex(3)


def _named(began: datetime) -> str:
    return began.strftime(_BEGAN) + "-"


class _Kept:
    """The lines of one kind, written in parts."""

    def __init__(self, name: str, suffix: str) -> None:
        self._name, self._suffix = name, suffix
        self._lock = Lock()
        self._lines: list[bytes] = []
        self._size, self._part, self._is_new = 0, 1, False

    def add(self, text: str) -> None:
        """Take a line in."""
        line = f"{text}\n".encode(errors="backslashreplace")
        with self._lock:
            self._lines.append(line)
            self._size += len(line)
            self._is_new = True

    def write(self, storage: Storage, folder: str) -> None:
        """Write the part that new lines were added to."""
        with self._lock:
            if not self._is_new:
                return
            data, key = b"".join(self._lines), f"{folder}{self._name}-{self._part:04d}{self._suffix}"
            self._is_new = False
            if self._size >= PART_BYTES:
                self._lines, self._size, self._part = [], 0, self._part + 1
        storage.write(key, data)


class RunLog(logging.Handler):
    """Keeps the log of a run in its output, during a ``with`` block.

    Args:
        storage: the output's.
        run: its id, in the order of time.
    """

    def __init__(self, storage: Storage, run: str) -> None:
        super().__init__(logging.INFO)
        if isinstance(storage, ObjectStorage):
            storage = replace(storage, s3=replace(storage.s3, timeout=PATIENCE_SECONDS))
        self._storage, self._run, self._folder = storage, run, f"{LOGS}{run}/"
        self._own, self._sparks = _Kept("log", ".jsonl"), _Kept("spark", ".log")
        self._ended = Event()
        self._writer = Thread(target=self._keep, name="orchard-log", daemon=True)
        self.setFormatter(progress.JsonFormatter())

    def __enter__(self) -> RunLog:
        log.addHandler(self)
        _of_spark.append(self._sparks)
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        log.removeHandler(self)
        _of_spark.remove(self._sparks)
        if error is not None:
            said = "interrupted." if isinstance(error, KeyboardInterrupt) else redacted(str(error) or repr(error))
            self._own.add(f"orchard: {said}")
        self._ended.set()
        self._writer.join(2 * PATIENCE_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._own.add(self.format(record))

    def _keep(self) -> None:
        self._try(self._forget)
        while not self._ended.wait(SECONDS):
            self._try(self._write)
        self._try(self._write)

    def _write(self) -> None:
        self._own.write(self._storage, self._folder)
        self._sparks.write(self._storage, self._folder)

    def _forget(self) -> None:
        keys = files(self._storage)
        kept = set(_runs(keys, self._run)[-(KEPT - 1) :])
        self._storage.delete([key for key in keys if _run_of(key) not in kept])

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except (OrchardError, OSError) as error:
            log.debug("the log could not be kept: %s", error)


_of_spark: list[_Kept] = []


def note_spark(line: str) -> None:
    """Keep the output of a driver's JVM, if a run keeps its log."""
    for kept in _of_spark:
        kept.add(redacted(line))


def files(storage: Storage) -> list[str]:
    """Return the keys of all runs' logs; a folder of this name may hold files of others, too."""
    return [entry.key for entry in storage.list(LOGS) if _RUN_ID.fullmatch(_run_of(entry.key))]


def began(key: str) -> datetime:
    """Return when the run of a log began, as its name says. Raises ValueError if that is no time."""
    return datetime.strptime(_run_of(key).partition("-")[0], _BEGAN).replace(tzinfo=UTC)


def lines(output: str, s3: S3Options, *, spark: bool = False) -> Iterator[str]:
    """Yield the log that the last run has left in an output; with `spark`, the output of its JVM.

    Raises:
        InputError: there is none.
        StorageError: it cannot be read.
    """
    storage = open_storage(output, s3)
    keys = sorted(files(storage))
    if not keys:
        raise InputError(f"{output} holds no log: check the name of the output, and whether a run has begun there.")
    name = "/spark-" if spark else "/log-"
    last = _runs(keys, _named(datetime.now(UTC) + AHEAD))[-1]
    for key in keys:
        if _run_of(key) == last and name in key:
            yield from storage.read(key).decode(errors="replace").splitlines()


def _runs(keys: Iterable[str], now: str) -> list[str]:
    """Return the runs of logs, the last at the end.

    One that seems to be yet to come, by a clock that was ahead, comes first: it would be the last for ever.
    """
    return sorted({_run_of(key) for key in keys}, key=lambda run: (run < now, run))


def _run_of(key: str) -> str:
    return key.removeprefix(LOGS).partition("/")[0]
