"""Whenever Ctrl-C or SIGTERM comes, in whatever command: one sentence, its exit code, soon, and nothing left behind.

``MOMENTS=100`` tries as many moments of a run instead of one in each stage; ``SEED`` makes them others.
"""

import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import orchard
from chaos_table import Note

from .conftest import Result

KEPT = "orchard: interrupted; what was committed is kept, start again to go on."
STAGES = ("list", "start", "extract", "extract", "reduce", "classify", "report")
MOMENTS = int(os.environ.get("MOMENTS", len(STAGES)))
SEED = int(os.environ.get("SEED", "0"))
# A machine that runs tests has other things to do; MOMENTS=100 prints how long the longest took.
SOON = 12.0


class Command:
    """``orchard …`` as a process, whose descendants are known by a mark in their environment."""

    def __init__(self, *arguments: object, **environment: str) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchard", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | {"MARK": self._mark} | environment,
        )
        self.read: list[str] = []

    def wait_until_listening(self) -> None:
        """A handler for SIGTERM is there; it is the first thing that Orchard does."""
        status = Path(f"/proc/{self.process.pid}/status")
        while self.process.poll() is None:
            if int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> (signal.SIGTERM - 1) & 1:  # type: ignore[index]
                return
            time.sleep(0.01)

    def wait_for(self, text: str) -> bool:
        """Whether a line of the log holds `text` before the command ends."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.read.append(line)
            if text in line:
                return True
        return False

    def interrupt(self, name: signal.Signals) -> "Interrupted":
        """As a terminal does, or as Kubernetes does; unless it has ended by itself."""
        started = time.monotonic()
        if self.process.poll() is None:
            send = os.killpg if name is signal.SIGINT else os.kill
            send(self.process.pid, name)
        _, rest = self.process.communicate(timeout=120)
        seconds = time.monotonic() - started
        lines = [*self.read, *rest.splitlines()]
        said = [line.strip() for line in lines if line.strip() and not line.startswith('{"time"')]
        left = self.running()
        until = time.monotonic() + 2
        while left and time.monotonic() < until:
            time.sleep(0.05)
            left = self.running()
        return Interrupted(self.process.returncode, said, seconds, left)

    def running(self, command: str = "") -> list[str]:
        """The command lines of its processes, those that hold `command`."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._mark in environment.read_text(errors="replace"):
                    found.append((environment.parent / "cmdline").read_text(errors="replace")[:200])
            except OSError:
                continue
        return [line for line in found if command in line]


@dataclass
class Interrupted:
    code: int
    said: list[str]
    seconds: float
    left: list[str]

    def check(self, name: signal.Signals, sentence: str) -> None:
        assert (self.code, self.said, self.left) == (128 + name, [sentence], [])
        assert self.seconds < SOON


def test_a_run_ends_in_one_sentence_whenever_it_is_interrupted_and_the_next_goes_on(
    painted: Path, tmp_path: Path, record_property: Callable[[str, object], None], note: Note
) -> None:
    chance = random.Random(SEED)
    seconds: dict[signal.Signals, list[float]] = {signal.SIGINT: [], signal.SIGTERM: []}
    outputs = 1

    def start() -> Command:
        output = tmp_path / f"out-{outputs}"
        return Command("run", painted, "--output", output, "--classifiers", "linear_discriminant")

    for moment in range(MOMENTS):
        stage = STAGES[moment % len(STAGES)]
        name = (signal.SIGINT, signal.SIGTERM)[(moment + moment // len(STAGES)) % 2]
        command = start()
        command.wait_for(f'"started", "stage": "{stage}"')
        time.sleep(chance.uniform(0, 1.2 if stage != "list" else 0.05))
        ended = command.interrupt(name)
        if ended.code == 0:  # it was done before the signal
            assert (ended.said, ended.left) == ([], [])
            outputs += 1
            continue
        ended.check(name, KEPT)
        seconds[name].append(ended.seconds)
    print({name.name: f"{len(s)} interrupted, longest {max(s, default=0):.1f} s" for name, s in seconds.items()})
    record_property("seconds", str(seconds))
    for name, each in seconds.items():
        note(f"{name.name} to a run", len(each), f"one sentence, exit code {128 + name}; the next start goes on")
    command = start()
    assert not command.wait_for("Traceback")
    assert command.process.wait(120) == 0
    for output in sorted(tmp_path.iterdir()):
        Result(output, json.loads((output / "metrics.json").read_text())).assert_adds_up(90)
        assert not [path for path in (output / "_orchard" / "staging").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def finished(spark: Any, painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run left, with a model."""
    output = tmp_path_factory.mktemp("finished") / "out"
    orchard.run(spark, str(painted), str(output), classifiers="linear_discriminant")
    return output


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[str]:
    """The path of a file that leads to a cluster which never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster = {"name": "silent", "cluster": {"server": f"http://127.0.0.1:{server.getsockname()[1]}"}}
        contexts = [{"name": "silent", "context": {"cluster": "silent", "user": "nobody"}}]
        users = [{"name": "nobody", "user": {}}]
        content = {"clusters": [cluster], "contexts": contexts, "users": users, "current-context": "silent"}
        (tmp_path / "kubeconfig").write_text(json.dumps(content))
        yield str(tmp_path / "kubeconfig")


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["predict", "plan", "export", "sample", "status", "logs", "serve"])
def test_every_other_command_just_leaves(
    command: str, name: signal.Signals, finished: Path, painted: Path, kubeconfig: str
) -> None:
    folder = Path(kubeconfig).parent
    arguments: dict[str, list[str | Path]] = {
        "predict": [finished, painted],
        "plan": [painted],
        "export": [finished, "--format", "keras", "--to", folder / "model.keras"],
        "sample": [folder / "sample"],
        "status": ["fruits", "-n", "default"],
        "logs": ["fruits", "-n", "default", "--follow"],
        "serve": [finished, "--port", "0"],
    }
    started = Command(command, *arguments[command], KUBECONFIG=kubeconfig)
    started.wait_until_listening()
    time.sleep(random.Random(f"{SEED} {command} {name}").uniform(0, 2))
    ended = started.interrupt(name)
    if ended.code == 0:  # done before, or a server that was already up
        assert ended.left == []
        return
    ended.check(name, "orchard: interrupted.")
    assert not list(folder.rglob("*.keras"))


def test_ctrl_c_reaches_no_engine_that_is_starting(finished: Path) -> None:
    command = Command("serve", finished, "--port", "0")
    while not command.running("orchard.serving.engine"):
        assert command.process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)  # it imports
    ended = command.interrupt(signal.SIGINT)
    assert (ended.code, ended.said, ended.left) == (0, [], [])


def test_a_prediction_in_workers_is_stopped_like_a_run(finished: Path, painted: Path) -> None:
    command = Command("predict", finished, painted, "--spark")
    assert command.wait_for('"started", "stage": "predict"')
    time.sleep(random.Random(SEED).uniform(0, 0.5))
    command.interrupt(signal.SIGINT).check(signal.SIGINT, "orchard: interrupted.")


def test_a_second_signal_ends_at_once(painted: Path, tmp_path: Path) -> None:
    command = Command("run", painted, "--output", tmp_path / "out")
    assert command.wait_for('"started", "stage": "start"')
    time.sleep(1)
    command.process.send_signal(signal.SIGTERM)
    command.interrupt(signal.SIGTERM).check(signal.SIGTERM, KEPT)


def test_ctrl_c_in_a_terminal_leaves_it_as_it_was(painted: Path, tmp_path: Path) -> None:
    run = ["run", str(painted), "--output", str(tmp_path / "out")]
    command = ["setsid", "--ctty", sys.executable, "-m", "orchard", *run]
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    while b"extract" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 4096):
            shown += more
    except OSError:  # the end of a terminal
        pass
    os.close(terminal)
    assert process.wait(30) == 130
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert [line for line in text.splitlines() if line.strip()][-1] == KEPT
    assert "Traceback" not in text
    assert "KeyboardInterrupt" not in text
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor is back


def test_a_signal_that_another_thread_takes_is_heard() -> None:
    code = (
        "import signal, threading, time\nfrom orchard import interruption\n"
        "def command():\n"
        "    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "    return 0, None\n"
        "interruption.run(command)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (128 + signal.SIGTERM, "orchard: interrupted.\n")


def test_at_the_end_what_is_to_be_done_is_done_and_python_is_not_taken_apart() -> None:
    """Threads of libraries that still give memory back then abort the process."""
    code = (
        "import atexit, threading, time\nfrom orchard import interruption\n"
        "class Left:\n"
        "    def __del__(self):\n"
        "        print('taken apart', flush=True)\n"
        "left = Left()\n"
        "atexit.register(print, 'done')\n"
        "threading.Thread(target=lambda: (time.sleep(1), print('waited for'))).start()\n"
        "interruption.run(lambda: (print('answer') or 3, 'a sentence'))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (
        3,
        "answer\nwaited for\ndone\n",
        "orchard: a sentence\n",
    )
