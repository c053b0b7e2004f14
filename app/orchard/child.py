"""Child processes that run Orchard's Python: they find the package, use UTF-8, and send their errors to the parent.

Those that do one thing and end share a folder with the parent::

    parent: request.json, what else it needs  ->  child: its results, or error.json; log: what libraries print
"""

import codecs
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orchard
from orchard import errors
from orchard.errors import OrchardError
from orchard.scratch import full, is_full

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_REQUEST, _ERROR, _LOG = "request.json", "error.json", "log"
_ESCAPED = "orchard-escaped"

KERAS = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
"""In the environment of a process that takes Keras: its backend, unless another is named; no chatter, no GPU."""

UTF8 = {"PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}
"""In the environment of a process, Python's or Java's: it names files in UTF-8, whatever the locale."""


ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""In the environment of processes of which there is one for each core: NumPy's library starts no threads of its own."""


def unless_given(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables`, with the values that this process' own environment has for them."""
    return {name: os.environ.get(name, value) for name, value in variables.items()}


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


def start(
    module: str,
    folder: Path,
    request: "DataclassInstance",
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start a process that does what a request asks for.

    Args:
        module: whose ``main`` it calls with the folder.
        folder: that it shares with this process.
        request: the process gets it as JSON, see `request_of`.
        stdin: as of `subprocess.Popen`.
        stdout: likewise; None: what it prints goes to its log.
        variables: in its environment.
    """
    (folder / _REQUEST).write_text(json.dumps(asdict(request)))
    (folder / _ERROR).unlink(missing_ok=True)
    with (folder / _LOG).open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, str(folder)],
            stdin=stdin,
            stdout=log if stdout is None else stdout,
            stderr=log,
            **options(**variables),
        )


def request_of(folder: Path) -> dict[str, Any]:
    """Return, in the child, what it is asked for."""
    found: dict[str, Any] = json.loads((folder / _REQUEST).read_text())
    return found


def last_words(folder: Path, code: int | None) -> str:
    """Return how a child ended that left neither results nor an error: its exit code, and its log's last line.

    Of one that was killed the last line tells of its work, not of its end. On a full disk there may be none.
    """
    if is_full(folder):
        return f"broke off with code {code} ({full(folder)})"
    if code == -signal.SIGKILL:
        return f"broke off with code {code} (killed, most likely for want of memory)"
    lines = (folder / _LOG).read_text(errors="replace").strip().splitlines() or ["no output"]
    return f"broke off with code {code} ({lines[-1]})"


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
