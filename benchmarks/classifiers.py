"""Classifiers: what they take and how good they are on an output, and how time and memory grow with the rows.

    python benchmarks/classifiers.py OUT --repeat 3                    # OUT: of orchard extract
    python benchmarks/classifiers.py --rows 10000 100000 1000000       # a made table of 256 components and 100 classes

OUT is copied, reduced, and classified from scratch in each turn, in one Spark session. "All" is the whole stage, with
reading, calibration, predictions and commits; "fitted by" is what the size of the table chose. Of made tables each size
is fitted in a process of its own: regression without and with the rows held out, then the forest, then the forest's
answers for all rows. Memory is the kernel's high-water mark of the driver's Python and JVM.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from measuring import MB, REPOSITORY, Kind, MemoryWatch, made, parser, report, save
from orchard.classification import regression
from orchard.classification.forest import grow
from orchard.classification.rows import Marked, Rows
from orchard.classification.stage import Classification
from orchard.datasets import batches, list_column, matrix
from orchard.files import DataFile
from orchard.layout import REDUCED, Dataset, FittedBy
from orchard.output import Output
from orchard.pipeline import Pipeline
from orchard.reduction.statistics import ClassSums, Role
from orchard.settings import Settings, load
from orchard.spark.session import Session
from orchard.storage import Storage

K, CLASSES, PART_ROWS = 256, 100, 16_384
LABELS = tuple(f"class {number:03}" for number in range(CLASSES))


def classify(out: Path, turns: int, settings: Settings) -> list[tuple[float, Classification]]:
    """Return the seconds of the stage, and what it found, of each turn but the first, which is not measured."""
    found: list[tuple[float, Classification]] = []
    with Pipeline(str(out), settings, must_exist=True) as pipeline:
        pipeline.reduce()
        for _ in range(turns + 1):
            pipeline.output.commit({}, properties={"classification": None})
            start = time.perf_counter()
            pipeline.classify()
            seconds = time.perf_counter() - start
            found.append((seconds, cast(Classification, pipeline.output.recall("classification"))))
    return found[1:]


def make(output: Output, rows: int) -> None:
    """Commit a reduced table of classes that overlap, of a spectrum that falls as components' do."""
    rng = np.random.default_rng(0)
    deviations = 10 * np.arange(1, K + 1) ** -0.5
    centres = rng.normal(size=(CLASSES, K)) * 0.4
    files = []
    for start in range(0, rows, PART_ROWS):
        classes = rng.integers(0, CLASSES, min(PART_ROWS, rows - start))
        values = ((centres[classes] + rng.normal(size=(len(classes), K))) * deviations).astype(np.float32)
        names = pa.array([f"/{number}.jpg" for number in range(start, start + len(classes))])
        labels = pa.array(LABELS).take(pa.array(classes))
        splits = pa.repeat(pa.scalar("train"), len(classes))
        columns = {"path": names, "label": labels, "split": splits, "pca_features": list_column(values)}
        files.append(output.stage(Dataset.REDUCED, made(REDUCED, columns)))
    output.commit({Dataset.REDUCED: files})


def marked(storage: Storage, file: DataFile) -> Marked:
    """Yield rows of which every tenth is held out."""
    start = 0
    for batch in batches(storage, file, ["path", "label", "pca_features"]):
        numbers = np.arange(start, start + len(batch))
        yield batch, np.where(numbers % 10 == 0, Role.HELD_OUT, Role.FIT).astype(np.int8)
        start += len(batch)


def sums(rows: Rows) -> tuple[ClassSums, ClassSums, NDArray[np.float64]]:
    """Return the classes of the rows to fit on and of all rows, and the variances of the components."""
    fitted, everything, squares, n = None, None, np.zeros(K), 0
    for batch, roles in rows:
        names = batch.column("label").to_pylist()
        one = ClassSums.of(np.zeros((len(names), 1)), names)
        to_fit = [name if role == Role.FIT else None for name, role in zip(names, roles, strict=True)]
        chosen = ClassSums.of(np.zeros((len(names), 1)), to_fit)
        everything, fitted = (everything.merge(one), fitted.merge(chosen)) if everything and fitted else (one, chosen)
        values = matrix(batch.column("pca_features"))
        squares, n = squares + np.square(values, dtype=np.float64).sum(axis=0), n + len(values)
    assert fitted is not None and everything is not None
    return fitted, everything, squares / n


def one_size(rows: int, settings: Settings, scratch: Path) -> list[str]:
    """Return a line of the table of growth."""
    output = Output(str(scratch / str(rows)))
    with output.writing():
        make(output, rows)
    table = Rows(output.files(Dataset.REDUCED), partial(marked, output.storage))
    fitted, everything, variances = sums(table)
    memory = settings.classifier_bytes
    by = regression.fitted_by(rows, K, CLASSES, memory)
    session = Session(settings)
    if by is FittedBy.SPARK_ML:
        session.start()
    with MemoryWatch(os.getpid()) as watch:
        clock, cpu = [time.perf_counter()], [time.process_time()]
        _, model, lack = regression.fit(
            lambda: session.spark, table, fitted, everything, variances, twice=True, memory=memory
        )
        clock.append(time.perf_counter())
        cpu.append(time.process_time())
        forest, _ = grow(table, rows, LABELS, seed=0, memory=memory)
        clock.append(time.perf_counter())
        cpu.append(time.process_time())
        assert forest is not None
        for batch, _ in table:
            forest(matrix(batch.column("pca_features")))
        clock.append(time.perf_counter())
        cpu.append(time.process_time())
    if model is None:
        print(lack, file=sys.stderr)
    held = sum(watch.peaks.get(kind, 0) for kind in (Kind.DRIVER, Kind.JVM)) / MB
    seconds = (f"{wall:.1f} ({mine:.1f})" for wall, mine in zip(np.diff(clock), np.diff(cpu), strict=True))
    return [f"{rows:,}", str(by), *seconds, f"{held:,.0f}"]


def main() -> None:
    """Measure an output, or made tables."""
    arguments = parser(__doc__)
    arguments.add_argument("output", nargs="?", type=Path, help="an output of orchard extract")
    arguments.add_argument("--rows", type=int, nargs="+", help="sizes of made tables")
    arguments.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of the classifiers")
    arguments.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    settings = load(dict(pair.split("=", 1) for pair in given.set))
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        if given.one:
            print(*one_size(given.rows[0], settings, Path(scratch)), sep="|")
        elif given.rows:
            rows = [
                subprocess.run(
                    [sys.executable, __file__, "--one", "--rows", str(n), "--set", *given.set, "--scratch", scratch],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=REPOSITORY,
                )
                .stdout.split("\n")[-2]
                .split("|")
                for n in given.rows
            ]
            headers = ["rows", "regression by", "regression, s", "forest, s", "its answers, s", "driver, MB"]
            report(
                f"{K} components, {CLASSES} classes; in brackets CPU seconds of the driver's Python", headers, rows, []
            )
            save(given.json, {"growth": rows})
        elif given.output:
            out = Path(scratch, "out")
            shutil.copytree(given.output, out)
            turns = classify(out, given.repeat, settings)
            names = list(turns[0][1]["classifiers"])
            last = turns[-1][1]["classifiers"]
            table = [
                [
                    name,
                    last[name]["fitted_by"],
                    f"{last[name]['accuracy']:.4f}",
                    ", ".join(f"{found['classifiers'][name]['seconds']:.2f}" for _, found in turns),
                ]
                for name in names
            ]
            all_of_it = ", ".join(f"{seconds:.2f}" for seconds, _ in turns)
            median = statistics.median(seconds for seconds, _ in turns)
            lines = [f"all: {all_of_it} s; median {median:.2f} s", *turns[-1][1]["warnings"]]
            report(str(given.output), ["classifier", "fitted by", "accuracy", "seconds"], table, lines)
            save(given.json, {"seconds": [seconds for seconds, _ in turns], "classifiers": last})
        else:
            arguments.error("name an output, or sizes (--rows)")


if __name__ == "__main__":
    main()
