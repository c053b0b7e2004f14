"""A whole run: every dataset and file as promised, and nothing lost."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import orchard
from orchard.cards import Cards
from orchard.exports.formats import Format, card_beside
from orchard.exports.writing import export
from orchard.features.artifact import Artifact
from orchard.features.engines import load_engine
from orchard.images.decoding import Decoded, Limits, decode
from orchard.inference.calibration import softmax
from orchard.inference.familiarity import Familiarity
from orchard.inference.model import Model
from orchard.layout import FEATURES, INVENTORY, NEIGHBOURS, PREDICTIONS, REDUCED, REJECTED
from orchard.reduction.pca import Reduction

from .conftest import COLOURS, Result, paint

Run = Callable[..., Result]


def settings(folder: Path) -> dict[str, Any]:
    """Of the run that is looked at."""
    return {"group_by": "frames", "kind_from": "words", "cards": str(folder / "cards.csv")}


@pytest.fixture(scope="module")
def whole(spark: Any, painted: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """One run with both classifiers and three broken files, for the tests that only look."""
    folder = tmp_path_factory.mktemp("whole")
    photos = Path(shutil.copytree(painted, folder / "photos"))
    (photos / "Training" / "Lemon #2" / ".hidden.jpg").write_bytes(b"")
    (photos / "Training" / "Lemon #2" / "_page.jpg").write_text("<!DOCTYPE html><html>Not found</html>")
    whole_file = next((photos / "Test" / "Lemon #2").iterdir()).read_bytes()
    (photos / "Test" / "Lemon #2" / "half.jpg").write_bytes(whole_file[: len(whole_file) // 2])
    (photos / "LICENSE").write_text("You may look at these.")
    (folder / "cards.csv").write_text("label,kind,language,name\n,Plum,fr,Prune\n")
    outcome = orchard.run(spark, str(photos), str(folder / "out"), **settings(folder))
    assert outcome.within_limits
    return Result(folder / "out", json.loads((folder / "out" / "metrics.json").read_text()))


@pytest.mark.parametrize(
    ("dataset", "schema"),
    [
        ("features", FEATURES),
        ("rejected", REJECTED),
        ("inventory", INVENTORY),
        ("reduced", REDUCED),
        ("neighbours", NEIGHBOURS),
        ("predictions", PREDICTIONS),
    ],
)
def test_each_dataset_has_its_columns_and_types(whole: Result, dataset: str, schema: Any) -> None:
    found = whole.table(dataset).schema
    assert found.names == schema.names
    for name in schema.names:
        assert found.field(name).type.equals(schema.field(name).type) or (
            # Parquet calls the items of a list "element"; the type is the same.
            found.field(name).type.value_type == schema.field(name).type.value_type
        )


def test_every_image_is_featurized_or_rejected_with_its_reason(whole: Result) -> None:
    whole.assert_adds_up(93)
    rejected = {Path(row["path"]).name: row["reason"] for row in whole.table("rejected").to_pylist()}
    assert rejected == {".hidden.jpg": "empty", "_page.jpg": "unsupported_format", "half.jpg": "truncated"}
    assert whole.metrics["images"]["rejected_by_reason"] == {"empty": 1, "unsupported_format": 1, "truncated": 1}
    assert whole.metrics["images"]["ignored"] == 1


def test_labels_and_splits_come_from_the_folders_as_they_are_named(whole: Result) -> None:
    assert whole.metrics["labels"] == {label: {"test": 6, "train": 24} for label in COLOURS}
    for row in whole.table("features").to_pylist():
        folder = Path(row["path"]).parent
        assert row["label"] == folder.name
        assert row["split"] == {"Training": "train", "Test": "test"}[folder.parent.name]
        assert (row["width"], row["height"], len(row["features"])) == (40, 40, 1280)


def test_kinds_follow_the_labels_through_every_dataset(whole: Result) -> None:
    kinds = {"Cerise d'été": "Cerise", "Lemon #2": "Lemon", "_Plum 50%": "Plum"}
    for dataset in ("inventory", "features", "reduced"):
        table = whole.table(dataset)
        assert set(zip(table["label"].to_pylist(), table["kind"].to_pylist(), strict=True)) == set(kinds.items())
    assert whole.metrics["kinds"] == {kind: {"test": 6, "train": 24} for kind in kinds.values()}


def test_cards_go_with_the_model_and_other_cards_need_no_training(whole: Result, spark: Any, tmp_path: Path) -> None:
    folder = whole.folder.parent
    assert whole.metrics["cards"] == {
        "cards": 1,
        "languages": ["fr"],
        "labels_without": ["Cerise d'été", "Lemon #2"],
    }
    (said,) = (warning for warning in whole.metrics["warnings"] if "card" in warning)
    assert said == "2 of 3 labels have no card: Cerise d'été, Lemon #2; add rows to the cards."
    before = Model.load(str(whole.folder))
    assert before.cards == Cards({}, {"Plum": {"fr": {"name": "Prune"}}})

    (tmp_path / "cards.csv").write_text("label,kind,language,name\n,Plum,fr,Prune\nLemon #2,,fr,Citron\n")
    output = str(shutil.copytree(whole.folder, tmp_path / "out"))
    other = settings(folder) | {"cards": str(tmp_path / "cards.csv")}
    metrics = orchard.run(spark, str(folder / "photos"), output, **other).metrics
    assert metrics["images"]["decoded"] == 0
    assert metrics["classifiers"] == whole.metrics["classifiers"]  # their seconds too
    assert metrics["cards"]["labels_without"] == ["Cerise d'été"]
    after = Model.load(output)
    assert after.cards.labels == {"Lemon #2": {"fr": {"name": "Citron"}}}
    assert after.digest == before.digest
    exported = export(output, str(tmp_path / "model.xml"), Format.OPENVINO)
    assert (
        json.loads(card_beside(tmp_path / "model.xml").read_text())["cards"]
        == after.cards.as_list()
        == exported.card["cards"]
    )
    assert "Citron" not in (tmp_path / "model.xml").read_text()


def test_the_csv_holds_the_same_as_the_parquet(whole: Result) -> None:
    parts = sorted((whole.folder / "reduced_csv").iterdir())
    assert all(gzip.decompress(part.read_bytes()) for part in parts)
    csv = pd.concat([pd.read_csv(part) for part in parts]).sort_values("path", ignore_index=True)
    parquet = whole.table("reduced").to_pandas().sort_values("path", ignore_index=True)
    assert csv["path"].tolist() == parquet["path"].tolist()
    for name in ("label", "kind"):
        assert csv[name].tolist() == parquet[name].tolist()
    np.testing.assert_allclose(
        csv.filter(like="pc_").to_numpy(), np.stack(parquet["pca_features"]), rtol=1e-4, atol=1e-4
    )


def test_metrics_have_what_was_promised(whole: Result) -> None:
    metrics = whole.metrics
    assert metrics["pca"]["explained_variance"] >= 0.95
    assert metrics["pca"]["k"] == len(whole.table("reduced")["pca_features"][0])
    assert metrics["pca"]["train_rows"] == 72
    assert set(metrics["classifiers"]) == {"linear_discriminant", "logistic_regression", "random_forest"}
    for name in metrics["classifiers"]:
        assert metrics["classifiers"][name]["accuracy"] >= 0.8
        assert metrics["classifiers"][name]["test_rows"] == 18
        assert 0 < metrics["group_split"]["classifiers"][name]["accuracy"] <= 1
    # Three tenths of 72 images are too few to choose and calibrate by.
    assert metrics["selection"]["trials"] == {} and "calibration" not in metrics
    assert any("not calibrated" in warning for warning in metrics["warnings"])
    assert metrics["baseline"]["accuracy"] == pytest.approx(1 / 3)
    assert {"list", "extract", "reduce", "classify", "report", "total"} <= metrics["seconds"].keys()
    assert metrics["images_per_second"] > 0


def test_accuracy_is_what_the_predictions_say(whole: Result) -> None:
    predictions = whole.table("predictions").to_pandas()
    for name, measured in whole.metrics["classifiers"].items():
        test = predictions[(predictions.split == "test") & (predictions.classifier == name)]
        assert len(test) == 18
        assert (test.label == test.predicted).mean() == pytest.approx(measured["accuracy"])
    assert predictions.confidence.between(0, 1).all()


def test_the_saved_models_alone_predict_what_the_run_predicted(whole: Result) -> None:
    """Bytes of an image → saved backbone → saved reduction → saved classifiers, without Spark."""
    model = whole.folder / json.loads((whole.folder / "model" / "current.json").read_text())["folder"]
    engine = load_engine(Artifact.from_bytes((model / "backbone").read_bytes()))
    reduction = Reduction.from_bytes((model / "reduction.npz").read_bytes())
    regression, discriminant = (
        np.load(model / f"{name}.npz") for name in ("logistic_regression", "linear_discriminant")
    )
    labels = json.loads((model / "labels.json").read_text())
    familiarity = Familiarity.from_bytes((model / "familiarity.npz").read_bytes())
    predictions = whole.table("predictions").to_pylist()
    found = {(row["classifier"], row["path"]): row for row in predictions if row["split"] == "test"}
    for path in [path for name, path in found if name == "linear_discriminant"][:6]:
        image = decode(Path(path).read_bytes(), engine.input_size, Limits())
        assert isinstance(image, Decoded)
        features = engine([image.pixels])
        scores = {
            "logistic_regression": reduction.transform(features) @ regression["coefficients"].T
            + regression["intercept"],
            "linear_discriminant": features @ discriminant["weights"].T + discriminant["bias"],
        }
        for name, score in scores.items():
            row, probabilities = found[name, path], softmax(score)[0]
            assert labels[probabilities.argmax()] == row["predicted"]
            assert probabilities.max() == pytest.approx(row["confidence"], abs=1e-3)
            assert familiarity(features)[0] == pytest.approx(row["familiarity"], abs=1e-3)


def test_the_run_says_how_it_came_about(whole: Result) -> None:
    run = json.loads((whole.folder / "run.json").read_text())
    assert run["settings"]["group_by"] == "frames"
    assert run["backbone"]["name"] == "EfficientNetLite0"
    assert run["backbone"]["precision"] in ("float32", "bfloat16")
    assert {"python", "orchard", "pyspark", "openvino"} <= run["versions"].keys()
    assert run["source"].endswith("photos")
    assert run["fitting"] == {
        "held_out": "images of train",
        "held_out_rows": 0,
        "fitted_again_on": 72,
        "answers": "linear_discriminant",
        "why": whole.metrics["selection"]["why"],
    }


def test_the_report_opens_offline(whole: Result) -> None:
    page = (whole.folder / "report.html").read_text()
    assert "half.jpg" in page
    assert 'src="http' not in page
    assert len(page) < 5_000_000


def test_no_staged_or_temporary_file_is_left(whole: Result) -> None:
    staging = whole.folder / "_orchard" / "staging"
    assert not staging.exists() or not [path for path in staging.rglob("*") if path.is_file()]


def test_models_of_the_reduction_do_not_see_the_test_split(run: Run, photos: Path) -> None:
    before = run(photos, components=3)
    for image in (photos / "Test").rglob("*.jpg"):
        paint(image, (0, 0, 0), 1)  # other pixels: other features of the test split only
    after = run(photos, "other", components=3)
    for name in ("train",):
        rows = [
            {r["path"]: r["pca_features"] for r in result.table("reduced").to_pylist() if r["split"] == name}
            for result in (before, after)
        ]
        assert rows[0].keys() == rows[1].keys()
        for path, features in rows[0].items():
            np.testing.assert_allclose(features, rows[1][path], atol=1e-4)


def test_a_source_without_splits_gets_seeded_ones(run: Run, painted: Path) -> None:
    result = run(painted / "Training", test_fraction=0.25)
    assert result.metrics["labels"] == {label: {"test": 6, "train": 18} for label in COLOURS}


def test_one_image_is_enough_for_features_and_a_reduced_row(run: Run, tmp_path: Path) -> None:
    one = tmp_path / "one"
    paint(one / "Lemon" / "1.jpg", (230, 210, 40), 1)
    result = run(one)
    result.assert_adds_up(1)
    row = result.table("reduced").to_pylist()[0]
    assert np.isfinite(row["pca_features"]).all()
    assert "classifiers" not in result.metrics
    assert result.metrics["warnings"]


def test_when_no_image_can_be_decoded_the_run_says_so_and_counts_them(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "Lemon").mkdir(parents=True)
    for number in range(3):
        (broken / "Lemon" / f"{number}.jpg").write_text("<html>")
    result = run(broken)
    result.assert_adds_up(3)
    assert result.metrics["images"]["rejected"] == 3
    assert [(kind["kind"], kind["images"]) for kind in result.metrics["images"]["rejected_kinds"]] == [
        ("an HTML page", 3)
    ]
    assert "the download failed" in (result.folder / "report.html").read_text()
    assert result.metrics["warnings"]
    assert (result.folder / "report.html").exists()


def test_unlabelled_images_are_reduced_and_the_missing_classifier_is_explained(run: Run, tmp_path: Path) -> None:
    flat = tmp_path / "train"  # a split's name is no label
    for number in range(6):
        paint(flat / f"{number}.jpg", (230, 210, 40), number)
    result = run(flat)
    result.assert_adds_up(6)
    assert set(result.table("features")["label"].to_pylist()) == {None}
    assert "classifiers" not in result.metrics
    assert any("label" in warning for warning in result.metrics["warnings"])
