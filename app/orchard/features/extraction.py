"""Images to features on Spark: workers read, decode, infer and write; the driver plans, counts and commits.

Spark moves rows of the listing, never image bytes or features: a worker reads its images itself, and stages one
Parquet file per task. What a task returns is a `TaskReport` of a few hundred bytes. Returning features to Spark
instead costs a fifth of the throughput (0.75-0.84 of a bare loop against 0.92-0.94, 8,000 images).
"""

import math
import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from orchard import errors
from orchard.errors import ClusterError, OrchardError
from orchard.features.artifact import Artifact, EngineName
from orchard.features.worker import MARKER, Job, TaskReport, featurize, import_libraries, pack
from orchard.images.decoding import Limits
from orchard.layout import EXTRACTED, Reason
from orchard.output import Output
from orchard.progress import Advance
from orchard.storage import S3Options

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# The first tasks are small: they bring the first features early and tell how long an image takes.
FIRST_TASK_IMAGES = 32
# Short enough to lose and to share; at the end of the work shorter still, but not so short that a task's fixed cost
# (some 30 ms) shows.
TASK_SECONDS, SHORTEST_TASK_SECONDS = 5.0, 0.5
MAXIMUM_TASK_IMAGES = 2048
TASKS_PER_SLOT = 4
# An executor that joins late must find work before the driver has noticed it.
MINIMUM_TASKS_PER_BATCH = 16
# While the last tasks of one batch run, those of the next fill the free slots.
BATCHES_IN_FLIGHT = 2


@dataclass
class ExtractionResult:
    """What all committed tasks did."""

    images: int = 0
    bytes: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    seconds: float = 0.0
    """Wall clock from the first task's submission to the last commit."""
    first_commit_seconds: float | None = None
    tasks: int = 0
    worker_seconds: float = 0.0
    """Sum over the tasks, without compiling the network."""

    @property
    def images_per_second(self) -> float:
        """Images per second of wall clock."""
        return self.images / self.seconds if self.seconds else 0.0


def extract(
    spark: "SparkSession",
    output: Output,
    images: pa.Table,
    artifact: Artifact,
    *,
    limits: Limits,
    s3: S3Options,
    progress: Advance,
) -> ExtractionResult:
    """Featurize `images` (schema `LISTING`, every row with its split) and commit batch by batch.

    Whatever happens, what was committed stays and is right: each image is in ``features`` or in ``rejected``,
    and in ``inventory``, exactly once. Call it inside ``output.writing()``.

    Raises:
        ClusterError: Spark gave a task up.
        StorageError: the storage failed for longer than retries last.
    """
    context = spark.sparkContext
    job = Job(
        artifact=context.broadcast(artifact),
        done=context.accumulator(0),
        limits=limits,
        s3=s3,
        storage=output.storage,
        staging=output.staging,
        folder=_common_folder(images["path"]),
    )
    output.write(f"{output.staging}{MARKER}", b"")
    result = ExtractionResult()
    plan = _Plan(images)
    started = time.monotonic()
    shown = 0
    in_flight: set[Future[list[TaskReport]]] = set()
    with ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="orchard-batch") as batches:
        try:
            while True:
                while len(in_flight) < BATCHES_IN_FLIGHT and not plan.is_exhausted:
                    tasks = plan.next_batch(context.defaultParallelism)
                    in_flight.add(batches.submit(_run_batch, context, job, tasks))
                if not in_flight:
                    break
                finished, _ = wait(in_flight, timeout=0.25, return_when=FIRST_COMPLETED)
                done = int(job.done.value)
                progress(max(0, done - shown))
                shown = max(shown, done)
                for batch in finished:
                    in_flight.remove(batch)
                    _commit(output, batch.result(), result)
                    plan.learn(result)
                    if result.first_commit_seconds is None:
                        result.first_commit_seconds = time.monotonic() - started
        except BaseException:
            context.cancelAllJobs()
            raise
        finally:
            result.seconds = time.monotonic() - started
    job.artifact.unpersist()
    progress(max(0, result.images - shown))
    return result


def warm_up(spark: "SparkSession", engine: EngineName) -> None:
    """Start the Python workers and let them import what tasks need, while the network is still being built."""
    slots = spark.sparkContext.defaultParallelism
    spark.sparkContext.parallelize(range(slots), slots).foreach(partial(import_libraries, engine))


class _Plan:
    """Cuts the listing into tasks, small ones first and longer ones once the time per image is known."""

    def __init__(self, images: pa.Table) -> None:
        self._images = images.combine_chunks()
        self._next = 0
        self._seconds_per_image: float | None = None

    @property
    def is_exhausted(self) -> bool:
        return bool(self._next >= self._images.num_rows)

    def learn(self, result: ExtractionResult) -> None:
        if result.images:
            self._seconds_per_image = result.worker_seconds / result.images

    def next_batch(self, slots: int) -> list[pa.Table]:
        tasks = tasks_per_batch(slots)
        length = tasks if self._seconds_per_image is not None else 2 * slots
        batch: list[pa.Table] = []
        while len(batch) < length and not self.is_exhausted:
            size = task_images(self._images.num_rows - self._next, tasks, self._seconds_per_image)
            batch.append(self._images.slice(self._next, size))
            self._next += size
        return batch


def tasks_per_batch(slots: int) -> int:
    """Return how many tasks are committed together while `slots` can run at once."""
    return max(MINIMUM_TASKS_PER_BATCH, TASKS_PER_SLOT * slots)


def task_images(remaining: int, tasks: int, seconds_per_image: float | None) -> int:
    """Return how many images a task of the next batch takes.

    Args:
        remaining: images that are not in a task yet.
        tasks: tasks in a batch; the rest should make at least two, so that no slot waits at the end.
        seconds_per_image: of one worker, where it is known.
    """
    if seconds_per_image is None:
        return FIRST_TASK_IMAGES
    longest, shortest = (math.ceil(seconds / seconds_per_image) for seconds in (TASK_SECONDS, SHORTEST_TASK_SECONDS))
    return min(longest, max(shortest, remaining // tasks), MAXIMUM_TASK_IMAGES)


def _common_folder(paths: pa.ChunkedArray) -> str | None:
    """Return the folder that holds all `paths`; None if one is an object."""
    ends = [str(path) for path in pc.min_max(paths).as_py().values()]  # what these two share, all do
    return None if any(path.startswith("s3a://") for path in ends) else os.path.commonpath(map(os.path.dirname, ends))


def _run_batch(context: Any, job: Job, tasks: list[pa.Table]) -> list[TaskReport]:
    work = context.parallelize([pack(task) for task in tasks], len(tasks))
    try:
        reports: list[TaskReport] = work.map(partial(featurize, job)).collect()
    except OrchardError:
        raise
    except Exception as error:
        raise _cluster_error(error) from error
    return reports


def _commit(output: Output, reports: list[TaskReport], result: ExtractionResult) -> None:
    output.commit({d: [report.files[d] for report in reports if d in report.files] for d in EXTRACTED})
    for report in reports:
        result.images += report.images
        result.bytes += report.bytes
        result.rejected.update(report.rejected)
        result.tasks += 1
        result.worker_seconds += report.seconds - report.compile_seconds


def _cluster_error(error: Exception) -> OrchardError:
    """Turn Spark's words for a failed task into the sentence of the error in the worker, if it was one of ours."""
    text = str(error)
    for line in text.splitlines():
        name, _, sentence = line.strip().partition(": ")
        kind = getattr(errors, name.removeprefix("orchard.errors."), None)
        if name.startswith("orchard.errors.") and kind is not None:
            return cast(OrchardError, kind(sentence))
    if "Python worker exited unexpectedly" in text:
        return ClusterError(
            "Spark gave up a task: its Python worker was killed, most likely for want of memory; give executors more "
            "(executor.memoryOverhead, --executor-memory-overhead) and start again to go on where it stopped."
        )
    cause = next((line.strip() for line in reversed(text.splitlines()) if "Error" in line), text[:300])
    return ClusterError(f"Spark gave up a task: {cause}; start again to go on where it stopped (--debug shows all).")
