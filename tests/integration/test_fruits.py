"""The main job: 12,158 photographs of 58 varieties, from the folder to the report."""

import json
import subprocess
import sys
from pathlib import Path


def test_all_fruits_end_to_end(fruits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "orchard", "run", str(fruits), "--output", str(out)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    images = metrics["images"]
    assert (images["listed"], images["featurized"], images["rejected"]) == (12158, 12158, 0)
    # 0.980 to 0.983, by the processor's precision and the order of sums: a few of 2,878 images.
    assert metrics["classifiers"]["logistic_regression"]["accuracy"] >= 0.977
    assert metrics["classifiers"]["random_forest"]["accuracy"] > metrics["baseline"]["accuracy"] * 10
    assert len(metrics["labels"]) == 58
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 decoded by this run" in second.stdout
