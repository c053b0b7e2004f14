"""Orchard's extraction, in processes or on Spark, against a bare loop over the same images.

    python benchmarks/extraction.py --repeat 5 --json extraction.json

Both decode with `orchard.images.decoding.decode` and infer with the same compiled network, in as many processes. The
bare loop has the files' bytes in its memory, keeps the features there, and does nothing else: no Spark, no reading, no
digests, no Parquet, no commits. Its processes fetch 64 images at a time from a shared counter, so that none waits for
another. Orchard's side is `orchard.features.extraction.extract` with all that, by its own clock (first task submitted
to last commit).

Both are in the steady state: the processes live, the network is compiled; before each measured turn a
side does 512 images unmeasured. In each turn the bare loop runs before and after Orchard, and its mean counts, so that
a machine that becomes slower or faster meanwhile does so to both.
"""

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

import pyarrow as pa

from measuring import MB, Kind, descendants, images_folder, parser, report, save, use_shared_keras_home
from orchard.features.artifact import Artifact, EngineName
from orchard.features.backbones import DEFAULT_BACKBONE, find
from orchard.features.conversion import build_artifact
from orchard.features.engines import load_engine, resolve_precision
from orchard.features.extraction import ExtractionResult, extract
from orchard.features.pending import find_pending
from orchard.features.worker import BUFFERED_IMAGES
from orchard.images.decoding import Decoded, Limits, decode
from orchard.images.sources import list_images
from orchard.layout import Dataset
from orchard.output import Output
from orchard.processes import LocalWorkers
from orchard.spark import session
from orchard.storage import S3Options
from orchard.tasks import SparkWorkers
from orchard.workers import Workers

WARM_UP_IMAGES = 512


@dataclass(frozen=True)
class Turn:
    """One measured turn of both sides."""

    loop_seconds: float
    orchard_seconds: float
    tasks: int
    between_tasks_ms: float
    """For each task, what its slot spent outside of the task's own work: scheduling, commits, idling at the end."""
    whole_overhead_ms: float
    """For each task, what its slot spent beyond the bare loop: the above, and reading, digests, Parquet, writing."""
    worker_peak_bytes: int
    """Of the largest Python worker."""

    @property
    def ratio(self) -> float:
        """Orchard's images per second as a share of the bare loop's."""
        return self.loop_seconds / self.orchard_seconds


class BareLoop:
    """Processes that hold the images' bytes and a compiled network, and wait."""

    def __init__(self, artifact: Artifact, paths: Sequence[str], processes: int) -> None:
        context: SpawnContext = multiprocessing.get_context("spawn")
        self._next = context.Value("q", 0)
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_loop, args=(theirs, self._next, artifact, paths), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def run(self, images: int) -> tuple[float, int]:
        """Featurize the first `images`; return the seconds until all are done, and how many could be decoded."""
        self._next.value = 0
        started = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(images)
        featurized = sum(pipe.recv() for pipe in self._pipes)
        return time.perf_counter() - started, featurized

    def stop(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join()


def _loop(pipe: Connection, shared: Any, artifact: Artifact, paths: Sequence[str]) -> None:
    contents = [Path(path).read_bytes() for path in paths]
    engine = load_engine(artifact)
    limits = Limits()
    pipe.send("ready")
    while True:
        try:
            images = pipe.recv()
        except EOFError:
            return
        kept = []
        while True:
            with shared.get_lock():
                start = shared.value
                shared.value += BUFFERED_IMAGES
            if start >= images:
                break
            batch = contents[start : min(start + BUFFERED_IMAGES, images)]
            decoded = (decode(data, engine.input_size, limits) for data in batch)
            kept.append(engine([image.pixels for image in decoded if isinstance(image, Decoded)]))
        pipe.send(sum(len(features) for features in kept))


def _extract(workers: Workers, folder: Path, images: pa.Table, artifact: Artifact) -> tuple[ExtractionResult, int]:
    """Extract to a new output; return what was done, and how many images were featurized."""
    output = Output(str(folder))
    with output.writing():
        result = extract(workers, output, images, artifact, limits=Limits(), s3=S3Options(), progress=lambda _: None)
    rows = output.rows(Dataset.FEATURES)
    shutil.rmtree(folder)
    return result, rows


def _turn(workers: Workers, loop: BareLoop, scratch: Path, *, images: pa.Table, artifact: Artifact, slots: int) -> Turn:
    warm_up = min(WARM_UP_IMAGES, images.num_rows)
    loop.run(warm_up)
    before, looped = loop.run(images.num_rows)
    _extract(workers, scratch / "warm-up", images.slice(0, warm_up), artifact)
    result, featurized = _extract(workers, scratch / "measured", images, artifact)
    loop.run(warm_up)
    loop_seconds = (before + loop.run(images.num_rows)[0]) / 2
    if result.images != images.num_rows or featurized != looped:
        raise SystemExit(
            f"The sides disagree: {images.num_rows} images, {looped} by the loop, {featurized} by Orchard."
        )
    peaks = [process.peak for process, kind in descendants(os.getpid()) if kind is Kind.WORKER]
    return Turn(
        loop_seconds=loop_seconds,
        orchard_seconds=result.seconds,
        tasks=result.tasks,
        between_tasks_ms=1000 * (slots * result.seconds - result.worker_seconds) / result.tasks,
        whole_overhead_ms=1000 * slots * (result.seconds - loop_seconds) / result.tasks,
        worker_peak_bytes=max(peaks),
    )


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbone", default=DEFAULT_BACKBONE)
    arguments.add_argument("--weights", default="imagenet", help="imagenet, random, or a file [%(default)s]")
    arguments.add_argument("--precision", default="auto", help="auto, float32 or bfloat16 [%(default)s]")
    arguments.add_argument("--processes", type=int, default=2, help="of the loop, and slots of Spark [%(default)s]")
    arguments.add_argument("--spark", action="store_true", help="let Spark's workers do it, as in a cluster")
    given = arguments.parse_args()

    use_shared_keras_home()
    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=given.scratch))
    precision = resolve_precision(given.precision, EngineName.OPENVINO)
    artifact = build_artifact(find(given.backbone), weights=given.weights, precision=precision)
    source = images_folder(given.images, scratch, at_least=given.limit or 2000)
    listing = list_images(str(source), S3Options(), limit=given.limit, labels=None, seed=0).table
    images = find_pending(
        Output(str(scratch / "empty")), listing, prune=False, retry_rejected=False, test_fraction=0.2, seed=0
    ).images
    loop = BareLoop(artifact, images["path"].to_pylist(), given.processes)
    workers: Workers
    if given.spark:
        conf = {"spark.default.parallelism": str(given.processes)}
        spark = session.start(master=f"local[{given.processes}]", conf=conf)
        workers = SparkWorkers(lambda: spark)
    else:
        workers = LocalWorkers(given.processes)
    try:
        turns = []
        for n in range(1, given.repeat + 1):
            turns.append(_turn(workers, loop, scratch, images=images, artifact=artifact, slots=given.processes))
            print(f"turn {n} of {given.repeat}: {turns[-1].ratio:.3f}", flush=True)
    finally:
        loop.stop()
        workers.close()
        if given.spark:
            spark.stop()
        shutil.rmtree(scratch, ignore_errors=True)

    n = images.num_rows
    ratio = statistics.median(turn.ratio for turn in turns)
    worker = max(turn.worker_peak_bytes for turn in turns)
    report(
        f"{n:,} images of {source}, {artifact.backbone}, {artifact.engine} {artifact.precision}, "
        f"{given.processes} processes",
        (
            "turn",
            "bare loop, images/s",
            "Orchard, images/s",
            "ratio",
            "tasks",
            "between tasks, ms a task",
            "all, ms a task",
        ),
        [
            (
                str(number),
                f"{n / turn.loop_seconds:,.0f}",
                f"{n / turn.orchard_seconds:,.0f}",
                f"{turn.ratio:.3f}",
                str(turn.tasks),
                f"{turn.between_tasks_ms:.0f}",
                f"{turn.whole_overhead_ms:.0f}",
            )
            for number, turn in enumerate(turns, 1)
        ],
        (
            f"median ratio {ratio:.3f} (target: at least 0.90)",
            f"largest Python worker {worker / MB:,.0f} MB resident (target: under 500 MB)",
        ),
    )
    save(
        given.json,
        {
            "images": n,
            "backbone": artifact.backbone,
            "precision": artifact.precision,
            "processes": given.processes,
            "turns": [asdict(turn) | {"ratio": turn.ratio} for turn in turns],
            "median_ratio": ratio,
            "worker_peak_bytes": worker,
        },
    )


if __name__ == "__main__":
    main()
