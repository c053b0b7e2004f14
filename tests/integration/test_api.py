"""The pipeline from a notebook."""

import importlib
import json
import logging
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

import orchard
from orchard import runlog
from orchard.comparison import compare
from orchard.errors import InputError, UsageError
from orchard.layout import PREDICTIONS, SUSPECTS, Dataset
from orchard.pipeline import Pipeline
from orchard.settings import load
from orchard.storage import S3Options


def test_extract_returns_a_dataframe_of_features(spark: Any, painted: Path) -> None:
    frame = orchard.extract(spark, str(painted), limit=12)
    assert frame.columns == ["path", "label", "kind", "label_columns", "split", "width", "height", "features"]
    rows = frame.collect()
    assert len(rows) == 12
    assert {len(row.features) for row in rows} == {1280}


def test_the_stages_one_by_one(spark: Any, painted: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    features = orchard.extract(spark, str(painted), output)
    reduced = orchard.reduce(spark, output, components=4)
    predictions = orchard.classify(spark, output, classifiers="linear_discriminant")
    assert features.count() == reduced.count() == predictions.count() == 90
    assert reduced.first().pca_features[:4] == pytest.approx(reduced.first().pca_features)
    assert orchard.read(spark, output, "rejected").count() == 0
    suspects = orchard.suspects(spark, output)
    assert suspects.columns == SUSPECTS.names
    counted = json.loads((tmp_path / "out" / "metrics.json").read_text())["review"]
    assert suspects.count() == counted["images"] > 0
    assert {row.fault for row in suspects.collect()} <= set(counted["faults"])


def test_every_stage_comes_to_the_same_on_spark_and_on_processes_of_this_machine(
    spark: Any, painted: Path, tmp_path: Path
) -> None:
    orchard.run(None, str(painted), str(tmp_path / "first"))
    given = {"group_by": r"frame (\d)"}
    found = []
    for name, session in (("spark", spark), ("processes", None)):
        url = str(shutil.copytree(tmp_path / "first", tmp_path / name))
        with Pipeline(url, load(given), session) as pipeline:
            stages = dict.fromkeys(("reduction", "neighbours", "classification", "review"))
            pipeline.output.commit({}, properties=dict(stages))
            for stage in (pipeline.reduce, pipeline.neighbours, pipeline.classify, pipeline.review):
                stage()
            found.append({name: figures(pipeline.output.recall(name)) for name in stages})
            rows = pipeline.output.read(Dataset.PREDICTIONS, ["path", "classifier", "predicted"], PREDICTIONS)
            found[-1]["predictions"] = rows.sort_by([("path", "ascending"), ("classifier", "ascending")]).to_pylist()
            assert pipeline.meter.seconds.keys() == {"reduce", "neighbours", "classify", "review"}
    on_spark, on_processes = found
    assert on_spark["classification"]["group_split"]["classifiers"]
    assert on_processes == on_spark


def figures(found: Any) -> Any:
    """Return what does not depend on time or on the order of sums."""
    if isinstance(found, dict):
        return {name: figures(value) for name, value in found.items() if name != "seconds"}
    if isinstance(found, list):
        return [figures(value) for value in found]
    return round(found, 3) if isinstance(found, float) else found


def test_stages_of_an_empty_output_say_what_to_do_first(spark: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="orchard extract"):
        orchard.reduce(spark, str(tmp_path / "nothing"))


def test_results_of_other_features_or_components_are_not_reported(spark: Any, painted: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    outcome = orchard.run(spark, str(painted), output, limit=45, classifiers="linear_discriminant")
    assert "classifiers" in outcome.metrics
    orchard.reduce(spark, output, components=3)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["pca"]["k"] == 3
    assert "classifiers" not in metrics
    orchard.extract(spark, str(painted), output)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "pca" not in metrics
    with pytest.raises(InputError, match="orchard reduce"):
        orchard.classify(spark, output)


def test_backbones_are_compared_in_one_table(
    spark: Any, painted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchard")  # as the command line does
    settings = load({"weights": "random", "classifiers": "linear_discriminant", "limit": 45})
    rows = compare(str(painted), str(tmp_path / "compare"), ["mobilenetv2", "EfficientNetLite0"], settings, spark)
    assert {row["backbone"] for row in rows} == {"MobileNetV2", "EfficientNetLite0"}
    assert [row["accuracy"] for row in rows] == sorted((row["accuracy"] for row in rows), reverse=True)
    best = [row for row in rows if row["best_trade_off"]]
    assert len(best) == 1
    within = [row for row in rows if row["accuracy"] >= rows[0]["accuracy"] - 0.01]
    assert best[0]["ms_per_image"] == min(row["ms_per_image"] for row in within)
    assert all(row["images_per_second"] > 0 and row["k"] > 0 and row["size_mb"] > 0 for row in rows)
    written = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert [row["backbone"] for row in written["backbones"]] == [row["backbone"] for row in rows]
    page = (tmp_path / "compare" / "compare.html").read_text()
    assert f"{best[0]['backbone']} is the best trade-off" in page
    said = "\n".join(runlog.lines(str(tmp_path / "compare"), S3Options()))
    assert "backbone 2 of 2: EfficientNetLite0" in said


def test_a_backbone_named_twice_is_refused(spark: Any, painted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        compare(str(painted), str(tmp_path), ["MobileNetV2", "mobilenetv2"], load(), spark)


def test_all_results_are_one_table(spark: Any, trained: Path) -> None:
    table = orchard.results(spark, str(trained))
    assert table.columns[:7] == ["path", "label", "kind", "label_columns", "split", "width", "height"]
    row = table.where("split = 'test' and label = 'Orange 2'").first()
    assert json.loads(row.label_columns) == {"colour": "orange"}
    assert row.features.size == 1280
    assert 2 < row.components.size < 1280
    (said,) = row.predictions.values()
    assert said.answer in {"sure", "not_sure", "unknown"}
    assert json.loads(said.predicted_columns).keys() == json.loads(said.column_confidences).keys() == {"colour"}
    assert 0 <= said.familiarity <= 1
    assert table.count() == orchard.read(spark, str(trained), "features").count()


def test_predict_here_and_on_spark_say_the_same(spark: Any, trained: Path, fruits: Path) -> None:
    photos = sorted(str(path) for path in (fruits / "Test" / "Mango").glob("*.jpg"))[:3]
    here = orchard.predict(None, str(trained), [*photos, __file__], top=2)
    assert [answer["path"] for answer in here] == [*photos, __file__]
    assert here[0]["top"][0]["label"] == "Mango"
    assert here[3]["reason"] == "unsupported_format"
    there = orchard.predict(spark, str(trained), photos, top=2)
    assert [answer["answer"] for answer in there] == [answer["answer"] for answer in here[:3]]
    assert [answer["columns"]["colour"]["likeliest"] for answer in there] == ["red"] * 3


def test_a_module_takes_the_place_of_no_function() -> None:
    for module in ("orchard.planning", "orchard.comparison", "orchard.exports.writing", "orchard.cli"):
        importlib.import_module(module)
    assert all(callable(getattr(orchard, name)) for name in orchard.__all__)


def test_plan_and_export(trained: Path, painted: Path, tmp_path: Path) -> None:
    planned = orchard.plan(str(painted), weights="random", core_hour_price=3600, task_images=25)
    assert (planned["images"], planned["tasks"]) == (90, 4)
    assert [stage["stage"] for stage in planned["stages"]][:3] == ["list", "start", "extract"]
    assert planned["cost"] == pytest.approx(sum(stage["core_seconds"] for stage in planned["stages"]), rel=0.01)
    assert not planned["qualities"]  # they have weights of their own
    exported = orchard.export(str(trained), str(tmp_path / "model.onnx"), format="onnx")
    assert exported.card["labels"]
    assert (tmp_path / "model.onnx").stat().st_size == next(iter(exported.files.values()))


@pytest.mark.parametrize("call", [orchard.read, orchard.results, orchard.classify, orchard.run, orchard.predict])
def test_a_session_that_cannot_work_is_refused(
    spark: Any, trained: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = {orchard.read: ("features",), orchard.predict: (__file__,)}.get(call, ())
    given = ("photos", str(trained)) if call is orchard.run else (str(trained), *rest)
    with pytest.raises(UsageError, match=r"^spark cannot be 'photos': give a session of orchard.start_spark\(\)\.$"):
        call("photos", *given)
    monkeypatch.setattr(spark.sparkContext, "_jsc", None)  # as its stop() leaves it
    with pytest.raises(UsageError, match="The Spark session has been stopped: start another one"):
        call(spark, *given)


def test_what_no_command_takes_is_refused_in_a_sentence(spark: Any, trained: Path, tmp_path: Path) -> None:
    out = str(trained)
    for call, said in (
        (lambda: orchard.read(None, out, "features"), "spark cannot be None: give a session"),
        (lambda: orchard.read(spark, out, "feature"), "There is no dataset 'feature': take one of .*features"),
        (lambda: orchard.export(out, str(tmp_path / "m.onnx"), format="onx"), "There is no format 'onx': .*onnx, "),
        (lambda: orchard.export(out, "m.onnx", format="onnx", precision="f16"), "no precision 'f16': .*float16"),
        (lambda: orchard.predict(None, out, __file__, top=0), "top=1 or more"),
        (lambda: orchard.predict(None, out, __file__, top=cast(Any, "3")), "no answer of '3' labels: give top=1"),
        (lambda: orchard.erase(out, older_than=cast(Any, 365), dry_run=True), r"an age such as timedelta\(365\)"),
        (lambda: orchard.compare(None, out, str(tmp_path), "VGG16,VGG99"), "There is no backbone 'VGG99'"),
        (
            lambda: orchard.compare(None, out, str(tmp_path), "VGG16", tolerance=cast(Any, "0.1")),
            "0.1 is no share",
        ),
        (lambda: orchard.compare(None, cast(Any, ["a", "b"]), out, ["VGG16"]), r"source cannot be \['a', 'b'\]: "),
        (lambda: orchard.erase(out, "a.jpg", older_than=timedelta(365), dry_run=True), "images alone, or older_than"),
        (lambda: orchard.erase(out, older_than=timedelta(0), dry_run=True), "images alone, or older_than"),
    ):
        with pytest.raises(UsageError, match=said):
            call()
    with pytest.raises(InputError, match="There is no source: give a folder"):
        orchard.plan([])


def test_paths_of_pathlib_are_addresses(trained: Any, fruits: Path, tmp_path: Any) -> None:
    photographs: Any = sorted((fruits / "Test" / "Raspberry").iterdir())[:2]
    assert [row["label"] for row in orchard.predict(None, trained, photographs)] == ["Raspberry"] * 2
    assert len(orchard.predict(None, output=trained, images=photographs[0])) == 1
    exported = orchard.export(trained, tmp_path / "fruits.onnx", format="onnx")
    assert str(tmp_path / "fruits.onnx") in exported.files
    assert orchard.erase(trained, photographs[0], dry_run=True)["images"] == 1
    several: Any
    for several in (iter, set, np.array):  # what Path.glob, and a column of a table, give
        assert len(orchard.predict(None, trained, several(photographs))) == 2
        assert orchard.erase(trained, several(photographs), dry_run=True)["images"] == 2
    nothing: Any
    for nothing in (None, b"bytes of a photo", [1], 7, pd.DataFrame({"path": ["a.jpg"]})):
        for call in (
            lambda: orchard.predict(None, trained, nothing),  # noqa: B023
            lambda: orchard.plan(nothing),  # noqa: B023
            lambda: orchard.erase(trained, nothing, dry_run=True),  # noqa: B023
        ):
            with pytest.raises(UsageError, match=r"(source|images) cannot be .*: give a path or an address\.$"):
                call()
    with pytest.raises(UsageError, match="output cannot be None: give a path"):
        orchard.run(None, str(fruits), cast(Any, None))
