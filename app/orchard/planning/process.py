"""A child process that works on a few images as a worker does, to measure time and memory.

It says when it is ready, waits for a line, and then works, so that all of them work at the same time::

    folder/request.json, artifact, images.parquet, backgrounds.npz  ->  folder/result.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchard import child, memory
from orchard.errors import OrchardError
from orchard.features.apart import Decode, decoding
from orchard.features.artifact import Artifact
from orchard.features.engines import Engine, load_engine
from orchard.features.views import pictures
from orchard.features.worker import Drawn, TaskRows, encoded, worked_on
from orchard.images.decoding import Decoded, Limits
from orchard.images.reading import contents
from orchard.layout import REJECTED, Dataset
from orchard.storage import S3Options
from orchard.vocabulary import Fit

ARTIFACT, IMAGES, RESULT = "artifact", "images.parquet", "result.json"
BACKGROUNDS = "backgrounds.npz"
CHUNK = 8
"""Number of images between two looks at the clock."""


@dataclass(frozen=True)
class Request:
    """The task of a process, which it gets as JSON. Fit and averaged views are those of the artifact."""

    limits: Limits
    s3: S3Options
    views: int
    seed: int
    seconds: float
    """Seconds after which no further images are begun."""
    apart: bool = False
    """Whether to decode in another process: one of before has died."""

    @classmethod
    def of(cls, found: dict[str, Any]) -> Request:
        """Return it from the JSON that `orchard.child.request_of` has read."""
        return cls(**found | {"limits": Limits(**found["limits"]), "s3": S3Options(**found["s3"])})


@dataclass(frozen=True)
class Result:
    """The measurements of a process.

    Attributes:
        images: number of images that were tried, including rejected ones.
        featurized: number of these that were featurized.
        seconds: wall clock seconds for all of them, without reading.
        cpu_seconds: CPU seconds for all of them, without reading.
        read_seconds: seconds of reading them.
        compile_seconds: seconds to compile the network.
        single_seconds: seconds for one pass of the network, with one image.
        memory: peak memory of the process, in bytes.
        feature_bytes, view_bytes: bytes of an image's features, and of a random view's, on disk; 0: there were none.
        rejected: rows of `orchard.layout.REJECTED`.
    """

    images: int
    featurized: int
    seconds: float
    cpu_seconds: float
    read_seconds: float
    compile_seconds: float
    single_seconds: float
    memory: int
    feature_bytes: float
    view_bytes: float
    rejected: list[dict[str, str | None]]


def main(folder: Path) -> int:
    """Do the task that ``folder/request.json`` describes."""
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print
    try:
        request = Request.of(child.request_of(folder))
        artifact = Artifact.from_bytes((folder / ARTIFACT).read_bytes())
        images = pq.read_table(folder / IMAGES)
        started = time.perf_counter()
        found = list(contents(images, request.limits, request.s3))
        read = time.perf_counter()
        engine = load_engine(artifact)
        compiled = time.perf_counter()
        with decoding(apart=request.apart) as decode:
            single = _single_seconds(engine, artifact, found, request.limits, decode)
            lines.write("ready\n")
            if not sys.stdin.readline():  # the parent is gone
                return 0
            drawn = Drawn(request.views, request.seed, pictures((folder / BACKGROUNDS).read_bytes()))
            result = _measured(request, drawn, engine, images, found, fit=artifact.fit, decode=decode)
    except OrchardError as error:
        return child.leave_error(folder, error)
    times = {"read_seconds": read - started, "compile_seconds": compiled - read, "single_seconds": single}
    (folder / RESULT).write_text(json.dumps(result | times))
    return 0


def _single_seconds(engine: Engine, artifact: Artifact, found: list[Any], limits: Limits, decode: Decode) -> float:
    """Return the seconds of a pass of the network for one image; also warms everything up."""
    for data in found:
        image = decode(data, engine.decoded_size, limits, artifact.fit) if isinstance(data, bytes) else None
        if isinstance(image, Decoded):
            some = [image.pixels] * CHUNK
            engine.single(some)
            started = time.perf_counter()
            engine.single(some)
            return (time.perf_counter() - started) / CHUNK
    return 0.0


def _measured(
    request: Request,
    drawn: Drawn,
    engine: Engine,
    images: pa.Table,
    found: list[Any],
    *,
    fit: Fit,
    decode: Decode,
) -> dict[str, Any]:
    parts: list[dict[Dataset, pa.Table]] = []
    worked = 0
    started, cpu = time.perf_counter(), time.process_time()
    while worked < images.num_rows and (not worked or time.perf_counter() - started < request.seconds):
        part = images.slice(worked, CHUNK)
        rows: TaskRows = worked_on(
            part,
            found[worked : worked + CHUNK],
            engine,
            limits=request.limits,
            fit=fit,
            drawn=drawn,
            decode=decode,
        )
        parts.append(rows.tables())
        worked += part.num_rows
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu

    def together(dataset: Dataset) -> pa.Table | None:
        tables = [part[dataset] for part in parts if dataset in part]
        return pa.concat_tables(tables) if tables else None

    features, views = together(Dataset.FEATURES), together(Dataset.VIEWS)
    rejected = together(Dataset.REJECTED)
    return {
        "images": worked,
        "featurized": features.num_rows if features is not None else 0,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "memory": memory.peak(),
        "feature_bytes": _row_bytes(features),
        "view_bytes": _row_bytes(views),
        "rejected": (rejected if rejected is not None else REJECTED.empty_table()).to_pylist(),
    }


def _row_bytes(table: pa.Table | None) -> float:
    return encoded(table).size / table.num_rows if table is not None else 0.0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
