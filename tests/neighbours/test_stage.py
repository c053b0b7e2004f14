"""Promises of the stage on Spark, on photographs: the true neighbours, exactly and by cells, with nothing left out."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from orchard.datasets import matrix
from orchard.layout import FEATURES, NEIGHBOURS, Dataset
from orchard.neighbours import cells
from orchard.neighbours.space import Space
from orchard.neighbours.stage import find_neighbours
from orchard.output import Output
from orchard.workers import Workers


def _neighbours(output: Output) -> pa.Table:
    return output.read(Dataset.NEIGHBOURS, NEIGHBOURS.names, NEIGHBOURS).sort_by("path")


def test_a_run_writes_the_true_neighbours_and_measures_what_they_say(trained: Path) -> None:
    output = Output(str(trained))
    features = output.read(Dataset.FEATURES, ["path", "label", "split", "features"], FEATURES).sort_by("path")
    found = _neighbours(output)
    assert found["path"].to_pylist() == features["path"].to_pylist()
    rows = matrix(features["features"].combine_chunks())
    is_train = np.asarray(pc.equal(features["split"], "train"))
    vectors = Space.of(rows[is_train])(rows)
    similarity = vectors @ vectors[is_train].T
    names = np.array(features["path"].to_pylist())
    similarity[names[:, None] == names[is_train]] = -np.inf
    best = np.sort(similarity, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(np.array(found["similarities"].to_pylist()), best, atol=1e-3)
    neighbours = found["neighbours"].to_pylist()
    assert all(len(set(row)) == 5 and name not in row for name, row in zip(names, neighbours, strict=True))
    assert {path for row in neighbours for path in row} <= set(names[is_train])

    metrics = output.property("neighbours")["metrics"]  # type: ignore[index]
    is_test = np.asarray(pc.equal(features["split"], "test"))
    near = found["similarities"].combine_chunks()
    nearest = pc.list_element(near, 0).to_numpy()
    assert metrics["near_twins"] == (nearest[is_test].astype(float) >= metrics["threshold"]).sum()
    assert sum(metrics["test"]["images"]) == metrics["test_rows"] == is_test.sum()
    assert metrics["near_twins"] > is_test.sum() / 2, "frames of turntables"
    apart = output.property("apart")["classifiers"]["linear_discriminant"]  # type: ignore[index]
    assert apart["test_rows_near"] == metrics["near_twins"]
    assert apart["test_rows"] + apart["test_rows_near"] == is_test.sum()


def test_the_index_finds_what_the_exact_search_finds_in_bounded_cells(
    trained: Path, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "CELL_ROWS", 100)
    output = Output(str(shutil.copytree(trained, tmp_path / "out")))
    exact = _neighbours(output)
    with output.writing():
        metrics = find_neighbours(workers, output, exact_rows=100)
    assert not metrics["exact"]
    assert metrics["recall"] is not None and metrics["recall"] > 0.95
    found = _neighbours(output)
    assert found["path"].to_pylist() == exact["path"].to_pylist()
    ours, true = (np.array(table["similarities"].to_pylist()) for table in (found, exact))
    assert (ours <= true + 2e-3).all(), "none is nearer than the nearest"
    assert np.isclose(ours[:, 0], true[:, 0], atol=2e-3).mean() > 0.99
    for path, row in zip(found["path"].to_pylist(), found["neighbours"].to_pylist(), strict=True):
        assert len(set(row)) == 5 and path not in row
