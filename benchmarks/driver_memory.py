"""The memory of the driver's Python by the number of images: what it holds of listing and inventory.

    python benchmarks/driver_memory.py --rows 100000 1000000

Rows are made, with paths of 80 characters, 100 labels and 2 kinds; no image is there, none is decoded, and Spark is not
started. Each size is measured in a process of its own, as the kernel's high-water mark at the end of each step, beyond
what it was with everything imported: the first run's list of what is to do, a later run's, and the metrics' counts. The
later run finds one image in ten new, and has both the listing and the inventory in memory.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

import measuring
from orchard import summary
from orchard.features.pending import find_pending
from orchard.layout import FEATURES, INVENTORY, LISTING, Dataset
from orchard.output import Output

FILE_ROWS = 500
"""Of a file of the inventory: a task takes some five seconds."""
COMMIT_FILES = 40


def names(start: int, stop: int) -> dict[str, list[object]]:
    """Return what listing and inventory share, of rows from `start` to `stop`."""
    rows = range(start, stop)
    labels = [f"Label number {row % 100:02d}" for row in rows]
    return {
        "path": [f"s3a://bucket/a-collection/of-photographs/{labels[row - start]}/{row:029d}.jpg" for row in rows],
        "size": [100_000 + row % 1000 for row in rows],
        "version": [hashlib.md5(str(row).encode(), usedforsecurity=False).hexdigest() for row in rows],
        "label": list(labels),
        "kind": [f"Kind {row % 2}" for row in rows],
        "split": ["test" if row % 5 == 0 else "train" for row in rows],
        "group": [None] * len(rows),
    }


def listing(rows: int) -> pa.Table:
    """Return a listing of so many images."""
    pieces = [measuring.made(LISTING, names(at, min(at + 10_000, rows))) for at in range(0, rows, 10_000)]
    return pa.concat_tables(pieces)


def fill(output: Output, rows: int) -> None:
    """Commit so many images, as an extraction does, but for their features."""
    with output.writing():
        files = []
        for at in range(0, rows, FILE_ROWS):
            found = names(at, min(at + FILE_ROWS, rows))
            many = len(found["path"])
            found |= {"digest": found["version"], "featurized": [True] * many, "format": ["JPEG"] * many}
            found |= {"brightness": [0.5] * many, "sharpness": [1.0] * many}
            files.append(output.stage(Dataset.INVENTORY, measuring.made(INVENTORY, found)))
            if len(files) == COMMIT_FILES or at + FILE_ROWS >= rows:
                output.commit({Dataset.INVENTORY: files})
                files = []
        output.commit({Dataset.FEATURES: [output.stage(Dataset.FEATURES, FEATURES.empty_table())]})


def peak() -> float:
    """Return this process' high-water mark in MB, and begin a new one."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / measuring.MB


def steps(rows: int, folder: str) -> Iterator[float]:
    """Yield the high-water mark of each step over an output that holds nine in ten of the images."""
    common = {"prune": False, "retry_rejected": False, "test_fraction": 0.2, "seed": 42}
    peak()
    yield peak()
    images = listing(rows)
    find_pending(Output(f"{folder}/empty"), images, **common)  # type: ignore[arg-type]
    yield peak()
    output = Output(f"{folder}/filled")
    find_pending(output, images, **common)  # type: ignore[arg-type]
    yield peak()
    del images
    summary.metrics(output, decoded=0, seconds={})
    yield peak()


def main() -> None:
    """Measure each size in processes of its own."""
    parser = measuring.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="images [%(default)s]")
    parser.add_argument("--child", help="of the folder to measure in: of the benchmark itself")
    arguments = parser.parse_args()
    if arguments.child:
        print(*steps(arguments.rows[0], arguments.child))
        return
    table = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
            fill(Output(f"{folder}/filled"), rows * 9 // 10)
            command = [sys.executable, __file__, "--rows", str(rows), "--child", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            base, *found = map(float, done.stdout.split()[-4:])
        table.append([f"{rows:,}", *(f"{value - base:,.0f}" for value in found), f"{max(found):,.0f}"])
    headers = ["images", "a first run, MB", "a later run, MB", "metrics, MB", "process, MB"]
    measuring.report("driver's Python beyond its imports", headers, table, [])


if __name__ == "__main__":
    main()
