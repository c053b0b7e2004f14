"""Measures how often a model is wrongly sure of images that show none of its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
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
    """Return the stage that measures what the model says of the images that the setting ``unknown`` names.

    Its key is that of the model and of the images. None without such images, or without a model.

    Raises:
        InputError: there are no images where the setting says.
    """
    source, model = settings.unknown, output.model_folder
    if source is None or model is None:
        return None
    s3 = settings.s3_options()
    images = list_images(source, s3, limit=None, labels=None, seed=0).table
    key = key_of(model, source, *(images[name].to_pylist() for name in ("path", "version")))

    def work(session: Session, progress: Advance) -> None:
        calibration = output.recall("classification").get("calibration") or {}
        with closing(session.workers()) as workers:
            found = measure_unknown(
                workers,
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
    """Return how images that show nothing of what the model knows are answered.

    Args:
        workers: do the work.
        model: the model.
        images: schema `orchard.layout.LISTING`.
        source: where they are, to be reported.
        known: how many test images lie in each bin of familiarity; empty: not measured.
        limits: what an image may cost.
        s3: where the object store is.
        progress: called with the number of images that are newly done.
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
    """Return the share of pairs of a known and an unknown image of which the known one is more familiar.

    Images in one bin count as half of such a pair.

    Args:
        known: images in each bin of familiarity, rising.
        unknown: the same.
    """
    inside, outside = np.array(known, float), np.array(unknown, float)
    below = np.cumsum(outside) - outside
    return float((inside * (below + outside / 2)).sum() / inside.sum() / outside.sum())
