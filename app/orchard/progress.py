"""Progress of long work: bars on a terminal, JSON log lines otherwise."""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from orchard import interruption
from orchard.redaction import redacted, without_secrets

LOG_SECONDS = 5.0
"""Interval, in seconds, at which a stage logs its progress if there is no terminal."""
QUIET_SECONDS = 25.0
"""After so many seconds without a log line, a stage logs that it still works, even without progress."""

console = Console(stderr=True)
log = logging.getLogger("orchard")

_bars: list[Progress] = []
_to_json = json.JSONEncoder(ensure_ascii=False).encode


@dataclass
class Work:
    """Progress of a stage."""

    name: str
    total: int | None
    """Number of units of the whole work; None: unknown."""
    before: int
    """Number of units that an earlier run has done."""
    done: int
    started: float = field(default_factory=time.time)
    moved: float = field(default_factory=time.time)
    """Time of its last progress, in seconds since 1970."""
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Its duration in seconds, until now or until its end."""
        return (self.ended or time.time()) - self.started

    @property
    def per_second(self) -> float:
        """Units that this run does in a second, from the start of the stage on."""
        return (self.done - self.before) / self.seconds if self.seconds > 0 else 0.0


_works: dict[str, Work] = {}


def works() -> list[Work]:
    """Return every stage of this process in the order of their beginning, those that have ended too."""
    return list(_works.values())


class Advance(Protocol):
    """Reports `n` more finished units of a stage's work, from any thread."""

    def __call__(self, n: int) -> None:
        """Count `n` more as done."""
        ...


class _PlainFormatter(logging.Formatter):
    """The message alone, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, and what was given as ``extra={"fields": …}``; without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _to_json(without_secrets(line))


def configure_logging(*, debug: bool = False, for_people: bool | None = None) -> None:
    """Send Orchard's log to standard error: `for_people`, by default on a terminal, and JSON lines otherwise."""
    handler: logging.Handler
    if console.is_terminal if for_people is None else for_people:
        handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
        handler.setFormatter(_PlainFormatter())
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(logging.NullHandler())  # what others log is theirs: py4j says why a job was ended
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.INFO)


def say_traceback() -> None:
    """Print the traceback of the exception that is handled, for ``--debug``."""
    console.print(Text(redacted(traceback.format_exc().rstrip())), soft_wrap=True)


def move_to(descriptor: int) -> None:
    """Write log and bars to another file descriptor from now on."""
    console.file = os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace", closefd=False)
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(console.file)


def end_bars() -> None:
    """Leave the terminal as it was."""
    for bar in _bars:
        bar.stop()


interruption.show_with(move_to, end_bars)


@contextmanager
def stage(name: str, total: int | None = None, done: int = 0) -> Iterator[Advance]:
    """Show the progress of the stage `name` during a ``with`` block.

    Args:
        name: of the stage.
        total: units of the whole work, if they are known.
        done: how many of them an earlier run has done.

    Raises:
        KeyboardInterrupt: the command is to end.
    """
    interruption.check()
    show = _bar if console.is_terminal else _lines
    _works.pop(name, None)
    work = _works[name] = Work(name, total, done, done)
    with show(name, total, done) as advance:

        def count(n: int) -> None:
            work.done += n
            if n:
                work.moved = time.time()
            advance(n)

        try:
            yield count
        finally:
            work.ended = work.moved = time.time()


@contextmanager
def _bar(name: str, total: int | None, done: int) -> Iterator[Advance]:
    columns = [SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn()]
    if total:
        columns += [MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        _bars.append(progress)
        task = progress.add_task(name, total=total, completed=done)
        yield lambda n: progress.advance(task, n)
        progress.update(task, total=total or 1, completed=total or 1)


@contextmanager
def _lines(name: str, total: int | None, before: int) -> Iterator[Advance]:
    started = said = time.monotonic()
    done = before
    ended = Event()

    def say(event: str, **fields: object) -> None:
        counts = {} if total is None else {"done": done, "total": total}
        log.info(event, extra={"fields": {"stage": name, **counts, **fields}})

    def say_how_far(after: float) -> None:
        nonlocal said
        if (now := time.monotonic()) - said < after:
            return
        said = now
        rate = (done - before) / (said - started)
        left = {} if not total or not rate else {"seconds_left": round((total - done) / rate, 1)}
        rates = {"per_second": round(rate, 1)} if total is not None else {}
        say("progress", seconds=round(said - started, 1), **rates, **left)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        say_how_far(LOG_SECONDS)

    def stay_in_touch() -> None:
        while not ended.wait(QUIET_SECONDS / 10):
            say_how_far(QUIET_SECONDS)

    say("started")
    Thread(target=stay_in_touch, name="orchard-progress", daemon=True).start()
    try:
        yield advance
    finally:
        ended.set()
    say("finished", seconds=round(time.monotonic() - started, 2))
