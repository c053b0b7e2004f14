"""Classifies many images: a few in this process; large collections in worker processes, or on Spark's executors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypedDict

import pyarrow as pa

from orchard.errors import InputError
from orchard.features.apart import Decode, decoding
from orchard.features.worker import pack
from orchard.images.decoding import Limits, Rejection
from orchard.images.manifests import is_manifest
from orchard.images.reading import contents
from orchard.images.sources import list_images
from orchard.inference.columns import ColumnAnswer
from orchard.inference.model import Model
from orchard.inference.predictor import Place, Predictor
from orchard.layout import LISTING
from orchard.storage import S3Options, local_path, readable_path
from orchard.vocabulary import Answer, Reason
from orchard.workers import Shared, Workers, has_failed_before

STDIN = "-"
TASK_IMAGES = 128
"""Of a task; what is lost if a worker is."""


class Candidate(TypedDict):
    """A label that it might be."""

    label: str
    confidence: float  # 0..1


class ColumnValue(TypedDict):
    """What a further label column says of an image."""

    value: str | None  # None: not sure
    likeliest: str
    confidence: float  # of the likeliest, 0..1


class Seen(TypedDict):
    """Something on an image, see `orchard.inference.regions.Region`."""

    box: list[float]  # left, top, right, bottom: shares of width and height
    name: str
    confidence: float


class Answered(TypedDict, total=False):
    """What `predict` says of an image: all but the last two, or the path with these."""

    path: str
    answer: Answer
    label: str | None  # None: not sure
    kind: str | None  # what the label is a variety of; None: not sure, or the model knows no kinds
    confidence: float  # of the first candidate
    familiarity: float  # 0..1: how near the image lies to what was learned
    top: list[Candidate]
    columns: dict[str, ColumnValue]  # by name; only of a model with further label columns
    regions: list[Seen]  # if they are asked for, as is:
    map: list[list[float]]  # see `orchard.inference.class_map.class_map`, of the first candidate
    reason: Reason
    detail: str


@dataclass(frozen=True)
class _Job:
    """What all tasks share; picklable."""

    digest: str
    model: Shared[Model]
    limits: Limits
    s3: S3Options
    top: int
    regions: bool


def find_images(sources: Sequence[str], s3: S3Options) -> pa.Table:
    """Return what to predict, schema `LISTING`: files by name whatever they are, the images of everything else.

    Raises:
        InputError: a source does not exist or holds no image.
        StorageError: a source cannot be listed.
    """
    tables = [LISTING.empty_table()]
    for source in sources:
        if source == STDIN or _is_file(source):
            path = source if source == STDIN else readable_path(local_path(source))
            tables.append(pa.Table.from_pylist([{"path": path}], LISTING))
        else:
            tables.append(list_images(source, s3, limit=None, labels=None, seed=0).table)
    return pa.concat_tables(tables).combine_chunks()


def predict_here(
    model: Model, images: pa.Table, *, limits: Limits, s3: S3Options, top: int, regions: bool = False
) -> Iterator[Answered]:
    """Yield the answer for each image in order, computed in this process, but decoded in another.

    So an image that ends its decoder leaves this process, which may be a notebook's, and the other images alone.
    """
    with decoding(apart=True) as decode:
        predictor = Predictor(model, limits=limits)
        for start in range(0, images.num_rows, TASK_IMAGES):
            task = images.slice(start, TASK_IMAGES)
            yield from _answers(predictor, task, decode, s3=s3, limits=limits, top=top, regions=regions)


def predict_in_workers(
    workers: Workers,
    model: Model,
    images: pa.Table,
    *,
    limits: Limits,
    s3: S3Options,
    top: int,
    regions: bool = False,
    progress: Callable[[int], None],
) -> Iterator[Answered]:
    """Yield the answer for each image in order, computed by workers; a batch is in memory at a time.

    Raises:
        ClusterError: a task was given up.
    """
    job = _Job(model.digest, workers.share(model), limits, s3, top, regions)
    packed = (pack(images.slice(start, TASK_IMAGES)) for start in range(0, images.num_rows, TASK_IMAGES))
    batch_tasks = 4 * workers.slots
    batches = iter(lambda: list(islice(packed, batch_tasks)), [])
    with closing(workers.run_batches(partial(answer_task, job), batches, in_order=True)) as found:
        for answered in found:
            for answers in answered:
                progress(len(answers))
                yield from answers


_predictors: dict[str, Predictor] = {}


def answer_task(job: _Job, packed: bytes) -> list[Answered]:
    """Do one task in a worker, with a predictor that its process keeps."""
    if job.digest not in _predictors:
        _predictors[job.digest] = Predictor(job.model.value, limits=job.limits)
    task = pa.ipc.open_stream(packed).read_all()
    with decoding(apart=has_failed_before()) as decode:
        return _answers(
            _predictors[job.digest], task, decode, s3=job.s3, limits=job.limits, top=job.top, regions=job.regions
        )


def _answers(
    predictor: Predictor,
    images: pa.Table,
    decode: Decode,
    *,
    s3: S3Options,
    limits: Limits,
    top: int,
    regions: bool,
) -> list[Answered]:
    paths = images["path"].to_pylist()
    decoded = predictor.decode_larger if regions else predictor.decode
    found = [decoded(data, decode) if isinstance(data, bytes) else data for data in _read(images, limits, s3)]
    pixels = [image.pixels for image in found if not isinstance(image, Rejection)]
    predictions = iter(predictor.predict(pixels, top))
    answers = []
    for path, image in zip(paths, found, strict=True):
        if isinstance(image, Rejection):
            answers.append(Answered(path=path, reason=image.reason, detail=image.detail))
            continue
        prediction = next(predictions)
        candidates = [Candidate(label=label, confidence=confidence) for label, confidence in prediction.top]
        answered = Answered(
            path=path,
            answer=prediction.answer,
            label=prediction.label,
            kind=prediction.kind,
            confidence=candidates[0]["confidence"],
            familiarity=prediction.familiarity,
            top=candidates,
        )
        if prediction.columns:
            answered["columns"] = column_values(prediction.columns)
        if regions:
            place = predictor.place(image, prediction)
            answered |= Answered(regions=seen(place), map=place.map)
        answers.append(answered)
    return answers


def seen(place: Place) -> list[Seen]:
    """Return what is found on an image."""
    return [Seen(box=list(found.box), name=found.name, confidence=found.confidence) for found in place.regions]


def column_values(said: Sequence[ColumnAnswer]) -> dict[str, ColumnValue]:
    """Return what further columns say of an image, by their names."""
    return {
        column.name: ColumnValue(value=column.value, likeliest=column.likeliest, confidence=column.confidence)
        for column in said
    }


def _read(images: pa.Table, limits: Limits, s3: S3Options) -> Iterator[bytes | Rejection]:
    for row, data in enumerate(contents(images, limits, s3)):
        if images["path"][row].as_py() == STDIN:
            if sys.stdin is None:
                raise InputError("Standard input is closed: give the image by a pipe or as a file.")
            yield sys.stdin.buffer.read(limits.max_bytes + 1)
        else:
            yield data


def _is_file(source: str) -> bool:
    return "://" not in source and local_path(source).is_file() and not is_manifest(source)
