"""Every backbone of the registry can leave as ONNX and answers as OpenVINO does."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from export.runtimes import Answers, run_onnx
from orchard.classification import discriminant
from orchard.errors import OrchardError, UsageError
from orchard.exports import onnx_graph
from orchard.exports.formats import StoredPrecision
from orchard.exports.graph import folded_graph, output_shapes
from orchard.exports.onnx_graph import to_onnx
from orchard.features.artifact import Artifact, EngineName
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import cells_of, load_engine, openvino_core
from orchard.inference.calibration import Calibration
from orchard.inference.class_map import class_map
from orchard.inference.columns import Column
from orchard.inference.familiarity import Familiarity
from orchard.inference.kinds import Kinds
from orchard.inference.linear import Linear
from orchard.inference.model import Model
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import Sums

FEW = ["MobileNetV3Small", "MobileNetV2"]
ONE_OF_EACH_FAMILY = ["MobileNet", "EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny", "DenseNet121", "InceptionV3"]
ONE_OF_EACH_FAMILY += ["InceptionResNetV2", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"]


def model_of(backbone: str) -> Model:
    """A model of 7 classes with random weights."""
    artifact = build_artifact(find(backbone), weights="random")
    weights = np.random.default_rng(0).normal(0, 1, (7, artifact.n_features)).astype(np.float32)
    linear = Linear(weights[:3] * np.float32(1e-3), np.arange(3, dtype=np.float32))
    column = Column("colour", ("green", "red", "yellow"), linear, Calibration(temperature=2.0))
    familiarity = any_familiarity(artifact)
    return Model(
        artifact, tuple("abcdefg"), weights, np.zeros(7, np.float32), familiarity=familiarity, columns=(column,)
    )


def any_familiarity(artifact: Artifact) -> Familiarity:
    """Of seven classes, fitted on features at random."""
    random = np.random.default_rng(1)
    rows = random.normal(0, 1, (70, artifact.n_features)).astype(np.float32)
    sums = Sums.of(rows, {"label": list("abcdefg") * 10})
    reduction = Reduction.fit(sums.moments, components=6)
    return discriminant.fit(sums.labelled, sums.columns["label"], reduction).familiarity


@pytest.mark.parametrize("backbone", [*FEW, *(pytest.param(b, marks=pytest.mark.slow) for b in ONE_OF_EACH_FAMILY)])
def test_a_backbone_answers_in_onnx_as_in_openvino(backbone: str, fruits: Path) -> None:
    photos = [next((fruits / "Test" / name).glob("*.jpg")) for name in ("Mango", "Lemon Meyer", "Raspberry")]
    images = np.stack([np.asarray(Image.open(photo).convert("RGB")) for photo in photos])
    model = model_of(backbone)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}

    def expected(model: Model) -> Answers:
        found = openvino_core().compile_model(folded_graph(model), "CPU", settings)([images])
        return Answers(*(np.array(found[name]) for name in Answers._fields))

    # Random networks give features of any size: bring the scores to where the softmax is not flat.
    small = replace(model, weights=model.weights * np.float32(1e-3))
    bias = -np.log(expected(small).probabilities).mean(axis=0).astype(np.float32)
    model = replace(small, bias=bias)
    probabilities, familiarity, _ = expected(model)
    found = run_onnx(to_onnx(model))(images)
    assert np.abs(found.probabilities - probabilities).max() < 1e-3
    assert np.abs(found.familiarity - familiarity).max() < 1e-3
    assert probabilities.max() < 0.999
    features = load_engine(model.artifact)(list(images))
    assert np.abs(model.familiarities(features) - familiarity).max() < 1e-3
    assert np.abs(found.colour_probabilities - model.columns[0].probabilities(features)).max() < 1e-3


@pytest.mark.parametrize("views", [1, 3])
def test_where_it_looks_is_what_the_pipeline_says(views: int, fruits: Path) -> None:
    photo = np.asarray(Image.open(next((fruits / "Test" / "Mango").glob("*.jpg"))).convert("RGB"))
    model = model_of(FEW[0])
    model = replace(model, artifact=replace(model.artifact, square_root=views > 1, test_views=views))
    file = to_onnx(model, where=True)
    assert [output.name for output in onnx.load_model_from_string(file).graph.output] == list(
        output_shapes(model, where=True)
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    both = np.stack([photo, photo[::-1]])
    found = dict(zip(names, session.run(None, {"image": both}), strict=True))
    engine, cells = load_engine(model.artifact), cells_of(model.artifact)
    for number, image in enumerate(both):
        label = model.labels[int(model.scores(engine([image]))[0].argmax())]
        said = np.maximum(found["class_map"][number], 0)
        np.testing.assert_allclose(said / said.max(), class_map(model, cells(image), label), atol=0.006)
    if views > 1:
        single = model.familiarities(engine.single(list(both)))
        np.testing.assert_allclose(found["whole.familiarity"], single, atol=1e-3)
        assert set(found) >= {"whole.probabilities", "familiarity"}
    else:
        assert set(found) == {"probabilities", "familiarity", "colour_probabilities", "class_map"}


def test_a_further_column_may_have_any_name_beside_what_the_page_asks_for() -> None:
    model = model_of(FEW[0])
    further = tuple(replace(model.columns[0], name=name) for name in ("whole", "whole_kind", "class", "class_map"))
    kinds = Kinds(("K", "L"), np.eye(7, 2, dtype=np.float32))
    model = replace(model, artifact=replace(model.artifact, test_views=3), columns=further, kinds=kinds)
    session = onnxruntime.InferenceSession(to_onnx(model, where=True), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": np.zeros((1, 224, 224, 3), np.uint8)}), strict=True))
    assert {name: len(values[0]) for name, values in found.items() if name.endswith("probabilities")} == {
        **dict.fromkeys(("probabilities", "whole.probabilities"), 7),
        **dict.fromkeys(("kind_probabilities", "whole.kind_probabilities"), 2),
        **{f"{column.name}_probabilities": 3 for column in further},
    }


def test_kinds_are_computed_from_the_probabilities_that_are_an_output() -> None:
    kinds = Kinds(("K", "L"), np.eye(7, 2, dtype=np.float32))
    file = onnx.load_model_from_string(to_onnx(replace(model_of(FEW[0]), kinds=kinds)))
    names = ["probabilities", "familiarity", "kind_probabilities", "colour_probabilities"]
    assert [output.name for output in file.graph.output] == names
    (last,) = (node for node in file.graph.node if "kind_probabilities" in node.output)
    assert last.input[0] == "probabilities"


def test_the_file_says_what_it_takes_and_gives(model: Model) -> None:
    file = onnx.load_model_from_string(to_onnx(model))
    assert file.ir_version <= 10 and file.opset_import[0].version == 18
    (entry,), (result, near, colour) = file.graph.input, file.graph.output
    assert (entry.name, entry.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in entry.type.tensor_type.shape.dim] == ["n", "height", "width", 3]
    assert (result.name, result.type.tensor_type.elem_type) == ("probabilities", onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in result.type.tensor_type.shape.dim] == ["n", len(model.labels)]
    assert (near.name, near.type.tensor_type.elem_type) == ("familiarity", onnx.TensorProto.FLOAT)
    assert [d.dim_param or d.dim_value for d in near.type.tensor_type.shape.dim] == ["n"]
    assert colour.name == "colour_probabilities"
    assert [d.dim_param or d.dim_value for d in colour.type.tensor_type.shape.dim] == ["n", 4]
    properties = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(properties["labels"]) == list(model.labels)
    assert properties["digest"] == model.digest
    assert float(properties["threshold"]) == model.calibration.threshold
    assert float(properties["familiarity_threshold"]) == model.calibration.familiarity


def test_everything_linear_is_one_layer_and_batch_normalisation_is_folded(model: Model) -> None:
    """A model made by hand, of no familiarity and no further column, has one output."""
    content = to_onnx(replace(model, familiarity=None, columns=()))
    assert [output.name for output in onnx.load_model_from_string(content).graph.output] == ["probabilities"]
    operations = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert "BatchNormalization" not in operations
    assert operations[-3:] == ["MatMul", "Add", "Softmax"] and operations.count("MatMul") == 1
    assert operations.count("Transpose") == 1


def test_a_server_can_afford_to_make_it_when_asked(model: Model) -> None:
    started = time.process_time()
    to_onnx(model, StoredPrecision.FLOAT16)
    assert time.process_time() - started < 2
    assert "onnxruntime" not in vars(onnx_graph) and "tensorflow" not in vars(onnx_graph)


def test_the_temperature_is_in_the_file(model: Model, fruits: Path) -> None:
    photo = np.asarray(Image.open(next((fruits / "Test" / "Mango").glob("*.jpg"))).convert("RGB"))[np.newaxis]
    cold, hot = (replace(model, calibration=Calibration(temperature)) for temperature in (500.0, 1500.0))
    answers = [run_onnx(to_onnx(m))(photo) for m in (cold, hot)]
    low, high = (np.log(answer.probabilities[0].astype(np.float64)) for answer in answers)
    assert answers[0].familiarity == answers[1].familiarity
    assert np.isfinite(low).all() and low.min() < -0.5
    assert high - high.max() == pytest.approx((low - low.max()) / 3, abs=1e-3)


def test_int8_is_not_made_without_images(model: Model) -> None:
    with pytest.raises(UsageError, match="needs images to calibrate with: orchard export"):
        to_onnx(model, StoredPrecision.INT8)


def test_a_network_of_tensorflows_is_refused_with_the_way_out(model: Model) -> None:
    other = replace(model, artifact=replace(model.artifact, engine=EngineName.TENSORFLOW))
    with pytest.raises(UsageError, match="--format keras or litert"):
        to_onnx(other)


def test_an_operation_that_is_not_known_is_named(model: Model) -> None:
    topology = model.artifact.topology.replace(b'type="Clamp"', b'type="Elu"').replace(b'min="0" max="6"', b'alpha="1"')
    other = replace(model, artifact=replace(model.artifact, topology=topology))
    with pytest.raises(OrchardError, match=r"holds the operation Elu .* take --format openvino"):
        to_onnx(other)


def test_without_the_package_it_says_what_to_install(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match="pip install onnx"):
        to_onnx(model)
