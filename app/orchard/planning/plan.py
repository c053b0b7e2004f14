"""`orchard plan`: estimates a run and the other qualities, without writing anything."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchard import memory
from orchard.errors import InputError, OrchardError
from orchard.features.backbones import find
from orchard.features.backgrounds import of_run
from orchard.features.extraction import tasks_of
from orchard.features.pending import find_pending
from orchard.features.stage import identity_before, views_that_stay
from orchard.images.erased import without_erased
from orchard.images.rejections import commonest_kinds
from orchard.images.sources import Listing, check_apart, list_selected
from orchard.images.splits import assign_splits
from orchard.layout import Sizes, StagePlan
from orchard.machine import available_cores
from orchard.output import Output
from orchard.planning.costs import Rates, Work, branched, branched_bytes, branches, estimates, sizes
from orchard.planning.kernels import Speeds, picture_seconds, speeds
from orchard.planning.probe import Measured, measure
from orchard.planning.work import slots_of, work_of
from orchard.progress import stage
from orchard.settings import QUALITIES, Settings
from orchard.tuning.blocks import last_kept
from orchard.usage import usage

ALL_QUALITIES = ("fast", *(name for name in QUALITIES if name))
OTHERS_IMAGES, OTHERS_SECONDS = 16, 2.5
"""For each quality that was not requested: number of images to measure in all, and seconds for it, at most."""


def make_plan(source: str | Sequence[str], output: str | None, settings: Settings) -> dict[str, Any]:
    """Return a plan of a run over `source`, for the settings and for each quality.

    It has counts and, for every stage, time (seconds), memory and disk (bytes), and cost by the settings' prices.

    Raises:
        UsageError: the backbone cannot be tuned, but the settings ask for that.
        InputError: the source is missing or empty, or none of the images that were tried can be decoded.
    """
    if output is not None:
        check_apart(source, output)
    settings.check_regions(source, output)
    backbone, s3 = find(settings.backbone, alpha=settings.alpha, input_size=settings.input_size), settings.s3_options()
    if settings.tune:
        last_kept(backbone)
    started = time.perf_counter()
    with stage("list"):
        listing = list_selected(source, output, settings)
    list_seconds = time.perf_counter() - started
    kept = Output(output, s3) if output is not None else None
    if kept is not None:
        listing = without_erased(listing, kept.storage)
    corrections = kept.recall("plan").get("corrections", {}) if kept is not None else {}
    if settings.fresh:  # as if the output were empty, but for what its last run took
        kept = None
    settings = _as_before(settings, kept)
    images = _to_do(listing, kept, settings)
    plan = _Planner(listing, images, kept, list_seconds, settings, corrections=corrections)
    with stage("measure"):
        plan.speeds, plan.picture_seconds = speeds(), picture_seconds(listing.table, s3)
        measured, work, stages, needed = plan.of(settings)
        qualities = plan.qualities(settings)
    tasks = tasks_of(images.num_rows, work.slots, measured.seconds, settings.task_images)
    seconds = sum(found["seconds"] or 0 for found in stages)
    return {
        "images": listing.table.num_rows,
        "ignored_files": listing.ignored_count,
        "labels": pc.count_distinct(listing.table["label"]).as_py(),
        "kinds": pc.count_distinct(listing.table["kind"]).as_py(),
        "image_bytes": pc.sum(listing.table["size"]).as_py() or 0,
        "to_do": images.num_rows,
        "tasks": tasks,
        "images_per_task": -(-images.num_rows // max(tasks, 1)),
        "parallel_tasks": work.slots,
        "quality": settings.quality,
        "backbone": backbone.name,
        "input_size": backbone.input_size,
        "precision": str(measured.precision),
        "ms_per_image": round(measured.seconds * 1000, 2),
        "processes_measured": measured.processes,
        "slowdown": round(measured.slowdown, 2),
        "features_bytes": round(images.num_rows * measured.feature_bytes),
        **{f"{name}_bytes": value for name, value in needed.items()},
        "seconds": round(seconds, 1),
        **usage(_core_seconds(stages), settings),
        "tried": measured.tried,
        "rejected_of_tried": measured.rejected.num_rows,
        "rejected_kinds": commonest_kinds(measured.rejected),
        "stages": [{**found, **usage(found["core_seconds"] or 0, settings)} for found in stages],
        "qualities": qualities,
        "warnings": listing.warnings,
    }


def _as_before(settings: Settings, output: Output | None) -> Settings:
    """Return the settings, completed by those that the output's features were made with."""
    before = identity_before(output) if output is not None else {}
    if not before:
        return settings
    kept: dict[str, object] = {"tune": settings.tune or before["tune"]}
    if settings.precision == "auto":
        kept["precision"] = before["precision"]
    for name in ("fit", "views", "test_views", "transform"):
        if getattr(settings, name) is None:
            kept[name] = before[name]
    return settings.model_copy(update=kept)


def _to_do(listing: Listing, output: Output | None, settings: Settings) -> pa.Table:
    """Return the images that a run would featurize, or only make views of, each with its split."""
    if output is None:
        return assign_splits(listing.table, None, test_fraction=settings.test_fraction, seed=settings.seed)
    views = settings.views or 0
    backgrounds = of_run(output, settings, views)
    found = find_pending(
        output,
        listing.table,
        dropped=listing.dropped,
        viewed=views_that_stay(output, {"views": views, "backgrounds": backgrounds.digest}),
        prune=True,
        retry_rejected=settings.retry_rejected,
        test_fraction=settings.test_fraction,
        seed=settings.seed,
        s3=settings.s3_options(),
    )
    return pa.concat_tables([found.images, found.unviewed.cast(found.images.schema)]).combine_chunks()


def _core_seconds(stages: list[StagePlan]) -> float:
    return sum(found["core_seconds"] or 0 for found in stages)


class _Planner:
    """Plans of one source with several settings."""

    speeds: Speeds
    picture_seconds: float

    def __init__(
        self,
        listing: Listing,
        images: pa.Table,
        output: Output | None,
        list_seconds: float,
        settings: Settings,
        *,
        corrections: Mapping[str, float],
    ) -> None:
        self._listing, self._images, self._output, self._list_seconds = listing, images, output, list_seconds
        # Where all is done, the images that are done tell how long one would take.
        self._measured_on = images if images.num_rows else _to_do(listing, None, settings)
        self._is_tuned = output is not None and bool(output.recall("tuning"))
        self._corrections = corrections
        self._known: dict[tuple[object, ...], Measured] = {}

    def of(self, settings: Settings, **options: Any) -> tuple[Measured, Work, list[StagePlan], Sizes]:
        """Return the plan: the probe's timings, the work to do, the cost of each stage, memory and disk."""
        slots = slots_of(settings)
        key = tuple(
            getattr(settings, name)
            for name in ("backbone", "alpha", "weights", "input_size", "fit", "views", "test_views", "precision")
        )
        if key not in self._known:
            self._known[key] = measure(self._measured_on, settings, processes=min(slots, available_cores()), **options)
        measured = self._known[key]
        backbone = find(settings.backbone, alpha=settings.alpha, input_size=settings.input_size)
        work = work_of(
            settings,
            backbone,
            self._listing.table,
            self._images,
            self._output,
            slots=slots,
            image_seconds=measured.seconds,
            tune=settings.tune and self._images.num_rows > 0 and not self._is_tuned,
        )
        rates = Rates(
            speeds=self.speeds,
            slowdown=measured.slowdown,
            image_seconds=measured.seconds,
            spread=measured.spread,
            compile_seconds=measured.compile_seconds,
            single_seconds=measured.single_seconds,
            precision=measured.precision,
            picture_seconds=self.picture_seconds,
            list_seconds=self._list_seconds,
            corrections=self._corrections,
        )
        # What is measured is the backbone before it is tuned.
        number = branches(work, rates) if work.tune else work.n_features // backbone.n_features
        work, rates = branched(replace(work, n_features=backbone.n_features), rates, number)
        needed = sizes(
            work,
            rates,
            worker_memory=measured.memory,
            driver_memory=memory.peak(),
            feature_bytes=number * measured.feature_bytes,
            view_bytes=number * measured.view_bytes,
            network_bytes=branched_bytes(measured.network_bytes, number),
        )
        return measured, work, estimates(work, rates), needed

    def qualities(self, settings: Settings) -> list[dict[str, Any]]:
        """Return a row for each quality; one that cannot be had says why (``lack``).

        There are no rows where another quality would not do: weights are given, which are of one backbone, or the
        output has features already.
        """
        if settings.weights != "imagenet" or (self._output is not None and self._output.recall("identity")):
            return []
        rows: list[dict[str, Any]] = []
        for name in ALL_QUALITIES:
            try:
                asked = settings.of_quality(name)
                if asked.tune:
                    last_kept(find(asked.backbone, alpha=asked.alpha, input_size=asked.input_size))
                found = self.of(asked, most=OTHERS_IMAGES, seconds=OTHERS_SECONDS)
            except InputError:
                raise
            except OrchardError as error:
                rows.append({"quality": name, "lack": str(error)})
                continue
            measured, _, stages, needed = found
            rows.append(
                {
                    "quality": name,
                    "backbone": asked.backbone,
                    "precision": str(measured.precision),
                    "views": asked.views or 0,
                    "test_views": int(asked.test_views or 1),
                    "tune": asked.tune,
                    "ms_per_image": round(measured.seconds * 1000, 2),
                    "seconds": round(sum(one["seconds"] or 0 for one in stages), 1),
                    "low": round(sum(one["low"] or 0 for one in stages), 1),
                    "high": round(sum(one["high"] or 0 for one in stages), 1),
                    **{f"{size}_bytes": value for size, value in needed.items()},
                    **usage(_core_seconds(stages), asked),
                }
            )
        return rows
