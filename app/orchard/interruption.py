"""Ctrl-C and SIGTERM: one way to end any command at any moment.

A command runs in a thread of its own, so that no signal breaks into what it is doing; the main thread waits for both.
When a signal comes, nothing new is begun (`check`), what runs is stopped and what must end in order gets its time
(`in_order`); then the process leaves: with its children, one sentence and exit code 130 or 143.
"""

import atexit
import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import NoReturn, TypeVar

from orchard.errors import in_driver_pod

T = TypeVar("T")

SECONDS = {signal.SIGINT: 3.5, signal.SIGTERM: 20.0}
"""How long what must end in order may take; Kubernetes kills after 30 s, and a person at the keyboard waits."""
_CHILDREN_SECONDS = 1.0
_AGAIN_SECONDS = 0.25
_LOOK_SECONDS = 0.1
_BEGINNINGS = ("subprocess.Popen", "tempfile.mkdtemp")
"""Audit events of Python."""

_asked = Event()
_open: dict[object, Callable[[], object] | None] = {}
_sentence = "interrupted."
_standard_error = 2
_folders: set[Path] = set()
_displays: list[tuple[Callable[[int], object], Callable[[], object]]] = []


def asked() -> bool:
    """Return whether the command is to end."""
    return _asked.is_set()


def check() -> None:
    """Raise KeyboardInterrupt if the command is to end; called where something new would begin."""
    if _asked.is_set():
        raise KeyboardInterrupt


def wait(seconds: float) -> None:
    """Wait, but no longer than until the command is to end."""
    _asked.wait(seconds)


def checked(items: Iterable[T]) -> Iterator[T]:
    """Yield `items`, with a `check` before each."""
    for item in items:
        check()
        yield item


def say(sentence: str) -> None:
    """Choose what is said if the command is interrupted from now on."""
    global _sentence  # noqa: PLW0603 - a process has one command
    _sentence = sentence


def show_with(move_to: Callable[[int], object], end: Callable[[], object]) -> None:
    """Register what shows a command's progress on standard error.

    Args:
        move_to: makes it write to another file descriptor from now on.
        end: leaves the terminal as it was.
    """
    _displays.append((move_to, end))


@contextmanager
def in_order(stop: Callable[[], object] | None = None) -> Iterator[None]:
    """Let what is inside end in order if the command is interrupted; without it a command just leaves.

    Args:
        stop: makes what is inside end soon; called again and again from another thread, until it has ended.

    Raises:
        KeyboardInterrupt: the command is to end already.
    """
    token = object()
    _open[token] = stop
    try:
        check()
        yield
    finally:
        del _open[token]


def remove(folder: Path) -> None:
    """Remove a temporary folder when the command is interrupted; whoever made it removes it otherwise."""
    _folders.add(folder)


def removed(folder: Path) -> None:
    """Forget a folder of `remove` that is gone."""
    _folders.discard(folder)


def listen() -> None:
    """From now on, leave at a signal: as nothing has begun yet, nothing is to be ended."""
    for name in SECONDS:
        signal.signal(name, lambda number, _: _leave(signal.Signals(number)))


def run(command: Callable[[], tuple[int, str | None]], *, in_main_thread: bool = False) -> NoReturn:
    """Run a command to its end or to a signal, and leave the process.

    Args:
        command: returns the exit code and, if something went wrong, the sentence that says what.
        in_main_thread: it takes signals itself, as soon as it has begun its work.
    """
    events: SimpleQueue[signal.Signals | tuple[int, str | None]] = SimpleQueue()
    listen()
    if in_main_thread:
        event: signal.Signals | tuple[int, str | None] = command()
    else:
        for name in SECONDS:
            signal.signal(name, lambda number, _: events.put(signal.Signals(number)))
        Thread(target=lambda: events.put(command()), name="orchard-command", daemon=True).start()
        event = _first(events)
    if isinstance(event, signal.Signals):
        _wait(events, until=time.monotonic() + SECONDS[event])
        _leave(event)
    for name in SECONDS:  # done: there is nothing left to interrupt
        signal.signal(name, signal.SIG_IGN)
    code, sentence = event
    if sentence is not None:
        _tell(sentence)
    _end(code)


def _end(code: int) -> NoReturn:
    """Leave as `sys.exit` does, but do not take Python apart.

    Threads of libraries such as pyarrow's may still give Python's memory back. Up to Python 3.13 they are stopped then
    in the middle of C++ that must not be, and the process aborts.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it may be closed
            stream.flush()
    os._exit(code)


def _first(events: "SimpleQueue[T]") -> T:
    """Return the first event; look up now and then, for a signal that interrupts another thread does not wake this."""
    while True:
        with contextlib.suppress(Empty):
            return events.get(timeout=_LOOK_SECONDS)


def _wait(events: "SimpleQueue[signal.Signals | tuple[int, str | None]]", until: float) -> None:
    """Ask the command to end, and wait until it has, or need not be waited for, or somebody asks a second time."""
    if "--debug" not in sys.argv:
        _mute_others()
    _asked.set()
    Thread(target=_stop, name="orchard-stop", daemon=True).start()
    while _open and time.monotonic() < until:
        with contextlib.suppress(Empty):
            events.get(timeout=0.02)
            return


def _mute_others() -> None:
    """Keep what others print when they are stopped from standard error; Orchard's log and bars go on."""
    global _standard_error  # noqa: PLW0603 - as above
    with contextlib.suppress(OSError):  # it may be closed
        _standard_error = os.dup(2)
        for move_to, _ in _displays:
            move_to(_standard_error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _stop() -> None:
    while True:
        for stop in filter(None, list(_open.values())):
            with contextlib.suppress(Exception):
                stop()
        time.sleep(_AGAIN_SECONDS)


def _leave(name: signal.Signals) -> NoReturn:
    for other in SECONDS:
        signal.signal(other, signal.SIG_IGN)
    sys.addaudithook(_hold)
    flush = Thread(target=sys.stdout.flush, daemon=True)  # nobody may read it
    flush.start()
    for _ in range(2):  # what a thread was beginning at that very moment is there by the second time
        end_children()
        for folder in _folders.copy():
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
    flush.join(0.1)
    for _, end in _displays:
        with contextlib.suppress(Exception):
            end()
    _tell(_sentence)
    os._exit(128 + name)


def _hold(event: str, _: object) -> None:
    """Hold a thread that begins a process or a temporary folder, which would outlive this process."""
    if event in _BEGINNINGS:
        time.sleep(max(SECONDS.values()))


def _tell(sentence: str) -> None:
    with contextlib.suppress(OSError):
        os.write(_standard_error, f"orchard: {sentence}\n".encode(errors="backslashreplace"))
        if in_driver_pod():  # the pod's status says why the container ended
            Path("/dev/termination-log").write_text(sentence)


def end_children(*, seconds: float = _CHILDREN_SECONDS) -> None:
    """End the processes that this one started, and theirs: first by SIGTERM, after some seconds by SIGKILL."""
    sessions: set[int] = set()
    for how in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + seconds
        for process in _descendants(sessions):
            with contextlib.suppress(OSError):
                os.kill(process, how)
        while _descendants(sessions) and time.monotonic() < until:
            time.sleep(0.02)


def _descendants(sessions: set[int]) -> list[int]:
    """Return this process' children and what runs in their sessions, which it adds to `sessions`.

    None without /proc, where children end with their standard input.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            state, parent, _, session, *_ = stat.read_text(errors="replace").rpartition(")")[2].split()
            found.append((int(stat.parent.name), state, int(parent), int(session)))
    sessions |= {pid for pid, _, parent, session in found if parent == os.getpid() and session == pid}
    return [p for p, state, parent, s in found if (parent == os.getpid() or s in sessions) and state not in "ZX"]
