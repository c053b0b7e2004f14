"""A command that is interrupted leaves nothing behind, whatever its threads begin meanwhile."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BUSY = """
import subprocess, sys
from threading import Thread
from orchard import interruption
from orchard.scratch import scratch

def begin():
    while True:
        with scratch("busy"):
            child = subprocess.Popen([sys.executable, "-S", "-c", "input()", sys.argv[1]], stdin=subprocess.PIPE,
                                     start_new_session=True)
            child.wait()

def command():
    for _ in range(3):
        Thread(target=begin, daemon=True).start()
    print("begun", flush=True)
    begin()

interruption.run(command)
"""


def running(mark: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_threads_that_go_on_begin_nothing_that_outlives_the_command(tmp_path: Path, name: signal.Signals) -> None:
    """Each child that is ended was replaced at once; one was left now and then by a thread on a busy machine."""
    mark = f"mark-{os.getpid()}-{name}"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY, mark], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(0.3)
    process.send_signal(name)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (128 + name, "orchard: interrupted.\n")
    assert running(mark) == []
    assert list(tmp_path.iterdir()) == []
