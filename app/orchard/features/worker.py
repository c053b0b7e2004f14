"""What a worker does with one task: read images, decode, infer, and stage the files.

The network is compiled once per Python worker and kept by `load_engine`: this module is imported by name, whereas the
globals of a pickled function would be made again in every task.
"""

from __future__ import annotations

import functools
import gc
import importlib
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard import memory
from orchard.datasets import list_column
from orchard.errors import StorageError
from orchard.features.apart import Decode, decoding
from orchard.features.artifact import LARGER, Artifact, EngineName
from orchard.features.engines import Engine, import_openvino, load_engine
from orchard.features.sharing import Done
from orchard.features.views import pictures, random_views
from orchard.files import DataFile, digest_of, parquet_bytes, part, stage_file
from orchard.images.decoding import Decoded, Limits, Rejection
from orchard.images.quality import Quality, quality_of
from orchard.images.reading import contents
from orchard.layout import CARRIED, FEATURES, INVENTORY, REJECTED, VIEWED, VIEWS, Dataset
from orchard.storage import LocalStorage, S3Options, Storage
from orchard.vocabulary import Fit, Reason
from orchard.workers import Shared, has_failed_before

# Decoded images that wait for the engine: a multiple of its batch, and few enough to stay small (10 MB at 224 px).
BUFFERED_IMAGES = 64
# Tells an executor that it sees the output's folder, and not another of the same name.
MARKER = "marker"


@dataclass(frozen=True)
class Job:
    """What is the same for every task of an extraction; picklable."""

    artifact: Shared[Artifact]
    limits: Limits
    s3: S3Options
    storage: Storage
    staging: str
    folder: str | None
    """What holds all local images; None where they are objects."""
    views: int = 0
    """Random views of each image of `VIEWED`."""
    seed: int = 0
    """Of the views."""
    backgrounds: Shared[bytes] | None = None
    """See `orchard.features.views.pictures`."""
    views_alone: bool = False
    """Whether the images are done but for their views."""


@dataclass(frozen=True)
class Drawn:
    """The random views of training images.

    Attributes:
        views: of each image.
        seed: that they are drawn by.
        backgrounds: uint8 (height, width, 3), RGB, see `orchard.features.views.random_views`.
        alone: whether nothing else is to be made of the images.
    """

    views: int
    seed: int
    backgrounds: Sequence[NDArray[np.uint8]] = ()
    alone: bool = False


@dataclass(frozen=True)
class Task:
    """Some images."""

    number: int
    """Of the first of them: no other task has it, but other attempts at this one do."""
    packed: bytes
    """Their rows of the listing, see `pack`."""


@dataclass(frozen=True)
class TaskReport:
    """What one task did."""

    task: int
    files: dict[Dataset, DataFile]
    images: int
    bytes: int
    rejected: dict[Reason, int]
    seconds: float
    compile_seconds: float
    done: Done
    """When and where."""


def pack(task: pa.Table) -> bytes:
    """Return the rows of a task as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, task.schema) as writer:
        writer.write_table(task)
    return bytes(sink.getvalue())


def featurize(job: Job, given: Task) -> TaskReport:
    """Do one task in a worker: read, decode, infer, and stage the files."""
    started, began, worked = time.monotonic(), time.time(), time.process_time()
    task = pa.ipc.open_stream(given.packed).read_all()
    check_folders(job)
    artifact = job.artifact.value
    engine = load_engine(artifact)
    _freeze_imports()
    compiled = time.monotonic()
    found = contents(task, job.limits, job.s3)
    backgrounds = pictures(job.backgrounds.value) if job.backgrounds is not None else ()
    drawn = Drawn(job.views, job.seed, backgrounds, alone=job.views_alone)
    with decoding(apart=has_failed_before()) as decode:
        rows = worked_on(task, found, engine, limits=job.limits, fit=artifact.fit, drawn=drawn, decode=decode)
    tables = rows.tables()
    files = {}
    for dataset, table in tables.items():
        data = encoded(table)
        files[dataset] = stage_file(job.storage, job.staging, part(dataset), data, table.num_rows)
    seconds = time.monotonic() - started
    return TaskReport(
        task=given.number,
        files=files,
        images=task.num_rows,
        bytes=rows.bytes_read,
        rejected=dict(rows.reasons),
        seconds=seconds,
        compile_seconds=compiled - started,
        done=Done(
            # That of the workers of one executor: Spark's daemon, or the driver of a local run.
            host=socket.gethostname(),
            executor=os.getppid(),
            worker=os.getpid(),
            started=began,
            seconds=seconds,
            cpu_seconds=time.process_time() - worked,
            memory=memory.peak(),
            images=task.num_rows,
        ),
    )


def worked_on(
    task: pa.Table,
    found: Iterable[bytes | Rejection],
    engine: Engine,
    *,
    limits: Limits,
    fit: Fit,
    drawn: Drawn,
    decode: Decode,
) -> TaskRows:
    """Decode and featurize the images of a task (schema `LISTING`), whose contents are `found` in their order."""
    rows = TaskRows(task, engine, drawn)
    for row, data in enumerate(found):
        if isinstance(data, Rejection):
            rows.reject(row, data)
            continue
        rows.note_content(row, data)
        image = decode(data, engine.decoded_size, limits, fit, rows.larger(row))
        if isinstance(image, Rejection):
            rows.reject(row, image)
        else:
            rows.add(row, image)
    return rows


def encoded(table: pa.Table) -> pa.Buffer:
    """Return rows of a dataset as Parquet."""
    # A dictionary of floats that hardly repeat only costs time.
    return parquet_bytes(table, dictionary=[*CARRIED, "split"] if "features" in table.column_names else True)


def import_libraries(engine: EngineName, _: int) -> None:
    """Import what the tasks of extraction need; long enough for every slot to get its own worker."""
    import_openvino() if engine is EngineName.OPENVINO else importlib.import_module("tensorflow")


def check_folders(job: Job) -> None:
    """Make sure that this executor sees the driver's folders, or it would reject every image, or lose every row.

    Raises:
        StorageError: it does not.
    """
    missing = []
    if job.folder is not None and not Path(job.folder).exists():
        missing.append(job.folder)
    if isinstance(job.storage, LocalStorage) and not job.storage.exists(f"{job.staging}{MARKER}"):
        missing.append(job.storage.url)
    if missing:
        raise StorageError(
            f"{missing[0]}, which the driver saw, is not there on {socket.gethostname()}: bring it back if it was "
            "taken away; in a cluster mount its volume in the executors, too, or use a bucket."
        )


@functools.cache
def _freeze_imports() -> None:
    """Spare what is loaded by now from the garbage collection that PySpark does after every task, once a process."""
    gc.collect()
    gc.freeze()


class TaskRows:
    """The rows of one task, collected column by column; at most `BUFFERED_IMAGES` images are held as pixels."""

    def __init__(self, task: pa.Table, engine: Engine, drawn: Drawn) -> None:
        self._task = task
        self._engine = engine
        self._drawn = drawn
        self._pixels: list[NDArray[np.uint8]] = []
        self._features = [np.empty((0, engine.n_features), np.float32)]
        self._featurized: list[int] = []
        self._viewed: list[int] = []
        self._view_features = [np.empty((0, engine.n_features), np.float32)]
        self._learned_from = pc.is_in(task["split"], pa.array(VIEWED, pa.string())).to_pylist()
        self._sizes: list[tuple[int, int]] = []
        self._formats: list[str | None] = [None] * task.num_rows
        self._qualities: list[Quality | None] = [None] * task.num_rows
        self._rejected: list[tuple[int, Rejection]] = []
        self._bytes: list[int | None] = [None] * task.num_rows
        self._digests: list[str | None] = [None] * task.num_rows

    @property
    def bytes_read(self) -> int:
        """Of all files."""
        return sum(size or 0 for size in self._bytes)

    @property
    def reasons(self) -> Counter[Reason]:
        """Of the rejections."""
        return Counter(rejection.reason for _, rejection in self._rejected)

    def note_content(self, row: int, data: bytes) -> None:
        """Remember what a file's content was."""
        self._bytes[row] = len(data)
        self._digests[row] = digest_of(data)

    def larger(self, row: int) -> int | None:
        """Return the size in which the image is to be decoded, too, to make views of it; None: there are none."""
        return math.ceil(LARGER * self._engine.input_size) if self._drawn.views and self._learned_from[row] else None

    def reject(self, row: int, rejection: Rejection) -> None:
        """Take an image that cannot be featurized."""
        self._rejected.append((row, rejection))

    def add(self, row: int, image: Decoded) -> None:
        """Take an image to featurize."""
        if not self._drawn.alone:
            self._featurized.append(row)
            self._sizes.append((image.width, image.height))
            self._formats[row] = str(image.format)
            self._qualities[row] = quality_of(image.pixels)
            self._pixels.append(image.pixels)
            if len(self._pixels) == BUFFERED_IMAGES:
                self._infer()
        digest = self._digests[row]
        if image.larger is not None and digest is not None:
            drawn, size = self._drawn, self._engine.input_size
            views = random_views(
                image.larger, digest, views=drawn.views, seed=drawn.seed, size=size, backgrounds=drawn.backgrounds
            )
            self._view_features.append(self._engine.single(views))
            self._viewed.append(row)

    def _infer(self) -> None:
        self._features.append(self._engine(self._pixels))
        self._pixels = []

    def tables(self) -> dict[Dataset, pa.Table]:
        """Return what is to be written; a dataset without rows is left out."""
        if self._pixels:
            self._infer()
        featurized = self._task.take(pa.array(self._featurized, pa.int64()))
        matrix = np.concatenate(self._features)
        width, height = zip(*self._sizes, strict=True) if self._sizes else ((), ())
        features = pa.table(
            {
                **{name: featurized[name] for name in ("path", *CARRIED, "split")},
                "width": pa.array(width, pa.int32()),
                "height": pa.array(height, pa.int32()),
                "features": list_column(matrix),
            },
            schema=FEATURES,
        )
        rejected = pa.table(
            {
                "path": self._task["path"].take(pa.array([row for row, _ in self._rejected], pa.int64())),
                "reason": [str(rejection.reason) for _, rejection in self._rejected],
                "detail": [rejection.detail for _, rejection in self._rejected],
            },
            schema=REJECTED,
        )
        viewed = self._task.take(pa.array(np.repeat(self._viewed, self._drawn.views).astype(np.int64)))
        views = (
            pa.table(
                {
                    **{name: viewed[name] for name in ("path", *CARRIED, "split")},
                    "view": pa.array(np.tile(np.arange(self._drawn.views), len(self._viewed)), pa.int32()),
                    "features": list_column(np.concatenate(self._view_features)),
                }
            )
            .select(VIEWS.names)
            .cast(VIEWS)
        )
        is_featurized = np.zeros(self._task.num_rows, bool)
        is_featurized[self._featurized] = True
        inventory = pa.table(
            {
                "path": self._task["path"],
                "size": pa.array(self._bytes, pa.int64()),
                **{name: self._task[name] for name in ("version", *CARRIED, "split", "group", "source")},
                "digest": pa.array(self._digests, pa.string()),
                "featurized": is_featurized,
                "format": pa.array(self._formats, pa.string()),
                "brightness": pa.array([found and found.brightness for found in self._qualities], pa.float32()),
                "sharpness": pa.array([found and found.sharpness for found in self._qualities], pa.float32()),
            },
            schema=INVENTORY,
        )
        tables = {Dataset.VIEWS: views}
        if not self._drawn.alone:
            tables |= {Dataset.FEATURES: features, Dataset.REJECTED: rejected, Dataset.INVENTORY: inventory}
        return {dataset: table for dataset, table in tables.items() if table.num_rows}
