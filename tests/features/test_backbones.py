import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytest
from numpy.typing import NDArray

from orchard.errors import UsageError
from orchard.features.backbones import DEFAULT_BACKBONE, REGISTRY, find
from orchard.features.conversion import build_artifact
from orchard.features.efficientnet_lite import VARIANTS
from orchard.features.engines import load_engine

Images = list[NDArray[np.uint8]]

# Asks Keras itself; OpenVINO's backend imports fastest.
MEASURE = """
import inspect, json, sys
import keras
from orchard.features.efficientnet_lite import VARIANTS, network
found = {}
builders = {n: f for n, f in vars(keras.applications).items() if inspect.isfunction(f)}
for name, alpha in json.loads(sys.argv[1]):
    width = {} if alpha is None else {"alpha": alpha}
    if name in VARIANTS:
        whole, model = network(name, include_top=True), network(name)
        size = model.input_shape[1]
    else:
        whole = builders[name](weights=None, **width)
        size = whole.input_shape[1] or 224  # MobileNetV3 takes any size; its weights are of 224
        model = builders[name](weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3), **width)
    depth = sum(bool(layer.weights) for layer in whole.layers)
    found[f"{name} {alpha}"] = [size, model.output_shape[-1], model.count_params(), depth]
print(json.dumps({"builders": sorted(builders), "found": found}))
"""

LIGHT = [
    ("EfficientNetLite0", None),
    ("EfficientNetLite1", None),
    ("EfficientNetLite2", None),
    ("EfficientNetB0", None),
    ("EfficientNetV2B0", None),
    ("DenseNet121", None),
    ("NASNetMobile", None),
    ("ResNet50", None),
    ("InceptionV3", None),
    ("Xception", None),
    *[(name, alpha) for name, backbone in REGISTRY.items() for alpha in backbone.widths],
]


class Measured(TypedDict):
    builders: list[str]
    found: dict[str, list[int]]


def measure(models: list[tuple[str, float | None]]) -> Measured:
    command = [sys.executable, "-c", MEASURE, json.dumps(models)]
    environment = os.environ | {"KERAS_BACKEND": "openvino"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    measured: Measured = json.loads(output.splitlines()[-1])
    return measured


def check(models: list[tuple[str, float | None]]) -> Measured:
    measured = measure(models)
    for name, alpha in models:
        backbone = find(name).with_alpha(alpha)
        listed = [backbone.input_size, backbone.n_features, backbone.parameters, backbone.depth]
        assert measured["found"][f"{name} {alpha}"] == listed, (name, alpha)
    return measured


def test_the_registry_is_keras_applications_and_efficientnet_lite_with_their_real_figures() -> None:
    measured = check(LIGHT)
    assert {*VARIANTS, *measured["builders"]} == set(REGISTRY)


@pytest.mark.slow
def test_every_backbone_has_the_size_features_and_parameters_that_the_registry_says() -> None:
    check([(name, None) for name in REGISTRY])


def test_every_backbone_says_how_good_it_is() -> None:
    for backbone in REGISTRY.values():
        assert backbone.top1 is not None and 50 < backbone.top1 < 90
        assert backbone.top5 is None or 85 < backbone.top5 < 98
    assert find("mobilenetv2").with_alpha(0.35).top1 == 60.3
    assert find("mobilenetv2").with_alpha(0.35).top5 is None  # published of the full width alone


def test_the_default_needs_no_download() -> None:
    assert not find(DEFAULT_BACKBONE).in_keras


@pytest.mark.parametrize("name", ["MobileNetV2", "mobilenetv2", " MOBILENETV2 "])
def test_a_backbone_is_found_in_any_case(name: str) -> None:
    assert find(name) is REGISTRY["MobileNetV2"]


def test_a_misspelt_backbone_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(UsageError, match="did you mean MobileNetV2"):
        find("mobilnetv2")
    with pytest.raises(UsageError, match="orchard backbones"):
        find("zzz")


def test_a_width_that_has_no_weights_is_refused() -> None:
    with pytest.raises(UsageError, match=r"choose one of 0\.35, 0\.5"):
        find("MobileNetV2").with_alpha(0.4)
    with pytest.raises(UsageError, match="no meaning for ResNet50"):
        find("ResNet50").with_alpha(0.5)
    assert find("ResNet50").with_alpha(None) is find("ResNet50").with_alpha(1.0)


def test_the_weights_file_is_named_as_keras_names_it() -> None:
    assert find("MobileNet").with_alpha(0.25).weights_filename() == "mobilenet_2_5_224_tf_no_top.h5"
    small = find("MobileNetV3Small").with_alpha(0.75).weights_filename()
    assert small == "weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5"
    assert find("EfficientNetV2S").weights_filename() == "efficientnetv2-s_notop.h5"


def test_the_input_size_is_the_networks_own_or_one_that_it_can_take() -> None:
    lite = find("EfficientNetLite0")
    assert lite.with_input_size(None) is lite.with_input_size(224) is lite
    small = lite.with_input_size(128)
    assert (small.input_size, small.n_features, small.top1) == (128, 1280, None)
    assert find("EfficientNetB2").with_input_size(260).top1 == 80.1
    for name, size in (("EfficientNetLite0", 100), ("EfficientNetLite0", 32), ("VGG16", 480), ("Xception", 64)):
        with pytest.raises(UsageError, match=f"--input-size {size} is none of {name}: take its own .* multiple of 32"):
            find(name).with_input_size(size)


def test_a_smaller_input_gives_features_of_another_entry_in_the_cache(images: Images, artifact_cache: Path) -> None:
    small, own = (
        build_artifact(find("MobileNet").with_alpha(0.25).with_input_size(size), weights="random") for size in (64, 224)
    )
    before = len(list(artifact_cache.iterdir()))
    assert build_artifact(find("MobileNet").with_alpha(0.25).with_input_size(64), weights="random") == small
    assert len(list(artifact_cache.iterdir())) == before
    assert small.fingerprint() != own.fingerprint() and small.parameters == own.parameters
    of_small, of_own = (load_engine(artifact)(images) for artifact in (small, own))
    assert of_small.shape == of_own.shape == (len(images), 256)
    assert not np.allclose(of_small, of_own, rtol=0.01)


ONE_OF_EACH_FAMILY = ["ConvNeXtTiny", "DenseNet121", "EfficientNetB1", "EfficientNetV2B0", "InceptionResNetV2"]
ONE_OF_EACH_FAMILY += ["InceptionV3", "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_every_family_takes_the_sizes_that_it_says(name: str, images: Images) -> None:
    backbone = find(name)
    for size in (backbone.input_sizes[0], 160):
        artifact = build_artifact(backbone.with_input_size(size), weights="random")
        assert load_engine(artifact)(images[:1]).shape == (1, backbone.n_features)
