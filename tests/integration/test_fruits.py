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
    # 0.987 and 0.980, give or take the processor's precision and the order of sums: a few of 2,878 images.
    assert metrics["classifiers"]["logistic_regression"]["accuracy"] >= 0.98
    assert metrics["classifiers"]["linear_discriminant"]["accuracy"] >= 0.975
    selection, calibration = metrics["selection"], metrics["calibration"]
    assert (selection["split"], calibration["test_rows"]) == ("train", 2878)
    assert 900 < selection["rows"] < 960, "a tenth of the training images"
    accuracies = {name: trial["accuracy"] for name, trial in selection["trials"].items()}
    assert accuracies[selection["chosen"]] >= max(accuracies.values()) - 0.01, "as good but for chance"
    # 0.963 and 0.994 in float32, 0.966 and 0.992 in int8.
    assert calibration["share_sure"] >= 0.95 and calibration["accuracy_sure"] >= 0.99
    assert metrics["classifiers"]["random_forest"]["accuracy"] > metrics["baseline"]["accuracy"] * 10
    assert len(metrics["labels"]) == 58
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 decoded by this run" in second.stdout
