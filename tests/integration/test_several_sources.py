"""Several sources: accuracy by source, weights, and what is resumed, pruned and said."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import orchard
from orchard.classification import discriminant
from orchard.datasets import matrix
from orchard.errors import UsageError
from orchard.inference.linear import Linear
from orchard.layout import FEATURES, INVENTORY, PREDICTIONS, Dataset
from orchard.output import Output
from orchard.reduction.stage import load
from orchard.reduction.statistics import Sums


def test_sources_are_weighed_measured_resumed_and_pruned(spark: Any, painted: Path, tmp_path: Path) -> None:
    studio = str(shutil.copytree(painted / "Training", tmp_path / "studio"))
    market = str(shutil.copytree(painted / "Test", tmp_path / "market"))
    folder = tmp_path / "out"
    settings: dict[str, Any] = {"classifiers": "linear_discriminant", "source_weight": {market: 2}}

    def run(sources: Any, **changed: Any) -> Any:
        return orchard.run(spark, sources, str(folder), **settings | changed).metrics

    metrics = run([studio, market])
    assert metrics["images"]["listed"] == 90
    sources = metrics["sources"]
    assert {name: sum(of["images"].values()) for name, of in sources.items()} == {market: 18, studio: 72}
    assert {name: of["weight"] for name, of in sources.items()} == {market: 2, studio: 1}
    output = Output(str(folder))
    said = output.read(Dataset.PREDICTIONS, ["path", "label", "split", "predicted"], PREDICTIONS).to_pylist()
    for name, of in sources.items():
        test = [row for row in said if row["split"] == "test" and row["path"].startswith(f"{name}/")]
        measured = of["classifiers"]["linear_discriminant"]
        assert measured["test_rows"] == len(test) == of["images"]["test"] > 0
        assert measured["accuracy"] == np.mean([row["label"] == row["predicted"] for row in test])
    inventory = output.read(Dataset.INVENTORY, ["path", "source"], INVENTORY).to_pylist()
    assert all(row["path"].startswith(f"{row['source']}/") for row in inventory)
    report = (folder / "report.html").read_text()
    assert f"orchard run {studio} {market}" in report and f"--source-weight {market}=2.0" in report
    assert json.loads((folder / "run.json").read_text())["sources"] == [studio, market]

    # A weight of two is each image of that source twice, for the discriminant; scaler and PCA see it once.
    rows = output.read(Dataset.FEATURES, ["path", "label", "split", "features"], FEATURES)
    rows = rows.filter(np.array([split == "train" for split in rows["split"].to_pylist()]))
    twice = np.repeat(np.arange(rows.num_rows), [1 + path.startswith(market) for path in rows["path"].to_pylist()])
    sums = Sums.of(
        matrix(rows["features"].combine_chunks())[twice], {"label": [rows["label"][int(at)].as_py() for at in twice]}
    )
    expected = discriminant.fit(sums.labelled, sums.columns["label"], load(output)).linear
    found = Linear.from_bytes(output.classifier_files()["linear_discriminant.npz"], load(output))
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-3, atol=1e-3)
    assert load(output).n_samples_ == rows.num_rows

    commits = len(list((folder / "_orchard" / "commits").iterdir()))
    assert run([studio, market])["images"]["decoded"] == 0
    assert len(list((folder / "_orchard" / "commits").iterdir())) == commits, "nothing was left to do"
    other = run([studio, market], source_weight={})
    assert other["images"]["decoded"] == 0 and {of["weight"] for of in other["sources"].values()} == {1}
    with pytest.raises(UsageError, match="holds 18 images that the source, as selected, does not list"):
        run(studio, source_weight={})
    alone = run(studio, source_weight={}, prune=True)
    assert alone["images"]["listed"] == 72 and "sources" not in alone
    assert set(Output(str(folder)).read(Dataset.INVENTORY, ["source"], INVENTORY)["source"].to_pylist()) == {None}
