"""Nearest training images of every image: seconds and memory by the number of images, and the index's recall.

    python benchmarks/neighbours.py --features out --rows 20000 100000 --json neighbours.json
    OPENBLAS_NUM_THREADS=1 python benchmarks/neighbours.py --features out --rows 100000 300000 1000000 --alone

Rows are made from the features of an output (`orchard extract`): a scene lies between two images of one label, and each
of its five photographs differs from it by a tenth of the difference of two images. So as there are more images there
are more scenes, not more alike ones, as in a collection that grows. Features are projected on their 160 leading
directions first, so that a million fit on a disk; the space takes 128 of them.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import measuring
from orchard.datasets import list_column, matrix
from orchard.layout import FEATURES, Dataset
from orchard.neighbours.cells import CENTRE_ROWS, MAX_CELL_ROWS, MAX_CELLS
from orchard.neighbours.search import CELL_ROWS, Nearest, centres, probed
from orchard.neighbours.space import Space
from orchard.neighbours.stage import find_neighbours
from orchard.output import Output
from orchard.settings import load
from orchard.spark.session import Session

SHOTS = 5
WIDTH = 160
FILE_ROWS = 20_000
QUERIES, CHECKED = 20_000, 256


def real_rows(features: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return features of an output on their leading directions (n, WIDTH), sorted by label, and the labels."""
    rows = matrix(features["features"].combine_chunks())
    labels = np.array(features["label"].to_pylist())
    order = np.argsort(labels, kind="stable")
    return (rows @ Space.of(rows[:8192], WIDTH).directions)[order], labels[order]


def synthetic(
    real: NDArray[np.float32], labels: NDArray[np.str_], rows: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return `rows` rows of features made of real ones, and their labels."""
    starts = np.searchsorted(labels, labels)
    sizes = np.searchsorted(labels, labels, side="right") - starts
    one = rng.integers(0, len(real), -(-rows // SHOTS))
    other = starts[one] + rng.integers(0, 2**31, len(one)) % sizes[one]
    between = rng.random((len(one), 1), np.float32)
    scenes = np.repeat(real[one] * between + real[other] * (1 - between), SHOTS, axis=0)[:rows]
    noise = real[rng.integers(0, len(real), rows)] - real[rng.integers(0, len(real), rows)]
    return (scenes + 0.1 * noise).astype(np.float32), np.repeat(labels[one], SHOTS)[:rows]


def generate(output: Output, real: NDArray[np.float32], labels: NDArray[np.str_], rows: int) -> None:
    """Commit `rows` rows of features, a fifth of them for testing."""
    rng = np.random.default_rng(0)
    staged = []
    for start in range(0, rows, FILE_ROWS):
        n = min(FILE_ROWS, rows - start)
        values, names = synthetic(real, labels, n, rng)
        table = measuring.made(
            FEATURES,
            {
                "path": [f"/images/{name}/{i}.jpg" for i, name in enumerate(names, start)],
                "label": names,
                "split": np.where(rng.random(n) < 0.2, "test", "train"),
                "width": np.full(n, 100, np.int32),
                "height": np.full(n, 100, np.int32),
                "features": list_column(values),
            },
        )
        staged.append(output.stage(Dataset.FEATURES, table))
    output.commit({Dataset.FEATURES: staged})


def search_alone(real: NDArray[np.float32], labels: NDArray[np.str_], rows: int) -> dict[str, float]:
    """Search `QUERIES` of `rows` training rows by cells, without Spark, on one core; return CPU seconds and recall."""
    values, _ = synthetic(real, labels, rows, np.random.default_rng(0))
    space = Space.of(values[:8192])
    vectors = np.concatenate([space(values[start : start + FILE_ROWS]) for start in range(0, rows, FILE_ROWS)])
    del values
    rng = np.random.default_rng(1)
    count = min(-(-rows // CELL_ROWS), MAX_CELLS)
    began = time.process_time()
    found = centres(vectors[rng.choice(rows, min(rows, 64 * count, CENTRE_ROWS), replace=False)], count, seed=0)
    fitted = time.process_time()
    cell = np.concatenate([probed(vectors[s : s + FILE_ROWS], found, 1)[:, 0] for s in range(0, rows, FILE_ROWS)])
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], np.arange(count + 1))
    queries = rng.choice(rows, QUERIES, replace=False)
    assigned = time.process_time()
    probes = probed(vectors[queries], found)
    nearest = Nearest.none(QUERIES)
    unknown = np.full(QUERIES, -1)
    for number in range(count):
        mine = np.flatnonzero((probes == number).any(axis=1))
        base = order[starts[number] : starts[number + 1]][:MAX_CELL_ROWS]
        met = Nearest(nearest.rows[mine], nearest.similarities[mine], nearest.other[mine])
        met.meet(vectors[queries[mine]], vectors[base], base, itself=queries[mine], labels=unknown[mine],
                 base_labels=np.zeros(len(base), int))  # fmt: skip
        nearest.rows[mine], nearest.similarities[mine] = met.rows, met.similarities
    ended = time.process_time()
    exact = Nearest.none(CHECKED)
    exact.meet(vectors[queries[:CHECKED]], vectors, np.arange(rows), itself=queries[:CHECKED],
               labels=unknown[:CHECKED], base_labels=np.zeros(rows, int))  # fmt: skip
    return {
        "rows": rows,
        "centres": fitted - began,
        "assigning": (assigned - fitted) / rows,
        "searching": (ended - assigned) / QUERIES,
        "recall": float((nearest.similarities[:CHECKED] >= exact.similarities - 0.001).mean()),
        "first": float((nearest.similarities[:CHECKED, 0] >= exact.similarities[:, 0] - 0.001).mean()),
    }


def main() -> None:
    """Measure each number of rows in a fresh output, in one Spark session."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--features", type=Path, required=True, help="an output whose features are taken")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000, 300_000], help="[%(default)s]")
    parser.add_argument("--alone", action="store_true", help="the search itself, in one process, by its CPU time")
    arguments = parser.parse_args()
    source = Output(str(arguments.features))
    real, labels = real_rows(source.read(Dataset.FEATURES, ["label", "features"], FEATURES))
    if arguments.alone:
        alone = [search_alone(real, labels, rows) for rows in arguments.rows]
        measuring.report(
            "The search by cells, without Spark",
            ["images", "centres, s", "to a cell, ms an image", "search, ms an image", "recall", "of the nearest"],
            [
                [
                    f"{row['rows']:,}",
                    f"{row['centres']:.1f}",
                    f"{1000 * row['assigning']:.3f}",
                    f"{1000 * row['searching']:.3f}",
                    f"{row['recall']:.3f}",
                    f"{row['first']:.3f}",
                ]
                for row in alone
            ],
            ["CPU time of one process. Recall: of the five nearest of 256 images, those found, or others as near."],
        )
        measuring.save(arguments.json, {"alone": alone})
        return
    session = Session(load({}))
    found = []
    for rows in (2_000, *arguments.rows):  # the first is not measured: workers start
        folder = Path(tempfile.mkdtemp(prefix="neighbours-", dir=arguments.scratch))
        output = Output(str(folder))
        try:
            with output.writing():
                generate(output, real, labels, rows)
                Path("/proc/self/clear_refs").write_text("5")  # the driver's peak from here on
                with measuring.MemoryWatch(os.getpid()) as watch:
                    started = time.monotonic()
                    metrics = find_neighbours(session.workers, output)
                    seconds = time.monotonic() - started
        finally:
            shutil.rmtree(folder)
        peaks = {"driver": watch.peaks[measuring.Kind.DRIVER], "worker": watch.peaks.get(measuring.Kind.WORKER, 0)}
        found.append({"rows": rows, "seconds": seconds, "recall": metrics["recall"], **peaks})
    session.stop()
    measuring.report(
        "Nearest training images",
        ["images", "seconds", "ms an image", "recall", "driver, MB", "a worker, MB"],
        [
            [
                f"{row['rows']:,}",
                f"{row['seconds']:.1f}",
                f"{1000 * row['seconds'] / row['rows']:.3f}",
                "exact" if row["recall"] is None else f"{row['recall']:.3f}",
                f"{row['driver'] / measuring.MB:.0f}",
                f"{row['worker'] / measuring.MB:.0f}",
            ]
            for row in found[1:]
        ],
        ["Recall: of the five nearest of 256 images, those found, or others as near within 0.001."],
    )
    measuring.save(arguments.json, {"neighbours": found[1:]})


if __name__ == "__main__":
    main()
