"""Images to features: workers read, decode, infer and write; the driver plans, counts and commits.

What travels is rows of the listing, never image bytes or features: a worker reads its images itself, and stages one
Parquet file per task. What a task returns is a `TaskReport` of a few hundred bytes. Returning features to Spark
instead costs a fifth of the throughput (0.75-0.84 of a bare loop against 0.92-0.94, 8,000 images).
"""

import contextlib
import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from orchard.errors import AccessDenied, OrchardError
from orchard.features.artifact import Artifact
from orchard.features.sharing import Done
from orchard.features.worker import MARKER, Job, Task, TaskReport, featurize, pack
from orchard.images.decoding import Limits
from orchard.layout import FEATURIZED, Dataset
from orchard.output import Output
from orchard.progress import Advance
from orchard.storage import S3Options, may_read, read_path
from orchard.vocabulary import Reason
from orchard.workers import Workers

# The first tasks are small: they bring the first features early and tell how long an image takes.
FIRST_TASK_IMAGES = 32
# Short enough to lose and to share; at the end of the work shorter still, but not so short that a task's fixed cost
# (some 30 ms) shows.
TASK_SECONDS, SHORTEST_TASK_SECONDS = 5.0, 0.5
MAXIMUM_TASK_IMAGES = 2048
TASKS_PER_SLOT = 4
# An executor that joins late must find work before the driver has noticed it.
MINIMUM_TASKS_PER_BATCH = 16


@dataclass
class ExtractionResult:
    """What all tasks did that have ended: when `extract` returns, all are committed."""

    images: int = 0
    bytes: int = 0
    rejected: Counter[Reason] = field(default_factory=Counter)
    seconds: float = 0.0
    """Wall clock from the first task's submission to the last commit."""
    first_commit_seconds: float | None = None
    tasks: int = 0
    worker_seconds: float = 0.0
    """Sum over the tasks, without compiling the network."""
    done: list[Done] = field(default_factory=list)
    """When and where each task was done."""
    slots: int = 1
    """Tasks that were at work at once when the first were committed."""

    @property
    def images_per_second(self) -> float:
        """Images per second of wall clock."""
        return self.images / self.seconds if self.seconds else 0.0


def extract(
    workers: Workers,
    output: Output,
    images: pa.Table,
    artifact: Artifact,
    *,
    limits: Limits,
    s3: S3Options,
    progress: Advance,
    views: int = 0,
    seed: int = 0,
    backgrounds: bytes = b"",
    views_alone: bool = False,
    images_a_task: int | None = None,
    learned: Callable[[ExtractionResult], object] | None = None,
) -> ExtractionResult:
    """Featurize `images` (schema `LISTING`, every row with its split), and commit batch by batch.

    The same pass makes `views` random views (of `seed`, on `backgrounds`) of each training image; or nothing but these
    (``views_alone``) of images that are done.

    ``images_a_task`` is of the setting ``task_images``; ``learned`` is called once, with what has been done when each
    slot has had a task of the second batch, or else when all is done: the first tasks are small and slow.

    At an error or an interruption, what has finished by then is committed. Whatever happens, what was committed stays
    and is right: each image is in ``features`` or in ``rejected``, and in ``inventory``, exactly once. Call it inside
    ``output.writing()``.

    Raises:
        AccessDenied: not one image may be read.
        ClusterError: a task was given up.
        StorageError: the storage failed for longer than retries last.
    """
    job = Job(
        artifact=workers.share(artifact),
        limits=limits,
        s3=s3,
        storage=output.storage,
        staging=output.staging,
        folder=_common_folder(images["path"]),
        views=views,
        seed=seed,
        backgrounds=workers.share(backgrounds) if backgrounds else None,
        views_alone=views_alone,
    )
    output.write(f"{output.staging}{MARKER}", b"")
    result = ExtractionResult()
    reports = _Reports(result)
    plan, numbers = _Plan(images, images_a_task), itertools.count()
    started = time.monotonic()
    shown = 0

    def batches() -> Iterator[list[Task]]:
        while not plan.is_exhausted:
            yield [Task(next(numbers), pack(images)) for images in plan.next_batch(workers.slots)]

    def look(arrived: list[TaskReport]) -> None:
        nonlocal shown
        reports.look(arrived)
        progress(result.images - shown)
        shown = result.images
        if result.first_commit_seconds is not None and result.tasks >= plan.first_tasks + result.slots:
            tell()

    def tell() -> None:
        nonlocal learned
        if learned and result.tasks:
            learned(result)
        learned = None

    try:
        with contextlib.closing(workers.run_batches(partial(featurize, job), batches(), arrived=look)) as done:
            for found in done:
                look(found)
                reports.commit(output)
                plan.learn(result)
                if result.first_commit_seconds is None:
                    result.first_commit_seconds = time.monotonic() - started
                    result.slots = workers.slots
        tell()
    except BaseException:
        with contextlib.suppress(OrchardError):  # what went wrong first is what is told
            reports.commit(output)
        raise
    finally:
        result.seconds = time.monotonic() - started
    job.artifact.unpersist()
    if job.backgrounds is not None:
        job.backgrounds.unpersist()
    if result.rejected[Reason.UNREADABLE] == result.images and not output.rows(Dataset.FEATURES):
        _check_access(images["path"][0].as_py(), result.images, s3)
    return result


class _Plan:
    """Cuts the listing into tasks, small ones first and longer ones once the time per image is known."""

    def __init__(self, images: pa.Table, images_a_task: int | None = None) -> None:
        self._images, self._images_a_task = images.combine_chunks(), images_a_task
        self._next = 0
        self._seconds_per_image: float | None = None
        self.first_tasks = 0
        """Number of tasks that were cut before the time per image was known."""

    @property
    def is_exhausted(self) -> bool:
        return bool(self._next >= self._images.num_rows)

    def learn(self, result: ExtractionResult) -> None:
        if result.images:
            self._seconds_per_image = result.worker_seconds / result.images

    def next_batch(self, slots: int) -> list[pa.Table]:
        full = tasks_per_batch(slots)
        length = full if self._seconds_per_image is not None else 2 * slots
        batch: list[pa.Table] = []
        while len(batch) < length and not self.is_exhausted:
            left = self._images.num_rows - self._next
            size = self._images_a_task or task_images(left, full, self._seconds_per_image)
            batch.append(self._images.slice(self._next, size))
            self._next += size
        if self._seconds_per_image is None:
            self.first_tasks += len(batch)
        return batch


def tasks_per_batch(slots: int) -> int:
    """Return how many tasks are committed together while `slots` can run at once."""
    return max(MINIMUM_TASKS_PER_BATCH, TASKS_PER_SLOT * slots)


def tasks_of(images: int, slots: int, seconds_per_image: float, images_a_task: int | None = None) -> int:
    """Return how many tasks so many images are cut into where each takes so long."""
    if images_a_task:
        return math.ceil(images / images_a_task)
    count = min(2 * slots, math.ceil(images / FIRST_TASK_IMAGES))
    left, full = images - count * FIRST_TASK_IMAGES, tasks_per_batch(slots)
    while left > 0:
        left -= task_images(left, full, seconds_per_image)
        count += 1
    return count


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


def _check_access(path: str, images: int, s3: S3Options) -> None:
    """Raise AccessDenied if no image could be read and permission was the reason."""
    try:
        read_path(path, s3, 0)
    except PermissionError as error:
        raise AccessDenied(
            f"none of {images:,} images may be read, such as {path} ({error.strerror}): "
            f"allow {may_read(path)}, and start again."
        ) from error
    except OSError:  # another reason
        return


def _common_folder(paths: pa.ChunkedArray) -> str | None:
    """Return the folder that holds all `paths`; None if one is an object, or an address that is not read."""
    ends = [str(path) for path in pc.min_max(paths).as_py().values()]  # what these two share, all do
    return os.path.commonpath(map(os.path.dirname, ends)) if all(map(os.path.isabs, ends)) else None


class _Reports:
    """The reports of finished tasks: each reaches the driver when its task ends, and counts once, in `result`."""

    def __init__(self, result: ExtractionResult) -> None:
        self._result = result
        self._seen: set[int] = set()
        self._waiting: list[TaskReport] = []

    def look(self, arrived: Iterable[TaskReport]) -> None:
        """Add reports that have arrived, alone or with their batch."""
        for report in arrived:
            if report.task not in self._seen:
                self._seen.add(report.task)
                self._waiting.append(report)
                _add(report, self._result)

    def commit(self, output: Output) -> None:
        """Commit the reports that are not committed yet."""
        reports, self._waiting = self._waiting, []
        if reports:
            output.commit({d: [report.files[d] for report in reports if d in report.files] for d in FEATURIZED})


def _add(report: TaskReport, result: ExtractionResult) -> None:
    result.images += report.images
    result.bytes += report.bytes
    result.rejected.update(report.rejected)
    result.tasks += 1
    result.worker_seconds += report.seconds - report.compile_seconds
    result.done.append(report.done)
