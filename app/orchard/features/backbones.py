"""The table of backbones: input size, number of features, and accuracy on ImageNet.

Everything here is static, so that listing the table imports no framework; tests hold it to the built models.
``top1`` and ``top5`` are the accuracy (%) on ImageNet's validation set, one centre crop, that the weights' publisher
gives: https://keras.io/api/applications/ for Keras Applications, the papers' tables for MobileNets of other widths.
``depth`` is counted as there: layers with parameters, of the whole network with its classifier.
``milliseconds`` an image were measured by benchmarks/backbones.py, which says on what.
"""

# ruff: noqa: E501 - a table is read by its columns

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from orchard.errors import UsageError

DEFAULT_BACKBONE = "EfficientNetLite0"

SIZE_STEP = 32
"""Factor by which all of these networks shrink an image before they pool it."""


class Preprocessing(StrEnum):
    """What a network expects of pixels x in 0..255, RGB (``keras.applications.imagenet_utils``)."""

    NONE = "none"
    """x as it is: the network's first layers normalise."""
    TF = "tf"
    """x / 127.5 - 1."""
    TORCH = "torch"
    """(x / 255 - mean) / standard deviation, by channel."""
    CAFFE = "caffe"
    """BGR, x - mean, by channel."""
    LITE = "lite"
    """(x - 127) / 128."""


@dataclass(frozen=True)
class Width:
    """A variant of a family that comes in several widths (MobileNet's ``alpha``)."""

    n_features: int
    parameters: int
    top1: float | None


@dataclass(frozen=True)
class Backbone:
    """An ImageNet network without its classifier, ending in global average pooling."""

    name: str
    family: str  # the module of keras.applications, or "efficientnet_lite"
    input_size: int  # pixels, square
    n_features: int
    parameters: int  # of the network without its classifier
    top1: float | None  # %, of the whole network
    top5: float | None
    depth: int
    milliseconds: float | None  # an image in float32 on one thread; None where nobody measured it
    preprocessing: Preprocessing
    weights_file: str  # as Keras names its download; {alpha} stands for the width
    widths: Mapping[float, Width] = field(default_factory=dict, hash=False)
    alpha: float = 1.0
    # How many of the first convolutions stay in float32 where the others run in bfloat16.
    float32_convolutions: int = 0

    @property
    def megabytes(self) -> float:
        """Size of the float32 weights in 10^6 bytes, without the classifier."""
        return self.parameters * 4 / 1e6

    @property
    def in_keras(self) -> bool:
        """Whether Keras Applications has it."""
        return self.family != "efficientnet_lite"

    @property
    def channels_first(self) -> bool:
        """Whether Keras can build it with channels first, which OpenVINO runs without transposing."""
        return self.family not in {"convnext", "densenet", "nasnet"}

    def with_alpha(self, alpha: float | None) -> Backbone:
        """The backbone of that width; None leaves 1.0. Raises UsageError if there are no weights of that width."""
        if alpha is None or alpha == self.alpha:
            return self
        if not self.widths:
            families = ", ".join(name for name, backbone in REGISTRY.items() if backbone.widths)
            raise UsageError(
                f"--alpha {alpha:g} has no meaning for {self.name}: only {families} come in several widths."
            )
        if alpha not in self.widths:
            known = ", ".join(f"{width:g}" for width in self.widths)
            raise UsageError(f"--alpha {alpha:g} is no width of {self.name}: choose one of {known}.")
        width = self.widths[alpha]
        return replace(
            self,
            alpha=alpha,
            n_features=width.n_features,
            parameters=width.parameters,
            top1=width.top1,
            top5=None,
            milliseconds=None,
        )

    def with_input_size(self, size: int | None) -> Backbone:
        """The backbone for images of `size` pixels; None leaves its own. Raises UsageError for one that it cannot take.

        Its weights are those of its own size.
        """
        if size is None or size == self.input_size:
            return self
        sizes = self.input_sizes
        if size not in sizes:
            raise UsageError(
                f"--input-size {size} is none of {self.name}: take its own {self.input_size}, or a multiple of "
                f"{SIZE_STEP} from {sizes[0]} to {sizes[-1]}."
            )
        return replace(self, input_size=size, top1=None)

    @property
    def input_sizes(self) -> range:
        """Input sizes, in pixels, other than its own: multiples of its largest stride, `SIZE_STEP`.

        A smaller size leaves hardly anything to pool. More than twice the size of training is beyond what the network
        has learned. Keras sets the lowest size of the Inception family.
        """
        least = 96 if self.family in {"inception_v3", "inception_resnet_v2", "xception"} else 64
        return range(least, 2 * self.input_size + 1, SIZE_STEP)

    def weights_filename(self) -> str:
        """The file's name in the ``models`` folder of a Keras home."""
        alpha = str(self.alpha)
        if self.family == "mobilenet":
            alpha = {1.0: "1_0", 0.75: "7_5", 0.5: "5_0", 0.25: "2_5"}[self.alpha]
        return self.weights_file.format(alpha=alpha)


def find(name: str, *, alpha: float | None = None, input_size: int | None = None) -> Backbone:
    """The backbone of that name, in whatever case, of that width and input size; None: its own.

    Raises UsageError, which names the nearest ones, or says what width and size there are.
    """
    by_folded = {known.casefold(): backbone for known, backbone in REGISTRY.items()}
    if found := by_folded.get(name.strip().casefold()):
        return found.with_alpha(alpha).with_input_size(input_size)
    near = [by_folded[match].name for match in difflib.get_close_matches(name.casefold(), by_folded, n=3)]
    advice = f"did you mean {' or '.join(near)}?" if near else "`orchard backbones` lists them."
    raise UsageError(f"There is no backbone {name!r}: {advice}")


_KERNELS = "_weights_tf_dim_ordering_tf_kernels_notop.h5"

_MOBILENET = {
    0.25: Width(256, 218_544, 50.6),
    0.5: Width(512, 829_536, 63.7),
    0.75: Width(768, 1_832_976, 68.4),
    1.0: Width(1024, 3_228_864, 70.4),
}
_MOBILENET_V2 = {
    0.35: Width(1280, 410_208, 60.3),
    0.5: Width(1280, 706_224, 65.4),
    0.75: Width(1280, 1_382_064, 69.8),
    1.0: Width(1280, 2_257_984, 71.3),
    1.3: Width(1664, 3_766_048, 74.4),
    1.4: Width(1792, 4_363_712, 75.0),
}
_MOBILENET_V3_SMALL = {0.75: Width(432, 583_160, 65.4), 1.0: Width(576, 939_120, 68.1)}
_MOBILENET_V3_LARGE = {0.75: Width(720, 1_808_736, 73.3), 1.0: Width(960, 2_996_352, 75.6)}
_V3_FILE = "weights_mobilenet_v3_{size}_224_{{alpha}}_float_no_top_v2.h5"

_P = Preprocessing
# fmt: off
_ROWS = (
    #        name                 family                 size  features  parameters   top1  top5  depth  ms  preprocessing  file
    Backbone("EfficientNetLite0", "efficientnet_lite",   224, 1280,   3_413_024, 75.1, None,  99, None, _P.LITE, "efficientnet-lite0-57934424.pth",
             # Least cosine to float32 on 2,878 photographs of fruits: 0.993, and 0.986 without; a sixth slower.
             float32_convolutions=2),
    Backbone("EfficientNetLite1", "efficientnet_lite",   240, 1280,   4_189_344, 76.7, None, 129, None, _P.LITE, "efficientnet-lite1-77cc7160.pth",
             # Least cosine on 195 photographs of shops and fruits: 0.994, with 2 of them 0.988; a quarter slower.
             float32_convolutions=5),
    Backbone("EfficientNetLite2", "efficientnet_lite",   260, 1280,   4_869_168, 77.6, None, 129, None, _P.LITE, "efficientnet-lite2-9656183e.pth",
             float32_convolutions=5),
    Backbone("MobileNetV2",       "mobilenet_v2",        224, 1280,   2_257_984, 71.3, 90.1, 105, None, _P.TF, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{alpha}_224_no_top.h5", _MOBILENET_V2),
    Backbone("MobileNet",         "mobilenet",           224, 1024,   3_228_864, 70.4, 89.5,  55, None, _P.TF, "mobilenet_{alpha}_224_tf_no_top.h5", _MOBILENET),
    Backbone("MobileNetV3Small",  "mobilenet_v3",        224,  576,     939_120, 68.1, None,  88, None, _P.NONE, _V3_FILE.format(size="small"), _MOBILENET_V3_SMALL),
    Backbone("MobileNetV3Large",  "mobilenet_v3",        224,  960,   2_996_352, 75.6, None, 110, None, _P.NONE, _V3_FILE.format(size="large"), _MOBILENET_V3_LARGE),
    Backbone("EfficientNetB0",    "efficientnet",        224, 1280,   4_049_571, 77.1, 93.3, 132, None, _P.NONE, "efficientnetb0_notop.h5"),
    Backbone("EfficientNetB1",    "efficientnet",        240, 1280,   6_575_239, 79.1, 94.4, 186, None, _P.NONE, "efficientnetb1_notop.h5"),
    Backbone("EfficientNetB2",    "efficientnet",        260, 1408,   7_768_569, 80.1, 94.9, 186, None, _P.NONE, "efficientnetb2_notop.h5"),
    Backbone("EfficientNetB3",    "efficientnet",        300, 1536,  10_783_535, 81.6, 95.7, 210, None, _P.NONE, "efficientnetb3_notop.h5"),
    Backbone("EfficientNetB4",    "efficientnet",        380, 1792,  17_673_823, 82.9, 96.4, 258, None, _P.NONE, "efficientnetb4_notop.h5"),
    Backbone("EfficientNetB5",    "efficientnet",        456, 2048,  28_513_527, 83.6, 96.7, 312, None, _P.NONE, "efficientnetb5_notop.h5"),
    Backbone("EfficientNetB6",    "efficientnet",        528, 2304,  40_960_143, 84.0, 96.8, 360, None, _P.NONE, "efficientnetb6_notop.h5"),
    Backbone("EfficientNetB7",    "efficientnet",        600, 2560,  64_097_687, 84.3, 97.0, 438, None, _P.NONE, "efficientnetb7_notop.h5"),
    Backbone("EfficientNetV2B0",  "efficientnet_v2",     224, 1280,   5_919_312, 78.7, 94.3, 151, None, _P.NONE, "efficientnetv2-b0_notop.h5"),
    Backbone("EfficientNetV2B1",  "efficientnet_v2",     240, 1280,   6_931_124, 79.8, 95.0, 185, None, _P.NONE, "efficientnetv2-b1_notop.h5"),
    Backbone("EfficientNetV2B2",  "efficientnet_v2",     260, 1408,   8_769_374, 80.5, 95.1, 193, None, _P.NONE, "efficientnetv2-b2_notop.h5"),
    Backbone("EfficientNetV2B3",  "efficientnet_v2",     300, 1536,  12_930_622, 82.0, 95.8, 225, None, _P.NONE, "efficientnetv2-b3_notop.h5"),
    Backbone("EfficientNetV2S",   "efficientnet_v2",     384, 1280,  20_331_360, 83.9, 96.7, 281, None, _P.NONE, "efficientnetv2-s_notop.h5"),
    Backbone("EfficientNetV2M",   "efficientnet_v2",     480, 1280,  53_150_388, 85.3, 97.4, 403, None, _P.NONE, "efficientnetv2-m_notop.h5"),
    Backbone("EfficientNetV2L",   "efficientnet_v2",     480, 1280, 117_746_848, 85.7, 97.5, 557, None, _P.NONE, "efficientnetv2-l_notop.h5"),
    Backbone("ConvNeXtTiny",      "convnext",            224,  768,  27_820_128, 81.3, None,  96, None, _P.NONE, "convnext_tiny_notop.h5"),
    Backbone("ConvNeXtSmall",     "convnext",            224,  768,  49_454_688, 82.3, None, 186, None, _P.NONE, "convnext_small_notop.h5"),
    Backbone("ConvNeXtBase",      "convnext",            224, 1024,  87_566_464, 85.3, None, 186, None, _P.NONE, "convnext_base_notop.h5"),
    Backbone("ConvNeXtLarge",     "convnext",            224, 1536, 196_230_336, 86.3, None, 186, None, _P.NONE, "convnext_large_notop.h5"),
    Backbone("ConvNeXtXLarge",    "convnext",            224, 2048, 348_147_968, 86.7, None, 186, None, _P.NONE, "convnext_xlarge_notop.h5"),
    Backbone("DenseNet121",       "densenet",            224, 1024,   7_037_504, 75.0, 92.3, 242, None, _P.TORCH, "densenet121" + _KERNELS),
    Backbone("DenseNet169",       "densenet",            224, 1664,  12_642_880, 76.2, 93.2, 338, None, _P.TORCH, "densenet169" + _KERNELS),
    Backbone("DenseNet201",       "densenet",            224, 1920,  18_321_984, 77.3, 93.6, 402, None, _P.TORCH, "densenet201" + _KERNELS),
    Backbone("InceptionV3",       "inception_v3",        299, 2048,  21_802_784, 77.9, 93.7, 189, None, _P.TF, "inception_v3" + _KERNELS),
    Backbone("InceptionResNetV2", "inception_resnet_v2", 299, 1536,  54_336_736, 80.3, 95.3, 449, None, _P.TF, "inception_resnet_v2" + _KERNELS),
    Backbone("NASNetMobile",      "nasnet",              224, 1056,   4_269_716, 74.4, 91.9, 389, None, _P.TF, "nasnet_mobile_no_top.h5"),
    Backbone("NASNetLarge",       "nasnet",              331, 4032,  84_916_818, 82.5, 96.0, 533, None, _P.TF, "nasnet_large_no_top.h5"),
    Backbone("ResNet50",          "resnet",              224, 2048,  23_587_712, 74.9, 92.1, 107, None, _P.CAFFE, "resnet50" + _KERNELS),
    Backbone("ResNet101",         "resnet",              224, 2048,  42_658_176, 76.4, 92.8, 209, None, _P.CAFFE, "resnet101" + _KERNELS),
    Backbone("ResNet152",         "resnet",              224, 2048,  58_370_944, 76.6, 93.1, 311, None, _P.CAFFE, "resnet152" + _KERNELS),
    Backbone("ResNet50V2",        "resnet_v2",           224, 2048,  23_564_800, 76.0, 93.0, 103, None, _P.TF, "resnet50v2" + _KERNELS),
    Backbone("ResNet101V2",       "resnet_v2",           224, 2048,  42_626_560, 77.2, 93.8, 205, None, _P.TF, "resnet101v2" + _KERNELS),
    Backbone("ResNet152V2",       "resnet_v2",           224, 2048,  58_331_648, 78.0, 94.2, 307, None, _P.TF, "resnet152v2" + _KERNELS),
    Backbone("VGG16",             "vgg16",               224,  512,  14_714_688, 71.3, 90.1,  16, None, _P.CAFFE, "vgg16" + _KERNELS),
    Backbone("VGG19",             "vgg19",               224,  512,  20_024_384, 71.3, 90.0,  19, None, _P.CAFFE, "vgg19" + _KERNELS),
    Backbone("Xception",          "xception",            299, 2048,  20_861_480, 79.0, 94.5,  81, None, _P.TF, "xception" + _KERNELS),
)
# fmt: on

REGISTRY: Mapping[str, Backbone] = MappingProxyType({backbone.name: backbone for backbone in _ROWS})
