import json
import os
import subprocess
import sys

import pytest

from orchard.errors import UsageError
from orchard.features.backbones import DEFAULT_BACKBONE, REGISTRY, find
from orchard.features.efficientnet_lite import VARIANTS

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


def measure(models: list[tuple[str, float | None]]) -> dict:
    command = [sys.executable, "-c", MEASURE, json.dumps(models)]
    environment = os.environ | {"KERAS_BACKEND": "openvino"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def check(models: list[tuple[str, float | None]]) -> dict:
    measured = measure(models)
    for name, alpha in models:
        backbone = find(name).with_alpha(alpha)
        listed = [backbone.input_size, backbone.n_features, backbone.parameters, backbone.depth]
        assert measured["found"][f"{name} {alpha}"] == listed, (name, alpha)
    return measured


def test_the_registry_is_keras_applications_and_efficientnet_lite_with_their_real_figures():
    measured = check(LIGHT)
    assert {*VARIANTS, *measured["builders"]} == set(REGISTRY)


@pytest.mark.slow
def test_every_backbone_has_the_size_features_and_parameters_that_the_registry_says():
    check([(name, None) for name in REGISTRY])


def test_every_backbone_says_how_good_it_is():
    for backbone in REGISTRY.values():
        assert backbone.top1 is not None and 50 < backbone.top1 < 90
        assert backbone.top5 is None or 85 < backbone.top5 < 98
    assert find("mobilenetv2").with_alpha(0.35).top1 == 60.3
    assert find("mobilenetv2").with_alpha(0.35).top5 is None  # published of the full width alone


def test_the_default_needs_no_download():
    assert not find(DEFAULT_BACKBONE).in_keras


@pytest.mark.parametrize("name", ["MobileNetV2", "mobilenetv2", " MOBILENETV2 "])
def test_a_backbone_is_found_in_any_case(name):
    assert find(name) is REGISTRY["MobileNetV2"]


def test_a_misspelt_backbone_is_answered_with_the_nearest_names():
    with pytest.raises(UsageError, match="did you mean MobileNetV2"):
        find("mobilnetv2")
    with pytest.raises(UsageError, match="orchard backbones"):
        find("zzz")


def test_a_width_that_has_no_weights_is_refused():
    with pytest.raises(UsageError, match=r"choose one of 0\.35, 0\.5"):
        find("MobileNetV2").with_alpha(0.4)
    with pytest.raises(UsageError, match="no meaning for ResNet50"):
        find("ResNet50").with_alpha(0.5)
    assert find("ResNet50").with_alpha(None) is find("ResNet50").with_alpha(1.0)


def test_the_weights_file_is_named_as_keras_names_it():
    assert find("MobileNet").with_alpha(0.25).weights_filename() == "mobilenet_2_5_224_tf_no_top.h5"
    small = find("MobileNetV3Small").with_alpha(0.75).weights_filename()
    assert small == "weights_mobilenet_v3_small_224_0.75_float_no_top_v2.h5"
    assert find("EfficientNetV2S").weights_filename() == "efficientnetv2-s_notop.h5"
