"""Runs a command and turns any error into an exit code; `orchard watch` starts here too."""

import io
import math
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click

from orchard import interruption
from orchard.child import print_anything, start_again_in_utf8
from orchard.errors import (
    ClusterError,
    OrchardError,
    file_failure,
    first_line,
    is_of_file,
    is_of_machine,
    machine_failure,
)
from orchard.redaction import printable, redacted


class FiniteRange(click.FloatRange):
    """A number in a range, neither infinite nor NaN, which click lets through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class NamedPath(click.Path):
    """A local path as `pathlib.Path`; text without a character is refused, which would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """See `click.ParamType`."""
        if not str(value):
            self.fail("the path is empty; . is the current folder.", param, ctx)
        return super().convert(value, param, ctx)


class _NobodyReads(Exception):
    """Nobody reads standard output any more; no BrokenPipeError, as click ends with 1 for that of any pipe."""


class _StandardOutput(io.FileIO):
    """Standard output, which says itself that it cannot be written."""

    def write(self, data: Any) -> int:
        """See `io.RawIOBase`. Raises StorageError, or what ends the command in silence if nobody reads it any more."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise _NobodyReads from None
        except OSError as error:
            raise file_failure(error, "written", "standard output") from error


def run_command(
    command: click.Command, arguments: Sequence[str] | None = None, *, in_main_thread: bool = False
) -> NoReturn:
    """Run a command and exit with its code.

    Args:
        command: the command.
        arguments: its arguments; None: the arguments of the process.
        in_main_thread: as for `orchard.interruption.run`.
    """
    start_again_in_utf8()
    open_standard_streams()
    print_anything()
    interruption.run(partial(outcome, command, arguments), in_main_thread=in_main_thread)


def open_standard_streams() -> None:
    """Let standard output say when it cannot be written; what was closed is opened, and reads and writes nothing.

    Otherwise the next file that is opened would be standard output, for Java and TensorFlow, too.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    given = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - until the end
    raw = _StandardOutput(1, "wb", closefd=False)
    by_line = raw.isatty() or os.environ.get("PYTHONUNBUFFERED")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), given.encoding, given.errors, line_buffering=bool(by_line))
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def outcome(command: click.Command, arguments: Sequence[str] | None) -> tuple[int, str | None]:
    """Run a command; return the exit code and the sentence that says what went wrong."""
    name = "orchard" if arguments is None else f"orchard {command.name}"
    try:
        code = command(arguments, prog_name=name, standalone_mode=False) or 0
        sys.stdout.flush()  # a full disk may not tell of itself before
        return code, None
    except click.ClickException as error:
        error.message = redacted(error.message)  # type: ignore[misc]  # Final; it may quote a value
        error.show()
        return 2, None
    except (KeyboardInterrupt, click.Abort) as error:
        if not isinstance(error.__cause__, EOFError):  # which click takes for Ctrl-D at a prompt, and we have none
            return 130, "interrupted."
        code, sentence = 4, _unexpected(error.__cause__)
    except _NobodyReads:
        return 128 + signal.SIGPIPE, None
    except SystemExit:  # click's, for any other pipe that broke; in a thread it would end that alone
        code, sentence = 4, _unexpected(BrokenPipeError("a pipe to another process broke"))
    except OrchardError as error:
        code, sentence = error.exit_code, str(error)
    except Exception as error:
        if is_of_file(error):
            failure = file_failure(error)
            code, sentence = failure.exit_code, str(failure)
        elif is_of_machine(error):
            code, sentence = ClusterError.exit_code, str(machine_failure(error))
        else:
            code, sentence = 4, _unexpected(error)
    if "--debug" in sys.argv:
        from orchard.progress import say_traceback

        say_traceback()
    return code, printable(redacted(sentence))


def _unexpected(error: BaseException) -> str:
    return f"unexpected {type(error).__name__}: {first_line(error)}; please report it with what --debug shows."
