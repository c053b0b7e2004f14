"""The stage from a source's listing to ``features/``, ``rejected/`` and ``inventory/``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from orchard.errors import OutputDamaged, SettingsChanged, StorageError
from orchard.features.artifact import AFTER_TUNING, Artifact, EngineName, Precision
from orchard.features.backbones import Backbone, find
from orchard.features.backgrounds import Backgrounds
from orchard.features.conversion import start_build
from orchard.features.engines import resolve_precision
from orchard.features.extraction import ExtractionResult, extract
from orchard.features.pending import Pending, renamed, without
from orchard.features.quantization import LEAST_AGREEMENT, Sample
from orchard.features.sharing import sharing
from orchard.features.weights import brought
from orchard.features.worker import import_libraries
from orchard.files import DataFile
from orchard.images.sources import Listing
from orchard.layout import (
    BACKBONE,
    BACKGROUNDS,
    DERIVED,
    EXTRACTED,
    FORGOTTEN,
    INVENTORY,
    PARTS,
    SCHEMAS,
    VIEWS,
    Dataset,
)
from orchard.output import Output
from orchard.progress import stage
from orchard.redaction import redacted
from orchard.settings import Settings
from orchard.spark.session import Session
from orchard.stages import key_of
from orchard.usage import Meter
from orchard.vocabulary import Fit

log = logging.getLogger(__name__)

NO_BACKGROUNDS = Backgrounds()

Extraction = dict[str, Any]
"""What the property ``extraction`` holds: images, images_per_second, bytes and more; empty if there were none to do."""


def start_over(output: Output, source: str | Sequence[str], settings: Settings) -> None:
    """Drop what the output holds (``--fresh``), but not what an earlier try at the same command has done.

    The same command is that of the same Kubernetes Job, or, where none is known, of the same source and settings, as
    long as it has not ended: whoever starts a command again that was cut off wants it to go on.
    """
    job = os.environ.get("ORCHARD_JOB_UID")
    command = job or key_of(source, settings.model_dump(mode="json"))
    try:
        before = output.recall("fresh")
    except OutputDamaged:
        before = {}
    if before.get("command") == command and (job or not before.get("done")):
        log.info("going on with what this command, which starts over, has done before it was cut off")
        return
    output.start_over({"fresh": {"command": command, "done": False}})


def identity_of(output: Output, settings: Settings, backbone: Backbone, listing: Listing) -> dict[str, Any]:
    """Return the settings that decide what features are, and splits; an output holds those of one identity.

    Raises:
        SettingsChanged: the output's were made with others.
    """
    before = output.recall("identity")
    engine = EngineName(settings.engine)
    images = listing.table.num_rows
    identity: dict[str, Any] = {
        "backbone": backbone.name,
        "weights": settings.weights,
        "alpha": backbone.alpha,
        "engine": str(engine),
        # What the first run's machine could do holds for later ones too.
        "precision": before["precision"]
        if before and settings.precision == "auto"
        else str(resolve_precision(settings.precision, engine, backbone=backbone, images=images)),
        "input_size": backbone.input_size,
        "fit": settings.fit or before.get("fit", str(Fit.STRETCH)),
        "test_views": int(settings.test_views or before.get("test_views", 1)),
        "transform": settings.transform or before.get("transform", "none"),
        "views": before.get("views", 0) if settings.views is None else settings.views,
        "tune": settings.tune or before.get("tune", False),
    }
    if identity["views"]:
        identity["seed"] = settings.seed
    if listing.table["split"].null_count:  # the source left them to Orchard
        identity |= {"test_fraction": settings.test_fraction, "seed": settings.seed, "group_by": settings.group_by}
    refuse_changes(output, identity)
    return identity


def is_needed(output: Output, pending: Pending) -> bool:
    """Return whether `featurize` has anything to do; it also replaces a network that was lost."""
    lost = output.rows(Dataset.FEATURES) and not output.has_part(BACKBONE)
    return bool(pending.images.num_rows or len(pending.replaced) or pending.unviewed.num_rows or lost)


def views_that_stay(output: Output, identity: dict[str, Any]) -> pa.Array | None:
    """Return the paths of the images that have their random views; None: all do that should.

    Views on other backgrounds are other views. What a run that was to make them anew has not come to is to be done.
    """
    before = output.recall("identity")
    if not before or not identity["views"]:
        return None
    if before.get("backgrounds", "") != identity["backgrounds"]:
        return pa.array([], pa.string())
    if output.recall("views"):
        return output.read(Dataset.VIEWS, ["path"], VIEWS)["path"].combine_chunks().unique()
    return None


def featurize(
    session: Session,
    output: Output,
    pending: Pending,
    identity: dict[str, Any],
    *,
    settings: Settings,
    backbone: Backbone,
    meter: Meter,
    backgrounds: Backgrounds = NO_BACKGROUNDS,
    weights: str | None = None,
    learned: Callable[[ExtractionResult], object] | None = None,
    spark_follows: bool = False,
) -> Extraction:
    """Featurize what is pending, and drop the rows that it replaces; return what it came to.

    ``backgrounds`` are those of the identity; ``weights`` is the file of a tuned network's; ``learned`` is as of
    `orchard.features.extraction.extract`; with ``spark_follows`` Spark starts beside the work, as what comes next needs
    it.

    Raises:
        OutputDamaged: the backgrounds are lost.
        SettingsChanged: the weights of that name are not those that the output was made with.
        WeightsUnavailable, ClusterError, StorageError: see `orchard.features.extraction.extract`.
    """
    engine = EngineName(identity["engine"])
    if backgrounds.digest and not backgrounds.content:
        raise OutputDamaged(f"{output.url} has lost the backgrounds of its views: give --backgrounds again.")
    with ExitStack() as opened:
        with meter.stage("start"):
            # Workers start in the background, while another process builds the network.
            workers = session.workers
            workers.prepare(partial(import_libraries, engine))
            if spark_follows:
                session.start()
            build = _kept_network(output, identity) or start_build(
                backbone,
                weights=weights or brought(backbone, identity["weights"], settings.s3_options()),
                alpha=identity["alpha"],
                engine=engine,
                precision=Precision(identity["precision"]),
                seed=settings.seed,
                sample=_sample(output, pending, settings, Fit(identity["fit"]))
                if identity["precision"] == Precision.INT8
                else None,
                may_fall_back=settings.precision == "auto" and not output.recall("identity"),
            )
            if not isinstance(build, Artifact):
                opened.callback(build.cancel)
            with stage("start"):
                artifact = build if isinstance(build, Artifact) else build.result()
                artifact = replace(
                    artifact,
                    fit=Fit(identity["fit"]),
                    test_views=identity["test_views"],
                    square_root=identity["transform"] == "square_root",
                )
                if weights is not None:
                    artifact = replace(artifact, weights=f"{identity['weights']}{AFTER_TUNING}")
                identity = _as_built(identity, artifact)
        with meter.stage("extract"):
            if len(pending.replaced):
                log.info("replaced %d, gone %d images", pending.replaced_images, pending.vanished_images)
            _make_way(output, pending, identity, artifact, backgrounds)
            to_do = [(pending.images, False), (pending.unviewed, True)]
            to_do = [(images, views_alone) for images, views_alone in to_do if images.num_rows]
            if not to_do:
                return {}
            done = output.rows(Dataset.INVENTORY)  # by earlier runs: what is counted is the whole that is committed
            with stage("extract", done + sum(images.num_rows for images, _ in to_do), done) as advance:
                results = [
                    extract(
                        workers,
                        output,
                        images,
                        artifact,
                        limits=settings.limits(),
                        s3=settings.s3_options(),
                        progress=advance,
                        views=identity["views"],
                        seed=settings.seed,
                        backgrounds=backgrounds.content,
                        views_alone=views_alone,
                        images_a_task=settings.task_images,
                        learned=None if views_alone else learned,
                    )
                    for images, views_alone in to_do
                ]
    images, seconds = sum(result.images for result in results), sum(result.seconds for result in results)
    return {
        "images": images,
        "images_per_second": round(images / seconds, 1),
        "bytes": sum(result.bytes for result in results),
        "tasks": sum(result.tasks for result in results),
        "first_commit_seconds": results[0].first_commit_seconds,
        "master": workers.master,
        "sharing": sharing([done for result in results for done in result.done]),
    }


def rename(output: Output, pending: Pending) -> None:
    """Give images their new label, kind and split where only these have changed; what was made of them goes."""
    if pending.renamed.num_rows:
        add, remove = renamed(output, pending.renamed)
        output.commit(add, replace=DERIVED, remove=remove, properties=FORGOTTEN)
        log.info("%d images have another label, kind, value or split; none was decoded again", pending.renamed.num_rows)


def complete(output: Output, listing: Listing, source: str | Sequence[str], extraction: Extraction) -> None:
    """Remember both, and make sure that every listed image is in exactly one of ``features`` and ``rejected``.

    A dataset without rows gets an empty file, so that every reader can open it.

    Raises:
        StorageError: it is not so.
    """
    sources = [redacted(one) for one in ([source] if isinstance(source, str) else source)]
    found: dict[str, Any] = {
        "source": " + ".join(sources),
        **({"sources": sources} if len(sources) > 1 else {}),
        "listed": listing.table.num_rows,
        "ignored": listing.ignored_count,
        "warnings": listing.warnings,
    }
    if listing.corrections is not None:
        found["corrections"] = listing.corrections
    complete_again(output, found, extraction)


def complete_again(output: Output, found: dict[str, Any], extraction: Extraction) -> None:
    """Do as `complete`, of a listing that is remembered: the property ``listing``."""
    listed = found["listed"]
    featurized, rejected = output.rows(Dataset.FEATURES), output.rows(Dataset.REJECTED)
    if not listed == featurized + rejected == output.rows(Dataset.INVENTORY):
        raise StorageError(
            f"{output.url} does not add up: {listed} images listed, {featurized} featurized, {rejected} rejected; "
            f"run orchard verify {output.url}, then start again, and please report this."
        )
    empty = {d: [output.stage(d, SCHEMAS[d].empty_table())] for d in EXTRACTED if not output.files(d)}
    changes: dict[str, object] = {"extraction": extraction} if extraction else {}
    if output.property("listing") != found:
        changes["listing"] = found
    if output.recall("views"):
        changes["views"] = None  # all have them
    if empty or changes:
        output.commit(empty, properties=changes)
    log.info("listed %d = featurized %d + rejected %d", listed, featurized, rejected)


def _kept_network(output: Output, identity: dict[str, Any]) -> Artifact | None:
    """Return the output's own network if it is in int8 or tuned: built from other images it would differ."""
    if not (identity["precision"] == Precision.INT8 or identity["tune"]) or not output.recall("identity"):
        return None
    kept = output.part(BACKBONE)
    return Artifact.from_bytes(kept) if kept is not None else None


def _sample(output: Output, pending: Pending, settings: Settings, fit: Fit) -> Sample:
    """Return the calibration images for int8: those of the first run, even if its network is lost."""
    inventory = output.read(Dataset.INVENTORY, ["path", "label", "split"], INVENTORY)
    images = inventory if inventory.num_rows else pending.images
    return Sample.of(images, seed=settings.seed, limits=settings.limits(), s3=settings.s3_options(), fit=fit)


def _as_built(identity: dict[str, Any], artifact: Artifact) -> dict[str, Any]:
    """Return the identity completed by the built network; warn if its precision is not the one asked for."""
    found = identity | {"precision": str(artifact.precision)}
    if artifact.agreement is not None:
        found["agreement"] = artifact.agreement
    if artifact.precision is Precision.INT8:
        found |= {"network": artifact.network, "calibration": artifact.calibration}
    agree = f"its features agree with float32's by {artifact.agreement}, where {LEAST_AGREEMENT} is the least"
    if found["precision"] != identity["precision"]:
        why = agree if artifact.agreement is not None else "too few training images can be read"
        log.warning("--precision auto takes float32 rather than int8: %s", why)
    elif artifact.agreement is not None and artifact.agreement < LEAST_AGREEMENT:
        log.warning("int8 may cost accuracy (%s): compare with --precision float32", agree)
    return found


def _make_way(
    output: Output, pending: Pending, identity: dict[str, Any], artifact: Artifact, backgrounds: Backgrounds
) -> None:
    """Remove rows that will be replaced, and what was made from them, by one commit."""
    identity = {**identity, "weights_digest": artifact.weights_digest, "n_features": artifact.n_features}
    refuse_changes(output, identity)
    add: dict[Dataset, list[DataFile]]
    add, remove = without(output, pending.replaced)
    changes: dict[str, object] = {**FORGOTTEN}
    before = output.recall("identity")
    if before | identity != before:
        changes["identity"] = before | identity
    is_new = "identity" in changes or not output.has_part(BACKBONE)
    parts = {BACKBONE: artifact.to_bytes()} if is_new else {}
    if backgrounds.content:
        parts[BACKGROUNDS] = backgrounds.content
    replaced: tuple[Dataset, ...] = DERIVED
    if before and before.get("backgrounds", "") != backgrounds.digest:
        replaced, changes["views"] = (*DERIVED, Dataset.VIEWS), {"to_do": True}
        add.pop(Dataset.VIEWS, None)
        if not backgrounds.content:
            remove += [file.name for file in output.files(PARTS) if file.name.endswith(f"/{BACKGROUNDS}")]
    output.commit(add, replace=replaced, remove=remove, properties=changes, parts=parts)


def identity_before(output: Output) -> dict[str, Any]:
    """Return the identity of the output's features, whole also where it was made before there was a choice."""
    before = output.recall("identity")
    if not before:
        return {}
    unchosen = {"fit": str(Fit.STRETCH), "views": 0, "test_views": 1, "transform": "none", "tune": False}
    unchosen |= {"backgrounds": ""}
    return unchosen | {"input_size": find(before["backbone"]).input_size} | before


def refuse_changes(output: Output, now: dict[str, Any]) -> None:
    """Raise SettingsChanged if the output's features were made with another value of one of these settings.

    Other backgrounds are no other features: their views are made anew.
    """
    before = identity_before(output)
    for name, value in now.items():
        if name in before and before[name] != value and name != "backgrounds":
            raise SettingsChanged(
                f"{output.url} was made with {name} {before[name]} and would be mixed with {value}: "
                "choose another --output, or --fresh to start over."
            )
