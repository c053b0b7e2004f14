"""Measures how often a model is wrongly sure of images that show none of its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from orchard.images.decoding import Limits
from orchard.images.sources import list_images
from orchard.inference.model import Model
from orchard.inference.predict import predict_in_workers
from orchard.layout import FAMILIARITY_BINS, UnknownMetrics
from orchard.output import Output
from orchard.stages import Stage, key_of
from orchard.storage import S3Options
from orchard.vocabulary import Answer
from orchard.workers import Workers

if TYPE_CHECKING:
    from orchard.progress import Advance
    from orchard.settings import Settings
    from orchard.spark.session import Session


def stage_of(output: Output, settings: Settings) -> Stage | None:
    """Return the stage that measures the model's answers to the images that the setting ``unknown`` names.

    Its key is made of the model and of the images. None without such images, or without a model.

    Raises:
        InputError: there are no images at the setting's address.
    """
    source, model = settings.unknown, output.model_folder
    if source is None or model is None:
        return None
    s3 = settings.s3_options()
    images = list_images(source, s3, limit=None, labels=None, seed=0).table
    key = key_of(model, source, *(images[name].to_pylist() for name in ("path", "version")))

    def work(session: Session, progress: Advance) -> None:
        calibration = output.recall("classification").get("calibration") or {}
        found = measure_unknown(
            session.workers,
            Model.load(output.url, s3),
            images,
            source=source,
            known=calibration.get("familiarity", []),
            limits=settings.limits(),
            s3=s3,
            progress=progress,
        )
        output.commit({}, properties={"unknown": {"key": key, "metrics": found}})

    return Stage("unknown", "unknown", key, work, images.num_rows)


def measure_unknown(
    workers: Workers,
    model: Model,
    images: pa.Table,
    *,
    source: str,
    known: Sequence[int],
    limits: Limits,
    s3: S3Options,
    progress: Callable[[int], None],
) -> UnknownMetrics:
    """Measure the answers to images that show none of the model's labels.

    Args:
        workers: the workers that do the tasks.
        model: the model.
        images: the images, of schema `orchard.layout.LISTING`.
        source: the images' address, to be reported.
        known: number of test images in each bin of familiarity; empty: not measured.
        limits: limits for decoding one image.
        s3: options of the object store.
        progress: called with the number of images done since the last call.
    """
    answers: Counter[str] = Counter()
    bins = [0] * FAMILIARITY_BINS
    for found in predict_in_workers(workers, model, images, limits=limits, s3=s3, top=1, progress=progress):
        if "reason" in found:
            answers["rejected"] += 1
            continue
        answers[found["answer"]] += 1
        bins[min(int(found["familiarity"] * FAMILIARITY_BINS), FAMILIARITY_BINS - 1)] += 1
    return UnknownMetrics(
        source=source,
        images=sum(bins),
        rejected=answers["rejected"],
        sure=answers[Answer.SURE],
        not_sure=answers[Answer.NOT_SURE],
        unknown=answers[Answer.UNKNOWN],
        familiarity=bins,
        auroc=auroc(known, bins) if sum(known) and sum(bins) else None,
    )


def auroc(known: Sequence[int], unknown: Sequence[int]) -> float:
    """Return the share of pairs of a known and an unknown image in which the known one is more familiar (AUROC).

    A pair in one bin counts as half.

    Args:
        known: number of known images in each bin, with familiarity rising.
        unknown: number of unknown images in each bin.
    """
    inside, outside = np.array(known, float), np.array(unknown, float)
    below = np.cumsum(outside) - outside
    return float((inside * (below + outside / 2)).sum() / inside.sum() / outside.sum())
