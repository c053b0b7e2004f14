"""The stages in order, from list to report; each is skipped while its input and settings are unchanged."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchard import cards, summary
from orchard.classification import stage as classification
from orchard.classification.groups import group_key
from orchard.classification.training import Classifier
from orchard.errors import InputError, UsageError
from orchard.features import stage as extraction
from orchard.features.backbones import find
from orchard.features.pending import find_pending
from orchard.features.regrouping import regroup, update_groups
from orchard.files import digest_of
from orchard.images.sources import check_apart, list_images, list_selected
from orchard.inference.model import Model
from orchard.inference.unknown import measure_unknown
from orchard.layout import METRICS, REPORT, RUN, SUSPECT_LIST, Dataset, Metrics
from orchard.neighbours import stage as neighbours
from orchard.neighbours.twins import measure_apart
from orchard.output import Output
from orchard.progress import Advance, stage
from orchard.reduction import stage as reduction
from orchard.report import stage as reporting
from orchard.review import stage as review
from orchard.session import Session
from orchard.settings import Settings
from orchard.storage import read_path

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    metrics: Metrics
    output: str
    report: str | None
    """Where the page is; None if it was never written."""
    within_limits: bool
    """Whether no more images were rejected than the settings allow."""


def run(source: str, output: str, settings: Settings, spark: SparkSession | None = None) -> Outcome:
    """Do everything: from the images at `source` to the report in `output`."""
    check_apart(source, output)
    with Pipeline(output, settings, spark) as pipeline:
        pipeline.extract(source)
        pipeline.reduce()
        pipeline.neighbours()
        pipeline.classify()
        pipeline.measure_unknown()
        pipeline.review()
        return pipeline.report()


class Pipeline:
    """The stages over one output; use it inside ``with``, which holds the output's lock.

    Args:
        output: folder or ``s3a://`` prefix that takes the results.
        settings: as `orchard.settings.load` returns them.
        spark: a session to use; None: one is started if there is work for it, and stopped at the end.
        must_exist: whether the output must hold something already.

    Raises:
        UsageError: the settings name a backbone or classifier that does not exist.
        InputError: the output's bucket does not exist, or the output is empty and must not be; the cards are not there
            or not such a table as `orchard.cards` reads.
        OutputDamaged: what the output holds is not what was written.
        OutputLocked: another run writes to the output.
        StorageError: the cards cannot be read.
    """

    def __init__(
        self, output: str, settings: Settings, spark: SparkSession | None = None, *, must_exist: bool = False
    ) -> None:
        self.settings = settings
        self.classifiers = [_classifier(name) for name in settings.classifiers]
        _check_answer_with(settings.answer_with, self.classifiers)
        self.backbone = find(settings.backbone).with_alpha(settings.alpha)
        self.s3 = settings.s3_options()
        self.cards = cards.read(settings.cards, self.s3) if settings.cards else None
        self.output = Output(output, self.s3)
        if must_exist and self.output.is_empty:
            raise InputError(f"{output} holds no results: make some with orchard extract SOURCE --output {output}.")
        self._session = Session(settings, spark)
        self._decoded = 0
        self._seconds: dict[str, float] = {}
        self._started = time.monotonic()
        self._began = datetime.now(UTC)

    def __enter__(self) -> Self:
        self._writing = self.output.writing(unchecked=self.settings.fresh)
        self._writing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self._session.stop()
        finally:
            self._writing.__exit__(*error)

    def extract(self, source: str) -> None:
        """List `source` and featurize what the output does not have yet.

        Raises:
            InputError: the source is missing or empty.
            SettingsChanged: the output's features were made with other settings.
            UsageError: the output holds images that the source does not list.
        """
        settings, output = self.settings, self.output
        with self._timed("list"), stage("list"):
            listing = list_selected(source, self.output.url, settings)
            if settings.fresh:
                extraction.start_over(output, source, settings)
            identity = extraction.identity_of(output, settings, self.backbone, listing)
            pending = find_pending(
                output,
                listing.table,
                dropped=listing.dropped,
                prune=settings.prune,
                retry_rejected=settings.retry_rejected,
                test_fraction=settings.test_fraction,
                seed=settings.seed,
                s3=self.s3,
            )
        if listing.ignored_count:
            log.info(
                "ignored %d files and folders without images: %s", listing.ignored_count, ", ".join(listing.ignored)
            )
        if listing.duplicates:
            log.info("the manifest repeats %d rows: each image is taken once", listing.duplicates)
        extraction.rename(output, pending)
        done: extraction.Extraction = {}
        if extraction.is_needed(output, pending):
            with self._timed("extract"):
                done = extraction.featurize(
                    self._session, output, pending, identity, settings=settings, backbone=self.backbone
                )
        extraction.complete(output, listing, source, done)
        update_groups(output, listing.table, listing.grouping)
        self._decoded = done.get("images", 0)

    def reduce(self) -> None:
        """Fit scaler and PCA on the training split and write the reduced datasets.

        Images that cannot be reduced (none was decoded, none is for training) become a warning.

        Raises:
            InputError: nothing was extracted to the output.
        """
        settings, output = self.settings, self.output
        key = _digest(
            reduction.VERSION,
            self._features(),
            settings.variance,
            settings.components,
            settings.seed,
            group_key(output),
        )
        components = settings.components
        variance = settings.variance if components is None else None

        def work(advance: Advance) -> None:
            if not output.rows(Dataset.INVENTORY):
                raise InputError(f"{output.url} holds no features: extract some first.")
            reduction.run(
                self._session,
                output,
                key=key,
                seed=settings.seed,
                variance=variance,
                components=components,
                progress=advance,
            )

        self._stage("reduce", "reduction", key, work, output.rows(Dataset.FEATURES))

    def neighbours(self) -> None:
        """Find the nearest training images of every image, if there are reduced ones."""
        settings, output = self.settings, self.output
        key = _digest(neighbours.VERSION, self._features(), settings.seed)

        def work(advance: Advance) -> None:
            neighbours.run(self._session, output, key=key, seed=settings.seed, progress=advance)

        if output.rows(Dataset.REDUCED):
            self._stage("neighbours", "neighbours", key, work, output.rows(Dataset.FEATURES))

    def classify(self) -> None:
        """Train and measure the classifiers; data that cannot train one becomes a warning.

        Other cards make another model of the same classifiers, without training.

        Raises:
            InputError: the features were not reduced since they last changed.
            UsageError: the settings name groups that cannot be found.
        """
        settings, output = self.settings, self.output
        if settings.group_by is not None:
            regroup(output, settings.group_by)
        groups = group_key(output, straddling=True)
        reduced = summary.recall(output, "reduction").get("key")
        if reduced is None:
            raise InputError(
                f"The features in {output.url} are not reduced yet: start with orchard reduce {output.url}."
            )
        key = _digest(
            classification.VERSION,
            reduced,
            self.classifiers,
            settings.seed,
            groups,
            settings.test_fraction,
            settings.sure_at,
            settings.answer_with,
        )

        def work(advance: Advance) -> None:
            classification.run(
                self._session,
                output,
                self.classifiers,
                key=key,
                seed=settings.seed,
                split_by_group=groups is not None,
                test_fraction=settings.test_fraction,
                sure_at=settings.sure_at,
                answer_with=settings.answer_with,
                driver_memory=settings.driver_memory,
                progress=advance,
            )

        cards.remember(output, self.cards)
        # What lacked memory is tried again with another amount.
        lacked = summary.recall(output, "classification").get("lacked", settings.driver_memory)
        if output.rows(Dataset.REDUCED):
            self._stage("classify", "classification", key if lacked == settings.driver_memory else "", work)
        cards.bring_to_model(output)
        self._measure_apart()

    def _measure_apart(self) -> None:
        """Measure the classifiers without the near twins of training images, where there are predictions."""
        output = self.output
        found = summary.recall(output, "neighbours")
        key = _digest(found.get("key"), summary.recall(output, "classification").get("key"))
        threshold = found.get("metrics", {}).get("threshold")
        if summary.recall(output, "apart").get("key") != key:
            has_both = threshold is not None and output.rows(Dataset.PREDICTIONS)
            apart = measure_apart(output, threshold) if has_both else {}
            output.commit({}, properties={"apart": {"key": key, "classifiers": apart}})

    def measure_unknown(self) -> None:
        """Measure what the model says of the images that the setting ``unknown`` names, if it names some.

        Raises:
            InputError: there are none.
        """
        settings, output = self.settings, self.output
        if settings.unknown is None or output.model_folder is None:
            if summary.recall(output, "unknown"):
                output.commit({}, properties={"unknown": None})
            return
        images = list_images(settings.unknown, self.s3, limit=None, labels=None, seed=0).table
        key = _digest(
            output.model_folder, settings.unknown, *(images[name].to_pylist() for name in ("path", "version"))
        )

        def work(advance: Advance) -> None:
            calibration = summary.recall(output, "classification").get("calibration") or {}
            found = measure_unknown(
                self._session.spark,
                Model.load(output.url, self.s3),
                images,
                source=settings.unknown or "",
                known=calibration.get("familiarity", []),
                limits=settings.limits(),
                s3=self.s3,
                progress=advance,
            )
            output.commit({}, properties={"unknown": {"key": key, "metrics": found}})

        self._stage("unknown", "unknown", key, work, images.num_rows)

    def review(self) -> None:
        """Look for the data's own faults, and write ``review/suspects.csv``."""
        output, names = self.output, self._features()
        calibrations = summary.recall(output, "classification").get("calibrations", {})
        temperature = calibrations.get(Classifier.LINEAR_DISCRIMINANT, {}).get("temperature", 1.0)
        before = [summary.recall(output, name).get("key") for name in ("reduction", "neighbours")]
        key = _digest(review.VERSION, names, before, temperature)

        def work(advance: Advance) -> None:
            review.run(self._session, output, key=key, temperature=temperature, progress=advance)

        if names:
            there = output.storage.exists(SUSPECT_LIST)
            self._stage("review", "review", key if there else "", work, output.rows(Dataset.FEATURES))

    def report(self, *, again: bool = False, figures: Path | None = None) -> Outcome:
        """Write ``report.html`` if it would say anything new, or `again` in any case, and `finish`.

        Args:
            again: write it in any case.
            figures: a local folder that takes every figure as SVG and PNG.

        Raises:
            UsageError: the figures cannot be written.
        """
        output = self.output
        metrics = self._metrics()
        images = {**metrics["images"], "decoded": 0}
        key = _digest(reporting.version(), {**metrics, "seconds": 0, "images": images})
        if again or not (summary.recall(output, "report").get("key") == key and output.storage.exists(REPORT)):
            run = summary.run(output, self.settings, started=self._began)
            with self._timed("report"), stage("report"):
                reporting.write_report(output, metrics, run, partial(read_path, s3=self.s3), figures=figures)
            return self.finish(report={"key": key})
        return self.finish()

    def finish(self, **properties: object) -> Outcome:
        """Remember `properties`, write ``metrics.json`` and ``run.json``, and return what they say."""
        output = self.output
        if self._seconds.keys() - {"list"}:  # a run that found nothing to do leaves no commit
            properties["seconds"] = summary.recall(output, "seconds") | self._seconds
        if (fresh := summary.recall(output, "fresh")) and not fresh["done"]:
            properties["fresh"] = fresh | {"done": True}
        if properties:
            output.commit({}, properties=properties)
        metrics = self._metrics()
        run = summary.run(output, self.settings, started=self._began)
        output.write(METRICS, summary.as_json(metrics))
        output.write(RUN, summary.as_json(run))
        counts = metrics["images"]
        return Outcome(
            metrics=metrics,
            output=output.url,
            report=f"{output.url}/{REPORT}" if output.storage.exists(REPORT) else None,
            within_limits=counts["rejected"] <= self.settings.rejections_allowed(counts["listed"]),
        )

    def _features(self) -> list[str]:
        """The files of the features, which tell them from others."""
        return sorted(file.name for file in self.output.files(Dataset.FEATURES) if file.rows)

    def _stage(
        self, name: str, remembered: str, key: str, work: Callable[[Advance], None], total: int | None = None
    ) -> None:
        """Do the work of a stage, unless what it `remembered` says that it was done with the same `key`."""
        if summary.recall(self.output, remembered).get("key") != key:
            with self._timed(name), stage(name, total) as advance:
                work(advance)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - started, 3)

    def _metrics(self) -> Metrics:
        total = round(time.monotonic() - self._started, 3)
        seconds = summary.recall(self.output, "seconds") | self._seconds | {"total": total}
        return summary.metrics(self.output, decoded=self._decoded, seconds=seconds)


def _classifier(name: str) -> Classifier:
    try:
        return Classifier(name)
    except ValueError:
        raise UsageError(f"There is no classifier {name!r}: choose among {', '.join(Classifier)}.") from None


def _check_answer_with(name: str | None, classifiers: Sequence[Classifier]) -> None:
    linear = [classifier for classifier in classifiers if classifier.is_linear]
    if name is not None and name not in linear:
        raise UsageError(f"--answer-with {name}: choose among the linear classifiers to train ({', '.join(linear)}).")


def _digest(*values: object) -> str:
    return digest_of(json.dumps(values, sort_keys=True).encode())
