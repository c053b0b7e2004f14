"""`orchard export`: a whole file and its card, or nothing and a reason."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import orchard
from export.runtimes import Exporter
from orchard.cli.export import export
from orchard.errors import InputError, OrchardError, StorageError, UsageError, WeightsUnavailable
from orchard.exports.formats import Format, StoredPrecision, card_beside
from orchard.exports.keras_model import keras_file
from orchard.exports.quantization import Images, in_other_numbers, matching
from orchard.features.artifact import Precision
from orchard.features.engines import openvino_core
from orchard.inference.model import Model
from orchard.storage import local

if TYPE_CHECKING:
    from conftest import S3Server


def orchard_export(*arguments: object) -> Result:
    return CliRunner().invoke(export, [str(argument) for argument in arguments], standalone_mode=False)


def test_it_prints_what_it_wrote(trained: Path, tmp_path: Path) -> None:
    result = orchard_export(trained, "--format", "onnx", "--to", tmp_path / "new" / "fruits.onnx")
    assert result.exit_code == 0 and result.exception is None
    assert f"MB  {tmp_path}/new/fruits.onnx" in result.output
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"fruits.onnx", "fruits.onnx.json"}


def test_python_takes_the_weights_that_the_command_takes(trained: Path, tmp_path: Path) -> None:
    result = orchard_export(trained, "--format", "keras", "--weights", "/no.h5", "--to", tmp_path / "a.keras")
    with pytest.raises(OrchardError, match=r"/no\.h5") as told:
        orchard.export(str(trained), f"{tmp_path}/b.keras", format="keras", weights="/no.h5")
    assert str(told.value) == str(result.exception)


def test_the_card_says_what_an_app_and_a_lawyer_need(trained: Path, model: Model, tmp_path: Path) -> None:
    file = tmp_path / "fruits.xml"
    result = orchard_export(trained, "--format", "openvino", "--precision", "float16", "--to", file, "--json")
    card = json.loads(card_beside(file).read_text())
    assert json.loads(result.output)["card"] == card
    assert card["labels"] == list(model.labels) and card["digest"] == model.digest
    assert (card["format"], card["precision"]) == ("openvino", "float16")
    assert card["input"]["shape"] == ["n", "height", "width", 3] and card["input"]["dtype"] == "uint8"
    assert card["threshold"] == model.calibration.threshold
    assert card["temperature"] == model.calibration.temperature
    assert card["familiarity_threshold"] == model.calibration.familiarity > 0
    assert [output["name"] for output in card["outputs"]] == ["probabilities", "familiarity", "colour_probabilities"]
    (colour,), (column,) = card["columns"], model.columns
    assert (colour["name"], colour["output"]) == ("colour", "colour_probabilities")
    assert colour["values"] == ["orange", "red", "violet", "yellow"]
    assert (colour["temperature"], colour["threshold"]) == (
        column.calibration.temperature,
        column.calibration.threshold,
    )
    assert card["training"]["test_by_column"]["colour"]["test_rows"] == 500  # onions have none
    assert set(card["answers"]) == {"sure", "not_sure", "unknown", "kind", "columns"}
    assert card["classifier"] == "linear_discriminant"
    assert (
        0.9 < card["training"]["calibration"]["share_sure"] <= 1 and "coverage" not in card["training"]["calibration"]
    )
    assert card["backbone"]["name"] == "EfficientNetLite0" and card["backbone"]["imagenet_top1_percent"] == 75.1
    assert card["training"]["images_by_split"] == {"train": 1760, "test": 550}
    assert card["training"]["test"]["accuracy"] == model.metrics["classifiers"]["linear_discriminant"]["accuracy"]
    assert card["licences"]["orchard"] == "Apache-2.0"
    assert card["licences"]["backbone_weights"] == "Apache-2.0 as far as known: check with their publisher"
    assert "whoever trained" in card["licences"]["training_images"]
    assert card["file"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["file"]["bytes"] == file.stat().st_size + file.with_suffix(".bin").stat().st_size


def test_labels_and_card_are_inside_the_file_too(model: Model, exported: Exporter) -> None:
    properties = {p.key: p.value for p in onnx.load(exported(Format.ONNX, StoredPrecision.INT8)).metadata_props}
    assert json.loads(properties["labels"]) == list(model.labels)
    assert json.loads(properties["model_card"])["precision"] == "int8"
    graph = openvino_core().read_model(exported(Format.OPENVINO, StoredPrecision.FLOAT32))
    assert json.loads(graph.get_rt_info(["orchard", "labels"]).astype(str)) == list(model.labels)
    assert json.loads(graph.get_rt_info(["orchard", "model_card"]).astype(str))["digest"] == model.digest


def test_the_card_is_in_the_metadata_of_a_litert_file(model: Model, exported: Exporter) -> None:
    content = exported(Format.LITERT, StoredPrecision.FLOAT32).read_bytes()
    assert b"model.json" in content and json.dumps(list(model.labels)).encode() in content


def test_it_writes_to_s3(trained: Path, s3_server: S3Server) -> None:
    bucket = s3_server.bucket()
    target = f"s3a://{bucket}/models/fruits.onnx"
    result = orchard_export(
        *(trained, "--format", "onnx", "--to", target, "--s3-endpoint", s3_server.endpoint, "--s3-region", "us-east-1")
    )
    assert result.exception is None
    assert target in result.output
    onnx.checker.check_model(onnx.load(s3_server.root / bucket / "models" / "fruits.onnx"))
    assert (s3_server.root / bucket / "models" / "fruits.onnx.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("onnx", "fruits.tflite"), "ends in .onnx, or take --format litert"),
        (("litert", "fruits.lite"), "ends in .tflite"),
        (("openvino", "models/"), "ends in .xml"),
        (("onnx", "models/.onnx"), "is a suffix alone: write a name before it, such as model.onnx."),
        (("keras", "fruits.keras", "--precision", "float16"), "take --format litert"),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_take(
    trained: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    kind, file, *others = arguments
    result = orchard_export(trained, "--format", kind, "--to", f"{tmp_path}/{file}", *others)
    assert isinstance(result.exception, UsageError) and reason in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "suffix"), [("onnx", ".onnx"), ("onnx", ".onnx.json"), ("openvino", ".xml.json"), ("openvino", ".bin")]
)
def test_a_folder_where_a_file_will_be_leaves_the_export_of_before(
    trained: Path, tmp_path: Path, kind: str, suffix: str
) -> None:
    """The model of before was deleted, before its card could not be written."""
    file = tmp_path / f"fruits{Format(kind).suffix}"
    file.write_bytes(b"before")
    folder = tmp_path / f"fruits{suffix}"
    folder.unlink(missing_ok=True)
    folder.mkdir()
    result = orchard_export(trained, "--format", kind, "--to", file)
    assert isinstance(result.exception, UsageError) and str(result.exception).startswith(f"{folder} is a folder")
    assert set(tmp_path.iterdir()) == {file, folder} and not list(folder.iterdir())
    assert file == folder or file.read_bytes() == b"before"


def test_a_name_may_be_as_long_as_its_file_system_takes_it(trained: Path, tmp_path: Path) -> None:
    """The files were written under longer names first."""
    file = tmp_path / f"{'m' * 245}.onnx"
    result = orchard_export(trained, "--format", "onnx", "--to", file)
    assert result.exit_code == 0, result.exception
    assert set(tmp_path.iterdir()) == {file, card_beside(file)}


@pytest.mark.parametrize("kind", [Format.ONNX, Format.OPENVINO])
def test_where_writing_fails_the_export_of_before_keeps_its_own_card(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Format
) -> None:
    file = tmp_path / f"fruits{kind.suffix}"
    before = dict.fromkeys((file, card_beside(file)), b"before")
    for path, data in before.items():
        path.write_bytes(data)

    def write(file: BinaryIO, data: bytes) -> None:
        if len(data) > 1_000_000:
            raise OSError(errno.ENOSPC, "the disk is full")
        file.write(data)

    monkeypatch.setattr(local, "_write", write)
    result = orchard_export(trained, "--format", kind, "--to", file)
    assert isinstance(result.exception, StorageError)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_export_deletes_what_a_killed_one_left_beside_the_model(trained: Path, tmp_path: Path) -> None:
    """Its files were under the model's name with eight letters behind it, and stayed."""
    file = tmp_path / "fruits.onnx"
    killed = [
        *(sys.executable, "-c"),
        "import os, sys; from orchard.storage import local; local._sync = lambda _: os._exit(9); "
        "from orchard.__main__ import main; main()",
        *("export", str(trained), "--format", "onnx", "--to", str(file)),
    ]
    assert subprocess.run(killed, check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    with local._created(tmp_path / ".living.orchard-tmp") as living:  # as another process does that exports meanwhile
        assert orchard_export(trained, "--format", "onnx", "--to", file).exit_code == 0
    assert not left.exists()
    assert {file, card_beside(file), Path(living.name)} == set(tmp_path.iterdir())


def test_int8_without_the_training_images_says_what_to_do(trained: Path, tmp_path: Path) -> None:
    moved = tmp_path / "out"
    shutil.copytree(trained, moved)
    shutil.rmtree(moved / "_orchard")
    result = orchard_export(moved, "--format", "onnx", "--precision", "int8", "--to", tmp_path / "fruits.onnx")
    assert isinstance(result.exception, InputError) and "take --precision float16" in str(result.exception)


def test_other_weights_than_the_models_are_refused(model: Model) -> None:
    other = replace(model, artifact=replace(model.artifact, weights_digest="0" * 32))
    with pytest.raises(WeightsUnavailable, match="are not those that the model was made with: give the same file"):
        keras_file(other, Format.KERAS, weights="imagenet")
    of_int8 = replace(other, artifact=replace(other.artifact, precision=Precision.INT8))
    with pytest.raises(WeightsUnavailable, match="or take --precision int8, which needs none"):
        in_other_numbers(of_int8, Images([], ""), weights="imagenet", seed=0)


def test_a_threshold_moves_as_the_familiarity_of_the_same_images_does() -> None:
    before = np.array([0.6, 0.7, 0.8, 0.9, 0.4], np.float32)
    assert matching(0.5, before, before) == 0.5
    assert matching(0.5, before, before * np.float32(0.8)) == 0.4
    odd = before * np.array([1, 1, 1, 0.01, 0.01], np.float32)
    assert matching(0.5, before, odd) == 0.5  # single images move far
    assert matching(0.5, before[:0], before[:0]) == 0.5 and matching(0.9, before, before * 2) == 1.0


def test_floats_of_a_run_in_int8_are_made_of_the_weights_again(model: Model, fruits: Path) -> None:
    paths = sorted((fruits / "Training").glob("Mango/*.jpg"))[:40]
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    images = Images(pixels, "0" * 32)
    int8 = in_other_numbers(model, images, weights="imagenet", seed=0)
    assert int8.artifact.precision is Precision.INT8 and int8.calibration != model.calibration
    again = in_other_numbers(int8, images, weights="imagenet", seed=0)
    assert again.artifact == model.artifact
    assert again.calibration.familiarity == pytest.approx(model.calibration.familiarity, abs=3e-4)


@pytest.mark.slow
def test_a_keras_application_leaves_as_litert() -> None:
    from orchard.features.backbones import find
    from orchard.features.conversion import build_artifact

    artifact = build_artifact(find("MobileNetV3Small"), weights="random", seed=3)
    model = Model(artifact, ("a", "b"), np.zeros((2, artifact.n_features), np.float32), np.zeros(2, np.float32))
    assert len(keras_file(model, Format.LITERT, StoredPrecision.FLOAT16, weights="random", seed=3).data) > 1_000_000
