"""What the chaos suite shares: seeds and how much to do, a proxy that fails, runs to compare, and a table of it all.

The gate runs a part of the suite; ``make chaos`` runs it ``CHAOS`` times as long. ``CHAOS_SEED`` chooses another course
of events, and the same seed the same one.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import orchard
from orchard.images.sample import write_sample
from orchard.layout import PREDICTIONS, SCHEMAS, Dataset
from orchard.output import Output
from orchard.storage import S3Options

from .proxy import FaultProxy, fault_proxy

TIMES = int(os.environ.get("CHAOS", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "10"))
SUMMARY = os.environ.get("CHAOS_SUMMARY")

Note = Callable[[str, int, str], None]
_notes: list[tuple[str, int, str, str]] = []


def seeds(few: int, many: int) -> list[int]:
    """Return the seeds of a parametrized test: few in the gate, many in ``make chaos``."""
    return [SEED * 1000 + n for n in range(few if TIMES == 1 else many)]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Put a line into the table: what was done, how often, what came out of it."""

    def add(what: str, times: int, outcome: str) -> None:
        _notes.append((what, times, outcome, request.function.__name__))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show what was done and what came out; write it to the file `CHAOS_SUMMARY` too."""
    rows: dict[tuple[str, str, str], int] = {}
    for what, times, outcome, test in _notes:
        rows[what, outcome, test] = rows.get((what, outcome, test), 0) + times
    lines = ["| what was done | times | what came out | test |", "| --- | ---: | --- | --- |"]
    lines += [f"| {what} | {times:,} | {outcome} | `{test}` |" for (what, outcome, test), times in rows.items()]
    if rows:
        terminalreporter.section("chaos")
        terminalreporter.write_line("\n".join(lines))
    if rows and SUMMARY:
        Path(SUMMARY).parent.mkdir(parents=True, exist_ok=True)
        Path(SUMMARY).write_text("\n".join(lines) + "\n")


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
        for dataset, numbers in ((Dataset.REDUCED, "pca_features"), (Dataset.PREDICTIONS, "confidence")):
            mine, theirs = self[dataset], other[dataset]
            assert mine.drop_columns(numbers).equals(theirs.drop_columns(numbers)), f"{dataset} differs"
            # Rows are added in the order in which tasks end, and sums of floats depend on it.
            ours, others = (np.array(t[numbers].to_pylist(), np.float64) for t in (mine, theirs))
            assert np.allclose(np.abs(ours), np.abs(others), atol=1e-3), f"{dataset}.{numbers} differs"


SETTINGS: dict[str, Any] = {"classifiers": "logistic_regression", "components": 8, "precision": "float32"}
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
