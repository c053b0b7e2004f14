"""The stages in order, from list to report; each is skipped while its input and settings are unchanged."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from orchard import cards, erasure, memory, summary
from orchard.classification import stage as classification
from orchard.classification.regression import prepare
from orchard.classification.sources import remember_sources
from orchard.classification.training import chosen
from orchard.erasure import Erasure
from orchard.errors import InputError, OrchardError, UsageError
from orchard.features.regrouping import regroup
from orchard.featurizing import Featurizing
from orchard.images.sources import check_apart
from orchard.inference import unknown
from orchard.inference.model import Model
from orchard.layout import METRICS, REPORT, RUN, Dataset, Metrics, Sizes
from orchard.neighbours import stage as neighbours
from orchard.neighbours.twins import remember_apart
from orchard.output import Output
from orchard.planning.outcome import Expectation, disk_bytes
from orchard.progress import stage
from orchard.reduction import stage as reduction
from orchard.report import stage as reporting
from orchard.review import stage as review
from orchard.runlog import RunLog
from orchard.settings import Settings
from orchard.spark.session import Session
from orchard.stages import Stage, feature_names, key_of
from orchard.storage import S3Options, read_path
from orchard.usage import Meter
from orchard.webhook import Told, told

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The results of a run."""

    metrics: Metrics
    output: str
    report: str | None
    """Address of the report; None if it was never written."""
    within_limits: bool
    """Whether no more images were rejected than the settings allow."""


def run(source: str | Sequence[str], output: str, settings: Settings, spark: SparkSession | None = None) -> Outcome:
    """Run all stages, from the images at `source`, one or several, to the report in `output`."""
    with told(settings.webhook, output) as message:
        check_apart(source, output)
        settings.check_regions(source, output)
        with Pipeline(output, settings, spark) as pipeline:
            message["run"] = pipeline.output.run_id
            pipeline.extract(source, spark_follows=True)
            return _after_features(pipeline, message)


def tune(output: str, settings: Settings, spark: SparkSession | None = None) -> Outcome:
    """Tune the network of `output` on its training images, and make everything else there again with it."""
    with (
        told(settings.webhook, output) as message,
        Pipeline(output, settings, spark, must_exist=True) as pipeline,
    ):
        message["run"] = pipeline.output.run_id
        pipeline.tune()
        return _after_features(pipeline, message)


def erase(
    output: str,
    images: Sequence[str],
    settings: Settings,
    *,
    older_than: timedelta | None = None,
    dry_run: bool = False,
) -> Erasure:
    """Erase images, or old data, from `output`, and report what was learned from them.

    Report, metrics and ``run.json`` are then made again from the rest.

    Args:
        output: folder or ``s3a://`` prefix.
        images: as for `orchard.erasure.find`.
        settings: the settings of the stores.
        older_than: the age of data to erase, as for `orchard.erasure.find`.
        dry_run: only report what would be erased.

    Raises:
        InputError: the output is empty.
        OutputDamaged: it cannot be read.
        OutputLocked: another run writes to it.
    """
    if dry_run:
        settings.check_regions(output)
        s3 = settings.s3_options()
        return erasure.find(_existing(output, s3), images, s3, older_than=older_than).said
    with Pipeline(output, settings, must_exist=True) as pipeline:
        kept = pipeline.output
        plan = erasure.find(kept, images, pipeline.s3, older_than=older_than)
        done = erasure.erase(kept, plan, remember=older_than is None)
        if plan.paths:
            pipeline.remake(report=bool(kept.recall("report")) and kept.rows(Dataset.FEATURES) > 0)
        return done


def allow_again(output: str, images: Sequence[str], settings: Settings) -> int:
    """Let later runs take erased images in again; return how many of these were erased. Raises as `erase` does."""
    settings.check_regions(output)
    kept = _existing(output, settings.s3_options())
    with kept.writing():
        return erasure.allow_again(kept, images)


def _existing(output: str, s3: S3Options) -> Output:
    """Return an output that holds something. Raises InputError."""
    found = Output(output, s3)
    if found.is_empty:
        raise InputError(f"{output} holds no results: make some with orchard extract SOURCE --output {output}.")
    return found


def _event_log(spark: SparkSession | None) -> list[str]:
    """Return where a session of the caller's writes its event log, if it does."""
    conf = spark.sparkContext.getConf() if spark is not None else None
    return [conf.get("spark.eventLog.dir", "")] if conf and conf.get("spark.eventLog.enabled") == "true" else []


def _after_features(pipeline: Pipeline, message: Told) -> Outcome:
    pipeline.reduce()
    pipeline.neighbours()
    pipeline.classify()
    pipeline.measure_unknown()
    pipeline.review()
    outcome = pipeline.report()
    message |= {"images": outcome.metrics["images"], "usage": pipeline.meter.used(pipeline.settings)["total"]}
    if not outcome.within_limits:
        message |= {"state": "rejected", "exit_code": 1, "reason": "more images were rejected than is allowed"}
    return outcome


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
        chosen(settings.classifiers, settings.answer_with)  # what cannot be trained is said before any work
        settings.check_regions(output, _event_log(spark))
        self.s3 = settings.s3_options()
        self.cards = cards.read(settings.cards, self.s3) if settings.cards else None
        self.output = _existing(output, self.s3) if must_exist else Output(output, self.s3)
        self._session = Session(settings, spark)
        self.meter = Meter(self._session.cores)
        self._expectation = Expectation(self.output, settings)
        self._featurizing = Featurizing(self.output, settings, self._session, self.meter, self._expectation)
        self._decoded = 0
        self._started = time.monotonic()
        self._began = datetime.now(UTC)

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            if self.settings.metrics_port is not None:
                opened.enter_context(self._monitor(self.settings.metrics_port))
            opened.enter_context(self.output.writing(unchecked=self.settings.fresh))
            opened.enter_context(RunLog(self.output.storage, self.output.run_id))
            opened.callback(self._session.stop)
            self._session.start_if_awaited()
            opened.enter_context(self.meter)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def extract(self, source: str | Sequence[str], *, spark_follows: bool = False) -> None:
        """List `source`, one or several, and featurize what the output does not have yet.

        Args:
            source: folder, URL, glob or manifest.
            spark_follows: start Spark meanwhile, if a later stage will need it for so many images.

        Raises:
            InputError: the source is missing or empty.
            SettingsChanged: the output's features were made with other settings.
            UsageError: the output holds images that the source does not list.
        """
        self._decoded = self._featurizing.extract(source, spark_follows=spark_follows)

    def tune(self) -> None:
        """Tune the network that the output's features were made with, and make them again with it.

        Raises:
            InputError: there are no features.
            UsageError: the network is one that cannot be tuned.
            TrainingError: there is too little to train on.
        """
        self._decoded = self._featurizing.tune()

    def reduce(self) -> None:
        """Fit scaler and PCA on the training split and write the reduced datasets.

        Images that cannot be reduced (none was decoded, none is for training) become a warning.

        Raises:
            InputError: nothing was extracted to the output.
        """
        found = reduction.stage_of(self.output, self.settings)
        if not found.is_done(self.output):
            prepare()  # for the classifiers, while workers reduce
        self._do(found)

    def neighbours(self) -> None:
        """Find the nearest training images of every image, if there are reduced ones."""
        if self.output.rows(Dataset.REDUCED):
            self._do(neighbours.stage_of(self.output, self.settings))

    def classify(self) -> None:
        """Train and measure the classifiers; data that cannot train one becomes a warning.

        Other cards make another model of the same classifiers, without training.

        Raises:
            InputError: the features were not reduced since they last changed.
            UsageError: the settings name groups that cannot be found.
        """
        output = self.output
        if self.settings.group_by is not None:
            regroup(output, self.settings.group_by)
        found = classification.stage_of(output, self.settings)
        cards.remember(output, self.cards)
        if output.rows(Dataset.REDUCED):
            self._do(found)
        cards.bring_to_model(output)
        remember_apart(output)
        remember_sources(output)

    def measure_unknown(self) -> None:
        """Measure what the model says of the images that the setting ``unknown`` names, if it names some.

        Raises:
            InputError: there are none.
        """
        found = unknown.stage_of(self.output, self.settings)
        if found is not None:
            self._do(found)
        elif self.output.recall("unknown"):
            self.output.commit({}, properties={"unknown": None})

    def review(self) -> None:
        """Look for the data's own faults, and write ``review/suspects.csv``."""
        if feature_names(self.output):
            self._do(review.stage_of(self.output))

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
        key = key_of(reporting.version(), {**metrics, "seconds": 0, "images": images})
        if again or not (output.recall("report").get("key") == key and output.storage.exists(REPORT)):
            run = summary.run(
                output,
                self.settings,
                started=self._began,
                usage=self.meter.used(self.settings),
                planned=self._planned().get("planned"),
            )
            with self.meter.stage("report"), stage("report"):
                read_image, load_model = partial(read_path, s3=self.s3), partial(Model.load, output.url, self.s3)
                reporting.write_report(output, metrics, run, read_image, load_model, figures=figures)
            return self.finish(report={"key": key})
        return self.finish()

    def remake(self, *, report: bool) -> None:
        """Write again what is no part of a commit and was dropped; a report that cannot be made is only missing."""
        try:
            if report:
                self.report(again=True)
                return
        except OrchardError as error:
            log.warning("%s was dropped and cannot be made again now (%s)", REPORT, error)
        self.finish()

    def finish(self, **properties: object) -> Outcome:
        """Remember `properties`, write ``metrics.json`` and ``run.json``, and return what they say."""
        output = self.output
        if self.meter.seconds.keys() - {"list"}:  # a run that found nothing to do leaves no commit
            properties["seconds"] = output.recall("seconds") | self.meter.seconds
        if planned := self._planned():
            properties["plan"] = planned
        if (fresh := output.recall("fresh")) and not fresh["done"]:
            properties["fresh"] = fresh | {"done": True}
        if properties:
            output.commit({}, properties=properties)
        metrics = self._metrics()
        run = summary.run(output, self.settings, started=self._began, usage=self.meter.used(self.settings))
        output.write(METRICS, summary.as_json(metrics))
        output.write(RUN, summary.as_json(run))
        counts = metrics["images"]
        return Outcome(
            metrics=metrics,
            output=output.url,
            report=f"{output.url}/{REPORT}" if output.storage.exists(REPORT) else None,
            within_limits=counts["rejected"] <= self.settings.rejections_allowed(counts["listed"]),
        )

    def _planned(self) -> dict[str, Any]:
        """Return the run's plan beside the seconds taken so far; empty if there is no plan."""
        now = Sizes(driver_python=memory.peak(), disk=disk_bytes(self.output))
        if jvm := self._session.jvm_memory():
            now["driver_jvm"] = jvm
        if found := self.output.recall("extraction").get("sharing"):
            now["worker_memory"] = found["worker_memory_bytes"]
        held = self.meter.used(self.settings)["total"]["core_hours"]
        return self._expectation.beside(self.meter.seconds, now, held)

    def _monitor(self, port: int) -> AbstractContextManager[int]:
        try:
            from orchard import monitoring
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--metrics-port needs {error.name}: `pip install '.[serve]'` in Orchard's checkout."
            ) from None
        return monitoring.served(port, self.output, self.settings, self.meter.core_seconds)

    def _do(self, found: Stage) -> None:
        if not found.is_done(self.output):
            with self.meter.stage(found.name), stage(found.name, found.total) as advance:
                found.work(self._session, advance)

    def _metrics(self) -> Metrics:
        total = round(time.monotonic() - self._started, 3)
        seconds = self.output.recall("seconds") | self.meter.seconds | {"total": total}
        return summary.metrics(self.output, decoded=self._decoded, seconds=seconds)
