"""A process of our own gets its request by a folder, and leaves there its results, its error, or its last words."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchard import child
from orchard.errors import UsageError

PROGRAM = """
import sys
from pathlib import Path
from orchard import child
from orchard.errors import UsageError

folder = Path(sys.argv[1])
asked = child.request_of(folder)
if asked["does"] == "fail":
    sys.exit(child.leave_error(folder, UsageError("Not so: give another.")))
if asked["does"] == "end":
    print("out of memory")
    sys.exit(7)
(folder / "result").write_text(asked["word"])
"""


@dataclass(frozen=True)
class Request:
    does: str
    word: str = "pêche"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_program"


def test_a_child_does_what_it_is_asked_for(program: str, tmp_path: Path) -> None:
    assert child.start(program, tmp_path, Request("work")).wait(60) == 0
    child.raise_error(tmp_path)
    assert (tmp_path / "result").read_text() == "pêche"


def test_a_childs_error_is_its_parents_until_the_next_is_started(program: str, tmp_path: Path) -> None:
    assert child.start(program, tmp_path, Request("fail")).wait(60) == UsageError.exit_code
    with pytest.raises(UsageError, match="Not so: give another"):
        child.raise_error(tmp_path)
    child.start(program, tmp_path, Request("work")).wait(60)
    child.raise_error(tmp_path)


def test_a_child_that_breaks_off_is_told_of_by_its_last_words(program: str, tmp_path: Path) -> None:
    process = child.start(program, tmp_path, Request("end"))
    assert child.last_words(tmp_path, process.wait(60)) == "broke off with code 7 (out of memory)"


def test_of_a_child_that_was_killed_the_last_line_is_not_given_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("oneDNN custom operations are on\n")
    killed = "broke off with code -9 (killed, most likely for want of memory)"
    assert child.last_words(tmp_path, -9) == killed


def test_what_a_child_prints_can_be_read_as_it_comes(program: str, tmp_path: Path) -> None:
    process = child.start(program, tmp_path, Request("end"), stdout=subprocess.PIPE)
    assert process.communicate(timeout=60)[0] == b"out of memory\n"
    assert child.last_words(tmp_path, process.returncode) == "broke off with code 7 (no output)"
