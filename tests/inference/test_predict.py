"""`orchard predict`: the pipeline's answers, without Java for a handful, file by file when one is broken."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from orchard.cli import cli
from orchard.cli import predict as commands
from orchard.errors import UsageError
from orchard.features.views import middle
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predict import Answered, Candidate, find_images
from orchard.inference.predictor import Predictor
from orchard.storage import S3Options, read_path
from orchard.vocabulary import Answer, Fit, Reason


def predict(
    output: Path | str, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "orchard", "predict", str(output), *arguments]
    return subprocess.run(command, capture_output=True, check=False, input=stdin, env=env)


@pytest.fixture(scope="module")
def colours(trained: Path) -> dict[str, tuple[str, float]]:
    """Of each test photograph what the pipeline predicted of a further label column."""
    rows = [row for row in pq.read_table(trained / "predictions").to_pylist() if row["split"] == "test"]
    said = {row["path"]: (row["predicted_columns"], row["column_confidences"]) for row in rows}
    return {path: (json.loads(value)["colour"], json.loads(share)["colour"]) for path, (value, share) in said.items()}


@pytest.fixture(scope="module")
def expected(trained: Path) -> dict[str, tuple[str, float]]:
    """Of each test photograph what the pipeline predicted, in the order of their paths."""
    rows = pq.read_table(trained / "predictions").sort_by("path").to_pylist()
    return {row["path"]: (row["predicted"], row["confidence"]) for row in rows if row["split"] == "test"}


def test_a_handful_needs_no_java_and_gets_the_answers_of_the_pipeline(
    trained: Path, expected: dict[str, tuple[str, float]], colours: dict[str, tuple[str, float]], tmp_path: Path
) -> None:
    paths = list(expected)[::60]
    environment = os.environ | {"PATH": "/nowhere", "JAVA_HOME": str(tmp_path)}
    found = predict(trained, *paths, "--format", "jsonl", "--top", "3", env=environment)
    assert found.returncode == 0, found.stderr
    answers = [json.loads(line) for line in found.stdout.splitlines()]
    assert [answer["path"] for answer in answers] == paths
    for answer in answers:
        label, confidence = expected[answer["path"]]
        assert answer["top"][0]["label"] == label
        assert answer["confidence"] == pytest.approx(confidence, abs=0.01)
        assert len(answer["top"]) == 3
        assert answer["label"] == (label if answer["answer"] == "sure" else None)
        assert list(answer) == ["path", "answer", "label", "kind", "confidence", "familiarity", "top", "columns"]
        assert list(answer["columns"]) == ["colour"]
        colour, (likeliest, share) = answer["columns"]["colour"], colours[answer["path"]]
        assert colour["likeliest"] == likeliest
        assert colour["confidence"] == pytest.approx(share, abs=0.01)
        assert colour["value"] in (likeliest, None)
        assert answer["kind"] is None and 0.3 < answer["familiarity"] <= 1
    assert [answer["answer"] for answer in answers].count("sure") > len(answers) / 2
    assert [answer["columns"]["colour"]["value"] for answer in answers].count(None) < len(answers) / 2


def test_a_picture_is_made_square_as_in_training(trained: Path) -> None:
    model = Model.load(str(trained))
    file = io.BytesIO()
    wide = Image.new("RGB", (600, 300), "red")
    wide.paste("blue", (150, 0, 450, 300))
    wide.save(file, "png")
    cropping = replace(model, artifact=replace(model.artifact, fit=Fit.CROP))
    assert cropping.digest != model.digest
    seen = [Predictor(one, batch_size=1).decode(file.getvalue()) for one in (model, cropping)]
    assert all(isinstance(one, Decoded) for one in seen)
    red = [(one.pixels[..., 0] > 128).mean() for one in seen if isinstance(one, Decoded)]
    assert red[0] == pytest.approx(0.5, abs=0.01) and red[1] == 0


def test_a_model_of_several_views_looks_three_times(trained: Path, fruits: Path) -> None:
    model = Model.load(str(trained))
    looking = replace(model, artifact=replace(model.artifact, test_views=3))
    predictor, single = Predictor(looking, batch_size=1), Predictor(model, batch_size=1)
    file = io.BytesIO()
    Image.open(next((fruits / "Test" / "Mango").glob("*.jpg"))).resize((400, 400)).save(file, "png")
    seen = predictor.decode(file.getvalue())
    assert isinstance(seen, Decoded) and seen.pixels.shape == (320, 320, 3)
    views = [middle(seen.pixels, part, 224) for part in (1.0, 7 / 8, 7 / 10)]
    np.testing.assert_allclose(
        predictor.features([seen.pixels])[0], single.features(views).mean(axis=0), rtol=1e-4, atol=1e-5
    )


def test_a_collection_on_spark_gets_the_same_answers_in_order(
    trained: Path, fruits: Path, expected: dict[str, tuple[str, float]]
) -> None:
    folder = fruits / "Test" / "Mango"
    here = predict(trained, str(folder), "--format", "jsonl", "--no-spark")
    spark = predict(trained, str(folder), "--format", "jsonl", "--spark")
    assert spark.returncode == here.returncode == 0, spark.stderr
    ours, theirs = ([json.loads(line) for line in run.stdout.splitlines()] for run in (here, spark))
    assert [a["path"] for a in theirs] == [a["path"] for a in ours] == sorted(p for p in expected if "/Mango/" in p)
    assert [a["top"][0]["label"] for a in theirs] == [a["top"][0]["label"] for a in ours]
    assert [(a["answer"], a["label"]) for a in theirs] == [(a["answer"], a["label"]) for a in ours]
    for number in ("confidence", "familiarity"):
        assert all(abs(a[number] - b[number]) < 1e-5 for a, b in zip(ours, theirs, strict=True))


def test_a_broken_file_is_reported_and_the_others_are_answered(trained: Path, fruits: Path, tmp_path: Path) -> None:
    photograph = next((fruits / "Test" / "Raspberry").iterdir())
    good, cut, text = tmp_path / "good.jpg", tmp_path / "cut.jpg", tmp_path / "notes.txt"
    good.write_bytes(photograph.read_bytes())
    cut.write_bytes(photograph.read_bytes()[:900])
    text.write_text("no picture")
    found = predict(trained, str(cut), str(good), str(text), "--format", "csv")
    assert found.returncode == 1
    rows = list(csv.DictReader(io.StringIO(found.stdout.decode())))
    assert [row["reason"] for row in rows] == ["truncated", "", "unsupported_format"]
    assert rows[1]["label_1"] == "Raspberry"
    assert rows[1]["column_colour"] == "red" and 0.5 < float(rows[1]["column_colour_confidence"]) <= 1
    table = predict(trained, str(cut), str(good))
    assert b"cut.jpg: truncated (" in table.stdout and b"good.jpg: Raspberry" in table.stdout
    assert re.search(rb"good.jpg: Raspberry .* colour: red \d", table.stdout)


def test_csv_has_no_more_candidates_than_the_model_has_labels(trained: Path, fruits: Path) -> None:
    """A table of 9000000000 candidates took all memory."""
    photograph = next((fruits / "Test" / "Raspberry").iterdir())
    found = predict(trained, str(photograph), "--format", "csv", "--top", "5000")
    (row,) = csv.DictReader(io.StringIO(found.stdout.decode()))
    labels = len(Model.load(str(trained)).labels)
    assert [name for name in row if name.startswith("label_")] == [f"label_{rank + 1}" for rank in range(labels)]
    assert row[f"label_{labels}"]


def test_a_file_whose_name_is_not_utf8_has_the_name_of_a_listing(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9.jpg"))
    file.write_bytes(b"1")
    table = find_images([str(file)], S3Options())
    assert table["path"].to_pylist() == [f"{tmp_path}/\\xe9.jpg"]
    assert read_path(table["path"][0].as_py()) == b"1"


def test_csv_holds_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["=1+1", "+1", "-1", "@a", "\ta", "\ra", "a=1", "", "'=1"]
    answers = [
        Answered(
            path=name,
            answer=Answer.SURE,
            label=name,
            kind=name,
            confidence=0.9,
            familiarity=0.7,
            top=[Candidate(label=name, confidence=0.9)],
            columns={"ripeness": {"value": name, "likeliest": name, "confidence": 0.9}},
        )
        for name in names
    ]
    assert commands._csv(iter(answers), 1, ["ripeness"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    told = [f"'{name}" for name in names[:6]] + names[6:]
    for column in ("path", "label", "kind", "column_ripeness", "label_1"):
        assert [row[column] for row in rows] == told
    assert {(row["answer"], row["confidence"], row["familiarity"]) for row in rows} == {("sure", "0.9", "0.7")}


def test_a_table_shows_what_would_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\nb\u202e.jpg"
    rejected = Answered(path=name, reason=Reason.TRUNCATED, detail=name)
    taken = Answered(
        path=name, answer=Answer.SURE, kind=None, top=[Candidate(label=f"Pêche\xa0{name}", confidence=0.9)]
    )
    assert commands._table(iter([rejected, taken]), 1, []) == 1
    shown = "a\\x1b[2J\\nb\\u202e.jpg"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{shown}: truncated ({shown})"
    assert lines[1].split("  ")[0] == f"{shown}: Pêche\xa0{shown}" and len(lines) == 2


def test_a_columns_confidence_has_a_column_of_its_own_in_csv(
    monkeypatch: pytest.MonkeyPatch, trained: Path, fruits: Path
) -> None:
    model = Model.load(str(trained))
    columns = tuple(replace(model.columns[0], name=name) for name in ("ripe", "ripe_confidence"))
    monkeypatch.setattr(Model, "load", lambda *_: replace(model, columns=columns))
    refused = CliRunner().invoke(cli, ["predict", str(trained), str(fruits), "--format", "csv"])
    assert isinstance(refused.exception, UsageError) and "ripe_confidence is a column of" in str(refused.exception)


def test_closed_standard_input_is_one_sentence(trained: Path) -> None:
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -m orchard predict "$1" - <&-', sys.executable, str(trained)],
        capture_output=True,
        text=True,
        check=False,
    )
    said = "orchard: Standard input is closed: give the image by a pipe or as a file.\n"
    assert (closed.returncode, closed.stderr) == (3, said)


def test_standard_input_is_an_image(trained: Path, fruits: Path) -> None:
    photograph = next((fruits / "Test" / "Raspberry").iterdir()).read_bytes()
    found = predict(trained, "-", stdin=photograph)
    assert found.returncode == 0 and found.stdout.startswith(b"-: Raspberry")
    large = predict(trained, "-", "--max-bytes", "100", stdin=photograph)
    assert large.returncode == 1 and large.stdout.startswith(b"-: too large")


def test_there_are_three_answers(trained: Path, fruits: Path, tmp_path: Path) -> None:
    """Photographs are sure, what lies between two labels is not all sure, and what shows none of them is unknown."""
    one, other = (next((fruits / "Test" / label).iterdir()) for label in ("Lemon Meyer", "Orange 2"))
    for share in range(20):
        Image.blend(Image.open(one), Image.open(other), share / 20).save(tmp_path / f"mixed {share:02}.png")
    random = np.random.default_rng(0)
    strange = {
        "black": np.zeros((100, 100, 3), np.uint8),
        "noise": random.integers(0, 256, (100, 100, 3), np.uint8),
        "stripes": np.tile(np.array([0, 255, 255, 0], np.uint8).repeat(3), (100, 25, 1)).reshape(100, 100, 3),
    }
    for name, pixels in strange.items():
        Image.fromarray(pixels).save(tmp_path / f"strange {name}.png")
    found = [json.loads(line) for line in predict(trained, str(tmp_path), "--format", "jsonl").stdout.splitlines()]
    answers = {Path(answer["path"]).stem: answer for answer in found}
    calibration = Model.load(str(trained)).calibration
    assert len(answers) == 23 and all(answer["top"] for answer in found)
    for answer in found:
        said = calibration.answers(np.array([answer["confidence"]]), np.array([answer["familiarity"]]))
        assert said.tolist() == [answer["answer"]]
        assert answer["label"] == (answer["top"][0]["label"] if answer["answer"] == "sure" else None)
        if answer["answer"] == "unknown":
            assert answer["columns"]["colour"]["value"] is None
    assert answers["mixed 00"]["label"] == "Lemon Meyer"
    assert {answers[f"strange {name}"]["answer"] for name in strange} == {"unknown"}
    assert {answers[f"mixed {share:02}"]["answer"] for share in range(20)} - {"sure"}
    by_answer = {answer["answer"]: answer for answer in found}
    table = predict(trained, *(answer["path"] for answer in by_answer.values())).stdout.decode()
    assert f"{by_answer['unknown']['path']}: unlike anything learned" in table
    assert "colour" not in next(line for line in table.splitlines() if "unlike anything" in line)
    if unsure := by_answer.get("not_sure"):
        assert f"not sure; {unsure['top'][0]['label']}?" in table


def test_a_missing_source_or_model_is_one_sentence(trained: Path, tmp_path: Path) -> None:
    missing = predict(trained, str(tmp_path / "none"))
    assert missing.returncode == 3 and missing.stderr.count(b"\n") == 1
    no_model = predict(tmp_path, str(tmp_path))
    assert no_model.returncode == 3 and b"make one with orchard run" in no_model.stderr
