"""Whether two runs over the same images came to the same, whatever happened to either on its way."""

import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

TIE = 1e-5
"""Labels whose probabilities are nearer to each other than this may change places."""


def assert_same_results(one: Path, other: Path) -> None:
    """Check the outputs of two runs, each as any Parquet reader sees it.

    The same rows with the same features, the same k, the same explained variance, the same predictions but for ties.
    """
    for dataset in ("features", "rejected"):
        rows, others = (_by_path(folder, dataset) for folder in (one, other))
        assert rows == others, dataset
    found, expected = (json.loads((folder / "metrics.json").read_text())["pca"] for folder in (one, other))
    assert found["k"] == expected["k"]
    for figure in ("explained_variance", "explained_variance_ratio"):
        assert found[figure] == pytest.approx(expected[figure], abs=1e-9)
    said, expected_said = (_by_path(folder, "predictions", "classifier") for folder in (one, other))
    assert said.keys() == expected_said.keys()
    for key, row in said.items():
        for answer, confidence in (("predicted", "confidence"), ("predicted_kind", "kind_confidence")):
            if row[answer] != expected_said[key][answer]:
                # Each run has its own answer before the other's, so they differ by no more than these two.
                assert row[confidence] == pytest.approx(expected_said[key][confidence], abs=TIE), (key, answer)


def _by_path(folder: Path, dataset: str, *more: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = ds.dataset(folder / dataset).to_table().to_pylist()
    found = {(row["path"], *(row[name] for name in more)): row for row in rows}
    assert len(found) == len(rows), f"rows of {dataset} are there twice"
    return found
