"""A driver's log, shown to a person elsewhere: bars on a terminal, the driver's own lines otherwise."""

import logging
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import click

from orchard import progress
from orchard.cluster.state import SAYING, json_line
from orchard.redaction import redacted

log = logging.getLogger(__name__)


class Display:
    """Shows the lines of a driver's log, one after the other.

    JSON lines go to standard error, on a terminal as bars and messages. The lines after the last JSON line are the
    result, and go to standard output. The caller prints the sentence of a failure, which it has from the pod.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._advance: progress.Advance | None = None
        self._done = 0
        self._held: list[str] = []  # the result, unless JSON lines follow
        self._pause: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def show(self, text: str) -> None:
        """Show one line; anything that looks like a secret is hidden."""
        text = redacted(text)
        line = json_line(text)
        if line is None:
            if not text.startswith(SAYING):
                self._held.append(text)
            return
        self._release(to_stderr=True)
        if not progress.console.is_terminal:
            click.echo(text, err=True)
        elif "stage" in line:
            self._show_stage(line)
        elif line["event"] == "executors":
            log.info("executors: %d", line["executors"])
        else:
            level = logging.getLevelNamesMapping().get(str(line.get("level")).upper(), logging.INFO)
            log.log(level, "%s", line["event"])

    def restart(self, reason: str | None) -> None:
        """Report that the driver has ended, and that another one continues."""
        self._leave()
        self._release(to_stderr=True)
        log.warning("the driver has ended and another goes on where it stopped%s", f": {reason}" if reason else "")

    def pause(self, reason: str | None) -> None:
        """Report, once, why the driver does not start, or goes; its log cannot say so."""
        if reason is not None and reason != self._pause:
            self._release(to_stderr=True)
            log.warning("%s", redacted(reason))
        self._pause = reason

    def finish(self, *, succeeded: bool) -> None:
        """Print the result, unless the driver has failed."""
        self._leave()
        self._release(to_stderr=not succeeded)

    def _release(self, *, to_stderr: bool) -> None:
        for text in self._held:
            click.echo(text, err=to_stderr)
        self._held.clear()

    def _leave(self) -> None:
        """Leave the bar of an unfinished stage as it is; closed without an error it would jump to its end."""
        self._open.__exit__(InterruptedError, InterruptedError(), None)
        self._advance = None

    def _show_stage(self, line: dict[str, Any]) -> None:
        if line["event"] == "started":
            self._leave()
            self._done = line.get("done") or 0
            self._advance = self._open.enter_context(progress.stage(line["stage"], line.get("total"), self._done))
        elif self._advance:
            done = line.get("done") or 0
            self._advance(done - self._done)
            self._done = done
            if line["event"] == "finished":
                self._open.close()
                self._advance = None
