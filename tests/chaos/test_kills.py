"""Whatever is killed, and whenever: the next start goes on, nothing is lost and nothing is there twice."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchard.images.sample import write_sample
from orchard.layout import Dataset
from orchard.output import Output

from .conftest import Note, Result, seeds

FLAGS = ["--classifiers=logistic_regression", "--components=8", "--precision=float32", "--master=local[2]"]
SECONDS = 180
"""A run that takes longer hangs."""


@contextmanager
def started(source: str | Path, output: str | Path, *flags: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`orchard run` in a process group of its own, which does not survive the block."""
    command = [sys.executable, "-m", "orchard", "run", str(source), "--output", str(output), *FLAGS, *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | variables,
    )
    try:
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()


def descendants(process: int) -> dict[int, str]:
    """Return the process' children, their children and so on, with their command lines; the eldest first."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    new = [process]
    while new:
        new = [child for child, parent in parents.items() if parent in new and child in commands]
        found |= {child: commands[child] for child in new}
    return found


def jvm(process: subprocess.Popen[str]) -> int | None:
    return next((pid for pid, line in descendants(process.pid).items() if "SparkSubmit" in line), None)


def worker(process: subprocess.Popen[str]) -> int | None:
    """Return one of the Python processes that do the tasks: the daemon's children."""
    daemons = [pid for pid, line in descendants(process.pid).items() if "pyspark.daemon" in line]
    workers = [child for daemon in daemons[:1] for child in descendants(daemon)]
    return max(workers, default=None)


def driver(process: subprocess.Popen[str]) -> int:
    return process.pid


KILLS: dict[str, tuple[Callable[[subprocess.Popen[str]], int | None], signal.Signals, set[int]]] = {
    "driver killed": (driver, signal.SIGKILL, {-signal.SIGKILL}),
    "JVM killed": (jvm, signal.SIGKILL, {4}),
    "worker killed": (worker, signal.SIGKILL, {0}),
    "SIGINT": (driver, signal.SIGINT, {130}),
    "SIGTERM": (driver, signal.SIGTERM, {143}),
}
"""What -> who, by which signal, and the exit codes that are right unless the run had just ended."""


def kill(process: subprocess.Popen[str], who: Callable[[subprocess.Popen[str]], int | None], how: int) -> None:
    """Send the signal as soon as there is someone to get it, unless the run ends first."""
    while process.poll() is None:
        if target := who(process):
            try:
                os.kill(target, how)
            except ProcessLookupError:
                continue
            return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """720 drawn fruits, enough for several commits, and two broken files."""
    folder = tmp_path_factory.mktemp("drawn")
    write_sample(folder, train=60, test=20)
    return folder


@pytest.fixture(scope="module")
def whole(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, float]:
    """What a run comes to that nothing happens to, and its seconds."""
    out = tmp_path_factory.mktemp("whole") / "out"
    begun = time.monotonic()
    with started(drawn, out) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return Result(str(out)), time.monotonic() - begun


@pytest.mark.parametrize("seed", seeds(1, 12))
def test_kills_at_any_moment(drawn: Path, whole: tuple[Result, float], tmp_path: Path, note: Note, seed: int) -> None:
    chance = random.Random(seed)
    undisturbed, seconds = whole
    out = tmp_path / "out"
    done: set[str] = set()
    for what in chance.sample(list(KILLS), len(KILLS)):
        who, how, expected = KILLS[what]
        with started(drawn, out) as process:
            time.sleep(chance.uniform(0, seconds))
            kill(process, who, how)
            _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode in {0, *expected}, f"{what}: {process.returncode}, {errors}"
        assert "Traceback" not in errors, f"{what}: {errors}"
        if out.exists():
            paths = set(Result(str(out), finished=False)[Dataset.INVENTORY]["path"].to_pylist())
            assert done <= paths, f"{what}: committed images are lost"
            done = paths
        note(what, 1, "the next start goes on; nothing lost, nothing twice")
    with started(drawn, out) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    Result(str(out)).assert_same(undisturbed)
    assert not list(Output(str(out)).storage.list("_orchard/staging"))
