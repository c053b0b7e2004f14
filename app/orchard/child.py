"""Python processes of Orchard's own modules: they find the package, and hand their errors to the parent."""

import json
import os
from pathlib import Path

import orchard
from orchard import errors
from orchard.errors import OrchardError

_ERROR = "error.json"


def environment(**variables: str) -> dict[str, str]:
    """Return this process' environment with `variables`, in which ``python -m orchard.…`` finds this very package."""
    root = str(Path(orchard.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | variables


def leave_error(folder: Path, error: OrchardError) -> int:
    """Write, in the child, what it failed with to a folder that it shares with the parent; return its exit code."""
    (folder / _ERROR).write_text(json.dumps({"class": type(error).__name__, "message": str(error)}))
    return error.exit_code


def raise_error(folder: Path) -> None:
    """Raise, in the parent, the error that the child left in the folder, if there is one."""
    if (folder / _ERROR).exists():
        error = json.loads((folder / _ERROR).read_text())
        raise getattr(errors, error["class"])(error["message"])
