"""The stage from ``features/`` to ``neighbours/``: exact for few training images, by cells for many."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from orchard.datasets import balance
from orchard.layout import FEATURES, NEIGHBOURS, Dataset, NeighbourMetrics
from orchard.neighbours.cells import search_by_cells
from orchard.neighbours.exact import search_exactly
from orchard.neighbours.rows import Job, Tally, sample
from orchard.neighbours.space import Space
from orchard.neighbours.twins import bins_of, shown, threshold_of
from orchard.output import Output
from orchard.stages import Stage, feature_names, key_of
from orchard.vocabulary import Split

if TYPE_CHECKING:
    from orchard.progress import Advance
    from orchard.settings import Settings
    from orchard.spark.session import Session
    from orchard.workers import Workers

VERSION = 2
"""Raise it when a change makes the same features give other neighbours: older results are then computed again."""

EXACT_ROWS = 20_000
"""Up to so many training images the search is exact: they take 10 MB in each worker. For more it needs Spark."""

SAMPLE_ROWS = 8192
"""Training rows from which the space is computed: with 1,280 features 42 MB on the driver."""


def stage_of(output: Output, settings: Settings) -> Stage:
    """Return the stage. Its key is made of the features."""
    key = key_of(VERSION, feature_names(output), settings.seed)

    def work(session: Session, progress: Advance) -> None:
        find_neighbours(session.workers, output, key=key, seed=settings.seed, progress=progress)

    return Stage("neighbours", "neighbours", key, work, output.rows(Dataset.FEATURES))


def find_neighbours(
    workers: Workers,
    output: Output,
    *,
    key: str = "",
    seed: int = 0,
    exact_rows: int = EXACT_ROWS,
    progress: Callable[[int], None] | None = None,
) -> NeighbourMetrics:
    """Find the nearest training images of every image, write ``neighbours/``, and commit.

    Args:
        workers: what does the work.
        output: the output, with features, locked for writing.
        key: the stage's key, recorded in the property ``neighbours``.
        seed: seed of the cells.
        exact_rows: number of training images up to which the search is exact.
        progress: called with the number of rows done since the last call.
    """
    files = [file for file in output.files(Dataset.FEATURES) if file.rows]
    images = output.read(Dataset.FEATURES, ["label", "split"], FEATURES)
    is_train = pc.equal(images["split"], Split.TRAIN)
    train_rows = int(pc.sum(is_train, min_count=0).as_py())
    test_rows = int(pc.sum(pc.equal(images["split"], Split.TEST), min_count=0).as_py())
    labels = sorted(pc.unique(images["label"].filter(is_train)).drop_null().to_pylist())
    groups = balance(files, 2 * workers.slots)

    share = min(1.0, 1.1 * SAMPLE_ROWS / max(train_rows, 1))
    sampled = workers.run(partial(sample, output.storage, share, None), groups)
    space = Space.of(np.concatenate(sampled)[:SAMPLE_ROWS])
    shared = workers.share(space)
    job = Job(output.storage, output.staging, shared, labels)
    recall: float | None = None
    try:
        if train_rows <= exact_rows:
            written = search_exactly(workers, job, groups)
        else:
            written, recall = search_by_cells(workers, job, groups, train_rows=train_rows, seed=seed)
    finally:
        shared.unpersist()
    tally = Tally.none()
    for _, found in written:
        tally = tally.merge(found)
    threshold = threshold_of(tally.other)
    metrics = NeighbourMetrics(
        exact=recall is None,
        recall=recall,
        train_rows=train_rows,
        test_rows=test_rows,
        threshold=threshold,
        near_twins=0 if threshold is None else int(tally.test[bins_of([threshold])[0] :].sum()),
        near_other_labels=0 if threshold is None else int(tally.other[bins_of([threshold])[0] :].sum()),
        test=shown(tally.test),
        other_labels=shown(tally.other),
    )
    staged = [file for file, _ in written] or [output.stage(Dataset.NEIGHBOURS, NEIGHBOURS.empty_table())]
    output.commit(
        {Dataset.NEIGHBOURS: staged},
        replace=[Dataset.NEIGHBOURS],
        properties={"neighbours": {"key": key, "metrics": metrics}},
    )
    if progress:
        progress(images.num_rows)
    return metrics
