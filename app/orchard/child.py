"""Child processes that run Orchard's Python: they find the package, use UTF-8, and send their errors to the parent."""

import codecs
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import orchard
from orchard import errors
from orchard.errors import OrchardError

_ERROR = "error.json"
_ESCAPED = "orchard-escaped"

UTF8 = {"PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}
"""In the environment of a process, Python's or Java's: it names files in UTF-8, whatever the locale."""


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment with `variables`, in which ``python -m orchard.…`` finds this very package."""
    root = str(Path(orchard.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | variables


def options(**variables: str) -> dict[str, Any]:
    """Return what `subprocess` needs to start one: its `environment`, and a session of its own.

    What a terminal sends on Ctrl-C is for the parent, which ends its children itself.
    """
    return {"env": environment(**variables), "start_new_session": True}


def is_ascii(encoding: str) -> bool:
    """Whether an encoding knows no accents: a process in such a locale cannot name all files."""
    return codecs.lookup(encoding).name == "ascii"


def start_again_in_utf8() -> None:
    """Replace this process by one in Python's UTF-8 mode if it is in a locale of ASCII alone.

    There Python was kept from choosing the mode itself (``PYTHONUTF8=0``, ``PYTHONCOERCECLOCALE=0``).
    """
    if is_ascii(sys.getfilesystemencoding()):
        os.execve(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]], os.environ | UTF8)  # noqa: S606


def print_anything() -> None:
    """Let standard output write what its encoding has not as JSON writes it (``\\u00e9``), instead of failing."""
    codecs.register_error(_ESCAPED, _escape)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors=_ESCAPED)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def leave_error(folder: Path, error: OrchardError) -> int:
    """Write, in the child, what it failed with to a folder that it shares with the parent; return its exit code."""
    (folder / _ERROR).write_text(json.dumps({"class": type(error).__name__, "message": str(error)}))
    return error.exit_code


def raise_error(folder: Path) -> None:
    """Raise, in the parent, the error that the child left in the folder, if there is one."""
    if (folder / _ERROR).exists():
        error = json.loads((folder / _ERROR).read_text())
        raise getattr(errors, error["class"])(error["message"])
