"""Every exported file answers as the pipeline did, on all of its test photographs."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from conftest import TRAINED
from export.runtimes import Answers, Exporter, Photographs, Run, run_onnx, run_openvino, run_tensorflow
from orchard.exports.formats import Format, StoredPrecision, card_beside
from orchard.images.decoding import Decoded
from orchard.inference.model import Model
from orchard.inference.predictor import Predictor

# How much of the accuracy may be lost; measured on 2,878 photographs of 58 classes: see docs/export.md.
ALLOWED_LOSS = {StoredPrecision.FLOAT16: 0.005, StoredPrecision.INT8: 0.03}
# How far familiarity may be off, on average and at most; measured on 550 photographs: 9e-7 and 9e-4 at most, and of
# int8, whose noise lies at a right angle to the classes, 0.02 on average and 0.07 at most.
FAMILIARITY_DIFFERS = {
    StoredPrecision.FLOAT32: (1e-4, 1e-3),
    StoredPrecision.FLOAT16: (1e-3, 5e-3),
    StoredPrecision.INT8: (0.04, 0.15),
}


def in_batches(run: Run, images: NDArray[np.uint8], size: int = 50) -> Answers:
    batches = [run(images[start : start + size]) for start in range(0, len(images), size)]
    return Answers(*(np.concatenate(values) for values in zip(*batches, strict=True)))


def check_answers(model: Model, precision: StoredPrecision, answers: Answers, photographs: Photographs) -> None:
    found = answers.probabilities
    assert found.shape == (len(photographs.label), len(model.labels))
    assert answers.familiarity.shape == (len(photographs.label),)
    differences, (average, most) = np.abs(answers.familiarity - photographs.familiarity), FAMILIARITY_DIFFERS[precision]
    assert differences.mean() < average and differences.max() < most
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-3
    (column,) = model.columns
    assert np.abs(answers.colour_probabilities.sum(axis=1) - 1).max() < 1e-3
    same = np.array(column.values)[answers.colour_probabilities.argmax(axis=1)] == photographs.colour
    # Onions have no colour: what a model says of one may be a tie, which the rounding of a processor decides.
    has_colour = np.array([TRAINED[label] != "" for label in photographs.label])
    assert np.mean(same[has_colour]) >= (0.995 if precision is StoredPrecision.FLOAT32 else 1 - ALLOWED_LOSS[precision])
    labels = np.array(model.labels)[found.argmax(axis=1)]
    if precision is StoredPrecision.FLOAT32:
        assert np.mean(labels == photographs.predicted) >= 0.995
        assert np.abs(found.max(axis=1) - photographs.confidence).max() < 1e-2
        return
    right, right_before = (
        (labels == photographs.label).mean(),
        np.mean(np.array(photographs.predicted) == photographs.label),
    )
    assert right >= right_before - ALLOWED_LOSS[precision]


@pytest.mark.parametrize("precision", StoredPrecision)
def test_onnx_answers_as_the_pipeline_did(
    model: Model, exported: Exporter, photographs: Photographs, precision: StoredPrecision
) -> None:
    run = run_onnx(exported(Format.ONNX, precision))
    check_answers(model, precision, in_batches(run, photographs.pixels), photographs)


@pytest.mark.parametrize("precision", StoredPrecision)
def test_openvino_answers_as_the_pipeline_did(
    model: Model, exported: Exporter, photographs: Photographs, precision: StoredPrecision
) -> None:
    run = run_openvino(exported(Format.OPENVINO, precision))
    check_answers(model, precision, in_batches(run, photographs.pixels), photographs)


def test_keras_answers_as_the_pipeline_did_where_orchard_is_not_installed(
    model: Model, answers_of_tensorflow: dict[str, Answers], photographs: Photographs
) -> None:
    check_answers(model, StoredPrecision.FLOAT32, answers_of_tensorflow["float32.keras"], photographs)


@pytest.mark.parametrize("precision", [StoredPrecision.FLOAT32, StoredPrecision.INT8])
def test_litert_answers_as_the_pipeline_did(
    model: Model,
    answers_of_tensorflow: dict[str, Answers],
    photographs: Photographs,
    precision: StoredPrecision,
) -> None:
    check_answers(model, precision, answers_of_tensorflow[f"{precision}.tflite"], photographs)


def test_int8_knows_the_photographs_that_float32_knows_by_a_threshold_of_its_own(
    model: Model, exported: Exporter, answers_of_tensorflow: dict[str, Answers], photographs: Photographs
) -> None:
    """With ONNX Runtime's int8 and float32's threshold 28 % were unknown."""
    assert np.mean(photographs.familiarity < model.calibration.familiarity) < 0.02
    for kind in (Format.ONNX, Format.OPENVINO, Format.LITERT):
        file = exported(kind, StoredPrecision.INT8)
        card = json.loads(card_beside(file).read_text())
        threshold = card["familiarity_threshold"]
        assert 0.8 * model.calibration.familiarity < threshold < model.calibration.familiarity
        assert (card["digest"], card["threshold"]) == (model.digest, model.calibration.threshold)
        if kind is Format.LITERT:
            found = answers_of_tensorflow["int8.tflite"]
            assert f'"familiarity_threshold": {threshold}'.encode() in file.read_bytes()
        else:
            run = run_onnx(file) if kind is Format.ONNX else run_openvino(file)
            found = in_batches(run, photographs.pixels)
        assert np.mean(found.familiarity < threshold) < 0.02, kind


def test_openvino_and_onnx_in_int8_are_the_same_network(exported: Exporter, photographs: Photographs) -> None:
    file = exported(Format.ONNX, StoredPrecision.INT8)
    operations = [node.op_type for node in onnx.load(file).graph.node]
    assert operations.count("QuantizeLinear") > 40 and operations.count("Conv") == 49
    pixels = photographs.pixels[::10]
    one, other = run_onnx(file)(pixels), run_openvino(exported(Format.OPENVINO, StoredPrecision.INT8))(pixels)
    assert np.abs(one.familiarity - other.familiarity).max() < 0.03
    assert (one.probabilities.argmax(1) == other.probabilities.argmax(1)).all()


@pytest.mark.slow
def test_litert_in_float16_answers_as_the_pipeline_did(
    model: Model, exported: Exporter, photographs: Photographs, tmp_path: Path
) -> None:
    file = exported(Format.LITERT, StoredPrecision.FLOAT16)
    found = run_tensorflow([file], photographs, tmp_path)[file.name]
    check_answers(model, StoredPrecision.FLOAT16, found, photographs)


def test_smaller_precisions_make_smaller_files(exported: Exporter, answers_of_tensorflow: dict[str, Answers]) -> None:
    assert answers_of_tensorflow  # all of them have been written

    def size(kind: Format, precision: StoredPrecision) -> int:
        file = exported(kind, precision)
        return (file.with_suffix(".bin") if kind is Format.OPENVINO else file).stat().st_size

    for kind in (Format.ONNX, Format.OPENVINO):
        assert size(kind, StoredPrecision.FLOAT16) < 0.55 * size(kind, StoredPrecision.FLOAT32)
    for kind in (Format.ONNX, Format.OPENVINO, Format.LITERT):
        # What follows the features stays float32: 1.4 MB of familiarity.
        assert size(kind, StoredPrecision.INT8) < 0.37 * size(kind, StoredPrecision.FLOAT32)


@pytest.mark.parametrize("kind", [Format.ONNX, Format.OPENVINO])
def test_a_large_photo_is_shrunk_as_the_pipeline_shrinks_it(
    model: Model, exported: Exporter, photographs: Photographs, kind: Format
) -> None:
    file = exported(kind, StoredPrecision.FLOAT32)
    run = run_onnx(file) if kind is Format.ONNX else run_openvino(file)
    predictor = Predictor(model, batch_size=1)
    for index in range(0, len(photographs.label), 110):
        photo = Image.fromarray(photographs.pixels[index]).resize((2000, 1500), Image.Resampling.BICUBIC)
        content = io.BytesIO()
        photo.save(content, "JPEG", quality=95)
        decoded = predictor.decode(content.getvalue())
        assert isinstance(decoded, Decoded) and decoded.pixels.shape == (224, 224, 3)
        features = predictor.features([decoded.pixels])
        expected = model.probabilities(features)[0]
        found, near, _ = run(np.asarray(Image.open(content))[np.newaxis])
        assert found[0].argmax() == expected.argmax()
        assert abs(found[0] - expected).max() < 0.05
        assert near[0] == pytest.approx(model.familiarities(features)[0], abs=0.05)


@pytest.mark.parametrize("kind", [Format.ONNX, Format.OPENVINO])
def test_a_photo_may_have_any_size_and_come_in_a_batch(exported: Exporter, fruits: Path, kind: Format) -> None:
    file = exported(kind, StoredPrecision.FLOAT32)
    run = run_onnx(file) if kind is Format.ONNX else run_openvino(file)
    photo = np.asarray(Image.open(next((fruits / "Test" / "Mango").glob("*.jpg"))).convert("RGB"))
    for height, width in ((1, 1), (37, 500), (224, 224), (600, 31)):
        resized = np.asarray(Image.fromarray(photo).resize((width, height)))
        for one, *others in run(np.stack([resized] * 3)):
            assert np.isfinite(one).all()
            assert np.abs(np.array(others) - one).max() < 1e-5


@pytest.mark.parametrize("precision", StoredPrecision)
@pytest.mark.parametrize("kind", [Format.ONNX, Format.OPENVINO])
def test_three_views_are_cut_inside_the_file(
    looking: Path, exported_views: Exporter, looked_at: Photographs, kind: Format, precision: StoredPrecision
) -> None:
    file = exported_views(kind, precision)
    run = run_onnx(file) if kind is Format.ONNX else run_openvino(file)
    check_answers(Model.load(str(looking)), precision, in_batches(run, looked_at.pixels), looked_at)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        (Format.KERAS, StoredPrecision.FLOAT32),
        pytest.param(Format.LITERT, StoredPrecision.FLOAT32, marks=pytest.mark.slow),
        pytest.param(Format.LITERT, StoredPrecision.INT8, marks=pytest.mark.slow),
    ],
)
def test_three_views_are_cut_inside_the_files_of_tensorflow_too(
    looking: Path,
    exported_views: Exporter,
    looked_at: Photographs,
    tmp_path: Path,
    kind: Format,
    precision: StoredPrecision,
) -> None:
    file = exported_views(kind, precision)
    found = run_tensorflow([file], looked_at, tmp_path)[file.name]
    check_answers(Model.load(str(looking)), precision, found, looked_at)


@pytest.mark.parametrize("kind", [Format.ONNX, Format.OPENVINO])
def test_views_of_a_photo_of_any_size_are_those_of_the_pipeline(
    looking: Path, exported_views: Exporter, fruits: Path, kind: Format
) -> None:
    """To the rounding, but where a large one is shrunk in two steps, whose first is coarser in the pipeline."""
    model = Model.load(str(looking))
    file, predictor = exported_views(kind, StoredPrecision.FLOAT32), Predictor(model, batch_size=3)
    run = run_onnx(file) if kind is Format.ONNX else run_openvino(file)
    photo = Image.open(next((fruits / "Test" / "Mango").glob("*.jpg")))
    for size, differs in (
        *(((1, 1), 0.01), ((9, 17), 0.01), ((233, 301), 0.01), ((320, 320), 0.01), ((400, 90), 0.01)),
        ((1500, 1100), 0.05),
    ):
        resized, content = photo.resize(size, Image.Resampling.BICUBIC), io.BytesIO()
        resized.save(content, "png", compress_level=1)
        decoded = predictor.decode(content.getvalue())
        assert isinstance(decoded, Decoded)
        features = predictor.features([decoded.pixels])
        found = run(np.asarray(resized)[np.newaxis])
        assert np.abs(found.probabilities - model.probabilities(features)).max() < differs, size
        assert np.abs(found.familiarity - model.familiarities(features)).max() < differs, size


def test_the_card_says_what_views_the_file_takes(exported: Exporter, exported_views: Exporter) -> None:
    one, three = (
        json.loads(card_beside(export(Format.ONNX, StoredPrecision.FLOAT32)).read_text())["input"]
        for export in (exported, exported_views)
    )
    assert (one["views"], one["size"], three["views"], three["size"]) == (1, 224, 3, 320)
    assert three["resize"] == (
        "bilinear to 224 x 224, smoothing when it shrinks, of the whole and of its middle, 0.875 and 0.7 of each side; "
        "done by the file; the file brings a larger photo to 320 x 320 first"
    )
