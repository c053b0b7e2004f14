"""The amount of work of a run, from the settings and the listing."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchard.classification.training import chosen
from orchard.features.backbones import Backbone
from orchard.features.extraction import tasks_of
from orchard.machine import available_cores
from orchard.output import Output
from orchard.planning.costs import Work
from orchard.settings import Settings
from orchard.spark import properties, session
from orchard.tuning.blocks import activation_bytes
from orchard.tuning.stage import views_of
from orchard.vocabulary import Split

_TRAINED_ON = 0.9  # of the training images: the others tell when to stop


def work_of(
    settings: Settings,
    backbone: Backbone,
    listed: pa.Table,
    to_do: pa.Table,
    output: Output | None,
    *,
    slots: int,
    image_seconds: float,
    tune: bool,
) -> Work:
    """Return the amount of work of a run.

    Args:
        settings: the run's settings.
        backbone: the backbone, with its width and input size.
        listed: ``label, split`` of the whole source; a null split is not decided yet.
        to_do: the images to featurize.
        output: the output; None: a new one.
        slots: number of tasks that run at once.
        image_seconds: seconds for an image in one slot.
        tune: whether the network is tuned before.
    """
    before: dict[str, Any] = output.recall("reduction").get("metrics", {}) if output is not None else {}
    known = output.recall("identity").get("n_features") if output is not None else None
    train = _train(listed["split"], settings.test_fraction)
    tuned_on = max(1, min(settings.tune_images, round(_TRAINED_ON * train))) if tune else 0
    return Work(
        images=to_do.num_rows,
        listed=listed.num_rows,
        train=train,
        labels=pc.count_distinct(listed["label"]).as_py(),
        views=settings.views or 0,
        test_views=int(settings.test_views or 1),
        n_features=known or backbone.n_features,  # of a network with branches a multiple
        components=settings.components or before.get("k"),
        files=tasks_of(listed.num_rows, slots, image_seconds, settings.task_images),
        classifiers=chosen(settings.classifiers, settings.answer_with),
        by_group=settings.group_by is not None,
        slots=slots,
        is_local=properties.local_slots(_master(settings)) is not None,
        cores=available_cores(),
        tune=tuned_on,
        tune_views=views_of(tuned_on) if tune else 0,
        tune_epochs=settings.tune_epochs,
        tune_branches=settings.tune_branches,
        tune_seconds=60 * settings.tune_minutes,
        classifier_bytes=settings.classifier_bytes,
        heap=settings.driver_bytes,
        activation_bytes=activation_bytes(backbone) if tune else 0,
    )


def slots_of(settings: Settings) -> int:
    """Return how many tasks will run at once: on the requested executors, or on the cores of this machine."""
    master, conf = _master(settings), settings.spark_conf
    if slots := properties.local_slots(master):
        return slots
    if master.startswith("k8s://"):
        asked = (conf.get(f"spark.executor.{name}", "1") for name in ("instances", "cores"))
        return math.prod(int(number) if re.fullmatch("[0-9]{1,9}", number) else 1 for number in asked) or 1
    return available_cores()


def _master(settings: Settings) -> str:
    return str(settings.spark_conf.get("spark.master") or settings.master or session.default_master())


def _train(splits: pa.ChunkedArray, test_fraction: float) -> int:
    """Return how many images are for training; of those whose split is not known, as many as will be."""
    is_train = np.asarray(pc.fill_null(pc.equal(splits, Split.TRAIN), False))
    return int(is_train.sum() + (1 - test_fraction) * splits.null_count)
