"""The network in each precision, at its own input size and a smaller one: time for an image, and what int8 costs.

    python benchmarks/precision.py --limit 4000 --json precision.json

Every variant featurizes the same images. A linear discriminant is fitted on the training features and measured on the
test features. Milliseconds are processor time of one thread, for resizing and network, all variants in turns; the
fastest turn counts. Quantising takes its images from the training split, as a run does; `seconds to quantise` are of
the processor, with what starts the process and without building the network, whose float32 is in the cache by then.
`alike` is the share of test images that one discriminant, fitted on float32's features, answers alike. bfloat16 is
measured where the processor computes in it.
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from measuring import images_folder, parser, report, save, use_shared_keras_home
from orchard.classification import discriminant
from orchard.errors import UsageError
from orchard.features.artifact import Artifact, Precision
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import has_bfloat16, load_engine, openvino_core, processor_flags
from orchard.features.quantization import Sample
from orchard.images.decoding import Decoded, Limits, decode
from orchard.images.sources import list_images
from orchard.images.splits import assign_splits
from orchard.inference.linear import Linear
from orchard.reduction.pca import Reduction
from orchard.reduction.statistics import Sums
from orchard.storage import S3Options

TIMED_IMAGES = 64
SEED = 42


@dataclass
class Row:
    """One variant."""

    backbone: str
    input_size: int
    precision: str
    ms_per_image: float
    accuracy: float
    alike: float
    agreement: float | None
    seconds_to_quantise: float | None


@dataclass
class Images:
    """Decoded images with their labels."""

    pixels: list[NDArray[np.uint8]]
    labels: list[str]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", default="EfficientNetLite0,MobileNetV2", help="names [%(default)s]")
    arguments.add_argument("--input-sizes", default="224,128", help="pixels [%(default)s]")
    given = arguments.parse_args()
    use_shared_keras_home()
    scratch = Path(tempfile.mkdtemp(prefix="orchard-benchmark-", dir=given.scratch))
    os.environ["ORCHARD_CACHE"] = str(scratch / "cache")
    source = images_folder(given.images, scratch, at_least=2000)
    listing = list_images(str(source), S3Options(), limit=given.limit, labels=None, seed=0).table
    listing = assign_splits(listing, None, test_fraction=0.2, seed=SEED)
    rows: list[Row] = []
    for backbone in given.backbones.split(","):
        rows += _measure(listing, backbone, [int(size) for size in given.input_sizes.split(",")], given.repeat)
    headers = ["backbone", "pixels", "precision", "ms/image", "accuracy", "alike", "agreement", "s to quantise"]
    cells = [
        [
            row.backbone,
            str(row.input_size),
            row.precision,
            f"{row.ms_per_image:.2f}",
            f"{row.accuracy:.4f}",
            f"{row.alike:.4f}",
            f"{row.agreement:.4f}" if row.agreement is not None else "",
            f"{row.seconds_to_quantise:.1f}" if row.seconds_to_quantise is not None else "",
        ]
        for row in rows
    ]
    flags = sorted(processor_flags() & {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"})
    report(f"{listing.num_rows:,} images of {source}", headers, cells, [f"processor: {', '.join(flags)}"])
    save(given.json, {"images": listing.num_rows, "flags": flags, "rows": [asdict(row) for row in rows]})


def _measure(listing: pa.Table, name: str, sizes: Sequence[int], repeat: int) -> Iterator[Row]:
    artifacts: list[Artifact] = []
    seconds: dict[str, float] = {}
    sample = Sample.of(listing, seed=SEED, limits=Limits(), s3=S3Options())
    for size in sizes:
        try:
            backbone = find(name).with_input_size(size)
        except UsageError as error:
            raise SystemExit(str(error)) from error
        artifacts.append(build_artifact(backbone))
        if has_bfloat16(openvino_core()):
            artifacts.append(build_artifact(backbone, precision=Precision.BFLOAT16))
        before = _children_seconds()
        artifacts.append(build_artifact(backbone, precision=Precision.INT8, sample=sample))
        seconds[artifacts[-1].fingerprint()] = _children_seconds() - before
    images = {size: _decoded(listing, size) for size in sizes}
    milliseconds = _timed(artifacts, images, repeat)
    for size in sizes:
        train, test = images[size]
        reference: Linear | None = None
        expected: list[str] = []
        for artifact in (artifact for artifact in artifacts if artifact.input_size == size):
            engine = load_engine(artifact)
            features, others = engine(train.pixels), engine(test.pixels)
            linear, names = _fit(features, train.labels)
            if reference is None:  # of float32, which comes first
                reference, expected = linear, _answers(linear, names, others)
            found = _answers(linear, names, others)
            yield Row(
                backbone=name,
                input_size=size,
                precision=str(artifact.precision),
                ms_per_image=milliseconds[artifact.fingerprint()],
                accuracy=_share(found, test.labels),
                alike=_share(_answers(reference, names, others), expected),
                agreement=artifact.agreement,
                seconds_to_quantise=seconds.get(artifact.fingerprint()),
            )


def _timed(artifacts: Sequence[Artifact], images: dict[int, tuple[Images, Images]], repeat: int) -> dict[str, float]:
    least: dict[str, float] = {}
    for _ in range(repeat + 1):  # the first turn warms up
        for artifact in artifacts:
            engine, pixels = load_engine(artifact), images[artifact.input_size][1].pixels[:TIMED_IMAGES]
            started = time.process_time()
            engine(pixels)
            taken = 1000 * (time.process_time() - started) / len(pixels)
            least[artifact.fingerprint()] = min(taken, least.get(artifact.fingerprint(), taken))
    return least


def _decoded(listing: pa.Table, size: int) -> tuple[Images, Images]:
    """Return the training and the test images."""
    found = Images([], []), Images([], [])
    for row in listing.select(["path", "label", "split"]).to_pylist():
        image = decode(Path(row["path"]).read_bytes(), size, Limits())
        if isinstance(image, Decoded):
            found[row["split"] == "test"].pixels.append(image.pixels)
            found[row["split"] == "test"].labels.append(row["label"])
    return found


def _fit(features: NDArray[np.float32], labels: Sequence[str]) -> tuple[Linear, list[str]]:
    sums = Sums.of(features, {"label": list(labels)})
    reduction = Reduction.fit(sums.moments, variance=0.95)
    classes = sums.columns["label"]
    return discriminant.fit(sums.labelled, classes, reduction).linear, list(classes.names)


def _answers(linear: Linear, names: Sequence[str], features: NDArray[np.float32]) -> list[str]:
    return [names[index] for index in linear(features).argmax(axis=1)]


def _share(found: Sequence[str], expected: Sequence[str]) -> float:
    return float(np.mean(np.array(found) == np.array(expected)))


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
