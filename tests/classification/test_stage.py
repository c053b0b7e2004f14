"""Promises of the classification stage on Spark: right figures, or a warning, or an error."""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession

from orchard import pipeline
from orchard.classification import held_out, training
from orchard.classification.stage import Classification, classify
from orchard.classification.training import Classifier
from orchard.datasets import lists, matrix
from orchard.errors import InputError, TrainingError
from orchard.images.groups import frame_names
from orchard.layout import FEATURES, INVENTORY, PREDICTIONS, REDUCED, Dataset
from orchard.output import Output
from orchard.reduction.stage import reduce
from orchard.settings import Settings

BOTH = [Classifier.LOGISTIC_REGRESSION, Classifier.RANDOM_FOREST]
LINEAR = [Classifier.LOGISTIC_REGRESSION]
Rows = list[tuple[str, str | None, str]]  # path, label, split


def images(label: str | None, train: int, test: int = 0, validation: int = 0) -> Rows:
    splits = ["train"] * train + ["test"] * test + ["validation"] * validation
    return [(f"/in/{split}/{label}/r_{i}.jpg", label, split) for i, split in enumerate(splits)]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    output = Output(str(tmp_path / "out"))
    with output.writing():
        yield output


@pytest.fixture
def run(spark: SparkSession, output: Output) -> Callable[..., Classification]:
    """Commit features that show the label, with some noise; reduce and classify them."""

    def go(rows: Rows, classifiers: list[Classifier] = LINEAR, *, by_group: bool = False) -> Classification:
        rng = np.random.default_rng(0)
        labels = sorted({str(label) for _, label, _ in rows})
        centres = rng.normal(size=(len(labels), 16)) * 2
        index = np.array([labels.index(str(label)) for _, label, _ in rows])
        values = (centres[index] + rng.normal(size=(len(rows), 16))).astype(np.float32)
        paths, names, splits = zip(*rows, strict=True)
        sides = pa.array([100] * len(rows), pa.int32())
        no_kinds = pa.nulls(len(rows), pa.string())
        features = pa.table([pa.array(paths), pa.array(names, pa.string()), no_kinds, pa.array(splits), sides, sides,
                             lists(values)], schema=FEATURES)  # fmt: skip
        inventory = pa.table(
            {
                "path": paths,
                "size": [1] * len(rows),
                "version": ["1"] * len(rows),
                "label": names,
                "kind": no_kinds,
                "split": splits,
                "group": frame_names(paths, names),
                "digest": [f"{i:032x}" for i in range(len(rows))],
                "featurized": [True] * len(rows),
            },
            schema=INVENTORY,
        )
        half = len(rows) // 2
        staged = [output.stage(Dataset.FEATURES, part) for part in (features.slice(0, half), features.slice(half))]
        output.commit({Dataset.FEATURES: staged, Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, inventory)]})
        reduce(spark, output, variance=0.99)
        return classify(spark, output, classifiers, seed=1, split_by_group=by_group, test_fraction=0.25)

    return go


def predictions(output: Output) -> pa.Table:
    return output.read(Dataset.PREDICTIONS, PREDICTIONS.names, PREDICTIONS)


def test_both_classifiers_predict_every_row_and_are_measured_on_test(
    run: Callable[..., Classification], output: Output
) -> None:
    rows = [*images("plum", 40, 15, 5), *images('Pear "A", ripe', 30, 12), *images("cherry", 20, 8)]
    result = run(rows, BOTH)

    assert result["warnings"] == []
    assert result["group_split"] is None
    assert (result["baseline"]["label"], result["baseline"]["accuracy"]) == ("plum", pytest.approx(15 / 35))
    assert result["leak"] == {"test_rows": 35, "test_rows_with_twin_in_train": 0, "duplicate_rows": 0}
    table = predictions(output)
    assert set(result["classifiers"]) == {"logistic_regression", "random_forest"}
    for name, measured in result["classifiers"].items():
        mine = table.filter(pc.equal(table["classifier"], name))
        assert sorted(mine["path"].to_pylist()) == sorted(path for path, _, _ in rows)
        confidence = mine["confidence"].to_numpy()
        assert ((confidence > 1 / 3 - 1e-6) & (confidence <= 1)).all()
        test = mine.filter(pc.equal(mine["split"], "test"))
        right = pc.sum(pc.equal(test["label"], test["predicted"])).as_py()
        assert measured["accuracy"] == pytest.approx(right / 35)
        assert measured["accuracy"] > 0.9
        assert (measured["test_rows"], measured["train_rows"]) == (35, 90)
        assert sum(sum(answers.values()) for answers in measured["confusion"].values()) == 35


def test_the_saved_classifiers_answer_as_the_predictions_say(
    run: Callable[..., Classification], output: Output, spark: SparkSession
) -> None:
    from pyspark.ml import PipelineModel
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql.functions import col

    from orchard.datasets import read

    run([*images("b", 30, 10), *images("a", 30, 10)], BOTH)
    storage = output.storage
    labels = json.loads(storage.read(f"{output.model_folder}labels.json"))
    assert labels == ["a", "b"]
    predicted = {(p["classifier"], p["path"]): p for p in predictions(output).to_pylist()}

    reduced = output.read(Dataset.REDUCED, REDUCED.names, REDUCED)
    with np.load(
        io.BytesIO(storage.read(f"{output.model_folder}logistic_regression.npz")), allow_pickle=False
    ) as model:
        assert model["labels"].tolist() == labels
        components = matrix(reduced["pca_features"].combine_chunks())
        scores = components @ model["coefficients"].T + model["intercept"]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for path, share in zip(reduced["path"].to_pylist(), shares, strict=True):
        row = predicted["logistic_regression", path]
        assert row["predicted"] == labels[share.argmax()]
        assert row["confidence"] == pytest.approx(share.max(), abs=1e-5)

    forest = PipelineModel.load(f"file://{output.url}/{output.model_folder}random_forest")
    rows = read(spark, output, Dataset.REDUCED)
    rows = rows.withColumn("components", array_to_vector(col("pca_features").cast("array<double>")))
    for row in forest.transform(rows).select("path", "prediction").collect():
        assert predicted["random_forest", row["path"]]["predicted"] == labels[int(row["prediction"])]


def test_labels_that_cannot_be_learned_or_measured_are_named_and_never_flatter(
    run: Callable[..., Classification], output: Output
) -> None:
    rows = [
        *images("a", 30, 10),
        *images("b", 30, 10),
        *images("test only", 0, 5),
        *images("validation only", 0, 0, 4),
        *images("one image", 1),
        *images(None, 3, 2),
    ]
    result = run(rows)
    assert result["warnings"] == [
        "5 image(s) have no label: they were neither trained on nor predicted.",
        "2 label(s) (test only, validation only) cannot be predicted, for lack of training images; "
        "their test images count as errors.",
        "1 label(s) (one image) were not measured, for lack of test images.",
    ]
    measured = result["classifiers"]["logistic_regression"]
    assert measured["test_rows"] == 25
    assert measured["train_rows"] == 61
    assert measured["accuracy"] <= 20 / 25
    assert measured["per_class"]["test only"] == {"precision": 0, "recall": 0, "f1": 0, "support": 5}
    assert None not in predictions(output)["label"].to_pylist()


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (images("only", 20, 5), "all training images are labelled 'only'"),
        ([*images("a", 20), *images("b", 20)], "no labelled image is in the test split"),
        ([*images(None, 20), *images("a", 0, 9)], "no image of the train split has a label"),
    ],
    ids=["one label", "no test", "no labels in training"],
)
def test_what_cannot_be_trained_or_measured_is_an_error(
    run: Callable[..., Classification], output: Output, rows: Rows, sentence: str
) -> None:
    with pytest.raises(TrainingError, match=sentence):
        run(rows)
    assert output.files(Dataset.PREDICTIONS) == []
    assert output.rows(Dataset.REDUCED) == len(rows), "the reduced rows stay"


def test_without_reduced_rows_the_error_says_so(spark: SparkSession, output: Output) -> None:
    with pytest.raises(InputError, match="no reduced features"):
        classify(spark, output, LINEAR, seed=0, split_by_group=False, test_fraction=0.2)


def test_classifying_again_replaces_the_predictions(
    run: Callable[..., Classification], output: Output, spark: SparkSession
) -> None:
    rows = [*images("a", 20, 5), *images("b", 20, 5)]
    run(rows)
    classify(spark, output, LINEAR, seed=1, split_by_group=False, test_fraction=0.2)
    assert output.rows(Dataset.PREDICTIONS) == len(rows)


def test_the_split_by_groups_fits_and_measures_everything_again(
    run: Callable[..., Classification], output: Output
) -> None:
    rows = [*images("a", 160, 60), *images("b", 160, 60), *images(None, 5)]
    result = run(rows, by_group=True)
    honest = result["group_split"]
    assert honest is not None
    assert honest["train_rows"] + honest["test_rows"] == 440
    assert 0.15 < honest["test_rows"] / 440 < 0.35
    assert 2 < honest["groups"] < 440
    assert honest["k"] == reduced_length(output)
    measured = honest["classifiers"]["logistic_regression"]
    assert (measured["train_rows"], measured["test_rows"]) == (honest["train_rows"], honest["test_rows"])
    assert measured["accuracy"] > 0.9
    assert output.rows(Dataset.PREDICTIONS) == 440, "predictions are of the given split, once"


def test_a_forest_that_memory_does_not_hold_is_left_out_or_smaller_and_the_regression_stays(
    run: Callable[..., Classification], output: Output, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*images("a", 20, 8), *images("b", 20, 8), *images("c", 20, 8)]
    monkeypatch.setattr(training, "_SPARK_ITSELF", 0)
    monkeypatch.setattr(training, "_heap", lambda _: 20_000)  # one tree of 77 nodes and 3 classes
    cut = run(rows, BOTH)
    assert set(cut["classifiers"]) == {"logistic_regression", "random_forest"}
    (sentence,) = cut["warnings"]
    assert "trees instead of 50" in sentence and "--driver-memory" in sentence
    found = re.search(r"has (\d+) trees", sentence)
    assert found and 10 <= int(found[1]) < 50

    monkeypatch.setattr(training, "_heap", lambda _: 3_000)
    monkeypatch.setattr(training, "_LINEAR_VECTORS", 1)
    options = {"seed": 1, "split_by_group": False, "test_fraction": 0.25, "driver_memory": "3k"}
    left_out = classify(spark, output, BOTH[::-1], key="less memory", **options)
    assert set(left_out["classifiers"]) == {"logistic_regression"}
    (sentence,) = left_out["warnings"]
    assert sentence.startswith("The random forest was left out: its trees of 3 classes do not fit into 0.0 GB")
    assert (left_out["key"], left_out["lacked"]) == ("less memory", "3k")
    assert set(predictions(output)["classifier"].to_pylist()) == {"logistic_regression"}
    assert not [name for name in output.classifier_files() if "forest" in name]

    monkeypatch.setattr(training, "_heap", lambda _: 100)
    nothing = classify(spark, output, BOTH, key="no memory", **options)
    assert nothing["classifiers"] == {} and nothing["key"] == "no memory"
    assert [warning.split(":")[0] for warning in nothing["warnings"]] == [
        "Logistic regression was left out",
        "The random forest was left out",
    ]
    assert output.rows(Dataset.PREDICTIONS) == 0, "those of before are of other settings"


def test_what_lacked_memory_is_tried_again_with_another_amount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def classification(_session: object, output: Output, _classifiers: object, **options: str) -> None:
        tried.append(options["driver_memory"])
        lacked = {} if options["driver_memory"] == "9g" else {"lacked": options["driver_memory"]}
        output.commit({}, properties={"classification": {"key": options["key"], **lacked}})

    monkeypatch.setattr(pipeline.classification, "run", classification)
    url = str(tmp_path / "again")
    made = Output(url)
    reduced = pa.table([["a.jpg"], ["a"], ["train"], [[1.0]]], schema=REDUCED)
    with made.writing():
        made.commit({Dataset.REDUCED: [made.stage(Dataset.REDUCED, reduced)]}, properties={"reduction": {"key": "r"}})
    for memory in ("900m", "900m", "2g", "9g", "9g", "900m"):
        with pipeline.Pipeline(url, Settings(driver_memory=memory)) as again:
            again.classify()
    assert tried == ["900m", "2g", "9g"]


def test_calibration_takes_fewer_rows_of_more_classes(
    run: Callable[..., Classification], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "MAX_SCORES", 2 * 150)
    calibrated = run([*images("a", 20, 200), *images("b", 20, 200)])["calibration"]
    assert calibrated is not None
    assert 100 < calibrated["rows"] < 200


def reduced_length(output: Output) -> int:
    return len(output.read(Dataset.REDUCED, ["pca_features"], REDUCED)["pca_features"][0].as_py())
