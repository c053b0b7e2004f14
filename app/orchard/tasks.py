"""Work on Spark: the one place that submits it, stops it when the command ends, and says why it failed.

A worker's error travels as its class and its arguments in one word of the text that Spark makes of it, so that the
driver raises what the worker raised. Everything else that goes wrong on Spark becomes a sentence here.
"""

import base64
import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa

from orchard import errors, interruption
from orchard.cluster import executors
from orchard.errors import ClusterError, OrchardError, file_failure, first_line, is_of_file

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import DataFrame, Row, SparkSession

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

ATTEMPTS = 4
"""At a task, in a local run as in a cluster (Spark's ``spark.task.maxFailures``, which local masters ignore)."""

BATCHES_IN_FLIGHT = 2
"""While the last tasks of one batch run, those of the next fill the free slots."""

_TAG = "orchard"
_AGAIN_SECONDS = 0.2
_TICK_SECONDS = 0.25
_MARK = "orchard-error:"
_MARKED = re.compile(rf"{_MARK}([\w=-]+)")
_GUESS = "most likely for want of memory"
_AGAIN = "and start again to go on where it stopped"
_NO_ROOM = "give executors more (executor.memoryOverhead, --executor-memory-overhead)"

# What Spark says, and what it means; the first that fits.
_SENTENCES = [
    (
        r"SparkContext (was|has been) shut ?down|stopped SparkContext",
        f"Spark was stopped while it worked: look why, {_AGAIN}.",
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


def run(context: "SparkContext", function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call `function` in the workers, one task an item; return its results in order.

    Raises:
        OrchardError: what a worker raised four times.
        ClusterError: Spark gave up.
    """
    with at_work(context):
        found: list[R] = context.parallelize(items, len(items)).map(partial(_call, function)).collect()
    return found


def run_batches(
    context: "SparkContext",
    function: Callable[[T], R],
    batches: Iterable[Sequence[T]],
    *,
    in_order: bool = False,
    tick: Callable[[], object] = lambda: None,
) -> Generator[list[R], None, None]:
    """Yield what `run` returns for each batch, with `BATCHES_IN_FLIGHT` of them handed out at a time.

    Close it (`contextlib.closing`), so that what is under way ends with it.

    Args:
        context: Spark's.
        function: called in the workers, one task an item.
        batches: taken one by one, when there is room for another.
        in_order: of `batches`; otherwise as they are done.
        tick: called again and again while results are waited for; what it raises ends the work.

    Raises:
        OrchardError: what a worker raised four times.
        ClusterError: Spark gave up.
        KeyboardInterrupt: the command is to end.
    """
    left = iter(batches)
    in_flight: list[Future[list[R]]] = []
    with ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="orchard-batch") as threads:
        try:
            while True:
                while len(in_flight) < BATCHES_IN_FLIGHT and (batch := next(left, None)) is not None:
                    in_flight.append(threads.submit(run, context, function, batch))
                if not in_flight:
                    return
                wanted = in_flight[:1] if in_order else in_flight
                finished, _ = wait(wanted, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
                interruption.check()
                tick()
                for done in finished:
                    in_flight.remove(done)
                    yield done.result()
        except BaseException:
            cancel(context, in_flight)
            raise


def tree_reduce(
    context: "SparkContext", function: Callable[[T], R], items: Sequence[T], merge: Callable[[R, R], R]
) -> R:
    """Call `function` in the workers, one task an item, and merge the results there; see `run` for errors."""
    with at_work(context):
        merged: R = context.parallelize(items, len(items)).map(partial(_call, function)).treeReduce(merge)
    return merged


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


def on_spark(
    function: "Callable[Concatenate[SparkSession, P], R]",
) -> "Callable[Concatenate[SparkSession, P], R]":
    """Make the whole of a function, which takes a session first, `at_work`."""

    @wraps(function)
    def at_work_on(spark: "SparkSession", /, *args: P.args, **named: P.kwargs) -> R:
        with at_work(spark.sparkContext):
            return function(spark, *args, **named)

    return at_work_on


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
    if marked := _MARKED.search(text):
        return _unpacked(marked[1])
    for pattern, sentence in _SENTENCES:
        if found := re.search(pattern, text):
            known = executors.last_trouble()  # better than a guess
            told = sentence.replace(_GUESS, f"as {known.partition(':')[0]}") if known else sentence
            return ClusterError(told.format(**found.groupdict()))
    if (
        not text
        or isinstance(error, (OSError, EOFError))
        or "Java side" in text
        or "while sending or receiving" in text
    ):
        return ClusterError(
            "Spark's JVM ended while it worked, most likely killed for want of memory: "
            f"give the driver's machine or container more (--driver-memory-overhead) {_AGAIN}."
        )
    cause = next((line.strip() for line in reversed(text.splitlines()) if re.match(r"\s*[\w.]*Error\b", line)), None)
    cause = cause or first_line(error)
    return ClusterError(f"Spark gave up a task: {cause}; start again to go on where it stopped (--debug shows all).")


class _Failed(Exception):
    """Ends a task with an error of Orchard's; its text is for `error_of`."""


def _call(function: Callable[[T], R], item: T) -> R:
    with _marked():
        return function(item)


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
        raise _Failed(_packed(error)) from error
    except OSError as error:
        if not is_of_file(error):
            raise
        raise _Failed(_packed(file_failure(error))) from error


def _packed(error: OrchardError) -> str:
    data = json.dumps({"class": type(error).__name__, "args": error.args}, default=str)
    return _MARK + base64.urlsafe_b64encode(data.encode()).decode()


def _unpacked(word: str) -> OrchardError:
    data = json.loads(base64.urlsafe_b64decode(word))
    kind = getattr(errors, data["class"], OrchardError)
    error: OrchardError = kind(*data["args"])
    return error
