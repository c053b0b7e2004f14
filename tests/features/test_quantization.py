"""int8: made of the run's own images, kept with the output, close to float32, and refused where it is mixed."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyspark.sql import SparkSession

import orchard.api
from orchard.errors import InputError, SettingsChanged, UsageError
from orchard.features.artifact import Artifact, EngineName, Precision
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import OpenVinoEngine, load_engine, resolve_precision
from orchard.features.quantization import LEAST_AGREEMENT, LEAST_IMAGES, Sample, agreement, digest, quantized
from orchard.images.decoding import Decoded, decode
from orchard.images.limits import Limits
from orchard.layout import BACKBONE, Dataset
from orchard.output import Output
from orchard.storage import DEFAULT_S3
from orchard.vocabulary import Fit

LITE = find("EfficientNetLite0").with_input_size(64)
# Random weights, 64 px and a quarter of the width: what is left of its features is not worth having.
FRAIL = find("MobileNet").with_alpha(0.25).with_input_size(64)
Draw = Callable[[Path, int], list[Path]]


@pytest.fixture(scope="module")
def draw(photos: dict[str, NDArray[np.uint8]]) -> Draw:
    """``draw(folder, n)``: n crops of photographs of `photos`, in folders by their names."""

    def draw(folder: Path, count: int) -> list[Path]:
        random = np.random.default_rng(count)
        paths = []
        for number in range(count):
            name = list(photos)[number % len(photos)]
            photo = photos[name]
            top, left = (int(random.integers(0, length - 200)) for length in photo.shape[:2])
            paths.append(folder / name / f"{number}.png")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo[top : top + 200, left : left + 200]).resize((80, 80)).save(paths[-1])
        return paths

    return draw


def sample_of(paths: list[Path]) -> Sample:
    return Sample(tuple(map(str, paths)), Limits(), DEFAULT_S3)


@pytest.fixture(scope="module")
def pictures(draw: Draw, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw(tmp_path_factory.mktemp("pictures"), 48)


@pytest.fixture(scope="module")
def lite8(pictures: list[Path]) -> Artifact:
    return build_artifact(LITE, precision=Precision.INT8, sample=sample_of(pictures))


def pixels(paths: list[Path]) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def test_features_of_int8_are_close_to_float32s_and_not_the_same(lite8: Artifact, draw: Draw, tmp_path: Path) -> None:
    images = pixels(draw(tmp_path, 40))
    exact, rounded = load_engine(build_artifact(LITE))(images), load_engine(lite8)(images)
    assert agreement(exact, rounded) > LEAST_AGREEMENT and lite8.agreement is not None
    assert lite8.agreement > LEAST_AGREEMENT
    assert not np.array_equal(exact, rounded)
    assert agreement(exact, exact) == pytest.approx(1) and agreement(exact, np.roll(exact, 1, axis=0)) < 0.5
    assert len(lite8.parameters) < 0.3 * len(build_artifact(LITE).parameters)
    alone = np.concatenate([load_engine(lite8)([image]) for image in images[:9]])
    assert np.array_equal(alone, rounded[:9])
    served = OpenVinoEngine(lite8, batch_size=1)(images[:9])
    assert agreement(rounded[:9], served) > 0.999


@pytest.fixture(scope="module")
def frail8(pictures: list[Path]) -> Artifact:
    return build_artifact(FRAIL, weights="random", precision=Precision.INT8, sample=sample_of(pictures))


def test_the_same_images_give_the_same_network(
    frail8: Artifact, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = partial(build_artifact, FRAIL, weights="random", precision=Precision.INT8, sample=sample_of(pictures))
    assert build() == frail8  # out of the cache
    monkeypatch.setenv("ORCHARD_CACHE", str(tmp_path / "cache"))  # another machine
    assert build() == frail8
    contents = sample_of(pictures).read()
    assert frail8.calibration == digest(contents) != digest([contents[1], contents[0], *contents[2:]])
    assert len({digest(contents, fit) for fit in Fit}) == 3
    assert replace(frail8, network="another").fingerprint() != frail8.fingerprint()


def test_a_network_does_not_depend_on_what_the_process_made_before(pictures: list[Path]) -> None:
    exact, images = build_artifact(FRAIL, weights="random"), pixels(pictures)
    first = quantized(exact, images, "")
    load_engine(exact)(images[:1])
    assert quantized(exact, images, "") == first


def test_the_choice_of_auto_falls_back_to_float32(frail8: Artifact, pictures: list[Path]) -> None:
    build = partial(build_artifact, FRAIL, weights="random", precision=Precision.INT8)
    assert frail8.precision is Precision.INT8 and frail8.agreement is not None
    assert frail8.agreement < LEAST_AGREEMENT
    fallen = build(sample=sample_of(pictures), may_fall_back=True)
    assert fallen == replace(build_artifact(FRAIL, weights="random"), agreement=frail8.agreement)
    few = sample_of([*pictures[: LEAST_IMAGES - 1], pictures[0].with_name("gone.png")])
    assert build(sample=few, may_fall_back=True) == build_artifact(FRAIL, weights="random")
    with pytest.raises(InputError, match="23 of 23 can be read and decoded: take --precision float32"):
        build(sample=few)


def test_a_sample_is_of_training_images_and_of_all_labels() -> None:
    rows = [
        {"path": f"{label}/{number}", "label": label, "split": split}
        for label, count, split in (("a", 900, "train"), ("b", 9, "train"), ("c", 90, "test"), ("d", 9, None))
        for number in range(count)
    ]
    table = pa.Table.from_pylist(rows)
    found = Sample.of(table, seed=1, limits=Limits(), s3=DEFAULT_S3)
    assert len(found.paths) == 192
    assert {path.split("/")[0] for path in found.paths} == {"a", "b", "d"}
    assert found == Sample.of(table, seed=1, limits=Limits(), s3=DEFAULT_S3)
    assert found != Sample.of(table, seed=2, limits=Limits(), s3=DEFAULT_S3)


def test_auto_takes_int8_where_it_is_known_to_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchard.features.engines.has_bfloat16", lambda _core: False)
    lite, flags = find("EfficientNetLite0"), frozenset({"avx2"})
    monkeypatch.setattr("orchard.features.engines.processor_flags", lambda: flags)
    assert resolve_precision("auto", backbone=lite, images=12_158) is Precision.INT8
    assert resolve_precision("auto", backbone=lite, images=2_000) is Precision.FLOAT32
    assert resolve_precision("auto", backbone=lite.with_input_size(64), images=12_158) is Precision.FLOAT32
    assert resolve_precision("auto", backbone=find("MobileNetV2"), images=12_158) is Precision.INT8
    assert resolve_precision("auto", backbone=find("ResNet50"), images=10**9) is Precision.FLOAT32  # not measured
    assert resolve_precision("auto", EngineName.TENSORFLOW, backbone=lite, images=10**9) is Precision.FLOAT32
    assert resolve_precision("int8", backbone=lite, images=1) is Precision.INT8
    with pytest.raises(UsageError, match="--precision int8 is for --engine openvino"):
        resolve_precision("int8", EngineName.TENSORFLOW)
    flags = frozenset()
    assert resolve_precision("auto", backbone=lite, images=12_158) is Precision.FLOAT32
    monkeypatch.setattr("orchard.features.engines.has_bfloat16", lambda _core: True)
    assert resolve_precision("auto", backbone=lite, images=12_158) is Precision.BFLOAT16


def test_nncf_does_not_keep_a_standard_output_that_was_closed(
    pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As after `orchard.export`, which takes standard output away from libraries for a while."""
    gone = io.StringIO()
    logging.getLogger("nncf").addHandler(logging.StreamHandler(gone))
    gone.close()
    quantized(build_artifact(FRAIL, weights="random"), pixels(pictures), "")
    assert "Logging error" not in capsys.readouterr().err


def test_nncf_sends_nothing() -> None:
    script = (
        "from orchard.features.engines import import_openvino; import_openvino();"
        "from orchard.features.quantization import _import_nncf; _import_nncf();"
        "import sys; from nncf.telemetry import wrapper;"
        "assert isinstance(wrapper.telemetry, wrapper.NNCFTelemetryStub), wrapper.telemetry;"
        "assert sys.modules['openvino_telemetry'] is None and not {'torch', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_output_of_int8_keeps_to_its_network(spark: SparkSession, draw: Draw, tmp_path: Path) -> None:
    source, output = tmp_path / "photos", str(tmp_path / "out")
    draw(source, 60)
    network = {"backbone": FRAIL.name, "alpha": FRAIL.alpha, "weights": "random", "input_size": 64, "seed": 3}
    settings = {**network, "precision": "int8"}
    orchard.api.extract(spark, str(source), output, **settings)
    first = Artifact.from_bytes(Output(output).part(BACKBONE) or b"")
    assert (first.precision, first.input_size) == (Precision.INT8, 64)
    told = json.loads((tmp_path / "out" / "run.json").read_bytes())["backbone"]
    assert (told["precision"], told["input_size"], told["top1"]) == ("int8", 64, None)
    assert (told["network"], told["calibration"], told["agreement"]) == (
        *(first.network, first.calibration),
        first.agreement,
    )
    # More images would draw another sample; `auto` would take float32; neither changes what features are.
    draw(source, 72)
    features = orchard.api.extract(spark, str(source), output, **network).collect()
    assert Artifact.from_bytes(Output(output).part(BACKBONE) or b"") == first
    assert len(features) == Output(output).rows(Dataset.FEATURES) == 72
    images = [decode(Path(row["path"]).read_bytes(), 64, Limits()) for row in features]
    here = load_engine(first)([image.pixels for image in images if isinstance(image, Decoded)])
    assert np.abs(here - np.array([row["features"] for row in features])).max() < 1e-4
    for changed, sentence in (
        ({"precision": "float32"}, "was made with precision int8 and would be mixed with float32"),
        ({"input_size": 96}, "was made with input_size 64 and would be mixed with 96"),
    ):
        with pytest.raises(SettingsChanged, match=sentence):
            orchard.api.extract(spark, str(source), output, **{**settings, **changed})
