"""Whatever is in a file, Orchard says what it is, soon and in little memory."""

import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from chaos_table import SEED, TIMES, Note
from orchard import child

from .conftest import Whole

CASE_SECONDS = 20
"""A case that takes longer hangs; it is much, for the machine may be busy."""
START_SECONDS = 60


def fuzz(target: str, count: int, **variables: str) -> tuple[Counter[str], list[str], int]:
    """Do `count` cases; return how many came to what, what went wrong, and the memory that it took (MiB)."""
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    memory = number = 0
    while number < count and len(wrong) < 20:
        command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), target]
        command += map(str, (SEED, number, count - number))
        environment = child.environment(PYTHONWARNINGS="ignore", **variables)
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


def assert_nothing_wrong(found: tuple[Counter[str], list[str], int], count: int, mebibytes: int) -> None:
    outcomes, wrong, memory = found
    assert wrong == []
    assert outcomes.total() == count
    assert memory < mebibytes


@pytest.mark.parametrize(
    ("target", "count", "mebibytes"),
    [("images", 2500, 800), ("bombs", 10, 1300), ("manifests", 500, 800), ("cards", 500, 800)],
)
def test_files_of_any_content(target: str, count: int, mebibytes: int, note: Note) -> None:
    found = fuzz(target, count * TIMES)
    assert_nothing_wrong(found, count * TIMES, mebibytes)
    for outcome, times in found[0].most_common():
        note(target if target == "bombs" else f"mutated {target}", times, outcome)


@pytest.mark.chaos
def test_damaged_outputs(whole: Whole, note: Note) -> None:
    count = 120 * TIMES
    found = fuzz("outputs", count, FUZZ_OUTPUT=str(whole.folder))
    assert_nothing_wrong(found, count, 1000)
    for outcome, times in found[0].most_common():
        note("damaged files of an output", times, outcome)
