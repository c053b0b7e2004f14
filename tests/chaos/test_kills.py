"""Whatever is killed, and whenever: the next start goes on, nothing is lost and nothing is there twice."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from chaos_table import Note, seeds
from orchard.layout import Dataset
from orchard.output import Output
from results import assert_same_results

from .conftest import SECONDS, Process, Result, Whole, descendants, started


def jvm(process: Process) -> int | None:
    return next((pid for pid, line in descendants(process.pid).items() if "SparkSubmit" in line), None)


def worker(process: Process) -> int | None:
    """Return one of the Python processes that do the tasks: the driver's own, or the children of Spark's daemon."""
    processes = descendants(process.pid)
    own = [pid for pid, line in processes.items() if "orchard.processes" in line]
    daemons = [pid for pid, line in processes.items() if "pyspark.daemon" in line]
    return max(own or [child for daemon in daemons[:1] for child in descendants(daemon)], default=None)


def driver(process: Process) -> int:
    return process.pid


KILLS: dict[str, tuple[Callable[[Process], int | None], int]] = {
    "driver killed": (driver, -signal.SIGKILL),
    "JVM killed": (jvm, 4),
    "worker killed": (worker, 0),
}
"""What -> who, and the exit code that is right unless the run had just ended."""


def kill(process: Process, who: Callable[[Process], int | None]) -> None:
    """Kill who it is as soon as there is one, unless the run ends first."""
    while process.poll() is None:
        if target := who(process):
            try:
                os.kill(target, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return
        time.sleep(0.02)


@pytest.mark.parametrize("seed", seeds(1, 12))
def test_kills_at_any_moment(drawn: Path, whole: Whole, tmp_path: Path, note: Note, seed: int) -> None:
    chance = random.Random(seed)
    out = tmp_path / "out"
    done: set[str] = set()
    for what in chance.sample(list(KILLS), len(KILLS)):
        who, expected = KILLS[what]
        with started(drawn, out) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, whole.seconds))
            kill(process, who)
            _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode in (0, expected), f"{what}: {process.returncode}, {errors}"
        assert "Traceback" not in errors, f"{what}: {errors}"
        if out.exists():
            paths = set(Result(str(out), finished=False)[Dataset.INVENTORY]["path"].to_pylist())
            assert done <= paths, f"{what}: committed images are lost"
            done = paths
        note(what, 1, "the next start goes on; nothing lost, nothing twice")
    with started(drawn, out) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    Result(str(out)).assert_same(whole.result)
    assert_same_results(out, whole.folder)
    assert not list(Output(str(out)).storage.list("_orchard/staging"))
