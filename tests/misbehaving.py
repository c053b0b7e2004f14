"""What tasks do in tests: fail, die, and remember that they were tried. Workers import it by name."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchard import processes, workers


def raise_error(error: Exception) -> int:
    raise error


def kill_own_process(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_first(attempts: Path, number: int) -> int:
    """Die at the first three attempts."""
    if len(list(attempts.iterdir())) < 3:
        (attempts / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_unless_another_has(number: int) -> int:
    """Die at the first attempt."""
    if not workers.has_failed_before():
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def say_whether_another_has_failed(_: object) -> bool:
    return workers.has_failed_before()


def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def length_and_process(shared: Any, _: int) -> tuple[int, int, int]:
    """The length of a shared value, where it is in memory, and in which process."""
    return len(shared.value), id(shared.value), os.getpid()


def length_and_held(shared: Any, _: int) -> tuple[int, int]:
    """The length of a shared value, and how many this process has."""
    return len(shared.value), len(processes._values)


def say(text: str) -> None:
    """Print to standard error, and die."""
    os.write(2, text.encode())
    os._exit(1)


def make_array(values: list[int]) -> bool:
    """Make an Arrow array of them, and say whether pandas was imported."""
    assert pa.array(values).to_pylist() == values
    return "pandas" in sys.modules
