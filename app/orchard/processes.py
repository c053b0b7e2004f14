"""Processes of this machine that do the tasks of a local run, without Spark.

Each has a thread of the driver's that hands it one task after the other, and starts another in its place if it dies::

    parent: function, item and attempt    -> child: calls it, answers (True, result) or (False, what went wrong)
    parent: closes its side, or is killed -> child: removes what was shared, and ends, whatever it is at

Messages are pickles, on one socket. What goes wrong is told as Spark would tell it: see `orchard.tasks.error_of`.
"""

import os
import pickle
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, suppress
from io import BufferedRWPair
from pathlib import Path
from threading import Event, Lock, Thread, local
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from orchard import child, interruption
from orchard.errors import ClusterError, OrchardError
from orchard.scratch import scratch, within
from orchard.tasks import call, given_up, marked_error
from orchard.workers import ATTEMPTS, ENVIRONMENT, Workers, begin_attempt

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
R = TypeVar("R")


_ENVIRONMENT = ENVIRONMENT | child.ONE_THREAD
"""Of a process, where this one's says nothing else; one thread each, as Spark has it."""


class WorkerDied(Exception):
    """A process has ended by itself; its text is the last line that it printed.

    Attributes:
        code: its exit code; that of a signal is negative.
    """

    def __init__(self, printed: str, code: int) -> None:
        super().__init__(printed)
        self.code = code


class Process:
    """The parent's side of one.

    Args:
        shared: the folder of shared values.
    """

    def __init__(self, shared: Path) -> None:
        ours, theirs = socket.socketpair()
        self._printed = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - closed with the process
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "orchard.processes", str(shared)],
                stdin=theirs.fileno(),
                stdout=self._printed,
                stderr=self._printed,
                **child.options(**child.unless_given(_ENVIRONMENT)),
            )
        with ours:
            self._pipe = ours.makefile("rwb")

    def __call__(self, function: Callable[[T], R], item: T, *, attempt: int = 0) -> R:
        """Return what it answers, at an attempt; the first is 0. Raises WorkerDied, or what went wrong."""
        try:
            pickle.dump((function, item, attempt), self._pipe, pickle.HIGHEST_PROTOCOL)
            self._pipe.flush()
            is_done, found = pickle.load(self._pipe)  # noqa: S301 - our own child's
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = self.end()
            raise WorkerDied(self._last_line(), code) from error
        self._printed.truncate(0)
        if not is_done:
            raise marked_error(found) or given_up(found.strip().splitlines()[-1])
        result: R = found
        return result

    def end(self) -> int:
        """Kill it, and return its exit code; what it has staged by then is not committed."""
        self._process.kill()
        code = self._process.wait()
        with suppress(OSError):
            self._pipe.close()
        return code

    def _last_line(self) -> str:
        with suppress(OSError, ValueError):
            self._printed.seek(0)
            return (self._printed.read().decode(errors="replace").strip().splitlines() or [""])[-1]
        return ""


class _SharedFile(Generic[T]):
    """A value in a file that each process reads once, and forgets before its next task when the file is gone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def value(self) -> T:
        found: T = _read(self._path)
        return found

    def unpersist(self) -> None:
        self._path.unlink(missing_ok=True)


_values: dict[Path, Any] = {}  # that this process has read


def _read(path: Path) -> Any:
    if path not in _values:
        _values[path] = pickle.loads(path.read_bytes())  # noqa: S301 - our own parent's
    return _values[path]


def _forget() -> None:
    """Forget the values that no further task needs."""
    for path in [path for path in _values if not path.exists()]:
        del _values[path]


class _Arrived:
    def __init__(self) -> None:
        self.value: list[Any] = []


class LocalWorkers(Workers):
    """Processes of this machine, one for each slot; started as they are needed.

    Args:
        slots: how many.
        spark: returns Spark's session, for what Spark alone does.
    """

    def __init__(self, slots: int, spark: "Callable[[], SparkSession] | None" = None) -> None:
        self._slots, self._spark = slots, spark
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="orchard-worker")
        self._own = local()  # of each thread: its process
        self._lock = Lock()  # of the set, and of starting
        self._processes: set[Process] = set()
        self._is_ended = Event()
        self._round = 0  # rises when what is under way is given up
        self._on_close = ExitStack()
        self._folder = self._on_close.enter_context(scratch("workers"))

    @property
    def slots(self) -> int:
        """Return how many there are."""
        return self._slots

    @property
    def master(self) -> str:
        """Return what Spark calls so many threads of this machine."""
        return f"local[{self._slots}]"

    @property
    def spark(self) -> "SparkSession":
        """Return it."""
        assert self._spark is not None
        return self._spark()

    def prepare(self, function: Callable[[int], object]) -> None:
        """Start all, and let each call `function`."""
        for slot in range(self._slots):
            self._threads.submit(self._do, function, slot, self._round)

    def share(self, value: T) -> _SharedFile[T]:
        """Write it to a file that the processes read."""
        descriptor, name = tempfile.mkstemp(dir=self._folder)
        with within(self._folder), os.fdopen(descriptor, "wb") as file:
            pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)
        return _SharedFile(Path(name))

    def close(self) -> None:
        """End all."""
        self._end()
        self._threads.shutdown(cancel_futures=True)
        self._on_close.close()

    def _new_early(self) -> _Arrived:
        return _Arrived()

    def _run(self, function: Callable[[T], R], batch: Sequence[T], early: Any) -> list[R]:
        started_in = self._round

        def do(item: T) -> R:
            result = self._do(function, item, started_in)
            if early is not None:
                early.value.append(result)
            return result

        tasks = [self._threads.submit(do, item) for item in batch]
        try:
            return [task.result() for task in tasks]
        finally:
            for task in tasks:  # of a batch that failed
                task.cancel()

    def _cancel(self, batches: Sequence[Future[Any]]) -> None:
        with self._lock:
            self._round += 1
            ended, self._processes = self._processes, set()
        for process in ended:
            process.end()
        wait(batches)

    def _ending(self) -> AbstractContextManager[object]:
        return interruption.in_order(self._end)

    def _do(self, function: Callable[[T], R], item: T, started_in: int) -> R:
        """Do a task of a round, in the process of this thread."""
        for attempt in range(ATTEMPTS):
            try:
                return self._process_of_thread(started_in)(function, item, attempt=attempt)
            except WorkerDied as error:
                self._forget_process()
                if attempt == ATTEMPTS - 1 or self._is_over(started_in):
                    raise ClusterError(_killed(str(error))) from error
            except OrchardError:
                if attempt == ATTEMPTS - 1 or self._is_over(started_in):
                    raise
        raise AssertionError  # the last attempt returns or raises

    def _is_over(self, started_in: int) -> bool:
        return self._is_ended.is_set() or started_in != self._round

    def _process_of_thread(self, started_in: int) -> Process:
        found: Process | None = getattr(self._own, "process", None)
        with self._lock:
            if self._is_over(started_in):
                raise KeyboardInterrupt
            if found is None or found not in self._processes:  # there is none yet, or it was ended with its round
                found = self._own.process = Process(self._folder)
                self._processes.add(found)
        return found

    def _forget_process(self) -> None:
        with self._lock:
            self._processes.discard(self._own.process)
        self._own.process = None

    def _end(self) -> None:
        with self._lock:
            self._is_ended.set()
            ended, self._processes = self._processes, set()
        for process in ended:
            process.end()


def _killed(said: str) -> str:
    return (
        "A worker process died four times at the same task, most likely killed for want of memory"
        f"{f' ({said})' if said else ''}: give this machine or container more, or work in fewer processes "
        "(--master local[1]), and start again to go on where it stopped."
    )


def _end_with(parent: int, shared: Path) -> None:
    """End this process when its parent's side is closed, whatever it is at; see `_leave`."""
    hung_up = select.poll()
    hung_up.register(parent, 0)  # nothing but the end
    hung_up.poll()
    _leave(shared)


def _leave(shared: Path) -> NoReturn:
    """Remove what was shared, as the parent was killed before it could, and end."""
    shutil.rmtree(shared, ignore_errors=True)
    os._exit(0)


class _WithoutPandas:
    """Finds no pandas: PyArrow imports it before the first array (0.4 s and 40 MB a process), and no task uses it."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("No task needs pandas.", name=name)


def main(shared: Path) -> None:
    """Do what comes through standard input, a socket; `shared` is the folder of shared values."""
    sys.meta_path.insert(0, _WithoutPandas())
    descriptor = os.dup(0)
    Thread(target=_end_with, args=(descriptor, shared), name="orchard-parent", daemon=True).start()
    pipe = socket.socket(fileno=descriptor).makefile("rwb")
    try:
        while True:
            _answer(pipe)
    except (EOFError, ConnectionError):  # no other OSError, which may be of what is imported, while the parent lives
        _leave(shared)


def _answer(pipe: BufferedRWPair) -> None:
    """Do what comes next; raises EOFError or ConnectionError when the parent is gone."""
    function, item, attempt = pickle.load(pipe)  # noqa: S301 - the parent's
    _forget()
    begin_attempt(attempt)
    answer: tuple[bool, Any]
    try:
        answer = True, call(function, item)
    except Exception:
        answer = False, traceback.format_exc()
    pickle.dump(answer, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


if __name__ == "__main__":
    from orchard import processes  # noqa: PLW0406 - shared values are of that module, and this is its double

    processes.main(Path(sys.argv[1]))
