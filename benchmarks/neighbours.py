"""Nearest training images of every image: seconds and memory by the number of images, and the index's recall.

    python benchmarks/neighbours.py --features out --rows 20000 100000 1000000 --json neighbours.json

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

import measuring
from orchard import session
from orchard.datasets import lists, matrix
from orchard.layout import FEATURES, Dataset
from orchard.neighbours.space import Space
from orchard.neighbours.stage import find_neighbours
from orchard.output import Output

SHOTS = 5
WIDTH = 160
FILE_ROWS = 20_000


def generate(output: Output, features: pa.Table, rows: int) -> None:
    """Commit `rows` rows of features, a fifth of them for testing."""
    rng = np.random.default_rng(0)
    real = matrix(features["features"].combine_chunks())
    real = real @ Space.of(real[:8192], WIDTH).directions
    labels = np.array(features["label"].to_pylist())
    order = np.argsort(labels, kind="stable")
    real, labels = real[order], labels[order]
    starts = np.searchsorted(labels, labels)
    sizes = np.searchsorted(labels, labels, side="right") - starts
    staged = []
    for start in range(0, rows, FILE_ROWS):
        n = min(FILE_ROWS, rows - start)
        one = rng.integers(0, len(real), -(-n // SHOTS))
        other = starts[one] + rng.integers(0, 2**31, len(one)) % sizes[one]
        between = rng.random((len(one), 1), np.float32)
        scenes = np.repeat(real[one] * between + real[other] * (1 - between), SHOTS, axis=0)[:n]
        noise = real[rng.integers(0, len(real), n)] - real[rng.integers(0, len(real), n)]
        names = np.repeat(labels[one], SHOTS)[:n]
        table = pa.table(
            {
                "path": [f"/images/{name}/{i}.jpg" for i, name in enumerate(names, start)],
                "label": names,
                "kind": pa.nulls(n, pa.string()),
                "split": np.where(rng.random(n) < 0.2, "test", "train"),
                "width": np.full(n, 100, np.int32),
                "height": np.full(n, 100, np.int32),
                "features": lists((scenes + 0.1 * noise).astype(np.float32)),
            },
            schema=FEATURES,
        )
        staged.append(output.stage(Dataset.FEATURES, table))
    output.commit({Dataset.FEATURES: staged})


def main() -> None:
    """Measure each number of rows in a fresh output, in one Spark session."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--features", type=Path, required=True, help="an output whose features are taken")
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000, 300_000], help="[%(default)s]")
    arguments = parser.parse_args()
    source = Output(str(arguments.features))
    features = source.read(Dataset.FEATURES, ["label", "features"], FEATURES)
    spark = session.start()
    found = []
    for rows in (2_000, *arguments.rows):  # the first is not measured: Spark starts its workers
        folder = Path(tempfile.mkdtemp(prefix="neighbours-", dir=arguments.scratch))
        output = Output(str(folder))
        try:
            with output.writing():
                generate(output, features, rows)
                Path("/proc/self/clear_refs").write_text("5")  # the driver's peak from here on
                with measuring.MemoryWatch(os.getpid()) as watch:
                    started = time.monotonic()
                    metrics = find_neighbours(spark, output)
                    seconds = time.monotonic() - started
        finally:
            shutil.rmtree(folder)
        peaks = {"driver": watch.peaks[measuring.Kind.DRIVER], "worker": watch.peaks.get(measuring.Kind.WORKER, 0)}
        found.append({"rows": rows, "seconds": seconds, "recall": metrics["recall"], **peaks})
    spark.stop()
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
