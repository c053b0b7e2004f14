"""Measures how fast this machine computes the sums of the stages after extraction.

It times the code of these stages on so few rows that it takes milliseconds. It uses one thread and measures CPU time,
so that other work on the machine is counted only once, as the probe's slowdown.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from orchard.datasets import list_column
from orchard.errors import ClusterError
from orchard.files import parquet_bytes
from orchard.layout import REDUCED
from orchard.neighbours.search import Nearest
from orchard.reduction.moments import Moments
from orchard.reduction.stage import as_csv
from orchard.report.thumbnails import POINT_PIXELS, thumbnail
from orchard.spark import jvm
from orchard.storage import S3Options, read_path

_FEATURES, _ROWS, _VALUES, _DIRECTIONS, _SORTED = 320, 256, 128, 128, 2**15
_REPEATS, _PICTURES = 2, 3
EIGEN_POWER = 2.6
"""The time of an eigendecomposition grows with this power of the number of features, between 320 and 1,280 of them."""


@dataclass(frozen=True)
class Speeds:
    """CPU seconds, on one core, for one operation of each kind.

    Attributes:
        eigen: an eigendecomposition of `_FEATURES` rows and columns.
        gram: one float64 product in a Gram matrix.
        product: one float32 product in a matrix product.
        pair: a comparison of two images in 128 directions, with recording the result.
        value: writing a number, to Parquet and CSV.
        sorting: sorting, for each entry times the binary logarithm of the number of entries.
        value_bytes: bytes of such a number on disk, in both formats together.
        slowdown: wall clock time of these operations divided by CPU time, 1 or more; above 1 other work used the CPU.
        launch: wall clock seconds of ``java -version``; without Java, of starting Python.
    """

    eigen: float
    gram: float
    product: float
    pair: float
    value: float
    sorting: float
    value_bytes: float
    slowdown: float
    launch: float

    def eigen_of(self, features: int) -> float:
        """Return the CPU seconds of an eigendecomposition of so many rows and columns."""
        return float(self.eigen * (features / _FEATURES) ** EIGEN_POWER)


def speeds() -> Speeds:
    """Measure a few operations of each kind, which takes some tenths of a second."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((_ROWS, _FEATURES)).astype(np.float32)
    gram = Moments.of(np.concatenate([rows, -rows])).gram
    vectors = random.standard_normal((_ROWS, _DIRECTIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = pa.array([f"/{number:08d}.jpg" for number in range(_ROWS)])
    values = random.standard_normal((_ROWS, _VALUES)).astype(np.float32)
    reduced = pa.record_batch([names, *[pa.array(["name"] * _ROWS)] * 3, list_column(values)], schema=REDUCED)
    numbers, labels = np.arange(_ROWS), np.arange(_ROWS) % 8
    unsorted = random.standard_normal(_SORTED)
    n_bytes = [0]

    def write() -> None:
        text = as_csv(reduced, header=True)
        # Of its digits, Huffman coding leaves half.
        n_bytes[0] = text.size // 2 + parquet_bytes(pa.Table.from_batches([reduced])).size

    def compare() -> None:
        nearest = Nearest.none(_ROWS)
        nearest.meet(vectors, vectors, numbers, itself=numbers, labels=labels, base_labels=labels)

    with threadpool_limits(1):
        began, worked = time.perf_counter(), time.thread_time()
        return Speeds(
            eigen=_seconds(lambda: np.linalg.eigh(gram)),
            gram=_seconds(lambda: Moments.of(rows)) / (_ROWS * _FEATURES**2),
            product=_seconds(lambda: rows @ rows.T) / (_ROWS**2 * _FEATURES),
            pair=_seconds(compare) / _ROWS**2,
            value=_seconds(write) / (_ROWS * _VALUES),
            sorting=_seconds(lambda: np.argsort(unsorted)) / (_SORTED * math.log2(_SORTED)),
            value_bytes=n_bytes[0] / (_ROWS * _VALUES),
            slowdown=max(1.0, (time.perf_counter() - began) / max(time.thread_time() - worked, 1e-6)),
            launch=launch(),
        )


def picture_seconds(images: pa.Table, s3: S3Options) -> float:
    """Return the CPU seconds for one small picture of the report, measured with `images`."""
    took = []
    for path in images["path"][:_PICTURES].to_pylist():
        with suppress(OSError, ValueError):  # one that cannot be read or decoded has none
            content = read_path(path, s3)
            took.append(_seconds(partial(thumbnail, content, POINT_PIXELS)))
    return min(took, default=0.0)


@cache
def launch() -> float:
    """Return the seconds of starting a program, the unit in which Spark's start and jobs are counted."""
    took = []
    for _ in range(2):  # the first may have to read it from the disk
        started = time.perf_counter()
        try:
            jvm.check_java()
        except ClusterError:
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import numpy"], check=False)
        took.append(time.perf_counter() - started)
    return min(took)


def _seconds(work: Callable[[], object]) -> float:
    """Return the least processor time, in seconds, that one repeat of the work took."""
    work()
    least = float("inf")
    for _ in range(_REPEATS):
        started = time.thread_time()
        work()
        least = min(least, time.thread_time() - started)
    return least
