"""Promises of the classification stage on Spark: right figures, or a warning, or an error."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

from orchard import pipeline
from orchard.classification import candidates, discriminant, held_out, regression, stage
from orchard.classification.forest import Forest
from orchard.classification.held_out import HeldOut
from orchard.classification.judged import Judged, hashes
from orchard.classification.stage import Classification, classify
from orchard.classification.training import Classifier
from orchard.classification.tuned_head import Head
from orchard.datasets import list_column, matrix
from orchard.errors import InputError, TrainingError
from orchard.features.regrouping import update_groups
from orchard.images.groups import frame_names, groups_of, regrouped
from orchard.inference.calibration import Calibration, Decision
from orchard.inference.columns import from_bytes
from orchard.inference.familiarity import Familiarity
from orchard.inference.linear import Linear
from orchard.layout import (
    COLUMNS,
    FEATURES,
    INVENTORY,
    JUDGED,
    PREDICTIONS,
    REDUCED,
    STATISTICS,
    TRAINED_HEAD,
    VIEWS,
    CalibrationMetrics,
    Dataset,
    Selection,
)
from orchard.output import Output
from orchard.reduction.stage import load, reduce
from orchard.reduction.statistics import Role, Statistics, Sums
from orchard.settings import Settings
from orchard.workers import Workers

ALL = list(Classifier)
LINEAR = [Classifier.LINEAR_DISCRIMINANT]
BOTH = [Classifier.LOGISTIC_REGRESSION, Classifier.RANDOM_FOREST]
MEMORY: dict[str, Any] = {"memory": 2**29, "test_fraction": 0.25}
FEW = "Fewer than 50 labelled images can be held out: confidences are not calibrated."
Rows = list[tuple[str, str | None, str]]  # path, label, split


def images(label: str | None, train: int, test: int = 0, validation: int = 0) -> Rows:
    splits = ["train"] * train + ["test"] * test + ["validation"] * validation
    return [(f"/in/{split}/{label}/r_{i}.jpg", label, split) for i, split in enumerate(splits)]


def selection_of(result: Classification) -> Selection:
    selection = result["selection"]
    assert selection is not None
    return selection


def calibration_of(result: Classification) -> CalibrationMetrics:
    calibration = result["calibration"]
    assert calibration is not None
    return calibration


def commit(output: Output, rows: Rows, *, grouped: bool = False, further: Sequence[dict[str, str]] = ()) -> None:
    """Commit features that show the label and what is ripe, with some noise; `grouped` by frames."""
    rng = np.random.default_rng(0)
    labels = sorted({str(label) for _, label, _ in rows})
    centres = rng.normal(size=(len(labels), 16)) * 2
    index = np.array([labels.index(str(label)) for _, label, _ in rows])
    values = (centres[index] + rng.normal(size=(len(rows), 16))).astype(np.float32)
    images: list[dict[str, object]] = [dict(zip(("path", "label", "split"), row, strict=True)) for row in rows]
    for image, columns, value in zip(images, further, values, strict=bool(further)):
        image["label_columns"] = json.dumps(columns) if columns else None
        value[0] += {"ripe": 4, "raw": -4}.get(columns.get("ripeness", ""), 30)
    features = pa.Table.from_pylist([image | {"width": 100, "height": 100} for image in images], FEATURES)
    features = features.set_column(
        FEATURES.get_field_index("features"), FEATURES.field("features"), list_column(values)
    )
    frames = frame_names([path for path, _, _ in rows], [label for _, label, _ in rows])
    groups = frames if grouped else [None] * len(rows)
    inventory = pa.Table.from_pylist(
        [
            image | {"size": 1, "version": "1", "group": group, "digest": f"{i:032x}", "featurized": True}
            for i, (image, group) in enumerate(zip(images, groups, strict=True))
        ],
        INVENTORY,
    )
    half = len(rows) // 2
    staged = [output.stage(Dataset.FEATURES, part) for part in (features.slice(0, half), features.slice(half))]
    output.commit({Dataset.FEATURES: staged, Dataset.INVENTORY: [output.stage(Dataset.INVENTORY, inventory)]})


WHOLE = [*images("plum", 120, 15), *images('Pear "A", ripe', 80, 12), *images("cherry", 50, 8)]


@pytest.fixture(scope="module")
def whole(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> tuple[Output, Classification]:
    """Every classifier on three labels, for the tests that only look."""
    output = Output(str(tmp_path_factory.mktemp("whole") / "out"))
    with output.writing():
        commit(output, WHOLE)
        reduce(workers, output, variance=0.99)
        return output, classify(workers, output, ALL, seed=1, split_by_group=False, sure_at=0.95, **MEMORY)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    output = Output(str(tmp_path / "out"))
    with output.writing():
        yield output


@pytest.fixture
def run(workers: Workers, output: Output) -> Callable[..., Classification]:
    """Commit rows, reduce and classify them."""

    def go(
        rows: Rows, classifiers: list[Classifier] = LINEAR, *, by_group: bool = False, **options: Any
    ) -> Classification:
        commit(output, rows, grouped=by_group)
        reduce(workers, output, variance=0.99)
        options = {"seed": 1, **MEMORY} | options
        return classify(workers, output, classifiers, split_by_group=by_group, **options)

    return go


def test_a_further_column_has_a_discriminant_of_its_own_on_the_rows_with_a_value(
    workers: Workers, output: Output
) -> None:
    def values(row: int) -> dict[str, str]:
        if row % 5 == 0:
            return {}
        return {"ripeness": "ripe" if row % 2 else "raw", **({"variety": "Gala"} if row % 3 else {})}

    further = [values(row) for row in range(len(WHOLE))]
    commit(output, WHOLE, further=further)
    reduce(workers, output, variance=0.99)
    result = classify(workers, output, ALL, seed=1, split_by_group=False, sure_at=0.95, **MEMORY)

    splits = [split for _, _, split in WHOLE]
    has_value = np.array(["ripeness" in columns for columns in further])
    is_train = np.array([split == "train" for split in splits])
    ripeness = result["columns"]["ripeness"]
    assert sum(sum(counts.values()) for counts in ripeness["values"].values()) == len(WHOLE)
    assert ripeness["values"][""] == {"train": (is_train & ~has_value).sum(), "test": (~is_train & ~has_value).sum()}
    assert (ripeness["test"]["train_rows"], ripeness["test"]["test_rows"]) == (
        (is_train & has_value).sum(),
        (~is_train & has_value).sum(),
    )
    assert ripeness["test"]["accuracy"] > 0.95 > ripeness["baseline"]["accuracy"]
    assert result["columns"]["variety"].keys() == {"values"}
    assert "Nothing was learned of variety: training images have fewer than two values of it." in result["warnings"]

    (column,) = from_bytes(output.classifier_files()[COLUMNS])
    assert (column.name, column.values) == ("ripeness", ("raw", "ripe"))
    features = output.read(Dataset.FEATURES, ["features"], FEATURES)["features"].combine_chunks()
    rows, named = matrix(features)[is_train & has_value], is_train & has_value
    of_named = [columns["ripeness"] for columns, chosen in zip(further, named, strict=True) if chosen]
    sums = Sums.of(rows, {"label": of_named})
    expected = discriminant.fit(sums.labelled, sums.columns["label"], load(output)).linear
    np.testing.assert_allclose(column.linear.weights, expected.weights, rtol=1e-3, atol=1e-4)

    table = predictions(output)
    for name in result["classifiers"]:
        mine = table.filter(pc.equal(table["classifier"], name))
        assert mine.num_rows == len(WHOLE)
        said = mine["predicted_columns"].to_pylist()
        if name == "random_forest":
            assert set(said) == {None}
            continue
        pairs = [
            (json.loads(true)["ripeness"], json.loads(answer)["ripeness"])
            for true, answer, split in zip(
                mine["label_columns"].to_pylist(), said, mine["split"].to_pylist(), strict=True
            )
            if true and split == "test"
        ]
        right = sum(true == answer for true, answer in pairs)
        assert right / len(pairs) == pytest.approx(ripeness["test"]["accuracy"])


def predictions(output: Output) -> pa.Table:
    return output.read(Dataset.PREDICTIONS, PREDICTIONS.names, PREDICTIONS)


def test_every_classifier_predicts_every_row_and_is_measured_on_test(whole: tuple[Output, Classification]) -> None:
    output, result = whole

    assert result["warnings"] == []
    assert result["group_split"] is None
    assert result["baseline"]["label"] == "plum" and result["baseline"]["accuracy"] == pytest.approx(15 / 35)
    assert result["leak"] == {"test_rows": 35, "test_rows_with_twin_in_train": 0, "duplicate_rows": 0}
    table = predictions(output)
    assert set(result["classifiers"]) == {"linear_discriminant", "logistic_regression", "random_forest"}
    for name, measured in result["classifiers"].items():
        mine = table.filter(pc.equal(table["classifier"], name))
        assert sorted(mine["path"].to_pylist()) == sorted(path for path, _, _ in WHOLE)
        confidence = mine["confidence"].to_numpy()
        assert ((confidence > 1 / 3 - 1e-6) & (confidence <= 1)).all()
        test = mine.filter(pc.equal(mine["split"], "test"))
        right = pc.sum(pc.equal(test["label"], test["predicted"])).as_py()
        assert measured["accuracy"] == pytest.approx(right / 35)
        assert measured["accuracy"] > 0.9
        assert (measured["test_rows"], measured["train_rows"]) == (35, 250)
        assert sum(sum(answers.values()) for answers in measured["confusion"].values()) == 35
        if name == "random_forest":
            assert set(mine["familiarity"].to_pylist()) == set(mine["answer"].to_pylist()) == {None}
            continue
        least = Calibration.from_json(result["calibrations"][name])
        told = zip(confidence.tolist(), mine["familiarity"].to_pylist(), mine["answer"].to_pylist(), strict=True)
        assert all(
            least.answers(np.array([sure]), np.array([near])).tolist() == [answer] for sure, near, answer in told
        )
        assert set(mine["answer"].to_pylist()) >= {"sure", "unknown"}

    selection, calibration = result["selection"], result["calibration"]
    assert selection is not None and calibration is not None
    assert selection["split"] == "train" and 50 <= selection["rows"] <= 75
    assert set(selection["trials"]) == set(result["calibrations"]) == {"linear_discriminant", "logistic_regression"}
    assert all(0.9 < trial["accuracy"] <= 1 and trial["log_loss"] < 0.5 for trial in selection["trials"].values())
    mine = table.filter(pc.and_(pc.equal(table["classifier"], selection["chosen"]), pc.equal(table["split"], "test")))
    assert (calibration["rows"], calibration["test_rows"], calibration["sure_at"]) == (selection["rows"], 35, 0.95)
    assert calibration["share_sure"] == pytest.approx(mine["answer"].to_pylist().count("sure") / 35)
    assert calibration["share_unknown"] == pytest.approx(mine["answer"].to_pylist().count("unknown") / 35)
    decision = Decision.from_bytes(output.classifier_files()["calibration.json"])
    assert (decision.classifier, decision.label.threshold) == (selection["chosen"], calibration["threshold"])


def test_the_saved_classifiers_answer_as_the_predictions_say(whole: tuple[Output, Classification]) -> None:
    output, result = whole
    files = output.classifier_files()
    labels = json.loads(files["labels.json"])
    assert labels == ['Pear "A", ripe', "cherry", "plum"]
    predicted = {(p["classifier"], p["path"]): p for p in predictions(output).to_pylist()}

    rows = output.read(Dataset.FEATURES, ["path", "features"], FEATURES)
    features = matrix(rows["features"].combine_chunks())
    familiarity = Familiarity.from_bytes(files["familiarity.npz"])(features)
    with np.load(io.BytesIO(files["logistic_regression.npz"]), allow_pickle=False) as model:
        assert model["labels"].tolist() == labels
    reduction = load(output)
    for name in ("linear_discriminant", "logistic_regression"):
        linear = Linear.from_bytes(files[f"{name}.npz"], reduction)
        shares = Calibration.from_json(result["calibrations"][name]).probabilities(linear(features))
        for path, share, near in zip(rows["path"].to_pylist(), shares, familiarity, strict=True):
            row = predicted[name, path]
            assert row["predicted"] == labels[share.argmax()]
            assert row["confidence"] == pytest.approx(share.max(), abs=1e-5)
            assert row["familiarity"] == pytest.approx(near, abs=1e-5)

    reduced = output.read(Dataset.REDUCED, ["path", "pca_features"], REDUCED)
    shares = Forest.from_bytes(files["random_forest.npz"])(matrix(reduced["pca_features"].combine_chunks()))
    for path, share in zip(reduced["path"].to_pylist(), shares, strict=True):
        row = predicted["random_forest", path]
        assert (row["predicted"], row["confidence"]) == (labels[share.argmax()], pytest.approx(share.max(), abs=1e-6))
    assert {name: measured["fitted_by"] for name, measured in result["classifiers"].items()} == {
        "linear_discriminant": "class sums",
        "logistic_regression": "SciPy",
        "random_forest": "scikit-learn",
    }


def test_the_head_of_a_tuned_network_answers_together_with_the_discriminant(
    workers: Workers, whole: tuple[Output, Classification], run: Callable[..., Classification], output: Output
) -> None:
    """One that gives the labels in another order, its own scale, and is as good as the discriminant; or lacks one."""
    files = whole[0].classifier_files()
    labels = json.loads(files["labels.json"])
    good = Linear.from_bytes(files["linear_discriminant.npz"], load(whole[0]))
    head = Head(Linear(good.weights[::-1] / np.float32(50), good.bias[::-1] / np.float32(50)), labels[::-1])
    output.commit({}, parts={TRAINED_HEAD: head.to_bytes()})
    asked = [Classifier.LINEAR_DISCRIMINANT, Classifier.TUNED_HEAD]
    result = run(WHOLE, asked, sure_at=0.95, answer_with="tuned_head")
    assert list(result["classifiers"]) == ["linear_discriminant", "tuned_head"]
    assert selection_of(result)["chosen"] == "tuned_head"
    found = output.classifier_files()
    assert Decision.from_bytes(found["calibration.json"]).classifier == "tuned_head"
    mixed = Linear.from_bytes(found["tuned_head.npz"], load(output))
    features = matrix(output.read(Dataset.FEATURES, ["features"], FEATURES)["features"].combine_chunks())
    assert (mixed(features).argmax(1) == good(features).argmax(1)).mean() > 0.99
    confusion = result["classifiers"]["tuned_head"]["confusion"]
    assert confusion == result["classifiers"]["linear_discriminant"]["confusion"]

    output.commit({}, parts={TRAINED_HEAD: Head(head.linear, ["plum", "cherry", "quince"]).to_bytes()})
    result = classify(workers, output, asked, key="another", seed=1, split_by_group=False, **MEMORY)
    assert list(result["classifiers"]) == ["linear_discriminant"], "it does not know all labels"


def test_images_that_a_network_was_trained_on_in_the_end_judge_it_as_it_was_before(
    workers: Workers, whole: tuple[Output, Classification], output: Output
) -> None:
    """The same features of before give the same trials; worse ones give worse trials, and the same answers."""
    rows = whole[0].read(Dataset.FEATURES, ["path", "features"], FEATURES)
    features = matrix(rows["features"].combine_chunks())
    roles = Statistics.from_bytes(whole[0].part(STATISTICS) or b"").roles
    fit, held = np.flatnonzero(roles == Role.FIT), np.flatnonzero(roles == Role.HELD_OUT)
    files = whole[0].classifier_files()
    head = Head(Linear.from_bytes(files["linear_discriminant.npz"], load(whole[0])), json.loads(files["labels.json"]))
    named = hashes(rows["path"])
    asked = [Classifier.LINEAR_DISCRIMINANT, Classifier.TUNED_HEAD, Classifier.LOGISTIC_REGRESSION]
    commit(output, WHOLE)
    reduce(workers, output, variance=0.99)
    results: list[Classification] = []
    for seen in (features[held], features[held][::-1]):
        judged = Judged(head, named[fit], named[held], features[fit][np.newaxis], seen)
        output.commit({}, parts={TRAINED_HEAD: head.to_bytes(), JUDGED: judged.to_bytes()})
        key = str(len(results))
        results.append(classify(workers, output, asked, key=key, seed=1, split_by_group=False, sure_at=0.95, **MEMORY))
    same, worse = results
    for name in ("linear_discriminant", "logistic_regression"):
        assert same["trials"][name] == pytest.approx(whole[1]["trials"][name], rel=0.02)
    for name in map(str, asked):
        assert same["classifiers"][name]["confusion"] == worse["classifiers"][name]["confusion"]
        before, after = same["trials"][name], worse["trials"][name]
        assert before and after and after["accuracy"] < before["accuracy"] - 0.3
    assert selection_of(worse)["rows"] == len(held)


def test_a_regression_that_the_driver_does_not_hold_is_spark_ml_s_and_the_same(
    whole: tuple[Output, Classification], run: Callable[..., Classification], output: Output
) -> None:
    by_spark = run(WHOLE, [Classifier.LOGISTIC_REGRESSION], memory=10_000, sure_at=0.95)
    here, there = (found["classifiers"]["logistic_regression"] for found in (whole[1], by_spark))
    assert (here["fitted_by"], there["fitted_by"]) == ("SciPy", "Spark ML")
    assert here["confusion"] == there["confusion"]
    assert by_spark["trials"]["logistic_regression"] == pytest.approx(
        whole[1]["trials"]["logistic_regression"], rel=0.02
    )
    arrays = [
        np.load(io.BytesIO(o.classifier_files()["logistic_regression.npz"]), allow_pickle=False)
        for o in (whole[0], output)
    ]
    for name in ("coefficients", "intercept"):
        mine, theirs = (array[name] for array in arrays)
        # Both stop a little before the minimum, each by a rule of its own; test_regression looks at the minimum itself.
        assert np.linalg.norm(mine - theirs) < 0.1 * np.linalg.norm(theirs)


def commit_views(output: Output) -> tuple[pa.Table, NDArray[np.float32]]:
    """Commit a view of each training image; return the images and their features."""
    rows = output.read(Dataset.FEATURES, ["path", "label", "split", "features"], FEATURES)
    training = rows.filter(pc.equal(rows["split"], "train"))
    features = matrix(training["features"].combine_chunks())
    views = features + np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    made = pa.Table.from_pylist(
        [image | {"view": 0, "features": view} for image, view in zip(training.to_pylist(), views, strict=True)], VIEWS
    )
    output.commit({Dataset.VIEWS: [output.stage(Dataset.VIEWS, made)]})
    return training, features


def test_with_views_a_tuned_head_answers_together_with_the_regression(
    workers: Workers, output: Output, whole: tuple[Output, Classification]
) -> None:
    """And does so, too, where a run was cut off after the regression."""
    commit(output, WHOLE)
    commit_views(output)
    reduce(workers, output, variance=0.99)
    given = whole[0].classifier_files()
    linear = Linear.from_bytes(given["linear_discriminant.npz"], load(whole[0]))
    noise = np.random.default_rng(2).normal(size=linear.weights.shape).astype(np.float32)
    head = Linear(linear.weights + noise, linear.bias)
    parts = {TRAINED_HEAD: Head(head, json.loads(given["labels.json"])).to_bytes()}
    output.commit({}, parts=parts)
    asked = [Classifier.LOGISTIC_REGRESSION, Classifier.LINEAR_DISCRIMINANT, Classifier.TUNED_HEAD]
    classify(workers, output, asked, key="a", seed=1, split_by_group=False, **MEMORY)
    found = {
        name: Linear.from_bytes(output.classifier_files()[f"{name}.npz"], load(output)).weights.ravel()
        for name in map(str, asked)
    }

    def is_of(name: str) -> bool:
        """Whether the head's mixture is one with this classifier."""
        both = np.stack([found[name], head.weights.ravel()], axis=1)
        left = found["tuned_head"] - both @ np.linalg.lstsq(both, found["tuned_head"], rcond=None)[0]
        return bool(np.linalg.norm(left) < 1e-3 * np.linalg.norm(found["tuned_head"]))

    assert (is_of("logistic_regression"), is_of("linear_discriminant")) == (True, False)
    begun = {**output.recall("classification"), "begun": "b"}
    del begun["key"]
    begun["classifiers"] = {"logistic_regression": begun["classifiers"]["logistic_regression"]}
    output.commit({}, properties={"classification": begun})
    classify(workers, output, asked, key="b", seed=1, split_by_group=False, **MEMORY)
    again = Linear.from_bytes(output.classifier_files()["tuned_head.npz"], load(output)).weights.ravel()
    np.testing.assert_allclose(again, found["tuned_head"], rtol=1e-5)


@pytest.mark.parametrize("by_group", [False, True])
def test_with_views_the_regression_is_fitted_between_the_means_of_the_discriminant(
    workers: Workers, output: Output, *, by_group: bool
) -> None:
    commit(output, WHOLE, grouped=by_group)
    training, features = commit_views(output)
    reduce(workers, output, variance=0.99)
    asked = [Classifier.LINEAR_DISCRIMINANT, Classifier.LOGISTIC_REGRESSION]
    result = classify(workers, output, asked, seed=1, split_by_group=by_group, **MEMORY)

    files = output.classifier_files()
    space = Familiarity.from_bytes(files["familiarity.npz"])
    by_path = pc.sort_indices(training["path"])
    labels = training["label"].take(by_path).to_pylist()
    expected = regression.fit_inside(
        space, space.inside(features[np.asarray(by_path)]), labels, np.ones(len(labels), np.float32)
    )
    found = Linear.from_bytes(files["logistic_regression.npz"], load(output))
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-3, atol=1e-4)
    measured = result["classifiers"]["logistic_regression"]
    assert measured["accuracy"] > 0.9 and measured["fitted_by"] == "SciPy"
    trials = [result["trials"][name] for name in asked]
    assert all(trial and trial["accuracy"] > 0.9 for trial in trials)
    if by_group:
        assert result["group_split"] is not None
        assert result["group_split"]["classifiers"]["logistic_regression"]["accuracy"] > 0.9


def test_nothing_is_fitted_on_test_rows_and_all_on_the_rest(
    run: Callable[..., Classification], output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice and the calibration are by rows held out; what answers has seen these too, and no test row."""
    judged: list[HeldOut] = []
    judge = held_out.judge

    def noted(*given: Any, **named: Any) -> object:
        judged.append(given[2])
        return judge(*given, **named)

    monkeypatch.setattr(candidates, "judge", noted)
    result = run([*images("a", 150, 30), *images("b", 150, 30), *images(None, 9, 3)])
    rows = output.read(Dataset.FEATURES, FEATURES.names, FEATURES)
    features = matrix(rows["features"].combine_chunks())
    split = {row.tobytes(): name for row, name in zip(features, rows["split"].to_pylist(), strict=True)}
    (images_held,) = judged
    assert len(images_held.features) == selection_of(result)["rows"] == 60
    assert {split[row.tobytes()] for row in images_held.features} == {"train"}
    assert Counter(images_held.columns["label"]) == {"a": 30, "b": 30}

    training = np.array([split[row.tobytes()] == "train" for row in features])
    labels = np.array(rows["label"].to_pylist(), dtype=object)
    mine = training & (labels != None)  # noqa: E711 - of an array
    sums = Sums.of(features[mine], {"label": labels[mine].tolist()})
    expected = discriminant.fit(sums.labelled, sums.columns["label"], load(output)).linear
    found = Linear.from_bytes(output.classifier_files()["linear_discriminant.npz"], load(output))
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.bias, expected.bias, rtol=1e-3, atol=1e-3)


def test_another_seed_of_the_classifiers_judges_by_the_rows_that_the_statistics_left_out(
    run: Callable[..., Classification], output: Output, workers: Workers
) -> None:
    first = run([*images("a", 150, 30), *images("b", 150, 30)])
    again = classify(workers, output, LINEAR, seed=99, split_by_group=False, **MEMORY)
    assert again["trials"] == first["trials"]


def test_groups_that_came_later_judge_by_the_rows_that_the_statistics_left_out(
    run: Callable[..., Classification], output: Output, workers: Workers
) -> None:
    """As of `orchard classify --group-by`: held out by the new groups, rows would be judged that were fitted on."""
    first = run([*images("a", 150, 30), *images("b", 150, 30)])
    rows = output.read(Dataset.INVENTORY, ["path", "label", "group"], INVENTORY)
    assert rows["group"].null_count == rows.num_rows
    update_groups(
        output, regrouped(rows, groups_of("frames", *(rows[name].to_pylist() for name in ("path", "label")))), None
    )
    again = classify(workers, output, LINEAR, key="again", seed=1, split_by_group=False, **MEMORY)
    assert again["trials"] == first["trials"]


def test_a_validation_split_is_what_classifiers_are_judged_on(run: Callable[..., Classification]) -> None:
    result = run([*images("a", 60, 30, 30), *images("b", 60, 30, 30), *images("new", 0, 0, 10), *images(None, 0, 0, 5)])
    assert (selection_of(result)["split"], selection_of(result)["rows"]) == ("validation", 70)
    trial = result["trials"]["linear_discriminant"]
    assert trial and trial["accuracy"] <= 60 / 70
    assert (calibration_of(result)["split"], calibration_of(result)["rows"]) == ("validation", 70)


def test_a_validation_split_judges_and_then_joins_the_final_fit(
    run: Callable[..., Classification], output: Output, workers: Workers
) -> None:
    apart = run([*images("a", 60, 30, 30), *images("b", 60, 30, 30), *images("new", 0, 10, 10)], ALL)
    reduce(workers, output, variance=0.99, fit_validation=True)
    joined = classify(workers, output, ALL, key="joined", seed=1, split_by_group=False, **MEMORY)
    for result, train_rows, again in ((apart, 120, False), (joined, 190, True)):
        assert {found["train_rows"] for found in result["classifiers"].values()} == {train_rows}
        assert (selection_of(result)["split"], selection_of(result)["rows"]) == ("validation", 70)
        assert selection_of(result)["fitted_again"] is again
        # Judged without it in any case: of a label that only it has, nothing is right.
        assert max(trial["accuracy"] for trial in result["trials"].values() if trial) <= 60 / 70
    assert any("1 label(s) (new) cannot be predicted" in warning for warning in apart["warnings"])
    assert not any("cannot be predicted" in warning for warning in joined["warnings"])
    assert all(found["per_class"]["new"]["recall"] > 0.8 for found in joined["classifiers"].values())


def test_a_validation_split_that_is_too_small_or_strange_is_left_alone(run: Callable[..., Classification]) -> None:
    result = run([*images("a", 200, 30, 20), *images("b", 200, 30, 20)])
    assert (selection_of(result)["split"], selection_of(result)["rows"]) == ("train", 60)


def test_validation_rows_of_other_labels_alone_calibrate_nothing(run: Callable[..., Classification]) -> None:
    result = run([*images("a", 60, 30), *images("b", 60, 30), *images("new", 0, 0, 60)])
    assert FEW in result["warnings"]
    assert result["calibration"] is None and selection_of(result)["trials"] == {}
    json.dumps(result, allow_nan=False)


def test_the_answer_comes_from_whom_the_user_names(
    whole: tuple[Output, Classification], run: Callable[..., Classification], output: Output
) -> None:
    other = ({"linear_discriminant", "logistic_regression"} - {selection_of(whole[1])["chosen"]}).pop()
    result = run(WHOLE, [c for c in ALL if c.is_linear], answer_with=other, sure_at=0.95)
    assert selection_of(result)["chosen"] == other and "--answer-with" in selection_of(result)["why"]
    for name, trial in result["trials"].items():
        assert trial == pytest.approx(whole[1]["trials"][name], rel=1e-2)
    decision = Decision.from_bytes(output.classifier_files()["calibration.json"])
    assert (decision.classifier, decision.label) == (other, Calibration.from_json(result["calibrations"][other]))


def test_many_labels_of_few_images_are_calibrated_too(run: Callable[..., Classification]) -> None:
    """Each gives an image or none to what is held out, and all are answered."""
    rows = [row for i in range(300) for row in images(f"label {i:03}", 3, 1)]
    result = run(rows)
    assert result["warnings"] == []
    assert selection_of(result)["rows"] == pytest.approx(90, abs=2)
    assert result["calibration"] is not None and result["calibration"]["test_rows"] == 300


def test_one_image_a_label_is_told_by_the_nearest_and_not_calibrated(run: Callable[..., Classification]) -> None:
    result = run([row for i in range(20) for row in images(f"label {i:02}", 1, 2)])
    assert result["warnings"] == [FEW]
    assert result["classifiers"]["linear_discriminant"]["accuracy"] > 0.6
    assert result["calibration"] is None
    assert "only linear classifier" in selection_of(result)["why"]


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
        "5 image(s) have no label, such as /in/test/None/r_3.jpg: they were neither trained on nor predicted.",
        "2 label(s) (test only, validation only) cannot be predicted, for lack of training images; "
        "their test images count as errors.",
        "1 label(s) (one image) were not measured, for lack of test images.",
        FEW,
    ]
    assert result["calibration"] is None
    measured = result["classifiers"]["linear_discriminant"]
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


def test_groups_too_large_to_test_on_are_the_reason_that_is_said(
    run: Callable[..., Classification], output: Output
) -> None:
    """A Test folder or a split by Orchard, the advice where the source has a split, is what there is already."""
    output.commit({}, properties={"identity": {"group_by": "/fruits/"}})
    with pytest.raises(TrainingError, match=r"each group by '/fruits/' holds all images of a label, .* name smaller"):
        run([*images("a", 20), *images("b", 20)])


def test_without_reduced_rows_the_error_says_so(workers: Workers, output: Output) -> None:
    with pytest.raises(InputError, match="no reduced features"):
        classify(workers, output, LINEAR, seed=0, split_by_group=False, **MEMORY)


def test_classifying_again_replaces_the_predictions(
    run: Callable[..., Classification], output: Output, workers: Workers
) -> None:
    rows = [*images("a", 20, 5), *images("b", 20, 5)]
    run(rows)
    classify(workers, output, LINEAR, seed=1, split_by_group=False, **MEMORY)
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
    for measured in honest["classifiers"].values():
        assert (measured["train_rows"], measured["test_rows"]) == (honest["train_rows"], honest["test_rows"])
        assert measured["accuracy"] > 0.9
        assert sum(sum(row.values()) for row in measured["confusion"].values()) == honest["test_rows"]
    assert set(honest["classifiers"]) == {"linear_discriminant"}  # the others: tests/integration/test_run.py
    assert output.rows(Dataset.PREDICTIONS) == 440, "predictions are of the given split, once"


def test_what_memory_does_not_hold_is_left_out_or_smaller_and_the_rest_stays(
    run: Callable[..., Classification], output: Output, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*images("a", 20, 8), *images("b", 20, 8), *images("c", 20, 8)]
    monkeypatch.setattr(regression, "fitted_by", lambda *_, **__: "Spark ML")
    node = 2 * (64 + 3 * 8)
    cut = run(rows, BOTH, memory=30 * node)
    assert set(cut["classifiers"]) == {"logistic_regression", "random_forest"}
    few, sentence = cut["warnings"]
    assert few == FEW
    assert sentence.startswith("The trees of the random forest have seen 30 images each") and "-memory 1m" in sentence
    assert len(Forest.from_bytes(output.classifier_files()["random_forest.npz"]).roots) == 100

    options: dict[str, Any] = {"seed": 1, "split_by_group": False, "test_fraction": 0.25, "driver_memory": "3k"}
    left_out = classify(workers, output, BOTH[::-1], key="less memory", memory=5 * node, **options)
    assert set(left_out["classifiers"]) == {"logistic_regression"}
    _, sentence = left_out["warnings"]
    assert sentence.startswith("The random forest was left out: its trees of 3 classes do not fit into 0 MB")
    assert (left_out["key"], left_out["lacked"]) == ("less memory", "3k")
    assert set(predictions(output)["classifier"].to_pylist()) == {"logistic_regression"}
    assert not [name for name in output.classifier_files() if "forest" in name]

    monkeypatch.setattr(regression, "_heap", lambda _: 100)
    nothing = classify(workers, output, BOTH, key="no memory", memory=5 * node, **options)
    assert nothing["classifiers"] == {} and nothing["key"] == "no memory"
    assert [warning.split(":")[0] for warning in nothing["warnings"][1:]] == [
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

    monkeypatch.setattr(stage, "run", classification)
    url = str(tmp_path / "again")
    made = Output(url)
    reduced = pa.Table.from_pylist([{"path": "a.jpg", "label": "a", "split": "train", "pca_features": [1.0]}], REDUCED)
    with made.writing():
        made.commit({Dataset.REDUCED: [made.stage(Dataset.REDUCED, reduced)]}, properties={"reduction": {"key": "r"}})
    for memory in ("900m", "900m", "2g", "9g", "9g", "900m"):
        with pipeline.Pipeline(url, Settings(driver_memory=memory)) as again:
            again.classify()
    assert tried == ["900m", "2g", "9g"]


def test_a_driver_holds_a_part_of_many_held_out_rows(
    run: Callable[..., Classification], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "MAX_ROWS", 150)
    result = run([*images("a", 20, 20, 300), *images("b", 20, 20, 300)])
    assert 100 < selection_of(result)["rows"] < 200
    assert calibration_of(result)["rows"] == selection_of(result)["rows"]


def reduced_length(output: Output) -> int:
    return len(output.read(Dataset.REDUCED, ["pca_features"], REDUCED)["pca_features"][0].as_py())
