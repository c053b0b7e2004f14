"""Work on Spark: the one place that submits it, stops it when the command ends, and says why it failed.

A worker's error travels as its class and its arguments in one word of the text that Spark makes of it, so that the
driver raises what the worker raised. Everything else that goes wrong on Spark becomes a sentence here.
"""

import base64
import contextlib
import json
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pyarrow as pa

from orchard import errors, interruption
from orchard.cluster import executors
from orchard.errors import ClusterError, OrchardError, file_failure, first_line, is_of_file
from orchard.workers import Early, Shared, Workers, begin_attempt

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import DataFrame, Row, SparkSession

T = TypeVar("T")
R = TypeVar("R")

_TAG = "orchard"
_AGAIN_SECONDS = 0.2
_MARK = "orchard-error:"
_MARKED = re.compile(rf"{_MARK}([\w=-]+)")
_GUESS = "most likely for want of memory"
_AGAIN = "and start again to go on where it stopped"
_NO_ROOM = (
    "give executors more (executor.memoryOverhead, --executor-memory-overhead; of disk executor.ephemeralStorage)"
)

# What Spark says, and what it means; the first that fits.
_SENTENCES = [
    (
        r"SparkContext (was|has been) shut ?down|stopped SparkContext",
        f"Spark was stopped while it worked: look why, {_AGAIN}.",
    ),
    (
        r"cancelled as part of cancellation of all jobs",  # by `executors`, or by whoever has a session of his own
        f"Spark's jobs were cancelled, in a cluster because the executors' set was deleted: see who did it, {_AGAIN}.",
    ),
    (
        r"java\.lang\.OutOfMemoryError",
        "Spark's JVM ran out of memory: give it more (--driver-memory; in a cluster executor.memory, "
        f"--executor-memory, too) {_AGAIN}.",
    ),
    (
        r"Python worker (exited|crashed)|MemoryError",
        f"Spark gave up a task: its Python worker was killed, {_GUESS}; {_NO_ROOM} {_AGAIN}.",
    ),
    (
        r"ExecutorLostFailure|Executor heartbeat timed out",
        f"Spark gave up a task: its executors were lost, {_GUESS}; {_NO_ROOM} {_AGAIN}.",
    ),
    (
        r"No space left on device",
        f"A disk of Spark's is full: make room, or name a larger one with spark.local.dir, {_AGAIN}.",
    ),
    (
        r"spark\.driver\.maxResultSize",
        "The workers' results are larger than Spark allows: raise --spark-conf spark.driver.maxResultSize=2g.",
    ),
    (
        r"No module named '(?P<module>[\w.]+)'",
        "The workers' Python lacks {module}: let PYSPARK_PYTHON name the Python that runs orchard, "
        "or take Orchard's image of this version for the executors.",
    ),
    (
        r"PYTHON_VERSION_MISMATCH|Python in worker has different version",
        "The workers run another version of Python: let PYSPARK_PYTHON name the Python that runs orchard.",
    ),
]


class Appending:
    """How Spark's accumulator adds up results; it takes one attempt's for each task that has ended."""

    def zero(self, _: list[Any]) -> list[Any]:
        """Begin with none."""
        return []

    def addInPlace(self, results: list[Any], more: list[Any]) -> list[Any]:  # noqa: N802 - Spark's
        """Append."""
        results.extend(more)
        return results


class SparkWorkers(Workers):
    """Spark's executors.

    Args:
        spark: returns Spark's session, once it is up.
    """

    def __init__(self, spark: "Callable[[], SparkSession]") -> None:
        self._spark = spark
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="orchard-workers")

    @property
    def slots(self) -> int:
        """Return Spark's own count, which follows the executors."""
        with at_work(self._context):
            return int(self._context.defaultParallelism)

    @property
    def master(self) -> str:
        """Return the URL."""
        return str(self._context.master)

    @property
    def spark(self) -> "SparkSession":
        """Return the session that they are of."""
        return self._spark()

    @property
    def _context(self) -> "SparkContext":
        return self.spark.sparkContext

    def prepare(self, function: Callable[[int], object]) -> None:
        """Let Spark's Python workers, as many as there are slots, call `function` as soon as they are there."""
        self._starter.submit(lambda: self.run(function, range(self.slots)))

    def share(self, value: T) -> Shared[T]:
        """Return a broadcast."""
        with at_work(self._context):
            return cast(Shared[T], self._context.broadcast(_AsBytes(value)))

    def run(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Run one job of Spark, with one task an item."""
        with at_work(self._context):
            found: list[R] = self._context.parallelize(items, len(items)).map(partial(_call, function)).collect()
        return found

    def merge(self, function: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R]) -> R:
        """Merge in the executors, too."""
        with at_work(self._context):
            merged: R = self._context.parallelize(items, len(items)).map(partial(_call, function)).treeReduce(merge)
        return merged

    def close(self) -> None:
        """Leave Spark to its session, and wait for nothing: it may still wait for executors."""
        self._starter.shutdown(wait=False, cancel_futures=True)

    def _new_early(self) -> Early:
        return cast(Early, self._context.accumulator([], Appending()))

    def _run(self, function: Callable[[T], R], batch: Sequence[T], early: Early | None) -> list[R]:
        return self.run(function if early is None else partial(_tell, function, early), batch)

    def _cancel(self, batches: Sequence[Future[Any]]) -> None:
        cancel(self._context, batches)

    def _ending(self) -> AbstractContextManager[object]:
        return nullcontext()  # each `run` has it


class _AsBytes:
    """Pickles a value as plain bytes: PySpark cannot encrypt a broadcast of arrays, which pickle writes as buffers."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (pickle.dumps(self._value, pickle.HIGHEST_PROTOCOL),)


def _tell(function: Callable[[T], R], early: Any, item: T) -> R:
    """Return the function's result, and also report it to the driver when its task ends."""
    result = function(item)
    early.add([result])
    return result


def map_batches(
    frame: "DataFrame", function: Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]], schema: Any
) -> "DataFrame":
    """Return the lazy rows that `function` makes in the workers of a partition's Arrow batches."""
    return frame.mapInArrow(partial(_call_on_batches, function), schema)


def collect(frame: "DataFrame") -> "list[Row]":
    """Return the rows of `frame`; see `run` for errors."""
    with at_work(frame.sparkSession.sparkContext):
        rows: list[Row] = frame.collect()
    return rows


@contextmanager
def at_work(context: "SparkContext") -> Iterator[None]:
    """Have Spark's errors as Orchard's, and its jobs stopped when the command is to end, during a ``with`` block.

    Raises:
        OrchardError: what a worker raised four times.
        ClusterError: Spark gave up.
        KeyboardInterrupt: the command is to end.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    with interruption.in_order(partial(cancel, context)):
        tagged = False
        try:
            tagged = _TAG not in context.getJobTags()
            if tagged:
                context.addJobTag(_TAG)
            yield
        except (Py4JError, PySparkException, ConnectionError, EOFError) as error:
            interruption.check()
            raise error_of(error) from error
        finally:
            if tagged:
                with contextlib.suppress(Exception):  # Spark may be gone
                    context.removeJobTag(_TAG)
    interruption.check()


def cancel(context: "SparkContext", jobs: Iterable[Future[Any]] = ()) -> None:
    """End what `at_work` has under way; again and again, for one that is only just handed out escapes.

    Args:
        context: Spark's.
        jobs: that are waited for.
    """
    while True:
        with contextlib.suppress(Exception):  # Spark may be gone, and the jobs with it
            context.cancelJobsWithTag(_TAG)
        if not wait(jobs, timeout=_AGAIN_SECONDS).not_done:
            return


def error_of(error: Exception) -> OrchardError:
    """Return what an exception of Spark's means: the worker's own error, or a sentence with the next step."""
    try:
        text = str(error)
    except Exception:  # py4j asks the JVM for it
        text = ""
    if marked := marked_error(text):
        return marked
    for pattern, sentence in _SENTENCES:
        if found := re.search(pattern, text):
            known = executors.last_trouble()  # better than a guess
            told = sentence.replace(_GUESS, f"as {known.rpartition(': ')[0]}") if known else sentence
            return ClusterError(told.format(**found.groupdict()))
    if (
        not text
        or isinstance(error, (OSError, EOFError))
        or "Java side" in text
        or "while sending or receiving" in text
    ):
        return ClusterError(
            "Spark's JVM ended while it worked, most likely killed for want of memory: "
            "give the driver's machine or container more (driver.memoryOverhead, or of a driver that tunes "
            f"tune.resources.memoryOverhead; --driver-memory-overhead) {_AGAIN}."
        )
    cause = next((line.strip() for line in reversed(text.splitlines()) if re.match(r"\s*[\w.]*Error\b", line)), None)
    return given_up(cause or first_line(error))


def given_up(cause: str) -> ClusterError:
    """Return the error of a task that failed `orchard.workers.ATTEMPTS` times of what is none of Orchard's errors."""
    return ClusterError(f"A task was given up: {cause}; start again to go on where it stopped (--debug shows all).")


def marked_error(text: str) -> OrchardError | None:
    """Return the error of Orchard's that a `TaskFailed` had in its text; None: it has none."""
    found = _MARKED.search(text)
    return _unpacked(found[1]) if found else None


class TaskFailed(Exception):
    """Ends a task with an error of Orchard's; its text is for `error_of`."""


def call(function: Callable[[T], R], item: T) -> R:
    """Call `function` in a worker; raises `TaskFailed` for an error of Orchard's or of a file."""
    with _marked():
        return function(item)


def _call(function: Callable[[T], R], item: T) -> R:
    """Do as `call` in one of Spark's workers."""
    from pyspark import TaskContext

    context = TaskContext.get()
    begin_attempt(context.attemptNumber() if context is not None else 0)
    return call(function, item)


def _call_on_batches(
    function: Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    with _marked():
        yield from function(batches)


@contextmanager
def _marked() -> Iterator[None]:
    try:
        yield
    except OrchardError as error:
        raise TaskFailed(_packed(error)) from error
    except OSError as error:
        if not is_of_file(error):
            raise
        raise TaskFailed(_packed(file_failure(error))) from error


def _packed(error: OrchardError) -> str:
    data = json.dumps({"class": type(error).__name__, "args": error.args}, default=str)
    return _MARK + base64.urlsafe_b64encode(data.encode()).decode()


def _unpacked(word: str) -> OrchardError:
    data = json.loads(base64.urlsafe_b64decode(word))
    kind = getattr(errors, data["class"], OrchardError)
    error: OrchardError = kind(*data["args"])
    return error
