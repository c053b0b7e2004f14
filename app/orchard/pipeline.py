"""The stages in order: list, extract, reduce, classify, report; each is skipped while its input is unchanged."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from orchard import summary
from orchard.classification.stage import classify
from orchard.classification.training import Classifier
from orchard.errors import InputError, SettingsChanged, StorageError, TrainingError, UsageError
from orchard.features.artifact import EngineName, Precision
from orchard.features.backbones import find
from orchard.features.conversion import Build, start_build
from orchard.features.engines import resolve_precision
from orchard.features.extraction import extract, warm_up
from orchard.features.pending import Pending, drop, find_pending
from orchard.images.decoding import Limits
from orchard.images.sources import Listing, list_images
from orchard.inference.model import BACKBONE
from orchard.layout import FEATURES, INVENTORY, METRICS, REDUCED, REJECTED, REPORT, RUN, Dataset, Metrics
from orchard.output import Output
from orchard.progress import stage
from orchard.redaction import redacted
from orchard.reduction.stage import reduce
from orchard.report.page import collect, render
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


def run(source: str, output: str, settings: Settings, spark: "SparkSession | None" = None) -> Outcome:
    """Do everything: from the images at `source` to the report in `output`."""
    with Pipeline(output, settings, spark) as pipeline:
        pipeline.extract(source)
        pipeline.reduce()
        pipeline.classify()
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
        InputError: the output's bucket does not exist, or the output is empty and must not be.
        OutputLocked: another run writes to the output.
    """

    def __init__(
        self, output: str, settings: Settings, spark: "SparkSession | None" = None, *, must_exist: bool = False
    ) -> None:
        self.settings = settings
        self.classifiers = [_classifier(name) for name in settings.classifiers]
        self.backbone = find(settings.backbone).with_alpha(settings.alpha)
        self.s3 = settings.s3_options()
        self.output = Output(output, self.s3)
        if must_exist and self.output.is_empty:
            raise InputError(f"{output} holds no results: make some with orchard extract SOURCE --output {output}.")
        self._session = Session(settings, spark)
        self._build: Build | None = None
        self._decoded = 0
        self._seconds: dict[str, float] = {}
        self._started = time.monotonic()
        self._began = datetime.now(UTC)

    def __enter__(self) -> Self:
        self._writing = self.output.writing()
        self._writing.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if self._build is not None:
                self._build.cancel()
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
        settings = self.settings
        with self._timed("list"), stage("list"):
            listing = list_images(
                source, self.s3, limit=settings.limit, labels=settings.labels or None, seed=settings.seed
            )
            if settings.fresh:
                self._start_over()
            identity = self._identity()
            pending = find_pending(
                self.output,
                listing.table,
                prune=settings.prune,
                retry_rejected=settings.retry_rejected,
                test_fraction=settings.test_fraction,
                seed=settings.seed,
            )
        if listing.ignored_count:
            log.info("ignored %d files that are no images: %s", listing.ignored_count, ", ".join(listing.ignored))
        if listing.duplicates:
            log.info("the manifest repeats %d rows: each image is taken once", listing.duplicates)
        listed = {"source": redacted(source), "listed": listing.table.num_rows, "ignored": listing.ignored_count}
        identity |= self._split_identity(listing)
        if pending.images.num_rows or len(pending.replaced):
            self._featurize(pending, identity)
        if summary.recall(self.output, "listing") != listed:
            self._remember(listing=listed)
        self._check_counts(listing.table.num_rows)

    def reduce(self) -> None:
        """Fit scaler and PCA on the training split and write the reduced datasets.

        Images that cannot be reduced (none was decoded, none is for training) become a warning.

        Raises:
            InputError: nothing was extracted to the output.
        """
        key = self._reduction_key()
        if self._is_current("reduction", key):
            return
        settings = self.settings
        found: dict[str, Any]
        with self._timed("reduce"), stage("reduce", self.output.rows(Dataset.FEATURES)) as advance:
            try:
                components = settings.components
                result = reduce(
                    self._session.spark,
                    self.output,
                    variance=settings.variance if components is None else None,
                    components=components,
                    progress=advance,
                )
                found = {"metrics": result.metrics, "warnings": result.warnings}
            except (TrainingError, InputError) as error:
                if not self.output.rows(Dataset.INVENTORY):
                    raise
                found = {"warnings": [str(error)]}
                self.output.commit({}, replace=[Dataset.REDUCED, Dataset.REDUCED_CSV])
        # What was classified before was classified by other components.
        properties = {"reduction": {"key": key, **found}, "classification": None}
        self.output.commit({}, replace=[Dataset.PREDICTIONS], properties=properties)

    def classify(self) -> None:
        """Train and measure the classifiers; data that cannot train one becomes a warning.

        Raises:
            InputError: the features were not reduced since they last changed.
        """
        settings = self.settings
        if not summary.recall(self.output, "reduction"):
            url = self.output.url
            raise InputError(f"The features in {url} are not reduced yet: start with orchard reduce {url}.")
        reduced = summary.recall(self.output, "reduction").get("key")
        key = _digest(reduced, self.classifiers, settings.seed, settings.split_by, settings.test_fraction)
        if self._is_current("classification", key) or not self.output.rows(Dataset.REDUCED):
            return
        found: dict[str, Any]
        with self._timed("classify"), stage("classify") as advance:
            try:
                result = classify(
                    self._session.spark,
                    self.output,
                    self.classifiers,
                    seed=settings.seed,
                    split_by_group=settings.split_by == "group",
                    test_fraction=settings.test_fraction,
                    progress=advance,
                )
                found = vars(result)
            except TrainingError as error:
                found = {"warnings": [str(error)]}
                self.output.commit({}, replace=[Dataset.PREDICTIONS])
        self._remember(classification={"key": key, **found})

    def report(self) -> Outcome:
        """Write ``report.html`` if it would say anything new, and `finish`."""
        metrics = self._metrics()
        key = _digest({**metrics, "seconds": 0, "images": {**metrics["images"], "decoded": 0}})
        if not (self._is_current("report", key) and self.output.storage.exists(REPORT)):
            run = summary.run(self.output, self.settings, started=self._began)
            with self._timed("report"), stage("report"):
                page = render(collect(self.output, metrics, run, partial(read_path, s3=self.s3)))
                self.output.storage.write(REPORT, page.encode())
            self._remember(report={"key": key})
        return self.finish()

    def finish(self) -> Outcome:
        """Write ``metrics.json`` and ``run.json``, and return what they say."""
        self._fill_empty_datasets()
        if self._seconds.keys() - {"list"}:  # a run that found nothing to do leaves no commit
            self._remember(seconds=summary.recall(self.output, "seconds") | self._seconds)
        metrics = self._metrics()
        run = summary.run(self.output, self.settings, started=self._began)
        self.output.storage.write(METRICS, summary.as_json(metrics))
        self.output.storage.write(RUN, summary.as_json(run))
        counts = metrics["images"]
        return Outcome(
            metrics=metrics,
            output=self.output.url,
            report=f"{self.output.url}/{REPORT}" if self.output.storage.exists(REPORT) else None,
            within_limits=counts["rejected"] <= self.settings.rejections_allowed(counts["listed"]),
        )

    def _metrics(self) -> Metrics:
        total = round(time.monotonic() - self._started, 3)
        seconds = summary.recall(self.output, "seconds") | self._seconds | {"total": total}
        return summary.metrics(self.output, decoded=self._decoded, seconds=seconds)

    def _start_over(self) -> None:
        """Drop what the output holds, but not the work of an earlier driver of the same Kubernetes Job: resume that."""
        job = os.environ.get("ORCHARD_JOB_UID")
        if job and summary.recall(self.output, "fresh").get("job") == job:
            return
        if not self.output.is_empty:
            self.output.start_over()
        if job:
            self._remember(fresh={"job": job})

    def _identity(self) -> dict[str, Any]:
        """Return the settings that decide what features are; an output holds those of one identity.

        Raises:
            SettingsChanged: the output's were made with others.
        """
        settings = self.settings
        before = summary.recall(self.output, "identity")
        engine = EngineName(settings.engine)
        identity: dict[str, Any] = {
            "backbone": self.backbone.name,
            "weights": settings.weights,
            "alpha": self.backbone.alpha,
            "engine": str(engine),
            # What the first run's machine could do holds for later ones too.
            "precision": before["precision"]
            if before and settings.precision == "auto"
            else str(resolve_precision(settings.precision, engine)),
        }
        self._refuse_changes(before, identity)
        return identity

    def _split_identity(self, listing: Listing) -> dict[str, Any]:
        """Return the settings that decided the splits, if the source left them to Orchard."""
        if not listing.table["split"].null_count:
            return {}
        chosen = {"test_fraction": self.settings.test_fraction, "seed": self.settings.seed}
        self._refuse_changes(summary.recall(self.output, "identity"), chosen)
        return chosen

    def _refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name, value in now.items():
            if name in before and before[name] != value:
                raise SettingsChanged(
                    f"{self.output.url} was made with {name} {before[name]} and would be mixed with {value}: "
                    "choose another --output, or --fresh to start over."
                )

    def _featurize(self, pending: Pending, identity: dict[str, Any]) -> None:
        with self._timed("extract"):
            with stage("start"):
                # Spark starts in the background, while another process builds the network.
                self._session.start(then=partial(warm_up, engine=EngineName(identity["engine"])))
                self._build = start_build(
                    self.backbone,
                    weights=identity["weights"],
                    alpha=identity["alpha"],
                    engine=EngineName(identity["engine"]),
                    precision=Precision(identity["precision"]),
                    seed=self.settings.seed,
                )
                artifact = self._build.result()
                spark = self._session.spark
            identity = {**identity, "weights_digest": artifact.weights_digest, "n_features": artifact.n_features}
            self._refuse_changes(summary.recall(self.output, "identity"), identity)
            if len(pending.replaced):
                log.info("replaced %d, gone %d images", pending.replaced_images, pending.vanished_images)
            drop(self.output, pending.replaced)
            if summary.recall(self.output, "identity") != identity:
                self.output.storage.write(BACKBONE, artifact.to_bytes())
                self._remember(identity=identity)
            # What was reduced and classified before is not of these features.
            stale = {"reduction": None, "classification": None}
            self.output.commit(
                {}, replace=[Dataset.REDUCED, Dataset.REDUCED_CSV, Dataset.PREDICTIONS], properties=stale
            )
            if not pending.images.num_rows:
                return
            with stage("extract", pending.images.num_rows) as advance:
                result = extract(
                    spark,
                    self.output,
                    pending.images,
                    artifact,
                    limits=Limits(self.settings.max_bytes, self.settings.max_pixels),
                    s3=self.s3,
                    progress=advance,
                )
        self._decoded = result.images
        self._remember(
            extraction={
                "images": result.images,
                "images_per_second": round(result.images_per_second, 1),
                "bytes": result.bytes,
                "tasks": result.tasks,
                "first_commit_seconds": result.first_commit_seconds,
                "master": spark.sparkContext.master,
            }
        )

    def _check_counts(self, listed: int) -> None:
        """Make sure that every listed image is in exactly one of ``features`` and ``rejected``."""
        output = self.output
        featurized, rejected = output.rows(Dataset.FEATURES), output.rows(Dataset.REJECTED)
        if not listed == featurized + rejected == output.rows(Dataset.INVENTORY):
            raise StorageError(
                f"{output.url} does not add up: {listed} images listed, {featurized} featurized, {rejected} rejected; "
                "start over with --fresh and please report this."
            )
        log.info("listed %d = featurized %d + rejected %d", listed, featurized, rejected)

    def _fill_empty_datasets(self) -> None:
        """Give each Parquet dataset without rows an empty file, so that every reader can open it."""
        schemas = {
            Dataset.FEATURES: FEATURES,
            Dataset.REJECTED: REJECTED,
            Dataset.INVENTORY: INVENTORY,
            Dataset.REDUCED: REDUCED,
        }
        empty = {
            dataset: [self.output.stage(dataset, schema.empty_table())]
            for dataset, schema in schemas.items()
            if not self.output.files(dataset)
        }
        if empty:
            self.output.commit(empty)

    def _reduction_key(self) -> str:
        names = sorted(file.name for file in self.output.files(Dataset.FEATURES) if file.rows)
        return _digest(names, self.settings.variance, self.settings.components)

    def _is_current(self, name: str, key: str) -> bool:
        return bool(summary.recall(self.output, name).get("key") == key)

    def _remember(self, **properties: Any) -> None:
        self.output.commit({}, properties=properties)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - started, 3)


def _classifier(name: str) -> Classifier:
    try:
        return Classifier(name)
    except ValueError:
        raise UsageError(f"There is no classifier {name!r}: choose among {', '.join(Classifier)}.") from None


def _digest(*values: object) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
