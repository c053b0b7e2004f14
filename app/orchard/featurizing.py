"""From a source, or the images of an output, to features: list what is pending, tune, featurize."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from orchard.features import stage as extraction
from orchard.features.backbones import Backbone, find
from orchard.features.backgrounds import Backgrounds, of_run
from orchard.features.extraction import ExtractionResult
from orchard.features.pending import Pending, find_pending
from orchard.features.regrouping import update_groups
from orchard.features.weights import tuned
from orchard.images.erased import without_erased
from orchard.images.sources import check_weights, list_selected
from orchard.layout import TO_DO_AGAIN
from orchard.machine import available_cores
from orchard.neighbours.stage import EXACT_ROWS
from orchard.output import Output
from orchard.planning.outcome import Expectation
from orchard.progress import stage
from orchard.settings import Settings
from orchard.spark.session import Session
from orchard.tuning import stage as tuning
from orchard.tuning.blocks import last_kept
from orchard.usage import Meter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Featurizing:
    """Makes the features of an output.

    Raises:
        UsageError: the settings name a backbone that does not exist, or one that cannot be tuned.
    """

    output: Output
    settings: Settings
    session: Session
    meter: Meter
    expectation: Expectation

    def __post_init__(self) -> None:
        backbone = self._backbone
        if self.settings.tune:
            last_kept(backbone)

    @property
    def _backbone(self) -> Backbone:
        settings = self.settings
        return find(settings.backbone, alpha=settings.alpha, input_size=settings.input_size)

    def extract(self, source: str | Sequence[str], *, spark_follows: bool = False) -> int:
        """List `source`, featurize what the output does not have yet, and return how many images were decoded.

        With ``spark_follows`` Spark starts meanwhile, if a later stage will need it for so many images.

        Raises:
            InputError: the source is missing or empty.
            SettingsChanged: the output's features were made with other settings.
            UsageError: the output holds images that the source does not list.
        """
        settings, output, backbone = self.settings, self.output, self._backbone
        with self.meter.stage("list"), stage("list"):
            listing = without_erased(list_selected(source, output.url, settings), output.storage)
            check_weights(source, settings.source_weight)
            if settings.fresh:
                extraction.start_over(output, source, settings)
            identity = extraction.identity_of(output, settings, backbone, listing)
            backgrounds = of_run(output, settings, identity["views"])
            identity["backgrounds"] = backgrounds.digest
            pending = find_pending(
                output,
                listing.table,
                dropped=listing.dropped,
                views=identity["views"],
                viewed=extraction.views_that_stay(output, identity),
                prune=settings.prune,
                retry_rejected=settings.retry_rejected,
                test_fraction=settings.test_fraction,
                seed=settings.seed,
                s3=settings.s3_options(),
            )
        if listing.ignored_count:
            log.info(
                "ignored %d files and folders without images: %s", listing.ignored_count, ", ".join(listing.ignored)
            )
        if listing.duplicates:
            log.info("the manifest repeats %d rows: each image is taken once", listing.duplicates)
        extraction.rename(output, pending)
        if identity["tune"] and not tuning.is_there(output):
            with self.meter.stage("tune", cores=available_cores()):
                tuning.tune(output, pending.images, identity, settings)
        done = self._featurize(pending, identity, backbone, listing.table, backgrounds, spark_follows=spark_follows)
        extraction.complete(output, listing, source, done)
        if output.has_part(TO_DO_AGAIN):
            tuning.done_again(output)
        update_groups(output, listing.table, listing.grouping)
        return int(done.get("images", 0))

    def tune(self) -> int:
        """Tune the network of the output, make its features again, and return how many images were decoded.

        Raises:
            InputError: there are no features.
            UsageError: the network is one that cannot be tuned.
            TrainingError: there is too little to train on.
        """
        settings, output = self.settings, self.output
        with self.meter.stage("tune", cores=available_cores()):
            images = tuning.tune_again(output, settings)
        if images is None:
            log.info("the backbone was tuned on these images already")
            return 0
        identity = extraction.identity_before(output)
        backgrounds = of_run(output, settings, identity["views"])
        identity["backgrounds"] = backgrounds.digest
        pending = find_pending(
            output,
            images,
            views=identity["views"],
            prune=False,
            retry_rejected=False,
            test_fraction=settings.test_fraction,
            seed=settings.seed,
            s3=settings.s3_options(),
        )
        backbone = find(identity["backbone"], alpha=identity["alpha"], input_size=identity["input_size"])
        done = self._featurize(pending, identity, backbone, images, backgrounds, spark_follows=True)
        extraction.complete_again(output, output.recall("listing"), done)
        tuning.done_again(output)
        return int(done.get("images", 0))

    def _featurize(
        self,
        pending: Pending,
        identity: dict[str, Any],
        backbone: Backbone,
        listed: pa.Table,
        backgrounds: Backgrounds,
        *,
        spark_follows: bool,
    ) -> extraction.Extraction:
        if not extraction.is_needed(self.output, pending):
            return {}

        def learn(result: ExtractionResult) -> None:
            tuned_now = "tune" in self.meter.seconds
            self.expectation.learn(
                listed, pending.images, backbone, identity, result, slots=result.slots, tuned=tuned_now
            )

        return extraction.featurize(
            self.session,
            self.output,
            pending,
            identity,
            settings=self.settings,
            backbone=backbone,
            meter=self.meter,
            backgrounds=backgrounds,
            weights=tuned(self.output),
            learned=learn,
            spark_follows=spark_follows and listed.num_rows > EXACT_ROWS,
        )
