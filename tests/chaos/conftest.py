"""What the chaos suite shares: a proxy that fails, processes to kill, and results to compare."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import orchard
from orchard import child
from orchard.images.sample import write_sample
from orchard.layout import PREDICTIONS, SCHEMAS, Dataset
from orchard.output import Output
from orchard.storage import S3Options

from .proxy import FaultProxy, fault_proxy


@pytest.fixture(scope="session")
def proxy(s3_server: Any) -> Iterator[FaultProxy]:
    """The proxy in front of the S3 server; without a schedule it does no harm."""
    with fault_proxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def fruits_drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 drawn fruits of nine labels, and two broken files."""
    folder = tmp_path_factory.mktemp("drawn")
    write_sample(folder, train=6, test=2, broken=2)
    return folder


class Result:
    """What an output holds, as any Parquet reader sees it, which knows nothing of the log.

    After a kill some of it may be missing (`finished` false), but nothing is there twice.
    """

    def __init__(self, url: str, s3: S3Options | None = None, *, finished: bool = True) -> None:
        output = Output(url, s3)
        self.tables: dict[Dataset, pa.Table] = {}
        for dataset, schema in SCHEMAS.items():
            files = [entry.key for entry in output.storage.list(f"{dataset}/") if entry.key.endswith(".parquet")]
            tables = [pq.read_table(output.storage.open(key)).cast(schema) for key in sorted(files)]
            table = pa.concat_tables([schema.empty_table(), *tables])
            keys = ["path", "classifier"] if schema is PREDICTIONS else ["path"]
            table = table.sort_by([(key, "ascending") for key in keys])
            assert table.group_by(keys).aggregate([]).num_rows == table.num_rows, f"{dataset} has a row twice"
            rows = output.rows(dataset)
            assert table.num_rows == rows or not finished, f"{dataset} has other rows than the log says"
            self.tables[dataset] = table

    def __getitem__(self, dataset: Dataset) -> pa.Table:
        return self.tables[dataset]

    def assert_same(self, other: "Result") -> None:
        """Make sure that both hold the same images, features, splits, components and predictions."""
        for dataset in (Dataset.FEATURES, Dataset.REJECTED, Dataset.INVENTORY):
            assert self[dataset].equals(other[dataset]), f"{dataset} differs"
        # Rows are added up in the order in which tasks ended, and training ends at a tolerance.
        close = {
            Dataset.REDUCED: {"pca_features": 1e-3},
            Dataset.PREDICTIONS: {"confidence": 0.02, "familiarity": 1e-3},
        }
        for dataset, numbers in close.items():
            mine, theirs = self[dataset], other[dataset]
            for name, tolerance in numbers.items():
                ours, others = (np.array(t[name].to_pylist(), np.float64) for t in (mine, theirs))
                assert np.allclose(np.abs(ours), np.abs(others), atol=tolerance), f"{dataset}.{name} differs"
            rest = [[t[name].to_pylist() for name in t.column_names if name not in numbers] for t in (mine, theirs)]
            same = [a == b for a, b in zip(zip(*rest[0], strict=True), zip(*rest[1], strict=True), strict=True)]
            least = len(same) * (0.99 if dataset is Dataset.PREDICTIONS else 1)
            assert sum(same) >= least, f"{dataset} differs"


SETTINGS: dict[str, Any] = {"classifiers": "linear_discriminant", "components": 8, "precision": "float32"}
"""Of all runs here: they are compared."""


@pytest.fixture(scope="session")
def undisturbed(spark: Any, s3_server: Any, source: str) -> Result:
    """What a run comes to that nothing happens to."""
    out = f"s3a://{s3_server.bucket()}/out"
    orchard.run(spark, source, out, s3_endpoint=s3_server.endpoint, **SETTINGS)
    return Result(out, s3_server.options)


@pytest.fixture(scope="session")
def source(s3_server: Any, fruits_drawn: Path) -> str:
    """The drawn fruits in a bucket."""
    bucket = s3_server.bucket()
    for image in fruits_drawn.rglob("*"):
        if image.is_file():
            target = s3_server.root / bucket / "fruits" / image.relative_to(fruits_drawn)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image.read_bytes())
    return f"s3a://{bucket}/fruits"


FLAGS = ["--classifiers=linear_discriminant", "--components=8", "--precision=float32", "--master=local[2]"]
SECONDS = 600
"""A run that takes longer hangs."""


Process = subprocess.Popen[str]


@contextmanager
def started(
    source: str | Path,
    output: str | Path,
    *flags: str,
    program: Sequence[str] = ("-m", "orchard"),
    does: Sequence[str] = ("run", *FLAGS),
    **variables: str,
) -> Iterator[Process]:
    """`orchard run` in a process that does not survive the block, nor do its children."""
    command = [sys.executable, *program, does[0], str(source), "--output", str(output), *does[1:], *flags]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=child.environment(**variables),
    )
    try:
        yield process
    finally:
        for pid in (*descendants(process.pid), process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def descendants(process: int) -> dict[int, str]:
    """Return the process' children, their children and so on, with their command lines; the eldest first."""
    parents, commands = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
            commands[int(folder.name)] = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    found: dict[int, str] = {}
    new = [process]
    while new:
        new = [child for child, parent in parents.items() if parent in new and child in commands]
        found |= {child: commands[child] for child in new}
    return found


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """540 drawn fruits, enough for several commits, and two broken files."""
    folder = tmp_path_factory.mktemp("drawn")
    write_sample(folder, train=45, test=15)
    return folder


@dataclass(frozen=True)
class Whole:
    """A run that nothing happened to."""

    folder: Path
    result: Result
    seconds: float


@pytest.fixture(scope="session")
def whole(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What a run of all that is drawn comes to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    begun = time.monotonic()
    with started(drawn, out) as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    return Whole(out, Result(str(out)), time.monotonic() - begun)
