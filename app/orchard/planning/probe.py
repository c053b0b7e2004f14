"""Measures a few images, in as many processes as the run will have workers."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchard import child, interruption
from orchard.errors import InputError, OrchardError
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.features.backbones import find
from orchard.features.backgrounds import NONE
from orchard.features.backgrounds import read as read_backgrounds
from orchard.features.conversion import build_artifact
from orchard.features.engines import resolve_precision
from orchard.features.quantization import Sample
from orchard.features.weights import brought
from orchard.images.rejections import commonest_kinds, sentence
from orchard.layout import REJECTED
from orchard.machine import available_memory
from orchard.planning import process
from orchard.planning.process import Request, Result
from orchard.scratch import scratch
from orchard.settings import Settings
from orchard.storage import is_object
from orchard.vocabulary import Fit

IMAGES, LEAST_IMAGES = 64, 16
"""Number of images for all processes together, and for each process at least."""
SECONDS = 5.0
"""Seconds after which a process begins no further images."""
_PROCESS_BYTES = 512 * 2**20
"""What a process is given room for: as many are started as fit into half of the memory that is free."""


@dataclass(frozen=True)
class Measured:
    """Time and memory that a few images took, and which of them would be rejected."""

    seconds: float
    """Seconds for each image in one process, while all processes worked."""
    spread: float
    """Difference between the fastest and the slowest process, as a share of `seconds`."""
    slowdown: float
    """Wall clock time divided by CPU time; above 1 if other work used the CPU."""
    compile_seconds: float
    """Seconds to compile the network, in each worker."""
    single_seconds: float
    """Seconds for one pass of the network, with one image."""
    memory: int
    """Peak memory of a worker, in bytes."""
    feature_bytes: float
    """Bytes of an image's features on disk."""
    view_bytes: float
    """Bytes of one random view on disk."""
    network_bytes: int
    n_features: int
    precision: Precision
    """The precision that a first run over so many images would choose."""
    processes: int
    tried: int
    rejected: pa.Table
    """The rejected images, of schema REJECTED."""


class _Died(OrchardError):
    """A process left no result, and no error."""


def measure(
    images: pa.Table, settings: Settings, *, processes: int = 1, most: int = IMAGES, seconds: float = SECONDS
) -> Measured:
    """Decode and featurize a few of `images`, schema `orchard.layout.LISTING`, in processes of their own.

    Args:
        images: images to choose from; those of the training split get random views, too.
        settings: the run's settings.
        processes: number of processes that work at once; fewer if memory or images are too few.
        most: number of images in all, but at least `LEAST_IMAGES` for each process.
        seconds: seconds after which a process begins no further images.

    Raises:
        InputError: none of the images can be decoded.
        OrchardError: a process failed.
    """
    artifact = _artifact(images, settings)
    processes = max(1, min(processes, images.num_rows // process.CHUNK, available_memory() // (2 * _PROCESS_BYTES)))
    count = min(images.num_rows, max(most, LEAST_IMAGES * processes))
    # Spread over all, and shuffled: the time may be up before all are done.
    places = np.random.default_rng(settings.seed).permutation(
        np.linspace(0, images.num_rows - 1, count).astype(np.int64)
    )
    tried = images.take(pa.array(places))
    request = Request(settings.limits(), settings.s3_options(), settings.views or 0, settings.seed, seconds)
    backgrounds, place = b"", settings.backgrounds
    if settings.views and place and place != NONE:
        backgrounds = read_backgrounds(place, settings.limits(), settings.s3_options()).content
    with scratch("plan") as folder:
        shares = [tried.take(pa.array(np.arange(n, count, processes))) for n in range(processes)]
        try:
            results = _together(folder / "one", artifact, request, backgrounds, shares)
        except _Died:  # of an image's decoder, perhaps
            results = _together(folder / "other", artifact, replace(request, apart=True), backgrounds, shares)
    rejected = pa.Table.from_pylist([row for result in results for row in result.rejected], schema=REJECTED)
    if not any(result.featurized for result in results):
        mostly = sentence(commonest_kinds(rejected)[0])
        raise InputError(f"None of the {rejected.num_rows} images that were tried can be decoded; {mostly}.")
    # Objects are read ahead, while the images before them are worked on.
    ahead = any(is_object(path) for path in tried["path"].to_pylist())
    took = [max(r.seconds, r.read_seconds) if ahead else r.seconds + r.read_seconds for r in results]
    each = [took_one / result.images for took_one, result in zip(took, results, strict=True)]
    mean = sum(took) / sum(result.images for result in results)
    return Measured(
        seconds=mean,
        spread=(max(each) - min(each)) / mean,
        slowdown=max(1.0, sum(r.seconds for r in results) / max(sum(r.cpu_seconds for r in results), 1e-6)),
        compile_seconds=statistics.mean(result.compile_seconds for result in results),
        single_seconds=statistics.median(result.single_seconds for result in results),
        memory=max(result.memory for result in results),
        feature_bytes=max(result.feature_bytes for result in results),
        view_bytes=max(result.view_bytes for result in results),
        network_bytes=len(artifact.topology) + len(artifact.parameters),
        n_features=artifact.n_features,
        precision=artifact.precision,
        processes=processes,
        tried=sum(result.images for result in results),
        rejected=rejected,
    )


def _artifact(images: pa.Table, settings: Settings) -> Artifact:
    """Build the network as a run over so many images does, or take it from the cache."""
    engine = EngineName(settings.engine)
    backbone = find(settings.backbone, alpha=settings.alpha, input_size=settings.input_size)
    fit = Fit(settings.fit or Fit.STRETCH)
    precision = resolve_precision(settings.precision, engine, backbone=backbone, images=images.num_rows)
    artifact = build_artifact(
        backbone,
        weights=brought(backbone, settings.weights, settings.s3_options()),
        alpha=settings.alpha,
        engine=engine,
        precision=precision,
        seed=settings.seed,
        sample=Sample.of(images, seed=settings.seed, limits=settings.limits(), fit=fit, s3=settings.s3_options())
        if precision is Precision.INT8
        else None,
        may_fall_back=settings.precision == "auto",
    )
    square_root = settings.transform == "square_root"
    return replace(artifact, fit=fit, test_views=int(settings.test_views or 1), square_root=square_root)


def _together(
    folder: Path, artifact: Artifact, request: Request, backgrounds: bytes, shares: Sequence[pa.Table]
) -> list[Result]:
    """Process the shares of the images at the same time, each in a process of its own."""
    with ExitStack() as opened:
        started = []
        for number, share in enumerate(shares):
            own = folder / str(number)
            own.mkdir(parents=True)
            (own / process.ARTIFACT).write_bytes(artifact.to_bytes())
            (own / process.BACKGROUNDS).write_bytes(backgrounds)
            pq.write_table(share, own / process.IMAGES)
            worker = child.start(
                "orchard.planning.process", own, request, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            opened.callback(_end, worker)
            opened.enter_context(interruption.in_order(worker.kill))
            started.append((own, worker))
        for _, worker in started:
            assert worker.stdout is not None
            worker.stdout.readline()  # it is ready, or has ended
        for _, worker in started:
            assert worker.stdin is not None
            try:
                worker.stdin.write(b"go\n")
                worker.stdin.flush()
            except BrokenPipeError:  # it says why below
                continue
        return [_result(own, worker) for own, worker in started]


def _result(own: Path, worker: subprocess.Popen[bytes]) -> Result:
    worker.wait()
    interruption.check()
    child.raise_error(own)
    try:
        return Result(**json.loads((own / process.RESULT).read_text()))
    except OSError:
        raise _Died(
            f"Working on a few images {child.last_words(own, worker.returncode)}: make room in memory, or "
            "lower --max-pixels."
        ) from None


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # what it was to be told nobody heard
                continue
