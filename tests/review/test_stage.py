"""From wrong labels to a corrected list and back, on real photographs, without an image decoded again."""

import csv
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

import orchard
from orchard.layout import INVENTORY, SUSPECTS, Dataset, Metrics
from orchard.output import Output
from orchard.pipeline import Pipeline
from orchard.settings import load


def labels_of(output: Path) -> dict[str, str]:
    images = Output(str(output)).read(Dataset.INVENTORY, ["path", "label"], INVENTORY)
    return dict(zip(images["path"].to_pylist(), images["label"].to_pylist(), strict=True))


def suspects(output: Path) -> list[dict[str, str]]:
    with (output / "review" / "suspects.csv").open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def write(file: Path, rows: list[dict[str, str]]) -> str:
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, SUSPECTS.names)
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


def test_wrong_labels_are_found_and_a_corrected_list_is_taken_back(
    spark: SparkSession, fruits: Path, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    right = labels_of(output)
    train = sorted(path for path in right if "/Training/" in path)
    names = sorted(set(right.values()))
    random = np.random.default_rng(0)
    wrong = {
        path: str(random.choice([n for n in names if n != right[path]])) for path in random.choice(train, 88, False)
    }
    gone = next(path for path in train if path not in wrong)

    def run(corrections: str) -> Metrics:
        given = {"labels": names, "precision": "float32", "corrections": corrections}
        with Pipeline(str(output), load(given), spark) as pipeline:
            pipeline.extract(str(fruits))
            pipeline.reduce()
            pipeline.review()
            pipeline.finish()
        metrics: Metrics = json.loads((output / "metrics.json").read_text())
        return metrics

    rows = [{"path": path, "corrected": label} for path, label in wrong.items()]
    metrics = run(write(tmp_path / "flipped.csv", [*rows, {"path": gone, "drop": "yes"}]))
    assert metrics["images"]["decoded"] == 0
    assert metrics["images"]["listed"] == len(right) - 1
    assert metrics["corrections"] == {"relabelled": 88, "dropped": 1}
    assert labels_of(output) == {path: label for path, label in (right | wrong).items() if path != gone}

    listed = [row for row in suspects(output) if row["fault"] == "label" and row["split"] == "train"]
    top = listed[: round(0.06 * len(train))]
    found = [row for row in top if row["path"] in wrong]
    assert len(found) >= 0.8 * len(wrong)
    assert sum(row["suggested"] == right[row["path"]] for row in found) > 0.9 * len(found)
    assert metrics["review"]["faults"]["label"] == len([row for row in suspects(output) if row["fault"] == "label"])

    accepted = [{**row, "corrected": row["suggested"]} for row in found]
    metrics = run(write(tmp_path / "corrected.csv", accepted))
    mended = labels_of(output)
    assert [mended[row["path"]] for row in found] == [row["suggested"] for row in found]
    # The list says what differs from the source: without the first one its labels are the source's again.
    assert metrics["images"]["decoded"] == 1
    assert metrics["images"]["listed"] == len(right)
    assert sum(mended[path] != right[path] for path in right) < 0.1 * len(wrong)
    assert pa.compute.sum(Output(str(output)).read(Dataset.INVENTORY, ["featurized"], INVENTORY)[0]).as_py() == len(
        right
    )


def test_what_somebody_wrote_into_the_list_itself_is_kept(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    shutil.copytree(trained, output)

    def review() -> list[Path]:
        with Pipeline(str(output), load({"precision": "float32"})) as pipeline:
            pipeline.output.commit({}, properties={"review": None})
            pipeline.review()
        return sorted(output.glob("review/corrected-*.csv"))

    assert review() == []
    first, *others = suspects(output)
    write(output / "review" / "suspects.csv", [first | {"corrected": "Mango"}, *others])
    written = (output / "review" / "suspects.csv").read_bytes()
    (kept,) = review()
    assert kept.read_bytes() == written and f"is kept as review/{kept.name}" in caplog.text
    assert suspects(output) == [first, *others]
    assert review() == [kept]
    shutil.copyfile(output / "metrics.json", output / "review" / "suspects.csv")  # another table, or none at all
    assert len(review()) == 2
    erased = orchard.erase(str(output), [first["path"]])
    assert f"review/{kept.name}" in erased["files"]
    assert first["path"].encode() not in kept.read_bytes() and len(kept.read_bytes().splitlines()) == len(others) + 1


def test_the_review_of_a_run_is_in_its_metrics_and_in_its_report(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["review"]["judged"] == metrics["images"]["featurized"]
    assert metrics["data"]["formats"] == {"JPEG": metrics["images"]["featurized"]}
    assert metrics["data"]["shapes"]["square"] == metrics["images"]["featurized"]
    assert len(suspects(trained)) == metrics["review"]["images"]
    images = Output(str(trained)).read(Dataset.INVENTORY, ["brightness", "sharpness"], INVENTORY)
    assert images["brightness"].null_count == images["sharpness"].null_count == 0
    assert all(0 < value < 1 for value in images["brightness"].to_pylist())
    page = (trained / "report.html").read_text()
    assert 'id="review"' in page
    assert 'id="images"' in page


def test_most_labels_that_are_made_wrong_are_among_the_most_suspect(trained: Path) -> None:
    """What the benchmark measures on all fruits and groceries, on eleven fruits: 88 of 1,760 labels are made wrong."""
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "honesty_suspects.py"))
    found = benchmark["measure"](str(trained))
    assert found["flipped"] == 88
    assert found["recall"] >= 0.9
    assert found["suggested_right"] >= 0.9
