"""Whatever is in a file, Orchard says what it is, soon and in little memory."""

import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .conftest import SEED, TIMES, Note

CASE_SECONDS = 20
"""A case that takes longer hangs; it is much, for the machine may be busy."""
START_SECONDS = 60


def fuzz(target: str, count: int) -> tuple[Counter[str], list[str], int]:
    """Do `count` cases; return how many came to what, what went wrong, and the memory that it took (MiB)."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    memory = number = 0
    while number < count and len(wrong) < 20:
        command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), target]
        command += map(str, (SEED, number, count - number))
        environment = os.environ | {"PYTHONWARNINGS": "ignore"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), True)
            selector = selectors.DefaultSelector()
            selector.register(process.stdout, selectors.EVENT_READ)
            started, buffer = False, b""
            while True:
                if not selector.select(CASE_SECONDS if started else START_SECONDS):
                    wrong.append(f"case {number} hangs")
                    process.kill()
                    break
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    break
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    word, _, rest = line.decode(errors="replace").partition(" ")
                    if word == "begin":
                        started, number = True, int(rest)
                    elif word == "end":
                        outcomes[rest.partition(":")[0]] += 1
                        if rest.startswith("FAILED"):
                            wrong.append(f"case {number}: {rest}")
                    elif word == "memory":
                        memory = max(memory, int(rest))
            code = process.wait()
        if code not in (0, -signal.SIGKILL):
            wrong.append(f"case {number} ends the process with {code}")
        number += 1
    return outcomes, wrong, memory


@pytest.mark.parametrize(
    ("target", "count", "mebibytes"),
    [("images", 1500, 800), ("manifests", 300, 800)],
)
def test_mutated(target: str, count: int, mebibytes: int, note: Note) -> None:
    outcomes, wrong, memory = fuzz(target, count * TIMES)
    assert wrong == []
    assert memory < mebibytes
    assert outcomes.total() == count * TIMES
    for outcome, times in outcomes.most_common():
        note(f"mutated {target}", times, outcome)
