"""What a run would do, measured on a few images and without writing anything."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchard.errors import InputError
from orchard.features.artifact import EngineName, Precision
from orchard.features.backbones import find
from orchard.features.conversion import build_artifact
from orchard.features.engines import Engine, load_engine, resolve_precision
from orchard.features.extraction import task_images, tasks_per_batch
from orchard.features.pending import find_pending
from orchard.features.quantization import Sample
from orchard.features.views import random_view
from orchard.features.weights import brought
from orchard.images.decoding import Decoded, Rejection, decode
from orchard.images.reading import contents
from orchard.images.rejections import commonest_kinds, sentence
from orchard.images.sources import check_apart, list_selected
from orchard.layout import REJECTED, VIEWED, Fit
from orchard.output import Output
from orchard.progress import stage
from orchard.session import available_cores
from orchard.settings import Settings
from orchard.tuning.blocks import last_kept
from orchard.usage import EFFICIENCY, usage

MEASURED_IMAGES = 64


def make_plan(source: str | Sequence[str], output: str | None, settings: Settings) -> dict[str, Any]:
    """Return counts, sizes, tasks, and estimates of time (seconds) and memory (bytes) for a run over `source`.

    Raises:
        UsageError: the backbone cannot be tuned, and is to be.
        InputError: the source is missing or empty, or none of the images that were tried can be decoded.
    """
    if output is not None:
        check_apart(source, output)
    backbone, s3 = find(settings.backbone).with_input_size(settings.input_size), settings.s3_options()
    if settings.tune:
        last_kept(backbone)
    with stage("list"):
        listing = list_selected(source, output, settings)
    images = listing.table
    if output is not None:
        images = find_pending(
            Output(output, s3),
            images,
            dropped=listing.dropped,
            prune=True,
            retry_rejected=settings.retry_rejected,
            test_fraction=settings.test_fraction,
            seed=settings.seed,
            s3=s3,
        ).images
    with stage("measure"):
        measured = measure(images or listing.table, settings)
    seconds = measured.seconds
    slots = available_cores()
    held = images.num_rows * seconds / EFFICIENCY
    size = task_images(images.num_rows, tasks_per_batch(slots), seconds)
    return {
        "images": listing.table.num_rows,
        "ignored_files": listing.ignored_count,
        "labels": pc.count_distinct(listing.table["label"]).as_py(),
        "kinds": pc.count_distinct(listing.table["kind"]).as_py(),
        "image_bytes": pc.sum(listing.table["size"]).as_py() or 0,
        "to_do": images.num_rows,
        "tasks": -(-images.num_rows // size),
        "images_per_task": size,
        "parallel_tasks": slots,
        "quality": settings.quality,
        "backbone": backbone.name,
        "input_size": backbone.input_size,
        "precision": str(measured.precision),
        **({"tuning_minutes_at_most": settings.tune_minutes} if settings.tune else {}),
        "ms_per_image": round(seconds * 1000, 2),
        "extraction_seconds": round(images.num_rows * seconds / slots, 1),
        **{f"extraction_{name}": value for name, value in usage(held, settings).items()},
        "features_bytes": images.num_rows * measured.n_features * 4,
        "worker_memory_bytes": measured.memory,
        "tried": measured.tried,
        "rejected_of_tried": measured.rejected.num_rows,
        "rejected_kinds": commonest_kinds(measured.rejected),
        "warnings": listing.warnings,
    }


@dataclass(frozen=True)
class Measured:
    """What a few images took, and which of them would be rejected."""

    seconds: float
    """For each image, on one core."""
    memory: int
    """Peak of a worker, in bytes."""
    n_features: int
    precision: Precision
    """That a first run over so many images takes."""
    tried: int
    rejected: pa.Table
    """Schema REJECTED."""


def measure(images: pa.Table, settings: Settings) -> Measured:
    """Decode and featurize a few of `images`, schema `orchard.layout.LISTING`.

    Raises:
        InputError: none of them can be decoded.
    """
    engine_name = EngineName(settings.engine)
    backbone = find(settings.backbone, alpha=settings.alpha, input_size=settings.input_size)
    limits, fit = settings.limits(), Fit(settings.fit or Fit.STRETCH)
    precision = resolve_precision(settings.precision, engine_name, backbone=backbone, images=images.num_rows)
    artifact = build_artifact(
        backbone,
        weights=brought(backbone, settings.weights, settings.s3_options()),
        alpha=settings.alpha,
        engine=engine_name,
        precision=precision,
        seed=settings.seed,
        sample=Sample.of(images, seed=settings.seed, limits=limits, fit=fit, s3=settings.s3_options())
        if precision is Precision.INT8
        else None,
        may_fall_back=settings.precision == "auto",
    )
    engine = load_engine(replace(artifact, fit=fit, test_views=int(settings.test_views or 1)))
    step = max(1, images.num_rows // MEASURED_IMAGES)
    tried = images.take(pa.array(range(0, images.num_rows, step)[:MEASURED_IMAGES]))
    found = list(contents(tried, limits, settings.s3_options()))
    for data in found:  # once, so that what is timed is the steady state
        if isinstance(data, bytes) and isinstance(image := decode(data, engine.decoded_size, limits, fit), Decoded):
            engine([image.pixels])
            break
    started = time.perf_counter()
    decoded = [
        data if isinstance(data, Rejection) else decode(data, engine.decoded_size, limits, fit) for data in found
    ]
    pixels = [image.pixels for image in decoded if isinstance(image, Decoded)]
    rejected = pa.Table.from_pylist(
        [
            {"path": path, "reason": row.reason, "detail": row.detail}
            for path, row in zip(tried["path"].to_pylist(), decoded, strict=True)
            if isinstance(row, Rejection)
        ],
        schema=REJECTED,
    )
    if not pixels:
        mostly = sentence(commonest_kinds(rejected)[0])
        raise InputError(f"None of the {tried.num_rows} images that were tried can be decoded; {mostly}.")
    engine(pixels)
    seconds = (time.perf_counter() - started) / len(pixels)
    if settings.views:
        seconds += settings.views * _share_of_training(images, settings) * _seconds_of_view(engine, pixels)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(seconds, memory, engine.n_features, artifact.precision, tried.num_rows, rejected)


def _share_of_training(images: pa.Table, settings: Settings) -> float:
    """Return which part of the images has views, where the source does not say as the split will have it."""
    if "split" not in images.column_names or images["split"].null_count:
        return 1 - settings.test_fraction
    is_training = pc.is_in(images["split"], pa.array(VIEWED, pa.string())).to_numpy()
    return float(is_training.mean()) if len(is_training) else 0.0


def _seconds_of_view(engine: Engine, pixels: Sequence[NDArray[np.uint8]]) -> float:
    """Return what a random view of an image takes, on one core."""
    some = pixels[:8]
    started = time.perf_counter()
    engine.single([random_view(image, "", number, 0, engine.input_size) for number, image in enumerate(some)])
    return (time.perf_counter() - started) / len(some)
