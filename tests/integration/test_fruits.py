"""The main job: all fruits, 12,158 photographs of 58 varieties, from the folder to the report."""

import json
import subprocess
import sys
from pathlib import Path


def test_all_fruits_end_to_end(fruits: Path, photographed: bool, tmp_path: Path) -> None:
    train, test, labels = (9280, 2878, 58) if photographed else (1760, 550, 11)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "orchard", "run", str(fruits), "--output", str(out)]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    images = metrics["images"]
    assert (images["listed"], images["featurized"], images["rejected"]) == (train + test, train + test, 0)
    # 0.987 and 0.980, give or take the processor's precision and the order of sums: a few of 2,878 images.
    regression, discriminant = (0.98, 0.975) if photographed else (0.95, 0.95)
    assert metrics["classifiers"]["logistic_regression"]["accuracy"] >= regression
    assert metrics["classifiers"]["linear_discriminant"]["accuracy"] >= discriminant
    selection, calibration = metrics["selection"], metrics["calibration"]
    assert (selection["split"], calibration["test_rows"]) == ("train", test)
    assert abs(selection["rows"] - train / 10) < 30, "a tenth of the training images"
    accuracies = {name: trial["accuracy"] for name, trial in selection["trials"].items()}
    assert accuracies[selection["chosen"]] >= max(accuracies.values()) - 0.01, "as good but for chance"
    # 0.963 and 0.994 in float32, 0.966 and 0.992 in int8.
    assert calibration["share_sure"] >= (0.95 if photographed else 0.9) and calibration["accuracy_sure"] >= 0.99
    assert metrics["classifiers"]["random_forest"]["accuracy"] > metrics["baseline"]["accuracy"] * labels / 6
    assert len(metrics["labels"]) == labels
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 decoded by this run" in second.stdout
